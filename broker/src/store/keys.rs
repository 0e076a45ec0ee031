//! The key layout, one table. Numbers are big-endian, so that keys sort as what they name does.
//!
//! | keyspace  | key                                              | value                                         |
//! |-----------|--------------------------------------------------|-----------------------------------------------|
//! | `log`     | topic 32 ‖ offset 8 ‖ stored_ms 8 ‖ start 8      | the record                                    |
//! | `rosters` | topic 32 ‖ seq 8 ‖ offset 8                      | the bundle                                    |
//! | `tables`  | table 8 ‖ first_member 4                         | slots                                         |
//! | `index`   | `G` topic 32                                     | the genesis                                   |
//! |           | `T` topic 32                                     | offset 8 ‖ start 8: all before it was trimmed |
//! |           | `O` topic 32                                     | offset 8: all before it was given out         |
//! |           | `H` topic 32                                     | the roster head                               |
//! |           | `P` topic 32 ‖ publisher 32                      | the publisher's snapshot                      |
//! |           | `E` topic 32 ‖ publisher 32 ‖ epoch 8            | offset 8 ‖ table 8 ‖ the header's record      |
//! |           | `B` topic 32 ‖ publisher 32 ‖ epoch 8 ‖ batch_no 8 | offset 8 ‖ the digest                       |
//! |           | `K` owner 32                                     | the prekey                                    |
//! |           | `S` table 8                                      | nothing: the table is staged                  |
//! |           | `I` topic 32                                     | nothing: the topic is being imported          |
//!
//! `start` is how many bytes of records the topic stored before this one. With it and `stored_ms` in the key, a search by
//! time or by size reads keys only, never a record. No table is 2⁶⁴−1: that says "none".

use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use super::{LogError, TableId};

pub(super) const GENESIS: u8 = b'G';
pub(super) const TRIM: u8 = b'T';
pub(super) const RESERVED: u8 = b'O';
pub(super) const HEAD: u8 = b'H';
pub(super) const PUBLISHER: u8 = b'P';
pub(super) const EPOCH: u8 = b'E';
pub(super) const BATCH: u8 = b'B';
pub(super) const PREKEY: u8 = b'K';
pub(super) const STAGED: u8 = b'S';
pub(super) const IMPORT: u8 = b'I';

/// A key being put together.
#[derive(Clone)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// Room for the longest key, bytes.
    const ROOM: usize = 96;

    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(Self::ROOM))
    }

    pub(super) fn tag(tag: u8) -> Self {
        Self::new().bytes(&[tag])
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u64(self, number: u64) -> Self {
        self.bytes(&number.to_be_bytes())
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The place of a record, as its key tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: Offset,
    pub(super) stored_ms: u64,
    pub(super) start: u64,
}

pub(super) fn log(topic: &TopicId, place: Place) -> Vec<u8> {
    log_from(topic, place.offset).u64(place.stored_ms).u64(place.start).done()
}

/// Sorts before every record at `offset` or later, and after all before.
pub(super) fn log_from(topic: &TopicId, offset: Offset) -> Key {
    Key::new().bytes(topic.as_bytes()).u64(offset.0)
}

pub(super) fn parse_log(key: &[u8]) -> Result<Place, LogError> {
    let mut parts = Parts::after(key, 32, "a log key");
    Ok(Place { offset: Offset(parts.u64()?), stored_ms: parts.u64()?, start: parts.u64()? })
}

pub(super) fn roster(topic: &TopicId, seq: RosterSeq, offset: Offset) -> Vec<u8> {
    roster_from(topic, seq).u64(offset.0).done()
}

pub(super) fn roster_from(topic: &TopicId, seq: RosterSeq) -> Key {
    Key::new().bytes(topic.as_bytes()).u64(seq.0)
}

pub(super) fn parse_roster(key: &[u8]) -> Result<(RosterSeq, Offset), LogError> {
    let mut parts = Parts::after(key, 32, "a roster key");
    Ok((RosterSeq(parts.u64()?), Offset(parts.u64()?)))
}

/// No table has a chunk after the one of this member.
pub(super) const LAST_MEMBER: MemberIndex = MemberIndex(u32::MAX);

pub(super) fn chunk(table: TableId, first: MemberIndex) -> Vec<u8> {
    Key::new().u64(table.0).bytes(&first.0.to_be_bytes()).done()
}

pub(super) fn parse_chunk_table(key: &[u8]) -> Result<TableId, LogError> {
    Ok(TableId(Parts::after(key, 0, "a table key").u64()?))
}

pub(super) fn parse_chunk_member(key: &[u8]) -> Result<MemberIndex, LogError> {
    let member = key.get(8..12).and_then(|member| member.try_into().ok());
    Ok(MemberIndex(u32::from_be_bytes(member.ok_or_else(|| corrupt("a table key"))?)))
}

pub(super) fn of_topic(tag: u8, topic: &TopicId) -> Vec<u8> {
    Key::tag(tag).bytes(topic.as_bytes()).done()
}

pub(super) fn parse_topic(key: &[u8]) -> Result<TopicId, LogError> {
    key.get(1..33).and_then(|id| TopicId::try_from(id).ok()).ok_or_else(|| corrupt("a topic key"))
}

pub(super) fn of_publisher(tag: u8, topic: &TopicId, publisher: &PublicKey) -> Key {
    Key::tag(tag).bytes(topic.as_bytes()).bytes(publisher.as_bytes())
}

pub(super) fn parse_publisher(key: &[u8]) -> Result<PublicKey, LogError> {
    key.get(33..65).and_then(|id| PublicKey::from_bytes(id).ok()).ok_or_else(|| corrupt("a publisher's key"))
}

pub(super) fn epoch(topic: &TopicId, publisher: &PublicKey, epoch: Epoch) -> Vec<u8> {
    of_publisher(EPOCH, topic, publisher).u64(epoch.0).done()
}

pub(super) fn parse_epoch(key: &[u8]) -> Result<Epoch, LogError> {
    Ok(Epoch(Parts::after(key, 65, "an epoch's key").u64()?))
}

pub(super) fn batch(topic: &TopicId, publisher: &PublicKey, epoch: Epoch, batch_no: BatchNo) -> Vec<u8> {
    of_publisher(BATCH, topic, publisher).u64(epoch.0).u64(batch_no.0).done()
}

pub(super) fn parse_batch(key: &[u8]) -> Result<(Epoch, BatchNo), LogError> {
    let mut parts = Parts::after(key, 65, "a batch's key");
    Ok((Epoch(parts.u64()?), BatchNo(parts.u64()?)))
}

pub(super) fn prekey(owner: &PublicKey) -> Vec<u8> {
    Key::tag(PREKEY).bytes(owner.as_bytes()).done()
}

pub(super) fn staged(table: TableId) -> Vec<u8> {
    Key::tag(STAGED).u64(table.0).done()
}

pub(super) fn parse_staged(key: &[u8]) -> Result<TableId, LogError> {
    Ok(TableId(Parts::after(key, 1, "a staged table's key").u64()?))
}

/// Says "none" where a table's number stands.
const NO_TABLE: u64 = u64::MAX;

pub(super) fn epoch_value(offset: Offset, table: Option<TableId>, header: &[u8]) -> Vec<u8> {
    Key::new().u64(offset.0).u64(table.map_or(NO_TABLE, |table| table.0)).bytes(header).done()
}

/// Where an epoch's header begins in its value.
pub(super) const EPOCH_HEADER: usize = 16;

pub(super) fn parse_epoch_value(value: &[u8]) -> Result<(Offset, Option<TableId>), LogError> {
    let mut parts = Parts::after(value, 0, "an epoch's entry");
    let offset = Offset(parts.u64()?);
    let table = parts.u64()?;
    Ok((offset, (table != NO_TABLE).then_some(TableId(table))))
}

pub(super) fn batch_value(offset: Offset, digest: &[u8]) -> Vec<u8> {
    Key::new().u64(offset.0).bytes(digest).done()
}

/// Where a batch's digest begins in its value.
pub(super) const BATCH_DIGEST: usize = 8;

pub(super) fn parse_batch_value(value: &[u8]) -> Result<Offset, LogError> {
    Ok(Offset(Parts::after(value, 0, "a batch's entry").u64()?))
}

pub(super) fn trim_value(offset: Offset, start: u64) -> Vec<u8> {
    Key::new().u64(offset.0).u64(start).done()
}

pub(super) fn parse_trim(value: &[u8]) -> Result<(Offset, u64), LogError> {
    let mut parts = Parts::after(value, 0, "a trim mark");
    Ok((Offset(parts.u64()?), parts.u64()?))
}

pub(super) fn parse_reserved(value: &[u8]) -> Result<Offset, LogError> {
    Ok(Offset(Parts::after(value, 0, "a reservation").u64()?))
}

/// Reads a key or value number by number.
struct Parts<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Parts<'a> {
    fn after(bytes: &'a [u8], skip: usize, what: &'static str) -> Self {
        Self { rest: bytes.get(skip..).unwrap_or_default(), what }
    }

    fn u64(&mut self) -> Result<u64, LogError> {
        let (number, rest) = self.rest.split_first_chunk::<8>().ok_or_else(|| corrupt(self.what))?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*number))
    }
}

fn corrupt(what: &str) -> LogError {
    LogError::Corrupt(format!("{what} is malformed"))
}
