//! What is missing, repeated or contradictory.

use sealcast_proto::frame::{From as Begin, HoleReason, Level, Reply};
use sealcast_proto::object::PrevClose;
use sealcast_proto::policy::Durability;
use sealcast_proto::roster::Role;
use sealcast_proto::{Hash, Offset};

use super::client::*;
use super::world::*;
use crate::event::Event;
use crate::inbox::Input;

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
fn a_batch_that_never_came_is_a_gap() {
    let (mut world, mut pen, mut client) = reading();
    pen.publish(&mut world, &["c", "d"]);
    pen.publish(&mut world, &["e"]);
    let from = world.log.len() - 1;
    assert_eq!(client.deliver(&world, from).said(), ["Gap 2..4 Missing", "e"]);
}

#[test]
fn the_end_of_an_epoch_that_never_came_is_a_gap() {
    let (mut world, mut pen, mut client) = reading();
    pen.publish(&mut world, &["c"]);
    pen.begin(&mut world);
    let from = world.log.len() - 1;
    assert_eq!(client.deliver(&world, from).said(), [""; 0], "how much is missing, the next batch says");
    pen.publish(&mut world, &["d"]);
    assert_eq!(client.deliver(&world, from + 1).said(), ["Gap 2..3 Missing", "d"]);
}

#[test]
fn a_gap_without_a_next_batch_is_said_at_the_head() {
    let (mut world, mut pen, mut client) = reading();
    pen.publish(&mut world, &["c"]);
    pen.begin(&mut world);
    let head = Reply::AtHead { next_offset: world.next_offset(), end_of_stream: false };
    let from = world.log.len() - 1;
    assert_eq!(client.deliver(&world, from).feed(&world, [head]).said(), ["Gap 2.. Missing"]);
    pen.publish(&mut world, &["d"]);
    assert_eq!(client.deliver(&world, from + 1).said(), ["Gap 2..3 Missing", "d"]);
}

#[test]
fn a_whole_epoch_that_never_came_is_a_gap() {
    let (mut world, mut pen, mut client) = reading();
    pen.begin(&mut world);
    pen.publish(&mut world, &["c", "d"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["e"]);
    let from = world.log.len() - 2;
    assert_eq!(client.deliver(&world, from).said(), ["Gap 2..4 Missing", "e"]);
}

#[test]
fn what_comes_again_is_dropped_and_counted() {
    let (mut world, mut pen, mut client) = reading();
    assert_eq!(client.deliver(&world, 1).said(), [""; 0]);
    assert_eq!(client.inbox.counters().repeated, 3, "a header and two messages");
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.deliver(&world, 1).said(), ["c"]);
}

#[test]
fn messages_sealed_again_under_the_next_epoch_are_not_told_twice() {
    let (mut world, mut pen, mut client) = reading();
    pen.begin(&mut world);
    // The acknowledgement of `b` was lost, the batch was not.
    pen.next_seq = 1;
    pen.publish(&mut world, &["b", "c"]);
    assert_eq!(client.deliver(&world, world.log.len() - 2).said(), ["c"]);
    assert_eq!(client.inbox.counters().repeated, 1);
}

#[test]
fn a_publisher_without_its_marks_is_truncated_and_nothing_is_dropped() {
    let (mut world, mut pen, mut client) = reading();
    let plan = pen.plan(&world);
    pen.begin_as(&mut world, &plan, None, &[]);
    pen.next_seq = 1;
    pen.publish(&mut world, &["x"]);
    assert_eq!(client.deliver(&world, world.log.len() - 2).said(), ["Truncated", "x"]);
}

#[test]
fn a_publisher_without_its_marks_is_not_truncated_after_its_end() {
    let (mut world, mut pen, mut client) = reading();
    pen.end(&mut world);
    let plan = pen.plan(&world);
    pen.begin_as(&mut world, &plan, None, &[]);
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.deliver(&world, world.log.len() - 3).said(), ["Ended", "c"]);
}

#[test]
fn a_close_that_contradicts_what_is_held_is_a_fork() {
    for close in [
        PrevClose { batches: 1, last_batch_hash: Hash([1; 32]) },
        PrevClose { batches: 2, last_batch_hash: Hash([1; 32]) },
    ] {
        let (mut world, mut pen, mut client) = reading();
        let plan = pen.plan(&world);
        pen.begin_as(&mut world, &plan, Some(close), &[]);
        assert_eq!(client.deliver(&world, world.log.len() - 1).said(), ["Fork publisher"]);
        assert!(client.ended);
    }
}

#[test]
fn a_header_that_follows_an_older_one_is_a_fork() {
    let (mut world, mut pen, mut client) = reading();
    let first = pen.sender().header_hash();
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.deliver(&world, world.log.len() - 2).said(), ["c"]);
    for prev in [first, Hash::ZERO] {
        let mut plan = pen.plan(&world);
        plan.prev_header_hash = prev;
        let mut client = client.restarted(&world);
        client.connect(&world);
        pen.begin_as(&mut world, &plan, None, &[]);
        assert_eq!(client.deliver(&world, world.log.len() - 1).said(), ["Fork publisher"]);
        world.log.pop();
    }
}

#[test]
fn two_headers_with_one_number_are_a_proof() {
    let (world, pen, mut client) = reading();
    let Stored::Epoch { header, .. } = &world.log[1] else { panic!() };
    let other = resign(header, &pen.identity, |header| header.time_ms += 1);
    let mut delivery = world.record(1, &key(2)).unwrap();
    if let Reply::Epoch(delivery) = &mut delivery {
        delivery.header = other.clone();
    }
    client.feed(&world, [delivery]);
    let Some(Err(Event::Fork { publisher, proof })) = client.take().pop() else { panic!() };
    assert_eq!(publisher, Some(pen.public()));
    let headers = proof.iter().map(|part| match sealcast_proto::record::Record::decode(part.clone()) {
        Ok(sealcast_proto::record::Record::Header(header)) => header.verify(&pen.public()).unwrap().epoch,
        other => panic!("{other:?}"),
    });
    let epochs: Vec<_> = headers.collect();
    assert_eq!(epochs[0], epochs[1]);
}

#[test]
fn two_batches_with_one_number_are_a_proof() {
    // Two devices with one identity and one copied state.
    let (mut world, mut pen, mut client) = reading();
    let (mut other_world, mut other) = (World::new(&[2]), Pen::new(OWNER));
    other.begin(&mut other_world);
    other.publish(&mut other_world, &["a"]);
    other.publish(&mut other_world, &["B"]);
    world.log.push(other_world.log[3].clone());
    assert_eq!(client.deliver(&world, 4).said(), ["Fork publisher"]);
    // And the batch after the other one.
    let (_, _, mut client) = reading();
    other.publish(&mut other_world, &["C"]);
    world.log.push(other_world.log[4].clone());
    assert_eq!(client.deliver(&world, 5).said(), ["Fork publisher"]);
    drop(pen.seal(&world, &["c"], false));
}

#[test]
fn what_retention_removed_is_a_gap_from_earliest() {
    let (mut world, mut pen, _) = reading();
    world.trimmed = 3;
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Gap 0..1 Retention", "b"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    // The first epoch is gone altogether.
    world.trimmed = 4;
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Gap 0..2 Retention", "c"]);
}

#[test]
fn what_retention_removed_while_we_were_away_is_a_gap() {
    let (mut world, mut pen, mut client) = reading();
    let mut client = client.restarted(&world);
    for text in ["c", "d", "e"] {
        pen.publish(&mut world, &[text]);
    }
    pen.begin(&mut world);
    pen.publish(&mut world, &["f"]);
    world.trimmed = world.log.len() - 1;
    assert_eq!(client.connect(&world).said(), ["Gap 2..5 Retention", "f"]);
}

#[test]
fn a_hole_is_named_by_its_reason() {
    let (mut world, mut pen, mut client) = reading();
    for text in ["c", "d", "e"] {
        pen.publish(&mut world, &[text]);
    }
    let hole = Reply::Hole(Offset(4), Offset(6), HoleReason::Corruption);
    client.feed(&world, [hole]);
    assert_eq!(client.deliver(&world, 6).said(), ["Gap 2..4 Corruption", "e"]);
}

#[test]
fn what_stands_after_a_hole_is_shown_and_taken_on() {
    let (mut world, mut pen, mut client) = reading();
    world.add(3, Role::Publisher);
    let mut other = Pen::new(3);
    client.deliver(&world, world.log.len() - 1);
    pen.publish(&mut world, &["c"]);
    other.begin(&mut world);
    other.publish(&mut world, &["x", "y"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["d"]);
    let hole_end = world.log.len();
    pen.publish(&mut world, &["e"]);
    other.publish(&mut world, &["z"]);
    let hole = Reply::Hole(Offset(5), Offset(hole_end as u64), HoleReason::Retention);
    client.feed(&world, [hole]).feed(&world, world.contexts(hole_end, &key(2)));
    assert_eq!(
        client.deliver(&world, hole_end).said(),
        ["Gap 2..4 Retention", "Gap 0..2 Retention", "e", "z"]
    );
}

#[test]
fn a_hole_whose_contexts_did_not_come_is_told_again() {
    let (mut world, _, mut client) = reading();
    world.add(3, Role::Publisher);
    client.deliver(&world, world.log.len() - 1);
    let from = world.log.len();
    let mut other = Pen::new(3);
    other.begin(&mut world);
    other.publish(&mut world, &["x", "y"]);
    world.add(4, Role::Reader);
    world.trimmed = world.log.len();
    let hole = Reply::Hole(Offset(from as u64), Offset(world.trimmed as u64), HoleReason::Retention);
    let entry = world.record(world.trimmed - 1, &key(2)).unwrap();
    client.feed(&world, [hole, entry]).put(&world, Input::Lost);
    assert_eq!(client.said(), [""; 0]);
    // Of the new publisher nothing was known yet: passed over, its messages would be missed without a word.
    let said = client.connect(&world).said();
    assert!(said.iter().any(|said| said.starts_with("Gap 0..") && said.ends_with("Retention")), "{said:?}");
}

#[test]
fn a_hole_before_the_start_is_what_the_contexts_say_it_is() {
    let (mut world, mut pen, mut client) = reading();
    let mut client = client.restarted(&world);
    world.add(4, Role::Reader);
    world.add(5, Role::Reader);
    world.trimmed = world.log.len();
    let mut replies = world.serve(&client.subscribe(), &key(2));
    let head = replies.pop().unwrap();
    replies.extend([Reply::Hole(Offset(4), Offset(6), HoleReason::Retention), head]);
    assert_eq!(client.feed(&world, replies).said(), [""; 0]);
    world.now += 3000;
    assert_eq!(client.tick(&world).said(), ["Stalled"], "nothing of it is missing");
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.deliver(&world, 6).said(), ["c"]);
}

#[test]
fn a_hole_that_nobody_disproves_is_a_gap_when_silence_becomes_long() {
    let (mut world, pen, mut client) = reading();
    let (_, _, mut other) = reading();
    client.feed(&world, [Reply::Hole(Offset(4), Offset(9), HoleReason::Corruption)]);
    other.feed(&world, [Reply::Hole(Offset(4), Offset(9), HoleReason::Corruption)]);
    // The publisher says that there was nothing in it.
    world.now += 1000;
    client.feed(&world, [pen.beacon(&world)]);
    world.now += 3000;
    assert_eq!(client.tick(&world).said(), ["Stalled"]);
    // Another reader does not hear it.
    assert_eq!(other.tick(&world).said(), ["Gap 2.. Corruption", "Stalled"]);
}

#[test]
fn a_header_whose_predecessor_was_never_shown_is_a_gap() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    let mut client = Client::new(&world, 2, Begin::Latest);
    client.connect(&world);
    let from = world.log.len();
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    assert_eq!(client.deliver(&world, from + 2).said(), ["Gap 0..1 Missing", "b"]);
}

#[test]
fn a_first_message_with_a_number_is_a_gap() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.next_seq = 5;
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Gap 0..5 Missing", "a"]);
}

#[test]
fn a_broker_that_shows_less_was_rolled_back() {
    let (mut world, mut pen, mut client) = reading();
    pen.publish(&mut world, &["c"]);
    let mut fewer = client.restarted(&world);
    client.deliver(&world, 4).take();
    // The log is shorter.
    let mut shorter = client.restarted(&world);
    let gone = world.log.pop().unwrap();
    assert_eq!(shorter.connect(&world).said(), ["Rollback"]);
    assert!(shorter.ended);
    // The log is as long as it was, but the batch is not shown.
    world.log.push(gone);
    let mut replies = world.serve(&fewer.subscribe(), &key(2));
    for reply in &mut replies {
        if let Reply::Context(context) = reply {
            context.batch = None;
        }
    }
    assert_eq!(fewer.feed(&world, replies).said(), ["Rollback"]);
}

#[test]
fn a_memory_topic_may_lose_what_it_did_not_store() {
    let mut world = World::new(&[2]);
    world.set_policy(|policy| policy.durability = Durability::Memory);
    world.level = Level::Memory;
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.publish(&mut world, &["b"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    // The broker restarts: `b` is gone, and so is `c`, which nobody got.
    world.log.pop();
    let mut client = client.restarted(&world);
    assert_eq!(client.connect(&world).said(), [""; 0]);
    let from = world.log.len();
    let plan = pen.plan(&world);
    pen.next_seq = 3;
    pen.begin_as(&mut world, &plan, None, &[]);
    pen.publish(&mut world, &["d"]);
    assert_eq!(client.deliver(&world, from).said(), ["Truncated", "Gap 2..3 Missing", "d"]);
}

#[test]
fn no_more_and_no_end_is_truncated() {
    let (mut world, mut pen, _) = reading();
    let cursor = || crate::cursor::Cursor::new(world.topic);
    let mut client = Client::with(&world, 2, Begin::Earliest, cursor(), true);
    assert_eq!(client.connect(&world).said(), ["a", "b", "Truncated"]);
    assert!(client.ended);
    let mut ended = Client::with(&world, 2, Begin::Earliest, cursor(), true);
    pen.end(&mut world);
    assert_eq!(ended.connect(&world).said(), ["a", "b", "Ended"]);
    assert!(ended.ended);
}

#[test]
fn a_lost_connection_only_goes_on() {
    let (mut world, mut pen, mut client) = reading();
    client.put(&world, Input::Lost);
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.connect(&world).said(), ["c"]);
}
