//! The store on disk: a log-structured merge tree (`fjall`), one journal, so one fsync for whatever a write touches.

mod dir;
mod engine;
mod journal;
mod open;
mod read;
mod write;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use ::fjall::PersistMode;
use bytes::Bytes;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use self::dir::DataDir;
use self::engine::{Engine, translate};
pub use self::open::Recovered;
use super::tail::{Tail, Tails, plan};
use super::{
    Bounds, Log, LogError, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, Trimmed, Write, keys,
};

/// Keys removed in one step, a count: bounds how long a trim keeps the commit thread waiting.
const REMOVE_STEP: usize = 4096;

/// How to run the store.
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Bytes of the disk that stay free: room for what was acknowledged to move from the journal to its files, and for
    /// retention to do its work, which needs space to make space.
    pub reserve_bytes: u64,
    /// Bytes of memory for what was read lately.
    pub cache_bytes: u64,
}

impl Default for FjallOptions {
    fn default() -> Self {
        // The reserve covers a full journal (256 MiB) being moved to files.
        Self { reserve_bytes: 384 << 20, cache_bytes: 64 << 20 }
    }
}

/// A store in a directory.
pub struct FjallLog {
    engine: Engine,
    options: FjallOptions,
    tails: RwLock<Tails>,
    /// Held by whoever writes; inside, the tables that no epoch has named yet.
    writing: Mutex<HashSet<TableId>>,
    next_table: AtomicU64,
    /// The first failure of a write: nothing is written after it.
    failed: OnceLock<LogError>,
    // Last: the lock goes when the engine has gone.
    dir: DataDir,
}

impl FjallLog {
    /// Opens the data directory `dir`, making it if need be; says what it found.
    pub fn open(dir: &Path, options: FjallOptions) -> Result<(Self, Recovered), LogError> {
        open::open(dir, options)
    }

    /// Bytes on the disk, journals included.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        self.engine.db.disk_space().map_err(|error| self.translate("measuring the data directory", error))
    }

    fn translate(&self, doing: &'static str, error: ::fjall::Error) -> LogError {
        translate(doing, &self.dir, error)
    }

    /// Keeps the first failure: the engine's later ones only say that there was one.
    fn fail(&self, doing: &'static str, error: ::fjall::Error) -> LogError {
        self.failed.get_or_init(|| self.translate(doing, error)).clone()
    }

    fn writable(&self) -> Result<MutexGuard<'_, HashSet<TableId>>, LogError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.failed.get() {
            Some(error) => Err(error.clone()),
            None => Ok(writing),
        }
    }

    fn tail(&self, topic: &TopicId) -> Tail {
        self.tails.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or_default()
    }

    /// Refuses what would eat into the reserve, before the engine meets a full disk half way through a batch.
    fn room_for(&self, writes: &[Write]) -> Result<(), LogError> {
        let size: usize = writes.iter().map(Write::size).sum();
        let (free, reserve) = (self.dir.free()?, self.options.reserve_bytes);
        if size > 0 && free < reserve.saturating_add(u64::try_from(size).unwrap_or(u64::MAX)) {
            return Err(LogError::Full { dir: self.dir.path().into(), free, reserve });
        }
        Ok(())
    }

    /// One step of a trim, up to [`REMOVE_STEP`] records; whether there are more.
    fn trim_step(&self, topic: &TopicId, before: Offset, trimmed: &mut Trimmed) -> Result<bool, LogError> {
        // Writers wait meanwhile, so the tail does not change under us.
        let _writing = self.writable()?;
        let mut tail = self.tail(topic);
        let before = before.min(tail.next);
        if before <= tail.first {
            return Ok(false);
        }
        let mut batch = self.engine.db.batch();
        let (mut first, mut start) = (before, tail.end);
        let mut more = false;
        for record in
            engine::from(&self.engine.log, topic.as_bytes(), &keys::log_from(topic, tail.first).done())
        {
            let key = record.key().map_err(|error| self.translate("trimming", error))?;
            let place = keys::parse_log(&key)?;
            more = place.offset < before && batch.len() == REMOVE_STEP;
            if place.offset >= before || more {
                first = if more { place.offset } else { before };
                start = place.start;
                break;
            }
            // Each key was inserted once: insertion and removal vanish together when they meet.
            batch.remove_weak(&self.engine.log, key);
        }
        trimmed.records = trimmed.records.saturating_add(u64::try_from(batch.len()).unwrap_or(u64::MAX));
        trimmed.bytes = trimmed.bytes.saturating_add(start.saturating_sub(tail.start));
        batch.insert(&self.engine.index, keys::of_topic(keys::TRIM, topic), keys::trim_value(first, start));
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(|error| self.fail("trimming", error))?;
        (tail.first, tail.start) = (first, start);
        self.tails.write().unwrap_or_else(PoisonError::into_inner).insert(*topic, tail);
        Ok(more)
    }
}

impl Log for FjallLog {
    fn level(&self) -> Level {
        Level::Durable
    }

    fn write(&self, writes: &[Write], sync: bool) -> Result<(), LogError> {
        let mut staged = self.writable()?;
        let plan = plan(writes, &self.tails.read().unwrap_or_else(PoisonError::into_inner))?;
        self.room_for(writes)?;
        let batch = write::batch(&self.engine, writes, &plan, &mut staged);
        let batch = batch.map_err(|error| self.fail("writing", error))?;
        if batch.is_empty() {
            return if sync {
                self.engine.sync().map_err(|error| self.fail("syncing", error))
            } else {
                Ok(())
            };
        }
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        batch.durability(Some(mode)).commit().map_err(|error| self.fail("writing", error))?;
        self.tails.write().unwrap_or_else(PoisonError::into_inner).extend(plan.tails);
        Ok(())
    }

    fn topics(&self) -> Result<Vec<(TopicId, Bytes)>, LogError> {
        self.read_topics()
    }

    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.get(keys::of_topic(keys::GENESIS, topic))
    }

    fn bounds(&self, topic: &TopicId) -> Result<Bounds, LogError> {
        Ok(self.tail(topic).bounds())
    }

    fn read(&self, topic: &TopicId, from: Offset, max_bytes: usize) -> Result<Vec<Stored>, LogError> {
        self.read_from(topic, from, max_bytes)
    }

    fn read_back(&self, topic: &TopicId, before: Offset, max: usize) -> Result<Vec<Stored>, LogError> {
        self.read_before(topic, before, max)
    }

    fn seek_time(&self, topic: &TopicId, ms: u64) -> Result<Offset, LogError> {
        self.seek(topic, |place| place.stored_ms >= ms)
    }

    fn seek_bytes(&self, topic: &TopicId, max_bytes: u64) -> Result<Offset, LogError> {
        let end = self.tail(topic).end;
        self.seek(topic, |place| end.saturating_sub(place.start) <= max_bytes)
    }

    fn rosters(&self, topic: &TopicId, from: RosterSeq, max: usize) -> Result<Vec<StoredRoster>, LogError> {
        self.read_rosters(topic, from, max)
    }

    fn roster_before(&self, topic: &TopicId, before: Offset) -> Result<Option<RosterSeq>, LogError> {
        self.find_roster_before(topic, before)
    }

    fn head(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.get(keys::of_topic(keys::HEAD, topic))
    }

    fn publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>, LogError> {
        self.read_publishers(topic)
    }

    fn epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>, LogError> {
        self.read_epochs_back(topic, publisher, up_to, max)
    }

    fn batch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        batch_no: BatchNo,
    ) -> Result<Option<StoredBatch>, LogError> {
        let value = self.get(keys::batch(topic, publisher, epoch, batch_no))?;
        value.map(|value| read::parse_batch(batch_no, &value)).transpose()
    }

    fn batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>, LogError> {
        self.find_batch_before(topic, publisher, epoch, before)
    }

    fn new_table(&self) -> TableId {
        TableId(self.next_table.fetch_add(1, Ordering::Relaxed))
    }

    fn slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>, LogError> {
        self.read_slot(table, member)
    }

    fn prekey(&self, owner: &PublicKey) -> Result<Option<Bytes>, LogError> {
        self.get(keys::prekey(owner))
    }

    fn trim(&self, topic: &TopicId, before: Offset) -> Result<Trimmed, LogError> {
        let mut trimmed = Trimmed::default();
        while self.trim_step(topic, before, &mut trimmed)? {}
        Ok(trimmed)
    }

    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64, LogError> {
        let mut dropped = 0;
        loop {
            let (step, more) = self.drop_step(topic, publisher, before)?;
            dropped += step;
            if !more {
                return Ok(dropped);
            }
        }
    }
}

impl FjallLog {
    /// One step of [`Log::drop_epochs`]: batch entries first, then whole epochs, so that a crash between two steps
    /// leaves nothing that no epoch leads to.
    fn drop_step(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        before: Epoch,
    ) -> Result<(u64, bool), LogError> {
        let _writing = self.writable()?;
        let reading = |error| self.translate("dropping epochs", error);
        let index = &self.engine.index;
        let mut batch = self.engine.db.batch();
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
                    for chunk in self.engine.tables.prefix(table.0.to_be_bytes()) {
                        batch.remove(&self.engine.tables, chunk.key().map_err(reading)?);
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

#[cfg(test)]
#[path = "fjall/test.rs"]
pub(super) mod tests;
