//! An identity's prekey secrets: one file for all its topics, held only for the length of a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sealcast_envelope::PrekeyRing;
use sealcast_proto::PublicKey;

use crate::backend::{Backend, Held, Name, TryLock};
use crate::error::StateError;
use crate::role::what;

/// How long a call waits for another process's, which takes an fsync: far longer than any disk needs.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it looks.
const PAUSE: Duration = Duration::from_millis(2);

/// Where an identity's prekey secrets lie.
#[derive(Debug, Clone)]
pub struct PrekeyStore {
    backend: Arc<dyn Backend>,
    name: Name,
}

impl PrekeyStore {
    pub(crate) fn new(backend: Arc<dyn Backend>, identity: &PublicKey) -> Self {
        Self { backend, name: Name { identity: *identity, file: "prekeys".into() } }
    }

    /// Reads the ring (an empty one where there is none), lets `change` at it, and saves it if `change` says so with
    /// the second value. Nobody else reads or changes it meanwhile; on an error the saved one is as it was.
    pub fn update<T>(&self, change: impl FnOnce(&mut PrekeyRing) -> (T, bool)) -> Result<T, StateError> {
        let _held = self.lock()?;
        let mut ring = match self.backend.read(&self.name)? {
            None => PrekeyRing::new(),
            Some(saved) => PrekeyRing::decode(&saved).map_err(|error| StateError::Corrupt {
                what: what(&*self.backend, &self.name),
                why: error.to_string(),
            })?,
        };
        let (value, changed) = change(&mut ring);
        if changed {
            self.backend.replace(&self.name, &ring.encode())?;
        }
        Ok(value)
    }

    fn lock(&self) -> Result<Box<dyn Held>, StateError> {
        let start = Instant::now();
        loop {
            match self.backend.try_lock(&self.name)? {
                TryLock::Taken(held) => return Ok(held),
                TryLock::HeldBy(holder) if start.elapsed() > PATIENCE => {
                    return Err(StateError::Locked { what: what(&*self.backend, &self.name), holder });
                }
                TryLock::HeldBy(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sealcast_proto::Identity;

    use super::*;
    use crate::State;

    fn rotate(store: &PrekeyStore, identity: &Identity, now_ms: u64) -> u32 {
        let day = 24 * 3600 * 1000;
        store
            .update(|ring| {
                let made = ring.rotate_if_due(identity, 7 * day, 14 * day, now_ms, true, &mut rand::rng());
                (made.unwrap().peek().unwrap().prekey_id, true)
            })
            .unwrap()
    }

    fn holds(store: &PrekeyStore, id: u32) -> bool {
        store.update(|ring| (ring.secret(id).is_some(), false)).unwrap()
    }

    #[test]
    fn a_prekey_made_by_one_is_held_by_all() {
        let root = tempfile::tempdir().unwrap();
        for state in [State::dir(root.path().join("s")).unwrap(), State::memory()] {
            let me = Identity::from_seed(&[1; 32]);
            let store = state.prekeys(&me.public());
            let id = rotate(&store, &me, 1_800_000_000_000);
            assert!(holds(&store, id));
            assert!(holds(&state.prekeys(&me.public()), id));
            assert!(!holds(&state.prekeys(&Identity::from_seed(&[2; 32]).public()), id));
        }
    }

    #[test]
    fn what_is_not_said_to_have_changed_is_not_saved() {
        let me = Identity::from_seed(&[1; 32]);
        let store = State::memory().prekeys(&me.public());
        let day = 24 * 3600 * 1000;
        let id = store
            .update(|ring| {
                let made =
                    ring.rotate_if_due(&me, 7 * day, 14 * day, 1_800_000_000_000, true, &mut rand::rng());
                (made.unwrap().peek().unwrap().prekey_id, false)
            })
            .unwrap();
        assert!(!holds(&store, id));
    }

    #[test]
    fn changes_from_many_threads_are_all_kept() {
        let root = tempfile::tempdir().unwrap();
        let me = Arc::new(Identity::from_seed(&[1; 32]));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (me, path) = (Arc::clone(&me), root.path().join("s"));
                std::thread::spawn(move || {
                    let store = State::dir(path).unwrap().prekeys(&me.public());
                    (0..4).map(|_| rotate(&store, &me, 1_800_000_000_000)).collect::<Vec<_>>()
                })
            })
            .collect();
        let ids: Vec<u32> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let store = State::dir(root.path().join("s")).unwrap().prekeys(&me.public());
        assert_eq!(ids.len(), 16);
        for id in ids {
            assert!(holds(&store, id), "{id}");
        }
    }

    #[test]
    fn a_damaged_ring_is_an_error_and_stays_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        let me = Identity::from_seed(&[1; 32]);
        let store = State::dir(root.path().join("s")).unwrap().prekeys(&me.public());
        rotate(&store, &me, 1_800_000_000_000);
        let path = root.path().join("s").join(me.public().to_string()).join("prekeys");
        std::fs::write(&path, [0xff; 40]).unwrap();
        let error = store.update(|_| ((), true)).unwrap_err();
        assert!(matches!(error, StateError::Corrupt { .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), [0xff; 40]);
    }
}
