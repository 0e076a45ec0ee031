//! One publisher as a subscriber sees it: what its next record must follow, the keys to open it, when it last lived.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::object::EpochHeader;
use sealcast_proto::record::Record;
use sealcast_proto::{BatchNo, Hash, Seq, Signed};
use zeroize::Zeroizing;

use super::epoch::Keys;
use crate::cursor::{SavedKeys, SavedPublisher, Track};
use crate::event::{Event, GapReason};

/// Headers remembered before the newest, a count: a header that follows one of them is a fork; that follows anything
/// older is a gap. Enough for a fork made on purpose, small enough to save with every cursor.
const OLDER: usize = 8;

/// See the module's page.
pub(super) struct Publisher {
    pub(super) track: Track,
    /// The newest header, parsed.
    pub(super) header: EpochHeader,
    pub(super) keys: Keys,
    /// The last batch, as evidence; gone after a restart.
    pub(super) evidence: Option<Bytes>,
    pub(super) life: Life,
}

/// Signs of life; not saved.
#[derive(Debug, Default)]
pub(super) struct Life {
    /// The newest signed time among them.
    pub(super) time_ms: u64,
    /// When it was heard, by our clock.
    pub(super) heard_ms: u64,
    /// `Stalled` was said and nothing was heard since.
    pub(super) stalled: bool,
    /// A beacon speaks of more than arrived.
    pub(super) ahead: Option<Ahead>,
    /// A gap was said for it, and nothing arrived since.
    pub(super) ahead_told: bool,
}

/// What a beacon spoke of and did not arrive yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    pub(super) header_hash: Hash,
    pub(super) next_batch_no: BatchNo,
    pub(super) roster_seq: sealcast_proto::RosterSeq,
    /// When it becomes a gap.
    pub(super) due_ms: u64,
}

impl Publisher {
    /// A publisher's first known header. The first message of a publisher is 0, so with no header before this one
    /// everything is expected.
    pub(super) fn new(signed: Signed<EpochHeader>, header: EpochHeader, hash: Hash, keys: Keys) -> Self {
        let first_ever = header.prev_header_hash.is_zero();
        let track = Track {
            header: signed,
            header_hash: hash,
            older: Arc::from([]),
            next_batch_no: BatchNo(0),
            last_hash: Some(hash),
            next_seq: first_ever.then_some(Seq(0)),
            unbroken: true,
            suspect: None,
            gap_due: false,
            locked_from: None,
            locked_told: false,
            ended: false,
            stale_told: false,
        };
        Self { track, header, keys, evidence: None, life: Life::default() }
    }

    /// From a saved cursor. `None`: its header does not parse, which a cursor of ours cannot have.
    pub(super) fn restore(saved: &SavedPublisher) -> Option<Self> {
        let header = saved.track.header.peek().ok()?;
        let keys = match &saved.keys {
            SavedKeys::Locked => Keys::Locked,
            SavedKeys::Pending(slot) => Keys::Pending(*slot),
            SavedKeys::Open(_, snapshot) => {
                Keys::Open(Box::new(sealcast_envelope::EpochReceiver::restore(snapshot).ok()?))
            }
        };
        Some(Self { track: saved.track.clone(), header, keys, evidence: None, life: Life::default() })
    }

    /// As it would be saved now.
    pub(super) fn saved(&self) -> SavedPublisher {
        let keys = match &self.keys {
            Keys::Locked => SavedKeys::Locked,
            Keys::Pending(slot) => SavedKeys::Pending(*slot),
            Keys::Open(receiver) => {
                let snapshot: Zeroizing<Vec<u8>> = receiver.snapshot();
                SavedKeys::Open(receiver.source(), Arc::new(snapshot))
            }
        };
        SavedPublisher { track: self.track.clone(), keys }
    }

    /// The next epoch begins.
    pub(super) fn begin(&mut self, signed: Signed<EpochHeader>, header: EpochHeader, hash: Hash, keys: Keys) {
        let mut older: VecDeque<Hash> = self.track.older.iter().copied().collect();
        older.push_back(self.track.header_hash);
        while older.len() > OLDER {
            older.pop_front();
        }
        self.track.older = older.into_iter().collect();
        self.track.header = signed;
        self.track.header_hash = hash;
        self.track.next_batch_no = BatchNo(0);
        self.track.last_hash = Some(hash);
        self.track.ended = false;
        self.header = header;
        self.keys = keys;
        self.evidence = None;
        self.life.ahead_told = false;
    }

    /// Whether `hash` is a header accepted before the newest.
    pub(super) fn is_older(&self, hash: &Hash) -> bool {
        self.track.older.contains(hash) || *hash == self.header.prev_header_hash
    }

    /// Something before the next batch is missing for certain.
    pub(super) fn expect_gap(&mut self, otherwise: GapReason) {
        self.track.gap_due = true;
        self.track.suspect.get_or_insert(otherwise);
    }

    /// Where a gap begins that ends at `to`.
    pub(super) fn gap_from(&self, to: Option<Seq>) -> Seq {
        let from = self.track.next_seq.unwrap_or_default();
        to.map_or(from, |to| from.min(to))
    }

    /// The gap up to `to`; nothing is suspected any more.
    pub(super) fn gap(&mut self, to: Option<Seq>) -> Event {
        let why = self.track.suspect.take().unwrap_or(GapReason::Missing);
        self.track.gap_due = false;
        Event::Gap { publisher: self.header.publisher, from: self.gap_from(to), to, why }
    }

    /// The present run of unreadable messages ends before `to`; what is to be said of it, if that was not said yet.
    pub(super) fn end_locked(&mut self, to: Option<Seq>) -> Option<Event> {
        let from = self.track.locked_from.take()?;
        let told = std::mem::take(&mut self.track.locked_told);
        (!told).then_some(Event::Locked { publisher: self.header.publisher, from, to })
    }

    /// The present run goes on, but nothing more is here: say so once.
    pub(super) fn tell_locked(&mut self) -> Option<Event> {
        let from = self.track.locked_from.filter(|_| !self.track.locked_told)?;
        self.track.locked_told = true;
        Some(Event::Locked { publisher: self.header.publisher, from, to: None })
    }

    /// The newest header as a record's bytes.
    pub(super) fn header_evidence(&self) -> Bytes {
        Record::Header(self.track.header.clone()).encode()
    }

    /// The last batch: as evidence, or its bare hash.
    pub(super) fn batch_evidence(&self) -> Bytes {
        let hash = self.track.last_hash.unwrap_or_default();
        self.evidence.clone().unwrap_or_else(|| Bytes::copy_from_slice(&hash.0))
    }
}
