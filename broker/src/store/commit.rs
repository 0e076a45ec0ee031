//! The commit thread: what waits is written together and fsynced once.
//!
//! ```text
//! session: reserve(bytes).await ─► Budget ─► topic: writer.submit(budget, writes, when, done) ─► queue
//! commit thread: drain the queue ─► one atomic write, one fsync ─► done(Ok) for each, in order
//! ```
//! Group commit without a timer: while one fsync runs, the next group gathers. Only what nobody waits for ([`When::Later`])
//! gathers for [`LINGER`], and wakes no thread meanwhile: on a busy core that would go before what is delivered. Memory is bounded by the budget, which a
//! submission holds until it is synced: that is the back-pressure on publishers, and it is felt where the budget is
//! awaited, before the record is taken off its stream.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread, park_timeout};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{Log, LogError, Write};

/// What may wait to be synced, bytes: 64 largest records, or a quarter of a second of a disk that writes 256 MB/s; more
/// would only add latency.
pub const COMMIT_BUDGET: usize = 64 << 20;
/// A group takes no further submission beyond this, bytes: keeps a single fsync, and so the latency of a small record
/// that waits behind it, to some tens of milliseconds on a slow disk.
pub const GROUP_BYTES: usize = 8 << 20;
/// How long what nobody waits for gathers before it is written: two hundred groups a second at most, and a two-hundredth of
/// what a power cut may take of such a topic anyway ([`crate::limits::SYNC_EVERY`]).
pub const LINGER: Duration = Duration::from_millis(5);
/// What the budget is counted in, bytes: every submission holds at least one unit, which bounds their number too.
const UNIT: usize = 1024;

/// The commit thread of one [`Log`].
pub struct Commit {
    queue: Sender<Message>,
    budget: Arc<Semaphore>,
    units: u32,
    shared: Arc<Shared>,
    worker: Thread,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A part of what may wait to be synced. Given back when dropped: at the latest when the submission has completed.
#[derive(Debug)]
pub struct Budget(OwnedSemaphorePermit);

/// One source of writes whose order matters: a topic.
///
/// When a submission of a writer fails, all its later ones fail too, so that nothing is ever stored without what went
/// before it. Its owner then reads its state back from the log and goes on with a new writer.
#[derive(Clone)]
pub struct Writer {
    queue: Sender<Message>,
    worker: Thread,
    failure: Arc<OnceLock<LogError>>,
}

/// When a submission is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// As soon as it can be; done once it is as safe as [`Log::level`].
    Synced,
    /// As soon as it can be; done once it is written.
    Written,
    /// Within [`LINGER`] or with whatever comes first; done once it is written. For what nobody waits for.
    Later,
}

/// How the commit thread has fared, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Groups written.
    pub groups: u64,
    /// Submissions in them.
    pub submissions: u64,
    /// About how many bytes.
    pub bytes: u64,
    /// Microseconds spent writing and syncing.
    pub busy_us: u64,
}

impl Commit {
    /// Starts the thread, with the usual [`COMMIT_BUDGET`].
    pub fn start(log: Arc<dyn Log>) -> Result<Self, LogError> {
        Self::with_budget(log, COMMIT_BUDGET)
    }

    /// Starts the thread; at most `budget` bytes wait.
    pub fn with_budget(log: Arc<dyn Log>, budget: usize) -> Result<Self, LogError> {
        let units = u32::try_from(budget / UNIT).unwrap_or(u32::MAX).max(1);
        let shared = Arc::new(Shared::default());
        let (queue, waiting) = channel();
        let worker = Worker { log, shared: shared.clone() };
        let thread = std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || worker.run(&waiting))
            .map_err(|error| LogError::Io { doing: "starting the commit thread", error: Arc::new(error) })?;
        // u32 fits usize wherever this runs, and stays far below Semaphore::MAX_PERMITS there.
        let permits = usize::try_from(units).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Ok(Self {
            queue,
            budget: Arc::new(Semaphore::new(permits)),
            units,
            shared,
            worker: thread.thread().clone(),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Waits until `bytes` more may wait to be synced. More than the whole budget counts as the whole.
    pub async fn reserve(&self, bytes: usize) -> Result<Budget, LogError> {
        let units = self.units_of(bytes);
        // The semaphore is closed by shut_down only.
        self.budget.clone().acquire_many_owned(units).await.map(Budget).map_err(|_| LogError::Closed)
    }

    /// As [`Commit::reserve`], without waiting: `None` if that much is not free.
    pub fn try_reserve(&self, bytes: usize) -> Option<Budget> {
        self.budget.clone().try_acquire_many_owned(self.units_of(bytes)).ok().map(Budget)
    }

    /// A new source of writes. Take it first and read the log's state then: what another writer of the same topic still
    /// has in the queue is not seen by such a read.
    pub fn writer(&self) -> Writer {
        Writer { queue: self.queue.clone(), worker: self.worker.clone(), failure: Arc::new(OnceLock::new()) }
    }

    /// Reserves, submits, and waits until synced: for what belongs to no topic's order (a prekey, a slot table's chunk).
    pub async fn write(&self, writes: Vec<Write>) -> Result<(), LogError> {
        let budget = self.reserve(writes.iter().map(Write::size).sum()).await?;
        let (done, result) = oneshot::channel();
        self.writer().submit(budget, writes, When::Synced, move |result| {
            // Whoever no longer waits need not know.
            let _ = done.send(result);
        });
        result.await.unwrap_or(Err(LogError::Closed))
    }

    /// Why nothing is stored any more until a restart; `None` while things are, or will be once there is space.
    pub fn failure(&self) -> Option<LogError> {
        self.shared.fatal.get().cloned()
    }

    /// How it has fared.
    pub fn stats(&self) -> CommitStats {
        let Counters { groups, submissions, bytes, busy_us } = &self.shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitStats {
            groups: read(groups),
            submissions: read(submissions),
            bytes: read(bytes),
            busy_us: read(busy_us),
        }
    }

    /// Writes and syncs what was submitted so far, then ends the thread; waits for that. Later submissions are
    /// [`LogError::Closed`].
    pub fn shut_down(&self) {
        self.budget.close();
        // An error means that the thread has ended already.
        let _ = self.queue.send(Message::Stop);
        self.worker.unpark();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the commit thread ended in a panic");
        }
    }

    fn units_of(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.units)
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Budget {
    /// Adds `other`'s share to this one.
    pub fn merge(&mut self, other: Budget) {
        // Of one Commit, so of one semaphore: tokio panics for two.
        self.0.merge(other.0);
    }
}

impl Writer {
    /// Queues `writes` to be stored together; never waits. `done(Ok)` says what [`When`] says. It is called exactly once,
    /// in the order of submission, on the commit thread: it must not wait for anything, nor panic. (It is called here and
    /// now if the thread has ended.)
    pub fn submit(
        &self,
        budget: Budget,
        writes: Vec<Write>,
        when: When,
        done: impl FnOnce(Result<(), LogError>) + Send + 'static,
    ) {
        let size = writes.iter().map(Write::size).sum();
        let done = Done(Some(Box::new(done)));
        let failure = self.failure.clone();
        // If the thread has ended, the submission comes back and is dropped, which completes it.
        let _ = self.queue.send(Message::Submit(Submission { writes, size, when, failure, done, budget }));
        if when != When::Later {
            // It may be letting others gather.
            self.worker.unpark();
        }
    }

    /// Why this writer takes nothing more; its owner reads its state from the log again and takes a new one.
    pub fn failure(&self) -> Option<&LogError> {
        self.failure.get()
    }
}

enum Message {
    Submit(Submission),
    Stop,
}

struct Submission {
    writes: Vec<Write>,
    size: usize,
    when: When,
    failure: Arc<OnceLock<LogError>>,
    done: Done,
    // Last: dropped after `done` was called.
    budget: Budget,
}

impl Submission {
    fn complete(self, result: Result<(), LogError>) {
        if let Err(error) = &result {
            // The first failure stays.
            let _ = self.failure.set(error.clone());
        }
        let Self { done, budget, .. } = self;
        done.call(result);
        drop(budget);
    }
}

/// Calls back exactly once: with [`LogError::Closed`] if it is dropped uncalled.
struct Done(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), LogError>) + Send>;

impl Done {
    fn call(mut self, result: Result<(), LogError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(LogError::Closed));
        }
    }
}

#[derive(Default)]
struct Shared {
    fatal: OnceLock<LogError>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    groups: AtomicU64,
    submissions: AtomicU64,
    bytes: AtomicU64,
    busy_us: AtomicU64,
}

/// What goes into the next group.
#[derive(Default)]
struct Gathered {
    group: Vec<Submission>,
    size: usize,
    stop: bool,
}

impl Gathered {
    fn take(&mut self, message: Message) {
        match message {
            Message::Submit(submission) => {
                self.size = self.size.saturating_add(submission.size);
                self.group.push(submission);
            }
            Message::Stop => self.stop = true,
        }
    }

    fn is_full(&self) -> bool {
        self.stop || self.size >= GROUP_BYTES
    }

    /// All that waits, as far as there is room.
    fn drain(&mut self, waiting: &Receiver<Message>) {
        while !self.is_full()
            && let Ok(message) = waiting.try_recv()
        {
            self.take(message);
        }
    }

    /// Whether nobody waits for any of it.
    fn can_wait(&self) -> bool {
        !self.is_full() && self.group.iter().all(|submission| submission.when == When::Later)
    }
}

struct Worker {
    log: Arc<dyn Log>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&self, waiting: &Receiver<Message>) {
        let mut gathered = Gathered::default();
        while !gathered.stop {
            // An error: nobody is left who could submit.
            gathered.take(waiting.recv().unwrap_or(Message::Stop));
            gathered.drain(waiting);
            let until = Instant::now() + LINGER;
            while gathered.can_wait() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    break;
                }
                park_timeout(left);
                gathered.drain(waiting);
            }
            self.commit(std::mem::take(&mut gathered.group));
            gathered.size = 0;
        }
        // Unsynced writes too survive an orderly end.
        if self.shared.fatal.get().is_none()
            && let Err(error) = self.log.write(&[], true)
        {
            tracing::error!(%error, "the last sync failed");
        }
    }

    /// Writes a group; those that broke a rule fail alone.
    fn commit(&self, group: Vec<Submission>) {
        let group = self.alive(group);
        if group.is_empty() {
            return;
        }
        let result = self.write(&group);
        if group.len() > 1 && matches!(result, Err(LogError::Misuse(_))) {
            for submission in group {
                for submission in self.alive(vec![submission]) {
                    let result = self.write(std::slice::from_ref(&submission));
                    submission.complete(result);
                }
            }
            return;
        }
        for submission in group {
            submission.complete(result.clone());
        }
    }

    /// Completes, with their error, those whose writer or whose log has failed; returns the others.
    fn alive(&self, group: Vec<Submission>) -> Vec<Submission> {
        let mut alive = Vec::with_capacity(group.len());
        for submission in group {
            match self.shared.fatal.get().or(submission.failure.get()).cloned() {
                Some(error) => submission.complete(Err(error)),
                None => alive.push(submission),
            }
        }
        alive
    }

    fn write(&self, group: &[Submission]) -> Result<(), LogError> {
        let begun = Instant::now();
        let result =
            self.log.write(&coalesce(group), group.iter().any(|submission| submission.when == When::Synced));
        let counters = &self.shared.counters;
        let add = |counter: &AtomicU64, n: u64| counter.fetch_add(n, Ordering::Relaxed);
        add(&counters.busy_us, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX));
        match &result {
            Ok(()) => {
                add(&counters.groups, 1);
                add(&counters.submissions, group.len().try_into().unwrap_or(u64::MAX));
                let size: usize = group.iter().map(|submission| submission.size).sum();
                add(&counters.bytes, size.try_into().unwrap_or(u64::MAX));
            }
            // Nothing of it was written: the next may fare better.
            Err(error @ LogError::Full { .. }) => tracing::warn!(%error, "not stored"),
            Err(error @ LogError::Misuse(_)) => tracing::error!(%error, "not stored"),
            Err(error) => {
                tracing::error!(%error, "read-only from here on");
                // Only this thread sets it, and only once: it writes nothing afterwards.
                let _ = self.shared.fatal.set(error.clone());
            }
        }
        result
    }
}

/// All writes of a group in order, of each publisher's snapshots the last only: the others would be overwritten in the
/// same moment.
fn coalesce(group: &[Submission]) -> Vec<Write> {
    let all = || group.iter().flat_map(|submission| &submission.writes);
    let mut last = HashMap::new();
    for (at, write) in all().enumerate() {
        if let Write::Publisher { topic, publisher, .. } = write {
            last.insert((*topic, *publisher), at);
        }
    }
    let is_last = |at: usize, write: &Write| match write {
        Write::Publisher { topic, publisher, .. } => last.get(&(*topic, *publisher)) == Some(&at),
        _ => true,
    };
    all().enumerate().filter(|(at, write)| is_last(*at, write)).map(|(_, write)| write.clone()).collect()
}

#[cfg(test)]
#[path = "commit_test.rs"]
mod tests;
