//! Which topics there are, and who is connected. The only file with a `DashMap`, and no async function in it: a guard of one
//! must never be held across an `.await`.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use sealcast_proto::{PublicKey, TopicId};

use crate::handle::Topic;
use crate::rate::Bucket;

/// See the module.
#[derive(Default)]
pub(crate) struct Registry {
    topics: DashMap<TopicId, Arc<Topic>>,
    owners: DashMap<PublicKey, usize>,
    connections: DashMap<PublicKey, usize>,
    uploads: DashMap<PublicKey, usize>,
    subscriptions: DashMap<PublicKey, usize>,
    /// What each identity has published lately. Outlives its connections: coming back is no new allowance.
    rates: DashMap<PublicKey, Arc<Bucket>>,
}

/// One of a counted number of things, until it is dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    what: Counted,
    identity: PublicKey,
}

#[derive(Clone, Copy)]
pub(crate) enum Counted {
    /// Connections of an identity.
    Connections,
    /// Slot tables an identity is uploading.
    Uploads,
    /// Subscriptions of an identity.
    Subscriptions,
}

impl Registry {
    pub(crate) fn topic(&self, id: &TopicId) -> Option<Arc<Topic>> {
        self.topics.get(id).map(|topic| topic.clone())
    }

    /// Every topic; in no order.
    pub(crate) fn topics(&self) -> Vec<Arc<Topic>> {
        self.topics.iter().map(|topic| topic.clone()).collect()
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        let owner = topic.origin().genesis.owner;
        if self.topics.insert(topic.id(), topic).is_none() {
            *self.owners.entry(owner).or_default() += 1;
        }
    }

    /// How many topics `owner` has created.
    pub(crate) fn owned(&self, owner: &PublicKey) -> usize {
        self.owners.get(owner).map_or(0, |count| *count)
    }

    /// How many topics there are.
    pub(crate) fn len(&self) -> usize {
        self.topics.len()
    }

    /// How fast `identity` publishes.
    pub(crate) fn rate(&self, identity: PublicKey) -> Arc<Bucket> {
        self.rates.entry(identity).or_insert_with(|| Arc::new(Bucket::new())).clone()
    }

    /// Forgets those who publish no more and have nothing to wait for.
    pub(crate) fn forget_rates(&self) {
        self.rates.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_full());
    }

    /// Takes one of `most` places of `identity`; `None`: all are taken.
    pub(crate) fn take(self: &Arc<Self>, what: Counted, identity: PublicKey, most: usize) -> Option<Place> {
        let mut count = self.counts(what).entry(identity).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { registry: self.clone(), what, identity })
    }

    fn counts(&self, what: Counted) -> &DashMap<PublicKey, usize> {
        match what {
            Counted::Connections => &self.connections,
            Counted::Uploads => &self.uploads,
            Counted::Subscriptions => &self.subscriptions,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.registry.counts(self.what).entry(self.identity) {
            *held.get_mut() = held.get().saturating_sub(1);
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hand::key;

    #[test]
    fn places_are_given_back() {
        let registry = Arc::new(Registry::default());
        let first = registry.take(Counted::Connections, key(1), 2).unwrap();
        let second = registry.take(Counted::Connections, key(1), 2).unwrap();
        assert!(registry.take(Counted::Connections, key(1), 2).is_none());
        assert!(registry.take(Counted::Connections, key(2), 2).is_some());
        assert!(registry.take(Counted::Uploads, key(1), 1).is_some());
        drop(first);
        assert!(registry.take(Counted::Connections, key(1), 2).is_some());
        drop(second);
        assert!(registry.connections.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn coming_back_is_no_new_allowance() {
        let registry = Registry::default();
        registry.rate(key(1)).take(1_500, 1_000);
        let _at_work = registry.rate(key(2));
        registry.forget_rates();
        assert_eq!(registry.rate(key(1)).take(0, 1_000).as_millis(), 500);
        tokio::time::advance(std::time::Duration::from_secs(2)).await;
        registry.forget_rates();
        assert!(registry.rates.contains_key(&key(2)) && !registry.rates.contains_key(&key(1)));
    }
}
