//! The outbox against the broker's real acceptance rules, in virtual time.

mod distrust;
mod liar;
mod random;
mod world;

use sealcast_envelope::PrekeyRing;
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::{Mode, Prekey, RosterHead};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::Op;
use sealcast_proto::{Epoch, RosterSeq, Seq, Signed, SlotSource, slot::find_slot};

use super::Input;
use crate::error::PublishError;
use crate::marks::Marks;
use crate::standstill::Standstill;
use world::{World, identity};

fn texts(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("message {n}")).collect()
}

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
    world.advance_clock(super::COALESCE_MS);
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
    world.advance_clock(super::COALESCE_MS);
    world.settle();
    assert_eq!(world.headers().len(), 2);
    assert_eq!(world.headers()[1].slot_count, 5);
    world.assert_dense();
}

#[test]
fn what_is_in_flight_is_sent_again_verbatim_and_stored_once() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.frames.clear();
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    let sent = world.frames.clone();
    world.disconnect(); // The broker stored all three; its answers are lost.
    world.frames.clear();
    world.settle();
    assert_eq!(world.frames, sent, "the same bytes");
    assert_eq!(world.batches().len(), 4);
    assert_eq!(world.receipts.len(), 4);
    world.assert_dense();
}

#[test]
fn answers_to_what_came_again_may_come_in_any_order() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    world.disconnect();
    world.connect();
    world.write();
    // A restarted broker knows the newest batch at once and looks the older ones up in its log.
    world.answers.reverse();
    world.answer();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    let offsets: Vec<_> = world.receipts.values().map(|receipt| receipt.offset).collect();
    assert!(offsets.len() == 4 && offsets.is_sorted(), "{offsets:?}");
    world.assert_dense();
}

#[test]
fn a_refusal_may_overtake_the_answers_to_earlier_batches() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    for n in 1..3 {
        world.send(n);
        world.write();
    }
    world.remove(10);
    world.send(3);
    world.write();
    world.answers.rotate_left(1);
    assert!(world.answers[1].is_err(), "{:?}", world.answers);
    world.settle();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    assert_eq!(world.receipts.len(), 4);
    assert_eq!(world.reader(11), texts(0..4));
    world.assert_dense();
}

#[test]
fn a_header_whose_answer_was_lost_is_sent_again_with_its_table() {
    let mut world = World::new(1);
    world.send(0);
    world.write();
    world.disconnect();
    world.tables.clear();
    world.settle();
    assert_eq!(world.headers().len(), 1);
    assert_eq!(world.reader(10), texts(0..1));
    assert_eq!(world.receipts.len(), 1);

    // The other way round: the header never arrived, and the table went with the connection.
    let mut world = World::new(1);
    world.send(0);
    world.connected = false;
    world.input(Input::Lost);
    world.tables.clear();
    world.settle();
    assert_eq!(world.reader(10), texts(0..1));
}

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
        super::Outbox::new(identity(2), world.topic, &world.genesis, Marks::default()),
    );
    world.connect();
    world.send(1);
    world.settle();
    world.outbox = ours;
    world.disconnect();
    world.connect();
    assert!(matches!(world.failed, Some(PublishError::IdentityInUse)), "{:?}", world.failed);
}

#[test]
fn a_busy_broker_is_asked_again_with_the_same_bytes() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    let frame = world.frames.last().cloned();
    world.answers.clear();
    world.input(Input::Refused(Refusal { retry_after_ms: 300, ..Refusal::new(Code::Busy, "") }));
    assert_eq!(world.reconnects, 1);
    world.settle();
    assert_eq!(world.frames.last().cloned(), frame);
    assert_eq!(world.receipts.len(), 2);
    world.assert_dense();
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
fn prekeys_are_wrapped_to_and_never_rolled_back() {
    let mut world = World::new(1);
    let member = identity(10);
    let (index, _) = world.broker.roster().find(&member.public()).unwrap();
    let mut rng = rand::rng();
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let first = ring.rotate_if_due(&member, week, fortnight, world.now, true, &mut rng).unwrap();
    let second = ring.rotate_if_due(&member, week, fortnight, world.now + 5000, true, &mut rng).unwrap();
    let source = |world: &World| {
        let header = world.headers().last().cloned().unwrap();
        find_slot(&world.tables[&header.slots_hash], index).map(|slot| slot.source)
    };
    world.input(Input::Prekey(second.clone()));
    world.input(Input::Prekey(first));
    world.send(0);
    world.settle();
    let id = second.peek().unwrap().prekey_id;
    assert_eq!(source(&world), Some(SlotSource::Prekey(id)), "the newest, whatever came last");

    // After a restart the broker keeps quiet about it: the static key does not come back.
    world.advance_clock(1000);
    let marks = world.marks.clone();
    world.restart(marks);
    world.send(1);
    world.settle();
    assert_eq!(source(&world), None);
    assert_eq!(world.outbox.unreachable(), [member.public()]);
    world.input(Input::Prekey(second));
    world.advance_clock(super::COALESCE_MS);
    world.settle();
    assert_eq!(source(&world), Some(SlotSource::Prekey(id)), "then an advance gives it a slot");
    assert_eq!(world.headers().last().map(|header| header.mode), Some(Mode::Advance));
}

#[test]
fn a_member_that_comes_back_is_wrapped_to_its_prekey_of_before() {
    let mut world = World::new(2);
    let member = identity(10);
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let prekey = ring.rotate_if_due(&member, week, fortnight, world.now, true, &mut rand::rng()).unwrap();
    world.input(Input::Prekey(prekey.clone()));
    world.send(0);
    world.settle();
    world.remove(10);
    world.settle();
    world.add(10);
    world.settle();
    world.advance_clock(super::COALESCE_MS);
    world.settle();
    // The broker has no reason to send the prekey again, nor the member.
    let (index, _) = world.broker.roster().find(&member.public()).unwrap();
    let header = world.headers().last().cloned().unwrap();
    let slot = find_slot(&world.tables[&header.slots_hash], index).unwrap();
    assert_eq!(slot.source, SlotSource::Prekey(prekey.peek().unwrap().prekey_id));
    assert!(world.outbox.unreachable().is_empty());
}

#[test]
fn an_old_roster_stops_the_sealing_where_the_policy_says_so() {
    let policy = Policy { max_roster_age_ms: 60_000, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    world.send(0);
    world.settle();
    world.advance_clock(60_000);
    assert_eq!((world.outbox.standstill(), world.outbox.wake_at()), (None, world.now + 1));
    world.advance_clock(1);
    world.send(1);
    world.settle();
    assert_eq!(world.receipts.len(), 1, "no admin's word for a minute");
    let since_ms = world.now;
    assert_eq!(world.outbox.standstill(), Some(Standstill::RosterStale { since_ms }));
    world.add(30);
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    assert_eq!(world.outbox.standstill(), None);
}

#[test]
fn only_an_admins_word_of_now_lets_an_old_roster_seal_on() {
    let policy = Policy { max_roster_age_ms: 60_000, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    let head = |world: &World, named: u8, signer: u8| {
        let chain = world.broker.roster().chain();
        let (seq, hash) = (chain.seq(), chain.hash());
        let signed = RosterHead {
            topic: world.topic,
            seq,
            hash,
            signer: identity(named).public(),
            time_ms: world.now,
        };
        Input::Head(Signed::sign(&signed, identity(signer).signing_key()))
    };
    world.send(0);
    world.settle();
    let replayed = [head(&world, 1, 1), head(&world, 1, 1)];
    world.advance_clock(60_001);
    world.send(1);
    // The owner's word of then; a publisher's, a reader's and a stranger's of now.
    let forged = [(2, 2), (10, 10), (99, 99), (1, 2)].map(|(named, signer)| head(&world, named, signer));
    for useless in replayed.into_iter().chain(forged) {
        world.input(useless);
        world.settle();
        assert_eq!(world.receipts.len(), 1);
        assert!(matches!(world.outbox.standstill(), Some(Standstill::RosterStale { .. })));
    }
    let word = head(&world, 1, 1);
    world.input(word);
    world.settle();
    assert_eq!((world.receipts.len(), world.outbox.standstill()), (2, None));
}

#[test]
fn nothing_that_waits_for_an_answer_wakes_the_driver_again_and_again() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.add(20);
    world.tell();
    world.disconnect();
    // An hour later everything is due: an epoch for the newcomer, one for the age, a beacon, the marks.
    world.advance_clock(Policy::default().max_epoch_age_ms);
    assert!(world.outbox.wake_at() > world.now, "without a connection there is nothing to do");
    world.connect();
    world.write_one(); // The header goes out; its answer is awaited.
    world.advance_clock(5_000);
    while world.outbox.has_frame(world.now) {
        world.write_one();
    }
    assert!(world.outbox.wake_at() > world.now);
    world.settle();
    assert_eq!(world.headers().len(), 2);
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
    world.advance_clock(super::COALESCE_MS);
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
    world.advance_clock(super::FENCE_PATIENCE_MS - 1);
    assert_eq!(world.reconnects, 0);
    world.advance_clock(1);
    assert_eq!(world.reconnects, 1);
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    world.assert_dense();
}

#[test]
fn a_broker_that_takes_headers_and_no_batches_is_named() {
    let phantom = RosterSeq(1_000);
    for (code, roster_seq) in
        [(Code::StaleEpoch, RosterSeq(1)), (Code::StaleEpoch, phantom), (Code::OutOfOrder, RosterSeq(0))]
    {
        let mut world = World::new(1);
        world.send(0);
        for _ in 0..1000 {
            if world.failed.is_some() {
                break;
            }
            if !world.connected {
                world.connect();
            }
            let before = (world.broker.clone(), world.log.clone());
            world.write();
            let Some(Ok(ack)) = world.answers.pop() else { break };
            let record = Some((ack.epoch, ack.batch_no));
            if ack.batch_no.is_none() {
                world.input(Input::Acked(ack));
            } else {
                (world.broker, world.log) = before;
                world.input(Input::Refused(Refusal { record, roster_seq, ..Refusal::new(code, "no") }));
                world.advance_clock(super::FENCE_PATIENCE_MS);
            }
        }
        assert!(matches!(world.failed, Some(PublishError::Broker(_))), "{code:?}: {:?}", world.failed);
        assert!(world.headers().len() <= super::MAX_ATTEMPTS as usize + 1);
    }
}

#[test]
fn prekeys_of_strangers_are_not_remembered() {
    let mut world = World::new(1);
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    for n in 100..110 {
        let stranger = identity(n);
        let prekey = PrekeyRing::new()
            .rotate_if_due(&stranger, week, fortnight, world.now, true, &mut rand::rng())
            .unwrap();
        world.input(Input::Prekey(prekey));
    }
    world.advance_clock(1000);
    assert!(world.outbox.take_marks().prekeys.is_empty());
    // Unless they become members: a prekey may arrive before the entry that adds its owner.
    world.add(105);
    world.tell();
    world.send(0);
    world.settle();
    assert_eq!(world.outbox.take_marks().prekeys.len(), 1);
    let (index, _) = world.broker.roster().find(&identity(105).public()).unwrap();
    let table = &world.tables[&world.headers()[0].slots_hash];
    assert!(matches!(find_slot(table, index).unwrap().source, SlotSource::Prekey(_)));
}

#[test]
fn a_prekey_that_comes_while_the_epoch_is_made_is_used_soon() {
    let mut world = World::new(1);
    let member = identity(10);
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let mut make = |at| ring.rotate_if_due(&member, week, fortnight, at, true, &mut rand::rng()).unwrap();
    let first = make(world.now);
    world.input(Input::Prekey(first));
    world.now += week + fortnight;
    world.send(0);
    world.write(); // Its prekey has expired: no slot. The header is on its way.
    let second = make(world.now);
    world.input(Input::Prekey(second));
    world.settle();
    world.advance_clock(super::COALESCE_MS);
    world.settle();
    assert!(world.outbox.unreachable().is_empty());
    assert_eq!(
        world.headers().last().map(|header| (header.mode, header.slot_count)),
        Some((Mode::Advance, 1))
    );
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
fn a_broker_that_asks_for_a_long_wait_is_not_obeyed_for_ever() {
    let mut world = World::new(1);
    let mut effects = Vec::new();
    let busy = Refusal { retry_after_ms: u64::MAX, ..Refusal::new(Code::Busy, "") };
    world.outbox.handle(Input::Refused(busy), world.now, &mut effects);
    assert!(effects.iter().any(
        |effect| matches!(effect, super::Effect::Reconnect { after_ms } if *after_ms <= super::MAX_RETRY_MS)
    ));
}

#[test]
fn a_member_with_an_unusable_prekey_gets_no_slot_and_makes_nobody_rotate_for_ever() {
    let mut world = World::new(2);
    let member = identity(10);
    let not_before_ms = world.now / 1000 * 1000;
    // A point of low order: whatever the publisher's secret is, everybody knows what they agree on.
    let prekey = Prekey {
        owner: member.public(),
        prekey_id: u32::try_from(not_before_ms / 1000).unwrap(),
        x25519: [0; 32],
        not_before_ms,
        not_after_ms: not_before_ms + 86_400_000,
    };
    world.input(Input::Prekey(Signed::sign(&prekey, member.signing_key())));
    world.send(0);
    for _ in 0..5 {
        world.settle();
        world.advance_clock(100);
    }
    assert_eq!(world.outbox.unreachable(), [member.public()]);
    assert_eq!(world.headers().len(), 1);
    assert_eq!(world.reader(11), texts(0..1));
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

#[test]
fn a_broker_that_answers_nothing_is_left_for_another_connection() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    world.answers.clear();
    let since_ms = world.now;
    world.advance_clock(super::flight::ANSWER_MS - 1);
    assert_eq!(world.reconnects, 0);
    world.advance_clock(1);
    assert_eq!(world.reconnects, 1);
    assert_eq!(world.outbox.standstill(), Some(Standstill::Unanswered { since_ms }));
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    assert_eq!(world.outbox.standstill(), None);
    world.assert_dense();
}

#[test]
fn a_broker_that_cannot_store_is_named_and_nothing_is_lost() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let refused = |code| Input::Refused(Refusal { retry_after_ms: 300, ..Refusal::new(code, "") });
    world.send(1);
    world.write();
    world.answers.clear();
    // What passes by itself is no matter for the application.
    world.input(refused(Code::Busy));
    assert_eq!((world.reconnects, world.outbox.standstill()), (1, None));
    let since_ms = world.now;
    for n in 2..5 {
        world.connect();
        world.write();
        world.answers.clear();
        world.input(refused(Code::ReadOnly));
        assert_eq!(world.reconnects, n);
        assert_eq!(
            world.outbox.standstill(),
            Some(Standstill::ReadOnly { since_ms }),
            "since the first time"
        );
        world.now += 1;
    }
    world.settle();
    assert_eq!((world.receipts.len(), world.outbox.standstill()), (2, None));
    world.assert_dense();
}
