//! How many tasks of a kind are at work: so that a shutdown can wait for them.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// A count of tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks(watch::Sender<usize>);

/// One task, until it is dropped.
#[derive(Debug)]
pub(crate) struct Working(watch::Sender<usize>);

impl Tasks {
    pub(crate) fn one_more(&self) -> Working {
        self.0.send_modify(|count| *count += 1);
        Working(self.0.clone())
    }

    /// Waits until none is left; false: the time ran out.
    pub(crate) async fn none_left(&self, most: Duration) -> bool {
        timeout(most, self.0.subscribe().wait_for(|count| *count == 0)).await.is_ok()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_last_one() {
        let tasks = Tasks::default();
        let working = tasks.one_more();
        assert!(!tasks.none_left(Duration::from_secs(1)).await);
        drop(working);
        assert!(tasks.none_left(Duration::from_secs(1)).await);
    }
}
