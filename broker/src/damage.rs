//! What the disk lost is said once, not to every reader that meets it.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Things said, a count: a disk with more to say is past a log's help.
const MOST: usize = 256;

#[derive(Default)]
struct Said(HashSet<String>);

impl Said {
    fn is_new(&mut self, what: &str) -> bool {
        self.0.len() < MOST && self.0.insert(what.into())
    }
}

/// Logs `what`, unless it was logged since this process began.
pub(crate) fn say(what: &str) {
    static SAID: Mutex<Option<Said>> = Mutex::new(None);
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if said.get_or_insert_default().is_new(what) {
        tracing::error!("{what}");
    } else {
        tracing::debug!("again: {what}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_once_and_not_without_end() {
        let mut said = Said::default();
        assert!(said.is_new("a") && said.is_new("b") && !said.is_new("a"));
        for n in 0..MOST {
            said.is_new(&n.to_string());
        }
        assert!(!said.is_new("one more") && said.0.len() == MOST);
    }
}
