//! Keys that were used are gone from the memory of the process.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;

use sealcast_envelope::{EpochReceiver, WrapSecret};
use sealcast_proto::record::BatchRecord;

use super::pen::Pen;
use super::world::{OWNER, Stored, World, identity, key};

/// A key, written so that the search does not find what it searches with.
struct Masked([u8; 32]);

const MASK: u8 = 0xa5;

impl Masked {
    fn is_at(&self, bytes: &[u8]) -> bool {
        bytes.iter().zip(self.0).all(|(byte, masked)| *byte ^ MASK == std::hint::black_box(masked))
    }
}

/// How often the key stands in writable memory.
fn found(key: &Masked) -> usize {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = BufReader::new(File::open("/proc/self/maps").unwrap());
    // One buffer, wiped: what was found in it is not found again.
    let mut buffer = vec![0; 1 << 20];
    let own = buffer.as_ptr() as u64..buffer.as_ptr() as u64 + buffer.len() as u64;
    let mut count = 0;
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
            let first = key.0[0] ^ MASK;
            for (offset, window) in buffer[..read].windows(32).enumerate() {
                if window[0] == first && !own.contains(&(at + offset as u64)) && key.is_at(window) {
                    count += 1;
                }
            }
            // A key across the border of two reads is found in the second.
            at += if read == len && len > 31 && at + (len as u64) < to {
                read as u64 - 31
            } else {
                read as u64
            };
        }
    }
    buffer.fill(0);
    std::hint::black_box(&buffer);
    count
}

/// The key of the batch that is due: where a snapshot has it.
fn batch_key(receiver: &EpochReceiver) -> Masked {
    let snapshot = receiver.snapshot();
    Masked(std::array::from_fn(|at| snapshot[61 + at] ^ MASK))
}

fn open(receiver: &mut EpochReceiver, batch: &BatchRecord, pen: &Pen) {
    let header = pen.sender().header();
    let verified = batch.clone().verify(&pen.sender().header_hash(), &header.epoch_vk).unwrap();
    assert_eq!(receiver.open(&verified).unwrap().len(), 1);
}

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
    let first = batch_key(&receiver);
    assert!(found(&first) >= 2, "the sender's and the receiver's");
    let batch = pen.seal(&world, &["a"], false);
    assert!(found(&first) >= 1, "the receiver's");
    open(&mut receiver, &batch, &pen);
    let second = batch_key(&receiver);
    assert!(first.0 != second.0);
    assert_eq!(found(&first), 0);
    assert!(found(&second) >= 2, "the search still finds what is due");
}
