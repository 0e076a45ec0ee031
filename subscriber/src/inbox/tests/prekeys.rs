//! Own prekeys: stale, foreign, erased.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sealcast_envelope::PrekeyRing;
use sealcast_proto::frame::From as Begin;

use super::client::*;
use super::world::*;
use crate::cursor::Cursor;
use crate::inbox::Input;

const DAY: u64 = 24 * 3600 * 1000;
const HOUR: u64 = 3600 * 1000;

pub(super) fn rotate(ring: &mut PrekeyRing, world: &mut World, publishers_know: bool) -> u32 {
    let mut rng = StdRng::seed_from_u64(world.now);
    let signed = ring.rotate_if_due(&identity(2), 7 * DAY, 14 * DAY, world.now, true, &mut rng).unwrap();
    let prekey = signed.peek().unwrap();
    if publishers_know {
        world.prekeys.insert(key(2), (prekey.prekey_id, prekey.x25519));
    }
    prekey.prekey_id
}

pub(super) fn client(world: &World, ring: &PrekeyRing) -> Client {
    Client::with_ring(2, Begin::Earliest, Cursor::new(world.topic), false, ring.encode().to_vec())
}

#[test]
fn slots_open_with_prekeys() {
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    rotate(&mut ring, &mut world, true);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    assert_eq!(client(&world, &ring).connect(&world).said(), ["a"]);
}

#[test]
fn a_prekey_that_another_process_made_is_looked_up() {
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    rotate(&mut ring, &mut world, true);
    let mut client = client(&world, &PrekeyRing::new());
    client.ring = ring.encode().to_vec();
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    assert_eq!(client.connect(&world).said(), ["a"]);
}

#[test]
fn a_prekey_that_we_did_not_make_means_another_device() {
    let mut world = World::new(&[2]);
    let mut ours = PrekeyRing::new();
    rotate(&mut ours, &mut world, false);
    let mut theirs = PrekeyRing::new();
    world.now += 10_000;
    rotate(&mut theirs, &mut world, true);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.publish(&mut world, &["b"]);
    assert_eq!(client(&world, &ours).connect(&world).said(), ["IdentityInUse", "Locked 0.."]);
    // With an older id it is a ring that was lost.
    let mut newer = PrekeyRing::new();
    world.now += 10_000;
    rotate(&mut newer, &mut world, false);
    assert_eq!(client(&world, &newer).connect(&world).said(), ["Locked 0.."]);
}

#[test]
fn what_an_erased_prekey_opened_is_locked() {
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    rotate(&mut ring, &mut world, true);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut reader = client(&world, &ring);
    assert_eq!(reader.connect(&world).said(), ["a"]);
    let mut late = reader.restarted(&world);

    world.now += 21 * DAY;
    assert_eq!(ring.purge(world.now).len(), 1);
    let from = world.log.len();
    pen.publish(&mut world, &["b"]);
    // While it runs,
    reader.put(&world, Input::Prekeys(PrekeyRing::decode(&ring.encode()).unwrap()));
    assert_eq!(reader.deliver(&world, from).said(), ["Locked 1.."]);
    assert!(matches!(reader.saved().publishers[&key(OWNER)].keys, crate::cursor::SavedKeys::Locked));
    // when it starts with what was saved before,
    late = Client::with_ring(2, Begin::Latest, late.saved(), false, ring.encode().to_vec());
    assert_eq!(late.connect(&world).said(), ["Locked 1.."]);
    // and when it reads from the beginning.
    assert_eq!(client(&world, &ring).connect(&world).said(), ["Locked 0.."]);
}

#[test]
fn a_publisher_that_wraps_for_an_old_key_is_named_once() {
    let mut world = World::new(&[2]);
    let mut ring = PrekeyRing::new();
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let mut client = client(&world, &ring);
    client.connect(&world);
    let id = rotate(&mut ring, &mut world, false);
    client.put(&world, Input::Prekeys(PrekeyRing::decode(&ring.encode()).unwrap()));
    client.put(&world, Input::PrekeyStored(id));
    let mut begin = |world: &mut World, client: &mut Client| {
        let from = world.log.len();
        pen.begin(world);
        client.deliver(world, from).said()
    };
    world.now += HOUR + 60_000;
    assert_eq!(begin(&mut world, &mut client), [""; 0]);
    world.now += 1;
    assert_eq!(begin(&mut world, &mut client), ["StalePrekey"]);
    world.now += HOUR;
    assert_eq!(begin(&mut world, &mut client), [""; 0]);
    // It recovers, and falls back.
    let known = ring.newest().unwrap().peek().unwrap();
    world.prekeys.insert(key(2), (known.prekey_id, known.x25519));
    assert_eq!(begin(&mut world, &mut client), [""; 0]);
    world.prekeys.clear();
    world.now += 1;
    assert_eq!(begin(&mut world, &mut client), ["StalePrekey"]);
}
