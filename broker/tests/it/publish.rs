use bytes::Bytes;
use sealcast_proto::frame::{Code, From, Level, Reply, Request};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::slot::table_hash;
use sealcast_proto::{BatchNo, Epoch};

use crate::hand::{Hand, batch_record, header_record};
use crate::world::{World, ciphertexts, code};

#[crate::wire(flavor = "multi_thread")]
pub async fn records_are_acknowledged_in_order_with_their_places() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let mut hand = Hand::new(2);
    let mut pipe = client.publish(topic).await;
    let header = client.begin(&mut pipe, topic, &mut hand, &admin, &[1, 2, 3]).await;
    assert_eq!((header.epoch, header.batch_no, header.offset), (Epoch(101), None, world.at(1)));
    // Many at once: nothing is waited for.
    let batches: Vec<_> = (0..100u8).map(|n| hand.batch(&[n; 40])).collect();
    for batch in &batches {
        pipe.record(batch_record(batch)).await;
    }
    for n in 0..100 {
        let ack = pipe.ack().await;
        assert_eq!((ack.batch_no, ack.offset, ack.level), (Some(BatchNo(n)), world.at(n + 2), world.level()));
    }
    pipe.writer.finish();
    pipe.end().await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn what_comes_again_on_another_connection_is_stored_once() {
    let world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    let batches: Vec<_> = (0..5u8).map(|n| hand.batch(&[n; 40])).collect();
    for batch in &batches[..3] {
        pipe.record(batch_record(batch)).await;
        pipe.ack().await;
    }
    let again = world.client(2).await;
    let mut second = again.publish(topic).await;
    second.record(header_record(hand.newest.as_ref().unwrap())).await;
    assert_eq!(second.ack().await.offset, world.at(1));
    let mut stored = Vec::new();
    for batch in &batches {
        second.record(batch_record(batch)).await;
        stored.push(second.ack().await.offset);
    }
    assert_eq!(stored[..3], [world.at(2), world.at(3), world.at(4)], "where they were stored first");
    // In a cluster's order the repeats stand too, in front of these.
    assert!(stored.is_sorted() && (world.store.is_some() || stored[4] == world.at(6)), "{stored:?}");
    assert_eq!(ciphertexts(&owner.read_all(topic, From::Earliest, None).await).len(), 5);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn the_fence_refuses_what_was_sealed_for_the_removed() {
    let world = World::new().await;
    let members = [(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader)];
    let (topic, mut admin, owner) = world.topic(&members).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let before = hand.batch(b"before the removal, a block or so");
    pipe.record(batch_record(&before)).await;
    pipe.ack().await;
    let old_roster = admin.roster.clone();
    let reader = world.client(4).await;
    let mut sub = reader.subscribe(topic, From::Latest, None).await;
    sub.until_head().await;
    owner.append(topic, &admin.remove(3)).await.unwrap();

    pipe.record(batch_record(&before)).await;
    assert_eq!(pipe.ack().await.offset, world.at(2), "what is stored is acknowledged for ever");
    let (last, next) = (hand.last, hand.next);
    pipe.record(batch_record(&hand.batch(b"after the removal"))).await;
    let refusal = pipe.refused().await;
    assert_eq!((refusal.code, refusal.roster_seq), (Code::StaleEpoch, admin.roster.chain().seq()));
    assert_eq!(refusal.record, Some((Epoch(101), Some(BatchNo(1)))));
    // As its publisher counts before it hears of that: nobody may wait for what comes again under another epoch.
    pipe.send(Request::Beacon(hand.beacon(&old_roster))).await;
    (hand.last, hand.next) = (last, next);
    let newest = hand.newest.clone();
    let (stale, _) = hand.begin(&old_roster, &[]);
    pipe.record(header_record(&stale)).await;
    assert_eq!(pipe.refused().await.code, Code::StaleEpoch);
    (hand.newest, hand.last, hand.next) = (newest, last, next);
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    pipe.send(Request::Beacon(hand.beacon(&admin.roster))).await;
    let told = sub.until(|reply| matches!(reply, Reply::Beacon(..))).await;
    let Some(Reply::Beacon(_, told)) = told.last() else { panic!() };
    assert_eq!(told.peek().unwrap().header_hash, hand.last, "the first that it is told is of the new epoch");
    pipe.batch(&mut hand, b"for those who stayed").await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_newer_session_supersedes_the_older() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let other = world.client(2).await;
    let mut second = other.publish(topic).await;
    other.begin(&mut second, topic, &mut hand, &admin, &[]).await;
    let refusal = pipe.refused().await;
    assert_eq!((refusal.code, refusal.record), (Code::Superseded, None));
    pipe.end().await;
    second.batch(&mut hand, b"it goes on").await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_header_needs_its_whole_table() {
    let world = World::new().await;
    let (topic, admin, _owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let mut hand = Hand::new(2);
    let (header, table) = hand.begin(&admin.roster, &[admin.index(1), admin.index(3)]);
    let mut pipe = client.publish(topic).await;
    pipe.record(header_record(&header)).await;
    assert_eq!(pipe.refused().await.code, Code::NoTable);

    let upload = |slot_count, slots_hash| Request::UploadTable { topic, slot_count, slots_hash };
    let swapped = Bytes::from([&table[56..], &table[..56]].concat());
    let lies = [
        vec![upload(2, table_hash(b"another")), Request::Table(table.clone())],
        vec![upload(2, table_hash(&swapped)), Request::Table(swapped.clone())],
        vec![upload(1, table_hash(&table)), Request::Table(table.clone())],
        vec![upload(2, table_hash(&table)), Request::Table(table.slice(..57))],
        vec![upload(3, table_hash(&table)), Request::Table(table.clone())],
        vec![upload(2, table_hash(&table)), Request::Table(Bytes::new())],
    ];
    for lie in lies {
        assert_eq!(code(client.request(lie).await), Code::Malformed);
    }
    pipe.record(header_record(&header)).await;
    assert_eq!(pipe.refused().await.code, Code::NoTable);
    // Whole and as long, but another header's.
    let other = crate::hand::table(&[admin.index(1), admin.index(3)], 99);
    client.upload(topic, &other).await.unwrap();
    pipe.record(header_record(&header)).await;
    assert_eq!(pipe.refused().await.code, Code::NoTable);
    client.upload(topic, &table).await.unwrap();
    pipe.record(header_record(&header)).await;
    pipe.ack().await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn large_tables_and_large_batches_pass() {
    let world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let mut hand = Hand::new(2);
    let members: Vec<_> = (0..5_000).map(sealcast_proto::MemberIndex).collect();
    let (header, table) = hand.begin(&admin.roster, &members);
    client.upload(topic, &table).await.unwrap();
    let mut pipe = client.publish(topic).await;
    pipe.record(header_record(&header)).await;
    pipe.ack().await;
    let largest = vec![7; sealcast_proto::limits::MAX_BATCH_CIPHERTEXT];
    pipe.batch(&mut hand, &largest).await;
    let replies = owner.read_all(topic, From::Earliest, None).await;
    assert_eq!(ciphertexts(&replies), [Bytes::from(largest)]);
    let slot = crate::world::epochs(&replies)[0].slot.unwrap();
    assert_eq!(slot.member, admin.index(1));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_memory_topic_says_what_its_acknowledgements_mean() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    owner.append(topic, &admin.entry(&[Op::set_policy(policy)])).await.unwrap();
    let client = world.client(2).await;
    let mut hand = Hand::new(2);
    let mut pipe = client.publish(topic).await;
    let header = client.begin(&mut pipe, topic, &mut hand, &admin, &[]).await;
    assert_eq!(header.level, world.level());
    assert_eq!(pipe.batch(&mut hand, b"soon, if at all").await.level, Level::Memory);
    let mut sub = owner.subscribe(topic, From::Earliest, None).await;
    let replies = sub.until_head().await;
    assert_eq!(ciphertexts(&replies).len(), 1);
    assert!(matches!(&replies[0], Reply::Start(start) if start.level == Level::Memory));
}
