//! The store on disk: a log-structured merge tree (`fjall`), one journal, so one fsync for whatever a write touches.

mod dir;
mod engine;
mod import;
mod journal;
mod manifest;
mod open;
mod read;
mod reopen;
mod topics;
mod trim;
mod write;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ::fjall::PersistMode;
use bytes::Bytes;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use self::dir::DataDir;
use self::engine::{Engine, is_full, translate};
pub use self::open::Recovered;
use self::topics::Lost;
use super::tail::{Tail, Tails, plan};
use super::{
    Bounds, Log, LogError, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, Trimmed, Write, keys,
};

/// Bytes beyond the reserve from which on there is room again: what one commit may bring, so that a store which says that
/// there is room does not refuse the next one.
const HEADROOM: usize = super::GROUP_BYTES;

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
    /// `None` while it is being opened again, or could not be.
    engine: RwLock<Option<Arc<Engine>>>,
    options: FjallOptions,
    tails: RwLock<Tails>,
    /// Topics whose log's beginning or end cannot be read: nothing may be written there.
    lost: RwLock<Lost>,
    /// Held by whoever writes; inside, the tables that no epoch has named yet.
    writing: Mutex<HashSet<TableId>>,
    next_table: AtomicU64,
    /// The first failure of a write: nothing is written after it, until it was a full disk and there is space again.
    failed: Mutex<Option<LogError>>,
    /// Whether the disk was seen full since the last write that succeeded.
    was_full: AtomicBool,
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
        self.engine()?.db.disk_space().map_err(|error| self.translate("measuring the data directory", error))
    }

    fn translate(&self, doing: &'static str, error: ::fjall::Error) -> LogError {
        translate(doing, &self.dir, error)
    }

    fn engine(&self) -> Result<Arc<Engine>, LogError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner).clone();
        // It was full when the engine was to be opened again.
        engine.map_or_else(|| Err(self.full(0)), Ok)
    }

    /// Keeps the first failure: the engine's later ones only say that there was one.
    fn fail(&self, doing: &'static str, error: ::fjall::Error) -> LogError {
        let echo = matches!(error, ::fjall::Error::Poisoned);
        let error = match self.translate(doing, error) {
            // One of the engine's threads failed, and it does not say of what.
            error @ LogError::Io { .. } if echo && self.was_full.load(Ordering::Relaxed) => {
                self.or_full(error)
            }
            error if is_full(&error) => self.or_full(error),
            error => error,
        };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get_or_insert(error).clone()
    }

    fn or_full(&self, error: LogError) -> LogError {
        tracing::warn!(%error, "the disk is full");
        self.full(self.dir.free().unwrap_or_default())
    }

    fn full(&self, free: u64) -> LogError {
        LogError::Full { dir: self.dir.path().into(), free, reserve: self.options.reserve_bytes }
    }

    fn failure(&self) -> Option<LogError> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// For whoever writes; opens the engine again if a full disk stopped it and there is space now.
    fn writable(&self) -> Result<MutexGuard<'_, HashSet<TableId>>, LogError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.failure() {
            Some(LogError::Full { .. }) => self.reopen()?,
            Some(error) => return Err(error),
            None => {}
        }
        Ok(writing)
    }

    fn tail(&self, topic: &TopicId) -> Tail {
        self.tails.read().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or_default()
    }

    fn keep_tail(&self, topic: &TopicId, tail: Option<Tail>) {
        let mut tails = self.tails.write().unwrap_or_else(PoisonError::into_inner);
        match tail {
            Some(tail) => tails.insert(*topic, tail),
            None => tails.remove(topic),
        };
    }

    /// Refuses what would eat into the reserve, before the engine meets a full disk half way through a batch.
    fn room_for(&self, size: usize, reserve: u64) -> Result<(), LogError> {
        let free = self.dir.free()?;
        if free < reserve.saturating_add(u64::try_from(size).unwrap_or(u64::MAX)) {
            self.was_full.store(true, Ordering::Relaxed);
            return Err(self.full(free));
        }
        Ok(())
    }
}

impl Log for FjallLog {
    fn level(&self) -> Level {
        Level::Durable
    }

    fn write(&self, writes: &[Write], sync: bool) -> Result<(), LogError> {
        let mut staged = self.writable()?;
        let plan = plan(writes, &self.tails.read().unwrap_or_else(PoisonError::into_inner))?;
        let size: usize = writes.iter().map(Write::size).sum();
        if size > 0 {
            self.room_for(size, self.options.reserve_bytes)?;
        }
        let engine = self.engine()?;
        // Of a write that fails no table is staged.
        let mut staging = staged.clone();
        let batch = write::batch(&engine, writes, &plan, &mut staging);
        let batch = batch.map_err(|error| self.fail("writing", error))?;
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        if !batch.is_empty() {
            batch.durability(Some(mode)).commit().map_err(|error| self.fail("writing", error))?;
        } else if sync {
            engine.sync().map_err(|error| self.fail("syncing", error))?;
        }
        *staged = staging;
        self.tails.write().unwrap_or_else(PoisonError::into_inner).extend(plan.tails);
        self.was_full.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn room(&self) -> Result<(), LogError> {
        self.room_for(HEADROOM, self.options.reserve_bytes)?;
        self.failure().map_or(Ok(()), Err)
    }

    fn recover(&self) -> Result<(), LogError> {
        self.room_for(HEADROOM, self.options.reserve_bytes)?;
        self.writable().map(drop)
    }

    fn topics(&self) -> Result<Vec<TopicId>, LogError> {
        topics::all(&*self.engine()?, |error| self.translate("reading the topics", error))
    }

    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.get(keys::of_topic(keys::GENESIS, topic))
    }

    fn bounds(&self, topic: &TopicId) -> Result<Bounds, LogError> {
        match self.lost.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            Some(error) => Err(error.clone()),
            None => Ok(self.tail(topic).bounds()),
        }
    }

    fn reserved(&self, topic: &TopicId) -> Result<Offset, LogError> {
        let value = self.get(keys::of_topic(keys::RESERVED, topic))?;
        value.map_or(Ok(Offset(0)), |value| keys::parse_reserved(&value))
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
        self.trim_all(topic, before)
    }

    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64, LogError> {
        self.drop_all(topic, publisher, before)
    }
}

#[cfg(test)]
#[path = "fjall/damage_test.rs"]
mod damage_test;
#[cfg(test)]
#[path = "fjall/test.rs"]
pub(super) mod tests;
#[cfg(test)]
#[path = "fjall/trace_test.rs"]
mod trace;
