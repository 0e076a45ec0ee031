//! What reaches a topic's machine, and what it wants done.

use bytes::Bytes;
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Ack, Refusal};
use sealcast_proto::object::EpochHeader;
use sealcast_proto::roster::{EntryBundle, Role};
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, Offset, PublicKey, RosterSeq, Signed};

use super::Readable;
use crate::store::TableId;

/// One publish stream, for as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Something that waits for an answer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket(pub u64);

/// What reaches the machine.
#[derive(Debug)]
pub enum Input {
    /// A header or a batch on a publish stream.
    Publish {
        /// On which stream.
        session: SessionId,
        /// Whose stream: the key it proved.
        identity: PublicKey,
        /// What came.
        incoming: Incoming,
    },
    /// A roster entry.
    Roster {
        /// For the answer.
        ticket: Ticket,
        /// What came.
        bundle: EntryBundle,
    },
    /// Everything appended below this offset is stored, and synced where [`Append::sync`] asked for it.
    Committed(Offset),
    /// An append failed: nothing that waits was stored, nothing more will be.
    Failed,
    /// A slot table took this long to come, milliseconds.
    TableUploaded(u64),
    /// A publish stream ended.
    Ended(SessionId),
}

/// A record as it came, prepared by its session.
#[derive(Debug)]
pub enum Incoming {
    /// A header.
    Header {
        /// As it travelled.
        header: Signed<EpochHeader>,
        /// Its slots.
        table: Table,
    },
    /// A batch.
    Batch {
        /// Hashed, and verified under the newest header its session knew.
        claim: Box<BatchClaim>,
        /// The record's bytes.
        record: Bytes,
    },
}

/// Where a header's slots are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Not uploaded whole.
    Missing,
    /// It has none and says so.
    Empty,
    /// Uploaded, checked, and waiting for this header.
    Staged(TableId),
}

/// What the machine wants done, in order.
pub type Effects = Vec<Effect>;

/// One thing the machine wants done.
#[derive(Debug)]
pub enum Effect {
    /// Store this; then [`Input::Committed`].
    Append(Append),
    /// Note this in the index: its record, at this place, was trimmed before it was read.
    Index(Offset, Index),
    /// Note that a record stood right below this offset, and is to be trimmed: it was before it was read.
    Gone {
        /// The end of what was trimmed.
        before: Offset,
        /// When what stands before it was stored, milliseconds since 1970.
        stored_ms: u64,
    },
    /// Tell a publish stream.
    Ack(SessionId, Ack),
    /// Tell a publish stream.
    Refuse(SessionId, Refusal),
    /// Tell a publish stream that it is over: a newer one of its identity began an epoch.
    Superseded(SessionId),
    /// Answer whoever appended a roster entry.
    Roster(Ticket, Result<Offset, Refusal>),
    /// Look this number up in the log and answer the stream ([`Verdict::Compare`](sealcast_proto::accept::Verdict::Compare)). Everything older is stored by now.
    Compare {
        /// Which stream.
        session: SessionId,
        /// Whose.
        identity: PublicKey,
        /// Which epoch.
        epoch: Epoch,
        /// Which batch; `None`: the header.
        batch_no: Option<BatchNo>,
        /// What it must be.
        fingerprint: Hash,
    },
    /// A record that may now be delivered, in the order of the log.
    Readable(Readable),
    /// The head moved: everything below may be delivered.
    Visible(Offset),
}

/// A record to store.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where.
    pub offset: Offset,
    /// When, milliseconds since 1970; never falls within a topic.
    pub stored_ms: u64,
    /// Its bytes.
    pub record: Bytes,
    /// What goes into the indexes beside it.
    pub index: Index,
    /// Whether it must be fsynced before it counts as stored.
    pub sync: bool,
    /// Offsets below this one are given out from here on: to be stored together with it, and fsynced.
    pub reserve: Option<Offset>,
}

/// What goes into a log's indexes beside a record.
#[derive(Debug, Clone)]
pub enum Index {
    /// A roster entry.
    Roster {
        /// Its number.
        seq: RosterSeq,
        /// The entry with what travels beside it.
        bundle: Bytes,
    },
    /// A header.
    Epoch {
        /// Whose.
        publisher: PublicKey,
        /// Its number.
        epoch: Epoch,
        /// Its slots.
        table: Option<TableId>,
    },
    /// A batch.
    Batch {
        /// Whose.
        publisher: PublicKey,
        /// Its epoch.
        epoch: Epoch,
        /// Its number there.
        batch_no: BatchNo,
        /// All of it but the ciphertext.
        digest: Bytes,
    },
}

/// What somebody is or was on a topic's roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The role held now; `None`: it was removed.
    pub role: Option<Role>,
    /// The indexes it has had, the newest first: its slots are under these.
    pub indexes: Vec<MemberIndex>,
    /// The entry that removed it last, and where that stands; `None` for a member.
    pub removed: Option<(RosterSeq, Offset)>,
    /// The roster entry as of which this was said.
    pub as_of: RosterSeq,
}
