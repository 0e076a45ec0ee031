//! The pure machine of a subscription: what the broker delivers goes in, items come out. No clock, no socket, no file.
//!
//! ```text
//!   Reply::Start ─► roster ─► contexts ─► the log: roster · header · batch … ─► AtHead ─► beacons, and more of the log
//!                   roster.rs context.rs           roster.rs header.rs batch.rs            liveness.rs
//! ```
//! Each record is judged by the roster entries before it in the stream, verified, opened, and only then changes
//! anything. What it changed goes to the [ledger](crate::ledger), which knows how far the application is.
//!
//! Architecture Invariant: nothing here trusts an offset, an order or a silence. They decide when to ask again, never
//! what is true.

mod batch;
mod context;
mod epoch;
mod header;
mod liveness;
mod out;
mod publisher;
mod roster;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sealcast_envelope::{PrekeyRing, WrapSecret};
use sealcast_proto::frame::{self, EpochDelivery, Reply};
use sealcast_proto::limits::MAX_ROLES;
use sealcast_proto::object::{Genesis, Object, RosterEntry, RosterHead};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::record::VerifiedBatch;
use sealcast_proto::roster::RosterChain;
use sealcast_proto::{BatchNo, Epoch, Hash, Offset, PublicKey, RosterSeq, Signed, SlotSource, TopicId};

use self::epoch::{Keyring, Keys};
use self::out::RecordItems;
use self::publisher::Publisher;
use crate::cursor::{Cursor, Marks, Partial};
use crate::event::{Event, GapReason, Item};
use crate::ledger::Ledger;

/// Publishers followed at once, a count: all that may publish, and as many that no longer do.
const MAX_PUBLISHERS: usize = 2 * MAX_ROLES;
/// Faults of the broker in a row after which the subscription ends, a count.
const MAX_FAULTS: u32 = 5;

/// What comes in.
#[expect(clippy::large_enum_variant, reason = "an input is moved once and kept nowhere")]
pub enum Input {
    /// A frame of the delivery stream.
    Reply(Reply),
    /// What came from the broker is no frame.
    Garbage(String),
    /// The broker finished the delivery stream; nothing is lost.
    Finished,
    /// The delivery stream is gone; another will begin with `Start`.
    Lost,
    /// The answer to [`Need::Epochs`]; empty where there was none.
    Epochs(Vec<EpochDelivery>),
    /// Our prekeys: the answer to [`Need::Prekeys`], and whenever they changed. What came from one that is not among
    /// them any more goes too.
    Prekeys(PrekeyRing),
    /// The broker acknowledged our prekey.
    PrekeyStored(u32),
    /// Nothing is read from the stream for now, because the application is slow: no silence counts.
    Paused,
    /// Reading goes on.
    Resumed,
    /// Time passes, and everything that had arrived was put in.
    Tick,
}

/// What the machine waits for; until it came, no further frame may go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A publisher's epochs up to this one ([`frame::Request::FetchEpochs`]).
    Epochs(PublicKey, Epoch),
    /// Our prekeys as they are now.
    Prekeys,
}

/// What comes out.
#[derive(Default)]
pub struct Effects {
    /// For the application, in order.
    pub items: Vec<Item>,
    /// See [`Need`].
    pub need: Option<Need>,
    /// The broker's stream makes no sense (why): begin another.
    pub resubscribe: Option<String>,
    /// When the broker wants to be asked again, milliseconds from now.
    pub retry_after_ms: u64,
    /// Nothing follows the items.
    pub end: bool,
}

/// What was dropped without a word, because it changes nothing. Counts since the subscription began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Messages and records that came again.
    pub repeated: u64,
    /// Records whose signature does not hold, or that are no records.
    pub invalid: u64,
    /// Batches of epochs that were never accepted.
    pub unknown: u64,
    /// Properly signed records that broke a rule; the first of each epoch is an [`Event::Refused`].
    pub refused: u64,
}

/// A publisher's newest hashes: two members that compare theirs know whether the broker shows both the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherHead {
    /// Who.
    pub publisher: PublicKey,
    /// Its newest epoch.
    pub epoch: Epoch,
    /// That epoch's header.
    pub header_hash: Hash,
    /// How many batches of it were seen.
    pub batches: BatchNo,
    /// The last of them; the header's hash if there was none, `None` if it was never seen.
    pub last_hash: Option<Hash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No stream, or one whose `Start` did not come yet.
    Offline,
    /// Roster entries and contexts before the start.
    Beginning,
    /// Records up to the head.
    CatchingUp,
    /// Everything stored was delivered; silence counts.
    AtHead,
}

/// Whether an entry removed us that was not the newest one when the stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    No,
    /// It was the last thing that came.
    JustNow,
    /// And something came after it.
    Earlier,
}

/// A batch that waits for its epoch to be opened.
struct Held {
    offset: Offset,
    publisher: PublicKey,
    batch: VerifiedBatch,
    need: Need,
}

/// See the module's page.
pub struct Inbox {
    keyring: Keyring,
    ledger: Ledger,
    /// Where to begin when there is no position yet.
    from: frame::From,
    until_head: bool,
    phase: Phase,
    genesis: Option<Genesis>,
    chain: Option<Arc<RosterChain>>,
    /// No entry was followed yet: the first one may be any that the owner vouches for.
    chain_is_new: bool,
    /// A head that the owner signed, to begin the chain at.
    first_head: Option<Signed<RosterHead>>,
    /// The newest entries, as evidence.
    entries: VecDeque<Signed<RosterEntry>>,
    marks: Marks,
    /// The newest admin's word on the roster, milliseconds since 1970.
    head_time_ms: u64,
    roster_stale: bool,
    publishers: BTreeMap<PublicKey, Publisher>,
    /// The record that goes in next.
    next_offset: Option<Offset>,
    start_offset: Offset,
    /// Where the present stream began, and the roster's head then.
    stream_start: Offset,
    stream_roster: RosterSeq,
    /// Why we did not get what a context shows of a publisher that we do not know; `None`: we did not ask for it.
    context_gap: Option<GapReason>,
    /// An entry of long ago removed us. We are a member again, or nothing follows.
    removed: Removal,
    /// The stream began before where it was asked to: records come again.
    rewound: bool,
    partial: Option<Partial>,
    held: Option<Held>,
    /// The epoch whose batches were refused last, so that it is said once.
    refused_epoch: Option<(PublicKey, Epoch)>,
    foreign_prekey: Option<u32>,
    counters: Counters,
    faults: u32,
    /// When something new was accepted last.
    progress_ms: u64,
    paused_ms: Option<u64>,
    ended: bool,
}

impl Inbox {
    /// A machine that goes on at `cursor`, or, where that has no position, begins at `from`.
    pub fn new(
        me: PublicKey,
        identity: WrapSecret,
        prekeys: PrekeyRing,
        cursor: Cursor,
        from: frame::From,
        until_head: bool,
    ) -> Self {
        let mut ledger = Ledger::new(cursor);
        ledger.erase(&|id| prekeys.secret(id).is_some());
        let cursor = ledger.cursor().clone();
        let restored =
            cursor.publishers.iter().filter_map(|(key, saved)| Some((*key, Publisher::restore(saved)?)));
        Self {
            publishers: restored.collect(),
            keyring: Keyring { me, topic: cursor.topic, identity, prekeys },
            from,
            until_head,
            phase: Phase::Offline,
            genesis: None,
            chain: cursor.chain.clone(),
            chain_is_new: cursor.chain.is_none(),
            first_head: None,
            entries: VecDeque::new(),
            marks: cursor.marks,
            head_time_ms: 0,
            roster_stale: false,
            next_offset: cursor.next_offset,
            start_offset: cursor.next_offset.unwrap_or_default(),
            stream_start: Offset::default(),
            stream_roster: RosterSeq::default(),
            context_gap: None,
            removed: Removal::No,
            rewound: false,
            partial: cursor.partial,
            held: None,
            refused_epoch: None,
            foreign_prekey: None,
            counters: Counters::default(),
            faults: 0,
            progress_ms: 0,
            paused_ms: None,
            ended: false,
            ledger,
        }
    }

    /// Takes one input; what follows from it is appended to `fx`.
    pub fn handle(&mut self, input: Input, now_ms: u64, fx: &mut Effects) {
        if self.ended {
            fx.end = true;
            return;
        }
        match input {
            Input::Reply(reply) => self.on_reply(reply, now_ms, fx),
            Input::Garbage(what) => self.fault(what, fx),
            Input::Finished if self.removed == Removal::JustNow => self.terminal(Event::Removed, fx),
            Input::Finished if self.phase != Phase::AtHead => {
                self.on_lost();
                self.fault("it ends the subscription before all was delivered".into(), fx);
            }
            Input::Finished | Input::Lost => self.on_lost(),
            Input::Epochs(epochs) => self.on_epochs(&epochs, now_ms, fx),
            Input::Prekeys(prekeys) => {
                self.keyring.prekeys = prekeys;
                self.erase();
                self.on_prekeys(now_ms, fx);
            }
            Input::PrekeyStored(id) => self.ledger.acknowledged(id, now_ms),
            Input::Paused => self.paused_ms = self.paused_ms.or(Some(now_ms)),
            Input::Resumed => self.on_resumed(now_ms),
            Input::Tick => self.on_tick(now_ms, fx),
        }
        fx.end |= self.ended;
    }

    /// The subscription to ask the broker for.
    pub fn subscribe(&self) -> frame::Subscribe {
        frame::Subscribe {
            topic: self.keyring.topic,
            from: self.next_offset.map_or(self.from, frame::From::Offset),
            roster_seq: if self.chain_is_new { None } else { self.chain.as_ref().map(|chain| chain.seq()) },
            until_head: self.until_head,
        }
    }

    /// What was handed out and taken.
    pub fn ledger(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// The policy in force, once the roster is known.
    pub fn policy(&self) -> Option<&Policy> {
        let known = matches!(self.phase, Phase::CatchingUp | Phase::AtHead);
        self.chain.as_ref().filter(|_| known).map(|chain| chain.policy())
    }

    /// Which topic.
    pub fn topic(&self) -> TopicId {
        self.keyring.topic
    }

    /// Where delivery began.
    pub fn start_offset(&self) -> Offset {
        self.start_offset
    }

    /// Whether a stream stands and everything stored was delivered.
    pub fn is_at_head(&self) -> bool {
        self.phase == Phase::AtHead
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn heads(&self) -> Vec<PublisherHead> {
        let head = |(publisher, held): (&PublicKey, &Publisher)| PublisherHead {
            publisher: *publisher,
            epoch: held.header.epoch,
            header_hash: held.track.header_hash,
            batches: held.track.next_batch_no,
            last_hash: held.track.last_hash,
        };
        self.publishers.iter().map(head).collect()
    }

    /// The newest own prekey that the broker acknowledged.
    pub fn acknowledged_prekey(&self) -> Option<u32> {
        self.ledger.cursor().acknowledged.last().map(|(id, _)| *id)
    }

    fn on_reply(&mut self, reply: Reply, now_ms: u64, fx: &mut Effects) {
        if self.phase == Phase::Offline && !matches!(reply, Reply::Start(_) | Reply::Refused(_)) {
            return self.fault("it delivers before it says where it starts".into(), fx);
        }
        if self.removed == Removal::JustNow {
            self.removed = Removal::Earlier;
        }
        match reply {
            Reply::Start(start) => self.on_start(&start, now_ms, fx),
            Reply::Roster(delivery) => self.on_roster(&delivery, now_ms, fx),
            Reply::Head(head) => self.on_head(head),
            Reply::Context(context) => {
                self.begun();
                self.on_context(&context, now_ms, fx);
            }
            Reply::Epoch(delivery) => {
                self.begun();
                self.context_gap = None;
                self.on_epoch(&delivery, now_ms, fx);
            }
            Reply::Record(offset, bytes) => {
                self.begun();
                self.context_gap = None;
                self.on_record(offset, bytes, now_ms, fx);
            }
            Reply::Beacon(publisher, beacon) => self.on_beacon(&publisher, &beacon, now_ms, fx),
            Reply::Hole(_, to, why) => self.on_hole(to, why),
            Reply::AtHead { next_offset, end_of_stream } => {
                self.begun();
                self.on_head_reached(next_offset, end_of_stream, fx);
            }
            Reply::Prekey(prekey) => {
                if let Ok(prekey) = prekey.verify(&self.keyring.me) {
                    self.met_prekey(prekey.prekey_id, fx);
                }
            }
            Reply::Refused(refusal) => match refusal.code {
                frame::Code::NotAllowed => self.terminal(Event::NotAllowed { detail: refusal.detail }, fx),
                _ => {
                    fx.retry_after_ms = refusal.retry_after_ms;
                    fx.resubscribe = Some(refusal.to_string());
                }
            },
            Reply::Hello(_) | Reply::Done(_) | Reply::Topic(_) | Reply::Ack(_) => {
                self.fault("it answers what was not asked".into(), fx);
            }
        }
    }

    /// Records up to `offset` went in.
    fn passed(&mut self, offset: Offset) {
        let next = offset.next().unwrap_or(offset);
        self.next_offset = self.next_offset.max(Some(next));
        if next > self.marks.next_offset {
            self.marks.next_offset = next;
            self.ledger.set_marks(self.marks);
        }
    }

    /// The roster as far as it was verified, for ever.
    fn mark_roster(&mut self) {
        let Some(chain) = &self.chain else { return };
        self.marks.durable = chain.policy().durability == Durability::Durable;
        if chain.seq() >= self.marks.roster_seq {
            self.marks.roster_seq = chain.seq();
            self.marks.roster_hash = chain.hash();
        }
        self.ledger.set_marks(self.marks);
    }

    /// The broker does what it must not, and another stream may be better.
    fn fault(&mut self, what: String, fx: &mut Effects) {
        self.faults += 1;
        if self.faults >= MAX_FAULTS {
            return self.terminal(Event::Broker { what }, fx);
        }
        fx.resubscribe = Some(what);
    }

    /// A prekey of ours was met; we may not have made it.
    fn met_prekey(&mut self, id: u32, fx: &mut Effects) {
        if self.keyring.is_foreign(id) && self.foreign_prekey.is_none_or(|known| known < id) {
            self.foreign_prekey = Some(id);
            self.tell_all(Event::IdentityInUse, fx);
        }
    }

    /// Forgets every key that came from a prekey whose time was over.
    fn erase(&mut self) {
        let held = |id: u32| self.keyring.prekeys.secret(id).is_some();
        for publisher in self.publishers.values_mut() {
            if let Keys::Open(receiver) = &publisher.keys
                && let SlotSource::Prekey(id) = receiver.source()
                && !held(id)
            {
                publisher.keys = Keys::Locked;
            }
        }
        self.ledger.erase(&held);
    }

    /// The shell cannot go on.
    pub fn fail(&mut self, event: Event, fx: &mut Effects) {
        if !self.ended {
            self.terminal(event, fx);
        }
    }
}

/// A copy that keeps no frame's buffer alive.
fn detached<T: Object>(signed: &Signed<T>) -> Signed<T> {
    Signed::from_parts(Bytes::copy_from_slice(signed.body()), signed.signature())
        .unwrap_or_else(|_| signed.clone())
}
