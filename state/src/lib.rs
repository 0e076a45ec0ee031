//! A client's state: what must survive a restart, in small files replaced whole.
//!
//! ```text
//! <root>/                        0700; refused when others can enter it
//!   <seal1… of the identity>/
//!     prekeys                    the member's prekey secrets; locked only while read or changed
//!     <topic id>.publish         marks, cursor and secrets of one role on one topic; locked while it is open
//!     <topic id>.subscribe
//!     <topic id>.admin
//!     *.lock                     who holds it: a file lock, and the holder's process id for people
//!     *.new                      a replacement being written; left by a crash it is removed on the next use
//! ```
//!
//! **A file is never appended to.** A save writes a new file, fsyncs it, renames it over the old one and fsyncs the
//! directory: after a crash the old content stands there or the new, and an erased key is in neither. A log-structured
//! store would keep it in its journal. What a file system or an SSD keeps of a replaced file is out of reach.
//!
//! **One holder a role.** Two processes that published under one identity from one set of marks would sign one number
//! twice, so the second one gets [`StateError::Locked`]. File locks die with their process: `kill -9` leaves none.
//!
//! [`State::memory`] offers the same without a disk. All calls block (a save for the length of an fsync); use them
//! where that is allowed.

mod backend;
mod disk;
mod error;
mod memory;
mod prekeys;
mod role;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sealcast_proto::{PublicKey, TopicId};

use crate::backend::{Backend, Name};
pub use crate::error::StateError;
pub use crate::prekeys::PrekeyStore;
pub use crate::role::{RoleState, StateRole};

/// A client's state; clones share it.
#[derive(Clone, Debug)]
pub struct State {
    backend: Arc<dyn Backend>,
}

impl State {
    /// The state in this directory, which is created (0700) where it is missing.
    ///
    /// An existing directory that other users of the machine can enter is refused ([`StateError::Exposed`]) rather
    /// than mended: who opened it may have meant to, or it may be a path mistyped.
    pub fn dir(root: impl AsRef<Path>) -> Result<Self, StateError> {
        Ok(Self { backend: Arc::new(disk::Disk::open(root.as_ref())?) })
    }

    /// State that ends with the process. A publisher then starts without marks, a subscriber without a cursor.
    pub fn memory() -> Self {
        Self { backend: Arc::new(memory::Memory::default()) }
    }

    /// Where it lies; `None` in memory.
    pub fn root(&self) -> Option<PathBuf> {
        self.backend.root()
    }

    /// The prekey secrets of an identity, shared by all its topics and processes.
    pub fn prekeys(&self, identity: &PublicKey) -> PrekeyStore {
        PrekeyStore::new(Arc::clone(&self.backend), identity)
    }

    /// Takes a role's state on a topic; held until the [`RoleState`] is dropped.
    pub fn open(
        &self,
        identity: &PublicKey,
        topic: &TopicId,
        role: StateRole,
    ) -> Result<RoleState, StateError> {
        let name = Name { identity: *identity, file: format!("{topic}.{}", role.as_str()) };
        RoleState::open(Arc::clone(&self.backend), name, role)
    }
}
