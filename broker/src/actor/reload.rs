//! After a failed write: the machine is ahead of its log, and must be made anew from it.

use tokio::time::Instant;

use super::{Actor, keep};
use crate::handle::WatchEvent;
use crate::load::{self, Loaded};
use crate::store::{Log, LogError};

impl Actor {
    /// The machine is ahead of its log: makes it anew from what is stored, with a new writer.
    pub(super) async fn reload(&mut self) {
        self.reload_at = None;
        let begun = Instant::now();
        let writer = self.storage.commit.writer();
        let origin = self.topic.origin().clone();
        let load = move |log: &dyn Log| {
            // First: what failed for want of space is there afterwards, or is not.
            log.recover()?;
            Ok(load::load(log, origin.id, &origin.genesis))
        };
        match self.storage.reads.run(load).await {
            Ok(Ok(Loaded { machine, index, .. })) => {
                self.machine = machine;
                self.writer = writer;
                self.topic.replace_index(index, keep(&self.machine));
                // A write may have failed and its records stand in the log all the same: they were never told, and the ring
                // does not hold them. Nor is anything to be read there that the log lost.
                let visible = self.machine.visible();
                self.topic.ring().restart(visible);
                self.stored.send_replace(visible);
                self.visible.send_replace(visible);
                self.topic.tell(WatchEvent::Again);
                tracing::info!(topic = %self.topic.id().short(), "took up the log again");
            }
            Ok(Err(error)) => tracing::error!(topic = %self.topic.id().short(), %error, "still read-only"),
            // Said by the commit thread, and again with every write that comes.
            Err(LogError::Full { .. }) => {}
            Err(error) => tracing::error!(topic = %self.topic.id().short(), %error, "still read-only"),
        }
        if self.machine.has_failed() {
            self.reload_at = Some(Instant::now() + self.reload_pause);
        }
        // A large roster takes a while to read: not more than a tenth of the time.
        self.reload_pause = self.reload_pause.max(begun.elapsed() * 10);
    }
}
