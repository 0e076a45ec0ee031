//! Many seeds, on all processors.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Failure, Flaw, Invariant, Tally, run};

/// How to run them.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// Threads; `None`: as many as there are processors.
    pub threads: Option<usize>,
    /// Whether to go on after a failure.
    pub keep_going: bool,
    /// Something broken on purpose.
    pub flaw: Option<Flaw>,
}

/// What they found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many ran.
    pub seeds: u64,
    /// Those in which something was that may never be, by seed.
    pub failures: Vec<(u64, Failure)>,
    /// How much happened in all of them.
    pub tally: Tally,
}

impl Sweep {
    /// Runs them all, or, unless it is to keep going, up to a failure.
    pub fn run(&self, seeds: Range<u64>) -> Found {
        let next = AtomicU64::new(seeds.start);
        let stop = AtomicBool::new(false);
        let found = Mutex::new(Found::default());
        let threads = self.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
        std::thread::scope(|scope| {
            for _ in 0..threads.unwrap_or(1).max(1) {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds.end {
                            return;
                        }
                        let (failure, tally) = one(seed, self.flaw);
                        let mut found = found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        found.seeds += 1;
                        found.tally += tally;
                        if let Some(failure) = failure {
                            found.failures.push((seed, failure));
                            stop.fetch_or(!self.keep_going, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let mut found = found.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        found.failures.sort_by_key(|(seed, _)| *seed);
        found
    }
}

/// One seed; a machine that panics has broken a rule too.
fn one(seed: u64, flaw: Option<Flaw>) -> (Option<Failure>, Tally) {
    match catch_unwind(AssertUnwindSafe(|| run(seed, flaw, false))) {
        Ok(report) => (report.failure, report.tally),
        Err(panic) => {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| (*what).to_owned()));
            let what = what.unwrap_or_default();
            (Some(Failure { invariant: Invariant::NoPanic, what, step: 0 }), Tally::default())
        }
    }
}
