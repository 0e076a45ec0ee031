//! Sealing and opening batches: one AEAD and one signature each, however many messages.
//!
//! `open` includes the check of the signature, as a subscriber does it.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, EpochReceiver, EpochSender, Message, WrapSecret, WrapTarget, fresh};
use sealcast_proto::limits::MAX_EPOCH_BATCHES;
use sealcast_proto::slot::find_slot;
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, RosterSeq, Seq, SlotSource, TopicId};

/// (messages in the batch, bytes of each, encoded): 1024 of 1 KiB are just within a batch's limit.
const SHAPES: [(usize, usize); 6] = [(1, 100), (64, 100), (1024, 100), (1, 1024), (64, 1024), (1024, 1024)];

fn seal(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut group = criterion.benchmark_group("seal");
    for (count, size) in SHAPES {
        let messages = messages(count, size);
        let (mut sender, _) = epoch(&mut rng);
        group.throughput(Throughput::Bytes((count * size) as u64));
        group.bench_function(BenchmarkId::new(format!("{size} B"), count), |bencher| {
            bencher.iter(|| {
                if sender.next_batch_no().0 >= MAX_EPOCH_BATCHES {
                    sender = epoch(&mut rng).0;
                }
                black_box(sender.seal(&messages, Seq(0), 1, false)).expect("within the limits")
            });
        });
    }
}

fn open(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut group = criterion.benchmark_group("open");
    for (count, size) in SHAPES {
        let (mut sender, receiver) = epoch(&mut rng);
        let record = sender.seal(&messages(count, size), Seq(0), 1, false).expect("within the limits");
        let (header_hash, epoch_vk) = (sender.header_hash(), sender.header().epoch_vk);
        let snapshot = receiver.snapshot();
        group.throughput(Throughput::Bytes((count * size) as u64));
        group.bench_function(BenchmarkId::new(format!("{size} B"), count), |bencher| {
            bencher.iter_batched(
                || EpochReceiver::restore(&snapshot).expect("a snapshot"),
                |mut receiver| {
                    let batch = record.clone().verify(&header_hash, &epoch_vk).expect("its signature");
                    receiver.open(&batch).expect("its key")
                },
                BatchSize::SmallInput,
            );
        });
    }
}

fn messages(count: usize, size: usize) -> Vec<Bytes> {
    // Tag and length of the payload's field.
    let framing = if size < 130 { 2 } else { 3 };
    let message = Message::new(vec![7_u8; size - framing]).encode().expect("small");
    assert_eq!(message.len(), size);
    vec![message; count]
}

fn epoch(rng: &mut StdRng) -> (EpochSender, EpochReceiver) {
    let identity = Identity::generate(rng);
    let (me, secret) = (identity.public(), WrapSecret::of_identity(&identity));
    let target = WrapTarget {
        member: MemberIndex(0),
        identity: me,
        source: SlotSource::Static,
        x25519: secret.public().into(),
    };
    let plan = EpochPlan {
        topic: TopicId::ZERO,
        publisher: me,
        epoch: Epoch(1),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(0),
        roster_hash: Hash::ZERO,
    };
    let new = fresh(&plan, &[target], rng).expect("a sound plan");
    let slot = find_slot(&new.table(), MemberIndex(0)).expect("its slot");
    let (_, sender, _) = new.finish(None, 1, &identity);
    let receiver = EpochReceiver::open_slot(sender.header(), &sender.header_hash(), &slot, &me, &secret);
    (sender, receiver.expect("its own slot"))
}

criterion_group!(benches, seal, open);
criterion_main!(benches);
