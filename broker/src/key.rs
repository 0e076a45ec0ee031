//! The broker's own key: a file in its data directory, made at the first start. Whoever has it can pass for the broker; it
//! opens no envelope.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sealcast_proto::Identity;
use zeroize::Zeroizing;

/// The file's name in the data directory.
pub const KEY_FILE: &str = "identity";
/// What is read of it, bytes: a key and some comments.
const MAX_FILE: u64 = 4 << 10;

/// The key file cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or made.
    #[error("cannot {doing} {}: {error}", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// Others may read it.
    #[error("others may read {} (mode {mode:03o}): chmod 600 it", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds no key.
    #[error("{} holds no key", path.display())]
    Content {
        /// The file.
        path: PathBuf,
    },
}

/// The key in `dir`, made with `rng` if there is none.
pub(crate) fn open(dir: &Path) -> Result<Identity, KeyFileError> {
    let path = dir.join(KEY_FILE);
    match File::open(&path) {
        Ok(file) => read(path, file),
        Err(error) if error.kind() == ErrorKind::NotFound => make(dir, path),
        Err(error) => Err(io("read", &path)(error)),
    }
}

fn read(path: PathBuf, file: File) -> Result<Identity, KeyFileError> {
    let mode = file.metadata().map_err(io("read", &path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Mode { path, mode });
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io("read", &path))?;
    let key = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    key.and_then(|key| key.parse().ok()).ok_or(KeyFileError::Content { path })
}

/// Written aside and renamed: a half-written key is never found.
fn make(dir: &Path, path: PathBuf) -> Result<Identity, KeyFileError> {
    let identity = Identity::generate(&mut rand::rng());
    let public = identity.public();
    let text = Zeroizing::new(format!("# broker: {public}\n{}\n", *identity.to_text()));
    let new = dir.join("identity.new");
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
    let mut file = file.map_err(io("make", &path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &path))?;
    std::fs::rename(&new, &path).map_err(io("make", &path))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("make", &path))?;
    Ok(identity)
}

fn io<'a>(doing: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> KeyFileError + 'a {
    move |error| KeyFileError::Io { doing, path: path.into(), error: Arc::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path()).unwrap().public();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(open(dir.path()).unwrap().public(), first);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(dir.path()), Err(KeyFileError::Mode { mode: 0o644, .. })));
    }

    #[test]
    fn a_file_without_a_key_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        assert!(matches!(open(dir.path()), Err(KeyFileError::Content { .. })));
    }
}
