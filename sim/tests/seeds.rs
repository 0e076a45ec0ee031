//! Ten thousand seeds, or as many as `SEALCAST_SIM_SEEDS` says; one that fails is replayed by the command it prints.

use sealcast_sim::{Sweep, run};

const SEEDS: u64 = 10_000;

#[test]
fn nothing_happens_that_may_never_be() {
    let seeds = match std::env::var("SEALCAST_SIM_SEEDS") {
        Ok(seeds) => seeds.parse().expect("SEALCAST_SIM_SEEDS is a number"),
        Err(_) => SEEDS,
    };
    let found = Sweep::default().run(0..seeds);
    for (seed, failure) in &found.failures {
        println!("seed {seed}: {failure}");
        println!("    cargo run -p sealcast-sim --release -- --seed {seed} --trace");
    }
    assert!(found.failures.is_empty(), "{} of {} seeds failed", found.failures.len(), found.seeds);
    // A world in which nothing happens breaks no rule: everything that is counted did happen.
    let never: Vec<_> = found.tally.named().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(never.is_empty() || seeds < 1_000, "it never came to {never:?}");
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for seed in 0..40 {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        assert_eq!(first.digest, second.digest, "seed {seed}");
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.tally, second.tally, "seed {seed}");
    }
}
