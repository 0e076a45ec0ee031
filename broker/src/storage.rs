//! A broker's store as its topics and sessions share it.

use std::sync::Arc;

use crate::limits::Limits;
use crate::reads::Reads;
use crate::store::{Commit, Log, LogError};

/// The log's two ends: the commit thread that writes, the pool that reads.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) commit: Arc<Commit>,
    pub(crate) reads: Reads,
    /// What a topic holds of its newest records beside the log, bytes.
    pub(crate) ring_bytes: usize,
}

impl Storage {
    pub(crate) fn start(log: Arc<dyn Log>, limits: &Limits) -> Result<Self, LogError> {
        let commit = Arc::new(Commit::with_budget(log.clone(), limits.commit_bytes.get())?);
        Ok(Self { commit, reads: Reads::new(log), ring_bytes: limits.ring_bytes.get() })
    }

    /// Why nothing is stored, as of now: [`LogError::Full`] passes by itself, anything else with a restart.
    pub(crate) fn trouble(&self) -> Option<LogError> {
        self.commit.failure().or_else(|| self.reads.log().room().err())
    }
}
