//! An epoch's life: its header, its age, its beacons, its end.

use super::*;

#[test]
fn what_waits_is_sealed_together_and_every_member_reads_it() {
    let mut world = World::new(2);
    (0..5).for_each(|n| world.send(n));
    world.settle();
    assert_eq!(world.batches().len(), 1, "five messages waited for the epoch");
    assert_eq!(world.reader(10), texts(0..5));
    assert_eq!(world.reader(11), texts(0..5));
    assert_eq!(world.reader(99), Vec::<String>::new(), "not a member");
    let seqs: Vec<u64> = world.receipts.values().map(|receipt| receipt.seq.0).collect();
    assert_eq!(seqs, [0, 1, 2, 3, 4]);
}

#[test]
fn nothing_is_sealed_before_the_header_is_accepted() {
    let mut world = World::new(1);
    world.send(0);
    world.write();
    assert_eq!(world.headers().len(), 1);
    assert_eq!(world.batches().len(), 0);
    world.answer();
    world.write();
    assert_eq!(world.batches().len(), 1);
}

#[test]
fn keys_rotate_with_age_by_order_and_after_many_batches() {
    let policy = Policy { max_epoch_batches: 3, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    for n in 0..7 {
        world.send(n);
        world.settle();
    }
    assert_eq!(world.headers().len(), 3, "three batches an epoch");
    world.advance_clock(Policy::default().max_epoch_age_ms);
    world.settle();
    assert_eq!(world.headers().len(), 4, "an hour passed");
    world.roster(&[Op::Rotate]);
    world.settle();
    assert_eq!(world.headers().len(), 5, "an admin asked");
    world.advance_clock(Policy::default().max_fresh_age_ms);
    world.settle();
    assert_eq!(world.headers().len(), 6, "a day passed");
    let modes: Vec<Mode> = world.headers().iter().map(|header| header.mode).collect();
    let (fresh, rewrap) = (Mode::Fresh, Mode::Rewrap);
    assert_eq!(modes, [fresh, rewrap, rewrap, rewrap, fresh, fresh]);
    world.send(7);
    world.settle();
    world.assert_dense();
    assert_eq!(world.reader(10), texts(0..8));
}

#[test]
fn a_busy_publisher_rotates_after_a_reconnect() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    world.disconnect();
    world.connect();
    world.add(20);
    world.tell();
    world.advance_clock(crate::outbox::COALESCE_MS);
    // The application never pauses: something is in flight at any time.
    let mut sent = 2;
    for _ in 0..20 {
        let answers = std::mem::take(&mut world.answers);
        world.send(sent);
        sent += 1;
        world.write();
        let new = std::mem::replace(&mut world.answers, answers);
        world.answer();
        world.answers = new;
    }
    assert_eq!(world.headers().len(), 2, "the newcomer's epoch began");
    world.settle();
    world.assert_dense();
    assert_eq!(world.reader(10), texts(0..sent));
}

#[test]
fn a_silent_publisher_gives_signs_of_life() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    for n in 1..4 {
        world.advance_clock(999);
        world.write();
        assert_eq!(world.beacons, n - 1);
        world.advance_clock(1);
        world.write();
        assert_eq!(world.beacons, n);
    }
}

#[test]
fn the_end_is_said_once_and_acknowledged() {
    let mut world = World::new(1);
    world.send(0);
    world.input(Input::Close);
    world.settle();
    assert!(world.closed);
    assert!(world.broker.lane(&identity(2).public()).unwrap().ended());
    assert_eq!(world.reader(10), texts(0..1));

    let mut silent = World::new(1);
    silent.input(Input::Close);
    assert!(silent.closed, "nothing was said, so there is nothing to end");
}
