//! Starting a fresh epoch: one slot a member.
//!
//! `naive` is what one would write first, in the same run, so that the ratio can be read off: for each member an
//! ephemeral X25519 key, a Diffie–Hellman, HKDF-SHA256 and AES-256-GCM-SIV, on one thread. `shared_enc` is the same
//! with one ephemeral key for all, as the protocol has it.

use std::hint::black_box;

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hkdf::Hkdf;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rayon::ThreadPoolBuilder;
use sealcast_envelope::{EpochPlan, WrapTarget, fresh};
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, RosterSeq, SlotSource, TopicId};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

const MEMBERS: [u32; 2] = [1_000, 10_000];

fn wrap(criterion: &mut Criterion) {
    let mut rng = StdRng::seed_from_u64(1);
    let mut group = criterion.benchmark_group("wrap");
    group.sample_size(10);
    for members in MEMBERS {
        let (plan, targets) = topic(members, &mut rng);
        group.throughput(Throughput::Elements(members.into()));
        group.bench_function(BenchmarkId::new("naive", members), |bencher| {
            bencher.iter(|| black_box(naive(&targets, true, &mut rng)));
        });
        group.bench_function(BenchmarkId::new("shared_enc", members), |bencher| {
            bencher.iter(|| black_box(naive(&targets, false, &mut rng)));
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

fn naive(targets: &[WrapTarget], ephemeral_each: bool, rng: &mut StdRng) -> Vec<u8> {
    let (mut seed, mut table) = ([0; 32], Vec::new());
    rng.fill_bytes(&mut seed);
    let mut ephemeral = StaticSecret::random_from_rng(rng);
    let mut enc = PublicKey::from(&ephemeral);
    for target in targets {
        if ephemeral_each {
            ephemeral = StaticSecret::random_from_rng(rng);
            enc = PublicKey::from(&ephemeral);
        }
        let shared = ephemeral.diffie_hellman(&PublicKey::from(target.x25519));
        let mut key = [0; 32];
        let info = [enc.to_bytes(), target.x25519, *target.identity.as_bytes()].concat();
        Hkdf::<Sha256>::new(None, shared.as_bytes()).expand(&info, &mut key).expect("32 bytes");
        let mut sealed = seed;
        let cipher = Aes256GcmSiv::new(&Array::from(key));
        let tag = cipher.encrypt_inout_detached(&Nonce::default(), &info, sealed.as_mut_slice().into());
        table.extend_from_slice(enc.as_bytes());
        table.extend_from_slice(&sealed);
        table.extend_from_slice(&tag.expect("32 bytes"));
    }
    table
}

fn topic(members: u32, rng: &mut StdRng) -> (EpochPlan, Vec<WrapTarget>) {
    let publisher = Identity::generate(rng).public();
    let target = |member| WrapTarget {
        member: MemberIndex(member),
        identity: Identity::generate(rng).public(),
        source: SlotSource::Prekey(1),
        x25519: PublicKey::from(&StaticSecret::random_from_rng(rng)).to_bytes(),
    };
    let targets = (0..members).map(target).collect();
    let plan = EpochPlan {
        topic: TopicId::ZERO,
        publisher,
        epoch: Epoch(1),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(0),
        roster_hash: Hash::ZERO,
    };
    (plan, targets)
}

criterion_group!(benches, wrap);
criterion_main!(benches);
