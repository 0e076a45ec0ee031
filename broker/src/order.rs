//! The order that several brokers share: a NATS JetStream cluster (docs/cluster.md).
//!
//! ```text
//! actor ── Proposal ──► Order::propose ──► partition stream (replicated) ──► Tail ──► every edge's actor of that topic
//! ```
//! An edge decides nothing before it reads its proposal back: the place in the stream is the record's offset, and the
//! topic machine, a function of that order alone, accepts or refuses it on every edge alike. What was refused stands in
//! the stream and is refused again by whoever reads it.
//!
//! A topic stands in one of [`PARTITIONS`] streams. What is larger than a message may be goes ahead in parts, to a stream
//! of their own; the proposal that names them is the commit marker and comes last.

mod cluster;
mod credentials;
mod lead;
mod place;
mod proposal;
mod reach;
mod removal;
mod seldom;
mod tail;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sealcast_proto::frame::{Code, Level, Refusal};
use sealcast_proto::{PublicKey, TopicId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

pub(crate) use self::cluster::Cluster;
pub use self::cluster::OrderError;
pub use self::place::Servers;
pub(crate) use self::place::StoreOptions;
pub(crate) use self::place::{partition, prekeys_of};
pub(crate) use self::proposal::{Body, By, Kind, Proposal, Proposed};
use self::seldom::Seldom;
pub(crate) use self::tail::{Placed, follow};
use crate::limits;
use crate::lookup;
use crate::store::Budget;

/// Streams over which topics are spread, a count, for ever: each is a replication group of its own, which the servers
/// spread over themselves.
pub(crate) const PARTITIONS: u16 = 8;

/// How long the servers may take to elect a leader before a publisher is told to try again.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a part was put a message may name it.
pub(crate) const NAMED_WITHIN: Duration = Duration::from_secs(1_800);

/// The way into the shared order.
pub(crate) struct Order {
    cluster: Arc<Cluster>,
    lanes: Vec<mpsc::UnboundedSender<Leaving>>,
    partitions: Vec<Partition>,
    next: AtomicU64,
    /// Proposals of this edge that somebody waits for, by number.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<(), OrderError>>>>,
    failed: watch::Sender<bool>,
}

/// How far a partition was read.
struct Partition {
    /// What stands before this was handed to its topics.
    read: watch::Sender<u64>,
    /// The end as it was last asked for, and when that was begun.
    end: tokio::sync::Mutex<Option<(Instant, u64)>>,
}

/// A proposal on its way.
struct Leaving {
    topic: TopicId,
    proposal: Proposal,
    lost: Lost,
    // Given back once the servers have it.
    budget: Option<Budget>,
}

/// Called if a proposal is not known to be stored. It may come back all the same.
pub(crate) type Lost = Box<dyn FnOnce(OrderError) + Send>;

impl Order {
    /// Begins to carry proposals to `cluster`; partitions are read from `from` on.
    pub(crate) fn start(cluster: Arc<Cluster>, from: &[u64]) -> Arc<Self> {
        let lane = |_| {
            let (sender, leaving) = mpsc::unbounded_channel();
            tokio::spawn(carry(cluster.clone(), leaving));
            sender
        };
        let partition = |at| Partition {
            // The first message stands at 1.
            read: watch::Sender::new(from.get(usize::from(at)).copied().unwrap_or_default().max(1)),
            end: tokio::sync::Mutex::default(),
        };
        Arc::new(Self {
            lanes: (0..PARTITIONS).map(lane).collect(),
            partitions: (0..PARTITIONS).map(partition).collect(),
            next: AtomicU64::new(1),
            waiting: Mutex::default(),
            failed: watch::Sender::new(false),
            cluster,
        })
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// How safe is what was read back.
    pub(crate) fn level(&self) -> Level {
        self.cluster.level()
    }

    /// Names a proposal of this edge.
    pub(crate) fn by(&self, sender: u64) -> By {
        By { edge: self.cluster.edge(), sender, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }

    /// Whether this edge made it, since it started.
    pub(crate) fn is_own(&self, by: By) -> bool {
        by.edge == self.cluster.edge()
    }

    /// Sends a proposal after those of its topic that were given before; never waits. It comes back with the others.
    pub(crate) fn propose(&self, topic: TopicId, proposal: Proposal, budget: Option<Budget>, lost: Lost) {
        if let Some(lane) = self.lanes.get(usize::from(place::partition(&topic))) {
            // An error means that the broker is being dropped, and everybody who waits with it.
            let _ = lane.send(Leaving { topic, proposal, lost, budget });
        }
    }

    /// Proposes what no topic's actor answers for, and waits until it was read back.
    pub(crate) async fn settle(
        self: &Arc<Self>,
        topic: TopicId,
        what: Proposed,
        author: PublicKey,
        bytes: Bytes,
    ) -> Result<(), OrderError> {
        let by = self.by(0);
        let (answer, settled) = oneshot::channel();
        self.lock().insert(by.number, answer);
        let order = self.clone();
        let lost = Box::new(move |error| order.answer(by.number, Err(error)));
        self.propose(topic, Proposal { by, what, author, body: Body::Inline(bytes) }, None, lost);
        settled.await.unwrap_or_else(|_| Err(OrderError::Unfit("the broker is going away".into())))
    }

    /// Somebody's proposal was read back.
    pub(crate) fn settled(&self, by: By) {
        if self.is_own(by) {
            self.answer(by.number, Ok(()));
        }
    }

    fn answer(&self, number: u64, result: Result<(), OrderError>) {
        if let Some(answer) = self.lock().remove(&number) {
            // Whoever no longer waits need not know.
            let _ = answer.send(result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<(), OrderError>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition was handed to its topics up to `next`.
    pub(crate) fn passed(&self, partition: u16, next: u64) {
        if let Some(partition) = self.partitions.get(usize::from(partition)) {
            partition.read.send_replace(next);
        }
    }

    /// Up to where each partition was handed to its topics.
    pub(crate) fn read(&self) -> Vec<u64> {
        self.partitions.iter().map(|partition| *partition.read.borrow()).collect()
    }

    /// Waits until everything that was stored in a partition before now was handed to its topics: who comes from another
    /// edge must not find this one behind it.
    pub(crate) async fn catch_up(&self, partition: u16) -> Result<(), OrderError> {
        let asked = Instant::now();
        let missing = || OrderError::Unfit(format!("there is no partition {partition}"));
        let at = self.partitions.get(usize::from(partition)).ok_or_else(missing)?;
        let end = {
            let mut last = at.end.lock().await;
            match *last {
                // Somebody else asked while this one waited: one answer for all.
                Some((begun, end)) if begun >= asked => end,
                _ => {
                    let begun = Instant::now();
                    let end = self.cluster.end(partition).await?;
                    *last = Some((begun, end));
                    end
                }
            }
        };
        let mut read = at.read.subscribe();
        let behind = |_| OrderError::Away { doing: "is read too slowly", error: format!("at {end}") };
        timeout(PATIENCE, read.wait_for(|read| *read >= end)).await.map_err(behind)?.map(drop).or(Ok(()))
    }

    /// As [`Order::catch_up`], for a topic.
    pub(crate) async fn catch_up_topic(&self, topic: &TopicId) -> Result<(), OrderError> {
        self.catch_up(place::partition(topic)).await
    }

    /// What was read back could not be kept: this edge is of no use until it starts again.
    pub(crate) fn fail(&self) {
        self.failed.send_replace(true);
    }

    pub(crate) fn has_failed(&self) -> bool {
        *self.failed.borrow()
    }

    pub(crate) fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }
}

/// Sends one partition's proposals, in order, without waiting for one before the next.
async fn carry(cluster: Arc<Cluster>, mut leaving: mpsc::UnboundedReceiver<Leaving>) {
    let seldom = Arc::new(Seldom::default());
    while let Some(Leaving { topic, proposal, lost, budget }) = leaving.recv().await {
        let seldom = seldom.clone();
        let lost = move |error: OrderError| {
            if seldom.now() {
                tracing::warn!(%error, "what is published is refused");
            }
            lost(error);
        };
        match cluster.send(&topic, proposal).await {
            Ok(stored) => {
                tokio::spawn(async move {
                    let stored = stored.await;
                    drop(budget);
                    if let Err(error) = stored {
                        lost(error);
                    }
                });
            }
            Err(error) => lost(error),
        }
    }
}

/// What somebody is told who comes while this edge cannot tell whether it has read everything.
pub(crate) fn behind(error: &OrderError) -> Refusal {
    tracing::warn!(%error, "turned away");
    lookup::busy("the broker's cluster does not answer now")
}

/// What somebody is told whose proposal the servers did not confirm.
pub(crate) fn unconfirmed(error: &OrderError) -> Refusal {
    tracing::debug!(%error, "refused");
    let retry_after_ms = limits::READ_ONLY_RETRY_MS;
    Refusal { retry_after_ms, ..Refusal::new(Code::ReadOnly, "the broker's cluster does not answer now") }
}

/// Bytes as pieces of at most `most`.
pub(crate) fn pieces(bytes: &Bytes, most: usize) -> impl Iterator<Item = Bytes> + '_ {
    let most = most.max(1);
    (0..bytes.len()).step_by(most).map(move |at| bytes.slice(at..bytes.len().min(at + most)))
}
