use std::path::PathBuf;

use sealcast_broker::{Broker, Config, StartError};
use sealcast_proto::BatchNo;
use sealcast_proto::frame::{Code, From, Reply, Request};
use sealcast_proto::roster::Role;

use crate::certificates::Authority;
use crate::failures::of_use;
use crate::hand::{batch_record, header_record};
use crate::servers::Servers;
use crate::world::{World, ciphertexts};

/// A world whose broker is not started yet, and its configuration.
fn edge(store: &str) -> (World, Config) {
    let store = sealcast_broker::Servers::read(store).unwrap();
    let world = World { store: Some((store, 1)), ..World::not_started() };
    let config = world.config();
    (world, config)
}

async fn refused(config: Config) -> StartError {
    Broker::start(config).await.err().expect("it was not let in")
}

/// That an edge works: records, tables, signs of life, prekeys' streams and all.
async fn works(world: &World) {
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let mut sub = owner.subscribe(topic, From::Latest, None).await;
    sub.until_head().await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    // Larger than a message may be.
    pipe.batch(&mut hand, &vec![7; 1_146_896]).await;
    let beacon = hand.beacon(&admin.roster);
    pipe.send(Request::Beacon(beacon)).await;
    let told = sub.until(|reply| matches!(reply, Reply::Beacon(..))).await;
    assert_eq!(ciphertexts(&told).len(), 1);
}

pub async fn an_edge_says_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let ways = [("user: edge, password: secret", "edge:secret\n"), ("token: something", "something\n")];
    for (asked, known) in ways {
        let servers = Servers::start_beside(1, "", &format!("authorization {{ {asked} }}"));
        let (mut world, config) = edge(&servers.store());
        let wrong = [None, file("a", "edge:guess"), file("b", "guess")];
        for store_auth in wrong {
            let error = refused(Config { store_auth, ..config.clone() }).await;
            assert!(error.to_string().contains("does not let this broker in"), "{error}");
            assert!(error.hint().unwrap().contains("--store-auth"));
        }
        let config = Config { store_auth: file("c", known), ..config };
        world.broker = Some(Broker::start(config).await.unwrap());
        works(&world).await;
    }
    // Known before anything is sent: nobody listens there.
    let (_world, config) = edge("nats://127.0.0.1:1");
    let creds = "-----BEGIN NATS USER JWT-----\neyJ0eXAi\n------END NATS USER JWT------\n";
    let error = refused(Config { store_auth: file("d", creds), ..config.clone() }).await;
    assert!(error.to_string().contains("credentials files"), "{error}");
    assert!(error.hint().unwrap().contains("--store-cert"));
    let error = refused(Config { store_auth: Some(dir.path().join("none")), ..config }).await;
    assert!(error.to_string().contains("cannot read") && error.to_string().contains("none"), "{error}");
}

pub async fn an_edge_needs_no_more_rights_than_the_manual_gives_it() {
    let manual = include_str!("../../../docs/cluster.md");
    let begin = manual.find("```\nauthorization {").unwrap() + 4;
    let written = &manual[begin..begin + manual[begin..].find("\n}").unwrap() + 2];
    let other = |name: &str, publish: &str| {
        format!(
            "{{ user: {name}, password: secret, permissions: {{ publish: {publish:?}, subscribe: \"_INBOX.>\" }} }}\n"
        )
    };
    let others = other("stranger", "other.>") + &other("deaf", ">");
    let users = written.replace("users: [", &format!("users: [\n{others}"));
    let servers = Servers::start_beside(1, "", &users);
    let dir = tempfile::tempdir().unwrap();
    let auth = |user: &str| -> Option<PathBuf> {
        let path = dir.path().join(user);
        std::fs::write(&path, format!("{user}:secret")).unwrap();
        Some(path)
    };
    let (mut world, config) = edge(&servers.store());
    // May not ask JetStream; may not hear signs of life, which nothing would be seen of.
    for who in ["stranger", "deaf"] {
        let error = refused(Config { store_auth: auth(who), ..config.clone() }).await;
        assert!(error.to_string().to_lowercase().contains("permissions violation"), "{who}: {error}");
        assert!(error.hint().unwrap().contains("docs/cluster.md"));
    }
    world.broker = Some(Broker::start(Config { store_auth: auth("edge"), ..config }).await.unwrap());
    works(&world).await;
}

pub async fn servers_and_edges_show_each_other_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (ours, theirs) = (Authority::new("ours", 1), Authority::new("theirs", 2));
    let (ca, other_ca) = (ours.write(dir), theirs.write(dir));
    let (server, client, other) =
        (ours.pair(dir, "server", 3), ours.pair(dir, "edge", 4), theirs.pair(dir, "edge", 5));
    let tls = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {ca:?}, verify: true }}",
        server.certificate, server.key
    );
    let servers = Servers::start_beside(1, "", &tls);
    let (mut world, config) = edge(&servers.store().replace("nats:", "tls:"));
    let mine = Config {
        store_ca: Some(ca.clone()),
        store_cert: Some(client.certificate),
        store_key: Some(client.key),
        ..config.clone()
    };
    let error = refused(Config { store_ca: Some(other_ca), ..mine.clone() }).await;
    assert!(error.to_string().contains("no TLS") && error.hint().unwrap().contains("--store-ca"), "{error}");
    // The server's word about it may be lost with the connection.
    let nothing = Config { store_cert: None, store_key: None, ..mine.clone() };
    let anothers = Config { store_cert: Some(other.certificate), store_key: Some(other.key), ..mine.clone() };
    for wrong in [nothing, anothers] {
        let error = refused(wrong).await;
        assert!(error.hint().unwrap().contains("--store-cert"), "{error}");
    }
    let error =
        refused(Config { store_ca: mine.store_key.clone().map(|_| dir.join("none")), ..mine.clone() }).await;
    assert!(error.to_string().contains("cannot read"), "{error}");
    // Servers that talk in the clear are not those whose certificate was asked for.
    let plain = Servers::start(1, "");
    let (_other, clear) = edge(&plain.store());
    let error = refused(Config { store_ca: Some(ca), ..clear }).await;
    assert!(!error.to_string().contains("does not let"), "{error}");
    world.broker = Some(Broker::start(mine).await.unwrap());
    works(&world).await;
}

pub async fn an_edge_that_is_locked_out_loses_nothing_and_comes_back_with_another_password() {
    let asked = |password: &str| format!("authorization {{ user: edge, password: {password} }}");
    let mut servers = Servers::start_beside(1, "", &asked("first"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth");
    std::fs::write(&path, "edge:first").unwrap();
    let (mut world, config) = edge(&servers.store());
    world.broker = Some(Broker::start(Config { store_auth: Some(path.clone()), ..config }).await.unwrap());
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    servers.reload(0, &asked("second"));
    // Until the server has thrown it out.
    let lost = loop {
        let record = batch_record(&hand.batch(&[7; 100]));
        pipe.record(record.clone()).await;
        match pipe.next().await {
            Reply::Ack(_) => {}
            Reply::Refused(refusal) => {
                assert_eq!(refusal.code, Code::ReadOnly, "not stored, and said so");
                break record;
            }
            other => panic!("{other:?}"),
        }
    };
    std::fs::write(&path, "edge:second").unwrap();
    // Nobody starts it again.
    let header = header_record(hand.newest.as_ref().unwrap());
    let (_link, mut pipe) = of_use(&world, topic, &header).await;
    pipe.record(lost).await;
    assert_eq!(pipe.ack().await.batch_no, Some(BatchNo(hand.next - 1)));
    let count = hand.next as usize;
    let replies = world.client(1).await.read_all(topic, From::Earliest, None).await;
    assert_eq!(ciphertexts(&replies).len(), count, "each once");
}
