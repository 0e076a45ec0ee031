//! Retention: removing records and epochs, a step at a time.

use std::sync::PoisonError;

use ::fjall::PersistMode;
use sealcast_proto::{Epoch, Offset, PublicKey, TopicId};

use super::{FjallLog, engine};
use crate::store::{LogError, Trimmed, keys};

/// Keys removed in one step, a count: bounds how long a trim keeps the commit thread waiting.
pub(super) const REMOVE_STEP: usize = 4096;

/// Bytes that must be free for retention to be applied: what it writes to the journal, many times over. Met without, the
/// engine would stop half way.
const TRIM_ROOM: u64 = 8 << 20;

impl FjallLog {
    pub(super) fn trim_all(&self, topic: &TopicId, before: Offset) -> Result<Trimmed, LogError> {
        let mut trimmed = Trimmed::default();
        while self.trim_step(topic, before, &mut trimmed)? {}
        Ok(trimmed)
    }

    pub(super) fn drop_all(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        before: Epoch,
    ) -> Result<u64, LogError> {
        let mut dropped = 0;
        loop {
            let (step, more) = self.drop_step(topic, publisher, before)?;
            dropped += step;
            if !more {
                return Ok(dropped);
            }
        }
    }

    /// One step of a trim, up to [`REMOVE_STEP`] records; whether there are more.
    fn trim_step(&self, topic: &TopicId, before: Offset, trimmed: &mut Trimmed) -> Result<bool, LogError> {
        // Writers wait meanwhile, so the tail does not change under us.
        let _writing = self.writable()?;
        self.room_for(0, TRIM_ROOM.min(self.options.reserve_bytes))?;
        let engine = self.engine()?;
        let mut tail = self.tail(topic);
        let before = before.min(tail.next);
        if before <= tail.first {
            return Ok(false);
        }
        let mut batch = engine.db.batch();
        // Behind the last one that goes: where nothing stood nothing is lost, and nobody is to be told so.
        let (mut first, mut start) = (tail.first, tail.end);
        let mut more = false;
        for record in engine::from(&engine.log, topic.as_bytes(), &keys::log_from(topic, tail.first).done()) {
            let key = record.key().map_err(|error| self.translate("trimming", error))?;
            let place = keys::parse_log(&key)?;
            more = place.offset < before && batch.len() == REMOVE_STEP;
            if place.offset >= before || more {
                start = place.start;
                break;
            }
            first = Offset(place.offset.0.saturating_add(1));
            // Each key was inserted once: insertion and removal vanish together when they meet.
            batch.remove_weak(&engine.log, key);
        }
        if batch.is_empty() {
            return Ok(false);
        }
        trimmed.records = trimmed.records.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        trimmed.bytes = trimmed.bytes.saturating_add(start.saturating_sub(tail.start));
        batch.insert(&engine.index, keys::of_topic(keys::TRIM, topic), keys::trim_value(first, start));
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(|error| self.fail("trimming", error))?;
        (tail.first, tail.start) = (first, start);
        self.tails.write().unwrap_or_else(PoisonError::into_inner).insert(*topic, tail);
        Ok(more)
    }

    /// One step of [`crate::store::Log::drop_epochs`]: batch entries first, then whole epochs, so that a crash between two steps
    /// leaves nothing that no epoch leads to.
    fn drop_step(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        before: Epoch,
    ) -> Result<(u64, bool), LogError> {
        let _writing = self.writable()?;
        self.room_for(0, TRIM_ROOM.min(self.options.reserve_bytes))?;
        let engine = self.engine()?;
        let reading = |error| self.translate("dropping epochs", error);
        let index = &engine.index;
        let mut batch = engine.db.batch();
        let (mut dropped, mut more) = (0, false);
        let below = |tag| {
            let prefix = keys::of_publisher(tag, topic, publisher);
            engine::before(index, &prefix.clone().done(), &prefix.u64(before.0).done())
        };
        for entry in below(keys::BATCH) {
            more = batch.len() == REMOVE_STEP;
            if more {
                break;
            }
            batch.remove(index, entry.key().map_err(reading)?);
        }
        if !more {
            for entry in below(keys::EPOCH) {
                more = batch.len() >= REMOVE_STEP;
                if more {
                    break;
                }
                let (key, value) = entry.into_inner().map_err(reading)?;
                if let (_, Some(table)) = keys::parse_epoch_value(&value)? {
                    for chunk in engine.tables.prefix(table.0.to_be_bytes()) {
                        batch.remove(&engine.tables, chunk.key().map_err(reading)?);
                    }
                }
                batch.remove(index, key);
                dropped += 1;
            }
        }
        let batch = batch.durability(Some(PersistMode::Buffer));
        batch.commit().map_err(|error| self.fail("dropping epochs", error))?;
        Ok((dropped, more))
    }
}
