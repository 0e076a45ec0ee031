//! Fills in what `GET /topics` answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sealcast_link::Connection;
use sealcast_proto::{BatchNo, Offset, PublicKey};

use super::status::{BrokerStatus, ConnectionStatus, MOST, PublisherStatus, SubscriberStatus, TopicStatus};
use crate::clock::now_ms;
use crate::handle::{Message, Topic};
use crate::session::Streams;
use crate::shared::Shared;

/// Somebody connected.
pub(crate) struct Client {
    pub(crate) connection: Connection,
    pub(crate) since_ms: u64,
    pub(crate) streams: Arc<Streams>,
}

/// A subscription as others may see it.
#[derive(Debug)]
pub(crate) struct Follower {
    identity: PublicKey,
    since_ms: u64,
    position: AtomicU64,
    delivered: AtomicU64,
}

/// A publish stream as others may see it.
#[derive(Debug)]
pub(crate) struct Feeding {
    pub(crate) identity: PublicKey,
}

/// Where a publisher stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standpoint {
    pub(crate) publisher: PublicKey,
    pub(crate) epoch: u64,
    pub(crate) header_offset: Offset,
    pub(crate) time_ms: u64,
    pub(crate) next_batch_no: BatchNo,
    pub(crate) last: Option<Offset>,
}

/// What only a topic's actor knows.
#[derive(Debug)]
pub(crate) struct Insight {
    pub(crate) members: usize,
    pub(crate) publishers: Vec<Standpoint>,
}

impl Follower {
    pub(crate) fn new(identity: PublicKey, position: Offset) -> Self {
        Self {
            identity,
            since_ms: now_ms(),
            position: AtomicU64::new(position.0),
            delivered: AtomicU64::new(0),
        }
    }

    /// It stands here now, and so many bytes more were handed to QUIC for it.
    pub(crate) fn went(&self, position: Offset, bytes: usize) {
        self.position.store(position.0, Ordering::Relaxed);
        self.delivered.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn lag(&self, head: Offset) -> u64 {
        head.0.saturating_sub(self.position.load(Ordering::Relaxed))
    }

    fn status(&self, head: Offset) -> SubscriberStatus {
        SubscriberStatus {
            identity: self.identity.to_string(),
            since_ms: self.since_ms,
            position: self.position.load(Ordering::Relaxed),
            lag: self.lag(head),
            delivered_bytes: self.delivered.load(Ordering::Relaxed),
        }
    }
}

impl Client {
    fn status(&self) -> ConnectionStatus {
        ConnectionStatus {
            identity: self.connection.peer().to_string(),
            from: self.connection.remote_addr().to_string(),
            agent: self.connection.hello().map(|hello| hello.agent.clone()).unwrap_or_default(),
            since_ms: self.since_ms,
            streams: self.streams.open(),
            rtt_us: u64::try_from(self.connection.rtt().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

/// The broker as of now.
pub(crate) async fn broker(shared: &Shared, key: &PublicKey) -> BrokerStatus {
    let mut topics = shared.registry.topics();
    let topics_total = topics.len();
    topics.sort_by_key(|topic| std::cmp::Reverse(topic.taken().1));
    topics.truncate(MOST);
    topics.sort_by_key(|topic| topic.id());
    let mut listed = Vec::with_capacity(topics.len());
    for found in topics {
        listed.push(topic(shared, &found).await);
    }
    let why_not_ready = shared.why_not_ready();
    BrokerStatus {
        time_ms: now_ms(),
        started_ms: shared.metrics.started_ms(),
        version: env!("CARGO_PKG_VERSION").into(),
        key: key.to_string(),
        ready: why_not_ready.is_none(),
        why_not_ready: why_not_ready.map(Into::into),
        connections_total: shared.clients.len(),
        connections: shared.clients.all().iter().take(MOST).map(|client| client.status()).collect(),
        topics_total,
        topics: listed,
    }
}

async fn topic(shared: &Shared, topic: &Arc<Topic>) -> TopicStatus {
    let id = topic.id();
    // Of a topic that is going away the rest is still true.
    let insight = topic.ask(|reply| Message::Insight { reply }).await.ok();
    let head = topic.head();
    let bounds = shared.storage.reads.log().bounds(&id).unwrap_or_default();
    let (records_total, bytes_total) = topic.taken();
    let followers = topic.followers.all();
    let mut subscribers: Vec<_> = followers.iter().map(|follower| follower.status(head)).collect();
    subscribers.sort_by_key(|subscriber| std::cmp::Reverse(subscriber.lag));
    subscribers.truncate(MOST);
    TopicStatus {
        id: id.to_string(),
        name: topic.origin().genesis.name.clone(),
        owner: topic.origin().genesis.owner.to_string(),
        head: head.0,
        first: bounds.first.min(head).0,
        bytes: bounds.bytes,
        records_total,
        bytes_total,
        delivered_bytes_total: topic.delivered(),
        roster_seq: topic.roster_head().0,
        members: insight.as_ref().map_or(0, |insight| insight.members),
        publishers: publishers(topic, insight.map(|insight| insight.publishers).unwrap_or_default()),
        subscribers_total: followers.len(),
        subscribers,
    }
}

fn publishers(topic: &Topic, standpoints: Vec<Standpoint>) -> Vec<PublisherStatus> {
    let mut streams: BTreeMap<PublicKey, usize> = BTreeMap::new();
    for feed in topic.feeds.all() {
        *streams.entry(feed.identity).or_default() += 1;
    }
    let mut out: Vec<_> = standpoints
        .into_iter()
        .map(|at| PublisherStatus {
            identity: at.publisher.to_string(),
            epoch: Some(at.epoch),
            epoch_offset: Some(at.header_offset.0),
            epoch_time_ms: Some(at.time_ms),
            batches: at.next_batch_no.0,
            last_offset: at.last.map(|last| last.0),
            streams: streams.remove(&at.publisher).unwrap_or(0),
        })
        .collect();
    out.extend(streams.into_iter().map(|(identity, streams)| PublisherStatus {
        identity: identity.to_string(),
        epoch: None,
        epoch_offset: None,
        epoch_time_ms: None,
        batches: 0,
        last_offset: None,
        streams,
    }));
    out
}
