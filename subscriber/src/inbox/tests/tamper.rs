//! Each check, against one who breaks it: the broker, or the publisher itself.

use bytes::Bytes;
use proptest::prelude::*;
use sealcast_proto::frame::{From as Begin, Reply};
use sealcast_proto::{Offset, Signed};

use super::client::*;
use super::world::*;
use crate::inbox::{Effects, Input};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    for text in ["a", "b", "c"] {
        pen.publish(&mut world, &[text]);
    }
    (world, pen)
}

/// What a reader says when `at`'s record is replaced.
fn with(world: &World, at: usize, change: impl Fn(Reply) -> Vec<Reply>) -> (Vec<String>, Client) {
    let mut client = Client::new(world, 2, Begin::Earliest);
    let mut replies = Vec::new();
    for reply in world.serve(&client.subscribe(), &key(2)) {
        let here = match &reply {
            Reply::Record(offset, _) => *offset == Offset(at as u64),
            Reply::Epoch(delivery) => delivery.offset == Offset(at as u64),
            _ => false,
        };
        if here { replies.extend(change(reply)) } else { replies.push(reply) }
    }
    let said = client.feed(world, replies).said();
    (said, client)
}

fn record(reply: Reply, change: impl Fn(Bytes) -> Bytes) -> Vec<Reply> {
    let Reply::Record(offset, bytes) = reply else { panic!() };
    vec![Reply::Record(offset, change(bytes))]
}

#[test]
fn a_batch_changed_anywhere_changes_nothing() {
    let (world, _) = world();
    let Some(Reply::Record(_, bytes)) = world.record(3, &key(2)) else { panic!() };
    // The bare kind and lengths, the body, the signature, the ciphertext.
    for at in 0..bytes.len() {
        let (said, client) = with(&world, 3, |reply| record(reply, |bytes| flip(&bytes, at)));
        assert_eq!(said, ["a", "Gap 1..2 Missing", "c"], "byte {at}");
        assert_eq!(
            client.inbox.counters().invalid
                + client.inbox.counters().unknown
                + client.inbox.counters().repeated,
            1
        );
    }
    for len in [0, 1, 66, 67, bytes.len() - 1] {
        let (said, _) = with(&world, 3, |reply| record(reply, |bytes| bytes.slice(..len)));
        assert_eq!(said, ["a", "Gap 1..2 Missing", "c"], "length {len}");
    }
}

#[test]
fn a_changed_header_is_not_accepted() {
    let (world, _) = world();
    let change = |reply: Reply| {
        let Reply::Epoch(mut delivery) = reply else { panic!() };
        delivery.header =
            Signed::from_parts(flip(delivery.header.body(), 40), delivery.header.signature()).unwrap();
        vec![Reply::Epoch(delivery)]
    };
    let (said, client) = with(&world, 1, change);
    assert_eq!(said, [""; 0]);
    assert_eq!((client.inbox.counters().invalid, client.inbox.counters().unknown), (1, 3));
}

#[test]
fn a_header_by_another_signer_or_for_another_topic_is_not_accepted() {
    let (world, pen) = world();
    let signed = |signer: u8, other_topic: bool| {
        let (said, client) = with(&world, 1, |reply| {
            let Reply::Epoch(mut delivery) = reply else { panic!() };
            delivery.header = resign(&delivery.header, &identity(signer), |header| {
                if other_topic {
                    header.topic.0[0] ^= 1;
                }
            });
            vec![Reply::Epoch(delivery)]
        });
        assert_eq!(said, [""; 0]);
        client.inbox.counters().invalid
    };
    assert_eq!(signed(3, false), 1);
    assert_eq!(signed(OWNER, true), 1);
    drop(pen);
}

#[test]
fn anothers_slot_is_fetched_again() {
    let (world, _) = world();
    let swap = |reply: Reply| {
        let Reply::Epoch(mut delivery) = reply else { panic!() };
        let Stored::Epoch { table, .. } = &world.log[1] else { panic!() };
        delivery.slot = world.slot_of(table, &key(3));
        vec![Reply::Epoch(delivery)]
    };
    let (said, client) = with(&world, 1, swap);
    assert_eq!(said, ["a", "b", "c"]);
    assert_eq!(client.fetches, 1);
    // A broker that insists gets no further.
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.answer_fetches = false;
    let replies: Vec<_> = world
        .serve(&client.subscribe(), &key(2))
        .into_iter()
        .flat_map(|reply| match reply {
            Reply::Epoch(_) => swap(reply),
            other => vec![other],
        })
        .collect();
    assert_eq!(client.feed(&world, replies).said(), ["Locked 0.."]);
    assert_eq!(client.fetches, 1);
}

#[test]
fn a_seed_that_is_not_what_the_header_commits_to_is_locked() {
    let (mut world, pen) = world();
    let Stored::Epoch { header, table } = world.log[1].clone() else { panic!() };
    let header = resign(&header, &pen.identity, |header| header.commitment[0] ^= 1);
    world.log.truncate(1);
    world.log.push(Stored::Epoch { header, table });
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), [""; 0]);
    assert!(matches!(client.saved().publishers[&key(OWNER)].keys, crate::cursor::SavedKeys::Locked));
}

#[test]
fn what_its_publisher_sealed_badly_is_named_and_passed() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    // Two pieces, of which one is no message.
    let good = sealcast_envelope::Message::from("x").encode().unwrap();
    let batch = pen.seal_raw(&world, &[good, Bytes::from_static(&[0xff])], false);
    world.log.push(Stored::Batch { publisher: pen.public(), batch });
    pen.publish(&mut world, &["b"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "BadBatch 1..3", "b"]);
}

#[test]
fn batches_out_of_order_are_named() {
    let (world, _) = world();
    let (a, b) = (world.record(3, &key(2)).unwrap(), world.record(4, &key(2)).unwrap());
    let mut client = Client::new(&world, 2, Begin::Earliest);
    let mut replies = world.serve(&client.subscribe(), &key(2));
    replies.retain(|reply| !matches!(reply, Reply::Record(offset, _) if offset.0 >= 3));
    replies.extend([b, a]);
    assert_eq!(client.feed(&world, replies).said(), ["a", "Gap 1..2 Missing", "c"]);
    assert_eq!(client.inbox.counters().repeated, 1);
}

#[test]
fn a_batch_of_another_epoch_or_publisher_or_topic_is_dropped() {
    let (mut world, mut pen) = world();
    pen.begin(&mut world);
    let old = world.record(4, &key(2)).unwrap();
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    assert_eq!(client.feed(&world, [old]).said(), [""; 0]);
    let mut other = World::new(&[2]);
    other.now = world.now;
    let mut stranger = Pen::new(OWNER);
    stranger.begin(&mut other);
    // The same publisher and number, another epoch of that number.
    while stranger.sender().epoch() < pen.sender().epoch() {
        stranger.begin(&mut other);
    }
    stranger.publish(&mut other, &["x"]);
    let spliced = other.record(other.log.len() - 1, &key(2)).unwrap();
    assert_eq!(client.feed(&world, [spliced]).said(), [""; 0]);
    assert_eq!((client.inbox.counters().unknown, client.inbox.counters().invalid), (1, 1));
}

#[test]
fn a_stream_that_makes_no_sense_is_asked_for_again() {
    let (world, _) = world();
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.feed(&world, [Reply::AtHead { next_offset: Offset(0), end_of_stream: false }]);
    assert_eq!(client.resubscribed, 1);
    client.connect(&world);
    let start = world.serve(&client.subscribe(), &key(2)).remove(0);
    client.feed(&world, [start]);
    assert_eq!(client.resubscribed, 2);
    for _ in 0..5 {
        client.put(&world, Input::Garbage("x".into()));
    }
    assert!(client.ended);
}

#[test]
fn another_topics_genesis_is_the_end() {
    let (world, _) = world();
    let mut client = Client::new(&world, 2, Begin::Earliest);
    let mut replies = world.serve(&client.subscribe(), &key(2));
    if let Reply::Start(start) = &mut replies[0] {
        let mut genesis = start.genesis.peek().unwrap();
        genesis.nonce = [8; 32];
        start.genesis = Signed::sign(&genesis, identity(OWNER).signing_key());
    }
    assert_eq!(client.feed(&world, replies).said(), ["Broker"]);
}

#[test]
fn a_refusal_ends_it_or_is_asked_again() {
    use sealcast_proto::frame::{Code, Refusal};
    let (world, _) = world();
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.feed(&world, [Reply::Refused(Refusal::new(Code::Draining, "soon"))]);
    assert_eq!((client.resubscribed, client.ended), (1, false));
    let later = Refusal { retry_after_ms: 700, ..Refusal::new(Code::Busy, "full") };
    let mut effects = Effects::default();
    client.inbox.handle(Input::Reply(Reply::Refused(later)), 0, &mut effects);
    assert_eq!((effects.resubscribe.is_some(), effects.retry_after_ms), (true, 700));
    client.feed(&world, [Reply::Refused(Refusal::new(Code::NotAllowed, "no"))]);
    assert_eq!(client.said(), ["NotAllowed"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A hostile broker drops, repeats, reorders and changes as it likes: what is delivered is what was published, in
    /// order, and nothing panics.
    #[test]
    fn whatever_the_broker_does_only_what_was_published_comes(
        picks in proptest::collection::vec((0usize..12, any::<u8>(), any::<u16>()), 0..60),
    ) {
        let (mut world, mut pen) = world();
        world.add(4, sealcast_proto::roster::Role::Reader);
        pen.advance(&mut world, &[4]);
        pen.publish(&mut world, &["d", "e"]);
        world.remove(3);
        pen.begin(&mut world);
        pen.publish(&mut world, &["f"]);
        let mut client = Client::new(&world, 2, Begin::Earliest);
        let mut replies = world.serve(&client.subscribe(), &key(2));
        let contexts = world.contexts(world.log.len(), &key(2));
        replies.extend(contexts);
        let honest = replies.clone();
        let mut order: Vec<Reply> = vec![honest[0].clone(), honest[1].clone()];
        for (pick, kind, at) in picks {
            let reply = honest[pick % honest.len()].clone();
            let frame = reply.encode();
            if kind < 40 {
                let at = 5 + usize::from(at) % (frame.len() - 5);
                let changed = flip(&frame, at);
                let header: [u8; 5] = changed[..5].try_into().unwrap();
                if let Ok((kind, _)) = sealcast_proto::frame::FrameKind::parse(header)
                    && let Ok(reply) = Reply::decode(kind, changed.slice(5..))
                {
                    order.push(reply);
                }
            } else {
                order.push(reply);
            }
        }
        client.feed(&world, order);
        world.now += 10_000;
        client.tick(&world);
        let items = client.take();
        let texts: Vec<_> = items.iter().filter_map(|item| item.as_ref().ok()).map(|m| (m.seq.0, text(m))).collect();
        let all = ["a", "b", "c", "d", "e", "f"];
        for (seq, text) in &texts {
            prop_assert_eq!(all[*seq as usize], text);
        }
        prop_assert!(texts.is_sorted_by(|a, b| a.0 < b.0), "{:?}", texts);
    }
}
