use std::time::{Duration, Instant};

use bytes::Bytes;
use sealcast_broker::Limits;
use sealcast_broker::settings::Size;
use sealcast_proto::frame::{Ack, Code, From, HoleReason, Reply};
use sealcast_proto::roster::Role;
use sealcast_proto::{MemberIndex, Offset, TopicId};

use crate::edges::shown;
use crate::hand::{Admin, Hand, batch_record, header_record};
use crate::servers::Servers;
use crate::world::{Client, Pipe, World};

/// Bytes of records that a topic keeps here.
const KEPT: u64 = 30_000;

/// An edge that keeps little and looks often.
async fn edge(servers: &Servers, parts_wait: Duration) -> World {
    let limits = Limits {
        retain_bytes: Size(KEPT),
        retention_every: Duration::from_millis(50),
        parts_wait,
        ..Limits::default()
    };
    let copies = servers.count().try_into().unwrap();
    let store = Some((sealcast_broker::Servers::read(&servers.store()).unwrap(), copies));
    let mut world = World { limits, store, ..World::not_started() };
    world.start().await;
    world
}

const HOUR: Duration = Duration::from_secs(3_600);

/// Messages and bytes in all streams whose names begin with `SEALCAST_` and a digit, or with `prefix`.
async fn held(servers: &Servers, prefix: &str) -> (u64, u64) {
    let context = async_nats::jetstream::new(async_nats::connect(servers.urls()).await.unwrap());
    let (mut messages, mut bytes) = (0, 0);
    for partition in 0..8 {
        let stream = context.get_stream(format!("{prefix}{partition}")).await.unwrap();
        let state = &stream.cached_info().state;
        (messages, bytes) = (messages + state.messages, bytes + state.bytes);
    }
    (messages, bytes)
}

async fn until(servers: &Servers, prefix: &str, what: &str, is: impl Fn((u64, u64)) -> bool) {
    let begun = Instant::now();
    loop {
        let now = held(servers, prefix).await;
        if is(now) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Batches of some size, acknowledged; each with where it stands.
async fn publish(pipe: &mut Pipe, hand: &mut Hand, count: u8, size: usize) -> Vec<(Bytes, Offset)> {
    let mut out = Vec::new();
    for n in 0..count {
        let record = batch_record(&hand.batch(&vec![n; size]));
        pipe.record(record.clone()).await;
        out.push((record, pipe.ack().await.offset));
    }
    out
}

/// An epoch for the first member, some batches, a removal, and what a publisher sends that did not hear of it.
async fn work(
    world: &World,
    topic: TopicId,
    admin: &mut Admin,
    owner: &Client,
    hand: &mut Hand,
) -> (Client, Pipe, Vec<(Bytes, Offset)>) {
    let client = world.client(2).await;
    let mut pipe = client.publish(topic).await;
    client.begin(&mut pipe, topic, hand, admin, &[1]).await;
    publish(&mut pipe, hand, 40, 1_000).await;
    owner.append(topic, &admin.remove(3)).await.unwrap();
    let (last, next) = (hand.last, hand.next);
    pipe.record(batch_record(&hand.batch(b"stale"))).await;
    assert_eq!(pipe.refused().await.code, Code::StaleEpoch);
    (hand.last, hand.next) = (last, next);
    client.begin(&mut pipe, topic, hand, admin, &[1]).await;
    let sent = publish(&mut pipe, hand, 80, 1_000).await;
    (client, pipe, sent)
}

/// Whether the streams hold little more than a topic keeps: some 25 of these batches, and what stays beside them.
fn small((messages, _): (u64, u64)) -> bool {
    messages <= 45
}

/// Waits until every edge shows a member the same: each trims its view a moment after it was said.
async fn agree(worlds: &[&World], member: u8, topic: TopicId) {
    let begun = Instant::now();
    loop {
        let first = shown(worlds[0], member, topic).await;
        let mut same = true;
        for world in &worlds[1..] {
            let other = shown(world, member, topic).await;
            if other != first {
                assert!(begun.elapsed() < Duration::from_secs(60), "{first:#?} {other:#?}");
                same = false;
            }
        }
        if same {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What was sent is sent again, at another edge.
async fn again(client: &Client, topic: TopicId, hand: &Hand, records: &[(Bytes, Offset)]) -> Pipe {
    let mut pipe = client.publish(topic).await;
    pipe.record(header_record(hand.newest.as_ref().unwrap())).await;
    pipe.ack().await;
    for (record, offset) in records {
        pipe.record(record.clone()).await;
        let Ack { offset: stored, .. } = pipe.ack().await;
        assert_eq!(stored, *offset, "where it was stored first");
    }
    pipe
}

pub async fn streams_shrink_and_every_edge_agrees_what_is_left() {
    let servers = Servers::start(1, "");
    let (one, two) = (edge(&servers, HOUR).await, edge(&servers, HOUR).await);
    let (topic, mut admin, owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let mut hand = Hand::new(2);
    let (_client, mut pipe, sent) = work(&two, topic, &mut admin, &owner, &mut hand).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    // Made of what is left.
    let three = edge(&servers, HOUR).await;
    let first = |replies: &[Reply]| {
        replies.iter().find_map(|reply| if let Reply::Record(at, _) = reply { Some(*at) } else { None })
    };
    let replies = three.client(1).await.read_all(topic, From::Offset(Offset(0)), None).await;
    let hole = |reply: &Reply| matches!(reply, Reply::Hole(_, _, HoleReason::Retention));
    assert!(replies.iter().any(hole), "what is gone is said: {replies:?}");
    let first = first(&replies).unwrap();
    let gone = sent.iter().position(|(_, offset)| *offset == first).unwrap();
    assert!(gone > 40, "most of it is gone");
    for member in [1, 2, 3] {
        agree(&[&one, &two, &three], member, topic).await;
    }
    // Sent again there, what was trimmed is known as well as what was not.
    let client = three.client(2).await;
    let mut again = again(&client, topic, &hand, &sent[gone - 40..]).await;
    publish(&mut again, &mut hand, 1, 10).await;
    // The older stream is still of the epoch, and its next batch is not taken twice.
    pipe.record(sent.last().unwrap().0.clone()).await;
    assert_eq!(pipe.ack().await.offset, sent.last().unwrap().1);
    agree(&[&one, &two, &three], 1, topic).await;
}

/// With a copy on each of three servers; at one that was restarted, and at one that begins with what is left.
pub async fn three_servers_are_trimmed_and_edges_begin_and_go_on_there() {
    let servers = Servers::start(3, "");
    let (mut one, two) = (edge(&servers, HOUR).await, edge(&servers, HOUR).await);
    let (topic, mut admin, owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let mut hand = Hand::new(2);
    let (_client, _pipe, sent) = work(&two, topic, &mut admin, &owner, &mut hand).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    drop(owner);
    one.restart().await;
    let three = edge(&servers, HOUR).await;
    for member in [1, 2, 3] {
        agree(&[&one, &two, &three], member, topic).await;
    }
    // It goes on where it was: what was sent is known, and what comes is trimmed as before.
    let client = one.client(2).await;
    let mut pipe = again(&client, topic, &hand, &sent[sent.len() - 60..]).await;
    publish(&mut pipe, &mut hand, 80, 1_000).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    agree(&[&one, &two, &three], 1, topic).await;
}

pub async fn an_edge_that_missed_what_was_trimmed_goes_on_behind_it() {
    let servers = Servers::start(1, "");
    let (mut one, two) = (edge(&servers, HOUR).await, edge(&servers, HOUR).await);
    let (topic, mut admin, _owner) = one.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let mut hand = Hand::new(2);
    let client = two.client(2).await;
    let mut pipe = client.publish(topic).await;
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    publish(&mut pipe, &mut hand, 3, 1_000).await;
    one.broker.take().unwrap().shutdown().await;
    // Of the epoch that it has read: then of others.
    let sent = publish(&mut pipe, &mut hand, 80, 1_000).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    one.start().await;
    agree(&[&one, &two], 1, topic).await;
    let at_one = one.client(2).await;
    drop(again(&at_one, topic, &hand, &sent[sent.len() - 60..]).await);
    drop(at_one);
    one.broker.take().unwrap().shutdown().await;
    let owner = two.client(1).await;
    work(&two, topic, &mut admin, &owner, &mut hand).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    one.start().await;
    for member in [1, 2, 3] {
        agree(&[&one, &two], member, topic).await;
    }
    let at_one = one.client(2).await;
    let mut pipe = again(&at_one, topic, &hand, &[]).await;
    publish(&mut pipe, &mut hand, 1, 10).await;
    agree(&[&one, &two], 1, topic).await;
}

pub async fn parts_that_nothing_names_go() {
    // The servers' own limit is a megabyte: the largest batch does not fit.
    let servers = Servers::start(1, "");
    let one = edge(&servers, HOUR).await;
    let (topic, admin, _owner) = one.topic(&[(2, Role::Publisher)]).await;
    let client = one.client(2).await;
    let mut hand = Hand::new(2);
    let mut pipe = client.publish(topic).await;
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    // A table whose header never comes, and a batch in two parts that retention lets go.
    let (_, table) = Hand::new(2).begin(&admin.roster, &(0..500).map(MemberIndex).collect::<Vec<_>>());
    client.upload(topic, &table).await.unwrap();
    publish(&mut pipe, &mut hand, 1, 1_146_896).await;
    publish(&mut pipe, &mut hand, 3, 1_000).await;
    until(&servers, "SEALCAST_", "it stays as large as ever", small).await;
    assert_eq!(held(&servers, "SEALCAST_PARTS_").await.0, 4);
    // They may still be named: but not for this one.
    let two = edge(&servers, Duration::ZERO).await;
    until(&servers, "SEALCAST_PARTS_", "parts that nothing names", |(messages, _)| messages == 1).await;
    let three = edge(&servers, HOUR).await;
    let all = shown(&one, 1, topic).await;
    assert!(all.iter().any(|reply| reply.contains("slot: Some")), "its own slot is there");
    agree(&[&one, &two, &three], 1, topic).await;
}
