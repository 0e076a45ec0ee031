//! Checks that another one usually covers: each alone, against a broker that gets past the others.

use sealcast_proto::frame::{From as Begin, Reply};
use sealcast_proto::object::{Prekey, PrevClose};
use sealcast_proto::record::BatchDigest;
use sealcast_proto::{PublicKey, Signed};

use super::client::*;
use super::world::*;
use crate::inbox::Input;

const DAY: u64 = 24 * 3600 * 1000;

/// A reader that has read a first epoch with messages `a`, `b`.
fn reading() -> (World, Pen, Client) {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.publish(&mut world, &["b"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "b"]);
    (world, pen, client)
}

#[test]
fn a_batch_shown_before_the_start_must_be_signed() {
    let (world, _, mut client) = reading();
    let mut client = client.restarted(&world);
    let mut replies = world.serve(&client.subscribe(), &key(2));
    for reply in &mut replies {
        if let Reply::Context(context) = reply {
            let (digest, offset) = context.batch.take().unwrap();
            let mut bytes = digest.encode().to_vec();
            bytes[0] ^= 1;
            context.batch = Some((BatchDigest::decode(&bytes.into()).unwrap(), offset));
        }
    }
    client.feed(&world, replies);
    assert_eq!((client.said(), client.inbox.counters().invalid), (vec![], 1));
}

#[test]
fn another_last_batch_shown_before_the_start_is_a_fork() {
    let (world, _, mut client) = reading();
    // The same publisher in two places, with one copied state.
    let (mut other_world, mut other) = (World::new(&[2]), Pen::new(OWNER));
    other.begin(&mut other_world);
    other.publish(&mut other_world, &["a"]);
    other.publish(&mut other_world, &["B"]);
    assert_eq!(client.restarted(&world).connect(&other_world).said(), ["Fork publisher"]);
}

#[test]
fn a_close_with_the_right_hash_and_too_few_batches_is_a_fork() {
    let (mut world, mut pen, mut client) = reading();
    let close = PrevClose { batches: 1, ..pen.close().unwrap() };
    let plan = pen.plan(&world);
    pen.begin_as(&mut world, &plan, Some(close), &[]);
    assert_eq!(client.deliver(&world, world.log.len() - 1).said(), ["Fork publisher"]);
}

#[test]
fn an_epoch_that_never_came_is_a_gap_before_the_next_batch_comes() {
    let (mut world, mut pen, mut client) = reading();
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    pen.begin(&mut world);
    let head = Reply::AtHead { next_offset: world.next_offset(), end_of_stream: false };
    let from = world.log.len() - 1;
    assert_eq!(client.deliver(&world, from).feed(&world, [head]).said(), ["Gap 2.. Missing"]);
}

#[test]
fn a_sign_of_life_from_the_past_or_the_future_is_none() {
    let (mut world, pen, mut client) = reading();
    world.now += 1;
    let now = world.now;
    world.now = now + 2_000 + 30_001;
    let future = pen.beacon(&world);
    world.now = now + 2_000;
    client.feed(&world, [future]);
    world.now = now + 3_000;
    assert_eq!(client.tick(&world).said(), ["Stalled"], "it is silent since the last batch");

    // What it said then is delivered an hour late: it does not come to life, and so does not fall silent again.
    world.now = now + 5_000;
    let past = pen.beacon(&world);
    world.now += 3_600_000;
    client.feed(&world, [past]);
    world.now += 3_000;
    assert_eq!(client.tick(&world).said(), [""; 0]);
}

#[test]
fn who_was_removed_behind_the_start_is_told_at_the_head() {
    let (mut world, mut pen, mut client) = reading();
    let mut client = client.restarted(&world);
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    // A broker that serves on, from after the removal.
    world.trimmed = world.log.len();
    client.connect(&world);
    assert_eq!(client.said().last().map(String::as_str), Some("Removed"));
    assert!(client.ended);
}

#[test]
fn a_prekey_counts_as_ours_if_we_signed_it() {
    let (mut world, ..) = reading();
    let mut ring = sealcast_envelope::PrekeyRing::new();
    ring.rotate_if_due(&identity(2), 7 * DAY, 14 * DAY, world.now, true, &mut rand::rng()).unwrap();
    let cursor = crate::cursor::Cursor::new(world.topic);
    let mut client = Client::with_ring(2, Begin::Earliest, cursor, false, ring.encode().to_vec());
    client.connect(&world).take();
    world.now += 10_000;
    let newer = |owner: PublicKey, signer: u8| {
        let prekey = Prekey {
            owner,
            prekey_id: u32::try_from(world.now / 1000).unwrap(),
            x25519: [9; 32],
            not_before_ms: world.now,
            not_after_ms: world.now + DAY,
        };
        Reply::Prekey(Signed::sign(&prekey, identity(signer).signing_key()))
    };
    client.feed(&world, [newer(key(2), 3), newer(key(3), 3)]);
    assert_eq!(client.said(), [""; 0], "a stranger's word");
    client.feed(&world, [newer(key(2), 2)]);
    assert_eq!(client.said(), ["IdentityInUse"]);
}

#[test]
fn the_mark_of_the_roster_holds_where_the_log_is_longer() {
    let mut world = World::new(&[2]);
    world.add(3, sealcast_proto::roster::Role::Reader);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    let (mut old, mut pen) = (World::new(&[2]), Pen::new(OWNER));
    pen.begin(&mut old);
    pen.publish(&mut old, &["a"]);
    assert!(old.log.len() > world.log.len());
    let mut client = client.restarted(&world);
    assert_eq!(client.connect(&old).said(), ["Rollback"]);
    client.put(&old, Input::Tick);
    assert!(client.ended);
}
