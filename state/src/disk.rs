//! State in a directory: file locks, and files replaced whole.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::backend::{Backend, Held, Name, TryLock};
use crate::error::StateError;

/// A directory that only its owner can enter.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    pub(crate) fn open(root: &Path) -> Result<Self, StateError> {
        create_private(root)?;
        refuse_exposed(root)?;
        Ok(Self { root: root.to_owned() })
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join(name.identity.to_string()).join(&name.file)
    }
}

#[derive(Debug)]
struct Lock {
    /// The lock goes when the file closes, however the process ends.
    _file: File,
}

impl Held for Lock {}

impl Backend for Disk {
    fn root(&self) -> Option<PathBuf> {
        Some(self.root.clone())
    }

    fn try_lock(&self, name: &Name) -> Result<TryLock, StateError> {
        let path = self.path(name);
        if let Some(dir) = path.parent() {
            create_private(dir)?;
        }
        // The lock has a file of its own, never removed: a lock on a file that is replaced would guard the old one.
        let lock_path = beside(&path, "lock");
        let mut file = private()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(StateError::io("open", &lock_path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(TryLock::HeldBy(read_holder(&mut file))),
            Err(TryLockError::Error(source)) => return Err(StateError::io("lock", &lock_path)(source)),
        }
        // For people only: the lock holds whether or not this can be written.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        remove_if_there(&beside(&path, "new"))?;
        Ok(TryLock::Taken(Box::new(Lock { _file: file })))
    }

    fn read(&self, name: &Name) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        let path = self.path(name);
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::io("read", &path)(error)),
        };
        // The buffer has its full size from the start: growing would leave copies that nobody erases.
        let len = file.metadata().map_err(StateError::io("read", &path))?.len();
        let mut content = Zeroizing::new(vec![0; usize::try_from(len).unwrap_or(usize::MAX)]);
        file.read_exact(&mut content).map_err(StateError::io("read", &path))?;
        Ok(Some(content))
    }

    fn replace(&self, name: &Name, content: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        let new = beside(&path, "new");
        let written = write_whole(&new, content).and_then(|()| fs::rename(&new, &path));
        if let Err(error) = written {
            // Best effort: half a file of secrets, on a disk that may be full. The next lock removes it otherwise.
            let _ = fs::remove_file(&new);
            return Err(StateError::io("save", &path)(error));
        }
        sync_parent(&path).map_err(StateError::io("save", &path))
    }

    fn remove(&self, name: &Name) -> Result<(), StateError> {
        let path = self.path(name);
        remove_if_there(&path)?;
        sync_parent(&path).map_err(StateError::io("remove", &path))
    }
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = private().write(true).create(true).truncate(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// `prekeys` → `prekeys.lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(".");
    text.push(suffix);
    text.into()
}

fn read_holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn remove_if_there(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A rename or a removal is on the disk once its directory is.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        // The parent of a bare name is the directory we are in.
        Some(dir) if cfg!(unix) && dir.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(dir) if cfg!(unix) => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

fn create_private(dir: &Path) -> Result<(), StateError> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).and_then(|()| sync_parent(dir)).map_err(StateError::io("create", dir))
}

/// Options for a file that only its owner can read.
fn private() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn refuse_exposed(root: &Path) -> Result<(), StateError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(root).map_err(StateError::io("read", root))?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed { path: root.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_root: &Path) -> Result<(), StateError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::Identity;

    fn name() -> Name {
        Name { identity: Identity::from_seed(&[1; 32]).public(), file: "prekeys".into() }
    }

    fn lock(disk: &Disk) -> Box<dyn Held> {
        match disk.try_lock(&name()).unwrap() {
            TryLock::Taken(held) => held,
            TryLock::HeldBy(pid) => panic!("held by {pid:?}"),
        }
    }

    #[test]
    fn what_a_crash_left_half_written_is_removed_and_never_read() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(&root.path().join("state")).unwrap();
        drop(lock(&disk));
        disk.replace(&name(), b"old").unwrap();
        let new = beside(&disk.path(&name()), "new");
        fs::write(&new, b"hal").unwrap();
        let _held = lock(&disk);
        assert!(!new.exists());
        assert_eq!(disk.read(&name()).unwrap().unwrap().as_slice(), b"old");
    }

    #[test]
    fn a_save_that_fails_leaves_the_old_content() {
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(&root.path().join("state")).unwrap();
        let _held = lock(&disk);
        disk.replace(&name(), b"old").unwrap();
        // A directory where the replacement would be written: the open fails, as it would on a disk without inodes.
        let new = beside(&disk.path(&name()), "new");
        fs::create_dir(&new).unwrap();
        assert!(matches!(disk.replace(&name(), b"new"), Err(StateError::Io { doing: "save", .. })));
        assert_eq!(disk.read(&name()).unwrap().unwrap().as_slice(), b"old");
        fs::remove_dir(&new).unwrap();
        disk.replace(&name(), b"new").unwrap();
        assert_eq!(disk.read(&name()).unwrap().unwrap().as_slice(), b"new");
    }

    #[cfg(unix)]
    #[test]
    fn everything_is_readable_by_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let root = tempfile::tempdir().unwrap();
        let disk = Disk::open(&root.path().join("a/b")).unwrap();
        let _held = lock(&disk);
        disk.replace(&name(), b"secret").unwrap();
        let file = disk.path(&name());
        assert_eq!(mode(&file), 0o600);
        assert_eq!(mode(&beside(&file, "lock")), 0o600);
        for dir in [file.parent().unwrap(), &root.path().join("a/b"), &root.path().join("a")] {
            assert_eq!(mode(dir), 0o700, "{}", dir.display());
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        for mode in [0o755, 0o750, 0o701] {
            fs::set_permissions(root.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = Disk::open(root.path()).unwrap_err();
            assert!(matches!(error, StateError::Exposed { mode: found, .. } if found == mode));
            assert!(error.hint().starts_with("chmod 700 "), "{}", error.hint());
        }
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Disk::open(root.path()).unwrap();
    }
}
