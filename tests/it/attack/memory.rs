//! Keys that were used are gone from the memory of the process.
//!
//! Each search finds what is still due, so that it is known to find what is there.
#![cfg(target_os = "linux")]

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;

use rand::{TryCryptoRng, TryRng};
use sealcast::{Role, StartAt, State};
use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret, advance, fresh};
use sealcast_proto::BatchNo;
use sealcast_proto::record::BatchRecord;

use super::pen::Pen;
use super::real::{Real, noted, opened};
use super::until;
use super::world::{OWNER, Stored, World, identity, key};

/// The second half of a key, written so that the search does not find what it searches with. Into the first half of what is
/// freed an allocator writes its own: a search for the whole would find nothing that was merely freed.
#[derive(Clone, Copy, PartialEq)]
struct Masked([u8; HALF]);

const HALF: usize = 16;

const MASK: u8 = 0xa5;

impl Masked {
    /// Of a key that stands elsewhere: no copy of it is made on the way.
    fn of(key: &[u8]) -> Self {
        Self(std::array::from_fn(|at| key[HALF + at] ^ MASK))
    }

    fn is_at(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(self.0).all(|(byte, masked)| *byte ^ MASK == std::hint::black_box(masked))
    }
}

/// How often each key stands in writable memory.
fn found<const N: usize>(keys: [Masked; N]) -> [usize; N] {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = BufReader::new(File::open("/proc/self/maps").unwrap());
    // One buffer, wiped: what was found in it is not found again.
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
    let mut begins = [false; 256];
    keys.iter().for_each(|key| begins[usize::from(key.0[0] ^ MASK)] = true);
    let mut count = [0; N];
    for line in maps.lines().map(Result::unwrap) {
        let mut parts = line.split(' ');
        let range = parts.next().unwrap();
        if !parts.next().unwrap().starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < to {
            let len = usize::try_from((to - at).min(buffer.len() as u64)).unwrap();
            // Not every mapping can be read.
            let Ok(read) = memory.read_at(&mut buffer[..len], at) else { break };
            if read == 0 {
                break;
            }
            for (offset, window) in buffer[..read].windows(HALF).enumerate() {
                if begins[usize::from(window[0])] && !own.contains(&(at + offset as u64)) {
                    for (key, count) in keys.iter().zip(&mut count) {
                        *count += usize::from(key.is_at(window));
                    }
                }
            }
            // A key across the border of two reads is found in the second.
            at += if read == len && len >= HALF && at + (len as u64) < to {
                (read - HALF + 1) as u64
            } else {
                read as u64
            };
        }
    }
    buffer.fill(0);
    std::hint::black_box(&buffer);
    count
}

/// The key of the batch that is due, and the secret of an advance: where a snapshot has them.
fn keys(receiver: &EpochReceiver) -> [Masked; 2] {
    let snapshot = receiver.snapshot();
    [Masked::of(&snapshot[61..93]), Masked::of(&snapshot[93..125])]
}

fn open(receiver: &mut EpochReceiver, batch: &BatchRecord, pen: &Pen) {
    let header = pen.sender().header();
    let verified = batch.clone().verify(&pen.sender().header_hash(), &header.epoch_vk).unwrap();
    assert_eq!(receiver.open(&verified).unwrap().len(), 1);
}

/// Randomness that keeps nothing of what it gave, and can say again what the nth secret was.
struct Script {
    topic: u8,
    drawn: u64,
}

impl Script {
    fn byte(topic: u8, n: u64, at: usize) -> u8 {
        let mixed = (n << 40 | (at as u64) << 8 | u64::from(topic))
            .wrapping_add(1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 32).to_le_bytes()[0]
    }

    /// The nth that was drawn.
    fn nth(&self, n: u64) -> Masked {
        Masked(std::array::from_fn(|at| Self::byte(self.topic, n, HALF + at) ^ MASK))
    }
}

impl TryRng for Script {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("keys are drawn whole")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("keys are drawn whole")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.iter_mut().enumerate().for_each(|(at, byte)| *byte = Self::byte(self.topic, self.drawn, at));
        self.drawn += 1;
        Ok(())
    }
}

impl TryCryptoRng for Script {}

/// A batch's key is in memory while it is due, and nowhere once the batch was sealed and opened: neither at its sender
/// nor at its receiver.
#[test]
fn a_used_batch_key_is_nowhere_in_memory() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let Stored::Epoch { header, table } = &world.log[1] else { panic!() };
    let (parsed, me) = (header.peek().unwrap(), key(2));
    let slot = world.slot_of(table, &me).unwrap();
    let secret = WrapSecret::of_identity(&identity(2));
    let mut receiver = EpochReceiver::open_slot(&parsed, &header.hash(), &slot, &me, &secret).unwrap();
    let [first, _] = keys(&receiver);
    assert!(found([first])[0] >= 2, "the sender's and the receiver's");
    let batch = pen.seal(&world, &["a"], false);
    assert!(found([first])[0] >= 1, "the receiver's");
    open(&mut receiver, &batch, &pen);
    let [second, _] = keys(&receiver);
    assert!(first != second);
    let [first, second] = found([first, second]);
    assert_eq!(first, 0);
    assert!(second >= 2, "the search still finds what is due");
}

/// An epoch's seed and the secret of its `enc` are gone once the slots are made, at its publisher, and once the slot was
/// opened, at a member; its signing key, and the secret of an advance, when the next epoch is there.
#[test]
fn an_epochs_seed_and_signing_key_are_nowhere_in_memory() {
    let world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    let mut script = Script { topic: 77, drawn: 0 };
    let (plan, targets) = (pen.plan(&world), world.targets(|_| true));
    // What the search would see of a seed that was kept.
    let mut kept = vec![0; 32];
    Script { topic: 77, drawn: 2 }.try_fill_bytes(&mut kept).unwrap();
    let epoch = fresh(&plan, &targets, &mut script).unwrap();
    assert_eq!(script.drawn, 3, "signing key, the secret of `enc`, seed");
    let secrets = || [script.nth(0), script.nth(1), script.nth(2)];
    let [signing, ephemeral, seed] = found(secrets());
    assert!(signing >= 1 && seed >= 1, "what is kept is found: {signing}, {seed}");
    assert_eq!(ephemeral, 0);
    kept.fill(0);
    std::hint::black_box(&kept);
    assert_eq!(found(secrets())[2], 0, "the seed is with the slots and nowhere else");

    let table = epoch.table();
    let (header, sender, _) = epoch.finish(None, world.now, &pen.identity);
    let (parsed, me) = (header.peek().unwrap(), key(2));
    let slot = world.slot_of(&table, &me).unwrap();
    let secret = WrapSecret::of_identity(&identity(2));
    let receiver = EpochReceiver::open_slot(&parsed, &header.hash(), &slot, &me, &secret).unwrap();
    let [_, advancing] = keys(&receiver);
    assert_eq!(found(secrets())[1..], [0, 0], "nor at a member that has opened its slot");
    assert!(found([script.nth(0), advancing]).iter().all(|count| *count >= 1), "both are still needed");

    // The next epoch, as an advance.
    let mut next = Script { topic: 78, drawn: 0 };
    pen.sender = Some(sender);
    let plan = pen.plan(&world);
    let epoch = advance(&plan, &pen.sender().advance_from(), &[], &mut next).unwrap();
    let (header, sender, _) = epoch.finish(pen.close(), world.now, &pen.identity);
    let member = receiver.advance(&header.peek().unwrap(), &header.hash()).unwrap();
    drop(receiver);
    pen.sender = Some(sender);
    let [_, newer] = keys(&member);
    let [old_signing, old_advance, new_signing, new_advance] =
        found([script.nth(0), advancing, next.nth(0), newer]);
    assert_eq!((old_signing, old_advance), (0, 0));
    assert!(new_signing >= 1 && new_advance >= 2, "the search still finds what is due");
    drop((pen, member));
}

/// A prekey's secret is in its file while it is held, and in no file once its time was over.
#[test]
fn an_erased_prekey_is_nowhere_on_disk() {
    const DAY: u64 = 24 * 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let prekeys = State::dir(dir.path().join("state")).unwrap().prekeys(&key(2));
    let (rotation, offline, start) = (7 * DAY, 14 * DAY, super::world::now_ms());
    let rotate = |ring: &mut PrekeyRing, now| {
        ring.rotate_if_due(&identity(2), rotation, offline, now, true, &mut rand::rng());
        ring.purge(now);
        // The newest one's secret, where the ring's file has it: at the end.
        let bytes = ring.encode();
        (Masked::of(&bytes[bytes.len() - 32..]), true)
    };
    let on_disk = |key: &Masked| {
        let files = super::real::files(dir.path());
        files.iter().any(|(_, content)| content.windows(HALF).any(|window| key.is_at(window)))
    };
    let first = prekeys.update(|ring| rotate(ring, start)).unwrap();
    assert!(on_disk(&first), "while it is held it is found");
    let second = prekeys.update(|ring| rotate(ring, start + rotation + offline)).unwrap();
    assert!(first != second);
    assert!(on_disk(&second) && !on_disk(&first));
}

/// The same in the programs that people run: a publisher and a subscriber that have sealed, sent, taken and committed
/// three batches keep none of their keys, and keep the next one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_and_a_subscriber_keep_no_used_key() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let seen = noted(&real);
    // Wrapped to the member's fixed key, so that the test can open it as well.
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    topic.publish("a").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    for text in ["b", "c"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    // The keys of the first three batches and of the fourth. What the test itself knew is gone before it searches.
    let keys = {
        let seen = seen.lock().unwrap();
        let delivery = seen.first().unwrap();
        let mut receiver = opened(delivery, 2);
        [0, 1, 2, 3].map(|n| {
            receiver.fast_forward(BatchNo(n)).unwrap();
            keys(&receiver)[0]
        })
    };
    // Committed: nothing is to be read again after a crash.
    reader.commit().await.unwrap();
    let [first, second, third, due] = tokio::task::block_in_place(|| found(keys));
    assert_eq!((first, second, third), (0, 0, 0));
    assert!(due >= 2, "the publisher's and the subscriber's");
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
}
