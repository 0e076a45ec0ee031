//! What a removal costs a publisher: everybody's key again, without the one that left.
//!
//! `naive` wraps as one would write it first (benches/wrap.rs): an X25519 ladder, HKDF and AES-GCM-SIV a member. `fresh`
//! is our epoch with a Diffie–Hellman a member, `rewrap` the one under ratcheted KEKs, which a removal and the hourly
//! rotation use. One thread each, in the same run, interleaved; medians. `MEMBERS=1000,1000000` chooses the sizes.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rayon::ThreadPoolBuilder;
use sealcast_envelope::{EpochPlan, NewEpoch, fresh, rewrap};
use sealcast_proto::{Epoch, Identity, RosterSeq};

mod members;
mod naive;

/// Times each is done, a count.
const ROUNDS: usize = 5;

fn main() {
    let sizes = std::env::var("MEMBERS").unwrap_or_else(|_| "1000,10000,100000,1000000".into());
    println!(
        "| members | naive ladder µs/member | fresh µs/member | rewrap µs/member | rewrap ms | naive : rewrap |"
    );
    println!("|---|---|---|---|---|---|");
    for members in sizes.split(',').map(|size| size.trim().parse::<u32>().expect("a number of members")) {
        let pool = ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
        pool.install(|| row(members));
    }
}

fn row(members: u32) {
    let rng = &mut StdRng::seed_from_u64(1);
    let (plan, targets) = members::topic(members, rng);
    let publisher = Identity::generate(rng);
    let plan = EpochPlan { publisher: publisher.public(), ..plan };
    let next = EpochPlan { epoch: Epoch(2), roster_seq: RosterSeq(1), ..plan.clone() };
    // Of the slow ones no more than it takes to know their time a member.
    let few = targets.get(..targets.len().min(20_000)).unwrap_or(&targets);
    let (mut naive_us, mut fresh_us, mut rewrap_us) = (Vec::new(), Vec::new(), Vec::new());
    let first = fresh(&plan, &targets, rng).expect("a sound plan");
    let keks = first.finish(None, 1, &publisher).2.accepted(None).expect("KEKs");
    // The last member left.
    let left = targets.split_last().map(|(_, left)| left).unwrap_or_default();
    for _ in 0..ROUNDS {
        let per = |from: Instant, count: usize| from.elapsed().as_secs_f64() * 1e6 / count as f64;
        let from = Instant::now();
        std::hint::black_box(naive::wrap(few, false, rng));
        naive_us.push(per(from, few.len()));
        let from = Instant::now();
        std::hint::black_box(fresh(&plan, few, rng).expect("a sound plan"));
        fresh_us.push(per(from, few.len()));
        let from = Instant::now();
        let new: NewEpoch = rewrap(&next, &keks, left, rng).expect("a sound plan");
        rewrap_us.push(per(from, left.len()));
        assert_eq!(new.slot_count() as usize, left.len());
    }
    let (naive, fresh, rewrap) = (median(naive_us), median(fresh_us), median(rewrap_us));
    let whole = Duration::from_secs_f64(rewrap * f64::from(members) / 1e6);
    println!(
        "| {members} | {naive:.1} | {fresh:.1} | {rewrap:.2} | {:.1} | {:.0} |",
        whole.as_secs_f64() * 1e3,
        naive / rewrap
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
