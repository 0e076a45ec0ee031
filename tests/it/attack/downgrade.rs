//! Less protection than was agreed on: plaintext, another suite, another version, a mode of another version.

use std::sync::Arc;

use bytes::Bytes;
use sealcast::{BrokerLink, Identity, Message, PublishError, Publisher, State, Subscriber, TopicLink};
use sealcast::{StartAt, SubscribeError};
use sealcast_envelope::{EpochReceiver, SlotError, WrapSecret};
use sealcast_link::{HELLO_TIMEOUT, ListenOptions, Listener};
use sealcast_proto::frame::{Hello, Reply, Request};
use sealcast_proto::object::{Batch, EpochHeader, Genesis, Mode, ObjectError, PrevClose, SUITE};
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Hash, Offset, Seq, Signed, SlotSource};

use super::pen::{Pen, resign};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// A broker delivers messages in the clear, bare or dressed as batches (what a queue's optional encryption lets through).
#[tokio::test(flavor = "multi_thread")]
async fn plaintext_is_never_delivered() {
    let (mut world, mut pen) = world();
    let message = Message::from("in the clear").encode().unwrap();
    let next = pen.seal(&world, &["end"], false);
    let body = super::pen::body(&next);
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    let dressed = [&[3][..], &len, &body, &[0; 64], &message].concat();
    let at = world.log.len() as u64;
    let clear = [
        Reply::Record(Offset(at), message.clone()),
        Reply::Record(Offset(at), Bytes::new()),
        Reply::Record(Offset(at), dressed.into()),
    ];
    world.log.push(Stored::Batch { publisher: pen.public(), batch: next });
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        let before = replies.len() - 2;
        replies.splice(before..before, clear.clone());
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a"]);
    assert_eq!(reader.counters().await.invalid, 3);
}

/// A topic whose genesis, properly signed, names a suite that this version does not know: nobody begins.
#[tokio::test(flavor = "multi_thread")]
async fn another_suite_is_refused() {
    let (mut world, _) = world();
    let genuine = world.genesis.body().clone();
    assert_eq!(genuine[..2], [8, SUITE as u8], "the suite is the first field");
    for suite in [0, 2, 9] {
        let body: Vec<u8> = [&[8, suite], &genuine[2..]].concat();
        let label = sealcast_proto::hash::SignLabel::Genesis;
        let signature = sealcast_proto::hash::sign(identity(OWNER).signing_key(), label, &body);
        world.genesis = Signed::<Genesis>::from_parts(body.into(), &signature).unwrap();
        world.topic = world.genesis.topic_id();
        let mut reader = Stage::new(world.clone()).reader(2).await;
        assert_eq!(until(&mut reader, "").await, ["Broker"]);
    }
}

/// Another topic's genesis, even the owner's own, is not the one that the link names.
#[tokio::test(flavor = "multi_thread")]
async fn another_genesis_is_refused() {
    let (world, _) = world();
    let other = World::new(&[2]).genesis;
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        if let Reply::Start(start) = &mut replies[0] {
            start.genesis = other.clone();
        }
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "").await, ["Broker"]);
}

/// A header signed with another mode than its slots were made for: a slot opens nothing under it, nothing is derived into
/// it, a slot for a KEK opens with no other key, and a member reads on from the next epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_another_mode_opens_nothing() {
    let (mut world, mut pen) = world();
    let slot_of = |world: &World, at: usize| {
        let Stored::Epoch { header, table } = &world.log[at] else { panic!() };
        (header.peek().unwrap(), header.hash(), world.slot_of(table, &key(2)).unwrap())
    };
    let secret = WrapSecret::of_identity(&identity(2));
    let open = |(header, hash, slot): &(EpochHeader, Hash, Slot)| {
        EpochReceiver::open_slot(header, hash, slot, &key(2), &secret)
    };
    let ordinary = slot_of(&world, 1);
    let held = open(&ordinary).unwrap();
    let kek = Slot { source: SlotSource::Kek, ..ordinary.2 };
    assert_eq!(open(&(ordinary.0, ordinary.1, kek)).unwrap_err(), SlotError::NeedsKek);

    pen.begin(&mut world);
    let Some(Stored::Epoch { header, table }) = world.log.pop() else { panic!() };
    let epoch_key = identity(99);
    let header = resign(&header, &pen.identity, |header| {
        header.mode = Mode::Rewrap;
        header.epoch_vk = epoch_key.public();
    });
    let hash = header.hash();
    world.log.push(Stored::Epoch { header, table });
    let bent = slot_of(&world, world.log.len() - 1);
    assert_eq!(open(&bent).unwrap_err(), SlotError::BadSlot);
    assert_eq!(held.advance(&bent.0, &hash).unwrap_err(), SlotError::NotSuccessor);
    assert!(held.rewrap(&bent.0, &hash, &Slot { source: SlotSource::Kek, ..bent.2 }).is_err());

    // What is sealed under it nobody reads, and everybody is told.
    let body = Batch {
        epoch: bent.0.epoch,
        batch_no: BatchNo(0),
        first_seq: Seq(1),
        count: 1,
        time_ms: world.now,
        end: false,
        prev_batch_hash: hash,
    };
    let body = body.encode();
    let aad = batch_aad(&hash, &body);
    let sealed = Sealed(vec![0; 40].into());
    let (batch, last_batch_hash) = BatchRecord::sign(body, &aad, sealed, epoch_key.signing_key());
    world.log.push(Stored::Batch { publisher: pen.public(), batch });
    let mut plan = pen.plan(&world);
    plan.prev_header_hash = hash;
    pen.begin_as(&mut world, &plan, Some(PrevClose { batches: 1, last_batch_hash }), &[]);
    pen.next_seq = 2;
    pen.publish(&mut world, &["end"]);
    let mut reader = Stage::new(world).reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Locked 1..2"]);
}

/// A mode that no version knows: no header at all.
#[test]
fn an_unknown_mode_is_no_header() {
    let (world, _) = world();
    let Stored::Epoch { header, .. } = &world.log[1] else { panic!() };
    let body = header.body();
    // After the roster's hash: tag 7, length 32.
    let at = body
        .windows(2)
        .enumerate()
        .find(|(at, part)| *part == [0x40, 1] && *at >= 34 && body[at - 34..at - 32] == [0x3a, 32]);
    let (at, _) = at.unwrap();
    for mode in [0, 4, 0x7f] {
        let mut body = body.to_vec();
        body[at + 1] = mode;
        let label = sealcast_proto::hash::SignLabel::EpochHeader;
        let signature = sealcast_proto::hash::sign(identity(OWNER).signing_key(), label, &body);
        let bent = Signed::<EpochHeader>::from_parts(body.into(), &signature).unwrap();
        assert!(matches!(bent.verify(&key(OWNER)), Err(ObjectError::Malformed { .. })), "{mode}");
    }
}

/// A broker that answers the hello with another version.
#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_refused() {
    for version in [0, 2, u32::MAX] {
        let key = Identity::generate(&mut rand::rng());
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), &key, ListenOptions::default()).unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Some(handshake) = listener.accept().await {
                let connection = handshake.establish().await.unwrap();
                let (mut writer, mut reader) = connection.accept().await.unwrap();
                assert!(matches!(reader.request().await, Ok(Some(Request::Hello(_)))));
                let hello = Hello { version, agent: "older".into(), time_ms: 0 };
                writer.send(Reply::Hello(hello).encode()).await.unwrap();
                let _ = tokio::time::timeout(HELLO_TIMEOUT, connection.closed()).await;
            }
        });
        let broker = BrokerLink::new(vec![("127.0.0.1".into(), port)], vec![key.public()]).unwrap();
        let link = TopicLink { broker, topic: World::new(&[]).topic };
        let me = Arc::new(identity(2));
        let error = Subscriber::new(me.clone(), State::memory()).subscribe(&link, StartAt::Latest).await;
        assert!(matches!(error, Err(SubscribeError::Connect(_))), "{error:?}");
        let error = Publisher::new(me, State::memory()).topic(&link).await;
        assert!(matches!(error, Err(PublishError::Connect(_))), "{error:?}");
        let text = error.unwrap_err().to_string();
        assert!(text.contains("version"), "{text}");
    }
}
