//! Whether a broker carries the subscription, for whoever wants to be told.
//!
//! No item: it says nothing of what was published. Silence that hides messages is an item, [`Event::Stalled`](crate::Event).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How long no broker carries a subscription before it is said: a restart on the same machine takes less.
const AFTER: Duration = Duration::from_secs(5);

/// The application's half.
pub struct Outages(watch::Receiver<Option<Arc<str>>>);

impl std::fmt::Debug for Outages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Outages").field(&*self.0.borrow()).finish()
    }
}

impl Outages {
    /// The next change: `Some` says why no broker of the link has carried the subscription for five seconds since that was
    /// noticed (a dead one is after 30 s of silence at most), `None` that one does again. It is asked for again all the while. Never completes once the subscription has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<str>> {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

/// The driver's half.
pub(crate) struct Watch {
    told: watch::Sender<Option<Arc<str>>>,
    since: Option<Instant>,
    refused: Option<String>,
}

impl Watch {
    pub(crate) fn new() -> (Self, Outages) {
        let (told, seen) = watch::channel(None);
        (Self { told, since: None, refused: None }, Outages(seen))
    }

    /// Nothing is carried from here on; `why`, where the broker said so itself.
    pub(crate) fn lost(&mut self, why: Option<String>) {
        self.since.get_or_insert_with(Instant::now);
        self.refused = why.or(self.refused.take());
    }

    /// Something is.
    pub(crate) fn carried(&mut self) {
        (self.since, self.refused) = (None, None);
        self.told.send_if_modified(|told| told.take().is_some());
    }

    /// Time passes; `error`: why the last attempt to connect failed.
    pub(crate) fn tick(&mut self, error: impl FnOnce() -> Option<String>) {
        if self.since.is_none_or(|since| since.elapsed() < AFTER) || self.told.borrow().is_some() {
            return;
        }
        let why = error().or(self.refused.take()).unwrap_or_else(|| "the broker does not answer".into());
        self.told.send_replace(Some(why.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_told_once_with_its_reason_and_so_is_its_end() {
        let (mut watch, mut outages) = Watch::new();
        watch.tick(|| None);
        watch.lost(None);
        tokio::time::advance(AFTER / 2).await;
        // Another attempt that came to nothing: it is one outage.
        watch.lost(Some("busy".into()));
        watch.tick(|| None);
        assert!(!outages.0.has_changed().unwrap());
        tokio::time::advance(AFTER / 2).await;
        watch.tick(|| None);
        assert_eq!(outages.next().await.as_deref(), Some("busy"));
        watch.tick(|| Some("another".into()));
        assert!(!outages.0.has_changed().unwrap(), "it was told");
        watch.carried();
        assert_eq!(outages.next().await, None);
        watch.carried();
        assert!(!outages.0.has_changed().unwrap());
    }
}
