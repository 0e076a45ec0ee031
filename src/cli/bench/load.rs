//! The run itself: publishers that keep their pace, subscribers that check what they get.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use sealcast_proto::PublicKey;
use sealcast_proto::policy::Durability;
use sealcast_publisher::{Pending, Topic};
use sealcast_subscriber::{Event, Subscription};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, sleep_until};

use super::check::{Check, Part, Pattern};
use super::process::Usage;
use super::progress::Progress;
use super::report::{Process, Report};
use super::stage::Stage;
use crate::cli::failure::{Exit, Failure};
use crate::cli::say::{count, grouped};

/// How often the processes are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long nothing may arrive anywhere before the run is given up; a first key for a million members takes a while.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest latency that is told apart, microseconds: ten minutes.
const LONGEST_US: u64 = 600_000_000;
/// Bytes by which publishers may be ahead of the slowest subscriber where no rate is kept: at most half of what a broker
/// holds ready for delivery (beyond, its disk would be measured, and a backlog that only grows),
const MOST_AHEAD: usize = 4 << 20;
/// less where many subscribers have them on their way, of all together,
const AHEAD_OF_ALL: usize = 64 << 20;
/// and no less than makes large batches.
const LEAST_AHEAD: usize = 256 << 10;
/// How long a publisher that is too far ahead waits before it looks again.
const HOLD: Duration = Duration::from_millis(1);
/// Histograms that subscribers share, a count: enough that they seldom wait for each other.
const HISTOGRAMS: usize = 8;

/// What is measured.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) publishers: usize,
    pub(super) subscribers: usize,
    /// Bytes of a message.
    pub(super) size: usize,
    /// Messages a second, of all publishers together.
    pub(super) rate: Option<u32>,
    pub(super) members: usize,
    pub(super) durability: Durability,
    pub(super) duration: Duration,
}

impl Plan {
    /// Messages by which publishers may be ahead, a count.
    fn ahead(&self) -> u64 {
        let bytes = (AHEAD_OF_ALL / self.subscribers).clamp(LEAST_AHEAD, MOST_AHEAD);
        (bytes / self.size).max(2) as u64
    }
}

/// What everybody counts.
struct Counts {
    began: Instant,
    published: AtomicU64,
    /// Of each subscriber.
    delivered: Vec<AtomicU64>,
    latencies: Vec<Mutex<Histogram<u64>>>,
    /// From when a message was due to its acknowledgement; only where a rate is kept: without, it is the time in queues.
    acknowledged: Mutex<Histogram<u64>>,
    /// How often a subscriber was told that a publisher gives no sign of life.
    stalls: AtomicU64,
}

/// How a task ended: what a publisher has published, a subscriber has nothing to add.
enum Ended {
    Publisher(u64),
    Subscriber,
}

impl Counts {
    fn new(subscribers: usize) -> Result<Self, Failure> {
        let histogram = || {
            let made = Histogram::new_with_bounds(1, LONGEST_US, 3);
            made.map(Mutex::new).map_err(|error| Failure::new(Exit::Failure, error.to_string()))
        };
        Ok(Self {
            began: Instant::now(),
            published: AtomicU64::new(0),
            delivered: (0..subscribers).map(|_| AtomicU64::new(0)).collect(),
            latencies: (0..HISTOGRAMS).map(|_| histogram()).collect::<Result<_, _>>()?,
            acknowledged: histogram()?,
            stalls: AtomicU64::new(0),
        })
    }

    fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }

    fn delivered(&self) -> u64 {
        self.delivered.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// By how many messages the slowest subscriber is behind.
    fn ahead(&self) -> u64 {
        let slowest = self.delivered.iter().map(|count| count.load(Ordering::Relaxed)).min();
        self.published.load(Ordering::Relaxed).saturating_sub(slowest.unwrap_or(0))
    }
}

/// Runs the plan on the stage.
pub(super) async fn measure(plan: &Plan, stage: &mut Stage, progress: &Progress) -> Result<Report, Failure> {
    let counts = Arc::new(Counts::new(plan.subscribers)?);
    let pattern = Pattern::new(plan.size);
    let keys: Vec<PublicKey> = stage.topics.iter().map(|(key, _)| *key).collect();
    let (go, going) = watch::channel(None);
    let (told, mut first) = mpsc::channel(plan.subscribers);
    let mut tasks = JoinSet::new();
    for (number, subscription) in stage.subscriptions.drain(..).enumerate() {
        let checks = keys.iter().map(|key| (*key, Check::new(pattern.clone()))).collect();
        let reader = Reader { number, checks, counts: Arc::clone(&counts) };
        tasks.spawn(reader.read(subscription, told.clone()));
    }
    drop(told);
    for (number, (_, topic)) in stage.topics.iter().enumerate() {
        let pace = plan.rate.map(|rate| Pace::new(rate, plan.publishers, number));
        let (topic, pattern) = (Arc::clone(topic), pattern.clone());
        let sender = Sender { topic, pattern, counts: Arc::clone(&counts), number: 0 };
        tasks.spawn(sender.publish(plan.clone(), pace, going.clone()));
    }

    progress.begin("the first message", plan.subscribers);
    let mut watchman = Watchman::new(stage, Arc::clone(&counts));
    for _ in 0..plan.subscribers {
        tokio::select! {
            warm = first.recv() => if warm.is_some() { progress.step() },
            failure = failed(&mut tasks) => return Err(failure),
            failure = watchman.watch(|_| {}) => return Err(failure),
        }
    }
    let first_message = counts.began.elapsed();

    let begin = Instant::now();
    let before = watchman.usages();
    go.send_replace(Some(begin));
    let (mut published, before_count) = (0, counts.delivered());
    loop {
        let rate = |delivered: u64| {
            let gone = begin.elapsed();
            let fresh = delivered.saturating_sub(before_count);
            progress.publishing(gone, plan.duration, fresh as f64 / gone.as_secs_f64().max(0.001));
        };
        tokio::select! {
            ended = tasks.join_next() => match ended {
                Some(ended) => {
                    if let Ended::Publisher(count) = joined(ended)? {
                        published += count;
                    }
                }
                None => break,
            },
            failure = watchman.watch(rate) => return Err(failure),
        }
    }
    let took = begin.elapsed();
    let after = watchman.usages();
    // The first ones came before.
    let published = published - plan.publishers as u64;
    let delivered = counts.delivered() - before_count;
    if delivered != published * plan.subscribers as u64 {
        return Err(Failure::new(
            Exit::Failure,
            format!(
                "{} were delivered of {} to {}",
                grouped(delivered),
                count(published, "message"),
                count(plan.subscribers as u64, "subscriber")
            ),
        ));
    }
    let mut latencies = Histogram::new_from(&*lock(&counts.latencies[0]));
    for part in &counts.latencies {
        latencies += &*lock(part);
    }
    let process = |at: usize| {
        let (before, after) = (before.get(at).copied()??, after.get(at).copied()??);
        Some(Process { cpu: after.cpu.saturating_sub(before.cpu), resident: watchman.resident[at] })
    };
    Ok(Report {
        plan: plan.clone(),
        took,
        first_message,
        published,
        delivered,
        latencies,
        acknowledged: plan.rate.map(|_| lock(&counts.acknowledged).clone()),
        stalls: counts.stalls.load(Ordering::Relaxed),
        broker: process(0),
        clients: process(1),
    })
}

/// The first task that fails. Where one ends well, nobody else does yet.
async fn failed(tasks: &mut JoinSet<Result<Ended, Failure>>) -> Failure {
    match tasks.join_next().await.map(joined) {
        Some(Err(failure)) => failure,
        _ => Failure::new(Exit::Failure, "somebody ended before the run began"),
    }
}

fn joined(ended: Result<Result<Ended, Failure>, tokio::task::JoinError>) -> Result<Ended, Failure> {
    ended.unwrap_or_else(|error| Err(Failure::new(Exit::Failure, error.to_string())))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// When the messages of one publisher are due.
#[derive(Debug, Clone, Copy)]
struct Pace {
    every: Duration,
    first: Duration,
}

impl Pace {
    fn new(rate: u32, publishers: usize, number: usize) -> Self {
        let every = Duration::from_secs_f64(publishers as f64 / f64::from(rate));
        Self { every, first: every.mul_f64(number as f64 / publishers as f64) }
    }

    fn due(&self, message: u64) -> Duration {
        self.first + Duration::from_secs_f64(self.every.as_secs_f64() * message as f64)
    }
}

struct Sender {
    topic: Arc<Topic>,
    pattern: Pattern,
    counts: Arc<Counts>,
    /// Of the next message.
    number: u64,
}

impl Sender {
    async fn publish(
        mut self,
        plan: Plan,
        pace: Option<Pace>,
        mut going: watch::Receiver<Option<Instant>>,
    ) -> Result<Ended, Failure> {
        self.send(self.counts.now_us(), Part::First).await?;
        self.topic.flush().await?;
        let began = match going.wait_for(Option::is_some).await {
            Ok(began) => *began,
            Err(_) => None,
        };
        let Some(began) = began else { return Ok(Ended::Publisher(self.number)) };
        match pace {
            None => self.flood(plan.ahead(), began, plan.duration).await?,
            Some(pace) => {
                let (sent, waiting) = mpsc::unbounded_channel();
                let counts = Arc::clone(&self.counts);
                let answers = acknowledged(waiting, &counts);
                tokio::try_join!(self.keep(pace, began, plan.duration, sent), answers)?;
            }
        }
        self.send(self.counts.now_us(), Part::Last).await?;
        self.topic.flush().await?;
        Ok(Ended::Publisher(self.number))
    }

    /// As fast as the slowest subscriber takes it.
    async fn flood(&mut self, most: u64, began: Instant, duration: Duration) -> Result<(), Failure> {
        let look = (most / 16).max(1);
        while began.elapsed() < duration {
            if self.number.is_multiple_of(look) {
                while self.counts.ahead() > most {
                    sleep(HOLD).await;
                }
            }
            self.send(self.counts.now_us(), Part::Measured).await?;
        }
        Ok(())
    }

    /// A message that is sent late because those before it were held up was due when it was due; that the system's timer
    /// comes late is nobody's latency.
    async fn keep(
        &mut self,
        pace: Pace,
        began: Instant,
        duration: Duration,
        sent: mpsc::UnboundedSender<(u64, Pending)>,
    ) -> Result<(), Failure> {
        let mut awake = Instant::now();
        for message in 0.. {
            let due = pace.due(message);
            if due >= duration {
                break;
            }
            let due = began + due;
            if due > Instant::now() {
                sleep_until(due.into()).await;
                awake = Instant::now();
            }
            let due = micros(due.max(awake).saturating_duration_since(self.counts.began));
            let pending = self.send(due, Part::Measured).await?;
            // Whoever waits for the answers goes on until this end is dropped.
            let _ = sent.send((due, pending));
        }
        Ok(())
    }

    /// Whether it was acknowledged, a flush says too.
    async fn send(&mut self, due_us: u64, part: Part) -> Result<Pending, Failure> {
        let pending = self.topic.send(self.pattern.message(self.number, due_us, part)).await?;
        self.number += 1;
        self.counts.published.fetch_add(1, Ordering::Relaxed);
        Ok(pending)
    }
}

/// Counts the time to each acknowledgement; they come in the order of the messages.
async fn acknowledged(
    mut waiting: mpsc::UnboundedReceiver<(u64, Pending)>,
    counts: &Counts,
) -> Result<(), Failure> {
    while let Some((due_us, pending)) = waiting.recv().await {
        pending.await?;
        let latency = counts.now_us().saturating_sub(due_us);
        lock(&counts.acknowledged).saturating_record(latency.max(1));
    }
    Ok(())
}

struct Reader {
    number: usize,
    checks: HashMap<PublicKey, Check>,
    counts: Arc<Counts>,
}

impl Reader {
    async fn read(
        mut self,
        mut subscription: Subscription,
        warm: mpsc::Sender<()>,
    ) -> Result<Ended, Failure> {
        let mut running = self.checks.len();
        let mut firsts = running;
        while running > 0 {
            let received = match subscription.next().await {
                Some(Ok(received)) => received,
                Some(Err(Event::Stalled { .. })) => {
                    self.counts.stalls.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Some(Err(event)) => return Err(self.failed(&event.to_string())),
                None => return Err(self.failed("the subscription ended")),
            };
            let Some(check) = self.checks.get_mut(&received.publisher) else {
                return Err(self.failed("a message came from somebody else"));
            };
            let (due_us, part) = match check.take(&received.message.payload) {
                Ok(taken) => taken,
                Err(why) => return Err(self.failed(&why)),
            };
            self.counts.delivered[self.number].fetch_add(1, Ordering::Relaxed);
            if part == Part::First {
                firsts -= 1;
                if firsts == 0 {
                    // Nobody waits any more only where the run has failed.
                    let _ = warm.send(()).await;
                }
                continue;
            }
            let latency = self.counts.now_us().saturating_sub(due_us);
            lock(&self.counts.latencies[self.number % HISTOGRAMS]).saturating_record(latency.max(1));
            running -= usize::from(part == Part::Last);
        }
        Ok(Ended::Subscriber)
    }

    fn failed(&self, why: &str) -> Failure {
        let taken: u64 = self.checks.values().map(Check::taken).sum();
        let who = self.number;
        Failure::new(Exit::Failure, format!("subscriber {who}, after {}: {why}", count(taken, "message")))
            .hint("this must not happen: please report it, with the broker's log")
    }
}

/// Looks at the processes now and then, and whether anything moves.
struct Watchman {
    pids: [Option<u32>; 2],
    /// The most resident memory seen of each, bytes.
    resident: [u64; 2],
    topics: Vec<Arc<Topic>>,
    counts: Arc<Counts>,
    moved: (u64, Instant),
}

impl Watchman {
    fn new(stage: &Stage, counts: Arc<Counts>) -> Self {
        Self {
            pids: [stage.broker_pid, Some(std::process::id())],
            resident: [0; 2],
            topics: stage.topics.iter().map(|(_, topic)| Arc::clone(topic)).collect(),
            counts,
            moved: (0, Instant::now()),
        }
    }

    fn usages(&self) -> [Option<Usage>; 2] {
        self.pids.map(|pid| pid.and_then(Usage::of))
    }

    /// Ends only when there is no point in going on. Cancel-safe.
    async fn watch(&mut self, show: impl Fn(u64)) -> Failure {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for (most, usage) in self.resident.iter_mut().zip(self.pids.map(|pid| pid.and_then(Usage::of))) {
                *most = usage.map_or(0, |usage| usage.resident).max(*most);
            }
            let delivered = self.counts.delivered();
            if delivered != self.moved.0 {
                self.moved = (delivered, Instant::now());
            }
            show(delivered);
            if self.moved.1.elapsed() > PATIENCE {
                let why = self.topics.iter().find_map(|topic| topic.status().standstill);
                let why = why.map_or_else(|| "no publisher knows why".to_owned(), |why| why.to_string());
                let seconds = PATIENCE.as_secs();
                return Failure::new(Exit::TimedOut, format!("nothing was delivered for {seconds} s: {why}"))
                    .hint("look at the broker's log; a smaller --members or --subscribers may be carried");
            }
            look.tick().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishers_take_turns() {
        let due = |number| Pace::new(1000, 2, number);
        assert_eq!(due(0).due(0), Duration::ZERO);
        assert_eq!(due(1).due(0), Duration::from_millis(1));
        assert_eq!(due(0).due(500), Duration::from_secs(1));
        // A rate below one for each is kept too.
        assert_eq!(Pace::new(1, 4, 3).due(1), Duration::from_secs(7));
    }
}
