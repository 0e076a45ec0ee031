//! Where a broker keeps what it cannot read: one trait, [`Log`], and what passes through it.
//!
//! ```text
//! topic machine ─ effects ─► Writer ─► Commit (one thread) ─ Write… ─► Log ─ one atomic batch, one fsync
//! sessions      ◄───────────────────────────── reads at any offset ──── Log
//! ```
//! Every back end passes the same suite (`conformance`): [`FjallLog`] on disk, [`MemoryLog`] in memory.
//!
//! Architecture Invariant: nothing here parses a record, a header or a roster. What is opaque to the store is `Bytes`;
//! the acceptance rules stand in the topic machine and are a function of the log's order alone.
//!
//! All calls are synchronous and may wait for the disk. Writes belong on the commit thread ([`Commit`]); reads may be
//! made from any thread, and see everything written so far, synced or not: holding delivery back to what is durable is
//! the topic machine's rule, not the store's.

mod commit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod fjall;
mod keys;
mod memory;
mod tail;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

pub use self::commit::{Budget, COMMIT_BUDGET, Commit, CommitStats, GROUP_BYTES, LINGER, When, Writer};
pub use self::fjall::{FjallLog, FjallOptions, Recovered};
pub use self::memory::MemoryLog;

/// A store. Object-safe: the broker holds an `Arc<dyn Log>`.
pub trait Log: Send + Sync + 'static {
    /// What a write is once it was synced: the level an acknowledgement may name.
    fn level(&self) -> Level;

    /// Applies `writes` in order, all or none. With `sync`, they and everything written earlier, synced or not, are as
    /// safe as [`Log::level`] says when this returns; without, they may be lost in a crash, but never without those
    /// written after them.
    ///
    /// After [`LogError::Misuse`] nothing of it was written and the next write may succeed. After [`LogError::Full`] the
    /// next write may succeed too, and after [`Log::recover`] the log tells whether this one did. After any other error
    /// every later write fails, and a restart tells.
    fn write(&self, writes: &[Write], sync: bool) -> Result<(), LogError>;

    /// Whether the next write would find space and a store that works; cheap, and nothing is tried.
    fn room(&self) -> Result<(), LogError>;

    /// The same, after doing what it takes to go on after [`LogError::Full`]; may take as long as opening the store. What
    /// was read before may differ afterwards: a write that failed may turn out to be there.
    fn recover(&self) -> Result<(), LogError> {
        self.room()
    }

    /// Every topic, rising; also one whose genesis is damaged, if anything else of it can be read.
    fn topics(&self) -> Result<Vec<TopicId>, LogError>;

    /// One topic's genesis.
    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError>;

    /// What a topic's log holds; all zero for an unknown topic. Cheap: kept in memory.
    fn bounds(&self, topic: &TopicId) -> Result<Bounds, LogError>;

    /// What was reserved last ([`Write::Reserve`]); 0: nothing.
    fn reserved(&self, topic: &TopicId) -> Result<Offset, LogError>;

    /// Records from `from` (or from the first one retained after it) on, in order, until `max_bytes` of records; at
    /// least one if there is one. Stops before a damaged one, and fails only where that comes first.
    fn read(&self, topic: &TopicId, from: Offset, max_bytes: usize) -> Result<Vec<Stored>, LogError>;

    /// Records before `before`, the newest first, at most `max_records`.
    fn read_back(&self, topic: &TopicId, before: Offset, max_records: usize)
    -> Result<Vec<Stored>, LogError>;

    /// The first retained record stored at `ms` or later; `bounds().next` if there is none.
    fn seek_time(&self, topic: &TopicId, ms: u64) -> Result<Offset, LogError>;

    /// The lowest offset from which on at most `max_bytes` of records are stored: what retention by size trims to.
    fn seek_bytes(&self, topic: &TopicId, max_bytes: u64) -> Result<Offset, LogError>;

    /// Roster entries from `from` on, in order, until `max_bytes` of bundles; at least one if there is one.
    fn rosters(
        &self,
        topic: &TopicId,
        from: RosterSeq,
        max_bytes: usize,
    ) -> Result<Vec<StoredRoster>, LogError>;

    /// The newest roster entry standing before `before`; `None` if only the genesis does.
    fn roster_before(&self, topic: &TopicId, before: Offset) -> Result<Option<RosterSeq>, LogError>;

    /// The newest roster head put.
    fn head(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError>;

    /// Every publisher's snapshot, by identity.
    fn publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>, LogError>;

    /// A publisher's headers up to and including `up_to`, the newest first, at most `max`.
    fn epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>, LogError>;

    /// One header of a publisher.
    fn epoch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
    ) -> Result<Option<StoredEpoch>, LogError> {
        Ok(self.epochs_back(topic, publisher, epoch, 1)?.into_iter().find(|found| found.epoch == epoch))
    }

    /// The index entry of one batch: for a retry, however late.
    fn batch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        batch_no: BatchNo,
    ) -> Result<Option<StoredBatch>, LogError>;

    /// The index entry of an epoch's last batch standing before `before`: for a context.
    fn batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>, LogError>;

    /// A number for a slot table that is about to be uploaded; never one in use.
    fn new_table(&self) -> TableId;

    /// One member's slot in a table; `None` if it has none there, or there is no such table.
    fn slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>, LogError>;

    /// The newest prekey put by `owner`.
    fn prekey(&self, owner: &PublicKey) -> Result<Option<Bytes>, LogError>;

    /// Retention: removes the records before `before` (at most up to `bounds().next`). `bounds().first` is then the offset
    /// after the last one removed, so that whoever asks for what is below it has missed a record. Rosters, epochs and their
    /// tables, the batch index and snapshots stay. Not synced: a crash may bring the records back. Does not count
    /// against the space kept free, for it is what makes space.
    fn trim(&self, topic: &TopicId, before: Offset) -> Result<Trimmed, LogError>;

    /// Removes a publisher's headers before `before`, with their slot tables and batch index. Returns how many.
    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64, LogError>;
}

/// One thing to write. Those of one [`Log::write`] take effect together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// A new topic. Again, with the same bytes: no change.
    CreateTopic {
        /// Its id, the hash of `genesis`.
        topic: TopicId,
        /// The signed genesis as it travels.
        genesis: Bytes,
    },
    /// Any record: roster entry, header or batch.
    Append {
        /// Whose log.
        topic: TopicId,
        /// At least `bounds().next`; need not be equal. Lower is [`LogError::Misuse`].
        offset: Offset,
        /// The broker's clock. The caller never lets it fall within a topic, or `seek_time` finds another place.
        stored_ms: u64,
        /// The record's bytes as its publisher sent them.
        record: Bytes,
    },
    /// Offsets below `below` are given out from here on, whether what stood at them outlives a crash or not. Replaces the
    /// last.
    Reserve {
        /// Whose log.
        topic: TopicId,
        /// The first one that is not.
        below: Offset,
    },
    /// A roster entry with what travels beside it. Kept for ever.
    Roster {
        /// Whose roster.
        topic: TopicId,
        /// The entry's number; rises with `offset`.
        seq: RosterSeq,
        /// Where the entry's record stands.
        offset: Offset,
        /// `EntryBundle::encode()`.
        bundle: Bytes,
    },
    /// A signed roster head; replaces the last.
    Head {
        /// Whose.
        topic: TopicId,
        /// The signed head as it travels.
        head: Bytes,
    },
    /// What the topic machine knows of a publisher, which follows from the log; replaced in the same write as the append
    /// it follows from.
    Publisher {
        /// Where.
        topic: TopicId,
        /// Whose.
        publisher: PublicKey,
        /// Opaque to the store.
        state: Bytes,
    },
    /// An accepted header, in the index by publisher: it outlives its record's retention. Its table is no longer staged.
    Epoch {
        /// Where.
        topic: TopicId,
        /// Whose.
        publisher: PublicKey,
        /// The header's epoch; rises with `offset`.
        epoch: Epoch,
        /// Where the header's record stands.
        offset: Offset,
        /// The header's record.
        header: Bytes,
        /// Its slots; `None` where it has none.
        table: Option<TableId>,
    },
    /// An accepted batch, in the index by publisher: it outlives its record's retention, until its epoch is dropped.
    Batch {
        /// Where.
        topic: TopicId,
        /// Whose.
        publisher: PublicKey,
        /// Its epoch.
        epoch: Epoch,
        /// Its number; rises with `offset` within an epoch.
        batch_no: BatchNo,
        /// Where its record stands.
        offset: Offset,
        /// Opaque to the store: enough to recognise the same bytes again, and to make a context.
        digest: Bytes,
    },
    /// The newest prekey of a member; replaces the last.
    Prekey {
        /// Whose.
        owner: PublicKey,
        /// The signed prekey as it travels.
        prekey: Bytes,
    },
    /// A piece of a slot table. The table is *staged* until a [`Write::Epoch`] names it: dropped when the log is opened.
    TableChunk {
        /// From [`Log::new_table`].
        table: TableId,
        /// The first member in `slots`.
        first_member: MemberIndex,
        /// Whole slots, rising; chunk after chunk of a table rises too.
        slots: Bytes,
    },
    /// A staged table nobody will name: its upload failed, or its header was refused.
    DropTable {
        /// Which.
        table: TableId,
    },
}

impl Write {
    /// About how many bytes this brings to the disk: what is asked of [`Commit::reserve`] for it.
    pub fn size(&self) -> usize {
        /// Key, length prefixes and checksum of an entry, bytes: keys are at most 88.
        const ENTRY: usize = 128;
        ENTRY
            + match self {
                Self::CreateTopic { genesis: bytes, .. }
                | Self::Append { record: bytes, .. }
                | Self::Roster { bundle: bytes, .. }
                | Self::Head { head: bytes, .. }
                | Self::Publisher { state: bytes, .. }
                | Self::Epoch { header: bytes, .. }
                | Self::Batch { digest: bytes, .. }
                | Self::Prekey { prekey: bytes, .. }
                | Self::TableChunk { slots: bytes, .. } => bytes.len(),
                Self::Reserve { .. } | Self::DropTable { .. } => 0,
            }
    }
}

/// A slot table's number in this store. Tables belong to one epoch each: even where two have the same content, dropping
/// one leaves the other, and an upload that lies about its hash can spoil no table but its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u64);

/// What a topic's log holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The offset after the last record that retention removed; 0: it removed none. Equal to `next` when nothing is retained.
    pub first: Offset,
    /// The lowest offset the next append may take.
    pub next: Offset,
    /// Bytes of records retained.
    pub bytes: u64,
}

/// A record at its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its place.
    pub offset: Offset,
    /// When it was stored, by the broker's clock.
    pub stored_ms: u64,
    /// Its bytes.
    pub record: Bytes,
}

/// A roster entry with what travels beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRoster {
    /// Its number.
    pub seq: RosterSeq,
    /// Where its record stands, or stood.
    pub offset: Offset,
    /// `EntryBundle::encode()`.
    pub bundle: Bytes,
}

/// A header in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEpoch {
    /// Its epoch.
    pub epoch: Epoch,
    /// Where its record stands, or stood.
    pub offset: Offset,
    /// Its record.
    pub header: Bytes,
    /// Its slots.
    pub table: Option<TableId>,
}

/// A batch in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its number.
    pub batch_no: BatchNo,
    /// Where its record stands, or stood.
    pub offset: Offset,
    /// What the topic machine gave.
    pub digest: Bytes,
}

/// What a trim removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Records.
    pub records: u64,
    /// Bytes of records.
    pub bytes: u64,
}

/// What can go wrong in a store. Cloned to everybody whose write it failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// No space is left. The broker goes on by itself once there is space.
    #[error("the disk of {} is full ({free} bytes free, {reserve} are kept free): make space, the broker goes on by itself", dir.display())]
    Full {
        /// The data directory.
        dir: PathBuf,
        /// Bytes free.
        free: u64,
        /// Bytes that stay free.
        reserve: u64,
    },
    /// The disk or the storage engine failed. Read-only until a restart.
    #[error(
        "storage failed while {doing}: {error}; nothing more is stored: check the disk, then restart the broker"
    )]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// What was read cannot have been written by this broker.
    #[error("the data directory is damaged: {0}; restore it from a copy")]
    Corrupt(String),
    /// Another process has the data directory open.
    #[error("the data directory {} is in use by another broker: stop that one, or choose another directory", dir.display())]
    Busy {
        /// The data directory.
        dir: PathBuf,
    },
    /// Not a data directory of this version.
    #[error("the data directory {} has format {found:?}, this broker reads {expected:?}: use the broker that wrote it, or another directory", dir.display())]
    Format {
        /// The data directory.
        dir: PathBuf,
        /// What its marker says.
        found: String,
        /// What this broker writes.
        expected: &'static str,
    },
    /// A fault in the broker itself: the write broke a rule of [`Write`]. Nothing of it was stored.
    #[error("a fault in the broker: {0}; please report it")]
    Misuse(String),
    /// The commit thread has ended: the broker is shutting down.
    #[error("the broker is shutting down")]
    Closed,
}

impl LogError {
    /// Whether what was to be read is lost, and not only out of reach for now.
    pub fn is_damage(&self) -> bool {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match self {
            Self::Corrupt(_) => true,
            Self::Io { error, .. } => {
                let bad_sector = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
                bad_sector || matches!(error.kind(), InvalidData | UnexpectedEof)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "agree_test.rs"]
mod agree;
