//! Subscribe to a topic with a private key.
//!
//! ```text
//! Subscription ◄─ items ─ driver ─ Input ─► Inbox (pure): roster, epochs, batches, silence ─ Effects ─► driver
//!      │                    ▲ │                └─ ledger: what was taken, and so may be saved
//!      └─ taken, tag, commit┘ ├── QUIC: delivery stream, fetches, prekeys; again and again
//!                             └── state directory: cursor and keys as of what was taken
//! ```
//!
//! Every message is verified and opened before the application sees it, in the order in which its publisher numbered
//! it. What is missing, repeated, reordered, forged, cut off or withheld is never silent: it is an [`Event`] between
//! the messages.
//!
//! Architecture Invariant: the driver decides nothing and the inbox touches nothing. `inbox`, `ledger`, `cursor` and
//! `event` know of no task, clock, socket or file: they are tested in virtual time.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod clock;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod cursor;
mod driver;
mod error;
mod event;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod inbox;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod ledger;
mod outage;
mod prekeys;
mod stream;
mod subscriber;
mod subscription;
mod taken;
mod wire;

pub use error::SubscribeError;
pub use event::{Event, GapReason, Item, Received, RefusedReason};
pub use inbox::{Counters, PublisherHead};
pub use outage::Outages;
pub use subscriber::{StartAt, SubscribeOptions, Subscriber};
pub use subscription::{MAX_TAG, Subscription};
