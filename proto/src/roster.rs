//! The roster: who may read and publish. A signed, hash-chained log (docs/protocol.md section 4).
//!
//! [`RosterChain`] follows the chain in about 300 bytes an entry: what a subscriber holds. [`Roster`] also holds every
//! member and derives each entry's consequences itself: what brokers, publishers and admins hold. One implementation of
//! the rules serves them all.

mod chain;
mod list;
mod members;
mod ops;

use bytes::Bytes;
use prost::Message as _;

use crate::identity::PublicKey;
use crate::ids::RosterSeq;
use crate::object::{ObjectError, RosterEntry, Signed};
use crate::policy::PolicyError;
use crate::wire;

pub use chain::{RosterChain, RosterMatch};
pub use list::Officer;
pub(crate) use list::roles_hash;
pub use members::{Change, Member, Roster};
pub use ops::{Op, decode_ops, encode_ops, removes};

/// What a member may do. Roles nest: admin ⊃ publisher ⊃ reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and publishes.
    Publisher,
    /// Reads, publishes and signs roster entries.
    Admin,
}

impl Role {
    fn to_u8(self) -> u8 {
        match self {
            Self::Reader => 0,
            Self::Publisher => 1,
            Self::Admin => 2,
        }
    }

    fn from_u32(role: u32) -> Option<Self> {
        match role {
            0 => Some(Self::Reader),
            1 => Some(Self::Publisher),
            2 => Some(Self::Admin),
            _ => None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        })
    }
}
/// A roster entry or list that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Bytes that are not what they should be.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// More than the limit.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// An object inside.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A policy inside.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// For another topic.
    #[error("the entry belongs to another topic")]
    Topic,
    /// The signer is no admin.
    #[error("the entry is signed by {0}, who is no admin")]
    Signer(PublicKey),
    /// Not the next entry: something in between is missing.
    #[error("entry {found} came where entry {expected} was due")]
    Missing {
        /// Its number.
        found: RosterSeq,
        /// The number due.
        expected: RosterSeq,
    },
    /// Two entries with one number, both properly signed.
    #[error("two signed entries have number {0}: the roster was forked")]
    Fork(RosterSeq),
    /// Already held, byte for byte.
    #[error("entry {0} is already known")]
    Known(RosterSeq),
    /// The roles list or policy did not come with the entry that changes it.
    #[error("the {0} did not come with the entry that changes it")]
    MissingList(&'static str),
    /// A field does not follow from the operations.
    #[error("the entry's {0} does not follow from its operations")]
    Derived(&'static str),
    /// A rule about members.
    #[error("{0}")]
    Rule(String),
}
/// A roster entry and what travels beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryBundle {
    /// The signed entry.
    pub entry: Signed<RosterEntry>,
    /// Its operations, encoded.
    pub ops: Bytes,
    /// The roles list after it, if it changed.
    pub roles: Option<Bytes>,
    /// The policy after it, if it changed.
    pub policy: Option<Bytes>,
}

impl EntryBundle {
    pub(crate) fn to_wire(&self) -> wire::RosterBundle {
        wire::RosterBundle {
            entry: Some(self.entry.to_wire()),
            ops: self.ops.clone(),
            roles: self.roles.clone(),
            policy: self.policy.clone(),
        }
    }

    pub(crate) fn from_wire(raw: wire::RosterBundle) -> Result<Self, ObjectError> {
        Ok(Self { entry: Signed::from_wire(raw.entry)?, ops: raw.ops, roles: raw.roles, policy: raw.policy })
    }

    /// The bytes in which a store or a state directory keeps a bundle.
    pub fn encode(&self) -> Bytes {
        self.to_wire().encode_to_vec().into()
    }

    /// Reads [`EntryBundle::encode`]'s bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, ObjectError> {
        let malformed = ObjectError::Malformed { kind: "a roster bundle", what: "not protobuf" };
        Self::from_wire(wire::RosterBundle::decode(bytes).map_err(|_| malformed)?)
    }
}
