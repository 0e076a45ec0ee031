//! The data directory: made, locked, and known to be one of ours.
//!
//! ```text
//! <dir>/lock      held by the broker that has the directory open
//! <dir>/format    what wrote it; "…, being made" until the engine's first files are safe
//! <dir>/log/      the storage engine's
//! ```
//! Other files in the directory (the broker's key) are left alone.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::LogError;

const FORMAT: &str = "sealcast broker data, format 1";
const BEING_MADE: &str = "sealcast broker data, format 1, being made";

/// A locked data directory. The lock goes when this is dropped, or its process ends however it ends.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    new: bool,
    _lock: File,
}

impl DataDir {
    /// Makes `path` (mode 0700) if need be, locks it and checks its format.
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        private_dir(path)?;
        let lock = lock(path)?;
        let log = path.join("log");
        let found = match std::fs::read_to_string(path.join("format")) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(io("reading the format of the data directory")(error)),
        };
        let new = match found.as_deref().map(str::trim_end) {
            Some(FORMAT) => false,
            None if !log.exists() => true,
            // A first start was cut short: the engine could not open what it left, and nothing was stored yet.
            Some(BEING_MADE) => {
                if log.exists() {
                    std::fs::remove_dir_all(&log).map_err(io("clearing a half-made data directory"))?;
                }
                true
            }
            other => {
                let found = other.unwrap_or("no marker").chars().take(80).collect();
                return Err(LogError::Format { dir: path.into(), found, expected: FORMAT });
            }
        };
        if new {
            write_marker(path, BEING_MADE)?;
        }
        private_dir(&log)?;
        Ok(Self { path: path.into(), new, _lock: lock })
    }

    /// The engine's first files are safe: from now on the directory holds data.
    pub(super) fn made(&self) -> Result<(), LogError> {
        if self.new { write_marker(&self.path, FORMAT) } else { Ok(()) }
    }

    /// Whether nothing was ever stored in it.
    pub(super) fn is_new(&self) -> bool {
        self.new
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Bytes an unprivileged process may still write.
    pub(super) fn free(&self) -> Result<u64, LogError> {
        let stat =
            rustix::fs::statvfs(&self.path).map_err(|error| io("asking for free space")(error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

pub(super) fn io(doing: &'static str) -> impl Fn(std::io::Error) -> LogError {
    move |error| LogError::Io { doing, error: Arc::new(error) }
}

/// Only the broker's account may look in: what a directory made by hand allowed is tightened.
fn private_dir(path: &Path) -> Result<(), LogError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io("making the data directory"))?;
    let mode = std::fs::metadata(path).map_err(io("looking at the data directory"))?.permissions().mode();
    if mode & 0o077 != 0 {
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(path, private).map_err(io("making the data directory private"))?;
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
    let file = file.map_err(io("opening the data directory's lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Busy { dir: dir.into() }),
        Err(TryLockError::Error(error)) => Err(io("locking the data directory")(error)),
    }
}

/// Replaced whole: a marker is never seen half written.
fn write_marker(dir: &Path, text: &str) -> Result<(), LogError> {
    let doing = io("writing the format of the data directory");
    let new = dir.join("format.new");
    let mut file = File::create(&new).map_err(&doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(&doing)?;
    file.sync_all().map_err(&doing)?;
    std::fs::rename(new, dir.join("format")).map_err(&doing)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(&doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("format"), "sealcast broker data, format 2\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(&error, LogError::Format { found, .. } if found.ends_with("format 2")), "{error}");
    }

    #[test]
    fn a_log_without_a_marker_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        assert!(matches!(DataDir::open(dir.path()), Err(LogError::Format { .. })));
    }

    #[test]
    fn a_first_start_cut_short_is_done_again() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        std::fs::write(first.log().join("0.jnl"), "half").unwrap();
        drop(first);
        let again = DataDir::open(dir.path()).unwrap();
        assert!(again.new && !again.log().join("0.jnl").exists());
        again.made().unwrap();
        drop(again);
        assert!(!DataDir::open(dir.path()).unwrap().new);
    }

    #[test]
    fn only_the_owner_may_look_in() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("data");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        let open = DataDir::open(&dir).unwrap();
        for path in [open.path().to_owned(), open.log()] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn one_broker_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).unwrap_err();
        assert!(matches!(error, LogError::Busy { .. }));
        assert!(error.to_string().contains("in use by another broker"), "{error}");
        drop(first);
        DataDir::open(dir.path()).unwrap();
    }
}
