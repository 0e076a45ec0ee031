//! Slot tables: parallel or one by one, skipped members, what a slot is bound to.

use rayon::ThreadPoolBuilder;
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::slot::{TableCheck, find_slot};
use sealcast_proto::{Hash, MemberIndex, SlotSource, TopicId};

use super::{Member, Started, plan, publisher, rng, small_order_keys, targets};
use crate::epoch::{EpochError, EpochPlan, fresh};
use crate::receiver::{EpochReceiver, SlotError};
use crate::wrap::{WrapSecret, WrapTarget};

/// Indexes with holes; every third member still has its static key only.
fn members(count: u32) -> Vec<Member> {
    let member = |i: u32| match i % 3 {
        0 => Member::with_static_key(i * 2),
        _ => Member::with_prekey(i * 2, 1000 + i),
    };
    (0..count).map(member).collect()
}

#[test]
fn a_table_made_in_parallel_is_each_members_own_slots() {
    for count in [1, 2, 1000] {
        let members = members(count);
        let table_with = |threads| {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Started::fresh(7, Hash::ZERO, &members))
        };
        let (mut started, single) = (table_with(4), table_with(1));
        assert_eq!(started.table, single.table, "threads must not show");
        assert_eq!(started.table.len(), count as usize * SLOT_BYTES);
        assert_eq!(started.header.slot_count, count);
        let mut check = TableCheck::new(count, started.header.slots_hash);
        assert_eq!(check.feed(&started.table), Ok(Some(MemberIndex(0))));
        assert_eq!(check.finish(), Ok(()));

        let record = started.seal(&[b"to all"]);
        for member in &members {
            let mut receiver = member.open(&started).unwrap();
            assert_eq!(receiver.source(), member.source);
            assert_eq!(receiver.open(&started.verify(&record)).unwrap(), [b"to all".as_slice()]);
        }
    }
}

#[test]
fn members_with_keys_of_small_order_are_skipped_and_reported() {
    let mut members = members(200);
    let bad = small_order_keys();
    let mut targets = targets(&members);
    let positions: Vec<usize> = (0..bad.len()).map(|i| i * 13).collect();
    positions.iter().zip(&bad).for_each(|(at, key)| targets[*at].x25519 = (*key).into());

    let new = fresh(&plan(7, Hash::ZERO), &targets, &mut rng(7)).unwrap();
    let expected: Vec<MemberIndex> = positions.iter().map(|at| targets[*at].member).collect();
    assert_eq!(new.skipped(), expected);
    assert_eq!(new.slot_count() as usize, 200 - bad.len());
    let started = Started::finish(new);
    assert_eq!(started.table.len(), (200 - bad.len()) * SLOT_BYTES);
    let mut check = TableCheck::new(started.header.slot_count, started.header.slots_hash);
    check.feed(&started.table).unwrap();
    check.finish().unwrap();
    for (at, member) in members.drain(..).enumerate() {
        if positions.contains(&at) {
            assert_eq!(started.slot(&member), None);
        } else {
            member.open(&started).unwrap();
        }
    }
}

#[test]
fn without_any_dh_slot_enc_is_zeros() {
    let none = Started::fresh(7, Hash::ZERO, &[]);
    assert_eq!((none.header.enc, none.header.slot_count, none.table.len()), ([0; 32], 0, 0));

    let bad = WrapTarget { x25519: [0; 32].into(), ..Member::with_static_key(1).target() };
    let new = fresh(&plan(7, Hash::ZERO), &[bad], &mut rng(7)).unwrap();
    assert_eq!(new.skipped(), [MemberIndex(1)]);
    let started = Started::finish(new);
    assert_eq!((started.header.enc, started.header.slot_count, started.table.len()), ([0; 32], 0, 0));
    // And the members that derive it agree on that.
    let next = EpochPlan { prev_header_hash: started.hash, ..plan(8, Hash::ZERO) };
    assert!(crate::epoch::advance(&next, &started.sender.advance_from(), &[], &mut rng(8)).is_ok());
}

#[test]
fn a_header_with_enc_of_small_order_is_refused_by_members() {
    let member = Member::with_prekey(1, 77);
    let mut started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    for key in small_order_keys() {
        started.header.enc = key;
        assert_eq!(member.open(&started).unwrap_err(), SlotError::BadSlot);
    }
}

#[test]
fn a_flipped_slot_is_a_bad_slot_and_erases_nothing() {
    let member = Member::with_prekey(3, 77);
    let started = Started::fresh(7, Hash::ZERO, &[Member::with_static_key(0), Member::with_prekey(3, 77)]);
    let slot = started.slot(&member).unwrap();
    let open = |slot| {
        let me = member.public();
        EpochReceiver::open_slot(&started.header, &started.hash, &slot, &me, &member.secret).map(drop)
    };
    for bit in 0..48 * 8 {
        let mut flipped = slot;
        flipped.ct[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(open(flipped), Err(SlotError::BadSlot), "bit {bit}");
    }
    assert_eq!(open(slot), Ok(()), "the key is still there");
}

#[test]
fn a_slot_is_bound_to_member_source_and_identity() {
    let (member, other) = (Member::with_prekey(3, 77), Member::with_prekey(4, 78));
    let started = Started::fresh(7, Hash::ZERO, &[Member::with_prekey(3, 77), Member::with_prekey(4, 78)]);
    let slot = started.slot(&member).unwrap();
    let open = |slot: &_, identity: &Member, secret: &WrapSecret| {
        EpochReceiver::open_slot(&started.header, &started.hash, slot, &identity.public(), secret).map(drop)
    };
    assert_eq!(open(&slot, &member, &member.secret), Ok(()));

    let mut moved = slot;
    moved.member = other.index;
    assert_eq!(open(&moved, &member, &member.secret), Err(SlotError::BadSlot));
    let mut moved = slot;
    moved.source = SlotSource::Static;
    assert_eq!(open(&moved, &member, &member.secret), Err(SlotError::BadSlot));
    assert_eq!(open(&slot, &other, &member.secret), Err(SlotError::BadSlot));
    assert_eq!(open(&slot, &member, &other.secret), Err(SlotError::BadSlot));
    assert_eq!(open(&started.slot(&other).unwrap(), &member, &member.secret), Err(SlotError::BadSlot));
}

/// Every field of the context, one at a time. (The commitment and what follows it are not in the context.)
#[test]
fn a_slot_is_bound_to_its_epochs_context() {
    let member = Member::with_prekey(3, 77);
    let started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let slot = started.slot(&member).unwrap();
    let changes: [fn(&mut sealcast_proto::object::EpochHeader); 9] = [
        |header| header.topic = TopicId([1; 32]),
        |header| header.publisher = Member::with_static_key(9).public(),
        |header| header.epoch.0 += 1,
        |header| header.prev_header_hash = Hash([1; 32]),
        |header| header.roster_seq.0 += 1,
        |header| header.roster_hash = Hash([1; 32]),
        |header| header.mode = sealcast_proto::object::Mode::Advance,
        |header| header.kek_gen += 1,
        |header| header.enc = Member::with_static_key(9).secret.public(),
    ];
    for (at, change) in changes.iter().enumerate() {
        let mut header = started.header.clone();
        change(&mut header);
        let opened =
            EpochReceiver::open_slot(&header, &started.hash, &slot, &member.public(), &member.secret);
        assert_eq!(opened.unwrap_err(), SlotError::BadSlot, "change {at}");
    }
}

#[test]
fn unsound_targets_are_refused() {
    let (one, two) = (Member::with_static_key(1).target(), Member::with_static_key(2).target());
    let start = |targets: &[WrapTarget]| fresh(&plan(7, Hash::ZERO), targets, &mut rng(7)).map(drop);
    assert_eq!(start(&[two.clone(), one.clone()]), Err(EpochError::Order));
    assert_eq!(start(&[one.clone(), one.clone()]), Err(EpochError::Order));
    for source in [SlotSource::Kek, SlotSource::Prekey(0), SlotSource::Prekey(u32::MAX)] {
        assert_eq!(start(&[one.clone(), WrapTarget { source, ..two.clone() }]), Err(EpochError::Source));
    }
    assert_eq!(start(&[one, two]), Ok(()));
}

#[test]
fn two_fresh_epochs_share_nothing() {
    let member = Member::with_static_key(0);
    let started = |seed| {
        let new = fresh(&plan(7, Hash::ZERO), &[member.target()], &mut rng(seed)).unwrap();
        (new.table(), new.finish(None, 5, &publisher()).1)
    };
    let ((table, sender), (other_table, other)) = (started(1), started(2));
    assert_ne!(find_slot(&table, MemberIndex(0)), find_slot(&other_table, MemberIndex(0)));
    assert_ne!(sender.header().enc, other.header().enc);
    assert_ne!(sender.header().commitment, other.header().commitment);
    assert_ne!(sender.header().epoch_vk, other.header().epoch_vk);
}

/// A member registers a key that agrees with everybody on the same secrets as another member's: its point plus one of small
/// order, which X25519's clamping loses. Its slot is bound to the key as registered, and the other's secret opens it under
/// neither name.
#[test]
fn a_key_related_to_anothers_is_another_key() {
    use curve25519_dalek::MontgomeryPoint;
    use curve25519_dalek::constants::EIGHT_TORSION;
    let (member, other) = (Member::with_prekey(3, 77), Member::with_prekey(4, 78));
    let point = MontgomeryPoint(member.secret.public()).to_edwards(0).unwrap();
    let ephemeral = WrapSecret::generate(&mut rng(5));
    let agreed = |key: &[u8; 32]| *ephemeral.agree(key).unwrap().as_bytes();
    for torsion in &EIGHT_TORSION[1..] {
        let x25519 = (point + torsion).to_montgomery().to_bytes();
        assert_ne!(x25519, member.secret.public());
        assert_eq!(agreed(&x25519), agreed(&member.secret.public()), "they are related");
        let targets = [member.target(), WrapTarget { x25519: x25519.into(), ..other.target() }];
        let started = Started::finish(fresh(&plan(7, Hash::ZERO), &targets, &mut rng(7)).unwrap());
        assert!(member.open(&started).is_ok());
        let slot = started.slot(&other).unwrap();
        for named in [&member, &other] {
            let me = named.public();
            let opened = EpochReceiver::open_slot(&started.header, &started.hash, &slot, &me, &member.secret);
            assert_eq!(opened.unwrap_err(), SlotError::BadSlot);
        }
    }
}
