//! Rewraps: who can open them, what a refused attempt leaves, what a member does that missed epochs.

use sealcast_proto::limits::{MAX_KEK_STEPS, SLOT_BYTES};
use sealcast_proto::object::Mode;
use sealcast_proto::{Hash, SlotSource};

use super::{Member, Started, plan, rng, small_order_keys, targets};
use crate::epoch::{EpochError, NewEpoch, advance, rewrap};
use crate::kek::Keks;
use crate::receiver::{EpochReceiver, SlotError};
use crate::wrap::WrapTarget;

/// A publisher from epoch to epoch.
struct Run {
    now: Started,
    keks: Option<Keks>,
    number: u64,
}

impl Run {
    fn begin(members: &[Member]) -> Self {
        let mut now = Started::fresh(1, Hash::ZERO, members);
        let keks = now.keks.take().unwrap().accepted(None);
        Self { now, keks, number: 1 }
    }

    fn make(&mut self, targets: &[WrapTarget]) -> Result<NewEpoch, EpochError> {
        self.number += 1;
        let plan = plan(self.number, self.now.hash);
        rewrap(&plan, self.keks.as_ref().unwrap(), targets, &mut rng(self.number))
    }

    fn accept(&mut self, new: NewEpoch) {
        let mut next = Started::finish(new);
        self.keks = next.keks.take().unwrap().accepted(self.keks.take());
        self.now = next;
    }

    fn rewrap(&mut self, members: &[Member]) {
        let new = self.make(&targets(members)).unwrap();
        self.accept(new);
    }

    fn advance(&mut self, newcomers: &[Member]) {
        self.number += 1;
        let (plan, from) = (plan(self.number, self.now.hash), self.now.sender.advance_from());
        let new = advance(&plan, &from, &targets(newcomers), &mut rng(self.number)).unwrap();
        self.accept(new);
    }

    /// A header that was signed and refused.
    fn refused(&mut self, members: &[Member]) -> Started {
        let mut dead = Started::finish(self.make(&targets(members)).unwrap());
        self.keks = dead.keks.take().unwrap().refused(self.keks.take());
        dead
    }

    /// The present epoch for a member that held the one before.
    fn follow(&self, held: &EpochReceiver, member: &Member) -> Result<EpochReceiver, SlotError> {
        held.follow(&self.now.header, &self.now.hash, self.now.slot(member).as_ref())
    }

    /// Whether `receiver` reads what is sealed now.
    fn reads(&mut self, receiver: &mut EpochReceiver) -> bool {
        receiver.fast_forward(self.now.sender.next_batch_no()).unwrap();
        let record = self.now.seal(&[b"now"]);
        receiver.open(&self.now.verify(&record)).is_ok_and(|messages| messages[0] == b"now".as_slice())
    }
}

fn three() -> [Member; 3] {
    [Member::with_static_key(0), Member::with_prekey(1, 77), Member::with_prekey(4, 78)]
}

#[test]
fn members_follow_rewraps_and_advances_without_a_dh() {
    let members = three();
    let mut run = Run::begin(&members);
    let mut held: Vec<EpochReceiver> = members.iter().map(|member| member.open(&run.now).unwrap()).collect();
    for step in 0..20 {
        if step % 3 == 2 {
            run.advance(&[]);
        } else {
            run.rewrap(&members);
            assert_eq!((run.now.header.mode, run.now.header.enc), (Mode::Rewrap, [0; 32]));
            assert_eq!(run.now.table.len(), 3 * SLOT_BYTES);
        }
        for (receiver, member) in held.iter_mut().zip(&members) {
            *receiver = run.follow(receiver, member).unwrap();
            // A prekey that goes takes with it what it seeded, however long ago.
            assert_eq!(receiver.source(), member.source);
            *receiver = EpochReceiver::restore(&receiver.snapshot()).unwrap();
            assert!(run.reads(receiver), "step {step}");
        }
    }
}

#[test]
fn newcomers_and_new_prekeys_get_dh_slots_and_follow_from_there() {
    let mut members = Vec::from(three());
    let mut run = Run::begin(&members);
    run.rewrap(&members);
    // By an advance, at the generation of the others.
    members.push(Member::with_prekey(6, 80));
    run.advance(&members[3..]);
    let mut by_advance = members[3].open(&run.now).unwrap();
    // By a rewrap: another newcomer, between two that are there; and a member with a new prekey.
    members.insert(2, Member::with_static_key(3));
    let renewed = Member { source: SlotSource::Prekey(99), ..Member::with_prekey(1, 99) };
    members[1] = renewed;
    run.rewrap(&members);
    assert_ne!(run.now.header.enc, [0; 32]);
    let sources = members.iter().map(|member| run.now.slot(member).unwrap().source);
    let kek = SlotSource::Kek;
    let expected = [kek, SlotSource::Prekey(99), SlotSource::Static, kek, kek];
    assert_eq!(sources.collect::<Vec<_>>(), expected);
    by_advance = run.follow(&by_advance, &members[4]).unwrap();
    let (mut by_rewrap, mut renewed) =
        (members[2].open(&run.now).unwrap(), members[1].open(&run.now).unwrap());
    for _ in 0..3 {
        run.rewrap(&members);
        assert_eq!(run.now.header.enc, [0; 32]);
        by_advance = run.follow(&by_advance, &members[4]).unwrap();
        by_rewrap = run.follow(&by_rewrap, &members[2]).unwrap();
        renewed = run.follow(&renewed, &members[1]).unwrap();
        assert!(run.reads(&mut by_advance) && run.reads(&mut by_rewrap) && run.reads(&mut renewed));
    }
}

/// G4. With everything they held, alone and together: each has its own KEK and the seed, and neither leads to others'.
#[test]
fn removed_members_cannot_open_a_rewrap() {
    let members = three();
    let mut run = Run::begin(&members);
    let held: Vec<EpochReceiver> = members.iter().map(|member| member.open(&run.now).unwrap()).collect();
    let old_slots: Vec<_> = members.iter().map(|member| run.now.slot(member).unwrap()).collect();
    run.rewrap(&members[..1]);
    assert!(members[1..].iter().all(|gone| run.now.slot(gone).is_none()));
    let stays = run.now.slot(&members[0]).unwrap();
    for (gone, (held, old)) in members.iter().zip(held.iter().zip(&old_slots)).skip(1) {
        // The slot of the one that stays, as it is and as if it were its own; its own old one.
        let own = sealcast_proto::slot::Slot { member: gone.index, ..stays };
        for slot in [stays, own, sealcast_proto::slot::Slot { source: SlotSource::Kek, ..*old }] {
            let opened = held.rewrap(&run.now.header, &run.now.hash, &slot);
            assert_eq!(opened.unwrap_err(), SlotError::BadSlot);
        }
        let mut forged = run.now.header.clone();
        forged.mode = Mode::Advance;
        assert_eq!(held.advance(&forged, &run.now.hash).unwrap_err(), SlotError::BadEpochSeed);
    }
    assert!(run.reads(&mut run.follow(&held[0], &members[0]).unwrap()));
    // Nor is the KEK of a removed member used again when it comes back.
    run.rewrap(&members[..2]);
    assert_eq!(run.now.slot(&members[1]).unwrap().source, members[1].source);
    let again = held[1].rewrap(&run.now.header, &run.now.hash, &run.now.slot(&members[1]).unwrap());
    assert_eq!(again.unwrap_err(), SlotError::NotSuccessor);
}

/// At once, whatever becomes of the next epoch: a slot for the same key of the same member is made by DH.
#[test]
fn the_kek_of_a_removed_member_is_forgotten() {
    let members = three();
    let mut run = Run::begin(&members);
    run.keks.as_mut().unwrap().forget(members[1].index);
    run.rewrap(&members);
    let sources = members.iter().map(|member| run.now.slot(member).unwrap().source);
    assert_eq!(sources.collect::<Vec<_>>(), [SlotSource::Kek, members[1].source, SlotSource::Kek]);
}

/// The KEKs after an epoch do not open that epoch: theft of a member's state tells nothing of what it rewrapped.
#[test]
fn a_stepped_kek_does_not_open_the_epoch_it_was_stepped_in() {
    let members = three();
    let mut run = Run::begin(&members);
    let before = members[0].open(&run.now).unwrap();
    run.rewrap(&members);
    let after = run.follow(&before, &members[0]).unwrap();
    let slot = run.now.slot(&members[0]).unwrap();
    let mut header = run.now.header.clone();
    // Whatever it is told of generations and predecessors.
    for kek_gen in [0, 1, 2] {
        (header.kek_gen, header.prev_header_hash) = (kek_gen, run.now.hash);
        header.epoch.0 += 1;
        assert!(after.rewrap(&header, &run.now.hash, &slot).is_err());
    }
}

#[test]
fn a_refused_rewrap_steps_the_keks_and_its_dh_slots_come_again() {
    let mut members = Vec::from(three());
    let mut run = Run::begin(&members);
    let held: Vec<EpochReceiver> = members.iter().map(|member| member.open(&run.now).unwrap()).collect();
    members.push(Member::with_prekey(6, 80));
    for generation in 0..3 {
        let dead = run.refused(&members);
        assert_eq!(dead.header.kek_gen, generation);
        assert_eq!(dead.slot(&members[3]).unwrap().source, members[3].source, "a DH slot each time");
    }
    run.rewrap(&members);
    assert_eq!(run.now.header.kek_gen, 3);
    assert_eq!(run.now.slot(&members[3]).unwrap().source, members[3].source);
    for (receiver, member) in held.iter().zip(&members) {
        let mut receiver = run.follow(receiver, member).unwrap();
        assert!(run.reads(&mut receiver));
    }
    assert!(run.reads(&mut members[3].open(&run.now).unwrap()));
}

#[test]
fn a_refused_advance_leaves_the_keks_as_they_were() {
    let mut members = Vec::from(three());
    let mut run = Run::begin(&members);
    let held = members[0].open(&run.now).unwrap();
    members.push(Member::with_prekey(6, 80));
    let (plan, from) = (plan(2, run.now.hash), run.now.sender.advance_from());
    let mut dead = Started::finish(advance(&plan, &from, &targets(&members[3..]), &mut rng(2)).unwrap());
    run.keks = dead.keks.take().unwrap().refused(run.keks.take());
    run.number = 2;
    run.rewrap(&members);
    assert_eq!((run.now.header.kek_gen, run.now.slot(&members[3]).unwrap().source), (0, members[3].source));
    assert!(run.reads(&mut run.follow(&held, &members[0]).unwrap()));
    assert!(run.reads(&mut members[3].open(&run.now).unwrap()));
}

#[test]
fn a_member_that_missed_an_epoch_goes_through_its_dh_slot() {
    let members = three();
    let mut run = Run::begin(&members);
    let first = Started { keks: None, ..Started::fresh(1, Hash::ZERO, &members) };
    assert_eq!(first.hash, run.now.hash, "the same script, the same epoch");
    let mut chain = Vec::new();
    for _ in 0..3 {
        run.rewrap(&members);
        chain.push((run.now.header.clone(), run.now.hash, run.now.slot(&members[1]).unwrap()));
    }
    let held = members[1].open(&first).unwrap();
    let (header, hash, slot) = &chain[2];
    assert_eq!(held.rewrap(header, hash, slot).unwrap_err(), SlotError::NotSuccessor);
    let caught_up =
        chain.iter().fold(held, |held, (header, hash, slot)| held.rewrap(header, hash, slot).unwrap());
    assert!(run.reads(&mut { caught_up }));
}

#[test]
fn a_rewrap_that_lies_is_refused_by_name_and_takes_nothing() {
    let members = three();
    let mut run = Run::begin(&members);
    let held = members[1].open(&run.now).unwrap();
    run.rewrap(&members);
    let (header, hash) = (&run.now.header, &run.now.hash);
    let slot = run.now.slot(&members[1]).unwrap();
    let changed = |change: fn(&mut sealcast_proto::object::EpochHeader)| {
        let mut header = header.clone();
        change(&mut header);
        held.rewrap(&header, hash, &slot).unwrap_err()
    };
    assert_eq!(changed(|header| header.commitment[3] ^= 1), SlotError::BadEpochSeed);
    assert_eq!(changed(|header| header.mode = Mode::Fresh), SlotError::NotSuccessor);
    assert_eq!(changed(|header| header.epoch.0 = 1), SlotError::NotSuccessor);
    assert_eq!(changed(|header| header.kek_gen = MAX_KEK_STEPS + 1), SlotError::NotSuccessor);
    assert_eq!(changed(|header| header.kek_gen = 1), SlotError::BadSlot);
    assert_eq!(changed(|header| header.roster_seq.0 += 1), SlotError::BadSlot);
    assert_eq!(changed(|header| header.enc = [7; 32]), SlotError::BadSlot);
    for bit in 0..48 * 8 {
        let mut flipped = slot;
        flipped.ct[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(held.rewrap(header, hash, &flipped).unwrap_err(), SlotError::BadSlot);
    }
    // A DH slot is not opened with the KEK, nor the other way round.
    let dh = sealcast_proto::slot::Slot { source: members[1].source, ..slot };
    assert_eq!(held.rewrap(header, hash, &dh).unwrap_err(), SlotError::NotSuccessor);
    let me = members[1].public();
    let as_dh = |slot| EpochReceiver::open_slot(header, hash, slot, &me, &members[1].secret).map(drop);
    assert_eq!(as_dh(&slot), Err(SlotError::NeedsKek));
    assert_eq!(as_dh(&dh), Err(SlotError::BadSlot));
    held.rewrap(header, hash, &slot).unwrap();
}

#[test]
fn generations_are_limited_on_both_sides() {
    let member = [Member::with_prekey(1, 77)];
    let mut run = Run::begin(&member);
    let held = member[0].open(&run.now).unwrap();
    while run.keks.as_ref().unwrap().generation() < MAX_KEK_STEPS - 1 {
        run.refused(&member);
    }
    run.rewrap(&member);
    let held = run.follow(&held, &member[0]).unwrap();
    assert!(matches!(run.make(&targets(&member)), Err(EpochError::TooManySteps)));
    assert!(EpochReceiver::restore(&held.snapshot()).is_ok());
}

#[test]
fn keys_of_small_order_are_skipped_among_kek_slots() {
    let members = three();
    let mut run = Run::begin(&members);
    let held = members[0].open(&run.now).unwrap();
    for key in small_order_keys() {
        let mut wanted = targets(&members);
        let (member, source) = (sealcast_proto::MemberIndex(2), SlotSource::Prekey(5));
        wanted.insert(2, WrapTarget { member, source, x25519: key.into(), ..wanted[0].clone() });
        // The only one that needs `enc`, so there is none; and beside one that needs it.
        let new = run.make(&wanted).unwrap();
        assert_eq!((new.skipped(), new.slot_count()), ([member].as_slice(), 3));
        let started = Started::finish(new);
        assert_eq!(started.header.enc, [0; 32]);
        wanted[1].source = SlotSource::Prekey(1234);
        let new = run.make(&wanted).unwrap();
        assert_eq!((new.skipped(), new.slot_count()), ([member].as_slice(), 3));
        let started = Started::finish(new);
        assert_ne!(started.header.enc, [0; 32]);
        let slot = started.slot(&members[0]).unwrap();
        held.rewrap(&started.header, &started.hash, &slot).unwrap();
    }
}

#[test]
fn a_table_made_in_parallel_is_the_same() {
    let members: Vec<Member> = (0..500).map(|i| Member::with_prekey(i * 3, 1000 + i)).collect();
    let table = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut run = Run::begin(&members);
            // Every seventh left, every fifth has another prekey: holes and both kinds of slots in each chunk.
            let left = members.iter().enumerate().filter(|(at, _)| at % 7 != 0);
            let mut wanted: Vec<WrapTarget> = left.map(|(_, member)| member.target()).collect();
            wanted.iter_mut().step_by(5).for_each(|target| target.source = SlotSource::Prekey(9999));
            let new = run.make(&wanted).unwrap();
            (new.table(), new.slots_hash(), new.slot_count())
        })
    };
    let one = table(1);
    assert_eq!(one, table(4));
    assert_eq!(one.2, 428);
}
