//! Opening: what a restart finds, and what it clears away.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use ::fjall::PersistMode;
use sealcast_proto::TopicId;

use super::dir::DataDir;
use super::engine::{Engine, translate};
use super::{FjallLog, FjallOptions, import};
use crate::store::tail::{Tail, Tails};
use crate::store::{LogError, TableId, keys};

/// What was found when a store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Topics.
    pub topics: u64,
    /// Offsets between the first and the end of their logs: records, where offsets are dense.
    pub records: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Slot tables that were being uploaded, or waited for their header, when the broker stopped: dropped.
    pub staged_tables_dropped: u64,
    /// Imports that were cut short: cleared away.
    pub imports_cleared: u64,
    /// Bytes of writes that were not finished when the machine went down, and that nobody was told were stored: cut off.
    pub torn_bytes: u64,
}

pub(super) fn open(path: &Path, options: FjallOptions) -> Result<(FjallLog, Recovered), LogError> {
    let dir = DataDir::open(path)?;
    let (engine, torn_bytes) = Engine::open(&dir, &options)?;
    let doing = |error| translate("recovering", &dir, error);
    let imports_cleared = import::clear_all(&engine).map_err(doing)?;
    let staged_tables_dropped = drop_staged(&engine, doing)?;
    let last_table = engine.tables.last_key_value().map(::fjall::Guard::key).transpose().map_err(doing)?;
    let next_table = match last_table {
        Some(key) => keys::parse_chunk_table(&key)?.0.saturating_add(1),
        None => 0,
    };
    let tails = tails(&engine, doing)?;
    let mut recovered =
        Recovered { staged_tables_dropped, imports_cleared, torn_bytes, ..Recovered::default() };
    for bounds in tails.values().map(Tail::bounds) {
        recovered.topics += 1;
        recovered.records += bounds.next.0.saturating_sub(bounds.first.0);
        recovered.bytes += bounds.bytes;
    }
    engine.sync().map_err(doing)?;
    dir.made()?;
    let log = FjallLog {
        engine: RwLock::new(Some(Arc::new(engine))),
        options,
        tails: RwLock::new(tails),
        writing: Mutex::new(HashSet::new()),
        next_table: AtomicU64::new(next_table),
        failed: Mutex::new(None),
        was_full: AtomicBool::new(false),
        dir,
    };
    Ok((log, recovered))
}

/// Removes the tables that no epoch names; returns how many.
fn drop_staged(engine: &Engine, doing: impl Fn(::fjall::Error) -> LogError) -> Result<u64, LogError> {
    let mut dropped = 0;
    for entry in engine.index.prefix([keys::STAGED]) {
        let key = entry.key().map_err(&doing)?;
        let TableId(table) = keys::parse_staged(&key)?;
        let mut batch = engine.db.batch();
        for chunk in engine.tables.prefix(table.to_be_bytes()) {
            batch.remove(&engine.tables, chunk.key().map_err(&doing)?);
        }
        batch.remove(&engine.index, key);
        batch.durability(Some(PersistMode::Buffer)).commit().map_err(&doing)?;
        dropped += 1;
    }
    Ok(dropped)
}

/// Where each topic's log begins and ends: two seeks a topic.
pub(super) fn tails(engine: &Engine, doing: impl Fn(::fjall::Error) -> LogError) -> Result<Tails, LogError> {
    let mut tails = Tails::new();
    for entry in engine.index.prefix([keys::GENESIS]) {
        let topic = keys::parse_topic(&entry.key().map_err(&doing)?)?;
        tails.insert(topic, tail(engine, &topic, &doing)?);
    }
    Ok(tails)
}

fn tail(
    engine: &Engine,
    topic: &TopicId,
    doing: impl Fn(::fjall::Error) -> LogError,
) -> Result<Tail, LogError> {
    let mut tail = Tail::default();
    if let Some(mark) = engine.index.get(keys::of_topic(keys::TRIM, topic)).map_err(&doing)? {
        (tail.first, tail.start) = keys::parse_trim(&mark)?;
        (tail.next, tail.end) = (tail.first, tail.start);
    }
    if let Some(last) = engine.log.prefix(topic.as_bytes()).next_back() {
        let key = last.key().map_err(&doing)?;
        let place = keys::parse_log(&key)?;
        let size = engine.log.size_of(&key).map_err(&doing)?.unwrap_or_default();
        let next = place.offset.next().ok_or_else(|| LogError::Corrupt("the last offset is taken".into()))?;
        (tail.next, tail.end) = (next, place.start.saturating_add(u64::from(size)));
    }
    Ok(tail)
}
