//! What the engine takes for granted of its own files: that they are there, and that each keyspace's list of files is the
//! one it wrote. Of a directory without them it would make an empty store and remove the rest; a wrong list loses what it
//! does not name.
//!
//! ```text
//! <log>/version
//! <log>/keyspaces/<n>/current     id u64 ‖ xxh3-128 of v<id> u128 ‖ 0, little-endian: which list holds
//! <log>/keyspaces/<n>/v<id>       the list
//! ```

use std::io::ErrorKind;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_128;

use super::dir::io;
use crate::store::LogError;

/// Keyspaces, a count; the engine numbers them from 1 on, and has one of its own, 0.
const KEYSPACES: u64 = 4;

/// Whether the engine's directory `log` holds what it must, where anything was ever stored.
pub(super) fn check(log: &Path) -> Result<(), LogError> {
    read(&log.join("version"))?;
    for keyspace in 0..=KEYSPACES {
        let dir = log.join("keyspaces").join(keyspace.to_string());
        let current = dir.join("current");
        let (id, checksum) = parse(&read(&current)?).ok_or_else(|| damaged(&current))?;
        let list = dir.join(format!("v{id}"));
        // Either may be the one that is damaged.
        let holds = std::fs::read(&list).is_ok_and(|bytes| xxh3_128(&bytes) == checksum);
        if !holds {
            return Err(damaged(&list));
        }
    }
    Ok(())
}

fn parse(current: &[u8]) -> Option<(u64, u128)> {
    let (id, rest) = current.split_first_chunk()?;
    let (checksum, rest) = rest.split_first_chunk()?;
    (rest == [0]).then(|| (u64::from_le_bytes(*id), u128::from_le_bytes(*checksum)))
}

fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    match std::fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(LogError::Corrupt(format!("{} is missing", path.display())))
        }
        read => read.map_err(io("reading the storage engine's files")),
    }
}

fn damaged(path: &Path) -> LogError {
    LogError::Corrupt(format!("{} is not what the storage engine wrote", path.display()))
}
