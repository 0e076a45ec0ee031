//! The prekey ring: rotation, erasure, ids that rise, and its file.

use sealcast_proto::object::Prekey;
use sealcast_proto::{Identity, Signed};

use super::rng;
use crate::prekey::{MAX_PREKEYS, PrekeyRing};

const DAY: u64 = 24 * 3600 * 1000;
const ROTATION: u64 = 7 * DAY;
const OFFLINE: u64 = 14 * DAY;
const START: u64 = 1_700_000_000_123;

fn identity() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn rotate(ring: &mut PrekeyRing, now_ms: u64, force: bool) -> Option<Prekey> {
    let signed: Signed<Prekey> =
        ring.rotate_if_due(&identity(), ROTATION, OFFLINE, now_ms, force, &mut rng(now_ms))?;
    assert_eq!(ring.newest(), Some(&signed));
    Some(signed.verify_own().expect("its own signature"))
}

#[test]
fn the_first_is_made_at_once_and_the_next_when_due() {
    let mut ring = PrekeyRing::new();
    assert!(ring.newest().is_none());
    let first = rotate(&mut ring, START, false).unwrap();
    assert_eq!((first.owner, first.prekey_id), (identity().public(), 1_700_000_000));
    assert_eq!((first.not_before_ms, first.not_after_ms), (START, START + ROTATION + OFFLINE));
    assert!(first.is_valid_at(START));
    assert_eq!(ring.secret(first.prekey_id).unwrap().public(), first.x25519);

    assert!(rotate(&mut ring, START + ROTATION - 1, false).is_none());
    let second = rotate(&mut ring, START + ROTATION, false).unwrap();
    assert!(second.prekey_id > first.prekey_id);
    assert_ne!(second.x25519, first.x25519);
    // The first one's secret stays for those who still wrap to it.
    assert!(ring.secret(first.prekey_id).is_some());
}

#[test]
fn ids_rise_within_a_second_and_against_a_clock_set_back() {
    let mut ring = PrekeyRing::new();
    let mut last = 0;
    for now_ms in [START, START, START + 1, START - 5000, START - DAY / 2] {
        let made = rotate(&mut ring, now_ms, true).unwrap();
        assert!(made.prekey_id > last);
        assert_eq!(made.not_before_ms / 1000, u64::from(made.prekey_id));
        last = made.prekey_id;
    }
}

#[test]
fn ids_rise_even_when_the_ring_was_lost() {
    let before = rotate(&mut PrekeyRing::new(), START, true).unwrap();
    let mut new_ring = PrekeyRing::new();
    let after = rotate(&mut new_ring, START + 1000, false).unwrap();
    assert!(after.prekey_id > before.prekey_id);
    assert!(!new_ring.made(before.prekey_id) && new_ring.made(after.prekey_id));
}

#[test]
fn a_clock_that_was_years_ahead_does_not_stay_so() {
    let mut ring = PrekeyRing::new();
    let first = rotate(&mut ring, START, false).unwrap();
    let stray = rotate(&mut ring, START + 3650 * DAY, false).unwrap();
    let mended = rotate(&mut ring, START + 8 * DAY, false).unwrap();
    assert!(first.prekey_id < mended.prekey_id && mended.prekey_id < stray.prekey_id);
    assert!(mended.is_valid_at(START + 8 * DAY) && !stray.is_valid_at(START + 8 * DAY));
    assert!(rotate(&mut ring, START + 9 * DAY, false).is_none());
}

#[test]
fn a_secret_goes_at_not_after_and_its_id_is_remembered() {
    let mut ring = PrekeyRing::new();
    let first = rotate(&mut ring, START, false).unwrap();
    let second = rotate(&mut ring, START + ROTATION, false).unwrap();
    assert!(ring.purge(first.not_after_ms - 1).is_empty());
    assert_eq!(ring.purge(first.not_after_ms), [first.prekey_id]);
    assert!(ring.secret(first.prekey_id).is_none() && ring.made(first.prekey_id));
    assert!(ring.secret(second.prekey_id).is_some());
    assert!(ring.purge(first.not_after_ms).is_empty());
    assert_eq!(ring.purge(u64::MAX), [second.prekey_id]);
    assert!(ring.newest().is_none());
    // The next one still rises above those erased, on a clock set back too.
    let third = rotate(&mut ring, second.not_before_ms - 1000, false).unwrap();
    assert!(third.prekey_id > second.prekey_id);
    assert!(!ring.made(1));
}

#[test]
fn the_file_brings_everything_back_and_damage_is_refused() {
    let mut ring = PrekeyRing::new();
    let ids: Vec<u32> =
        (0..4).map(|i| rotate(&mut ring, START + i * ROTATION, false).unwrap().prekey_id).collect();
    ring.purge(START + ROTATION + OFFLINE);
    let saved = ring.encode();
    let back = PrekeyRing::decode(&saved).unwrap();
    assert_eq!(back.encode(), saved);
    assert_eq!(back.newest(), ring.newest());
    for id in &ids {
        assert!(back.made(*id));
        assert_eq!(
            back.secret(*id).map(|secret| secret.public()),
            ring.secret(*id).map(|secret| secret.public())
        );
    }
    assert!(back.secret(ids[0]).is_none() && back.secret(ids[1]).is_some());
    assert_eq!(PrekeyRing::decode(&PrekeyRing::new().encode()).unwrap().encode(), PrekeyRing::new().encode());

    let held_at = 1 + 4 + 4;
    let one_held = (saved.len() - held_at) / 3;
    for len in (0..saved.len()).filter(|len| *len < held_at || (len - held_at) % one_held != 0) {
        assert!(PrekeyRing::decode(&saved[..len]).is_err(), "cut at {len}");
    }
    for at in (held_at..saved.len()).chain(0..5) {
        let mut bytes = saved.clone();
        // The lowest bits of an X25519 secret's first byte and the highest of its last are clamped away: flip another.
        bytes[at] ^= 0x08;
        assert!(PrekeyRing::decode(&bytes).is_err(), "byte {at}");
    }
}

#[test]
fn the_ring_is_bounded() {
    let mut ring = PrekeyRing::new();
    let first = rotate(&mut ring, START, true).unwrap();
    for _ in 0..MAX_PREKEYS {
        rotate(&mut ring, START, true).unwrap();
    }
    assert!(ring.secret(first.prekey_id).is_none() && ring.made(first.prekey_id));
    assert!(PrekeyRing::decode(&ring.encode()).is_ok());
}

#[test]
fn impossible_times_make_no_prekey() {
    let mut ring = PrekeyRing::new();
    for (now_ms, rotation, offline) in
        [(u64::MAX, 1, 1), (u64::from(u32::MAX) * 1000, 1, 1), (START, 0, 0), (START, u64::MAX, 1)]
    {
        assert!(ring.rotate_if_due(&identity(), rotation, offline, now_ms, true, &mut rng(1)).is_none());
    }
    assert!(ring.newest().is_none());
}
