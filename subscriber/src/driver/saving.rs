//! Saving: coalesced, never two at once, each answered to those who wait for it.

use std::sync::Arc;
use std::time::Duration;

use sealcast_state::StateError;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Driver, Tasks};
use crate::error::SubscribeError;

/// How long a subscription that ends waits for the broker to take its member's prekey: some round trips and an fsync.
const PREKEY_PATIENCE: Duration = Duration::from_secs(2);

impl Driver {
    pub(super) fn start_save(&mut self, tasks: &mut Tasks) {
        tasks.save_at = None;
        if self.items.is_some() && self.inbox.ledger().cursor().next_offset.is_none() {
            // Nothing to resume at yet: who waits is answered when there is, in a moment.
            return;
        }
        self.take();
        tasks.saving.append(&mut tasks.waiting);
        tasks.position = self.inbox.ledger().cursor().next_offset.unwrap_or_default();
        if !self.inbox.ledger().take_dirty() {
            return self.answer_saved(&Ok(()), tasks);
        }
        let (bytes, state) = (self.inbox.ledger().cursor().encode(), Arc::clone(&self.state));
        tasks.save = Some(tokio::task::spawn_blocking(move || state.save(&bytes)));
    }

    pub(super) fn on_saved(&mut self, result: Result<(), StateError>, tasks: &mut Tasks) {
        let result = result.map_err(SubscribeError::from);
        if let Err(SubscribeError::State(error)) = &result {
            self.inbox.ledger().set_dirty();
            if tasks.saving.is_empty() {
                // Nobody waits for this one, so it is an item: a reader that cannot save must not go on for days.
                self.fail(error, tasks);
            }
        }
        self.answer_saved(&result, tasks);
    }

    fn answer_saved(&self, result: &Result<(), SubscribeError>, tasks: &mut Tasks) {
        let position = tasks.position;
        for reply in tasks.saving.drain(..) {
            // Who asked may be gone.
            let _ = reply.send(result.clone().map(|()| position));
        }
    }

    pub(super) async fn last_save(mut self, mut tasks: Tasks) {
        if tasks.save.is_some() {
            let result = joined(&mut tasks.save).await;
            self.on_saved(result, &mut tasks);
        }
        let waiting = std::mem::take(&mut tasks.waiting);
        self.start_save(&mut tasks);
        let result = match tasks.save.is_some() {
            true => joined(&mut tasks.save).await.map_err(SubscribeError::from),
            false => Ok(()),
        };
        if let Err(error) = &result {
            tracing::warn!(%error, "the subscription's last position was not saved");
        }
        let position = tasks.position;
        self.see_to_prekeys(&mut tasks);
        if let Some(prekeys) = tasks.prekeys.take() {
            // The next subscription tries again.
            let _ = timeout(PREKEY_PATIENCE, prekeys).await;
        }
        // Whoever is told that it is closed may open it again: nothing of it is left by then.
        drop((self, tasks));
        for reply in waiting {
            // Who asked may be gone.
            let _ = reply.send(result.clone().map(|()| position));
        }
    }
}

/// The save under way is over.
pub(super) async fn joined(save: &mut Option<JoinHandle<Result<(), StateError>>>) -> Result<(), StateError> {
    let Some(handle) = save else { return std::future::pending().await };
    let result = handle.await;
    *save = None;
    match result {
        Ok(result) => result,
        // The runtime is going down, or the save panicked: either way nobody can be told.
        Err(_) => std::future::pending().await,
    }
}
