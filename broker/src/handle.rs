//! A topic as sessions see it: its inbox, its head, its ring, and what it broadcasts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Ack, Code, Context, Level, Refusal};
use sealcast_proto::object::{Beacon, EpochHeader, Genesis, Prekey, RosterHead};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::EntryBundle;
use sealcast_proto::{Epoch, Hash, MemberIndex, Offset, PublicKey, RosterSeq, Signed, TopicId};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::casts::Casts;
use crate::edge::trim::Trims;
use crate::limits;
use crate::load;
use crate::ops::report::{Feeding, Follower, Insight};
use crate::order::By;
use crate::present::Present;
use crate::retention::Keep;
use crate::ring::Ring;
use crate::roster_index::{Opening, RosterIndex};
use crate::shared::Shared;
use crate::store::{Budget, TableId};
use crate::topic::{HeaderItem, RosterItem, SessionId, Standing, Table, Trim};

/// What a topic is from its first moment on.
#[derive(Debug, Clone)]
pub struct Origin {
    pub id: TopicId,
    pub genesis: Genesis,
    pub signed: Signed<Genesis>,
}

/// What sessions ask of a topic's actor.
pub(crate) enum Message {
    /// A record; answered on the session's channel.
    Publish { session: SessionId, identity: PublicKey, offered: Offered, budget: Budget },
    /// A roster entry; answered once it is durable.
    Roster { bundle: EntryBundle, budget: Budget, answer: oneshot::Sender<Result<Offset, Refusal>> },
    /// A re-asserted head.
    Head { identity: PublicKey, head: Signed<RosterHead>, answer: oneshot::Sender<Result<(), Refusal>> },
    /// Somebody's newest prekey, stored; watches are told if it is a member here.
    Prekey { prekey: Signed<Prekey> },
    /// A sign of life to relay.
    Beacon { identity: PublicKey, beacon: Signed<Beacon> },
    /// A slot table was uploaded whole and checked.
    Table {
        identity: PublicKey,
        slot_count: u32,
        slots_hash: Hash,
        table: TableId,
        /// Where several brokers share an order: where its parts stand there.
        parts: Vec<u64>,
        took_ms: u64,
    },
    /// A publish stream begins.
    Attach {
        session: SessionId,
        identity: PublicKey,
        answers: mpsc::UnboundedSender<Answer>,
        reply: oneshot::Sender<Option<Attached>>,
    },
    /// A publish stream ended.
    Detach { session: SessionId },
    /// What is this identity here?
    Open { identity: PublicKey, reply: oneshot::Sender<Option<Opened>> },
    /// Members after this index, some at a time.
    Members { after: Option<MemberIndex>, reply: oneshot::Sender<Vec<(MemberIndex, PublicKey)>> },
    /// What is to be seen of it from outside?
    Insight { reply: oneshot::Sender<Insight> },
    /// Was this very entry accepted before?
    KnownEntry { bundle: EntryBundle, reply: oneshot::Sender<Option<Offset>> },
    /// What stands here in the order that several brokers share.
    ReadBack(ReadBack),
    /// What was trimmed from that order before this edge read it.
    Missed { trim: Arc<Trim>, budget: Budget },
    /// A sign of life that an edge told of.
    Sign(Sign),
    /// Answered once everything sent before was submitted to the log.
    Barrier { reply: oneshot::Sender<()> },
}

/// A proposal that was read back.
pub(crate) struct ReadBack {
    pub(crate) at: u64,
    pub(crate) stored_ms: u64,
    pub(crate) by: By,
    pub(crate) author: PublicKey,
    pub(crate) what: Read,
    pub(crate) budget: Budget,
}

/// What was proposed.
pub(crate) enum Read {
    Batch { claim: Box<BatchClaim>, record: Bytes },
    Header { header: Signed<EpochHeader>, table: Table },
    Roster(EntryBundle),
    Head(Signed<RosterHead>),
}

/// A record on its way into a topic.
pub(crate) enum Offered {
    Header(Signed<EpochHeader>),
    Batch { claim: Box<BatchClaim>, record: Bytes },
}

/// What a publish stream is told.
#[derive(Debug)]
pub(crate) enum Answer {
    Ack(Ack),
    Refused(Refusal),
    Superseded,
}

/// A publish stream's beginning.
pub(crate) struct Attached {
    /// The publisher's newest epoch, its header's hash, and the key that signs its batches.
    pub(crate) newest: Option<(Epoch, Hash, PublicKey)>,
}

/// A member's, or former member's, entrance.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) standing: Standing,
    pub(crate) level: Level,
    /// The end of what was accepted, stored or about to be.
    pub(crate) end: Offset,
}

/// What watches are told, in order.
#[derive(Debug, Clone)]
pub(crate) enum WatchEvent {
    Roster(Arc<RosterItem>),
    Epoch(Offset, Arc<HeaderItem>),
    End(Offset, Box<Context>),
    Head(Arc<Signed<RosterHead>>),
    Prekey(Arc<Signed<Prekey>>),
    /// The log may hold what was not told.
    Again,
}

/// A publisher's sign of life on its way to readers.
#[derive(Debug, Clone)]
pub(crate) struct Sign {
    pub(crate) publisher: PublicKey,
    pub(crate) beacon: Signed<Beacon>,
    /// It may speak of anything that stands below: told before that, it would look as if that were withheld.
    pub(crate) after: Offset,
}

impl Sign {
    /// As edges tell each other: `publisher 32 ‖ after 8 ‖ the beacon as the store keeps it`.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(self.publisher.as_bytes());
        out.put_u64(self.after.0);
        out.put_slice(&load::keep(&self.beacon));
        out.freeze()
    }

    /// Reads [`Sign::encode`]'s bytes.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let (publisher, rest) = bytes.split_first_chunk::<32>()?;
        let (after, rest) = rest.split_first_chunk::<8>()?;
        let beacon = load::kept(&bytes.slice_ref(rest)).ok()?;
        let after = Offset(u64::from_be_bytes(*after));
        Some(Self { publisher: PublicKey::from_bytes(publisher).ok()?, beacon, after })
    }
}

/// See the module.
pub(crate) struct Topic {
    origin: Origin,
    inbox: mpsc::Sender<Message>,
    ring: Ring,
    index: RwLock<RosterIndex>,
    visible: watch::Receiver<Offset>,
    stored: watch::Receiver<Offset>,
    /// The roster head put last.
    roster_head: watch::Sender<Option<Signed<RosterHead>>>,
    keep: RwLock<Keep>,
    events: Casts<WatchEvent>,
    beacons: Casts<Sign>,
    /// Where several brokers share an order: what it says is gone.
    pub(crate) trims: Trims,
    /// Subscriptions.
    pub(crate) followers: Present<Follower>,
    /// Publish streams.
    pub(crate) feeds: Present<Feeding>,
    taken: AtomicU64,
    taken_bytes: AtomicU64,
    delivered: AtomicU64,
}

impl Topic {
    pub(crate) fn new(
        origin: Origin,
        index: RosterIndex,
        roster_head: Option<Signed<RosterHead>>,
        keep: Keep,
        inbox: mpsc::Sender<Message>,
        [visible, stored]: [watch::Receiver<Offset>; 2],
        ring_bytes: usize,
    ) -> Self {
        let ring = Ring::new(*visible.borrow(), ring_bytes);
        Self {
            origin,
            inbox,
            ring,
            index: RwLock::new(index),
            visible,
            stored,
            roster_head: watch::Sender::new(roster_head),
            keep: RwLock::new(keep),
            events: Casts::new(limits::WATCH_EVENTS),
            beacons: Casts::new(limits::BEACONS),
            trims: Trims::default(),
            followers: Present::default(),
            feeds: Present::default(),
            taken: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        }
    }

    pub(crate) fn id(&self) -> TopicId {
        self.origin.id
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The head: everything below may be delivered.
    pub(crate) fn visible(&self) -> watch::Receiver<Offset> {
        self.visible.clone()
    }

    /// The head, as of now.
    pub(crate) fn head(&self) -> Offset {
        *self.visible.borrow()
    }

    /// Waits until everything below `offset` stands in the log, or some time: for ever, if the store has failed, and then
    /// what it holds is all there is.
    pub(crate) async fn stored_up_to(&self, offset: Offset, most: Duration) {
        let mut stored = self.stored.clone();
        // An error means that the time ran out, or that the actor is gone.
        let _ = timeout(most, stored.wait_for(|stored| *stored >= offset)).await;
    }

    /// Waits until everything below `offset` may be delivered, or some time: what was read back from a cluster is accepted
    /// a moment before.
    pub(crate) async fn visible_up_to(&self, offset: Offset, shared: &Shared) {
        if shared.storage.order.is_some() {
            let mut visible = self.visible.clone();
            // An error means that the time ran out, or that the actor is gone.
            let _ = timeout(shared.limits().next_frame, visible.wait_for(|visible| *visible >= offset)).await;
        }
    }

    /// Hands the actor something, waiting where it has much to do.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Refusal> {
        self.inbox.send(message).await.map_err(|_| gone())
    }

    /// As [`Topic::send`], for what may be lost.
    pub(crate) fn offer(&self, message: Message) {
        // Full: the actor has better things to do than this.
        let _ = self.inbox.try_send(message);
    }

    /// Asks the actor something.
    pub(crate) async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(question(reply)).await?;
        answer.await.map_err(|_| gone())
    }

    pub(crate) async fn open(&self, identity: PublicKey) -> Result<Option<Opened>, Refusal> {
        self.ask(|reply| Message::Open { identity, reply }).await
    }

    pub(crate) fn events(&self) -> broadcast::Receiver<WatchEvent> {
        self.events.listen()
    }

    pub(crate) fn beacons(&self) -> broadcast::Receiver<Sign> {
        self.beacons.listen()
    }

    pub(crate) fn has_listeners(&self) -> bool {
        self.beacons.has_listeners()
    }

    pub(crate) fn has_watches(&self) -> bool {
        self.events.has_listeners()
    }

    pub(crate) fn tell(&self, event: WatchEvent) {
        self.events.tell(event);
    }

    pub(crate) fn relay(&self, sign: Sign) {
        self.beacons.tell(sign);
    }

    pub(crate) fn index_entry(&self, item: &RosterItem) {
        let by_owner = item.entry.peek().is_ok_and(|entry| entry.signer == self.origin.genesis.owner);
        self.index.write().unwrap_or_else(PoisonError::into_inner).push(item, by_owner);
        if let Some(Ok(policy)) = item.policy.as_deref().map(Policy::decode) {
            self.keeps(Keep::of(&policy));
        }
    }

    pub(crate) fn replace_index(&self, index: RosterIndex, keep: Keep) {
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = index;
        self.keeps(keep);
    }

    /// So many more records, of so many bytes, may be delivered.
    pub(crate) fn take(&self, records: u64, bytes: u64) {
        self.taken.fetch_add(records, Ordering::Relaxed);
        self.taken_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records taken since the broker started, and their bytes.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.taken.load(Ordering::Relaxed), self.taken_bytes.load(Ordering::Relaxed))
    }

    /// A subscription stands at `position` now; so many bytes more went to it.
    pub(crate) fn went(&self, follower: &Follower, position: Offset, bytes: usize) {
        follower.went(position, bytes);
        self.delivered.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes delivered since the broker started.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    fn keeps(&self, keep: Keep) {
        *self.keep.write().unwrap_or_else(PoisonError::into_inner) = keep;
    }

    /// How much is kept.
    pub(crate) fn keep(&self) -> Keep {
        *self.keep.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// An admin re-asserted the roster's head, and that is stored.
    pub(crate) fn put_head(&self, head: Signed<RosterHead>) {
        self.roster_head.send_replace(Some(head.clone()));
        self.tell(WatchEvent::Head(Arc::new(head)));
    }

    /// The roster head put last, as of now.
    pub(crate) fn newest_head(&self) -> watch::Ref<'_, Option<Signed<RosterHead>>> {
        self.roster_head.borrow()
    }

    /// The roster head put last.
    pub(crate) fn signed_head(&self) -> watch::Receiver<Option<Signed<RosterHead>>> {
        self.roster_head.subscribe()
    }

    /// The newest readable roster entry.
    pub(crate) fn roster_head(&self) -> RosterSeq {
        self.index.read().unwrap_or_else(PoisonError::into_inner).head()
    }

    /// The newest roster entry before `before`.
    pub(crate) fn roster_before(&self, before: Offset) -> RosterSeq {
        self.index.read().unwrap_or_else(PoisonError::into_inner).before(before)
    }

    /// See [`RosterIndex::opening`]; with the head that its first entry is taken on, if it is.
    pub(crate) fn opening(
        &self,
        start: Offset,
        held: Option<RosterSeq>,
    ) -> (Opening, Option<Signed<RosterHead>>) {
        let head = self.newest_head().clone();
        let owner = self.origin.genesis.owner;
        let named = head.as_ref().and_then(|head| head.peek().ok()).filter(|head| head.signer == owner);
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let opening = index.opening(start, held, named.map(|head| head.seq));
        (opening, head.filter(|_| opening.by_head))
    }
}

fn gone() -> Refusal {
    Refusal {
        retry_after_ms: limits::READ_ONLY_RETRY_MS,
        ..Refusal::new(Code::Draining, "the broker is going away")
    }
}
