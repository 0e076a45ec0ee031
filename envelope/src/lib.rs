//! What the broker may not know: epoch secrets, wrapping, sealing, opening, prekeys, padding.
//!
//! ```text
//! publisher                                                      member
//! fresh / advance / rewrap ─► NewEpoch ─ finish ─► header, slot table ──► EpochReceiver::open_slot, ::advance, ::rewrap
//!                                 └──► EpochSender, Keks                        │
//! Message::encode ─► seal ─► BatchRecord ────── broker ─────► verify ─► open ─► Message::decode
//! ```
//! The publisher makes a random seed an epoch, wraps it once per member ([`wrap`]), and from the seed comes the ratchet
//! of batch keys (the tree is drawn in `derive.rs`). Each batch is encrypted once, for everybody.
//!
//! This crate is pure: time and randomness are arguments; it reads no clock, no file, no global random generator. What
//! travels in the clear is `sealcast-proto`'s.
//!
//! Architecture Invariant: no function takes a nonce; every AEAD key is derived, used once and wiped. Secrets are
//! boxed, wiped on drop, never cloned, and `Debug` prints their type's name only. The broker does not depend on this
//! crate.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod aead;
mod agree;
pub mod batch;
mod derive;
pub mod epoch;
mod hpke;
mod kdf;
mod kek;
pub mod message;
pub mod padme;
pub mod prekey;
pub mod receiver;
mod secret;
pub mod sender;
#[cfg(test)]
mod tests;
pub mod wrap;
pub mod wrap_key;

pub use batch::{MESSAGE_OVERHEAD, SealError, batch_fits, message_cost};
pub use epoch::{AdvanceFrom, EpochError, EpochPlan, NewEpoch, advance, fresh, rewrap};
pub use kek::{KekChange, Keks};
pub use message::{Message, MessageError};
pub use prekey::{PrekeyRing, RingError};
pub use receiver::{EpochReceiver, FastForwardError, OpenError, RestoreError, SlotError};
pub use sender::EpochSender;
pub use wrap::{WrapSecret, WrapTarget};
pub use wrap_key::WrapKey;
