//! Opening: what a restart finds, and what it clears away.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use ::fjall::PersistMode;

use super::dir::DataDir;
use super::engine::{Engine, translate};
use super::{FjallLog, FjallOptions, import, topics};
use crate::damage;
use crate::store::tail::{Tail, lowest};
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
    // What is left to clear away can stay where it cannot be read.
    let imports_cleared = unless_damaged(import::clear_all(&engine).map_err(doing))?;
    let staged_tables_dropped = unless_damaged(drop_staged(&engine, doing))?;
    let next_table = next_table(&engine, doing)?;
    let (tails, lost) = topics::tails(&engine, doing)?;
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
        lost: RwLock::new(lost),
        writing: Mutex::new(HashSet::new()),
        next_table: AtomicU64::new(next_table),
        failed: Mutex::new(None),
        was_full: AtomicBool::new(false),
        dir,
    };
    Ok((log, recovered))
}

fn unless_damaged(cleared: Result<u64, LogError>) -> Result<u64, LogError> {
    match cleared {
        Err(error) if error.is_damage() => {
            damage::say(&format!("left where it is: {error}"));
            Ok(0)
        }
        cleared => cleared,
    }
}

/// A number above those of all slot tables.
fn next_table(engine: &Engine, doing: impl Fn(::fjall::Error) -> LogError) -> Result<u64, LogError> {
    let key = match engine.tables.last_key_value().map(::fjall::Guard::key).transpose().map_err(doing) {
        Ok(None) => return Ok(0),
        Ok(Some(key)) => key,
        // The last block is damaged. Where it ends stands outside of it: nothing is to be read behind that.
        Err(error) if error.is_damage() => {
            damage::say(&format!("the last slot tables: {error}"));
            let is_behind = |table: u64| engine.tables.range(table.to_be_bytes()..).next().is_none();
            let next = lowest(0, u64::MAX, |table| Ok(is_behind(table)))?;
            return if is_behind(next) { Ok(next) } else { Err(error) };
        }
        Err(error) => return Err(error),
    };
    Ok(keys::parse_chunk_table(&key)?.0.saturating_add(1))
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
