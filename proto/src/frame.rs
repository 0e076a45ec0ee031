//! Frames: what stands on a stream (docs/protocol.md section 8).
//!
//! ```text
//! frame = len u32 ‖ kind u8 ‖ payload          len counts the payload; it is checked against the kind's limit
//!                                              before a byte of it is read or a buffer made for it
//! kind 0 control   protobuf Request / Reply                      ≤ 16 KiB
//! kind 1 record    to the broker: record; from it: offset u64 ‖ record
//! kind 2 roster    to the broker: protobuf RosterBundle; from it: RosterDelivery
//! kind 3 table     whole slots of an upload                      ≤ 1,024 slots
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::identity::PublicKey;
use crate::ids::{BatchNo, Epoch, Hash, Offset, RosterSeq, TopicId};
use crate::object::{Beacon, EpochHeader, Genesis, ObjectError, Prekey, RosterEntry, RosterHead, Signed};
use crate::record::{BatchDigest, Record, RecordError};
use crate::roster::EntryBundle;
use crate::slot::Slot;
use crate::{limits, wire};

/// Bytes before a frame's payload: length and kind.
pub const FRAME_HEADER: usize = 5;
/// Slots in one table frame, a count: 56 KiB, one chunk of the store.
pub const TABLE_FRAME_SLOTS: usize = 1024;

/// Bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind this version does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Longer than its kind may be.
    #[error("a frame of {len} bytes where {max} are allowed")]
    TooLong {
        /// Announced length.
        len: usize,
        /// The kind's limit.
        max: usize,
    },
    /// Not what its kind promises.
    #[error("a malformed frame: {0}")]
    Malformed(&'static str),
    /// A malformed object inside.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A malformed record inside.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A request or a reply.
    Control,
    /// A record.
    Record,
    /// A roster entry with what travels beside it.
    Roster,
    /// Slots.
    Table,
}

impl FrameKind {
    fn to_u8(self) -> u8 {
        match self {
            Self::Control => 0,
            Self::Record => 1,
            Self::Roster => 2,
            Self::Table => 3,
        }
    }

    /// The longest payload, bytes.
    pub fn max_len(self) -> usize {
        match self {
            Self::Control => limits::MAX_CONTROL_FRAME,
            Self::Record => limits::MAX_RECORD_FRAME,
            Self::Roster => limits::MAX_ROSTER_FRAME,
            Self::Table => TABLE_FRAME_SLOTS * limits::SLOT_BYTES,
        }
    }

    /// Reads a frame's first five bytes: kind and checked payload length.
    pub fn parse(header: [u8; FRAME_HEADER]) -> Result<(Self, usize), FrameError> {
        let [a, b, c, d, kind] = header;
        let kind = match kind {
            0 => Self::Control,
            1 => Self::Record,
            2 => Self::Roster,
            3 => Self::Table,
            other => return Err(FrameError::Kind(other)),
        };
        let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if len > kind.max_len() {
            return Err(FrameError::TooLong { len, max: kind.max_len() });
        }
        Ok((kind, len))
    }
}

/// A frame's header for a payload of `len` bytes, at most the kind's limit.
pub fn frame_header(kind: FrameKind, len: usize) -> [u8; FRAME_HEADER] {
    let [a, b, c, d] = u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes();
    [a, b, c, d, kind.to_u8()]
}

fn framed(kind: FrameKind, parts: &[&[u8]]) -> Bytes {
    let len = parts.iter().map(|part| part.len()).sum();
    let mut out = BytesMut::with_capacity(FRAME_HEADER + len);
    out.put_slice(&frame_header(kind, len));
    for part in parts {
        out.put_slice(part);
    }
    out.freeze()
}

/// First words, either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// [`limits::PROTOCOL_VERSION`].
    pub version: u32,
    /// Program and version, for logs; at most 64 bytes are kept.
    pub agent: String,
    /// The sender's clock, milliseconds since 1970.
    pub time_ms: u64,
}

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The oldest record retained.
    Earliest,
    /// After the newest record.
    Latest,
    /// The first record at or after this offset.
    Offset(Offset),
    /// The first record the broker stored at or after this time, milliseconds since 1970.
    Time(u64),
}

/// A subscription's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe {
    /// Which topic.
    pub topic: TopicId,
    /// Where to begin.
    pub from: From,
    /// The newest roster entry the subscriber already verified: entries after it are sent.
    pub roster_seq: Option<RosterSeq>,
    /// End the stream at the durable head instead of waiting for more.
    pub until_head: bool,
}

/// From a client to its broker: the first frame of a stream, or what follows on it.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// The control stream's first frame.
    Hello(Hello),
    /// Register a topic. → `Done`
    CreateTopic(Signed<Genesis>),
    /// What is this topic? → `Topic`
    FetchTopic(TopicId),
    /// Append a roster entry; a [`Request::Bundle`] frame follows. → `Done`
    AppendRoster(TopicId),
    /// The entry and what travels beside it.
    Bundle(EntryBundle),
    /// Re-assert the roster's head. → `Done`
    PutHead(TopicId, Signed<RosterHead>),
    /// The roster entries from this one on, with operations. → `Roster`…, `AtHead`
    FetchRoster(TopicId, RosterSeq),
    /// Register a member's own prekey. → `Done`
    PutPrekey(TopicId, Signed<Prekey>),
    /// Upload a slot table; [`Request::Table`] frames follow. → `Done`
    UploadTable {
        /// Which topic.
        topic: TopicId,
        /// How many slots follow.
        slot_count: u32,
        /// What they hash to.
        slots_hash: Hash,
    },
    /// Whole slots, at most 1,024.
    Table(Bytes),
    /// A publisher's epochs up to this one, from the newest with a DH slot for the asker. → `Epoch`…, `AtHead`
    FetchEpochs {
        /// Which topic.
        topic: TopicId,
        /// Whose epochs.
        publisher: PublicKey,
        /// The last one wanted.
        epoch: Epoch,
    },
    /// Publish: records and beacons follow on this stream. → `Ack` / `Refused` for each record
    Publish(TopicId),
    /// A header or a batch, as it will be stored and delivered.
    Record(Bytes),
    /// A beacon, to be relayed.
    Beacon(Signed<Beacon>),
    /// Deliver records. → `Start`, `Roster`…, `Context`…, then records
    Subscribe(Subscribe),
    /// What publishers and admins follow: entries with operations, heads, prekeys, each publisher's newest epoch
    /// and batch, beacons; no ciphertext. Entries after this seq. → `Start`, …
    Watch(TopicId, RosterSeq),
}

/// How safe an acknowledged record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// In the broker's memory.
    Memory,
    /// On the broker's disk, fsynced.
    Durable,
    /// On several servers.
    Replicated,
}

/// A record was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Which epoch.
    pub epoch: Epoch,
    /// Which batch; `None`: the epoch's header.
    pub batch_no: Option<BatchNo>,
    /// Where it was (first) stored.
    pub offset: Offset,
    /// How safe it is.
    pub level: Level,
}

/// Why a broker refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// The bytes are not what they should be.
    Malformed,
    /// No such topic, or not for this identity: the same answer for both.
    NotAllowed,
    /// The fence: built on a roster older than the last removal.
    StaleEpoch,
    /// The same number with other bytes is stored already.
    Conflict,
    /// Not the next one (batch, epoch, previous header or close).
    OutOfOrder,
    /// A newer session of the same identity publishes here.
    Superseded,
    /// The roster has moved on: not the next entry.
    RosterConflict,
    /// The roster's rules forbid it.
    RosterRule,
    /// The header's slot table was not uploaded or is not what the header says.
    NoTable,
    /// A limit; try again after a while.
    Busy,
    /// The broker cannot store (full or failed disk).
    ReadOnly,
    /// The broker is going away; another or a later connection will do.
    Draining,
    /// Another version of the protocol.
    Version,
}

const CODES: [(Code, u32); 13] = [
    (Code::Malformed, 1),
    (Code::NotAllowed, 2),
    (Code::StaleEpoch, 3),
    (Code::Conflict, 4),
    (Code::OutOfOrder, 5),
    (Code::Superseded, 6),
    (Code::RosterConflict, 7),
    (Code::RosterRule, 8),
    (Code::NoTable, 9),
    (Code::Busy, 10),
    (Code::ReadOnly, 11),
    (Code::Draining, 12),
    (Code::Version, 13),
];

impl Code {
    fn to_u32(self) -> u32 {
        CODES.iter().find(|(code, _)| *code == self).map_or(0, |(_, number)| *number)
    }

    fn from_u32(number: u32) -> Result<Self, FrameError> {
        let known = CODES.iter().find(|(_, known)| *known == number);
        known.map(|(code, _)| *code).ok_or(FrameError::Malformed("an unknown refusal"))
    }
}

/// A refusal. The details are for people; the code is for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?}: {detail}")]
pub struct Refusal {
    /// Why.
    pub code: Code,
    /// One line for people.
    pub detail: String,
    /// `StaleEpoch`: the newest entry that removes someone.
    pub roster_seq: RosterSeq,
    /// Milliseconds after which trying again makes sense; 0: never.
    pub retry_after_ms: u64,
    /// On a publish stream: which record.
    pub record: Option<(Epoch, Option<BatchNo>)>,
}

impl Refusal {
    /// A refusal with nothing but a code and a line.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), roster_seq: RosterSeq(0), retry_after_ms: 0, record: None }
    }
}

/// What a broker says of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicInfo {
    /// The genesis: hashes to the topic id.
    pub genesis: Signed<Genesis>,
    /// Head of the roster.
    pub roster_seq: RosterSeq,
    /// The oldest record retained.
    pub first_offset: Offset,
    /// The durable head: the offset the next record gets is not below it.
    pub next_offset: Offset,
    /// What its acknowledgements mean.
    pub level: Level,
}

/// A roster entry as delivered.
#[derive(Debug, Clone, PartialEq)]
pub struct RosterDelivery {
    /// Its place in the log.
    pub offset: Offset,
    /// The entry.
    pub entry: Signed<RosterEntry>,
    /// The operations: to publishers, admins, and whom they remove.
    pub ops: Option<Bytes>,
    /// The roles list, when it changed or was asked for.
    pub roles: Option<Bytes>,
    /// The policy, when it changed or was asked for.
    pub policy: Option<Bytes>,
}

/// A header as delivered, with the subscriber's own slot.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochDelivery {
    /// Its place in the log.
    pub offset: Offset,
    /// The header.
    pub header: Signed<EpochHeader>,
    /// The subscriber's own slot, if the table has one.
    pub slot: Option<Slot>,
}

/// A publisher's newest epoch and batch before the point where a stream begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Context {
    /// Its newest header there.
    pub epoch: EpochDelivery,
    /// Its last batch of that epoch and the batch's place, if there is one.
    pub batch: Option<(BatchDigest, Offset)>,
}

/// A stream's first frame from the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Hashes to the topic id.
    pub genesis: Signed<Genesis>,
    /// Where delivery begins.
    pub start_offset: Offset,
    /// The durable head.
    pub next_offset: Offset,
    /// Head of the roster.
    pub roster_seq: RosterSeq,
    /// What acknowledgements mean.
    pub level: Level,
}

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HoleReason {
    /// Retention removed them.
    Retention,
    /// The broker found them damaged.
    Corruption,
}

/// From a broker to its client.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The control stream's first frame.
    Hello(Hello),
    /// It was done, durably; for roster entries, their offset.
    Done(Offset),
    /// It was not.
    Refused(Refusal),
    /// What was asked of a topic.
    Topic(TopicInfo),
    /// A record was stored.
    Ack(Ack),
    /// A stream begins.
    Start(Start),
    /// A publisher's newest epoch and batch at this point of the stream.
    Context(Context),
    /// A roster entry.
    Roster(RosterDelivery),
    /// A header.
    Epoch(EpochDelivery),
    /// A record: on delivery streams always a batch.
    Record(Offset, Bytes),
    /// A relayed beacon.
    Beacon(PublicKey, Signed<Beacon>),
    /// A member's newest prekey.
    Prekey(Signed<Prekey>),
    /// A re-asserted roster head.
    Head(Signed<RosterHead>),
    /// Records `from..to` are missing.
    Hole(Offset, Offset, HoleReason),
    /// Everything up to the durable head was sent.
    AtHead {
        /// The durable head.
        next_offset: Offset,
        /// Nothing follows.
        end_of_stream: bool,
    },
}

impl Request {
    /// The whole frame.
    pub fn encode(&self) -> Bytes {
        use wire::request::Request as R;
        let topic_ref = |topic: &TopicId| wire::TopicRef { topic: copy(&topic.0) };
        let request = match self {
            Self::Record(record) => return framed(FrameKind::Record, &[record]),
            Self::Table(slots) => return framed(FrameKind::Table, &[slots]),
            Self::Bundle(bundle) => return framed(FrameKind::Roster, &[&bundle.to_wire().encode_to_vec()]),
            Self::Hello(hello) => R::Hello(hello.to_wire()),
            Self::CreateTopic(genesis) => {
                R::CreateTopic(wire::CreateTopic { genesis: Some(genesis.to_wire()) })
            }
            Self::FetchTopic(topic) => R::FetchTopic(topic_ref(topic)),
            Self::AppendRoster(topic) => R::AppendRoster(wire::AppendRoster { topic: copy(&topic.0) }),
            Self::PutHead(topic, head) => {
                R::PutHead(wire::PutHead { topic: copy(&topic.0), head: Some(head.to_wire()) })
            }
            Self::FetchRoster(topic, from) => {
                R::FetchRoster(wire::FetchRoster { topic: copy(&topic.0), from_seq: from.0 })
            }
            Self::PutPrekey(topic, prekey) => {
                R::PutPrekey(wire::PutPrekey { topic: copy(&topic.0), prekey: Some(prekey.to_wire()) })
            }
            Self::UploadTable { topic, slot_count, slots_hash } => R::UploadTable(wire::UploadTable {
                topic: copy(&topic.0),
                slot_count: *slot_count,
                slots_hash: copy(&slots_hash.0),
            }),
            Self::FetchEpochs { topic, publisher, epoch } => R::FetchEpochs(wire::FetchEpochs {
                topic: copy(&topic.0),
                publisher: copy(publisher.as_bytes()),
                epoch: epoch.0,
            }),
            Self::Publish(topic) => R::Publish(topic_ref(topic)),
            Self::Beacon(beacon) => R::Beacon(beacon.to_wire()),
            Self::Subscribe(subscribe) => R::Subscribe(wire::Subscribe {
                topic: copy(&subscribe.topic.0),
                start: Some(match subscribe.from {
                    From::Earliest => wire::subscribe::Start::Earliest(true),
                    From::Latest => wire::subscribe::Start::Latest(true),
                    From::Offset(offset) => wire::subscribe::Start::Offset(offset.0),
                    From::Time(ms) => wire::subscribe::Start::TimeMs(ms),
                }),
                roster_seq: subscribe.roster_seq.unwrap_or_default().0,
                has_roster: subscribe.roster_seq.is_some(),
                until_head: subscribe.until_head,
            }),
            Self::Watch(topic, seq) => R::Watch(wire::Watch { topic: copy(&topic.0), roster_seq: seq.0 }),
        };
        framed(FrameKind::Control, &[&wire::Request { request: Some(request) }.encode_to_vec()])
    }

    /// Reads a payload whose length [`FrameKind::parse`] allowed.
    pub fn decode(kind: FrameKind, payload: Bytes) -> Result<Self, FrameError> {
        use wire::request::Request as R;
        match kind {
            FrameKind::Record => return Ok(Self::Record(payload)),
            FrameKind::Table => return Ok(Self::Table(payload)),
            FrameKind::Roster => {
                let raw = wire::RosterBundle::decode(payload).map_err(|_| NOT_PROTOBUF)?;
                return Ok(Self::Bundle(EntryBundle::from_wire(raw)?));
            }
            FrameKind::Control => {}
        }
        let raw = wire::Request::decode(payload).map_err(|_| NOT_PROTOBUF)?;
        Ok(match raw.request.ok_or(FrameError::Malformed("an unknown request"))? {
            R::Hello(raw) => Self::Hello(Hello::from_wire(raw)),
            R::CreateTopic(raw) => Self::CreateTopic(Signed::from_wire(raw.genesis)?),
            R::FetchTopic(raw) => Self::FetchTopic(topic(&raw.topic)?),
            R::AppendRoster(raw) => Self::AppendRoster(topic(&raw.topic)?),
            R::PutHead(raw) => Self::PutHead(topic(&raw.topic)?, Signed::from_wire(raw.head)?),
            R::FetchRoster(raw) => Self::FetchRoster(topic(&raw.topic)?, RosterSeq(raw.from_seq)),
            R::PutPrekey(raw) => Self::PutPrekey(topic(&raw.topic)?, Signed::from_wire(raw.prekey)?),
            R::UploadTable(raw) => {
                if raw.slot_count > limits::MAX_SLOTS {
                    return Err(FrameError::Malformed("too many slots"));
                }
                Self::UploadTable {
                    topic: topic(&raw.topic)?,
                    slot_count: raw.slot_count,
                    slots_hash: hash32(&raw.slots_hash)?,
                }
            }
            R::FetchEpochs(raw) => Self::FetchEpochs {
                topic: topic(&raw.topic)?,
                publisher: public(&raw.publisher)?,
                epoch: Epoch(raw.epoch),
            },
            R::Publish(raw) => Self::Publish(topic(&raw.topic)?),
            R::Beacon(raw) => Self::Beacon(Signed::from_wire(Some(raw))?),
            R::Subscribe(raw) => Self::Subscribe(Subscribe {
                topic: topic(&raw.topic)?,
                from: match raw.start.ok_or(FrameError::Malformed("a subscription without a start"))? {
                    wire::subscribe::Start::Earliest(_) => From::Earliest,
                    wire::subscribe::Start::Latest(_) => From::Latest,
                    wire::subscribe::Start::Offset(offset) => From::Offset(Offset(offset)),
                    wire::subscribe::Start::TimeMs(ms) => From::Time(ms),
                },
                roster_seq: raw.has_roster.then_some(RosterSeq(raw.roster_seq)),
                until_head: raw.until_head,
            }),
            R::Watch(raw) => Self::Watch(topic(&raw.topic)?, RosterSeq(raw.roster_seq)),
        })
    }
}

impl Reply {
    /// The whole frame.
    pub fn encode(&self) -> Bytes {
        use wire::reply::Reply as R;
        let reply = match self {
            Self::Record(offset, record) => {
                return framed(FrameKind::Record, &[&offset.0.to_be_bytes(), record]);
            }
            Self::Roster(delivery) => {
                let raw = wire::RosterDelivery {
                    offset: delivery.offset.0,
                    entry: Some(delivery.entry.to_wire()),
                    ops: delivery.ops.clone(),
                    roles: delivery.roles.clone(),
                    policy: delivery.policy.clone(),
                };
                return framed(FrameKind::Roster, &[&raw.encode_to_vec()]);
            }
            Self::Hello(hello) => R::Hello(hello.to_wire()),
            Self::Done(offset) => R::Done(wire::Done { offset: offset.0 }),
            Self::Refused(refusal) => R::Refused(wire::Refusal {
                code: refusal.code.to_u32(),
                detail: refusal.detail.clone(),
                roster_seq: refusal.roster_seq.0,
                retry_after_ms: refusal.retry_after_ms,
                epoch: refusal.record.map_or(0, |(epoch, _)| epoch.0),
                batch_no: refusal.record.and_then(|(_, batch)| batch).map(|batch| batch.0),
            }),
            Self::Topic(info) => R::Topic(wire::TopicInfo {
                genesis: Some(info.genesis.to_wire()),
                roster_seq: info.roster_seq.0,
                first_offset: info.first_offset.0,
                next_offset: info.next_offset.0,
                level: info.level.to_u32(),
            }),
            Self::Ack(ack) => R::Ack(wire::Ack {
                epoch: ack.epoch.0,
                batch_no: ack.batch_no.map(|batch| batch.0),
                offset: ack.offset.0,
                level: ack.level.to_u32(),
            }),
            Self::Start(start) => R::Start(wire::Start {
                genesis: Some(start.genesis.to_wire()),
                start_offset: start.start_offset.0,
                next_offset: start.next_offset.0,
                roster_seq: start.roster_seq.0,
                level: start.level.to_u32(),
            }),
            Self::Context(context) => R::Context(wire::Context {
                epoch: Some(context.epoch.to_wire()),
                batch: context.batch.as_ref().map(|(digest, offset)| wire::BatchDigest {
                    batch: Some(wire::SignedObject {
                        body: digest.body.clone(),
                        signature: copy(&digest.signature),
                    }),
                    ct_hash: copy(&digest.ct_hash.0),
                    offset: offset.0,
                }),
            }),
            Self::Epoch(epoch) => R::Epoch(epoch.to_wire()),
            Self::Beacon(publisher, beacon) => R::Beacon(wire::BeaconDelivery {
                publisher: copy(publisher.as_bytes()),
                beacon: Some(beacon.to_wire()),
            }),
            Self::Prekey(prekey) => R::Prekey(prekey.to_wire()),
            Self::Head(head) => R::Head(head.to_wire()),
            Self::Hole(from, to, why) => R::Hole(wire::Hole {
                from_offset: from.0,
                to_offset: to.0,
                why: match why {
                    HoleReason::Retention => 1,
                    HoleReason::Corruption => 2,
                },
            }),
            Self::AtHead { next_offset, end_of_stream } => {
                R::AtHead(wire::AtHead { next_offset: next_offset.0, end_of_stream: *end_of_stream })
            }
        };
        framed(FrameKind::Control, &[&wire::Reply { reply: Some(reply) }.encode_to_vec()])
    }

    /// Reads a payload whose length [`FrameKind::parse`] allowed.
    pub fn decode(kind: FrameKind, mut payload: Bytes) -> Result<Self, FrameError> {
        use wire::reply::Reply as R;
        match kind {
            FrameKind::Record => {
                let offset =
                    payload.try_get_u64().map_err(|_| FrameError::Malformed("a record without an offset"))?;
                return Ok(Self::Record(Offset(offset), payload));
            }
            FrameKind::Roster => {
                let raw = wire::RosterDelivery::decode(payload).map_err(|_| NOT_PROTOBUF)?;
                return Ok(Self::Roster(RosterDelivery {
                    offset: Offset(raw.offset),
                    entry: Signed::from_wire(raw.entry)?,
                    ops: raw.ops,
                    roles: raw.roles,
                    policy: raw.policy,
                }));
            }
            FrameKind::Table => return Err(FrameError::Malformed("a table from a broker")),
            FrameKind::Control => {}
        }
        let raw = wire::Reply::decode(payload).map_err(|_| NOT_PROTOBUF)?;
        Ok(match raw.reply.ok_or(FrameError::Malformed("an unknown reply"))? {
            R::Hello(raw) => Self::Hello(Hello::from_wire(raw)),
            R::Done(raw) => Self::Done(Offset(raw.offset)),
            R::Refused(raw) => Self::Refused(Refusal {
                code: Code::from_u32(raw.code)?,
                // A hostile broker's words reach a person's terminal: no control characters, one line.
                detail: raw.detail.chars().filter(|c| !c.is_control()).take(200).collect(),
                roster_seq: RosterSeq(raw.roster_seq),
                retry_after_ms: raw.retry_after_ms,
                record: (raw.epoch != 0).then_some((Epoch(raw.epoch), raw.batch_no.map(BatchNo))),
            }),
            R::Topic(raw) => Self::Topic(TopicInfo {
                genesis: Signed::from_wire(raw.genesis)?,
                roster_seq: RosterSeq(raw.roster_seq),
                first_offset: Offset(raw.first_offset),
                next_offset: Offset(raw.next_offset),
                level: Level::from_u32(raw.level)?,
            }),
            R::Ack(raw) => Self::Ack(Ack {
                epoch: Epoch(raw.epoch),
                batch_no: raw.batch_no.map(BatchNo),
                offset: Offset(raw.offset),
                level: Level::from_u32(raw.level)?,
            }),
            R::Start(raw) => Self::Start(Start {
                genesis: Signed::from_wire(raw.genesis)?,
                start_offset: Offset(raw.start_offset),
                next_offset: Offset(raw.next_offset),
                roster_seq: RosterSeq(raw.roster_seq),
                level: Level::from_u32(raw.level)?,
            }),
            R::Context(raw) => Self::Context(Context {
                epoch: EpochDelivery::from_wire(
                    raw.epoch.ok_or(FrameError::Malformed("a context without an epoch"))?,
                )?,
                batch: raw.batch.map(batch_digest).transpose()?,
            }),
            R::Epoch(raw) => Self::Epoch(EpochDelivery::from_wire(raw)?),
            R::Beacon(raw) => Self::Beacon(public(&raw.publisher)?, Signed::from_wire(raw.beacon)?),
            R::Prekey(raw) => Self::Prekey(Signed::from_wire(Some(raw))?),
            R::Head(raw) => Self::Head(Signed::from_wire(Some(raw))?),
            R::Hole(raw) => Self::Hole(
                Offset(raw.from_offset),
                Offset(raw.to_offset),
                match raw.why {
                    1 => HoleReason::Retention,
                    2 => HoleReason::Corruption,
                    _ => return Err(FrameError::Malformed("an unknown reason for a hole")),
                },
            ),
            R::AtHead(raw) => {
                Self::AtHead { next_offset: Offset(raw.next_offset), end_of_stream: raw.end_of_stream }
            }
        })
    }

    /// The batch inside a [`Reply::Record`]'s bytes.
    pub fn batch(record: Bytes) -> Result<crate::record::BatchRecord, FrameError> {
        match Record::decode(record)? {
            Record::Batch(batch) => Ok(batch),
            _ => Err(FrameError::Malformed("a record frame holds no batch")),
        }
    }
}

impl Hello {
    fn to_wire(&self) -> wire::Hello {
        wire::Hello { version: self.version, agent: self.agent.clone(), time_ms: self.time_ms }
    }

    fn from_wire(raw: wire::Hello) -> Self {
        let agent = raw.agent.chars().filter(|c| !c.is_control()).take(64).collect();
        Self { version: raw.version, agent, time_ms: raw.time_ms }
    }
}

impl Level {
    fn to_u32(self) -> u32 {
        match self {
            Self::Memory => 1,
            Self::Durable => 2,
            Self::Replicated => 3,
        }
    }

    fn from_u32(level: u32) -> Result<Self, FrameError> {
        match level {
            1 => Ok(Self::Memory),
            2 => Ok(Self::Durable),
            3 => Ok(Self::Replicated),
            _ => Err(FrameError::Malformed("an unknown level")),
        }
    }
}

impl EpochDelivery {
    fn to_wire(&self) -> wire::EpochDelivery {
        wire::EpochDelivery {
            offset: self.offset.0,
            header: Some(self.header.to_wire()),
            slot: self.slot.as_ref().map(|slot| copy(&slot.encode())),
        }
    }

    fn from_wire(raw: wire::EpochDelivery) -> Result<Self, FrameError> {
        let slot = match raw.slot {
            None => None,
            Some(bytes) => Some(Slot::decode(&bytes).ok_or(FrameError::Malformed("a slot is 56 bytes"))?),
        };
        Ok(Self { offset: Offset(raw.offset), header: Signed::from_wire(raw.header)?, slot })
    }
}

fn batch_digest(raw: wire::BatchDigest) -> Result<(BatchDigest, Offset), FrameError> {
    let object = raw.batch.ok_or(FrameError::Malformed("a batch digest without a batch"))?;
    let signature =
        object.signature.as_ref().try_into().map_err(|_| FrameError::Malformed("a signature is 64 bytes"))?;
    if object.body.len() > limits::MAX_BATCH_BODY {
        return Err(FrameError::Malformed("a batch's body is too long"));
    }
    let digest = BatchDigest { body: object.body, signature, ct_hash: hash32(&raw.ct_hash)? };
    Ok((digest, Offset(raw.offset)))
}

const NOT_PROTOBUF: FrameError = FrameError::Malformed("not protobuf");

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn topic(bytes: &[u8]) -> Result<TopicId, FrameError> {
    TopicId::try_from(bytes).map_err(|_| FrameError::Malformed("a topic id is 32 bytes"))
}

fn hash32(bytes: &[u8]) -> Result<Hash, FrameError> {
    Hash::try_from(bytes).map_err(|_| FrameError::Malformed("a hash is 32 bytes"))
}

fn public(bytes: &[u8]) -> Result<PublicKey, FrameError> {
    PublicKey::from_bytes(bytes).map_err(|_| FrameError::Malformed("an invalid public key"))
}
