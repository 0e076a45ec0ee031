//! State in memory: the same rules, gone with the process.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use crate::backend::{Backend, Held, Name, TryLock};
use crate::error::StateError;

/// What stands in for a directory.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    files: HashMap<Name, Zeroizing<Vec<u8>>>,
    held: HashSet<Name>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files", self.files.len())
    }
}

#[derive(Debug)]
struct Hold {
    shared: Arc<Mutex<Shared>>,
    name: Name,
}

impl Held for Hold {}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.shared).held.remove(&self.name);
    }
}

/// Nothing in here panics half-way, so a poisoned map is a whole one.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Memory {
    fn root(&self) -> Option<PathBuf> {
        None
    }

    fn try_lock(&self, name: &Name) -> Result<TryLock, StateError> {
        if !lock(&self.shared).held.insert(name.clone()) {
            return Ok(TryLock::HeldBy(Some(std::process::id())));
        }
        Ok(TryLock::Taken(Box::new(Hold { shared: Arc::clone(&self.shared), name: name.clone() })))
    }

    fn read(&self, name: &Name) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        Ok(lock(&self.shared).files.get(name).cloned())
    }

    fn replace(&self, name: &Name, content: &[u8]) -> Result<(), StateError> {
        lock(&self.shared).files.insert(name.clone(), Zeroizing::new(content.to_vec()));
        Ok(())
    }

    fn remove(&self, name: &Name) -> Result<(), StateError> {
        lock(&self.shared).files.remove(name);
        Ok(())
    }
}
