use bytes::Bytes;
use sealcast_broker::{Broker, Config};
use sealcast_proto::frame::{Code, From, Level, Reply, Request};
use sealcast_proto::object::Prekey;
use sealcast_proto::roster::Role;
use sealcast_proto::{MemberIndex, Offset, RosterSeq, Signed};

use crate::hand::{Hand, batch_record, header_record, identity, key};
use crate::servers::Servers;
use crate::world::{World, ciphertexts, code, entries, epochs};

/// One server and two edges.
async fn two() -> (Servers, World, World) {
    let servers = Servers::start(1, "");
    let one = World::edge(&servers.store(), 1).await;
    let two = World::edge(&servers.store(), 1).await;
    (servers, one, two)
}

/// All that a member is shown of a topic, as text; but for the Start, for where nothing stands before the first record each edge
/// may begin.
pub(crate) async fn shown(world: &World, member: u8, topic: sealcast_proto::TopicId) -> Vec<String> {
    let replies = world.client(member).await.read_all(topic, From::Earliest, None).await;
    assert!(matches!(replies.first(), Some(Reply::Start(_))));
    replies.iter().skip(1).map(|reply| format!("{reply:?}")).collect()
}

pub async fn what_one_edge_takes_every_edge_delivers_alike() {
    let (_servers, one, two) = two().await;
    let members = [(2, Role::Publisher), (3, Role::Publisher), (4, Role::Reader)];
    let (topic, admin, _owner) = one.topic(&members).await;
    let (at_one, at_two) = (one.client(2).await, two.client(3).await);
    let (mut here, mut hand) = at_one.publisher(topic, 2, &admin, &[4]).await;
    let (mut there, mut other) = at_two.publisher(topic, 3, &admin, &[4]).await;
    let mut live = two.client(4).await.subscribe(topic, From::Earliest, None).await;
    let count = 100;
    // Many at once at both edges: nothing is waited for.
    for n in 0..count {
        here.record(batch_record(&hand.batch(&[n; 300]))).await;
        there.record(batch_record(&other.batch(&[n; 300]))).await;
    }
    let mut acked = Vec::new();
    for pipe in [&mut here, &mut there] {
        for n in 0..count {
            let ack = pipe.ack().await;
            assert_eq!(
                (ack.batch_no.unwrap().0, ack.level),
                (n.into(), Level::Memory),
                "one copy is no promise"
            );
            acked.push(ack.offset);
        }
    }
    acked.sort();
    let offsets = |replies: &[Reply]| -> Vec<Offset> {
        let offset = |reply: &Reply| if let Reply::Record(offset, _) = reply { Some(*offset) } else { None };
        replies.iter().filter_map(offset).collect()
    };
    let mut replies = Vec::new();
    while offsets(&replies).len() < acked.len() {
        replies.push(live.next().await);
    }
    assert_eq!(offsets(&replies), acked, "each once, in order, where it was acknowledged");
    let all = shown(&one, 4, topic).await;
    assert_eq!(all, shown(&two, 4, topic).await);
    assert!(all.iter().any(|reply| reply.contains("slot: Some")), "with its own slots");
}

pub async fn a_repeat_at_another_edge_is_stored_once() {
    let (_servers, one, two) = two().await;
    let (topic, admin, owner) = one.topic(&[(2, Role::Publisher)]).await;
    let client = one.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    let batches: Vec<_> = (0..5u8).map(|n| hand.batch(&[n; 40])).collect();
    let mut first = Vec::new();
    for batch in &batches[..3] {
        pipe.record(batch_record(batch)).await;
        first.push(pipe.ack().await.offset);
    }
    let again = two.client(2).await;
    let mut second = again.publish(topic).await;
    second.record(header_record(hand.newest.as_ref().unwrap())).await;
    assert!(second.ack().await.offset < first[0]);
    for (n, batch) in batches.iter().enumerate() {
        second.record(batch_record(batch)).await;
        let offset = second.ack().await.offset;
        assert!(first.get(n).is_none_or(|stored| *stored == offset), "where it was stored first");
    }
    assert_eq!(ciphertexts(&owner.read_all(topic, From::Earliest, None).await).len(), 5);
    // Other bytes under a number that is taken.
    let mut forger = Hand::new(2);
    (forger.newest, forger.key) = (hand.newest.clone(), hand.key.clone());
    (forger.epoch, forger.next, forger.last) = (hand.epoch, 4, sealcast_proto::Hash::ZERO);
    second.record(batch_record(&forger.batch(b"something else"))).await;
    assert_eq!(second.refused().await.code, Code::Conflict);
}

pub async fn the_fence_holds_across_edges() {
    let (_servers, one, two) = two().await;
    let (topic, mut admin, _owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = one.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let before = pipe.batch(&mut hand, b"before").await;
    let removed = two.client(1).await.append(topic, &admin.remove(3)).await.unwrap();
    assert!(removed > before.offset);
    let (last, next) = (hand.last, hand.next);
    pipe.record(batch_record(&hand.batch(b"after"))).await;
    let refusal = pipe.refused().await;
    assert_eq!((refusal.code, refusal.roster_seq), (Code::StaleEpoch, admin.roster.chain().seq()));
    (hand.last, hand.next) = (last, next);
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    let after = pipe.batch(&mut hand, b"for those who stayed").await;
    // Who was removed reads up to its removal, wherever it asks.
    for world in [&one, &two] {
        let replies = world.client(3).await.read_all(topic, From::Earliest, None).await;
        assert_eq!(ciphertexts(&replies), [Bytes::from_static(b"before")]);
        assert_eq!(entries(&replies).last().unwrap().offset, removed);
        let all = world.client(1).await.read_all(topic, From::Offset(after.offset), None).await;
        assert_eq!(ciphertexts(&all), [Bytes::from_static(b"for those who stayed")]);
    }
}

pub async fn a_newer_session_at_another_edge_supersedes_the_older() {
    let (_servers, one, two) = two().await;
    let (topic, admin, _owner) = one.topic(&[(2, Role::Publisher)]).await;
    let client = one.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let other = two.client(2).await;
    let mut second = other.publish(topic).await;
    other.begin(&mut second, topic, &mut hand, &admin, &[]).await;
    assert_eq!(pipe.refused().await.code, Code::Superseded);
    second.batch(&mut hand, b"it goes on").await;
}

pub async fn of_two_entries_with_one_number_one_wins_everywhere() {
    let (_servers, one, two) = two().await;
    let (topic, mut admin, _owner) = one.topic(&[(2, Role::Admin)]).await;
    let mut rival =
        crate::hand::Admin { roster: admin.roster.clone(), owner: identity(1), now_ms: admin.now_ms };
    let (mine, theirs) = (admin.add(&[(5, Role::Reader)]), rival.add(&[(6, Role::Reader)]));
    let (at_one, at_two) = (one.client(1).await, two.client(1).await);
    let (here, there) = tokio::join!(at_one.append(topic, &mine), at_two.append(topic, &theirs));
    let (winner, loser) = if here.is_ok() { (here, there) } else { (there, here) };
    assert_eq!(code(loser), Code::RosterConflict);
    let offset = winner.unwrap();
    for world in [&one, &two] {
        let replies = world.client(1).await.read_all(topic, From::Earliest, Some(RosterSeq(1))).await;
        assert_eq!(entries(&replies).last().map(|entry| entry.offset), Some(offset));
    }
}

pub async fn an_edge_with_an_empty_disk_makes_the_same_view() {
    let (servers, one, two) = two().await;
    let (topic, mut admin, owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = two.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1, 3]).await;
    for n in 0..20 {
        pipe.batch(&mut hand, &[n; 100]).await;
    }
    owner.append(topic, &admin.remove(3)).await.unwrap();
    // Refused, but in the streams all the same: who reads them refuses it again.
    let (last, next) = (hand.last, hand.next);
    pipe.record(batch_record(&hand.batch(b"stale"))).await;
    assert_eq!(pipe.refused().await.code, Code::StaleEpoch);
    (hand.last, hand.next) = (last, next);
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    pipe.batch(&mut hand, b"newer").await;

    let three = World::edge(&servers.store(), 1).await;
    for member in [1, 2, 3] {
        assert_eq!(shown(&three, member, topic).await, shown(&one, member, topic).await);
    }
    // And it takes its part.
    let third = three.client(2).await;
    let mut pipe = third.publish(topic).await;
    pipe.record(header_record(hand.newest.as_ref().unwrap())).await;
    pipe.ack().await;
    pipe.batch(&mut hand, b"at the third").await;
    assert_eq!(shown(&two, 1, topic).await, shown(&three, 1, topic).await);
}

pub async fn an_edge_that_was_stopped_goes_on_where_it_was() {
    let (_servers, mut one, two) = two().await;
    let (topic, admin, _owner) = one.topic(&[(2, Role::Publisher)]).await;
    let client = two.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    for round in 0..3 {
        pipe.batch(&mut hand, &[round; 100]).await;
        one.broker.take().unwrap().shutdown().await;
        pipe.batch(&mut hand, &[round; 200]).await;
        one.start().await;
        assert_eq!(shown(&one, 1, topic).await, shown(&two, 1, topic).await);
    }
}

pub async fn large_records_and_tables_pass_in_parts() {
    // The servers' own limit is a megabyte: the largest batch and this table do not fit.
    let (servers, one, two) = two().await;
    let (topic, admin, _owner) = one.topic(&[(2, Role::Publisher)]).await;
    let client = one.client(2).await;
    let mut hand = Hand::new(2);
    let mut pipe = client.publish(topic).await;
    let many: Vec<MemberIndex> = (0..40_000).map(MemberIndex).collect();
    let (header, table) = hand.begin(&admin.roster, &many);
    assert!(table.len() > 2 << 20);
    client.upload(topic, &table).await.unwrap();
    pipe.record(header_record(&header)).await;
    pipe.ack().await;
    let large: Bytes = (0..1_146_896).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    pipe.batch(&mut hand, b"small").await;
    pipe.record(batch_record(&hand.batch(&large))).await;
    pipe.record(batch_record(&hand.batch(b"behind it"))).await;
    assert!(pipe.ack().await.offset < pipe.ack().await.offset);
    let three = World::edge(&servers.store(), 1).await;
    for world in [&one, &two, &three] {
        let replies = world.client(1).await.read_all(topic, From::Earliest, None).await;
        let got = ciphertexts(&replies);
        assert!(got.len() == 3 && got[1] == large && got[2] == "behind it");
        assert!(epochs(&replies)[0].slot.is_some(), "its slot is among forty thousand");
    }
}

pub async fn signs_of_life_come_behind_what_they_speak_of() {
    let (_servers, one, two) = two().await;
    let (topic, admin, _owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let mut sub = two.client(3).await.subscribe(topic, From::Latest, None).await;
    sub.until_head().await;
    let client = one.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let rounds = 20;
    for round in 0..rounds {
        for n in 0..10 {
            pipe.record(batch_record(&hand.batch(&[n; 500]))).await;
        }
        pipe.send(Request::Beacon(hand.beacon(&admin.roster))).await;
        for _ in 0..10 {
            pipe.ack().await;
        }
        let told = sub.until(|reply| matches!(reply, Reply::Beacon(..))).await;
        let before = told.iter().filter(|reply| matches!(reply, Reply::Record(..))).count();
        assert_eq!(before, 10, "round {round}: nothing that it speaks of is missing");
    }
}

pub async fn heads_and_prekeys_are_known_everywhere() {
    let (_servers, one, two) = two().await;
    let (topic, admin, owner) = one.topic(&[(2, Role::Publisher)]).await;
    let head = admin.head_by(1, 77);
    owner.request(vec![Request::PutHead(topic, head.clone())]).await.unwrap();
    let stale = sealcast_proto::object::RosterHead { seq: RosterSeq(0), ..head.peek().unwrap() };
    let stale = Signed::sign(&stale, identity(1).signing_key());
    assert!(owner.request(vec![Request::PutHead(topic, stale)]).await.is_err());
    let me = identity(2);
    let put = |id: u64| {
        // Its number says when it begins, seconds.
        let (prekey_id, not_before_ms) = (u32::try_from(id).unwrap(), id * 1_000);
        let prekey = Prekey {
            owner: key(2),
            prekey_id,
            x25519: [7; 32],
            not_before_ms,
            not_after_ms: not_before_ms + 3_600_000,
        };
        Request::PutPrekey(topic, Signed::sign(&prekey, me.signing_key()))
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let client = two.client(2).await;
    client.request(vec![put(now)]).await.unwrap();
    client.request(vec![put(now)]).await.unwrap();
    assert_eq!(code(one.client(2).await.request(vec![put(now - 1)]).await), Code::Conflict);
    for world in [&one, &two] {
        let replies = world.client(1).await.read_all(topic, From::Earliest, None).await;
        assert!(replies.iter().any(|reply| matches!(reply, Reply::Head(told) if *told == head)));
    }
}

pub async fn a_view_of_other_streams_is_refused() {
    let (_servers, mut one, _two) = two().await;
    let (topic, _, owner) = one.topic(&[(2, Role::Publisher)]).await;
    assert!(!owner.read_all(topic, From::Earliest, None).await.is_empty());
    one.broker.take().unwrap().shutdown().await;
    let others = Servers::start(1, "");
    let store = Some(sealcast_broker::Servers::read(&others.store()).unwrap());
    let config = Config { store, ..one.config() };
    let error = Broker::start(config).await.err().unwrap();
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert!(error.hint().unwrap().contains("view.marks"));
}

pub async fn streams_that_are_not_as_they_must_be_are_refused() {
    let (servers, one, _two) = two().await;
    let more = Config { store_replicas: 3, ..one.config() };
    let dir = tempfile::tempdir().unwrap();
    let error = Broker::start(Config { data: dir.path().into(), ..more }).await.err().unwrap();
    assert!(error.to_string().contains("replicas"), "{error}");
    drop(servers);
    let dir = tempfile::tempdir().unwrap();
    let error = Broker::start(Config { data: dir.path().into(), ..one.config() }).await.err().unwrap();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}
