//! Reads from the log: they may wait for the disk, so they run beside the async tasks, a bounded number at a time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;
use crate::store::{Log, LogError};

/// The bounded pool of readers.
#[derive(Clone)]
pub(crate) struct Reads {
    log: Arc<dyn Log>,
    turns: Arc<Semaphore>,
    replays: Arc<Semaphore>,
}

/// A replay's turn, until it is dropped.
pub(crate) type Turn = Option<OwnedSemaphorePermit>;

impl Reads {
    pub(crate) fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            turns: Arc::new(Semaphore::new(limits::READERS)),
            replays: Arc::new(Semaphore::new(limits::REPLAYS)),
        }
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
    use super::*;
    use crate::store::MemoryLog;

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
