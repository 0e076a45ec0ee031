//! Who can open which epoch: commitments, advances, newcomers, removed members, saved state.

use sealcast_proto::limits::{MAX_ADVANCES, MAX_EPOCH_BATCHES};
use sealcast_proto::object::PrevClose;
use sealcast_proto::{BatchNo, Epoch, Hash, RosterSeq, Seq, TopicId};

use super::{Member, Started, plan, publisher, rng, targets};
use crate::epoch::{EpochError, EpochPlan, advance, fresh};
use crate::receiver::{EpochReceiver, FastForwardError, OpenError, SlotError};

fn advanced(from: &Started, newcomers: &[Member]) -> Started {
    let next = plan(from.header.epoch.0 + 1, from.hash);
    let new = advance(&next, &from.sender.advance_from(), &targets(newcomers), &mut rng(next.epoch.0))
        .expect("a sound plan");
    Started::finish(new)
}

#[test]
fn a_header_that_commits_to_another_seed_is_the_publishers_fault() {
    let member = Member::with_prekey(1, 77);
    let mut started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    for bit in [0, 100, 255] {
        started.header.commitment[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(member.open(&started).unwrap_err(), SlotError::BadEpochSeed);
        started.header.commitment[bit / 8] ^= 1 << (bit % 8);
    }
    let held = member.open(&started).unwrap();
    let mut next = advanced(&started, &[]);
    next.header.commitment[0] ^= 1;
    assert_eq!(held.advance(&next.header, &next.hash).unwrap_err(), SlotError::BadEpochSeed);
    next.header.commitment[0] ^= 1;
    held.advance(&next.header, &next.hash).unwrap();
}

/// G6: with a key-committing seed, a publisher cannot give two members different keys under one header.
#[test]
fn slots_of_another_seed_do_not_open_under_this_commitment() {
    let members = [Member::with_prekey(1, 77), Member::with_prekey(2, 78)];
    let started = Started::fresh(7, Hash::ZERO, &members);
    // The same `enc`, context and member, but another seed: what a cheating publisher would put in the table.
    let mut script = rng(7);
    let _epoch_key = crate::secret::Secret::random(&mut script);
    let ephemeral = crate::wrap::WrapSecret::generate(&mut script);
    assert_eq!(ephemeral.public(), started.header.enc);
    let context = crate::derive::Context::of(&started.header);
    let seed = crate::derive::Seed(crate::secret::Secret::random(&mut rng(99)));
    let slots = crate::wrap::SlotMaker::new(&context, &ephemeral, &seed, None).table(&targets(&members));
    let cheating = Started { table: slots.table.into(), ..started };
    for member in &members {
        assert_eq!(member.open(&cheating).unwrap_err(), SlotError::BadEpochSeed);
    }
}

#[test]
fn an_advance_chain_is_derived_without_slots() {
    let member = Member::with_prekey(1, 77);
    let mut epoch = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let mut held = member.open(&epoch).unwrap();
    for step in 1..=20 {
        epoch = advanced(&epoch, &[]);
        assert_eq!((epoch.header.slot_count, epoch.sender.advances()), (0, step));
        held = held.advance(&epoch.header, &epoch.hash).unwrap();
        assert_eq!((held.source(), held.next_batch_no()), (member.source, BatchNo(0)));
        let record = epoch.seal(&[b"after an advance"]);
        assert_eq!(held.open(&epoch.verify(&record)).unwrap(), [b"after an advance".as_slice()]);
    }
}

#[test]
fn newcomers_open_the_advance_and_cannot_derive_the_past() {
    let (old, new) = (Member::with_prekey(1, 77), Member::with_prekey(2, 78));
    let mut before = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&old));
    let past = before.seal(&[b"the past"]);
    let mut after = advanced(&before, std::slice::from_ref(&new));
    let present = after.seal(&[b"the present"]);
    assert_eq!((after.header.slot_count, before.slot(&new)), (1, None));

    let mut newcomer = new.open(&after).unwrap();
    let mut derived = old.open(&before).unwrap().advance(&after.header, &after.hash).unwrap();
    for receiver in [&mut newcomer, &mut derived] {
        assert_eq!(receiver.open(&after.verify(&present)).unwrap(), [b"the present".as_slice()]);
    }
    // The newcomer's keys, put in the place of the past epoch's: nothing opens.
    let mut pretend = new.open(&after).unwrap();
    pretend = splice(&pretend, before.header.epoch, BatchNo(0));
    assert_eq!(pretend.open(&before.verify(&past)), Err(OpenError::BadBatch));
    // Nor does the newcomer's key open the old member's slot.
    let slot = before.slot(&old).unwrap();
    let stolen = EpochReceiver::open_slot(&before.header, &before.hash, &slot, &old.public(), &new.secret);
    assert_eq!(stolen.unwrap_err(), SlotError::BadSlot);
}

#[test]
fn a_removed_member_with_everything_it_held_cannot_open_the_next_fresh_epoch() {
    let (stays, goes) = (Member::with_prekey(1, 77), Member::with_prekey(2, 78));
    let before = Started::fresh(7, Hash::ZERO, &[Member::with_prekey(1, 77), Member::with_prekey(2, 78)]);
    let mut after = Started::fresh(8, before.hash, std::slice::from_ref(&stays));
    let record = after.seal(&[b"without you"]);
    assert_eq!(after.slot(&goes), None);

    // Its wrap key on every slot of the new table, with either identity.
    let slot = after.slot(&stays).unwrap();
    for me in [&stays, &goes] {
        let opened = EpochReceiver::open_slot(&after.header, &after.hash, &slot, &me.public(), &goes.secret);
        assert_eq!(opened.unwrap_err(), SlotError::BadSlot);
    }
    // Its own old slot under the new header.
    let old_slot = before.slot(&goes).unwrap();
    let opened =
        EpochReceiver::open_slot(&after.header, &after.hash, &old_slot, &goes.public(), &goes.secret);
    assert_eq!(opened.unwrap_err(), SlotError::BadSlot);
    // Its AS: the header says fresh; and said it advance, the commitment would not be this one.
    let held = goes.open(&before).unwrap();
    assert_eq!(held.advance(&after.header, &after.hash).unwrap_err(), SlotError::NotSuccessor);
    let mut forged = after.header.clone();
    forged.mode = sealcast_proto::object::Mode::Advance;
    assert_eq!(held.advance(&forged, &after.hash).unwrap_err(), SlotError::BadEpochSeed);
    // Its batch keys, at any step of the ratchet.
    for step in 0..20 {
        let mut ratchet = EpochReceiver::restore(&held.snapshot()).unwrap();
        ratchet.fast_forward(BatchNo(step)).unwrap();
        let mut pretend = splice(&ratchet, after.header.epoch, BatchNo(0));
        assert_eq!(pretend.open(&after.verify(&record)), Err(OpenError::BadBatch));
    }
    stays.open(&after).unwrap().open(&after.verify(&record)).unwrap();
}

/// The keys of `receiver` with another epoch and batch number written over them.
fn splice(receiver: &EpochReceiver, epoch: Epoch, next: BatchNo) -> EpochReceiver {
    let mut bytes = receiver.snapshot();
    bytes[33..41].copy_from_slice(&epoch.0.to_be_bytes());
    bytes[53..61].copy_from_slice(&next.0.to_be_bytes());
    EpochReceiver::restore(&bytes).unwrap()
}

#[test]
fn an_advance_must_follow_its_own_epoch() {
    let member = Member::with_prekey(1, 77);
    let started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let right = plan(8, started.hash);
    let wrong = [
        EpochPlan { topic: TopicId([1; 32]), ..right.clone() },
        EpochPlan { publisher: member.public(), ..right.clone() },
        EpochPlan { epoch: Epoch(7), ..right.clone() },
        EpochPlan { prev_header_hash: Hash([1; 32]), ..right.clone() },
    ];
    for plan in &wrong {
        let refused = advance(plan, &started.sender.advance_from(), &[], &mut rng(1)).map(drop);
        assert_eq!(refused, Err(EpochError::NotSuccessor));
    }
    let (first, second) = (advanced(&started, &[]), advanced(&advanced(&started, &[]), &[]));
    let held = member.open(&started).unwrap();
    assert_eq!(held.advance(&second.header, &second.hash).unwrap_err(), SlotError::NotSuccessor);
    assert_eq!(held.advance(&started.header, &started.hash).unwrap_err(), SlotError::NotSuccessor);
    // None of that took anything away.
    held.advance(&first.header, &first.hash).unwrap().advance(&second.header, &second.hash).unwrap();
}

#[test]
fn advances_in_a_row_are_limited_on_both_sides() {
    let member = Member::with_prekey(1, 77);
    let mut epoch = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let mut held = member.open(&epoch).unwrap();
    for _ in 0..MAX_ADVANCES {
        epoch = advanced(&epoch, &[]);
        held = held.advance(&epoch.header, &epoch.hash).unwrap();
    }
    let next = plan(epoch.header.epoch.0 + 1, epoch.hash);
    let refused = advance(&next, &epoch.sender.advance_from(), &[], &mut rng(1)).map(drop);
    assert_eq!(refused, Err(EpochError::TooManyAdvances));
    // A publisher that goes on all the same is not followed; a fresh epoch starts a new count.
    let fresh = Started::fresh(next.epoch.0, epoch.hash, std::slice::from_ref(&member));
    assert_eq!(fresh.sender.advances(), 0);
    let mut forged = fresh.header.clone();
    forged.mode = sealcast_proto::object::Mode::Advance;
    assert_eq!(held.advance(&forged, &fresh.hash).unwrap_err(), SlotError::NotSuccessor);
}

#[test]
fn a_failed_start_leaves_the_epoch_before_as_it_was() {
    let member = Member::with_prekey(1, 77);
    let started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let (one, next) = (member.target(), plan(8, started.hash));
    let refused = advance(&next, &started.sender.advance_from(), &[one.clone(), one], &mut rng(1)).map(drop);
    assert_eq!(refused, Err(EpochError::Order));
    let next = advanced(&started, &[]);
    member.open(&started).unwrap().advance(&next.header, &next.hash).unwrap();
}

#[test]
fn the_header_says_what_was_planned_and_a_beacon_where_it_stands() {
    let member = Member::with_prekey(1, 77);
    let plan = plan(7, Hash([3; 32]));
    let new = fresh(&plan, &[member.target()], &mut rng(1)).unwrap();
    let (table, close) = (new.table(), PrevClose { batches: 4, last_batch_hash: Hash([4; 32]) });
    assert_eq!(new.slots_hash(), sealcast_proto::slot::table_hash(&table));
    let (signed, mut sender, _) = new.finish(Some(close), 55, &publisher());
    let header = signed.verify(&publisher().public()).unwrap();
    assert_eq!(&header, sender.header());
    assert_eq!((header.prev_close, header.time_ms, header.kek_gen), (Some(close), 55, 0));
    assert_eq!((header.topic, header.publisher, header.epoch), (plan.topic, plan.publisher, plan.epoch));
    assert_eq!((header.roster_seq, header.roster_hash), (plan.roster_seq, plan.roster_hash));
    assert_eq!((sender.last_hash(), sender.header_hash()), (signed.hash(), signed.hash()));

    sender.seal(&["m".into()], Seq(0), 1, false).unwrap();
    let beacon = sender.beacon(RosterSeq(9), Hash([9; 32]), 66).verify(&header.epoch_vk).unwrap();
    assert_eq!((beacon.header_hash, beacon.next_batch_no), (signed.hash(), BatchNo(1)));
    assert_eq!((beacon.last_batch_hash, beacon.time_ms), (sender.last_hash(), 66));
    assert_eq!((beacon.roster_seq, beacon.roster_hash), (RosterSeq(9), Hash([9; 32])));
}

#[test]
fn a_snapshot_restores_all_and_damage_is_refused() {
    let member = Member::with_prekey(1, 77);
    let mut epoch = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let mut held = member.open(&epoch).unwrap();
    let (first, second) = (epoch.seal(&[b"first"]), epoch.seal(&[b"second"]));
    held.open(&epoch.verify(&first)).unwrap();
    let saved = held.snapshot();
    let mut restored = EpochReceiver::restore(&saved).unwrap();
    assert_eq!(restored.snapshot(), saved);
    assert_eq!((restored.source(), restored.next_batch_no()), (member.source, BatchNo(1)));
    assert_eq!((restored.epoch(), restored.header_hash()), (Epoch(7), epoch.hash));
    let next = advanced(&epoch, &[]);
    restored.advance(&next.header, &next.hash).unwrap();
    assert_eq!(restored.open(&epoch.verify(&second)).unwrap(), [b"second".as_slice()]);
    assert_ne!(restored.snapshot(), saved);

    for len in 0..saved.len() {
        assert!(EpochReceiver::restore(&saved[..len]).is_err());
    }
    assert!(EpochReceiver::restore(&[saved.as_slice(), &[0]].concat()).is_err());
    let with = |at: usize, byte: u8| {
        let mut bytes = saved.clone();
        bytes[at] = byte;
        EpochReceiver::restore(&bytes).map(drop)
    };
    assert!(with(0, 2).is_err(), "another version");
    assert!(with(45, 1).is_err(), "more advances than there are");
    assert!(with(49, 1).is_err(), "more batches than there are");
    assert!(with(0, 1).is_ok());
}

#[test]
fn fast_forward_is_stepping_and_has_bounds() {
    let member = Member::with_prekey(1, 77);
    let mut epoch = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let records: Vec<_> = (0..10).map(|_| epoch.seal(&[b"message"])).collect();
    let mut held = member.open(&epoch).unwrap();
    held.fast_forward(BatchNo(0)).unwrap();
    held.fast_forward(BatchNo(9)).unwrap();
    held.open(&epoch.verify(&records[9])).unwrap();
    assert_eq!(held.fast_forward(BatchNo(9)), Err(FastForwardError::Behind { next: BatchNo(10) }));
    assert_eq!(held.fast_forward(BatchNo(MAX_EPOCH_BATCHES + 1)), Err(FastForwardError::TooFar));
    assert_eq!(held.fast_forward(BatchNo(u64::MAX)), Err(FastForwardError::TooFar));
    assert_eq!(held.next_batch_no(), BatchNo(10));
    held.fast_forward(BatchNo(MAX_EPOCH_BATCHES)).unwrap();
}

#[test]
fn debug_prints_the_types_name_only() {
    let member = Member::with_prekey(1, 77);
    let epoch = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let new = fresh(&plan(7, Hash::ZERO), &[], &mut rng(1)).unwrap();
    let shown = format!("{:?} {:?} {:?} {new:?}", member.secret, epoch.sender, member.open(&epoch).unwrap());
    assert_eq!(shown, "WrapSecret EpochSender EpochReceiver NewEpoch");
}
