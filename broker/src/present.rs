//! Who is here now: connections, subscriptions, publish streams. For those who look at a broker from outside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A list of the present, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Present<T>(Arc<Mutex<List<T>>>);

#[derive(Debug)]
struct List<T> {
    next: u64,
    here: BTreeMap<u64, Arc<T>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Here<T> {
    list: Arc<Mutex<List<T>>>,
    number: u64,
    what: Arc<T>,
}

impl<T> Default for Present<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(List { next: 0, here: BTreeMap::new() })))
    }
}

impl<T> Present<T> {
    pub(crate) fn enter(&self, what: T) -> Here<T> {
        let mut list = lock(&self.0);
        self.put(what, &mut list)
    }

    fn put(&self, what: T, list: &mut List<T>) -> Here<T> {
        let (number, what) = (list.next, Arc::new(what));
        list.next = list.next.wrapping_add(1);
        list.here.insert(number, what.clone());
        Here { list: self.0.clone(), number, what }
    }

    /// As [`Present::enter`], unless `most` are here.
    pub(crate) fn enter_if_room(&self, what: T, most: usize) -> Option<Here<T>> {
        let mut list = lock(&self.0);
        (list.here.len() < most).then(|| self.put(what, &mut list))
    }

    pub(crate) fn len(&self) -> usize {
        lock(&self.0).here.len()
    }

    /// All of them, as of now.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        lock(&self.0).here.values().cloned().collect()
    }
}

impl<T> std::ops::Deref for Here<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.what
    }
}

impl<T> Drop for Here<T> {
    fn drop(&mut self) {
        lock(&self.list).here.remove(&self.number);
    }
}

fn lock<T>(list: &Mutex<List<T>>) -> MutexGuard<'_, List<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_leaves_is_not_listed() {
        let present = Present::default();
        let (first, second) = (present.enter("a"), present.enter("b"));
        assert_eq!((present.len(), *second), (2, "b"));
        assert!(present.enter_if_room("c", 2).is_none());
        assert_eq!(present.enter_if_room("d", 3).map(|here| *here), Some("d"));
        drop(first);
        assert_eq!(present.all().into_iter().map(|name| *name).collect::<Vec<_>>(), ["b"]);
        drop(second);
        assert_eq!(present.len(), 0);
    }
}
