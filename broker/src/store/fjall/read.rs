//! Reading what [`FjallLog`] wrote.

use bytes::Bytes;
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use super::FjallLog;
use super::engine::{before, bytes, from};
use crate::store::tail::lowest;
use crate::store::{LogError, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, keys};

impl FjallLog {
    pub(super) fn get(&self, key: Vec<u8>) -> Result<Option<Bytes>, LogError> {
        let engine = self.engine()?;
        Ok(engine.index.get(key).map_err(|error| self.reading(error))?.map(bytes))
    }

    pub(super) fn read_from(
        &self,
        topic: &TopicId,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<Vec<Stored>, LogError> {
        let engine = self.engine()?;
        let mut bytes = 0_usize;
        let mut records = Vec::new();
        for entry in from(&engine.log, topic.as_bytes(), &keys::log_from(topic, offset).done()) {
            let stored = match self.stored(entry) {
                Err(error) if error.is_damage() && !records.is_empty() => break,
                stored => stored?,
            };
            bytes = bytes.saturating_add(stored.record.len());
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(stored);
            if bytes >= max_bytes {
                break;
            }
        }
        Ok(records)
    }

    pub(super) fn read_before(
        &self,
        topic: &TopicId,
        offset: Offset,
        max: usize,
    ) -> Result<Vec<Stored>, LogError> {
        let engine = self.engine()?;
        let entries = before(&engine.log, topic.as_bytes(), &keys::log_from(topic, offset).done());
        entries.rev().take(max).map(|entry| self.stored(entry)).collect()
    }

    /// The first record for whose place `holds`, which is false up to some record and true from there on.
    pub(super) fn seek(
        &self,
        topic: &TopicId,
        holds: impl Fn(keys::Place) -> bool,
    ) -> Result<Offset, LogError> {
        let tail = self.tail(topic);
        let at = |x| self.place_from(topic, Offset(x));
        let x = lowest(tail.first.0, tail.next.0, |x| Ok(at(x)?.is_none_or(&holds)))?;
        Ok(at(x)?.map_or(tail.next, |place| place.offset))
    }

    fn place_from(&self, topic: &TopicId, offset: Offset) -> Result<Option<keys::Place>, LogError> {
        let engine = self.engine()?;
        let entry = from(&engine.log, topic.as_bytes(), &keys::log_from(topic, offset).done()).next();
        entry.map(|entry| keys::parse_log(&entry.key().map_err(|error| self.reading(error))?)).transpose()
    }

    pub(super) fn read_rosters(
        &self,
        topic: &TopicId,
        seq: RosterSeq,
        max_bytes: usize,
    ) -> Result<Vec<StoredRoster>, LogError> {
        let engine = self.engine()?;
        let mut bytes = 0_usize;
        let mut rosters = Vec::new();
        for entry in from(&engine.rosters, topic.as_bytes(), &keys::roster_from(topic, seq).done()) {
            let (key, bundle) = self.pair(entry)?;
            let (seq, offset) = keys::parse_roster(&key)?;
            bytes = bytes.saturating_add(bundle.len());
            if bytes > max_bytes && !rosters.is_empty() {
                break;
            }
            rosters.push(StoredRoster { seq, offset, bundle });
        }
        Ok(rosters)
    }

    pub(super) fn find_roster_before(
        &self,
        topic: &TopicId,
        before: Offset,
    ) -> Result<Option<RosterSeq>, LogError> {
        let engine = self.engine()?;
        let key =
            |entry: ::fjall::Guard| keys::parse_roster(&entry.key().map_err(|error| self.reading(error))?);
        let at = |seq| {
            let entry =
                from(&engine.rosters, topic.as_bytes(), &keys::roster_from(topic, RosterSeq(seq)).done())
                    .next();
            entry.map(key).transpose()
        };
        let Some(last) = engine.rosters.prefix(topic.as_bytes()).next_back() else { return Ok(None) };
        let (last, _) = key(last)?;
        // Entries are numbered without holes: the one before the first that stands at `before` or later.
        let first_after = lowest(0, last.0.saturating_add(1), |seq| {
            Ok(at(seq)?.is_none_or(|(_, offset)| offset >= before))
        })?;
        let Some(seq) = first_after.checked_sub(1) else { return Ok(None) };
        Ok(at(seq)?.filter(|(_, offset)| *offset < before).map(|(seq, _)| seq))
    }

    pub(super) fn read_publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>, LogError> {
        let engine = self.engine()?;
        let entries = engine.index.prefix(keys::of_topic(keys::PUBLISHER, topic));
        let entries = entries.map(|entry| {
            let (key, value) = self.pair(entry)?;
            Ok((keys::parse_publisher(&key)?, value))
        });
        entries.collect()
    }

    pub(super) fn read_epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>, LogError> {
        let engine = self.engine()?;
        let prefix = keys::of_publisher(keys::EPOCH, topic, publisher).done();
        let last = keys::epoch(topic, publisher, up_to);
        let entries = engine.index.range(prefix..=last).rev().take(max);
        let entries = entries.map(|entry| {
            let (key, value) = self.pair(entry)?;
            let (offset, table) = keys::parse_epoch_value(&value)?;
            let header = value.slice(keys::EPOCH_HEADER.min(value.len())..);
            Ok(StoredEpoch { epoch: keys::parse_epoch(&key)?, offset, header, table })
        });
        entries.collect()
    }

    pub(super) fn find_batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>, LogError> {
        let engine = self.engine()?;
        let prefix = keys::of_publisher(keys::BATCH, topic, publisher).u64(epoch.0).done();
        let index = &engine.index;
        let parse = |entry| {
            let (key, value) = self.pair(entry)?;
            parse_batch(keys::parse_batch(&key)?.1, &value)
        };
        let at = |no| {
            let key = keys::batch(topic, publisher, epoch, BatchNo(no));
            from(index, &prefix, &key).next().map(parse).transpose()
        };
        let Some(last) = index.prefix(&prefix).next_back().map(parse).transpose()? else { return Ok(None) };
        // Most ask for the end of the epoch.
        if last.offset < before {
            return Ok(Some(last));
        }
        let first_after =
            lowest(0, last.batch_no.0, |no| Ok(at(no)?.is_none_or(|batch| batch.offset >= before)))?;
        // Numbers may have holes (batches lost by a broker that kept them in memory), so the one before is looked for.
        let key = keys::batch(topic, publisher, epoch, BatchNo(first_after));
        super::engine::before(index, &prefix, &key).next_back().map(parse).transpose()
    }

    pub(super) fn read_slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>, LogError> {
        let engine = self.engine()?;
        let first = keys::chunk(table, MemberIndex(0));
        let last = keys::chunk(table, member);
        let Some(chunk) = engine.tables.range(first..=last).next_back() else { return Ok(None) };
        let slots = chunk.value().map_err(|error| self.reading(error))?;
        Ok(find_slot(&slots, member))
    }

    fn stored(&self, entry: ::fjall::Guard) -> Result<Stored, LogError> {
        let (key, record) = self.pair(entry)?;
        let place = keys::parse_log(&key)?;
        Ok(Stored { offset: place.offset, stored_ms: place.stored_ms, record })
    }

    fn pair(&self, entry: ::fjall::Guard) -> Result<(::fjall::Slice, Bytes), LogError> {
        let (key, value) = entry.into_inner().map_err(|error| self.reading(error))?;
        Ok((key, bytes(value)))
    }

    fn reading(&self, error: ::fjall::Error) -> LogError {
        self.translate("reading", error)
    }
}

pub(super) fn parse_batch(batch_no: BatchNo, value: &Bytes) -> Result<StoredBatch, LogError> {
    let offset = keys::parse_batch_value(value)?;
    Ok(StoredBatch { batch_no, offset, digest: value.slice(keys::BATCH_DIGEST.min(value.len())..) })
}
