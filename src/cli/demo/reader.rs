//! A member that reads: everything it gets is kept, to be compared at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sealcast_proto::{Epoch, Identity, PublicKey, TopicLink};
use sealcast_state::State;
use sealcast_subscriber::{Event, StartAt, Subscriber};
use tokio::sync::watch;

use crate::cli::failure::{Exit, Failure};

/// How long anything may take before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a reader got so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Got {
    pub(crate) messages: Vec<(Epoch, Bytes)>,
    /// It was told that messages exist which it cannot open.
    pub(crate) locked: bool,
    /// It was told of its removal.
    pub(crate) removed: bool,
    /// Whatever else it was told that should not happen here.
    pub(crate) trouble: Vec<String>,
}

/// A member and what it got.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) name: &'static str,
    pub(crate) identity: Arc<Identity>,
    got: Arc<Mutex<Got>>,
    changed: watch::Sender<()>,
}

impl Reader {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            identity: Arc::new(Identity::generate(&mut rand::rng())),
            got: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.identity.public()
    }

    /// Subscribes, and from then on keeps what comes.
    pub(crate) async fn subscribe(
        &self,
        link: &TopicLink,
        state: &State,
        from: StartAt,
    ) -> Result<(), Failure> {
        let subscriber = Subscriber::new(Arc::clone(&self.identity), state.clone());
        let mut subscription = subscriber.subscribe(link, from).await?;
        let (got, changed) = (Arc::clone(&self.got), self.changed.clone());
        tokio::spawn(async move {
            while let Some(item) = subscription.next().await {
                {
                    let mut got = got.lock().unwrap_or_else(PoisonError::into_inner);
                    match item {
                        Ok(received) => got.messages.push((received.epoch, received.message.payload)),
                        Err(Event::Locked { .. }) => got.locked = true,
                        Err(Event::Removed) => got.removed = true,
                        // The broker is killed on purpose: silence, and the end of the publisher, belong to the story.
                        Err(Event::Stalled { .. } | Event::Ended { .. }) => {}
                        Err(event) => got.trouble.push(event.to_string()),
                    }
                }
                changed.send_replace(());
            }
        });
        Ok(())
    }

    pub(crate) fn got(&self) -> Got {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until what it got is like this.
    pub(crate) async fn until(&self, what: &str, like: impl Fn(&Got) -> bool) -> Result<(), Failure> {
        let mut changed = self.changed.subscribe();
        let waited = tokio::time::timeout(PATIENCE, async {
            while !like(&self.got.lock().unwrap_or_else(PoisonError::into_inner)) {
                // The sender is ours: it lives.
                let _ = changed.changed().await;
            }
        });
        waited.await.map_err(|_| {
            let got = self.got();
            let trouble = got.trouble.first().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
            Failure::new(
                Exit::Failure,
                format!("{} did not get {what} in time; it has {}{trouble}", self.name, got.messages.len()),
            )
        })
    }
}
