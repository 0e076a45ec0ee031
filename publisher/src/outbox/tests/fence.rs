//! Who joins and who leaves: what is sealed for whom, from when on, and the removal fence.

use super::*;

#[test]
fn a_removal_refuses_what_is_in_flight_and_nothing_is_lost() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    // The removal reaches the broker before the next batches, and the publisher after them.
    world.remove(11);
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    assert!(
        world.answers.iter().all(|answer| matches!(answer, Err(refusal) if refusal.code == Code::StaleEpoch))
    );
    world.answer();
    world.write();
    assert_eq!(world.batches().len(), 1, "it waits for the verified entry: a refusal alone moves nothing");
    world.settle();
    world.assert_dense();
    assert_eq!(world.reader(10), texts(0..4));
    assert_eq!(world.reader(11), texts(0..1), "the removed one reads nothing sealed afterwards");
    assert_eq!(world.headers().last().map(|header| header.mode), Some(Mode::Rewrap));
    assert_eq!(world.receipts.len(), 4);
}

#[test]
fn from_a_verified_removal_on_nothing_is_sealed_under_the_old_epoch() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    let old = world.headers()[0].epoch;
    world.remove(11);
    world.tell();
    world.send(1);
    let beacons = world.beacons;
    world.write_one();
    assert_eq!(world.beacons, beacons + 1, "the admin hears at once");
    world.settle();
    assert!(world.batches().iter().all(|(epoch, _, first, _)| first.0 == 0 || *epoch > old));
    assert_eq!(world.reader(11), texts(0..1));
}

#[test]
fn an_addition_advances_and_the_newcomer_reads_nothing_older() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.add(20);
    world.tell();
    world.advance_clock(crate::outbox::COALESCE_MS);
    world.settle();
    world.send(1);
    world.settle();
    let headers = world.headers();
    assert_eq!(headers.len(), 2);
    assert_eq!((headers[1].mode, headers[1].slot_count), (Mode::Advance, 1), "one slot: the newcomer's");
    assert_eq!(world.reader(10), texts(0..2), "the others derive the key");
    assert_eq!(world.reader(20), texts(1..2));
    world.assert_dense();
}

#[test]
fn additions_within_the_window_share_an_epoch_and_sealing_goes_on_meanwhile() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    for n in 20..25 {
        world.add(n);
        world.tell();
        world.advance_clock(5);
    }
    world.send(1);
    world.write();
    assert_eq!(world.batches().len(), 2, "sealed under the old epoch");
    world.advance_clock(crate::outbox::COALESCE_MS);
    world.settle();
    assert_eq!(world.headers().len(), 2);
    assert_eq!(world.headers()[1].slot_count, 5);
    world.assert_dense();
}

#[test]
fn a_removal_that_was_named_but_does_not_exist_is_not_waited_for() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let phantom = |world: &World, ahead| Refusal {
        record: world.batches().last().map(|(epoch, batch_no, ..)| (*epoch, Some(*batch_no))),
        roster_seq: RosterSeq(ahead),
        ..Refusal::new(Code::StaleEpoch, "")
    };
    // A broker that crashes before the entry is on its disk names it, and then has forgotten it.
    let early = (world.broker.clone(), world.log.clone());
    world.send(1);
    world.write();
    let refusal = phantom(&world, 2);
    world.answers.clear();
    (world.broker, world.log) = early;
    world.input(Input::Refused(refusal));
    world.advance_clock(crate::outbox::FENCE_PATIENCE_MS - 1);
    assert_eq!(world.reconnects, 0);
    world.advance_clock(1);
    assert_eq!(world.reconnects, 1);
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    world.assert_dense();
}

#[test]
fn a_publisher_that_is_removed_or_demoted_stops() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.remove(2);
    world.tell();
    assert!(matches!(world.failed, Some(PublishError::Removed(_))));

    let mut world = World::new(1);
    let key = identity(2).public();
    let (member, _) = world.broker.roster().find(&key).unwrap();
    world.roster(&[Op::SetRole { member, identity: key, role: sealcast_proto::roster::Role::Reader }]);
    world.tell();
    assert!(matches!(world.failed, Some(PublishError::NotAllowed(_))));
}

#[test]
fn a_publisher_that_was_added_again_publishes() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.disconnect();
    world.remove(2);
    let publisher = sealcast_proto::roster::Role::Publisher;
    world.roster(&[Op::Add { identity: identity(2).public(), role: publisher }]);
    world.send(1);
    world.settle();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    let marks = world.outbox.take_marks();
    world.restart(marks);
    world.send(2);
    world.settle();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    assert_eq!(world.reader(10), texts(0..3));
}

#[test]
fn an_end_refused_by_the_fence_is_said_again() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    world.remove(11);
    world.send(1);
    world.input(Input::Close);
    world.settle();
    assert!(world.closed);
    assert!(world.broker.lane(&identity(2).public()).unwrap().ended());
    assert_eq!(world.reader(11), texts(0..1));
    world.assert_dense();
}

#[test]
fn a_beacon_speaks_of_no_batch_that_the_fence_refused() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    world.remove(11);
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    world.answer();
    assert_eq!(world.batches().len(), 1);
    // The removal is not verified yet, so no epoch can begin; the publisher is silent but for its beacons.
    world.advance_clock(1000);
    world.write_one();
    let beacon = world.last_beacon();
    assert_eq!(beacon.next_batch_no.0, 1, "one was stored; the refused ones come again under another epoch");
    world.settle();
    world.assert_dense();
}
