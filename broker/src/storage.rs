//! A broker's store as its topics and sessions share it.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::limits::Limits;
use crate::order::Order;
use crate::reads::Reads;
use crate::store::{Commit, Log, LogError, When, Write};

/// The log's two ends: the commit thread that writes, the pool that reads.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) commit: Arc<Commit>,
    pub(crate) reads: Reads,
    /// What a topic holds of its newest records beside the log, bytes.
    pub(crate) ring_bytes: usize,
    /// The order that this broker shares with others: the log is its view of it then.
    pub(crate) order: Option<Arc<Order>>,
}

impl Storage {
    pub(crate) fn start(log: Arc<dyn Log>, limits: &Limits) -> Result<Self, LogError> {
        let commit = Arc::new(Commit::with_budget(log.clone(), limits.commit_bytes.get())?);
        Ok(Self { commit, reads: Reads::new(log), ring_bytes: limits.ring_bytes.get(), order: None })
    }

    /// Writes what belongs to no topic's order; synced, unless the log is a view of what is safe elsewhere.
    pub(crate) async fn put(&self, writes: Vec<Write>) -> Result<(), LogError> {
        if self.order.is_none() {
            return self.commit.write(writes).await;
        }
        let budget = self.commit.reserve(writes.iter().map(Write::size).sum()).await?;
        let (done, result) = oneshot::channel();
        self.commit.writer().submit(budget, writes, When::Written, move |result| {
            // Whoever no longer waits need not know.
            let _ = done.send(result);
        });
        result.await.unwrap_or(Err(LogError::Closed))
    }

    /// Why nothing is stored, as of now: [`LogError::Full`] passes by itself, anything else with a restart.
    pub(crate) fn trouble(&self) -> Option<LogError> {
        self.commit.failure().or_else(|| self.reads.log().room().err())
    }
}
