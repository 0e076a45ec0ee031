//! Publish to a topic, and administer who may read and publish.
//!
//! ```text
//! Topic ─ send ─► driver ─ Input ─► Outbox (pure) ─ Effect ─► driver ─► QUIC: publish stream
//!                   ▲                   ▲                        │
//!                   │ acknowledgements  │ roster, prekeys        └──► state directory: marks
//!                   └──── QUIC ─────────┴── QUIC: watch
//! ```
//!
//! A message is encrypted once; its epoch's key is wrapped to every member. When the roster changes the key rotates:
//! the outbox decides when, the driver does it. [`TopicAdmin`] signs the roster's entries and waits until every
//! live publisher has taken notice.

mod admin;
mod clock;
mod confirm;
mod directory;
mod driver;
mod error;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod fork;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod marks;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod outbox;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod saved_admin;
mod session;
mod standstill;
mod topic;

pub use admin::{AdminError, TopicAdmin, renew_prekey};
pub use confirm::Confirmation;
pub use driver::TopicStatus;
pub use error::PublishError;
pub use fork::Fork;
pub use outbox::Receipt;
pub use standstill::Standstill;
pub use topic::{Pending, Publisher, Topic};
