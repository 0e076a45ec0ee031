//! Reads from the log: they may wait for the disk, so they run beside the async tasks, a bounded number at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::limits;
use crate::store::{Log, LogError};

/// The bounded pool of readers.
#[derive(Clone)]
pub(crate) struct Reads {
    log: Arc<dyn Log>,
    turns: Arc<Semaphore>,
    replays: Arc<Semaphore>,
    begun: Instant,
    /// When a subscriber that is not behind was served last, milliseconds since `begun`, and one more; 0: never.
    live: Arc<AtomicU64>,
}

/// A replay's turn, until it is dropped.
pub(crate) type Turn = Option<OwnedSemaphorePermit>;

impl Reads {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            turns: Arc::new(Semaphore::new(limits::READERS)),
            replays: Arc::new(Semaphore::new(limits::REPLAYS)),
            begun: Instant::now(),
            live: Arc::default(),
        }
    }

    /// Notes that a subscriber is served which is not behind.
    pub(crate) fn note_live(&self) {
        self.live.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether there are subscribers that are not behind, and something for them.
    pub(crate) fn are_live(&self) -> bool {
        let last = self.live.load(Ordering::Relaxed);
        last > 0 && self.now_ms().saturating_sub(last) < limits::LIVE_MS
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Waits for a turn to read a piece of the log for somebody who is behind. Those turns are fewer than what can be read
    /// at once, and who had one queues again behind the others: however many replay, what live readers look up (their
    /// slot of a new header) waits for none of them.
    pub(crate) async fn replay(&self) -> Turn {
        // The semaphore is never closed.
        self.replays.clone().acquire_owned().await.ok()
    }

    /// Runs `read` on a thread that may block, when its turn comes.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        // The semaphore is never closed; without a turn the read would only be less polite.
        let turn = self.turns.clone().acquire_owned().await.ok();
        let log = self.log.clone();
        let work = tokio::task::spawn_blocking(move || {
            let result = read(&*log);
            drop(turn);
            result
        });
        work.await.unwrap_or(Err(LogError::Closed))
    }

    /// The log itself, for what does not wait.
    pub(crate) fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::MemoryLog;

    #[tokio::test(start_paused = true)]
    async fn who_is_served_at_the_head_counts_as_live_for_a_while() {
        let reads = Reads::new(Arc::new(MemoryLog::new()));
        assert!(!reads.are_live(), "nobody was served yet");
        reads.note_live();
        assert!(reads.clone().are_live());
        tokio::time::advance(Duration::from_millis(limits::LIVE_MS)).await;
        assert!(!reads.are_live());
    }

    #[tokio::test]
    async fn replays_have_so_many_turns_and_hold_up_no_other_read() {
        let reads = Reads::new(Arc::new(MemoryLog::new()));
        let mut turns = Vec::new();
        for _ in 0..limits::REPLAYS {
            turns.push(reads.replay().await);
        }
        let next = reads.replay();
        tokio::pin!(next);
        tokio::select! {
            biased;
            _ = &mut next => panic!("one turn more than there are"),
            () = tokio::task::yield_now() => {}
        }
        assert!(reads.run(|log| log.topics()).await.is_ok(), "a live reader waits for none");
        turns.pop();
        assert!(next.await.is_some());
    }
}
