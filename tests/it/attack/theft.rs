//! A state directory in a thief's hands.

use std::sync::Arc;
use std::time::Duration;

use sealcast::{Role, StartAt, State, renew_prekey};
use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret};
use sealcast_proto::frame::{EpochDelivery, Reply};
use sealcast_proto::object::EpochHeader;
use sealcast_proto::policy::Policy;
use sealcast_proto::record::BatchRecord;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Hash, SlotSource};

use super::pen::Pen;
use super::real::{Real, copy, files, noted, opened};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

const DAY: u64 = 24 * 3_600_000;

/// Whether a thief with these prekeys, and with the identity's fixed key or not, opens what was delivered.
fn opens(delivery: &EpochDelivery, ring: &PrekeyRing, fixed: Option<&WrapSecret>) -> bool {
    let (header, hash) = (delivery.header.peek().unwrap(), delivery.header.hash());
    let Some(slot) = &delivery.slot else { return false };
    let prekey = match slot.source {
        SlotSource::Prekey(id) => ring.secret(id),
        _ => None,
    };
    [prekey, fixed]
        .into_iter()
        .flatten()
        .any(|secret| EpochReceiver::open_slot(&header, &hash, slot, &key(2), secret).is_ok())
}

/// A member's directory and identity are stolen after nine weeks. What was sealed for prekeys that are erased stays shut;
/// what was sealed for those still held, three weeks' worth, and for the fixed key before the first prekey, opens: so the
/// README says.
#[test]
fn a_stolen_state_opens_nothing_sealed_before_its_last_erased_prekey() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy::default();
    let (rotation, offline) = (policy.prekey_rotation_ms, policy.max_offline_ms);
    let mut world = World::new(&[2]);
    let start = world.now;
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let prekeys = State::dir(dir.path().join("state")).unwrap().prekeys(&key(2));
    for day in 0..63 {
        world.now = start + day * DAY;
        let newest = prekeys
            .update(|ring| {
                ring.rotate_if_due(&identity(2), rotation, offline, world.now, false, &mut rand::rng());
                ring.purge(world.now);
                (ring.newest().unwrap().peek().unwrap(), true)
            })
            .unwrap();
        world.prekeys.insert(key(2), (newest.prekey_id, newest.x25519));
        pen.begin(&mut world);
    }
    copy(&dir.path().join("state"), &dir.path().join("stolen"));
    let stolen = State::dir(dir.path().join("stolen")).unwrap().prekeys(&key(2));
    let fixed = WrapSecret::of_identity(&identity(2));
    let opened: Vec<bool> = stolen
        .update(|ring| {
            let epochs = (1..world.log.len()).map(|at| match world.record(at, &key(2)) {
                Some(Reply::Epoch(delivery)) => opens(&delivery, ring, Some(&fixed)),
                _ => panic!("an epoch a day"),
            });
            (epochs.collect(), false)
        })
        .unwrap();
    assert_eq!(opened.len(), 64);
    assert!(opened[0], "sealed for the fixed key, before the first prekey was seen");
    let window = (rotation + offline) / DAY;
    let first = opened[1..].iter().position(|open| *open).unwrap();
    assert!(opened[1 + first..].iter().all(|open| *open), "{opened:?}");
    assert!(first as u64 >= 62 - window, "sealed on day {first}, stolen on day 62");
    assert!(first as u64 <= 62 - offline / DAY, "the test would see more");
}

/// Prekeys are stolen, the identity is not. A new prekey and a new epoch, and the thief reads nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_prekey_and_a_fresh_epoch_lock_the_thief_out() {
    let mut real = Real::new(&[(2, Role::Reader)]).await;
    let seen = noted(&real);
    let me = Arc::new(identity(2));
    renew_prekey(&real.link(), me.clone(), &real.state("reader")).await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Latest).await;
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    topic.publish("before").await.unwrap();
    assert_eq!(until(&mut reader, "before").await, [""; 0]);
    reader.commit().await.unwrap();
    real.copy_state("reader", "stolen");

    renew_prekey(&real.link(), me, &real.state("reader")).await.unwrap();
    let soon = Duration::from_secs(30);
    let confirmed = real.admin.rotate(soon).await.unwrap();
    assert_eq!(confirmed.unheard, []);
    topic.publish("after").await.unwrap();
    assert_eq!(until(&mut reader, "after").await, [""; 0]);

    let seen = seen.lock().unwrap();
    let (before, after) = (seen.first().unwrap(), seen.last().unwrap());
    let stolen = real.state("stolen").prekeys(&key(2));
    let (could, can) =
        stolen.update(|ring| ((opens(before, ring, None), opens(after, ring, None)), false)).unwrap();
    assert!(could, "the theft was one");
    assert!(!can, "and it is over");
}

/// A publisher's directory holds no key of what it sealed or will seal: only its own prekeys, as any member's. The same
/// search finds the keys that a subscriber's directory holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_state_holds_no_epochs_keys() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let seen = noted(&real);
    let topic = real.publisher(OWNER, "publisher").await.unwrap();
    topic.publish("a").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    for text in ["b", "c"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    reader.commit().await.unwrap();
    topic.close().await.unwrap();
    let mut receiver = opened(seen.lock().unwrap().first().unwrap(), 2);
    let mut secrets = vec![receiver.snapshot()[93..125].to_vec()];
    for n in 0..=4 {
        receiver.fast_forward(BatchNo(n)).unwrap();
        secrets.push(receiver.snapshot()[61..93].to_vec());
    }
    let holds = |dir: &str| -> Vec<bool> {
        let files = files(&real.dir.path().join(dir));
        assert!(files.iter().any(|(_, content)| !content.is_empty()));
        let is_in =
            |secret: &Vec<u8>| files.iter().any(|(_, file)| file.windows(32).any(|part| part == secret));
        secrets.iter().map(is_in).collect()
    };
    assert_eq!(holds("publisher"), [false; 6]);
    // The secret of an advance, and the key of the batch that comes next: three were read.
    assert_eq!(holds("reader"), [true, false, false, false, true, false]);
}

/// What a cursor's thief opens of a topic's whole log, with everybody's slots: what is saved holds the keys of the next
/// batch, of an advance, and the KEK. Whatever it says of where it stands is the thief's to write.
struct Thief {
    /// Epochs' keys, as [`EpochReceiver::snapshot`] lays them out.
    held: Vec<Vec<u8>>,
}

impl Thief {
    const SNAPSHOT: usize = 157;

    /// With what the files of a stolen directory hold.
    fn of(stolen: &std::path::Path, world: &World) -> Self {
        let hashes: Vec<_> = world
            .log
            .iter()
            .filter_map(|it| if let Stored::Epoch { header, .. } = it { Some(header.hash()) } else { None })
            .collect();
        let held: Vec<Vec<u8>> = files(stolen)
            .iter()
            .flat_map(|(_, content)| content.windows(Self::SNAPSHOT))
            .filter(|bytes| {
                EpochReceiver::restore(bytes).is_ok_and(|held| hashes.contains(&held.header_hash()))
            })
            .map(<[u8]>::to_vec)
            .collect();
        assert_eq!(held.len(), 1, "one epoch's keys are saved");
        Self { held }
    }

    /// Which batches of the log it opens, in order.
    fn opens(mut self, world: &World) -> Vec<bool> {
        let mut newest = None;
        let mut opened = Vec::new();
        for stored in &world.log {
            match stored {
                Stored::Epoch { header, table } => {
                    let (parsed, hash) = (header.peek().unwrap(), header.hash());
                    self.follow(&parsed, &hash, table);
                    newest = Some((parsed, hash));
                }
                Stored::Batch { batch, .. } => {
                    let (header, hash) = newest.as_ref().unwrap();
                    opened.push(self.open(header, hash, batch));
                }
                _ => {}
            }
        }
        opened
    }

    /// Everything it can make of a header: derived from, or opened with, any keys that it holds.
    fn follow(&mut self, header: &EpochHeader, hash: &Hash, table: &[u8]) {
        let slots: Vec<Slot> = table.chunks_exact(56).filter_map(Slot::decode).collect();
        let mut more = Vec::new();
        for held in &self.held {
            for kek_gen in 0..=header.kek_gen {
                let mut bytes = held.clone();
                bytes[1..33].copy_from_slice(header.prev_header_hash.as_bytes());
                bytes[33..41].fill(0);
                bytes[45..49].fill(0);
                bytes[49..53].copy_from_slice(&kek_gen.to_be_bytes());
                let before = EpochReceiver::restore(&bytes).unwrap();
                more.extend(before.advance(header, hash));
                more.extend(slots.iter().filter_map(|slot| before.rewrap(header, hash, slot).ok()));
            }
        }
        self.held.extend(more.iter().map(|held| held.snapshot().to_vec()));
    }

    fn open(&self, header: &EpochHeader, hash: &Hash, batch: &BatchRecord) -> bool {
        self.held.iter().any(|held| {
            (0..4_u64).any(|at| {
                let mut bytes = held.clone();
                bytes[53..61].copy_from_slice(&at.to_be_bytes());
                let batch = batch.clone().verify(hash, &header.epoch_vk).unwrap();
                EpochReceiver::restore(&bytes).unwrap().open(&batch).is_ok()
            })
        })
    }
}

/// A reader takes everything that a world has to offer, to `last`; its directory is copied then, without its identity.
async fn stolen_after(world: World, last: &str, dir: &std::path::Path) -> World {
    let stage = Stage::new(world);
    let state = State::dir(dir.join("reader")).unwrap();
    let mut reader = stage.subscribe(2, state, StartAt::Earliest).await;
    assert!(!until(&mut reader, last).await.is_empty());
    reader.commit().await.unwrap();
    copy(&dir.join("reader"), &dir.join("stolen"));
    reader.close().await.unwrap();
    stage.world().clone()
}

/// A subscriber's cursor is stolen, without its prekeys and its identity: it opens what comes next in that epoch and what
/// is derived from it; nothing that was read before, and nothing of the next fresh epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_cursor_opens_nothing_from_before_it_and_no_fresh_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["an epoch that is over"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["read"]);
    pen.publish(&mut world, &["read too"]);
    let mut world = stolen_after(world, "read too", dir.path()).await;
    let thief = Thief::of(&dir.path().join("stolen"), &world);
    pen.publish(&mut world, &["the next"]);
    pen.advance(&mut world, &[]);
    pen.publish(&mut world, &["derived"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["fresh"]);
    assert_eq!(thief.opens(&world), [false, false, false, true, true, false]);
}

/// The cursor holds the KEK too: later slots under it open, over removals as well, until the member's slot is for a new
/// prekey or the epoch is fresh. From then on not even a KEK slot does. The KEKs of what was read are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_kek_opens_later_rewraps_until_a_new_prekey_or_a_fresh_epoch() {
    for new_prekey in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut world = World::new(&[2, 3]);
        let mut pen = Pen::new(OWNER);
        pen.begin(&mut world);
        pen.publish(&mut world, &["an epoch that is over"]);
        pen.rewrap(&mut world, &[]);
        pen.publish(&mut world, &["under the KEK, and over"]);
        pen.rewrap(&mut world, &[]);
        pen.publish(&mut world, &["read"]);
        let mut world = stolen_after(world, "read", dir.path()).await;
        let thief = Thief::of(&dir.path().join("stolen"), &world);
        pen.rewrap(&mut world, &[]);
        pen.publish(&mut world, &["under the KEK"]);
        pen.advance(&mut world, &[]);
        pen.publish(&mut world, &["derived from that"]);
        world.remove(3);
        pen.rewrap(&mut world, &[]);
        pen.publish(&mut world, &["under the KEK, stepped"]);
        if new_prekey {
            let mut ring = PrekeyRing::new();
            ring.rotate_if_due(&identity(2), DAY, DAY, world.now, true, &mut rand::rng());
            let prekey = ring.newest().unwrap().peek().unwrap();
            world.prekeys.insert(key(2), (prekey.prekey_id, prekey.x25519));
            pen.rewrap(&mut world, &[]);
        } else {
            pen.begin(&mut world);
        }
        pen.publish(&mut world, &["locked out"]);
        pen.rewrap(&mut world, &[]);
        pen.publish(&mut world, &["under the new KEK"]);
        pen.advance(&mut world, &[]);
        pen.publish(&mut world, &["and derived from that"]);
        let expected = [false, false, false, true, true, true, false, false, false];
        assert_eq!(thief.opens(&world), expected, "a new prekey: {new_prekey}");
    }
}
