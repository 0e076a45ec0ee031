//! One role's state on one topic.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::backend::{Backend, Held, Name, TryLock};
use crate::error::StateError;

/// What a member does on a topic; each has marks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StateRole {
    /// Publishing.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Changing the roster.
    Admin,
}

impl StateRole {
    /// As it stands in file names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for StateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of one role on one topic. Nobody else holds it; dropping it lets go.
#[derive(Debug)]
pub struct RoleState {
    backend: Arc<dyn Backend>,
    name: Name,
    role: StateRole,
    /// Saves take turns: two threads would write one replacement.
    saving: Mutex<()>,
    _held: Box<dyn Held>,
}

impl RoleState {
    pub(crate) fn open(backend: Arc<dyn Backend>, name: Name, role: StateRole) -> Result<Self, StateError> {
        match backend.try_lock(&name)? {
            TryLock::Taken(held) => Ok(Self { backend, name, role, saving: Mutex::new(()), _held: held }),
            TryLock::HeldBy(holder) => Err(StateError::Locked { what: what(&*backend, &name), holder }),
        }
    }

    /// Which role it is of.
    pub fn role(&self) -> StateRole {
        self.role
    }

    /// What was saved last; `None`: nothing yet.
    pub fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
        self.backend.read(&self.name)
    }

    /// Replaces what was saved. When it returns, the new content is on the disk; on an error the old one is.
    pub fn save(&self, content: &[u8]) -> Result<(), StateError> {
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.backend.replace(&self.name, content)
    }

    /// Removes what was saved.
    pub fn remove(&self) -> Result<(), StateError> {
        let _turn = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        self.backend.remove(&self.name)
    }

    /// The error for content that [`RoleState::load`] gave and its reader could not read.
    pub fn corrupt(&self, why: impl fmt::Display) -> StateError {
        StateError::Corrupt { what: what(&*self.backend, &self.name), why: why.to_string() }
    }
}

/// The file as people find it.
pub(crate) fn what(backend: &dyn Backend, name: &Name) -> String {
    match backend.root() {
        Some(root) => root.join(name.identity.to_string()).join(&name.file).display().to_string(),
        None => format!("the state {name}"),
    }
}

#[cfg(test)]
mod tests {
    use sealcast_proto::{Identity, PublicKey, TopicId};

    use super::*;
    use crate::State;

    const TOPIC: TopicId = TopicId([7; 32]);

    fn me(n: u8) -> PublicKey {
        Identity::from_seed(&[n; 32]).public()
    }

    fn both(test: impl Fn(State)) {
        let root = tempfile::tempdir().unwrap();
        test(State::dir(root.path().join("state")).unwrap());
        test(State::memory());
    }

    #[test]
    fn what_was_saved_is_found_again() {
        both(|state| {
            let role = state.open(&me(1), &TOPIC, StateRole::Publish).unwrap();
            assert!(role.load().unwrap().is_none());
            role.save(b"one").unwrap();
            role.save(b"two, and longer").unwrap();
            role.save(b"3").unwrap();
            drop(role);
            let role = state.open(&me(1), &TOPIC, StateRole::Publish).unwrap();
            assert_eq!(role.load().unwrap().unwrap().as_slice(), b"3");
            role.remove().unwrap();
            role.remove().unwrap();
            assert!(role.load().unwrap().is_none());
        });
    }

    #[test]
    fn a_role_has_one_holder() {
        both(|state| {
            let first = state.open(&me(1), &TOPIC, StateRole::Subscribe).unwrap();
            let error = state.clone().open(&me(1), &TOPIC, StateRole::Subscribe).unwrap_err();
            assert!(
                matches!(error, StateError::Locked { holder: Some(pid), .. } if pid == std::process::id())
            );
            assert!(error.hint().contains("--state"), "{}", error.hint());
            // Other roles, topics and members are apart.
            let _role = state.open(&me(1), &TOPIC, StateRole::Publish).unwrap();
            let _topic = state.open(&me(1), &TopicId([8; 32]), StateRole::Subscribe).unwrap();
            let _member = state.open(&me(2), &TOPIC, StateRole::Subscribe).unwrap();
            drop(first);
            state.open(&me(1), &TOPIC, StateRole::Subscribe).unwrap();
        });
    }

    #[test]
    fn a_directory_opened_twice_is_one_state() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (State::dir(root.path().join("s")).unwrap(), State::dir(root.path().join("s")).unwrap());
        let held = a.open(&me(1), &TOPIC, StateRole::Admin).unwrap();
        assert!(matches!(b.open(&me(1), &TOPIC, StateRole::Admin), Err(StateError::Locked { .. })));
        held.save(b"x").unwrap();
        drop(held);
        let held = b.open(&me(1), &TOPIC, StateRole::Admin).unwrap();
        assert_eq!(held.load().unwrap().unwrap().as_slice(), b"x");
    }

    #[test]
    fn a_damaged_file_is_named_for_people() {
        let root = tempfile::tempdir().unwrap();
        let state = State::dir(root.path().join("s")).unwrap();
        let role = state.open(&me(1), &TOPIC, StateRole::Subscribe).unwrap();
        let line = role.corrupt("cut off").to_string();
        assert!(line.contains(".subscribe is damaged: cut off"), "{line}");
    }
}
