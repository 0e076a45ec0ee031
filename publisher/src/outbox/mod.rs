//! What is to be sealed, what is in flight, what was acknowledged: the publisher as a pure machine.
//!
//! ```text
//!            Send                    Writable: one seal, one signature
//! app ──────────────► queue ──────────────────────────────────────────► flight ── Acked ──► Resolve
//!                       ▲                                                  │
//!                       └────────────── Refused: sealed anew ◄─────────────┘
//!
//! rotation:  wanted → BuildEpoch → EpochBuilt → UploadTable → TableStored → Save → header in flight → Acked → sealing under it
//! ```
//!
//! * What is in flight is kept as bytes and sent again verbatim after a reconnect; nothing is sealed or signed twice
//!   under one number.
//! * From a verified removal on nothing more is sealed under the old epoch (the fence).
//! * A message keeps its number when it is sealed anew.
//!
//! [`Outbox::handle`] takes inputs and gives effects; the driver does the rest. There is no clock, socket or file here.

mod flight;
mod resume;
mod rotation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sealcast_envelope::{
    AdvanceFrom, EpochError, EpochPlan, EpochSender, Keks, NewEpoch, WrapTarget, advance, fresh, rewrap,
};
use sealcast_proto::frame::{Ack, Context, Level, Refusal, Request};
use sealcast_proto::object::{Genesis, Prekey, RosterEntry, RosterHead};
use sealcast_proto::roster::{Role, Roster, RosterError};
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, Offset, PublicKey, RosterSeq, Seq, Signed, TopicId, limits,
};

use crate::directory::PrekeyDirectory;
use crate::error::PublishError;
use crate::fork::{Entries, Remembered};
use crate::marks::{Marks, Position};
use crate::standstill::Standstill;
use flight::Flight;
use rotation::Next;

/// Batches in flight, a count: enough to cover a slow acknowledgement, few enough to seal large batches under load.
const MAX_FLIGHT: usize = 64;
/// Plaintext in flight, bytes: kept until acknowledged, so that it can be sealed anew.
const MAX_FLIGHT_BYTES: usize = 16 << 20;
/// Membership additions within this long share an epoch, milliseconds (docs/protocol.md section 6).
const COALESCE_MS: u64 = 50;
/// How far saved marks may be behind what was acknowledged, milliseconds.
const SAVE_EVERY_MS: u64 = 500;
/// Contradictions of the broker in a row after which it is given up, a count.
const MAX_FAULTS: u32 = 4;
/// Epochs in a row that came to nothing, after which the broker is given up, a count.
const MAX_ATTEMPTS: u32 = 16;
/// Prekeys kept for identities that may become members, a count: as many as join between two looks at a roster.
const MAX_EARLY_PREKEYS: usize = 1024;
/// The shortest wait before what was refused is tried again, milliseconds.
const RETRY_MS: u64 = 200;
/// The longest wait that a broker may ask for, milliseconds.
const MAX_RETRY_MS: u64 = 60_000;
/// How long a removal that a refusal named may take to be shown, milliseconds: an fsync, and a busy disk's at that.
const FENCE_PATIENCE_MS: u64 = 5_000;

/// What happens to the outbox.
pub enum Input {
    /// The application publishes an encoded message; `token` names it in [`Effect::Resolve`].
    Send { token: u64, message: Bytes },
    /// The application is done: seal an END.
    Close,
    /// A connection stands, the roster is at its head, and this is what the broker holds of this publisher.
    Connected { own: Option<Box<Context>>, roster_seq: RosterSeq },
    /// The connection is gone.
    Lost,
    /// A roster entry and its operations.
    Roster { entry: Signed<RosterEntry>, ops: Bytes },
    /// An admin's word that the roster is current.
    Head(Signed<RosterHead>),
    /// A member's prekey.
    Prekey(Signed<Prekey>),
    /// A record was stored.
    Acked(Ack),
    /// A record was refused.
    Refused(Refusal),
    /// What [`Effect::BuildEpoch`] asked for.
    EpochBuilt(Box<NewEpoch>),
    /// It could not be built.
    EpochFailed(String),
    /// Marks were saved that know of this header ([`Marks::coming`]).
    Saved(Epoch),
    /// The slot table is at the broker.
    TableStored,
    /// The slot table was refused.
    TableRefused(Refusal),
    /// The stream takes another frame.
    Writable,
    /// Time passed.
    Tick,
}

/// What the outbox wants done.
pub enum Effect {
    /// Make an epoch's secret and wrap it; then [`Input::EpochBuilt`].
    BuildEpoch(EpochWork),
    /// Upload a slot table; then [`Input::TableStored`].
    UploadTable { table: Bytes, slot_count: u32, slots_hash: Hash },
    /// Write a frame; answers one [`Input::Writable`].
    Write(Bytes),
    /// A message was acknowledged.
    Resolve { token: u64, receipt: Receipt },
    /// Save the marks; then [`Input::Saved`], if they name a header.
    Save(Marks),
    /// Drop the connection and connect again after this long.
    Reconnect { after_ms: u64 },
    /// The END was acknowledged, or there was nothing to end.
    Closed,
    /// Nothing can be published any more.
    Fail(PublishError),
}

/// An epoch to be made, with everything that takes: it may be made on any thread, while messages are sealed under the
/// epoch before.
pub struct EpochWork {
    pub plan: EpochPlan,
    start: Start,
    pub targets: Vec<WrapTarget>,
}

/// What the epoch begins from.
enum Start {
    Fresh,
    Advance(AdvanceFrom),
    Rewrap(Arc<Keks>),
}

impl EpochWork {
    /// Makes it: the whole cost of a rotation.
    pub fn make(self, rng: &mut impl rand::CryptoRng) -> Result<NewEpoch, EpochError> {
        let Self { plan, start, targets } = self;
        match start {
            Start::Fresh => fresh(&plan, &targets, rng),
            Start::Advance(from) => advance(&plan, &from, &targets, rng),
            Start::Rewrap(keks) => rewrap(&plan, &keks, &targets, rng),
        }
    }
}

/// A message was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// Its number at this publisher.
    pub seq: Seq,
    /// The epoch it was sealed under.
    pub epoch: Epoch,
    /// Where the broker stored its batch.
    pub offset: Offset,
    /// How safe it is.
    pub level: Level,
}

/// An encoded message and its name.
pub(crate) struct Queued {
    token: u64,
    message: Bytes,
}

/// The publisher's machine. See the module's documentation.
pub struct Outbox {
    identity: Arc<Identity>,
    topic: TopicId,
    roster: Roster,
    entries: Entries,
    /// The newest of an admin's entries and heads, milliseconds since 1970.
    admin_word_ms: u64,
    directory: PrekeyDirectory,
    /// Prekeys of those who are no members (yet).
    early_prekeys: HashMap<PublicKey, Signed<Prekey>>,

    queue: VecDeque<Queued>,
    /// The number of the queue's first message.
    next_seq: Seq,
    flight: VecDeque<Flight>,
    flight_bytes: usize,
    /// Messages of refused batches, until the flight is empty and they go back to the queue.
    refused: BTreeMap<Seq, Vec<Queued>>,

    /// The epoch messages are sealed under.
    current: Option<EpochSender>,
    /// What a rewrap wraps under. Shared with the thread that does.
    keks: Option<Arc<Keks>>,
    next: Next,
    /// Members without a slot under the current epoch.
    unslotted: BTreeSet<MemberIndex>,
    /// Members that could not be wrapped to when the current epoch was built.
    unreachable: Vec<MemberIndex>,
    /// When an epoch for newcomers may begin, milliseconds since 1970.
    advance_at: Option<u64>,
    want_fresh: bool,
    /// Nothing more is sealed under the current epoch: it was refused, or the fence moved.
    dead: bool,
    /// A header must wait until everything in flight was answered.
    drain: bool,
    /// A `StaleEpoch` refusal named this entry, which has yet to be verified.
    fence_due: RosterSeq,
    fence_named_ms: u64,
    /// When the last epoch that was not an advance began, milliseconds since 1970.
    rekeyed_ms: u64,
    /// When the last fresh one did, milliseconds since 1970.
    fresh_ms: u64,
    /// Epochs since then, a count: who has only the fresh one's slot reads the headers of all.
    since_fresh: usize,
    last_epoch: Epoch,

    /// The last accepted header and what was acknowledged under it.
    accepted: Option<Position>,
    /// Whether `accepted` covers all that was ever sent: only then may a header close the epoch before.
    close_known: bool,
    marks: Marks,
    marks_dirty: bool,
    saved_ms: u64,

    connected: bool,
    /// When the last input was handled: what was due by then was done, or waits for another input.
    handled_ms: u64,
    beacon_now: bool,
    spoke_ms: u64,
    attempts: u32,
    /// Where the newest acknowledged record is: what follows it lies behind it.
    last_offset: Option<Offset>,
    /// Contradictions in a row.
    faults: u32,
    /// What the broker did, or failed to do, since it last acknowledged a batch.
    trouble: Option<Standstill>,
    closing: bool,
    end_in_flight: bool,
    finished: bool,
}

impl Outbox {
    /// A publisher with the marks it saved.
    pub fn new(identity: Arc<Identity>, topic: TopicId, genesis: &Genesis, marks: Marks) -> Self {
        Self {
            identity,
            topic,
            roster: Roster::new(topic, genesis),
            entries: Entries::default(),
            admin_word_ms: 0,
            directory: PrekeyDirectory::new(marks.prekeys.clone()),
            early_prekeys: HashMap::new(),
            queue: VecDeque::new(),
            next_seq: marks.next_seq,
            flight: VecDeque::new(),
            flight_bytes: 0,
            refused: BTreeMap::new(),
            current: None,
            keks: None,
            next: Next::None,
            unslotted: BTreeSet::from([MemberIndex(0)]),
            unreachable: Vec::new(),
            advance_at: None,
            want_fresh: true,
            dead: false,
            drain: false,
            fence_due: RosterSeq(0),
            fence_named_ms: 0,
            rekeyed_ms: 0,
            fresh_ms: 0,
            since_fresh: 0,
            // Also of a header that was refused, or whose answer is not known: it was signed, and the clock may have been
            // set back since.
            last_epoch: [marks.position.map(|position| position.epoch), marks.coming.map(|(epoch, _)| epoch)]
                .into_iter()
                .flatten()
                .max()
                .unwrap_or(Epoch(0)),
            accepted: marks.position,
            close_known: marks.position.is_some(),
            marks,
            marks_dirty: false,
            saved_ms: 0,
            connected: false,
            handled_ms: 0,
            beacon_now: false,
            spoke_ms: 0,
            attempts: 0,
            last_offset: None,
            faults: 0,
            trouble: None,
            closing: false,
            end_in_flight: false,
            finished: false,
        }
    }

    /// The verified roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Members that got no slot in the current epoch: their prekey expired, or their key is not usable.
    pub fn unreachable(&self) -> Vec<PublicKey> {
        self.unreachable
            .iter()
            .filter_map(|index| self.roster.member(*index))
            .map(|member| member.identity)
            .collect()
    }

    /// Changes whenever members, [`Outbox::unreachable`] or [`Outbox::standstill`] may have.
    pub fn standing(&self) -> (RosterSeq, Epoch, Option<Standstill>) {
        let epoch = self.current.as_ref().map_or(Epoch(0), EpochSender::epoch);
        (self.roster.chain().seq(), epoch, self.standstill())
    }

    /// Why nothing gets through, as of the last input.
    pub fn standstill(&self) -> Option<Standstill> {
        let since_ms = self.roster_stale_ms().filter(|at| *at <= self.handled_ms);
        self.trouble.or(since_ms.map(|since_ms| Standstill::RosterStale { since_ms }))
    }

    /// Takes one input, gives effects.
    pub fn handle(&mut self, input: Input, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.finished {
            return;
        }
        self.handled_ms = now_ms;
        let result = match input {
            Input::Send { token, message } => {
                self.queue.push_back(Queued { token, message });
                Ok(())
            }
            Input::Close => {
                self.closing = true;
                Ok(())
            }
            Input::Connected { own, roster_seq } => {
                self.connected(own.map(|own| *own), roster_seq, now_ms).map(|()| self.upload_again(effects))
            }
            Input::Lost => {
                self.early_prekeys.clear();
                self.lost();
                Ok(())
            }
            Input::Roster { entry, ops } => self.roster_entry(&entry, &ops, now_ms),
            Input::Head(head) => {
                if let Ok(head) = self.roster.chain().verify_head(&head) {
                    self.admin_word_ms = self.admin_word_ms.max(head.time_ms);
                }
                Ok(())
            }
            Input::Prekey(prekey) => {
                self.prekey(&prekey, now_ms);
                Ok(())
            }
            Input::Acked(ack) => self.acked(ack, now_ms, effects),
            Input::Refused(refusal) => self.refused(refusal, now_ms, effects),
            Input::EpochBuilt(epoch) => {
                self.epoch_built(*epoch, effects);
                Ok(())
            }
            Input::EpochFailed(why) => Err(PublishError::Seal(why)),
            Input::Saved(epoch) => {
                self.next.marks_saved(epoch);
                Ok(())
            }
            Input::TableStored => {
                self.table_stored();
                Ok(())
            }
            Input::TableRefused(refusal) => self.table_refused(refusal, now_ms, effects),
            Input::Writable => self.writable(now_ms, effects),
            Input::Tick => {
                self.reconnect_if_unanswered(now_ms, effects);
                Ok(())
            }
        };
        if let Err(error) = result.and_then(|()| self.rotate_if_wanted(now_ms, effects)) {
            self.finished = true;
            effects.push(Effect::Save(self.take_marks()));
            effects.push(Effect::Fail(error));
            return;
        }
        self.close_if_done(effects);
        self.save_if_due(now_ms, effects);
    }

    /// Whether there is a frame for a stream that takes one: the driver then says [`Input::Writable`].
    pub fn has_frame(&self, now_ms: u64) -> bool {
        !self.finished
            && self.connected
            && (self.next_unsent().is_some() || self.may_seal(now_ms) || self.beacon_due(now_ms))
    }

    /// When to say [`Input::Tick`] at the latest, milliseconds since 1970.
    pub fn wake_at(&self) -> u64 {
        let policy = self.roster.chain().policy();
        let current = self.current.is_some();
        let times = [
            self.advance_at,
            self.fence_patience_ends(),
            self.answer_due(),
            self.roster_stale_ms(),
            self.marks_dirty.then(|| self.saved_ms.saturating_add(SAVE_EVERY_MS)),
            current.then(|| self.rekeyed_ms.saturating_add(policy.max_epoch_age_ms)),
            current.then(|| self.fresh_ms.saturating_add(policy.max_fresh_age_ms)),
            current.then(|| self.spoke_ms.saturating_add(policy.beacon_ms.into())),
        ];
        // What was due at the last input and not done waits for another one; a tick would find it so again and again.
        times.into_iter().flatten().filter(|at| *at > self.handled_ms).min().unwrap_or(u64::MAX)
    }

    /// One frame: what was sent before and must be sent again, a newly sealed batch, or a beacon.
    fn writable(&mut self, now_ms: u64, effects: &mut Vec<Effect>) -> Result<(), PublishError> {
        if !self.connected {
            return Ok(());
        }
        if std::mem::take(&mut self.beacon_now) {
            // At once on a verified removal: the admin waits for it (docs/protocol.md section 6).
            if let Some(frame) = self.beacon(now_ms) {
                effects.push(Effect::Write(frame));
                return Ok(());
            }
        }
        if let Some(flight) = self.next_unsent().and_then(|at| self.flight.get_mut(at)) {
            flight.sent = true;
            flight.ever_sent = true;
            flight.waits_ms = now_ms;
            effects.push(Effect::Write(flight.frame.clone()));
            self.spoke_ms = now_ms;
        } else if self.may_seal(now_ms) {
            let frame = self.seal(now_ms)?;
            effects.push(Effect::Write(frame));
            self.spoke_ms = now_ms;
        } else if self.beacon_due(now_ms)
            && let Some(frame) = self.beacon(now_ms)
        {
            effects.push(Effect::Write(frame));
            self.spoke_ms = now_ms;
        }
        Ok(())
    }

    fn beacon_due(&self, now_ms: u64) -> bool {
        let interval = u64::from(self.roster.chain().policy().beacon_ms);
        let silent = now_ms.saturating_sub(self.spoke_ms) >= interval;
        self.current.is_some() && !self.end_in_flight && (self.beacon_now || silent)
    }

    fn beacon(&self, now_ms: u64) -> Option<Bytes> {
        let current = self.current.as_ref()?;
        let chain = self.roster.chain();
        // Under an epoch that is over, only what was settled counts: batches that the fence refused come again under the
        // next one, and members that waited for them here would report a gap.
        let settled = self.accepted.filter(|position| self.dead && position.epoch == current.epoch());
        let beacon = match settled {
            Some(at) => {
                let next = BatchNo(at.batches);
                current.beacon_at(next, at.last_hash, chain.seq(), chain.hash(), now_ms)
            }
            None => current.beacon(chain.seq(), chain.hash(), now_ms),
        };
        Some(Request::Beacon(beacon).encode())
    }

    fn roster_entry(
        &mut self,
        entry: &Signed<RosterEntry>,
        ops: &Bytes,
        now_ms: u64,
    ) -> Result<(), PublishError> {
        let change = match self.roster.apply(entry, ops) {
            Ok(change) => change,
            Err(RosterError::Known(_)) => return Ok(()),
            Err(RosterError::Fork(seq)) => {
                return Err(PublishError::Fork(self.entries.fork(seq, entry, self.marks.roster.as_ref())));
            }
            Err(error) => return Err(error.into()),
        };
        let me = self.identity.public();
        // On the way to the head it is history: whoever was removed may have been added again.
        if self.connected && change.removed.iter().any(|(_, gone)| *gone == me) {
            return Err(PublishError::Removed(me));
        }
        let (seq, hash) = (change.entry.seq, entry.hash());
        match &self.marks.roster {
            Some(marked) if marked.seq == seq && marked.hash != hash => {
                return Err(PublishError::Fork(marked.fork(entry)));
            }
            Some(marked) if marked.seq >= seq => {}
            _ => {
                self.marks.roster = Some(Remembered::new(seq, entry));
                self.marks_dirty = true;
            }
        }
        self.entries.keep(entry);
        self.admin_word_ms = self.admin_word_ms.max(change.entry.time_ms);
        for (index, _) in &change.removed {
            self.unslotted.remove(index);
            // A thread that wraps under them works for nothing: what it makes is dropped.
            if let Some(keks) = self.keks.as_mut().and_then(Arc::get_mut) {
                keks.forget(*index);
            }
        }
        for (index, added, _) in &change.added {
            self.unslotted.insert(*index);
            if let Some(prekey) = self.early_prekeys.remove(added) {
                self.directory.offer(&prekey, now_ms);
            }
            self.advance_at.get_or_insert(now_ms.saturating_add(COALESCE_MS));
        }
        self.want_fresh |= change.rotate;
        if change.fence && (self.current.is_some() || self.next.is_some()) {
            self.fence();
        }
        if self.connected && !self.roster.chain().may_publish(&me) {
            return Err(PublishError::NotAllowed(me));
        }
        Ok(())
    }

    fn prekey(&mut self, prekey: &Signed<Prekey>, now_ms: u64) {
        let Ok(owner) = prekey.peek().map(|prekey| prekey.owner) else { return };
        let Some((index, _)) = self.roster.find(&owner) else {
            // Anybody can sign prekeys with keys it made up. But one may come before the entry that adds its owner.
            if self.early_prekeys.len() < MAX_EARLY_PREKEYS && prekey.verify_own().is_ok() {
                self.early_prekeys.insert(owner, prekey.clone());
            }
            return;
        };
        if !self.directory.offer(prekey, now_ms) {
            return;
        }
        self.marks_dirty = true;
        // Also when the epoch under way could not include it: the next one follows at once.
        let left_out =
            self.next.could_not_reach(index) || self.current.is_some() && self.unslotted.contains(&index);
        if left_out {
            self.advance_at.get_or_insert(now_ms.saturating_add(COALESCE_MS));
        }
    }

    fn close_if_done(&mut self, effects: &mut Vec<Effect>) {
        let idle = self.queue.is_empty() && self.flight.is_empty() && self.refused.is_empty();
        let nothing_to_end = self.current.is_none() && !self.next.is_some();
        if self.closing && idle && (nothing_to_end || self.end_acknowledged()) {
            self.finished = true;
            effects.push(Effect::Save(self.take_marks()));
            effects.push(Effect::Closed);
        }
    }

    fn end_acknowledged(&self) -> bool {
        // The flight is empty: an END that was sealed and not refused was acknowledged.
        self.end_in_flight
    }

    fn save_if_due(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if !self.finished && self.marks_dirty && now_ms.saturating_sub(self.saved_ms) >= SAVE_EVERY_MS {
            self.saved_ms = now_ms;
            effects.push(Effect::Save(self.take_marks()));
        }
    }

    /// What is yet to be saved, when nothing else will come.
    pub fn unsaved_marks(&mut self) -> Option<Marks> {
        self.marks_dirty.then(|| self.take_marks())
    }

    fn take_marks(&mut self) -> Marks {
        self.marks_dirty = false;
        self.marks.prekeys.clone_from(self.directory.highest());
        self.marks.clone()
    }

    /// When the newest admin's word becomes too old for the policy; `None`: never.
    fn roster_stale_ms(&self) -> Option<u64> {
        let max_age = self.roster.chain().policy().max_roster_age_ms;
        (max_age != 0).then(|| self.admin_word_ms.saturating_add(max_age).saturating_add(1))
    }

    fn roster_is_recent(&self, now_ms: u64) -> bool {
        self.roster_stale_ms().is_none_or(|at| now_ms < at)
    }

    fn role(&self) -> Option<Role> {
        self.roster.chain().role_above_reader(&self.identity.public())
    }
}

/// The plaintext a message takes in a batch, bytes.
fn cost(message: &Bytes) -> usize {
    4 + message.len()
}

/// Whether a batch of `used` bytes takes `message` too.
fn fits(used: usize, message: &Bytes) -> bool {
    used.saturating_add(cost(message)) <= limits::MAX_BATCH_PLAINTEXT
}
