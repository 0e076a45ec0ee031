//! What is told to many, and to nobody most of the time: tokio's broadcast channels hold all their places from the start,
//! which only a topic that somebody listens to should pay for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// A broadcast channel while somebody listens.
#[derive(Debug)]
pub(crate) struct Casts<T> {
    sender: Mutex<Option<broadcast::Sender<T>>>,
    /// What a listener may be behind, a count.
    behind: usize,
}

impl<T: Clone> Casts<T> {
    pub(crate) fn new(behind: usize) -> Self {
        Self { sender: Mutex::new(None), behind }
    }

    /// Everything told from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<T> {
        self.lock().get_or_insert_with(|| broadcast::Sender::new(self.behind)).subscribe()
    }

    pub(crate) fn has_listeners(&self) -> bool {
        self.lock().as_ref().is_some_and(|sender| sender.receiver_count() > 0)
    }

    pub(crate) fn tell(&self, what: T) {
        let mut sender = self.lock();
        // An error means that nobody listens any more.
        if sender.as_ref().is_some_and(|sender| sender.send(what).is_err()) {
            *sender = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<broadcast::Sender<T>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_there_for_those_who_listen() {
        let casts = Casts::new(4);
        casts.tell(1);
        assert!(!casts.has_listeners() && casts.lock().is_none());
        let (mut one, mut two) = (casts.listen(), casts.listen());
        casts.tell(2);
        assert!(casts.has_listeners());
        assert_eq!((one.recv().await, two.recv().await), (Ok(2), Ok(2)));
        drop((one, two));
        casts.tell(3);
        assert!(casts.lock().is_none(), "and gone with them");
    }
}
