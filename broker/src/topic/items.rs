//! A record as subscriptions and watches meet it: parsed once, shared by all.

use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::frame::{Context, EpochDelivery, RosterDelivery};
use sealcast_proto::object::{EpochHeader, ObjectError, RosterEntry};
use sealcast_proto::roster::{Change, EntryBundle, RosterChain};
use sealcast_proto::{Epoch, Offset, PublicKey, RosterSeq, Signed};

use crate::store::TableId;

/// A record that may be delivered.
#[derive(Debug, Clone)]
pub struct Readable {
    /// Its place.
    pub offset: Offset,
    /// What it is.
    pub what: What,
}

/// What a record is.
#[derive(Debug, Clone)]
pub enum What {
    /// A roster entry.
    Roster(Arc<RosterItem>),
    /// A header.
    Header(Arc<HeaderItem>),
    /// A batch.
    Batch {
        /// Its bytes.
        record: Bytes,
        /// If it is an END: what watches are told of.
        end: Option<Box<Context>>,
    },
}

/// A header and where its slots are.
#[derive(Debug, Clone)]
pub struct HeaderItem {
    /// Whose.
    pub publisher: PublicKey,
    /// Its epoch.
    pub epoch: Epoch,
    /// As it travelled.
    pub header: Signed<EpochHeader>,
    /// Its slots.
    pub table: Option<TableId>,
}

impl HeaderItem {
    /// As a watch gets it: without a slot.
    pub fn delivery(&self, offset: Offset) -> EpochDelivery {
        EpochDelivery { offset, header: self.header.clone(), slot: None }
    }
}

/// A roster entry and what travels beside it.
#[derive(Debug, Clone)]
pub struct RosterItem {
    /// Its number.
    pub seq: RosterSeq,
    /// Its place.
    pub offset: Offset,
    /// As it travelled.
    pub entry: Signed<RosterEntry>,
    /// Its operations.
    pub ops: Bytes,
    /// The roles list, if it changed.
    pub roles: Option<Bytes>,
    /// The policy, if it changed.
    pub policy: Option<Bytes>,
    /// Whether it removes anyone or takes a publisher's role.
    pub fence: bool,
}

impl RosterItem {
    /// The entry that made `change`; `chain` stands after it. Lists are the broker's own: whatever its signer sent beside
    /// the entry was not signed.
    pub(crate) fn new(offset: Offset, bundle: &EntryBundle, change: &Change, chain: &RosterChain) -> Self {
        Self {
            seq: change.entry.seq,
            offset,
            entry: bundle.entry.clone(),
            ops: bundle.ops.clone(),
            roles: change.roles.then(|| chain.roles_bytes()),
            policy: change.policy.then(|| chain.policy_bytes().clone()),
            fence: change.fence,
        }
    }

    /// An entry read back from the log.
    pub fn from_bundle(offset: Offset, bundle: EntryBundle) -> Result<Self, ObjectError> {
        let EntryBundle { entry, ops, roles, policy } = bundle;
        let parsed = entry.peek()?;
        let fence = parsed.last_removal_seq == parsed.seq;
        Ok(Self { seq: parsed.seq, offset, entry, ops, roles, policy, fence })
    }

    /// As it is stored.
    pub fn bundle(&self) -> EntryBundle {
        EntryBundle {
            entry: self.entry.clone(),
            ops: self.ops.clone(),
            roles: self.roles.clone(),
            policy: self.policy.clone(),
        }
    }

    /// Whether what somebody may see can change with this entry.
    pub fn touches_access(&self) -> bool {
        self.fence || self.roles.is_some()
    }

    /// As it is delivered, with or without its operations.
    pub fn delivery(&self, ops: bool) -> RosterDelivery {
        RosterDelivery {
            offset: self.offset,
            entry: self.entry.clone(),
            ops: ops.then(|| self.ops.clone()),
            roles: self.roles.clone(),
            policy: self.policy.clone(),
        }
    }
}
