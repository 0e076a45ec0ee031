//! The broker: it stores and forwards what it cannot read (docs/protocol.md section 8).
//!
//! ```text
//! session ── records ──► topic actor ── machine ── Append ──► commit thread ── one fsync ──► Log
//!    ▲                        │ ▲                                   │
//!    │                     ring, head ◄──────── Committed ──────────┘
//!    └── Ack, Refused ◄───────┤
//! subscription: a cursor ◄────┴── the ring of recent records, and behind it the log
//! ```
//! A publisher's record is acknowledged, and a subscriber sees it, only once it is as safe as the topic's policy promises.
//! A subscription is a cursor, not a queue: a slow one lags and reads from the log; it holds nobody up.
//!
//! Architecture Invariant: no crate that can open an envelope is linked here; what the broker keeps and relays is
//! ciphertext whose keys it never had.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod actor;
pub mod archive;
mod broker;
mod casts;
pub mod cli;
mod clock;
mod config;
mod damage;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod delivery;
mod edge;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod handle;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
mod key;
pub mod limits;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod load;
mod logging;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod lookup;
mod notify;
pub mod ops;
mod order;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod outgoing;
mod present;
mod rate;
mod reads;
mod registry;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod retention;
mod ring;
#[allow(missing_docs, unreachable_pub, reason = "public in `internals` only")]
mod roster_index;
mod session;
pub mod settings;
mod shared;
mod storage;
pub mod store;
mod tasks;
pub mod topic;

pub use broker::Broker;
pub use config::{Config, StartError};
pub use edge::MarksError;
pub use key::{KEY_FILE, KeyFileError};
pub use limits::Limits;
pub use load::LoadError;
pub use order::{OrderError, Servers};

#[cfg(test)]
mod faulty;
#[cfg(test)]
#[path = "../tests/it/hand.rs"]
mod hand;
