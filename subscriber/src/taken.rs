//! What the application took, told without a message an item.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// How the application tells what it took, without a message an item.
///
/// **Order.** A tag covers the first so many items, and the cursor may not pass them before the tag is known. The
/// application sets the tag and only then takes more; so whoever reads the count first and the tag second
/// ([`Taken::read`]) never sees a count without the tag that was set before it.
#[derive(Debug)]
pub(crate) struct Taken {
    count: AtomicU64,
    /// The newest tag nobody has read yet, and how many items it covers.
    tag: Mutex<Option<(Bytes, u64)>>,
    /// The driver wants to know when `count` gets here.
    wake_at: AtomicU64,
    wake: Notify,
}

impl Taken {
    pub(crate) fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            tag: Mutex::new(None),
            wake_at: AtomicU64::new(u64::MAX),
            wake: Notify::new(),
        }
    }

    /// The application took `count` items in all.
    pub(crate) fn set(&self, count: u64) {
        if self.count.swap(count, Ordering::SeqCst) != count && count >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_at.store(u64::MAX, Ordering::SeqCst);
            self.wake.notify_one();
        }
    }

    /// The application's note about the first `covered` items; it replaces one that was not read yet.
    pub(crate) fn set_tag(&self, tag: Bytes, covered: u64) {
        let before = self.tag.lock().unwrap_or_else(PoisonError::into_inner).replace((tag, covered));
        // Whoever has not read the last one is awake already.
        if before.is_none() {
            self.wake.notify_one();
        }
    }

    /// Wakes the driver when `count` items were taken. Who asks looks at [`Taken::read`] afterwards: what was taken in
    /// between wakes nobody.
    pub(crate) fn wake_when(&self, count: u64) {
        self.wake_at.store(count, Ordering::SeqCst);
    }

    /// Waits for that, or for a tag. Cancel-safe.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// How many it took, to compute when to be woken; [`Taken::read`] for everything else.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// How many it took, and the newest tag if it was not read before: the tag goes into the ledger first.
    pub(crate) fn read(&self) -> (u64, Option<(Bytes, u64)>) {
        let count = self.count();
        let tag = self.tag.lock().unwrap_or_else(PoisonError::into_inner).take();
        (count, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_never_read_without_the_tag_set_before_it() {
        let taken = Taken::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1..=100_000_u64 {
                    taken.set_tag(Bytes::copy_from_slice(&n.to_be_bytes()), n);
                    taken.set(n + 1);
                }
            });
            let mut covered = 0;
            while covered < 100_000 {
                let (count, tag) = taken.read();
                covered = tag.map_or(covered, |(_, covers)| covers);
                assert!(count <= covered + 1, "{count} items taken, the newest tag covers {covered}");
            }
        });
    }
}
