//! What was saved against what the broker shows: going on, or naming what is missing.

use super::*;

#[test]
fn a_restart_goes_on_where_the_broker_stands() {
    for with_marks in [true, false] {
        let mut world = World::new(1);
        (0..3).for_each(|n| world.send(n));
        world.settle();
        world.advance_clock(1000);
        let marks = if with_marks { world.marks.clone() } else { Marks::default() };
        let first = world.headers()[0].clone();
        world.restart(marks);
        world.send(3);
        world.settle();
        world.assert_dense();
        let second = world.headers()[1].clone();
        assert_eq!(second.mode, Mode::Fresh, "the first epoch after a restart is fresh");
        assert!(second.epoch > first.epoch);
        assert_eq!(second.prev_close.map(|close| close.batches), with_marks.then_some(1));
        assert_eq!(world.reader(10), texts(0..4));
    }
}

#[test]
fn marks_behind_the_broker_are_extended_by_what_verifies() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.advance_clock(1000);
    let old = world.marks.clone();
    for n in 1..3 {
        world.send(n);
        world.settle();
    }
    world.restart(old);
    world.send(3);
    world.settle();
    world.assert_dense();
    assert_eq!(world.headers()[1].prev_close.map(|close| close.batches), Some(3));
}

#[test]
fn numbers_go_on_where_the_broker_shows_a_header_and_no_batch() {
    for advances in [false, true] {
        let mut world = World::new(1);
        for n in 0..3 {
            world.send(n);
            world.settle();
        }
        if advances {
            world.add(20);
        } else {
            world.remove(10);
        }
        world.advance_clock(60);
        world.settle();
        world.advance_clock(60);
        world.settle();
        assert_eq!(world.headers().len(), 2, "a second epoch began, and no batch");
        // The marks as they were when that header was written: nothing later was saved.
        let marks = world.marks_at_header.clone();
        world.restart(marks);
        world.send(3);
        world.settle();
        world.assert_dense();
    }
}

#[test]
fn a_header_waits_until_the_marks_know_of_it() {
    let mut world = World::new(1);
    world.saves_slowly = true;
    world.send(0);
    world.write();
    assert!(world.headers().is_empty(), "the save is under way");
    let (epoch, seq) = world.marks.coming.expect("it names the header");
    assert_eq!(seq, Seq(0));
    world.input(Input::Saved(Epoch(epoch.0 - 1)));
    world.write();
    assert!(world.headers().is_empty(), "another one's");
    world.saves_slowly = false;
    world.input(Input::Saved(epoch));
    world.settle();
    assert_eq!((world.headers().len(), world.receipts.len()), (1, 1));
}

/// Two headers with one number would be the proof of a fork, in anybody's hands.
#[test]
fn a_number_that_was_signed_is_signed_no_second_time_wherever_the_clock_stands() {
    for back_ms in [0, 5_000] {
        let mut world = World::new(2);
        world.remove(11);
        world.send(0);
        world.write();
        assert_eq!(world.headers(), [], "refused: it was made for a member that is removed");
        let (spent, _) = world.marks.coming.expect("it was signed");
        world.now -= back_ms;
        let marks = world.marks.clone();
        world.restart(marks);
        world.send(1);
        world.settle();
        assert!(world.headers()[0].epoch > spent, "{spent} was used");
        assert_eq!(world.reader(10), ["message 1"]);
    }
}

#[test]
fn a_broker_that_lost_what_it_acknowledged_is_named() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let early = (world.broker.clone(), world.log.clone());
    world.send(1);
    world.settle();
    world.advance_clock(1000);
    let marks = world.marks.clone();
    (world.broker, world.log) = early;
    world.disconnect();
    world.connect();
    assert!(matches!(world.failed, Some(PublishError::Rollback(_))), "{:?}", world.failed);

    world.failed = None;
    world.restart(marks);
    assert!(matches!(world.failed, Some(PublishError::Rollback(_))), "the marks outlive the process");
}

#[test]
fn a_rolled_back_roster_is_named() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let early = (world.broker.clone(), world.log.clone());
    world.add(20);
    world.tell();
    world.advance_clock(1000);
    // Where it stood with its batches is all there: it is the roster that is not.
    let marks = world.marks.clone();
    assert_eq!(marks.position.map(|at| at.epoch), Some(world.headers()[0].epoch));
    assert_eq!(marks.roster.as_ref().map(|marked| marked.seq), Some(RosterSeq(2)));
    (world.broker, world.log) = early;
    world.restart(marks);
    assert!(matches!(world.failed, Some(PublishError::Rollback(_))), "{:?}", world.failed);
}

#[test]
fn a_memory_topic_that_lost_batches_goes_on_with_a_fresh_epoch() {
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    world.send(0);
    world.settle();
    let early = (world.broker.clone(), world.log.clone());
    world.send(1);
    world.settle();
    world.send(2);
    world.write(); // In flight when the broker dies.
    (world.broker, world.log) = early;
    world.disconnect();
    world.settle();
    assert_eq!(world.headers().len(), 2);
    assert_eq!(world.headers()[1].prev_close, None, "it cannot vouch for what was lost");
    assert_eq!(world.reader(10), [texts(0..1), texts(2..3)].concat());
    assert!(world.failed.is_none());
}

#[test]
fn two_processes_with_one_identity_are_noticed() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.input(Input::Refused(Refusal::new(Code::Superseded, "")));
    assert!(matches!(world.failed, Some(PublishError::IdentityInUse)));

    // The other one published while we were away.
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let ours = std::mem::replace(
        &mut world.outbox,
        crate::outbox::Outbox::new(identity(2), world.topic, &world.genesis, Marks::default()),
    );
    world.connect();
    world.send(1);
    world.settle();
    world.outbox = ours;
    world.disconnect();
    world.connect();
    assert!(matches!(world.failed, Some(PublishError::IdentityInUse)), "{:?}", world.failed);
}
