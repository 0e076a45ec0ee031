//! What the application took, told without a message an item.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// How the application tells what it took, without a message an item.
#[derive(Debug)]
pub(crate) struct Taken {
    count: AtomicU64,
    /// The driver wants to know when `count` gets here.
    wake_at: AtomicU64,
    wake: Notify,
}

impl Taken {
    pub(crate) fn new() -> Self {
        Self { count: AtomicU64::new(0), wake_at: AtomicU64::new(u64::MAX), wake: Notify::new() }
    }

    /// The application took `count` items in all.
    pub(crate) fn set(&self, count: u64) {
        if self.count.swap(count, Ordering::SeqCst) != count && count >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_at.store(u64::MAX, Ordering::SeqCst);
            self.wake.notify_one();
        }
    }

    /// Wakes the driver when `count` items were taken. Who asks looks at [`Taken::get`] afterwards: what was taken in
    /// between wakes nobody.
    pub(crate) fn wake_when(&self, count: u64) {
        self.wake_at.store(count, Ordering::SeqCst);
    }

    /// Waits for that. Cancel-safe.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// How many it took.
    pub(crate) fn get(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }
}
