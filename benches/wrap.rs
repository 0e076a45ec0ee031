//! Starting a fresh epoch: one slot a member.
//!
//! `naive` is what one would write first, in the same run, so that the ratio can be read off: for each member an
//! ephemeral X25519 key, a Diffie–Hellman, HKDF-SHA256 and AES-256-GCM-SIV, on one thread. `shared_enc` is the same
//! with one ephemeral key for all, as the protocol has it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::ThreadPoolBuilder;
use sealcast_envelope::fresh;

mod members;
mod naive;

const MEMBERS: [u32; 2] = [1_000, 10_000];

fn wrap(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut group = criterion.benchmark_group("wrap");
    group.sample_size(10);
    for members in MEMBERS {
        let (plan, targets) = members::topic(members, &mut rng);
        group.throughput(Throughput::Elements(members.into()));
        group.bench_function(BenchmarkId::new("naive", members), |bencher| {
            bencher.iter(|| black_box(naive::wrap(&targets, true, &mut rng)));
        });
        group.bench_function(BenchmarkId::new("shared_enc", members), |bencher| {
            bencher.iter(|| black_box(naive::wrap(&targets, false, &mut rng)));
        });
        for threads in [1, 2] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            group.bench_function(BenchmarkId::new(format!("fresh, {threads} threads"), members), |bencher| {
                bencher.iter(|| {
                    // Only the generator crosses threads: rayon's work is inside.
                    let mut rng = StdRng::seed_from_u64(rng.next_u64());
                    let new = pool.install(|| fresh(&plan, &targets, &mut rng)).expect("a sound plan");
                    assert_eq!(new.slot_count(), members);
                    black_box(new.table())
                });
            });
        }
    }
}

criterion_group!(benches, wrap);
criterion_main!(benches);
