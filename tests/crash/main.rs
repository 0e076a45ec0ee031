//! A broker process killed with SIGKILL again and again while publishers, subscribers and admins work with it.
//!
//! ```text
//! SEALCAST_CRASH_KILLS=5000 SEALCAST_CRASH_SEED=42 cargo test --test crash -- --nocapture
//! ```
//! The seed decides when the broker is killed and what is published; what the kernel makes of it in between it cannot
//! decide, so a seed that failed is worth more than one run. Clients live through all of it and are never told to
//! start over. It is a binary of its own, so that nothing else runs beside it.

// Admins: new topics, and members who come and go.
mod admins;
// What was acknowledged, what was seen, what is stored: compared.
mod audit;
// Publishers, and what they say.
mod messages;
// The broker as a process.
mod process;
// Subscribers, and what they may be told.
mod watching;
// All of them together.
mod work;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::process::Process;
use crate::work::Work;

/// Kills between two looks at the stopped broker's disk.
const KILLS_A_LOOK: u64 = 25;

/// Says how to run it again when it fails.
struct Plan {
    seed: u64,
    kills: u64,
}

impl Plan {
    fn new() -> Self {
        let number = |name| std::env::var(name).ok().map(|text: String| text.parse().expect("a number"));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let seed = number("SEALCAST_CRASH_SEED").unwrap_or(u64::from(now.subsec_nanos()));
        Self { seed, kills: number("SEALCAST_CRASH_KILLS").unwrap_or(100) }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, kills } = self;
            eprintln!(
                "again: SEALCAST_CRASH_KILLS={kills} SEALCAST_CRASH_SEED={seed} cargo test --test crash -- --nocapture"
            );
        }
    }
}

/// What the broker is doing when it is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// Opening its store, taking up its topics.
    Starting,
    /// Trimming what retention lets go, which it does first of all; its clients are coming back.
    JustListening,
    /// Whatever its clients want.
    Working,
}

impl Moment {
    fn choose(rng: &mut StdRng) -> Self {
        match rng.random_range(0..10) {
            0..2 => Self::Starting,
            2..4 => Self::JustListening,
            _ => Self::Working,
        }
    }

    /// Waits for the moment.
    async fn wait(self, rng: &mut StdRng, broker: &mut Process, work: &Work) {
        let most_ms = match self {
            Self::Starting => 60,
            Self::JustListening => 40,
            Self::Working => 20,
        };
        if self != Self::Starting {
            broker.listening().await;
        }
        if self == Self::Working {
            // Clients take a while to come back, the longer the more often they were cut off.
            work.goes_on(rng.random_range(1..150)).await;
        }
        tokio::time::sleep(Duration::from_micros(rng.random_range(0..most_ms * 1_000))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_and_nothing_else_was_seen() {
    let plan = Plan::new();
    eprintln!("seed {}, {} kills", plan.seed, plan.kills);
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut broker = Process::new(dir.path());
    broker.start();
    broker.listening().await;
    let mut work = Work::begin(&broker.link(), rng.random(), plan.kills / 2).await;
    let mut hits = [0_u64; 3];
    for kill in 1..=plan.kills {
        let moment = Moment::choose(&mut rng);
        moment.wait(&mut rng, &mut broker, &work).await;
        broker.kill().await;
        hits[moment as usize] += 1;
        work.check();
        if kill % KILLS_A_LOOK == 0 {
            let stored = audit::look(broker.data(), &work).await;
            eprintln!("kill {kill}: {} acknowledged, {stored} looked up on the disk", work.acknowledged());
        }
        broker.start();
    }
    broker.listening().await;
    let [starting, listening, working] = hits;
    eprintln!("{}", work.summary());
    eprintln!("killed {starting} × starting, {listening} × just listening, {working} × at work");
    work.end().await;
    audit::compare(&work).await;
    broker.stop().await;
    audit::verify(&broker.data(), &dir.path().join("export"));
    assert!(work.acknowledged() > plan.kills, "there was work: {}", work.acknowledged());
}
