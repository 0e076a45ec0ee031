//! A broker's store as its topics and sessions share it.

use std::sync::Arc;

use crate::reads::Reads;
use crate::store::{Commit, Log, LogError};

/// The log's two ends: the commit thread that writes, the pool that reads.
#[derive(Clone)]
pub(crate) struct Storage {
    pub(crate) commit: Arc<Commit>,
    pub(crate) reads: Reads,
}

impl Storage {
    pub(crate) fn start(log: Arc<dyn Log>) -> Result<Self, LogError> {
        Ok(Self { commit: Arc::new(Commit::start(log.clone())?), reads: Reads::new(log) })
    }
}
