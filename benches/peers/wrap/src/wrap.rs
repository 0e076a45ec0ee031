//! A key for N members who are strangers to each other.

use std::time::{Duration, Instant};

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeS};
use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, fresh, rewrap};
use sealcast_proto::{Epoch, Identity, RosterSeq};
use serde_json::{Value, json};

use crate::{ROUNDS, median, members, naive, timed};

/// How long [`pace`] goes on.
const PACED: Duration = Duration::from_secs(2);

type Key = <X25519HkdfSha256 as hpke::Kem>::PublicKey;

pub fn run(count: u32) -> Value {
    let rng = &mut StdRng::seed_from_u64(1);
    let (plan, targets) = members::topic(count, rng);
    let publisher = Identity::generate(rng);
    let plan = EpochPlan { publisher: publisher.public(), ..plan };
    let next = EpochPlan { epoch: Epoch(2), roster_seq: RosterSeq(1), ..plan.clone() };
    let keys: Vec<Key> =
        targets.iter().map(|target| Key::from_bytes(&target.x25519.to_bytes()).expect("a key")).collect();
    // What it takes while the members' keys are new; afterwards their points are kept.
    let (first_s, first) = timed(|| fresh(&plan, &targets, rng).expect("a sound plan"));
    let keks = first.finish(None, 1, &publisher).2.accepted(None).expect("KEKs");
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        let [naive_each, naive_shared, fresh_us, rewrap_us, hpke] = &mut times;
        naive_each.push(timed(|| naive::wrap(&targets, true, rng)).0);
        naive_shared.push(timed(|| naive::wrap(&targets, false, rng)).0);
        fresh_us.push(timed(|| fresh(&plan, &targets, rng)).0);
        rewrap_us.push(timed(|| rewrap(&next, &keks, &targets, rng)).0);
        hpke.push(timed(|| for_each(&keys, rng)).0);
    }
    let per = |times: Vec<f64>| median(times) * 1e6 / f64::from(count);
    let [naive_each, naive_shared, fresh_us, rewrap_us, hpke] = times.map(per);
    json!({
        "members": count,
        "naive_us": naive_each,
        "naive_shared_us": naive_shared,
        "fresh_us": fresh_us,
        "fresh_first_us": first_s * 1e6 / f64::from(count),
        "rewrap_us": rewrap_us,
        "hpke_us": hpke,
    })
}

/// Fresh wraps one after the other for two seconds: members wrapped a second of the clock. Several threads, or several
/// processes at once, are compared by this.
pub fn pace(count: u32) -> Value {
    let rng = &mut StdRng::seed_from_u64(1);
    let (plan, targets) = members::topic(count, rng);
    let wrap = |rng: &mut StdRng| drop(std::hint::black_box(fresh(&plan, &targets, rng)));
    // The members' points are made the first time.
    wrap(rng);
    let (from, mut wraps) = (Instant::now(), 0);
    while from.elapsed() < PACED {
        wrap(rng);
        wraps += 1;
    }
    let per_s = f64::from(wraps) * f64::from(count) / from.elapsed().as_secs_f64();
    json!({ "members": count, "threads": rayon::current_num_threads(), "wraps_per_s": per_s })
}

/// HPKE as one uses it: each recipient an encapsulation and a sealed key.
fn for_each(keys: &[Key], rng: &mut StdRng) -> Vec<u8> {
    let _ = X25519HkdfSha256::gen_keypair_with_rng(rng);
    let mut out = Vec::new();
    for key in keys {
        let (enc, sealed) = hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            key,
            b"peers",
            &[7; 32],
            b"",
            rng,
        )
        .expect("a key");
        out.extend_from_slice(&hpke::Serializable::to_bytes(&enc));
        out.extend_from_slice(&sealed);
    }
    out
}
