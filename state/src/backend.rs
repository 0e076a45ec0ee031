//! What a place for state must be able to do; [`crate::disk`] and [`crate::memory`] are the two.

use std::fmt;
use std::path::PathBuf;

use sealcast_proto::PublicKey;
use zeroize::Zeroizing;

use crate::error::StateError;

/// Names one file: of whom, and which.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    pub(crate) identity: PublicKey,
    pub(crate) file: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.identity, self.file)
    }
}

/// Holds a lock; dropping it lets go.
pub(crate) trait Held: Send + Sync + fmt::Debug {}

/// What [`Backend::try_lock`] found.
pub(crate) enum TryLock {
    /// The lock is held now, until the guard is dropped.
    Taken(Box<dyn Held>),
    /// Somebody else holds it: this process, where it is known.
    HeldBy(Option<u32>),
}

/// Files that are read and replaced whole. Only the holder of a file's lock calls the other methods on it.
pub(crate) trait Backend: Send + Sync + fmt::Debug {
    /// Where it lies, if it lies anywhere.
    fn root(&self) -> Option<PathBuf>;
    /// Takes the file's lock without waiting, and clears what a crash left beside the file.
    fn try_lock(&self, name: &Name) -> Result<TryLock, StateError>;
    /// The file's content; `None` where there is no file.
    fn read(&self, name: &Name) -> Result<Option<Zeroizing<Vec<u8>>>, StateError>;
    /// Replaces the file whole: on an error the old content stands.
    fn replace(&self, name: &Name, content: &[u8]) -> Result<(), StateError>;
    /// Removes the file, if there is one.
    fn remove(&self, name: &Name) -> Result<(), StateError>;
}
