//! A broker as an edge of a cluster: hands what was read back to its topics, and keeps the place up to which its view of
//! the shared order stands on its own disk.

mod marks;
mod table;
pub(crate) mod trim;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use sealcast_proto::object::{Genesis, Prekey};
use sealcast_proto::{Signed, TopicId};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub(crate) use self::marks::Marks;
pub use self::marks::MarksError;
use crate::actor::ordered;
use crate::handle::{Message, Origin, ReadBack, Sign, Topic};
use crate::load;
use crate::order::{Order, OrderError, PARTITIONS, PATIENCE, Placed, Proposal, Proposed, follow};
use crate::shared::Shared;
use crate::store::{LogError, Write};
use crate::topic::{Table, Trim};

/// Proposals of a partition that were read and wait for their topics, a count: one may be a megabyte.
const AHEAD: usize = 8;
/// What a proposal needs beside its bytes while it waits for the view, bytes: index entries and keys.
const BESIDE: usize = 1 << 10;
/// How often the place is kept up to which the view stands on the disk: what was read after it is read again after a
/// restart.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// Topics that are asked about at once, a count.
const AT_ONCE: usize = 32;
/// How often it is asked whether the cluster answers,
const ASK_EVERY: Duration = Duration::from_secs(1);
/// and for how long it may not before clients are sent to other edges: longer than an election among servers takes.
const CUT_OFF: Duration = Duration::from_secs(10);

/// See the module.
struct Edge {
    shared: Arc<Shared>,
    order: Arc<Order>,
    /// Topics that were handed something since their place was kept.
    touched: Mutex<HashSet<TopicId>>,
}

/// Begins to read the shared order; returns once everything that stands there now was handed to its topics. The tasks end
/// when they are dropped.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    order: &Arc<Order>,
    marks: Marks,
) -> Result<JoinSet<()>, OrderError> {
    let mut tasks = JoinSet::new();
    let edge = Arc::new(Edge { shared: shared.clone(), order: order.clone(), touched: Mutex::default() });
    for (partition, from) in (0..PARTITIONS).zip(order.read()) {
        let (to, placed) = mpsc::channel(AHEAD);
        tasks.spawn(follow(order.cluster().clone(), partition, from, to));
        tasks.spawn(edge.clone().hand_over(partition, placed));
    }
    tasks.spawn(edge.clone().hear(order.cluster().signs().await?));
    for partition in 0..PARTITIONS {
        // However much there is to read, as long as it goes on.
        let mut read = order.read();
        while let Err(error) = order.catch_up(partition).await {
            if order.read() == read || order.has_failed() {
                return Err(order.cluster().refused().unwrap_or(error));
            }
            read = order.read();
        }
    }
    // Who may not listen to something is told so, and then hears nothing.
    if let Some(refused) = order.cluster().refused() {
        return Err(refused);
    }
    for topic in shared.registry.topics() {
        // A view with a hole in it that nothing tells of is shown to nobody.
        if let Err(error) = trim::settle(shared, order, &topic).await {
            tracing::warn!(topic = %topic.id().short(), %error, "not trimmed: tried again");
        }
    }
    tasks.spawn(edge.clone().keep_marks(marks));
    tasks.spawn(edge.look_after());
    Ok(tasks)
}

impl Edge {
    /// Hands a partition's proposals to their topics, in order.
    async fn hand_over(self: Arc<Self>, partition: u16, mut placed: mpsc::Receiver<Placed>) {
        let mut removed = None;
        self.look_back(partition, &mut removed).await;
        while let Some(Placed { at, stored_ms, topic, gap, proposal }) = placed.recv().await {
            if gap {
                self.look_back(partition, &mut removed).await;
            }
            if let Some((proposal, bytes)) = proposal
                && let Err(error) = self.take((partition, at), stored_ms, topic, proposal, bytes).await
            {
                tracing::error!(partition, at, %error, "the view cannot be kept: restart this broker");
                return self.order.fail();
            }
            self.order.passed(partition, at.saturating_add(1));
        }
    }

    async fn take(
        &self,
        (partition, at): (u16, u64),
        stored_ms: u64,
        id: TopicId,
        proposal: Proposal,
        bytes: Bytes,
    ) -> Result<(), LogError> {
        let Proposal { by, what, author, .. } = proposal;
        match what {
            Proposed::Topic => {
                self.topic((partition, at), id, bytes).await?;
                self.order.settled(by);
                return Ok(());
            }
            Proposed::Trim => {
                if let Some(topic) = self.shared.registry.topic(&id)
                    && let Some(trim) = Trim::decode(bytes)
                {
                    topic.trims.note(at, Arc::new(trim), self.order.is_own(by));
                }
                self.order.settled(by);
                return Ok(());
            }
            Proposed::Prekey => {
                self.prekey(bytes).await?;
                self.order.settled(by);
                return Ok(());
            }
            Proposed::Roster | Proposed::Header(_) | Proposed::Batch | Proposed::Head => {}
        }
        let Some(topic) = self.shared.registry.topic(&id) else {
            tracing::warn!(partition, at, topic = %id.short(), "of no topic that was created: left out");
            return Ok(());
        };
        if self.shared.storage.reads.log().bounds(&id)?.next.0 > at {
            // It is part of the view already.
            return Ok(());
        }
        let size = bytes.len() + BESIDE;
        let table = match &what {
            Proposed::Header(parts) => {
                let of = (partition, stored_ms);
                table::stage(&self.shared.storage, &self.order, of, &bytes, parts).await?
            }
            _ => Table::Missing,
        };
        let budget = self.shared.storage.commit.reserve(size).await?;
        let Some(what) = ordered::read(&what, bytes, table) else {
            tracing::warn!(partition, at, topic = %id.short(), "no record that can be read: left out");
            return Ok(());
        };
        self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        let read = ReadBack { at, stored_ms, by, author, what, budget };
        topic.send(Message::ReadBack(read)).await.map_err(|_| LogError::Closed)
    }

    /// A topic that some edge's owner created; again: no change.
    async fn topic(&self, place: (u16, u64), id: TopicId, genesis: Bytes) -> Result<(), LogError> {
        let signed: Result<Signed<Genesis>, _> = load::kept(&genesis);
        let parsed = signed.ok().and_then(|signed| Some((signed.verify_topic(&id).ok()?, signed)));
        let Some((parsed, signed)) = parsed else {
            tracing::warn!(topic = %id.short(), "its genesis does not hold: left out");
            return Ok(());
        };
        if self.shared.registry.topic(&id).is_some() {
            return Ok(());
        }
        self.shared.storage.put(vec![Write::CreateTopic { topic: id, genesis }]).await?;
        let begun = self.shared.begin(Origin { id, genesis: parsed, signed }).await;
        begun.map_err(|error| LogError::Corrupt(error.to_string()))?;
        tracing::info!(topic = %id.short(), "topic taken up");
        if let Some(topic) = self.shared.registry.topic(&id) {
            while let Err(error) = self.look_back_in(place.1, &topic).await {
                again(&error).await;
            }
        }
        Ok(())
    }

    /// Something was taken out of a partition, perhaps something that this edge did not read. What was trimmed is said in the
    /// stream before it is taken out: so it is known before what stands behind it is read. `removed`: how much was taken
    /// out when this was done last.
    async fn look_back(&self, partition: u16, removed: &mut Option<u64>) {
        loop {
            match self.try_look_back(partition, *removed).await {
                Ok(now) => return *removed = Some(now),
                Err(error) => again(&error).await,
            }
        }
    }

    async fn try_look_back(&self, partition: u16, removed: Option<u64>) -> Result<u64, OrderError> {
        let now = self.order.cluster().removed(partition).await?;
        if removed != Some(now) {
            let from = self.order.read().get(usize::from(partition)).copied().unwrap_or_default();
            let topics = self.shared.registry.topics().into_iter();
            let of = topics.filter(|topic| crate::order::partition(&topic.id()) == partition);
            let looked = futures_util::stream::iter(of)
                .map(|topic| async move { self.look_back_in(from, &topic).await })
                .buffer_unordered(AT_ONCE);
            looked.try_collect::<Vec<()>>().await?;
        }
        Ok(now)
    }

    /// Tells a topic what was trimmed of it, if it was read up to `from` only.
    async fn look_back_in(&self, from: u64, topic: &Topic) -> Result<(), OrderError> {
        let id = topic.id();
        let Some((at, trim)) = self.order.cluster().trimmed(&id).await? else { return Ok(()) };
        let trim = Arc::new(trim);
        let log = self.shared.storage.reads.log().clone();
        let next = log.bounds(&id).map_err(|error| OrderError::Unfit(error.to_string()))?.next.0;
        if trim.before.0 > from.max(next) {
            tracing::info!(topic = %id.short(), before = %trim.before, "goes on behind what was trimmed");
            let size = trim.encode().len() + BESIDE;
            let budget = self.shared.storage.commit.reserve(size).await;
            let budget = budget.map_err(|error| OrderError::Unfit(error.to_string()))?;
            // An error means that the broker is being dropped.
            let _ = topic.send(Message::Missed { trim: trim.clone(), budget }).await;
        }
        // Whoever said it may have gone before it was done.
        topic.trims.note(at, trim, true);
        Ok(())
    }

    /// A prekey that some edge's member put.
    async fn prekey(&self, bytes: Bytes) -> Result<(), LogError> {
        let Ok(prekey) = load::kept::<Prekey>(&bytes) else { return Ok(()) };
        let Ok(parsed) = prekey.verify_own() else { return Ok(()) };
        let held = self.shared.storage.reads.run(move |log| log.prekey(&parsed.owner)).await?;
        let held = held.map(|held| load::kept::<Prekey>(&held)).transpose()?;
        if held.and_then(|held| held.peek().ok()).is_none_or(|held| held.prekey_id < parsed.prekey_id) {
            self.shared.storage.put(vec![Write::Prekey { owner: parsed.owner, prekey: bytes }]).await?;
            for topic in self.shared.registry.topics().into_iter().filter(|topic| topic.has_watches()) {
                topic.offer(Message::Prekey { prekey: prekey.clone() });
            }
        }
        Ok(())
    }

    /// Hands signs of life to their topics.
    async fn hear(self: Arc<Self>, mut signs: async_nats::Subscriber) {
        while let Some(message) = signs.next().await {
            let id = message.subject.rsplit('.').next().and_then(|id| id.parse().ok());
            if let Some(topic) = id.and_then(|id| self.shared.registry.topic(&id))
                && let Some(sign) = Sign::decode(&message.payload)
            {
                topic.offer(Message::Sign(sign));
            }
        }
    }

    /// Keeps, again and again, the place up to which the view stands on the disk.
    async fn keep_marks(self: Arc<Self>, marks: Marks) {
        loop {
            sleep(KEEP_EVERY).await;
            match self.keep(&marks).await {
                Ok(()) => {}
                Err(LogError::Closed) => return,
                Err(error) => tracing::warn!(%error, "the view's place was not kept"),
            }
        }
    }

    async fn keep(&self, marks: &Marks) -> Result<(), LogError> {
        let read = self.order.read();
        if marks.is_kept(&read) {
            return Ok(());
        }
        let touched = std::mem::take(&mut *self.touched.lock().unwrap_or_else(PoisonError::into_inner));
        for topic in touched.iter().filter_map(|id| self.shared.registry.topic(id)) {
            topic.ask(|reply| Message::Barrier { reply }).await.map_err(|_| LogError::Closed)?;
        }
        // Everything submitted so far, and with it all that was read up to there, is on the disk after this.
        self.shared.storage.commit.write(Vec::new()).await?;
        if !self.order.has_failed() {
            marks.keep(&read)?;
        }
        Ok(())
    }

    /// Sends clients to other edges while this one is of no use to them: what it shows would be old.
    async fn look_after(self: Arc<Self>) {
        let mut failed = self.order.failed();
        let mut heard = tokio::time::Instant::now();
        loop {
            tokio::select! {
                _ = failed.wait_for(|failed| *failed) => {
                    tracing::error!("this broker's view failed: its clients are sent to others; restart it");
                    return self.shared.drain();
                }
                () = sleep(ASK_EVERY) => {}
            }
            if matches!(timeout(PATIENCE, self.order.catch_up(0)).await, Ok(Ok(()))) {
                heard = tokio::time::Instant::now();
                self.shared.cut_off(false);
            } else if heard.elapsed() > CUT_OFF {
                if !self.shared.is_cut_off() {
                    tracing::error!("the cluster does not answer: clients are sent to other brokers");
                    self.shared.cut_off(true);
                }
                // Who gets an answer but nothing to read is no better off at another server.
                if self.order.cluster().end(0).await.is_err() {
                    self.order.cluster().elsewhere().await;
                }
            }
        }
    }
}

/// The order cannot be read on before this is known.
async fn again(error: &OrderError) {
    tracing::warn!(%error, "what was trimmed is not known: asked again");
    sleep(ASK_EVERY).await;
}
