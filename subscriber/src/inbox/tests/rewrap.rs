//! Epochs under the KEK: followed, fetched, closed to who was removed.

use sealcast_envelope::PrekeyRing;
use sealcast_proto::frame::{From as Begin, Reply};
use sealcast_proto::roster::Role;

use super::client::*;
use super::prekeys::{client, rotate};
use super::world::*;
use crate::inbox::Input;

const HOUR: u64 = 3600 * 1000;

/// A topic of 2 and 3 with a fresh epoch, and 3's removal by a rewrap; then another, with 4 among them.
fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["for all"]);
    world.remove(3);
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["for two"]);
    world.add(4, Role::Reader);
    pen.advance(&mut world, &[4]);
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["for two and four"]);
    (world, pen)
}

#[test]
fn members_follow_a_removal_without_asking_for_anything() {
    let (world, _) = world();
    let mut stays = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(stays.connect(&world).said(), ["for all", "for two", "for two and four"]);
    assert_eq!(stays.fetches, 0);
    let mut new = Client::new(&world, 4, Begin::Earliest);
    assert_eq!(new.connect(&world).said(), ["Locked 0..2", "for two and four"]);
    assert_eq!(new.fetches, 0);
}

/// G4, with the whole log and everybody's slots, as in the fresh mode.
#[test]
fn who_was_removed_opens_no_rewrap() {
    let (world, _) = world();
    for at in 0..world.log.len() {
        let Stored::Epoch { table, .. } = &world.log[at] else { continue };
        for slot in table.chunks_exact(56).map(sealcast_proto::slot::Slot::decode) {
            let mut gone = Client::new(&world, 3, Begin::Earliest);
            let mut replies = world.serve(&gone.subscribe(), &key(3));
            for (nth, reply) in replies.iter_mut().enumerate() {
                match reply {
                    Reply::Roster(delivery) => delivery.ops = None,
                    // The first epoch is its own: it holds a KEK to try.
                    Reply::Epoch(delivery) if nth > 2 => delivery.slot = slot,
                    _ => {}
                }
            }
            gone.answer_fetches = false;
            let said = gone.feed(&world, replies).said();
            assert!(said.iter().all(|said| said == "for all" || said.starts_with("Locked")), "{said:?}");
        }
    }
}

#[test]
fn a_start_after_rewraps_fetches_from_its_dh_slot() {
    let (mut world, mut pen) = world();
    let mut late = Client::new(&world, 2, Begin::Latest);
    late.connect(&world);
    assert_eq!(late.fetches, 0, "only when there is something to open");
    let from = world.log.len();
    pen.publish(&mut world, &["now"]);
    assert_eq!(late.deliver(&world, from).said(), ["now"]);
    assert_eq!(late.fetches, 1);
    // From there on it holds the KEK.
    let from = world.log.len();
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["later"]);
    assert_eq!(late.deliver(&world, from).said(), ["later"]);
    assert_eq!(late.fetches, 1);
}

#[test]
fn a_restart_goes_on_with_the_kek_it_saved() {
    let (mut world, mut pen) = world();
    let mut reader = Client::new(&world, 2, Begin::Earliest);
    reader.connect(&world).said();
    let mut again = Client::with(&world, 2, Begin::Latest, reader.saved(), false);
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["later"]);
    assert_eq!(again.connect(&world).said(), ["later"]);
    assert_eq!(again.fetches, 0);
}

#[test]
fn a_reader_that_was_kept_from_an_epoch_says_so_and_recovers() {
    let (mut world, mut pen) = world();
    let mut reader = Client::new(&world, 2, Begin::Earliest);
    reader.connect(&world).said();
    pen.rewrap(&mut world, &[]);
    let from = world.log.len();
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["after"]);
    let said = reader.deliver(&world, from).said();
    assert_eq!(said.last().map(String::as_str), Some("after"), "{said:?}");
    assert!(said[0].starts_with("Gap"), "{said:?}");
    assert_eq!(reader.fetches, 1);
}

/// Another process of ours made the prekey of an epoch in which nothing was said; the next ones go on from there.
#[test]
fn keys_that_follow_from_an_unknown_prekey_are_opened_once_it_was_looked_up() {
    for rewraps in [true, false] {
        let mut world = World::new(&[2]);
        let mut ring = PrekeyRing::new();
        rotate(&mut ring, &mut world, true);
        let mut reader = client(&world, &PrekeyRing::new());
        reader.ring = ring.encode().to_vec();
        let mut pen = Pen::new(OWNER);
        pen.begin(&mut world);
        if rewraps {
            pen.rewrap(&mut world, &[]);
        } else {
            world.add(3, Role::Reader);
            pen.advance(&mut world, &[3]);
        }
        pen.publish(&mut world, &["a"]);
        assert_eq!(reader.connect(&world).said(), ["a"], "rewraps: {rewraps}");
    }
}

/// A KEK slot that was tampered with is the broker's doing: what it is asked for opens all the same.
#[test]
fn a_damaged_kek_slot_is_fetched_again() {
    let (mut world, mut pen) = world();
    let mut reader = Client::new(&world, 2, Begin::Earliest);
    reader.connect(&world).said();
    let from = world.log.len();
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["after"]);
    let mut replies: Vec<Reply> =
        (from..world.log.len()).filter_map(|at| world.record(at, &key(2))).collect();
    let Some(Reply::Epoch(delivery)) = replies.first_mut() else { panic!("an epoch") };
    delivery.slot.as_mut().unwrap().ct[0] ^= 1;
    assert_eq!(reader.feed(&world, replies).said(), ["after"]);
    assert_eq!(reader.fetches, 1);
}

#[test]
fn a_kek_is_as_stale_as_the_key_that_seeded_it() {
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let mut reader = client(&world, &ring);
    reader.connect(&world);
    let id = rotate(&mut ring, &mut world, false);
    reader.put(&world, Input::Prekeys(PrekeyRing::decode(&ring.encode()).unwrap()));
    reader.put(&world, Input::PrekeyStored(id));
    let rewrap = |pen: &mut Pen, world: &mut World, reader: &mut Client| {
        let from = world.log.len();
        pen.rewrap(world, &[]);
        reader.deliver(world, from).said()
    };
    world.now += HOUR + 60_000;
    assert_eq!(rewrap(&mut pen, &mut world, &mut reader), [""; 0]);
    world.now += 1;
    assert_eq!(rewrap(&mut pen, &mut world, &mut reader), ["StalePrekey"]);
    // Wrapped to the new one, it is well.
    let known = ring.newest().unwrap().peek().unwrap();
    world.prekeys.insert(key(2), (known.prekey_id, known.x25519));
    assert_eq!(rewrap(&mut pen, &mut world, &mut reader), [""; 0]);
    world.now += HOUR;
    assert_eq!(rewrap(&mut pen, &mut world, &mut reader), [""; 0]);
}

/// G7: with the prekey goes the KEK it seeded.
#[test]
fn an_erased_prekey_takes_the_kek_with_it() {
    const DAY: u64 = 24 * HOUR;
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    rotate(&mut ring, &mut world, true);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["a"]);
    let mut reader = client(&world, &ring);
    assert_eq!(reader.connect(&world).said(), ["a"]);
    world.now += 22 * DAY;
    ring.purge(world.now);
    reader.ring = ring.encode().to_vec();
    reader.put(&world, Input::Prekeys(PrekeyRing::decode(&ring.encode()).unwrap()));
    let from = world.log.len();
    pen.rewrap(&mut world, &[]);
    pen.publish(&mut world, &["b"]);
    let said = reader.deliver(&world, from).said();
    assert!(said.iter().all(|said| said.starts_with("Locked")) && !said.is_empty(), "{said:?}");
}
