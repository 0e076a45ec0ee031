//! What an audit says: everything a broker can see of a topic, as far as it is shown to this member.

use std::collections::BTreeMap;

use super::finding::Finding;
use crate::frame::{HoleReason, Level};
use crate::identity::PublicKey;
use crate::ids::{BatchNo, Epoch, Hash, MemberIndex, Offset, RosterSeq, Seq, SlotSource};
use crate::object::{Genesis, Mode, RosterHead};
use crate::policy::Policy;
use crate::roster::{Member, Officer, Role};

/// Roster entries kept one by one, a count; more are counted only.
pub const MAX_ENTRIES: usize = 16_384;
/// Members named of one entry, a count; more are counted only.
pub const MAX_NAMED: usize = 64;
/// Epochs kept one by one, of all publishers together, a count; the sums go on.
pub const MAX_EPOCHS: usize = 16_384;
/// Holes kept one by one, a count.
pub const MAX_HOLES: usize = 1024;

/// How a member's standing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It joined.
    Added,
    /// It left.
    Removed,
    /// It got another role.
    Role,
    /// It is no longer above reader: it left or became a reader, which readers are not told.
    NotOfficer,
}

/// One member an entry touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// How.
    pub how: How,
    /// Its index.
    pub member: MemberIndex,
    /// Who.
    pub identity: PublicKey,
    /// As what it stands from then on, where that is known.
    pub role: Option<Role>,
}

/// One roster entry that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub seq: RosterSeq,
    /// Its place in the log.
    pub offset: Offset,
    /// When its signer says that it was signed, milliseconds since 1970.
    pub time_ms: u64,
    /// Who signed it.
    pub signer: PublicKey,
    /// How many it added.
    pub added: u64,
    /// How many it removed; `None`: readers are not told.
    pub removed: Option<u64>,
    /// Whether the fence moved here: someone left or may no longer publish.
    pub fence: bool,
    /// Whether it asks for fresh epochs; `None`: readers are not told.
    pub rotate: Option<bool>,
    /// Whether the policy is another one from here on.
    pub policy: bool,
    /// Whom it touched, at most [`MAX_NAMED`]; of readers, only where they are shown.
    pub changed: Vec<Changed>,
}

/// Counts, sizes and times of batches, as their publisher signed them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// Batches, a count.
    pub batches: u64,
    /// Messages in them, a count.
    pub messages: u64,
    /// Their ciphertexts, bytes.
    pub ciphertext_bytes: u64,
    /// The shortest ciphertext, bytes.
    pub smallest: Option<u64>,
    /// The longest ciphertext, bytes.
    pub largest: Option<u64>,
    /// First and last place in the log.
    pub offsets: Option<(Offset, Offset)>,
    /// First and last time, milliseconds since 1970.
    pub times_ms: Option<(u64, u64)>,
    /// The first message's number, and the one after the last.
    pub seqs: Option<(Seq, Seq)>,
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.batches = self.batches.saturating_add(other.batches);
        self.messages = self.messages.saturating_add(other.messages);
        self.ciphertext_bytes = self.ciphertext_bytes.saturating_add(other.ciphertext_bytes);
        self.smallest = self.smallest.into_iter().chain(other.smallest).min();
        self.largest = self.largest.max(other.largest);
        self.offsets = span(self.offsets, other.offsets);
        self.times_ms = span(self.times_ms, other.times_ms);
        self.seqs = span(self.seqs, other.seqs);
    }
}

fn span<T: Ord + Copy>(one: Option<(T, T)>, other: Option<(T, T)>) -> Option<(T, T)> {
    match (one, other) {
        (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
        (one, other) => one.or(other),
    }
}

/// One epoch of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochNote {
    /// Its number.
    pub epoch: Epoch,
    /// How its secret came to be.
    pub mode: Mode,
    /// When its publisher says that it began, milliseconds since 1970.
    pub time_ms: u64,
    /// For which roster.
    pub roster_seq: RosterSeq,
    /// The header's place in the log.
    pub offset: Offset,
    /// Slots in its table, a count, 56 bytes each.
    pub slots: u32,
    /// The kind of the slot of the identity that looks, if there is one.
    pub own_slot: Option<SlotSource>,
    /// Its batches in the stream.
    pub sums: Sums,
    /// Whether its publisher said that it was done.
    pub ended: bool,
}

/// What one publisher's signatures tell.
#[derive(Debug, Clone, PartialEq)]
pub struct PublisherNote {
    /// Who.
    pub identity: PublicKey,
    /// Its role at the head; `None`: none above reader any more.
    pub role: Option<Role>,
    /// Its epochs, oldest first, the last one always among them.
    pub epochs: Vec<EpochNote>,
    /// Epochs in all, a count.
    pub epochs_in_all: u64,
    /// All its batches in the stream.
    pub sums: Sums,
    /// Beacons heard that hold, a count.
    pub beacons: u64,
    /// When the last of them says that it was signed, milliseconds since 1970.
    pub last_beacon_ms: Option<u64>,
}

/// A prekey as the broker shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrekeyNote {
    /// Its number: its first second.
    pub id: u32,
    /// Until when it may be wrapped to, milliseconds since 1970.
    pub not_after_ms: u64,
}

/// Everything that was shown and what does not hold of it.
#[derive(Debug, Clone)]
pub struct Audit {
    /// The topic's first word; `None`: not even that holds.
    pub genesis: Option<Genesis>,
    /// What the broker's acknowledgements mean.
    pub level: Option<Level>,
    /// Where the stream began: what stood before is not kept any more.
    pub start_offset: Offset,
    /// The head.
    pub next_offset: Offset,
    /// Whether everything up to the head was shown.
    pub complete: bool,
    /// The policy in force.
    pub policy: Policy,
    /// The newest entry's number.
    pub roster_seq: RosterSeq,
    /// The newest entry's hash; with no entry, the topic id.
    pub roster_hash: Hash,
    /// The entries, at most [`MAX_ENTRIES`].
    pub entries: Vec<Entry>,
    /// The newest word of an admin that the newest entry is the newest.
    pub head: Option<RosterHead>,
    /// Members above reader.
    pub officers: Vec<Officer>,
    /// Every member; `None`: shown to publishers and admins only.
    pub members: Option<Vec<(MemberIndex, Member)>>,
    /// How many were ever members, a count.
    pub members_ever: u32,
    /// The role of the identity that looks, if it is a member at the head.
    pub role: Option<Role>,
    /// The entry that removed the identity that looks: nothing after it is shown to it.
    pub removed: Option<RosterSeq>,
    /// By member; `None`: shown to publishers and admins only.
    pub prekeys: Option<BTreeMap<PublicKey, PrekeyNote>>,
    /// By publisher.
    pub publishers: Vec<PublisherNote>,
    /// Ranges that the broker says are gone.
    pub holes: Vec<(Offset, Offset, HoleReason)>,
    /// Records in the stream, a count: entries, headers and batches.
    pub records: u64,
    /// What does not hold.
    pub findings: Vec<Finding>,
    /// Different findings that were not kept, a count.
    pub more_findings: u64,
}

/// One record of the stream, for whoever lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Its place in the log.
    pub offset: Offset,
    /// What it is.
    pub what: Sighted,
    /// Whether everything about it holds.
    pub holds: bool,
}

/// What a record is, as far as a broker can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighted {
    /// A roster entry.
    Roster {
        /// Its number.
        seq: RosterSeq,
        /// Who is said to have signed it.
        signer: PublicKey,
        /// Milliseconds since 1970.
        time_ms: u64,
    },
    /// An epoch's header.
    Header {
        /// Who is said to have signed it.
        publisher: PublicKey,
        /// Its number.
        epoch: Epoch,
        /// How its secret came to be.
        mode: Mode,
        /// Slots in its table, a count.
        slots: u32,
        /// Milliseconds since 1970.
        time_ms: u64,
    },
    /// A batch.
    Batch {
        /// Whose; `None`: nobody's newest epoch has this signature.
        publisher: Option<PublicKey>,
        /// Of which epoch.
        epoch: Epoch,
        /// Its number there.
        batch_no: BatchNo,
        /// Its first message's number.
        first_seq: Seq,
        /// Messages in it, a count.
        messages: u32,
        /// Milliseconds since 1970.
        time_ms: u64,
        /// Its ciphertext, bytes.
        ciphertext: u64,
        /// Whether its publisher says that it is done.
        end: bool,
    },
    /// Bytes that are no record.
    Unreadable,
}
