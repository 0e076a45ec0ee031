//! Going on after the disk was full in the middle of a write, or under one of the engine's threads: the engine then takes
//! nothing more until it is opened anew. What it had acknowledged is in its journals.

use std::sync::{Arc, PoisonError};

use super::engine::{Engine, is_full, translate};
use super::topics;
use super::{FjallLog, HEADROOM};
use crate::store::LogError;

impl FjallLog {
    /// Opens the engine again, if there is space. The caller holds [`FjallLog::writing`].
    ///
    /// Whether the write that failed is there afterwards is not known before; whoever made it reads the log again.
    pub(super) fn reopen(&self) -> Result<(), LogError> {
        // Opening takes space too. While it is tried readers wait, and if it fails they find nothing.
        self.room_for(HEADROOM, self.options.reserve_bytes)?;
        let mut slot = self.engine.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = slot.take()
            && let Err(shared) = Arc::try_unwrap(engine).map(drop)
        {
            // Somebody reads: the next write, or the next look, finds it free.
            *slot = Some(shared);
            return Err(self.full(self.dir.free()?));
        }
        let opened = Engine::open(&self.dir, &self.options).and_then(|(engine, _)| {
            let doing = |error| translate("opening the storage engine again", &self.dir, error);
            engine.sync().map_err(doing)?;
            let found = topics::tails(&engine, doing)?;
            Ok((engine, found))
        });
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match opened {
            Ok((engine, (tails, lost))) => {
                *slot = Some(Arc::new(engine));
                *self.tails.write().unwrap_or_else(PoisonError::into_inner) = tails;
                *self.lost.write().unwrap_or_else(PoisonError::into_inner) = lost;
                *failed = None;
                tracing::info!("there is space again: the store goes on");
                Ok(())
            }
            Err(error) if is_full(&error) => Err(self.full(0)),
            Err(error) => Err(failed.insert(error).clone()),
        }
    }
}
