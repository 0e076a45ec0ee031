//! What all sessions of a broker share: its topics, its store, its limits, and the way into a topic.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::Genesis;
use sealcast_proto::{PublicKey, Signed, TopicId};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::actor::Actor;
use crate::config::Config;
use crate::handle::{Opened, Origin, Topic};
use crate::limits::{self, Limits};
use crate::load::{self, LoadError};
use crate::lookup;
use crate::ops::metrics::Metrics;
use crate::ops::report::Client;
use crate::order::{Proposed, behind, unconfirmed};
use crate::present::Present;
use crate::rate::Bucket;
use crate::registry::Registry;
use crate::storage::Storage;
use crate::store::{Log, LogError, Write};
use crate::tasks::Tasks;
use crate::topic::SessionId;

/// See the module.
pub(crate) struct Shared {
    pub(crate) storage: Storage,
    pub(crate) registry: Arc<Registry>,
    live: RwLock<Live>,
    /// The data directory.
    data: PathBuf,
    pub(crate) metrics: Metrics,
    /// Handshakes begun.
    pub(crate) handshakes: Bucket,
    /// One clone for everybody who has not said hello yet.
    strangers: Arc<()>,
    /// Everybody connected.
    pub(crate) clients: Present<Client>,
    draining: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// Whether the cluster does not answer.
    cut_off: watch::Sender<bool>,
    /// Streams that owe their client an answer.
    pub(crate) owing: Tasks,
    next_session: AtomicU64,
    /// Topics whose genesis, roster or headers the disk lost: nothing is served of them, and nobody may create them anew.
    /// With those who are known to have to do with them.
    damaged: OnceLock<HashMap<TopicId, HashSet<PublicKey>>>,
    /// One topic is created at a time: two creations of one topic are one.
    creating: Mutex<()>,
}

/// What may change while the broker runs.
#[derive(Debug)]
struct Live {
    limits: Arc<Limits>,
    /// Who may create topics; empty: anyone.
    owners: Vec<PublicKey>,
    /// Whether metrics name topics.
    topic_labels: bool,
}

impl Live {
    fn of(config: &Config) -> Self {
        Self {
            limits: Arc::new(config.limits.clone()),
            owners: config.owners.clone(),
            topic_labels: config.topic_labels,
        }
    }
}

impl Shared {
    pub(crate) fn new(storage: Storage, config: &Config) -> Self {
        Self {
            storage,
            registry: Arc::default(),
            live: RwLock::new(Live::of(config)),
            data: config.data.clone(),
            metrics: Metrics::new(),
            handshakes: Bucket::new(),
            strangers: Arc::default(),
            clients: Present::default(),
            draining: watch::Sender::new(false),
            stopping: watch::Sender::new(false),
            cut_off: watch::Sender::new(false),
            owing: Tasks::default(),
            next_session: AtomicU64::new(1),
            damaged: OnceLock::new(),
            creating: Mutex::new(()),
        }
    }

    /// What holds from now on for what begins from now on.
    pub(crate) fn limits(&self) -> Arc<Limits> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).limits.clone()
    }

    /// Whether metrics name topics.
    pub(crate) fn topic_labels(&self) -> bool {
        self.live.read().unwrap_or_else(PoisonError::into_inner).topic_labels
    }

    /// Takes over what may change while the broker runs.
    pub(crate) fn reload(&self, config: &Config) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Live::of(config);
    }

    /// Waits where an identity publishes faster than it may. Not while the broker drains: what came is to be stored.
    pub(crate) async fn throttle(&self, rate: &Bucket, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let wait = rate.take(bytes, self.limits().publish_rate.0);
        if !wait.is_zero() {
            self.metrics.throttled(wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.drained() => {}
            }
        }
    }

    /// A place among those who have not said hello yet, until it is dropped; `None`: all are taken.
    pub(crate) fn stranger(&self) -> Option<Arc<()>> {
        let here = Arc::strong_count(&self.strangers).saturating_sub(1);
        (here < self.limits().unauthenticated).then(|| self.strangers.clone())
    }

    fn may_create(&self, peer: &PublicKey) -> bool {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.owners.is_empty() || live.owners.contains(peer)
    }

    /// Bytes free for the broker where its data is; `None`: it cannot be told.
    pub(crate) fn disk_free(&self) -> Option<u64> {
        let free = rustix::fs::statvfs(&self.data).ok()?;
        free.f_bavail.checked_mul(free.f_frsize)
    }

    /// Takes up every topic that the store holds. Returns how many. One whose roster or headers are lost is left aside: it
    /// is no reason to keep the others from their members.
    pub(crate) async fn take_up(&self) -> Result<usize, LoadError> {
        let mut damaged = HashMap::new();
        for id in self.storage.reads.run(|log| log.topics()).await? {
            match self.take_up_one(id).await {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    tracing::error!(topic = %id.short(), %error, "not served: restore the data directory from a copy, or import this topic and the others into a new one");
                    let named = self.storage.reads.run(move |log| Ok(lookup::named(log, id))).await?;
                    damaged.insert(id, named);
                }
                Err(error) => return Err(error),
            }
        }
        // Set once, here.
        let _ = self.damaged.set(damaged);
        Ok(self.registry.len())
    }

    async fn take_up_one(&self, id: TopicId) -> Result<(), LoadError> {
        let genesis = self.storage.reads.run(move |log| log.topic(&id)).await?;
        let gone = || LogError::Corrupt("its genesis is lost".into());
        let signed: Signed<Genesis> = load::kept(&genesis.ok_or_else(gone)?)?;
        let damaged = |error: sealcast_proto::object::ObjectError| LoadError::Damaged {
            topic: id.short(),
            why: error.to_string(),
        };
        let genesis = signed.verify_topic(&id).map_err(damaged)?;
        self.begin(Origin { id, genesis, signed }).await
    }

    /// Who is named in what is left of a damaged topic.
    fn damaged(&self, id: &TopicId) -> Option<&HashSet<PublicKey>> {
        self.damaged.get()?.get(id)
    }

    pub(crate) async fn begin(&self, origin: Origin) -> Result<(), LoadError> {
        // First the writer, then the reading: see Commit::writer.
        let writer = self.storage.commit.writer();
        let born = origin.clone();
        let load = move |log: &dyn Log| Ok(load::load(log, born.id, &born.genesis));
        let mut loaded = self.storage.reads.run(load).await??;
        if let Some(order) = &self.storage.order {
            let next = self.storage.reads.log().bounds(&origin.id)?.next;
            loaded.machine = loaded.machine.ordered(next, order.level());
        }
        self.registry.insert(Actor::start(
            self.storage.clone(),
            origin,
            loaded,
            writer,
            self.stopping.subscribe(),
        ));
        Ok(())
    }

    /// Registers a topic; again: no change.
    pub(crate) async fn create(&self, peer: PublicKey, signed: Signed<Genesis>) -> Result<(), Refusal> {
        let id = signed.topic_id();
        let genesis =
            signed.verify_topic(&id).map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        if genesis.owner != peer || !self.may_create(&peer) {
            return Err(Refusal::new(Code::NotAllowed, "this broker lets only its owners create topics"));
        }
        if self.damaged(&id).is_some() {
            return Err(lost());
        }
        let _one_at_a_time = self.creating.lock().await;
        if self.registry.topic(&id).is_some() {
            return Ok(());
        }
        if self.registry.owned(&peer) >= self.limits().topics_per_owner {
            return Err(lookup::busy("this owner has as many topics as one may have"));
        }
        if let Some(order) = &self.storage.order {
            let proposed = order.settle(id, Proposed::Topic, peer, load::keep(&signed)).await;
            return proposed.map_err(|error| unconfirmed(&error));
        }
        let write = Write::CreateTopic { topic: id, genesis: load::keep(&signed) };
        self.storage.commit.write(vec![write]).await.map_err(|error| lookup::refusal(&error))?;
        let begun = self.begin(Origin { id, genesis, signed }).await;
        begun.map_err(|error| {
            tracing::error!(topic = %id.short(), %error, "a new topic could not be taken up");
            Refusal::new(Code::ReadOnly, "the topic was stored but not taken up")
        })?;
        tracing::info!(topic = %id.short(), owner = %peer.short(), "topic created");
        Ok(())
    }

    /// The way into a topic: for members, and for those who once were. Everybody else is refused in the same words and
    /// after the same time as where there is no such topic.
    pub(crate) async fn enter(&self, peer: PublicKey, id: &TopicId) -> Result<(Arc<Topic>, Opened), Refusal> {
        self.enter_if(peer, id, |_| true).await
    }

    /// As [`Shared::enter`], for those who are what `may` asks for.
    pub(crate) async fn enter_if(
        &self,
        peer: PublicKey,
        id: &TopicId,
        may: impl FnOnce(&Opened) -> bool,
    ) -> Result<(Arc<Topic>, Opened), Refusal> {
        let begun = Instant::now();
        // To everybody else it is a topic as any that does not exist.
        if self.damaged(id).is_some_and(|named| named.contains(&peer)) {
            return Err(lost());
        }
        if let Some(order) = &self.storage.order {
            // Who comes from another broker of the cluster must not find this one behind it.
            order.catch_up_topic(id).await.map_err(|error| behind(&error))?;
        }
        if let Some(topic) = self.registry.topic(id)
            && let Some(opened) = topic.open(peer).await?.filter(may)
        {
            topic.visible_up_to(opened.end, self).await;
            return Ok((topic, opened));
        }
        tokio::time::sleep_until(begun + self.limits().refusal).await;
        Err(not_allowed())
    }

    pub(crate) fn new_session(&self) -> SessionId {
        SessionId(self.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// Waits until the broker begins to go away.
    pub(crate) async fn drained(&self) {
        // It cannot be dropped while `self` lives.
        let _ = self.draining.subscribe().wait_for(|draining| *draining).await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Why it does not take everything, if it does not.
    pub(crate) fn why_not_ready(&self) -> Option<&'static str> {
        if self.is_draining() {
            return Some("draining");
        }
        if self.is_cut_off() {
            return Some("cut off");
        }
        // Asked now, not remembered: a broker that nobody writes to because it is not ready would never notice the space.
        self.storage.trouble().map(|trouble| match trouble {
            LogError::Full { .. } => "disk full",
            _ => "storage failed",
        })
    }

    /// Whether the cluster does not answer: what is shown here may be old.
    pub(crate) fn is_cut_off(&self) -> bool {
        *self.cut_off.borrow()
    }

    pub(crate) fn cut_off(&self, is: bool) {
        self.cut_off.send_if_modified(|was| std::mem::replace(was, is) != is);
    }

    /// Waits until the cluster does not answer.
    pub(crate) async fn until_cut_off(&self) {
        // It cannot be dropped while `self` lives.
        let _ = self.cut_off.subscribe().wait_for(|cut_off| *cut_off).await;
    }

    /// Ends the topics' tasks: nothing is answered any more.
    pub(crate) fn stop_topics(&self) {
        self.stopping.send_replace(true);
    }

    pub(crate) fn drain(&self) {
        self.draining.send_replace(true);
    }
}

pub(crate) fn not_allowed() -> Refusal {
    Refusal::new(Code::NotAllowed, "no such topic, or not for this identity")
}

/// Whoever asks for a damaged topic comes again: perhaps it is restored by then.
fn lost() -> Refusal {
    let refusal = Refusal::new(Code::ReadOnly, "the broker lost what belongs to this topic");
    Refusal { retry_after_ms: limits::READ_ONLY_RETRY_MS, ..refusal }
}

pub(crate) fn going_away(limits_ms: u64) -> Refusal {
    Refusal { retry_after_ms: limits_ms, ..Refusal::new(Code::Draining, "the broker is going away") }
}
