//! What a subscription saves: where it is, per publisher what the next record must follow, and the keys as of there.
//!
//! ```text
//! cursor ─┬─ marks                 the newest roster entry and offset ever seen: a broker that offers less is rolled back
//!         ├─ next_offset, partial  the first record not wholly taken, and how much of it was
//!         ├─ roster chain          as of there
//!         ├─ publishers ───────── header, last batch, next seq, keys: as of there
//!         └─ tag                   the application's own note, saved in the same file replace
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sealcast_envelope::EpochReceiver;
use sealcast_proto::object::EpochHeader;
use sealcast_proto::roster::RosterChain;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Hash, Offset, PublicKey, RosterSeq, Seq, Signed, SlotSource, TopicId};
use zeroize::{Zeroize, Zeroizing};

use crate::event::GapReason;
use crate::wire;

/// A saved cursor that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not a cursor at all.
    #[error("not a saved cursor")]
    Malformed,
    /// Of a later version of the program.
    #[error("saved by another version ({0}) of sealcast")]
    Version(u32),
    /// Of another topic.
    #[error("saved for another topic")]
    Topic,
    /// One of its parts.
    #[error("its {0} cannot be read")]
    Part(&'static str),
}

/// What a broker may not fall below.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marks {
    /// The newest roster entry ever verified.
    pub roster_seq: RosterSeq,
    /// Its hash; at 0 the topic id.
    pub roster_hash: Hash,
    /// The highest durable head or record seen.
    pub next_offset: Offset,
    /// Whether the topic's policy says that what was acknowledged cannot be lost.
    pub durable: bool,
}

/// How much of the record at the cursor was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Which record, by its own hash: the broker cannot pass off another one for it.
    pub record: Hash,
    /// Events of it that were taken.
    pub events: u32,
    /// Messages of it below this seq were taken.
    pub upto: Option<Seq>,
}

/// What the next record of a publisher must follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// The newest accepted header.
    pub header: Signed<EpochHeader>,
    /// Its hash.
    pub header_hash: Hash,
    /// Headers accepted before it, newest last.
    pub older: Arc<[Hash]>,
    /// The batch expected next.
    pub next_batch_no: BatchNo,
    /// The batch before that, or the header; `None` where it was never seen.
    pub last_hash: Option<Hash>,
    /// The message expected next; `None` where nothing is known.
    pub next_seq: Option<Seq>,
    /// Whether headers and closes chain without a break from `next_seq` to here: then lower seqs are repeats.
    pub unbroken: bool,
    /// Something before the next batch is known or feared to be missing.
    pub suspect: Option<GapReason>,
    /// It is known, not feared: the next batch is preceded by a gap whatever its number.
    pub gap_due: bool,
    /// The first message of the present run of unreadable ones.
    pub locked_from: Option<Seq>,
    /// The run was reported.
    pub locked_told: bool,
    /// The last batch was an END.
    pub ended: bool,
    /// `StalePrekey` was reported and nothing better came since.
    pub stale_told: bool,
}

/// The keys of a publisher's newest epoch, as saved. The snapshot is shared, never copied.
#[derive(Clone)]
pub enum SavedKeys {
    /// From the first batch not wholly taken on.
    Open(SlotSource, Arc<Zeroizing<Vec<u8>>>),
    /// Not opened yet: the own slot, if there was one.
    Pending(Option<Slot>),
    /// Never to be opened.
    Locked,
}

/// A publisher as of the cursor.
#[derive(Clone)]
pub struct SavedPublisher {
    pub track: Track,
    pub keys: SavedKeys,
}

/// See the module's page.
#[derive(Clone)]
pub struct Cursor {
    pub topic: TopicId,
    pub marks: Marks,
    pub next_offset: Option<Offset>,
    pub partial: Option<Partial>,
    pub chain: Option<Arc<RosterChain>>,
    pub publishers: BTreeMap<PublicKey, SavedPublisher>,
    pub tag: Option<Bytes>,
    /// Own prekeys that the broker acknowledged, and when (milliseconds since 1970); rising.
    pub acknowledged: Vec<(u32, u64)>,
}

const VERSION: u32 = 1;

impl Cursor {
    pub fn new(topic: TopicId) -> Self {
        Self {
            topic,
            marks: Marks { roster_hash: Hash(topic.0), ..Marks::default() },
            next_offset: None,
            partial: None,
            chain: None,
            publishers: BTreeMap::new(),
            tag: None,
            acknowledged: Vec::new(),
        }
    }

    /// The same marks and own prekeys, but no position: for a start elsewhere.
    pub fn restarted(self) -> Self {
        Self { marks: self.marks, acknowledged: self.acknowledged, ..Self::new(self.topic) }
    }

    /// The bytes kept in the state directory; secrets included.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut raw = wire::Cursor {
            version: VERSION,
            topic: self.topic.0.to_vec(),
            mark_seq: self.marks.roster_seq.0,
            mark_hash: self.marks.roster_hash.0.to_vec(),
            mark_offset: self.marks.next_offset.0,
            mark_durable: self.marks.durable,
            next_offset: self.next_offset.map(|offset| offset.0),
            partial: self.partial.map(|partial| wire::Partial {
                record: partial.record.0.to_vec(),
                events: partial.events,
                upto: partial.upto.map(|seq| seq.0),
            }),
            chain: self.chain.as_ref().map(|chain| chain.encode()).unwrap_or_default(),
            publishers: self.publishers.iter().map(|(key, saved)| saved.to_wire(key)).collect(),
            tag: self.tag.as_ref().map(|tag| tag.to_vec()),
            acknowledged: self
                .acknowledged
                .iter()
                .map(|(id, at)| wire::Acknowledged { id: *id, at_ms: *at })
                .collect(),
        };
        // Its full size at once: a vector that grows leaves copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(raw.encoded_len()));
        // The vector grows as needed, so this cannot fail.
        let _ = raw.encode(&mut *out);
        raw.publishers.iter_mut().for_each(|publisher| publisher.keys.zeroize());
        out
    }

    /// Reads [`Cursor::encode`]'s bytes, which must be of `topic`.
    pub fn decode(bytes: &[u8], topic: &TopicId) -> Result<Self, CursorError> {
        let mut raw = wire::Cursor::decode(bytes).map_err(|_| CursorError::Malformed)?;
        if raw.version != VERSION {
            return Err(CursorError::Version(raw.version));
        }
        if raw.topic != topic.0 {
            return Err(CursorError::Topic);
        }
        let chain = match raw.chain.as_slice() {
            [] => None,
            bytes => Some(Arc::new(RosterChain::decode(bytes).map_err(|_| CursorError::Part("roster"))?)),
        };
        let partial = match raw.partial.take() {
            None => None,
            Some(partial) => Some(Partial {
                record: hash(&partial.record, "position")?,
                events: partial.events,
                upto: partial.upto.map(Seq),
            }),
        };
        let mut publishers = BTreeMap::new();
        for mut publisher in raw.publishers.drain(..) {
            let parsed = SavedPublisher::from_wire(&publisher);
            publisher.keys.zeroize();
            let (key, saved) = parsed.ok_or(CursorError::Part("publishers"))?;
            publishers.insert(key, saved);
        }
        Ok(Self {
            topic: *topic,
            marks: Marks {
                roster_seq: RosterSeq(raw.mark_seq),
                roster_hash: hash(&raw.mark_hash, "marks")?,
                next_offset: Offset(raw.mark_offset),
                durable: raw.mark_durable,
            },
            next_offset: raw.next_offset.map(Offset),
            partial,
            chain,
            publishers,
            tag: raw.tag.map(Bytes::from),
            acknowledged: raw.acknowledged.iter().map(|ack| (ack.id, ack.at_ms)).collect(),
        })
    }

    /// Forgets every key that came from a prekey that is not held any more.
    pub fn erase(&mut self, held: &dyn Fn(u32) -> bool) -> bool {
        // Not `any`: every one of them is to be looked at.
        self.publishers.values_mut().fold(false, |changed, saved| saved.erase(held) | changed)
    }
}

impl SavedPublisher {
    /// Forgets its keys if they came from a prekey that is not held any more; returns whether they did.
    pub fn erase(&mut self, held: &dyn Fn(u32) -> bool) -> bool {
        match self.keys {
            SavedKeys::Open(SlotSource::Prekey(id), _) if !held(id) => {
                self.keys = SavedKeys::Locked;
                true
            }
            _ => false,
        }
    }

    fn to_wire(&self, key: &PublicKey) -> wire::Publisher {
        let track = &self.track;
        let (state, keys) = match &self.keys {
            SavedKeys::Locked => (wire::LOCKED, Vec::new()),
            SavedKeys::Pending(slot) => {
                (wire::PENDING, slot.map(|slot| slot.encode().to_vec()).unwrap_or_default())
            }
            SavedKeys::Open(_, snapshot) => (wire::OPEN, snapshot.to_vec()),
        };
        wire::Publisher {
            key: key.as_bytes().to_vec(),
            header: track.header.body().clone(),
            signature: track.header.signature().to_vec(),
            older: track.older.iter().map(|hash| hash.0.to_vec()).collect(),
            next_batch_no: track.next_batch_no.0,
            last_hash: track.last_hash.map(|hash| hash.0.to_vec()),
            next_seq: track.next_seq.map(|seq| seq.0),
            unbroken: track.unbroken,
            suspect: track.suspect.map_or(0, reason_to_u32),
            gap_due: track.gap_due,
            locked_from: track.locked_from.map(|seq| seq.0),
            locked_told: track.locked_told,
            ended: track.ended,
            stale_told: track.stale_told,
            state,
            keys,
        }
    }

    fn from_wire(raw: &wire::Publisher) -> Option<(PublicKey, Self)> {
        let header: Signed<EpochHeader> = Signed::from_parts(raw.header.clone(), &raw.signature).ok()?;
        let as_hash = |bytes: &Vec<u8>| Hash::try_from(bytes.as_slice()).ok();
        let keys = match raw.state {
            wire::LOCKED => SavedKeys::Locked,
            wire::PENDING if raw.keys.is_empty() => SavedKeys::Pending(None),
            wire::PENDING => SavedKeys::Pending(Some(Slot::decode(&raw.keys)?)),
            wire::OPEN => {
                let source = EpochReceiver::restore(&raw.keys).ok()?.source();
                SavedKeys::Open(source, Arc::new(Zeroizing::new(raw.keys.clone())))
            }
            _ => return None,
        };
        let track = Track {
            header_hash: header.hash(),
            header,
            older: raw.older.iter().map(as_hash).collect::<Option<Arc<[Hash]>>>()?,
            next_batch_no: BatchNo(raw.next_batch_no),
            last_hash: match &raw.last_hash {
                None => None,
                Some(bytes) => Some(as_hash(bytes)?),
            },
            next_seq: raw.next_seq.map(Seq),
            unbroken: raw.unbroken,
            suspect: reason_from_u32(raw.suspect)?,
            gap_due: raw.gap_due,
            locked_from: raw.locked_from.map(Seq),
            locked_told: raw.locked_told,
            ended: raw.ended,
            stale_told: raw.stale_told,
        };
        Some((PublicKey::from_bytes(&raw.key).ok()?, Self { track, keys }))
    }
}

fn hash(bytes: &[u8], part: &'static str) -> Result<Hash, CursorError> {
    Hash::try_from(bytes).map_err(|_| CursorError::Part(part))
}

fn reason_to_u32(reason: GapReason) -> u32 {
    match reason {
        GapReason::Retention => 1,
        GapReason::Corruption => 2,
        GapReason::Missing => 3,
        GapReason::Withheld => 4,
    }
}

fn reason_from_u32(reason: u32) -> Option<Option<GapReason>> {
    Some(match reason {
        0 => None,
        1 => Some(GapReason::Retention),
        2 => Some(GapReason::Corruption),
        3 => Some(GapReason::Missing),
        4 => Some(GapReason::Withheld),
        _ => return None,
    })
}
