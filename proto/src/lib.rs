//! What the broker may know: identities, ids, signed objects, roster rules, frames, limits.
//!
//! One rule decides where code lives: if the broker must read it, it lives here; if the broker must not, it lives in
//! `sealcast-envelope`. This crate is pure: no clock, no file, no socket, no random generator of its own.
//!
//! Architecture Invariant: no key that opens an envelope exists in this crate, and nothing here can make one.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

pub mod accept;
pub mod audit;
pub mod frame;
pub mod hash;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod object;
pub mod policy;
pub mod record;
pub mod roster;
pub mod slot;
pub mod topic_link;

pub use identity::{Identity, PublicKey};
pub use ids::{BatchNo, Epoch, Hash, MemberIndex, Offset, RosterSeq, Seq, SlotSource, TopicId};
pub use object::Signed;
pub use topic_link::{BrokerLink, TopicLink};

/// The generated protobuf types: private, so that every value passes a check on its way in.
mod wire {
    #![allow(missing_docs, unreachable_pub, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/sealcast.v1.rs"));
}
