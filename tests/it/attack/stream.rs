//! A broker that drops, repeats, reorders and delays: what is missing is named, what comes again is dropped.

use sealcast_proto::frame::Reply;
use sealcast_proto::{Offset, Signed};

use sealcast::{StartAt, State, SubscribeOptions};

use super::pen::{Pen, body, record};
use super::world::{OWNER, Stored, World, now_ms};
use super::{Stage, until};
use bytes::Bytes;
use sealcast_proto::record::Record;

/// Entry 1, a header, then a batch for each text.
fn world(texts: &[&str]) -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    world.set_policy(|policy| policy.beacon_ms = 100);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    for text in texts {
        pen.publish(&mut world, &[text]);
    }
    (world, pen)
}

/// Where the first batch of [`world`] is.
const FIRST: usize = 3;

/// Moves what is at `from` on a subscription's records; positions count from the first batch.
fn reordered(world: World, order: &'static [usize]) -> Stage {
    Stage::twisted(world, move |_, _, mut replies| {
        let first = replies.iter().position(|reply| matches!(reply, Reply::Record(..))).unwrap();
        let batches: Vec<_> = replies.drain(first..replies.len() - 1).collect();
        replies.splice(first..first, order.iter().map(|at| batches[*at].clone()));
        replies
    })
}

/// A batch that is delivered again is dropped and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_batch_is_dropped() {
    let (world, _) = world(&["a", "b", "end"]);
    let mut reader = reordered(world, &[0, 1, 0, 1, 1, 2]).reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "b"]);
    assert_eq!(reader.counters().await.repeated, 3);
}

/// Two batches that change places: the first is named as missing and not read late.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_batches_are_named() {
    let (world, _) = world(&["a", "b", "c", "end"]);
    let mut reader = reordered(world, &[0, 2, 1, 3]).reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..2 Missing", "c"]);
    assert_eq!(reader.counters().await.repeated, 1);
}

/// Batches dropped in the middle are named, exactly.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_middle_is_named() {
    let (world, _) = world(&["a", "b", "c", "d", "end"]);
    let mut reader = reordered(world, &[0, 3, 4]).reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..3 Missing", "d"]);
}

/// An epoch that was over is begun again by the broker, whole: nothing of it is read twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_old_epoch_is_dropped() {
    let (mut world, mut pen) = world(&["a", "b"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    stage.deliver(2, 2);
    let at = stage.world().log.len();
    pen.publish(&mut stage.world(), &["end"]);
    stage.deliver(at, 2);
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    let counters = reader.counters().await;
    assert_eq!((counters.repeated, counters.unknown, counters.invalid), (3, 2, 0), "{counters:?}");
}

/// The last batches are dropped, and then nothing comes: silence is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_tail_and_silence_is_stalled() {
    let (world, _) = world(&["a", "b", "c"]);
    let mut reader = reordered(world, &[0]).reader(2).await;
    assert_eq!(until(&mut reader, "Stalled").await, ["a"]);
}

/// The last batches are dropped while the publisher's beacons pass: it says how much it sealed.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_tail_with_beacons_is_withheld() {
    let (mut world, mut pen) = world(&["a", "b", "c"]);
    let stage = reordered(world.clone(), &[0]);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    world.now = now_ms();
    stage.hostile.push([pen.beacon(&world)]);
    assert_eq!(until(&mut reader, "Gap 1.. Withheld").await, [""; 0]);
    // The truth comes out all the same.
    pen.publish(&mut world, &["end"]);
    let last = world.log.len() - 1;
    *stage.world() = world;
    stage.deliver(last, 2);
    assert_eq!(until(&mut reader, "end").await, ["Gap 1..3 Missing"]);
}

/// The last batch of an epoch is dropped: the next epoch's header says that it was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_last_batch_of_an_epoch_is_named() {
    let (mut world, mut pen) = world(&["a", "b"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let stage = Stage::twisted(world, |_, _, mut replies| {
        replies.retain(|reply| !matches!(reply, Reply::Record(offset, _) if offset.0 == FIRST as u64 + 1));
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..2 Missing"]);
}

/// A whole epoch, header and all, is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_epoch_is_named() {
    let (mut world, mut pen) = world(&["a"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b", "c"]);
    let gone = 4..world.log.len() as u64;
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        replies.retain(|reply| match reply {
            Reply::Epoch(delivery) => !gone.contains(&delivery.offset.0),
            Reply::Record(offset, _) => !gone.contains(&offset.0),
            _ => true,
        });
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..3 Missing"]);
}

/// Three messages in one batch: the broker shortens the ciphertext, or says that there were two. Neither is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_cut_out_of_a_batch_leaves_none() {
    let (mut world, mut pen) = world(&["a"]);
    let whole = pen.seal(&world, &["b", "c", "d"], false);
    let at = world.log.len() as u64;
    world.log.push(Stored::Batch { publisher: pen.public(), batch: whole.clone() });
    pen.publish(&mut world, &["end"]);
    let signature = Record::Batch(whole.clone()).encode();
    let signature = &signature[3 + body(&whole).len()..][..64];
    let with = |body: Vec<u8>, ciphertext: &[u8]| {
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        let bytes: Vec<u8> = [&[3][..], &len, &body, signature, ciphertext].concat();
        let Ok(Record::Batch(batch)) = Record::decode(Bytes::from(bytes)) else { panic!() };
        record(at, batch)
    };
    let mut fewer = whole.peek().unwrap();
    fewer.count = 2;
    let full = &whole.ciphertext().0;
    let cut = [with(body(&whole), &full[..full.len() - 5]), with(fewer.encode(), full)];
    for cut in cut {
        let stage = Stage::twisted(world.clone(), move |_, _, mut replies| {
            for reply in &mut replies {
                if matches!(reply, Reply::Record(offset, _) if offset.0 == at) {
                    *reply = cut.clone();
                }
            }
            replies
        });
        let mut reader = stage.reader(2).await;
        assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..4 Missing"]);
        assert_eq!(reader.counters().await.invalid, 1);
    }
}

/// What an hour ago was sealed is delivered now, with its beacons: read, but no sign of life.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_an_hour_late_is_no_sign_of_life() {
    let mut world = World::new(&[2]);
    world.set_policy(|policy| policy.beacon_ms = 100);
    world.now -= 3_600_000;
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    let at = {
        let mut world = stage.world();
        world.now += 50;
        pen.publish(&mut world, &["b"]);
        world.log.len() - 1
    };
    stage.deliver(at, 2);
    let beacon = pen.beacon(&stage.world());
    stage.hostile.push([beacon]);
    assert_eq!(until(&mut reader, "Stalled").await, ["b"]);
    // The publisher itself, now.
    let at = stage.world().log.len();
    stage.world().now = now_ms();
    pen.publish(&mut stage.world(), &["end"]);
    stage.deliver(at, 2);
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
}

/// The broker drops the END and says that this is all.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_end_is_truncation() {
    let (mut world, mut pen) = world(&["a"]);
    pen.end(&mut world);
    let options = SubscribeOptions { from: StartAt::Earliest, until_head: true };
    let honest = Stage::new(world.clone());
    let mut reader = honest.subscribe(2, State::memory(), options).await;
    assert_eq!(until(&mut reader, "").await, ["a", "Ended"]);
    let mut reader = reordered(world, &[0]).subscribe(2, State::memory(), options).await;
    assert_eq!(until(&mut reader, "").await, ["a", "Truncated"]);
}

/// A broker calls what it drops removed by retention, or damaged: the reader is told so, in its publisher's numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_hole_is_named_with_the_reason_given() {
    use sealcast_proto::frame::HoleReason;
    let (world, _) = world(&["a", "b", "c", "end"]);
    let stage = Stage::twisted(world, |_, _, mut replies| {
        let at = |n: usize| Offset((FIRST + n) as u64);
        let first =
            replies.iter().position(|reply| matches!(reply, Reply::Record(offset, _) if *offset == at(1)));
        let first = first.unwrap();
        replies.splice(first..first + 2, [Reply::Hole(at(1), at(3), HoleReason::Corruption)]);
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a", "Gap 1..3 Corruption"]);
}

/// A forged beacon, or one that an old epoch's key signed, says nothing about the newest epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_forged_beacon_starts_no_alarm_and_hides_none() {
    let (mut world, mut pen) = world(&["a"]);
    let Reply::Beacon(publisher, old) = pen.beacon(&world) else { panic!() };
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    let mut ahead = old.peek().unwrap();
    ahead.next_batch_no.0 = 99;
    ahead.header_hash = pen.sender().header_hash();
    let forged = Signed::sign(&ahead, super::identity(3).signing_key());
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "b").await, ["a"]);
    stage.hostile.push([Reply::Beacon(publisher, forged), Reply::Beacon(publisher, old)]);
    assert_eq!(until(&mut reader, "Stalled").await, [""; 0]);
}

/// After a restart the broker's log ends before what was read: named, with what was read kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_cut_short_is_named_after_a_restart() {
    let (world, _) = world(&["a", "b", "c"]);
    let mut cut = world.clone();
    cut.log.truncate(FIRST + 1);
    let stage = Stage::new(world);
    let state = State::memory();
    let mut reader = stage.subscribe(2, state.clone(), StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    reader.close().await.unwrap();
    *stage.world() = cut;
    let mut reader = stage.subscribe(2, state, StartAt::Resume).await;
    assert_eq!(until(&mut reader, "").await, ["Rollback"]);
}
