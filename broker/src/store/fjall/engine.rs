//! The storage engine's keyspaces as this broker sets them up, and its errors in our words.

use std::ops::Bound;
use std::sync::Arc;

use ::fjall::config::FilterPolicy;
use ::fjall::{
    Database, Error, Iter, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, LsmError, PersistMode,
};
use bytes::Bytes;

use super::FjallOptions;
use super::dir::{DataDir, io};
use super::journal::cut_unfinished;
use super::manifest;
use crate::store::LogError;

/// What a keyspace gathers in memory before it goes to a file, bytes: four may wait per keyspace.
const MEMTABLE: u64 = 32 << 20;
/// A file of values, bytes: retention returns whole files.
const BLOB_FILE: u64 = 32 << 20;
/// Values from this size on lie in files of their own, bytes: compaction then moves keys only.
const BLOB_FROM: u32 = 512;
/// The journals at most, bytes: what a restart reads again.
const JOURNALS: u64 = 256 << 20;

/// Open keyspaces, one database.
pub(super) struct Engine {
    pub(super) log: Keyspace,
    pub(super) rosters: Keyspace,
    pub(super) tables: Keyspace,
    pub(super) index: Keyspace,
    // Last: dropping it waits for the engine's threads.
    pub(super) db: Database,
}

impl Engine {
    /// Opens it; with how many bytes of unfinished writes it cut off.
    pub(super) fn open(dir: &DataDir, options: &FjallOptions) -> Result<(Self, u64), LogError> {
        // What is missing or cut short at the start was there once.
        let doing = |error| match translate("opening the storage engine", dir, error) {
            LogError::Io { doing, error } if !dir.is_new() && is_lost(&error) => {
                LogError::Corrupt(format!("{doing}: {error}"))
            }
            error => error,
        };
        if !dir.is_new() {
            manifest::check(&dir.log())?;
        }
        let torn = cut_unfinished(&dir.log()).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => LogError::Corrupt(error.to_string()),
            _ => io("reading the journal")(error),
        })?;
        if torn > 0 {
            tracing::warn!(bytes = torn, "cut off a write that was not finished when the broker stopped");
        }
        let db = Database::builder(dir.log()).cache_size(options.cache_bytes).max_journaling_size(JOURNALS);
        let db = db.open().map_err(doing)?;
        // Searched by range only, where filters do not help.
        let ranged = || KeyspaceCreateOptions::default().filter_policy(FilterPolicy::disabled());
        let bulky = || {
            let blobs = KvSeparationOptions::default();
            ranged()
                .max_memtable_size(MEMTABLE)
                .with_kv_separation(Some(blobs.file_target_size(BLOB_FILE).separation_threshold(BLOB_FROM)))
        };
        let small = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE);
        let engine = Self {
            log: db.keyspace("log", bulky).map_err(doing)?,
            rosters: db.keyspace("rosters", bulky).map_err(doing)?,
            tables: db.keyspace("tables", bulky).map_err(doing)?,
            index: db.keyspace("index", small).map_err(doing)?,
            db,
        };
        Ok((engine, torn))
    }

    /// Everything written so far is on the disk when this returns.
    pub(super) fn sync(&self) -> ::fjall::Result<()> {
        // fdatasync: the journal's length and extents are part of what it writes.
        self.db.persist(PersistMode::SyncData)
    }
}

fn is_lost(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
}

/// Keys from `from` on that begin with `prefix`.
pub(super) fn from(keyspace: &Keyspace, prefix: &[u8], from: &[u8]) -> Iter {
    keyspace.range::<&[u8], _>((
        Bound::Included(from),
        above(prefix).as_deref().map_or(Bound::Unbounded, Bound::Excluded),
    ))
}

/// Keys before `before` that begin with `prefix`.
pub(super) fn before(keyspace: &Keyspace, prefix: &[u8], before: &[u8]) -> Iter {
    keyspace.range::<&[u8], _>((Bound::Included(prefix), Bound::Excluded(before)))
}

/// The lowest key above all that begin with `prefix`; `None` if `prefix` is all ones.
pub(super) fn above(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut key = prefix.to_vec();
    while let Some(last) = key.pop() {
        if let Some(next) = last.checked_add(1) {
            key.push(next);
            return Some(key);
        }
    }
    None
}

pub(super) fn bytes(slice: ::fjall::Slice) -> Bytes {
    slice.into()
}

/// The engine's error in our words.
pub(super) fn translate(doing: &'static str, dir: &DataDir, error: Error) -> LogError {
    match error {
        Error::Io(error) | Error::Storage(LsmError::Io(error)) => {
            LogError::Io { doing, error: Arc::new(error) }
        }
        Error::Locked => LogError::Busy { dir: dir.path().into() },
        // Its own message says no more than that an earlier write failed, perhaps on one of its threads.
        Error::Poisoned => LogError::Io {
            doing,
            error: Arc::new(std::io::Error::other("an earlier write to the disk failed")),
        },
        other => LogError::Corrupt(format!("{doing}: {other:?}")),
    }
}

/// Whether it says that no space was left.
pub(super) fn is_full(error: &LogError) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match error {
        LogError::Full { .. } => true,
        LogError::Io { error, .. } => matches!(error.kind(), StorageFull | QuotaExceeded),
        _ => false,
    }
}
