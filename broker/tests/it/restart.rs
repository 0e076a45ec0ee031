use std::io::{Seek, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sealcast_broker::store::{FjallLog, FjallOptions, Log, Write};
use sealcast_broker::{Broker, Config, StartError};
use sealcast_proto::frame::{Code, From, HoleReason, Reply};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::{Offset, RosterSeq};

use crate::hand::{batch_record, header_record};
use crate::world::{World, ciphertexts, entries, epochs};

#[crate::wire(flavor = "multi_thread")]
pub async fn a_restart_changes_nothing_that_was_acknowledged() {
    let mut world = World::new().await;
    let (topic, mut admin, owner) =
        world.topic(&[(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3, 4]).await;
    let first = hand.newest.clone().unwrap();
    let batches: Vec<_> = (0..5u8).map(|n| hand.batch(&[n; 30])).collect();
    for batch in &batches {
        pipe.record(batch_record(batch)).await;
        pipe.ack().await;
    }
    owner.append(topic, &admin.remove(4)).await.unwrap();
    let key = world.broker.as_ref().unwrap().link().keys().to_vec();
    drop((owner, client, pipe));
    world.restart().await;
    assert_eq!(world.broker.as_ref().unwrap().link().keys(), key, "one key for the broker's life");

    let client = world.client(2).await;
    let mut pipe = client.publish(topic).await;
    pipe.record(header_record(&first)).await;
    assert_eq!(pipe.ack().await.offset, world.at(1));
    for (n, batch) in batches.iter().enumerate() {
        pipe.record(batch_record(batch)).await;
        assert_eq!(pipe.ack().await.offset, world.at(n as u64 + 2), "stored once, whenever it comes again");
    }
    let forged = {
        let mut twin = crate::hand::Hand::new(2);
        twin.newest = Some(first);
        twin.epoch = 101;
        twin.next = 1;
        twin.batch(b"another batch under a stored number")
    };
    pipe.record(batch_record(&forged)).await;
    assert_eq!(pipe.refused().await.code, Code::Conflict);
    pipe.record(batch_record(&hand.batch(b"stale"))).await;
    assert_eq!(pipe.refused().await.code, Code::StaleEpoch, "the fence outlives the broker");
    (hand.next, hand.last) = (5, {
        let header = hand.newest.as_ref().unwrap();
        batches[4].digest().hash(&header.hash())
    });
    client.begin(&mut pipe, topic, &mut hand, &admin, &[3]).await;
    pipe.batch(&mut hand, b"on it goes").await;

    let reader = world.client(3).await;
    let replies = reader.read_all(topic, From::Earliest, None).await;
    assert_eq!(ciphertexts(&replies).len(), 6);
    assert!(epochs(&replies).iter().all(|epoch| epoch.slot.unwrap().member == admin.index(3)));
    assert_eq!(entries(&replies).len(), 2);
    let gone = world.client(4).await.read_all(topic, From::Earliest, Some(RosterSeq(1))).await;
    assert_eq!((ciphertexts(&gone).len(), entries(&gone).len()), (5, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_topic_never_gives_an_offset_out_twice() {
    let mut world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    owner.append(topic, &admin.entry(&[Op::set_policy(policy)])).await.unwrap();
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let before = pipe.batch(&mut hand, b"one").await.offset;
    drop((owner, client, pipe));
    world.restart().await;
    let client = world.client(2).await;
    let mut pipe = client.publish(topic).await;
    let after = pipe.batch(&mut hand, b"two").await.offset;
    assert!(after.0 > before.0 + (1 << 19), "{before} {after}");
    let replies = world.client(1).await.read_all(topic, From::Offset(before), None).await;
    assert_eq!(ciphertexts(&replies).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let world = World::new().await;
    let other = tempfile::tempdir().unwrap();
    let taken = world.broker.as_ref().unwrap().local_addr();
    let start = async |config: Config| Broker::start(config).await.err().unwrap();

    let error = start(Config { listen: taken, ..Config::new(other.path()) }).await;
    assert!(matches!(error, StartError::PortInUse { .. }), "{error}");
    let error = start(world.config()).await;
    assert!(matches!(error, StartError::DataInUse { .. }), "{error}");
    let error = start(Config { listen: "0.0.0.0:0".parse().unwrap(), ..Config::new(other.path()) }).await;
    assert!(matches!(error, StartError::Open { .. }) && error.exit_code() == 2, "{error}");
    assert!(error.hint().unwrap().contains("--owners"));
    let file = other.path().join("file");
    std::fs::write(&file, "not a directory").unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let error = start(Config { listen, ..Config::new(&file) }).await;
    assert!(matches!(error, StartError::Data { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_is_written_for_whoever_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("link");
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: Some(("broker.example".into(), 7443)),
        link_file: Some(file.clone()),
        owners: vec![crate::hand::key(1)],
        ..Config::new(dir.path().join("data"))
    };
    let broker = Broker::start(config).await.unwrap();
    let link = std::fs::read_to_string(file).unwrap();
    assert_eq!(link.trim_end(), broker.link().to_string());
    assert!(link.starts_with("sealcast://broker.example:7443?broker=seal1"));
    broker.shutdown().await;
}

/// The largest file below `dir` whose path says `what`.
fn largest(dir: &Path, what: &str) -> Option<(u64, PathBuf)> {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let found = entries.filter_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => largest(&entry.path(), what),
        false => Some((entry.metadata().unwrap().len(), entry.path())),
    });
    found.filter(|(_, path)| path.to_string_lossy().contains(what)).max()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_lost_is_announced_and_the_rest_delivered() {
    let mut world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    // More than the store gathers in memory before it writes files.
    let count = 50u8;
    for n in 0..count {
        pipe.batch(&mut hand, &vec![n; 1 << 20]).await;
    }
    drop((owner, client, pipe));
    world.broker.take().unwrap().shutdown().await;
    let (len, path) = largest(world.dir.path(), "blob").unwrap();
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    // Some of the records in the middle.
    file.seek(SeekFrom::Start(len / 2)).unwrap();
    file.write_all(&vec![0xAA; 3 << 20]).unwrap();
    drop(file);
    world.start().await;

    for _ in 0..2 {
        let replies = world.client(3).await.read_all(topic, From::Earliest, None).await;
        let kept: Vec<u8> = ciphertexts(&replies).iter().map(|it| it[0]).collect();
        assert!(kept.len() >= 45 && kept.len() < 50 && kept.is_sorted(), "{kept:?}");
        assert_eq!((kept.first(), kept.last()), (Some(&0), Some(&(count - 1))));
        let at = replies.iter().position(|reply| matches!(reply, Reply::Hole(..))).unwrap();
        let Reply::Hole(from, to, HoleReason::Corruption) = replies[at] else { panic!() };
        assert_eq!(to.0 - from.0, u64::from(count) - kept.len() as u64);
        let Reply::Context(context) = &replies[at + 1] else { panic!() };
        assert_eq!(context.batch.as_ref().unwrap().1.next(), Some(to));
    }
    // Whatever else it does goes on.
    let client = world.client(2).await;
    let mut pipe = client.publish(topic).await;
    pipe.batch(&mut hand, b"on it goes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_roster_is_lost_keeps_no_other_from_its_members() {
    let mut world = World::new().await;
    let (whole, admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let (lost, parsed, signed) = crate::hand::genesis(7);
    owner.create(&signed).await.unwrap();
    let entry = crate::hand::Admin::new(lost, &parsed).add(&[(3, Role::Reader)]);
    owner.append(lost, &entry).await.unwrap();
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(whole, 2, &admin, &[3]).await;
    pipe.batch(&mut hand, b"before").await;
    drop((owner, client, pipe));
    world.broker.take().unwrap().shutdown().await;
    let (log, _) = FjallLog::open(world.dir.path(), FjallOptions::default()).unwrap();
    let bundle = bytes::Bytes::from_static(b"not a roster entry");
    let damage = [Write::Roster { topic: lost, seq: RosterSeq(1), offset: Offset(0), bundle }];
    log.write(&damage, true).unwrap();
    drop(log);
    world.start().await;

    let owner = world.client(1).await;
    // Not as if it had never been: it may be restored, and nobody may begin it anew until then.
    for refusal in [owner.create(&signed).await.unwrap_err(), owner.append(lost, &entry).await.unwrap_err()] {
        assert_eq!((refusal.code, refusal.retry_after_ms > 0), (Code::ReadOnly, true), "{refusal}");
    }
    // Who is not known to have to do with it learns nothing: there is no such topic.
    let stranger = world.client(9).await.append(lost, &entry).await.unwrap_err();
    assert_eq!(stranger.code, Code::NotAllowed, "{stranger}");
    let client = world.client(2).await;
    client.publish(whole).await.batch(&mut hand, b"after").await;
    assert_eq!(ciphertexts(&world.client(3).await.read_all(whole, From::Earliest, None).await).len(), 2);
}
