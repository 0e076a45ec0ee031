//! Rates: token buckets that let a burst of a second through, and then as much a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A token bucket that may be overdrawn: whoever takes too much waits afterwards, so that a record larger than a second's
/// share comes through too.
#[derive(Debug)]
pub(crate) struct Bucket(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the bucket is full, if nothing more is taken: how far ahead that is says how empty it is.
    full_at: Instant,
}

/// What a full bucket lets through at once: a second's share.
const BURST: Duration = Duration::from_secs(1);

impl Bucket {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { full_at: Instant::now() }))
    }

    /// Takes `n` of `per_second` and says how long to wait until that much was due; 0 a second: no limit.
    pub(crate) fn take(&self, n: u64, per_second: u64) -> Duration {
        if per_second == 0 {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = state.full_at.max(now) + costs(n, per_second);
        state.full_at = full_at;
        (full_at - now).saturating_sub(BURST)
    }

    /// As [`Bucket::take`] where nobody can be made to wait: takes one only if it is there.
    pub(crate) fn try_take(&self, per_second: u64) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = state.full_at.max(now) + costs(1, per_second);
        let may = per_second == 0 || full_at - now <= BURST;
        if may && per_second > 0 {
            state.full_at = full_at;
        }
        may
    }

    /// Whether it says no more than a new one would.
    pub(crate) fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).full_at <= Instant::now()
    }
}

fn costs(n: u64, per_second: u64) -> Duration {
    let nanos = u128::from(n) * 1_000_000_000 / u128::from(per_second.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2).min(u64::MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep};

    #[tokio::test(start_paused = true)]
    async fn a_second_at_once_and_then_as_much_a_second() {
        let bucket = Bucket::new();
        assert_eq!(bucket.take(1_000, 1_000), Duration::ZERO);
        let begun = Instant::now();
        for _ in 0..50 {
            sleep(bucket.take(100, 1_000)).await;
        }
        assert_eq!(begun.elapsed().as_secs(), 5);
        assert!(!bucket.is_full());
        advance(Duration::from_secs(1)).await;
        assert!(bucket.is_full());
        advance(Duration::from_secs(100)).await;
        assert_eq!(bucket.take(1_000, 1_000), Duration::ZERO, "what was not used is not saved up:");
        assert_eq!(bucket.take(500, 1_000), Duration::from_millis(500));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_second_holds_is_waited_for_afterwards() {
        let bucket = Bucket::new();
        assert_eq!(bucket.take(10_000, 1_000), Duration::from_secs(9));
        assert_eq!(bucket.take(u64::MAX, 0), Duration::ZERO, "no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_wait_is_refused() {
        let bucket = Bucket::new();
        assert_eq!((0..30).filter(|_| bucket.try_take(10)).count(), 10);
        advance(Duration::from_millis(200)).await;
        assert_eq!((0..30).filter(|_| bucket.try_take(10)).count(), 2);
        assert!(bucket.try_take(0));
    }
}
