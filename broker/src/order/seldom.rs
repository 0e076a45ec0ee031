//! What would be said of every record while something lasts, said now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two times.
const EVERY: Duration = Duration::from_secs(10);

/// When something was said last.
#[derive(Default)]
pub(super) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is to be said now.
    pub(super) fn now(&self) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = said.is_none_or(|at| at.elapsed() >= EVERY);
        if is_due {
            *said = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_said_at_once_and_then_now_and_then() {
        let seldom = Seldom::default();
        assert!(seldom.now() && !seldom.now());
        tokio::time::advance(EVERY - Duration::from_millis(1)).await;
        assert!(!seldom.now());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(seldom.now() && !seldom.now());
    }
}
