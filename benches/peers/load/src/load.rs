//! What is the same for every peer: numbers, counts, pace, and the measuring.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::plan::Fanout;
use crate::process;

/// How long a publisher that is too far ahead waits before it looks again.
const HOLD: Duration = Duration::from_millis(1);

/// Counts of one run.
pub struct Load {
    began: Instant,
    published: AtomicU64,
    delivered: Vec<AtomicU64>,
    /// When each message was handed to the network, nanoseconds; only where latency is measured.
    sent: Mutex<Vec<u64>>,
    timed: bool,
    measuring: AtomicBool,
    latencies: Mutex<Histogram<u64>>,
}

impl Load {
    pub fn new(plan: &Fanout) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            published: AtomicU64::new(0),
            delivered: (0..plan.subscribers).map(|_| AtomicU64::new(0)).collect(),
            sent: Mutex::default(),
            timed: plan.rate > 0,
            measuring: AtomicBool::new(false),
            latencies: Mutex::new(Histogram::new_with_bounds(1, 60_000_000, 3).expect("sound bounds")),
        })
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// A subscriber got messages `first..first + count`: they must be the next ones.
    pub fn got(&self, subscriber: usize, first: u64, count: u64) -> Result<()> {
        let had = self.delivered[subscriber].load(Relaxed);
        ensure!(first == had, "subscriber {subscriber} got message {first} where {had} was due");
        if self.timed && self.measuring.load(Relaxed) {
            let (now, sent) = (self.now_ns(), self.sent.lock().expect("no panic"));
            let mut latencies = self.latencies.lock().expect("no panic");
            for number in first..first + count {
                latencies.saturating_record((now - sent[number as usize]) / 1000);
            }
        }
        self.delivered[subscriber].store(had + count, Relaxed);
        Ok(())
    }

    /// How many the subscriber has: the number of the next one.
    pub fn next(&self, subscriber: usize) -> u64 {
        self.delivered[subscriber].load(Relaxed)
    }

    /// The next `count` messages are on their way from now on.
    pub fn sending(&self, count: u64) {
        if self.timed {
            let now = self.now_ns();
            self.sent.lock().expect("no panic").extend((0..count).map(|_| now));
        }
    }

    fn slowest(&self) -> u64 {
        self.delivered.iter().map(|count| count.load(Relaxed)).min().unwrap_or(0)
    }

    fn total(&self) -> u64 {
        self.delivered.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Publishes for ever with `send`, which takes the first number and how many.
    pub async fn publish<S>(&self, plan: &Fanout, mut send: S) -> Result<()>
    where
        S: AsyncFnMut(u64, u64) -> Result<()>,
    {
        let (batch, ahead) = (plan.batch() as u64, plan.ahead());
        let mut tick = (plan.rate > 0).then(|| {
            let mut tick = interval(Duration::from_secs(1) / plan.rate as u32);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            tick
        });
        loop {
            match &mut tick {
                Some(tick) => _ = tick.tick().await,
                None => {
                    while self.published.load(Relaxed) + batch > self.slowest() + ahead {
                        sleep(HOLD).await;
                    }
                }
            }
            let first = self.published.load(Relaxed);
            send(first, batch).await?;
            self.published.store(first + batch, Relaxed);
        }
    }

    /// Measures while the others run; what came out.
    pub async fn measure(&self, plan: &Fanout) -> Result<Value> {
        // Until everything flows.
        while self.slowest() == 0 {
            sleep(HOLD).await;
        }
        sleep(plan.warm_up()).await;
        self.measuring.store(true, Relaxed);
        let (from, had, cpu) = (Instant::now(), self.total(), process::cpu_ns(plan.pid)?);
        let own = process::cpu_ns(std::process::id())?;
        sleep(plan.measured()).await;
        let (took, deliveries) = (from.elapsed().as_secs_f64(), self.total() - had);
        let cpu_s = (process::cpu_ns(plan.pid)? - cpu) as f64 / 1e9;
        let own_s = (process::cpu_ns(std::process::id())? - own) as f64 / 1e9;
        let (resident, resident_max) = process::memory(plan.pid)?;
        ensure!(deliveries > 0, "nothing was delivered");
        let latencies = self.latencies.lock().expect("no panic");
        let latency = self.timed.then(|| {
            let at = |per_cent| latencies.value_at_percentile(per_cent);
            json!({ "p50_us": at(50.0), "p90_us": at(90.0), "p99_us": at(99.0), "max_us": latencies.max() })
        });
        Ok(json!({
            "subscribers": plan.subscribers,
            "size": plan.size,
            "batch": plan.batch(),
            "seconds": took,
            "deliveries": deliveries,
            "deliveries_per_s": deliveries as f64 / took,
            "server_cpu_s": cpu_s,
            "server_busy": cpu_s / took,
            "load_busy": own_s / took,
            "deliveries_per_cpu_s": deliveries as f64 / cpu_s,
            "cpu_s_per_million": cpu_s * 1e6 / deliveries as f64,
            "resident": resident,
            "resident_max": resident_max,
            "latency": latency,
        }))
    }
}

/// A message: its number, and a filling.
pub fn message(number: u64, size: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_be_bytes());
    out.resize(out.len() + size - 8, 0x5a);
}

/// The number at the beginning of a message.
pub fn number(message: &[u8]) -> u64 {
    message.first_chunk().map_or(u64::MAX, |number| u64::from_be_bytes(*number))
}
