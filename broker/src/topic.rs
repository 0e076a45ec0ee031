//! One topic's machine: what is accepted, when it is safe, and then who learns of it. Pure: no clock, disk or task.
//!
//! ```text
//! Publish, Roster ── acceptance rules ──► Append          in the order of the log
//!                                    └──► Refuse          at once
//! Committed{upto} ──► Readable…, Ack…, Visible            in the order of the log
//! ```
//! *Never acknowledged and never delivered before it is safe* is the queue `TopicMachine::pending`: whatever was
//! appended waits there, and everything behind it, until the commit thread says that it is stored. In a `memory` topic
//! batches need not wait for the disk, only for the durable records before them.

mod items;
mod pending;
mod ports;
#[cfg(test)]
mod tests;
mod trim;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::accept::{Acceptor, BatchClaim, Verdict};
use sealcast_proto::frame::{Ack, Code, Context, EpochDelivery, Level, Refusal};
use sealcast_proto::object::EpochHeader;
use sealcast_proto::policy::Durability;
use sealcast_proto::record::Record;
use sealcast_proto::roster::{Change, EntryBundle};
use sealcast_proto::{MemberIndex, Offset, PublicKey, RosterSeq, Signed};

pub use items::{HeaderItem, Readable, RosterItem, What};
use pending::{Outcome, Pending};
pub use ports::{Append, Effect, Effects, Incoming, Index, Input, SessionId, Standing, Table, Ticket};
pub(crate) use trim::REPEATS;
pub use trim::{Left, Trim};

use crate::limits;

/// The state of one topic.
#[derive(Debug)]
pub struct TopicMachine {
    acceptor: Acceptor,
    /// Who was removed: the index held, the entry that took it, its place. For ever, so that a removed member can be
    /// told so.
    former: HashMap<PublicKey, Vec<(MemberIndex, RosterSeq, Offset)>>,
    next_offset: Offset,
    /// For a topic whose order is made elsewhere: where the input at hand stands in it.
    place: Option<Offset>,
    ordered: bool,
    /// Of a `memory` topic: offsets below may be given out without waiting for the disk.
    reserved: Offset,
    /// What was trimmed from that order before this machine read it, while it reads what is left below.
    missed: Option<Trim>,
    committed: Offset,
    visible: Offset,
    pending: VecDeque<Pending>,
    /// Which stream began each publisher's newest epoch.
    holders: HashMap<PublicKey, SessionId>,
    store_level: Level,
    stored_ms: u64,
    last_removal_ms: Option<u64>,
    removal_spacing_ms: u64,
    failed: bool,
}

impl TopicMachine {
    /// A topic whose log holds nothing, or what `acceptor` says; the next record goes to `next_offset`.
    pub fn new(acceptor: Acceptor, next_offset: Offset, stored_ms: u64, store_level: Level) -> Self {
        Self {
            acceptor,
            former: HashMap::new(),
            next_offset,
            place: None,
            ordered: false,
            reserved: Offset(0),
            missed: None,
            committed: next_offset,
            visible: next_offset,
            pending: VecDeque::new(),
            holders: HashMap::new(),
            store_level,
            stored_ms,
            last_removal_ms: None,
            removal_spacing_ms: limits::REMOVAL_SPACING_MS,
            failed: false,
        }
    }

    /// Offsets below `below` were given out before, whether or not the log still holds what stood there.
    pub fn reserved(self, below: Offset) -> Self {
        Self { reserved: below, ..self }
    }

    /// Notes whom a roster entry read back from the log removed.
    pub fn restore_removed(&mut self, change: &Change, at: Offset) {
        for (index, identity) in &change.removed {
            self.former.entry(*identity).or_default().push((*index, change.entry.seq, at));
        }
    }

    /// A topic whose order several brokers share: inputs come from it with their places ([`TopicMachine::handle_at`]), and
    /// what is stored so far ends before `next_offset`. Admission, which looks at a clock, was made before
    /// ([`TopicMachine::admit_roster`]): here the order alone decides, so that all of them decide alike.
    pub fn ordered(self, next_offset: Offset, store_level: Level) -> Self {
        let (committed, visible) = (next_offset, next_offset);
        Self { next_offset, committed, visible, store_level, ordered: true, ..self }
    }

    /// As [`TopicMachine::handle`], for an input that stands at `at` in the shared order since `stored_ms`. What stood there
    /// is part of the state already if `at` is below [`TopicMachine::next_offset`]: nothing follows from it then.
    pub fn handle_at(&mut self, at: Offset, input: Input, stored_ms: u64, effects: &mut Effects) {
        if at < self.next_offset {
            return;
        }
        if let Some(trim) = self.missed.take_if(|trim| at >= trim.before)
            && self.next_offset < trim.before
        {
            // The last record that was trimmed was not read here.
            self.next_offset = trim.before;
            effects.push(Effect::Gone { before: trim.before, stored_ms: self.stored_ms });
        }
        self.place = Some(at);
        if let Some(trim) = self.missed.take() {
            self.handle_left(&trim, at, input, stored_ms, effects);
            self.missed = Some(trim);
        } else {
            self.handle(input, stored_ms, effects);
        }
        self.place = None;
    }

    /// Of the shared order, what stands below [`Trim::before`] was trimmed before it was read here. What is left of it is taken
    /// up as those did who read it, and everything from there on is decided as they decide it.
    pub fn miss(&mut self, trim: Trim, effects: &mut Effects) {
        for left in &trim.left {
            // A header that was read before: its batches since then were not.
            let held =
                self.acceptor.lane(&left.publisher).map(|lane| (lane.signed().clone(), lane.header_offset()));
            if let Some((header, at)) = held
                && left.headers.last() == Some(&at)
            {
                self.restore_left(left, &header, at, effects);
            }
        }
        self.missed = Some(trim);
    }

    /// An input below a trim.
    fn handle_left(&mut self, trim: &Trim, at: Offset, input: Input, stored_ms: u64, effects: &mut Effects) {
        let Input::Publish { session, identity, incoming } = input else {
            // Roster entries stay, all of them, and look at nothing but each other.
            return self.handle(input, stored_ms, effects);
        };
        let (epoch, batch_no, fingerprint) = match incoming {
            Incoming::Header { header, table } => {
                let Ok(parsed) = header.peek() else { return };
                if let Some(left) = trim.keeps(&identity, at).filter(|_| parsed.publisher == identity) {
                    self.restore_left(left, &header, at, effects);
                    self.take_over(session, identity, effects);
                    let ack =
                        Ack { epoch: parsed.epoch, batch_no: None, offset: at, level: self.store_level };
                    return self.append_header(identity, header, table, (session, ack), stored_ms, effects);
                }
                (parsed.epoch, None, header.hash())
            }
            Incoming::Batch { claim, .. } => {
                (claim.batch().epoch, Some(claim.batch().batch_no), claim.fingerprint())
            }
        };
        // What became of it stands in the index, if anywhere.
        let compare = Effect::Compare { session, identity, epoch, batch_no, fingerprint };
        self.wait(Pending { needs: self.next_offset, outcome: Outcome::Answer(compare) }, effects);
    }

    /// A publisher's header that stays, and if it is its newest, where it stood there.
    fn restore_left(&mut self, left: &Left, header: &Signed<EpochHeader>, at: Offset, effects: &mut Effects) {
        let newest = left.headers.last() == Some(&at);
        let last = if newest { left.last() } else { None };
        // What cannot be read was not accepted; that this edge differs then shows at the trim's own place.
        if self.acceptor.restore_lane(header, at, last).is_ok() && newest {
            effects.extend(left.indexes().map(|(offset, index)| Effect::Index(offset, index)));
        }
    }

    /// What was accepted so far, stored or about to be.
    pub fn acceptor(&self) -> &Acceptor {
        &self.acceptor
    }

    /// Where the next record goes.
    pub fn next_offset(&self) -> Offset {
        self.next_offset
    }

    /// The head: everything below may be delivered.
    pub fn visible(&self) -> Offset {
        self.visible
    }

    /// Whether an append failed, so that this machine is ahead of its log and must be made anew from it.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// How safe batches are when they are acknowledged.
    pub fn level(&self) -> Level {
        if self.is_memory() { Level::Memory } else { self.store_level }
    }

    /// What `identity` is or was here; `None`: never a member.
    pub fn standing(&self, identity: &PublicKey) -> Option<Standing> {
        let as_of = self.acceptor.roster().chain().seq();
        let former = self.former.get(identity).map(Vec::as_slice).unwrap_or_default();
        let held = former.iter().rev().map(|(index, ..)| *index);
        match self.acceptor.roster().find(identity) {
            Some((index, member)) => Some(Standing {
                role: Some(member.role),
                indexes: std::iter::once(index).chain(held).collect(),
                removed: None,
                as_of,
            }),
            None => former.last().map(|(_, seq, at)| Standing {
                role: None,
                indexes: held.collect(),
                removed: Some((*seq, *at)),
                as_of,
            }),
        }
    }

    /// Takes one input and says what follows from it.
    pub fn handle(&mut self, input: Input, now_ms: u64, effects: &mut Effects) {
        match input {
            Input::Publish { session, identity, incoming } => {
                self.publish(session, identity, incoming, now_ms, effects);
            }
            Input::Roster { ticket, bundle } => self.roster(ticket, bundle, now_ms, effects),
            Input::Committed(upto) => {
                self.committed = self.committed.max(upto);
                self.settle(effects);
            }
            Input::Failed => self.fail(effects),
            Input::TableUploaded(took_ms) => {
                let twice = took_ms.saturating_mul(2);
                self.removal_spacing_ms =
                    twice.clamp(limits::REMOVAL_SPACING_MS, limits::REMOVAL_SPACING_MAX_MS);
            }
            Input::Ended(session) => self.holders.retain(|_, holder| *holder != session),
        }
    }

    fn is_memory(&self) -> bool {
        self.acceptor.roster().chain().policy().durability == Durability::Memory
    }

    fn publish(
        &mut self,
        session: SessionId,
        identity: PublicKey,
        incoming: Incoming,
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let number = match &incoming {
            Incoming::Header { header, .. } => header.peek().ok().map(|header| (header.epoch, None)),
            Incoming::Batch { claim, .. } => Some((claim.batch().epoch, Some(claim.batch().batch_no))),
        };
        let at = self.at();
        let verdict = if self.failed {
            Err(read_only())
        } else if at.next().is_none() {
            Err(Refusal::new(Code::ReadOnly, "the log is at the end of its offsets"))
        } else {
            match &incoming {
                Incoming::Header { header, table } => {
                    self.acceptor.accept_header(&identity, header, *table != Table::Missing, at)
                }
                Incoming::Batch { claim, .. } => self.acceptor.accept_batch(&identity, claim, at),
            }
        };
        let (verdict, (epoch, batch_no)) = match (verdict, number) {
            (Ok(verdict), Some(number)) => (verdict, number),
            (Ok(_), None) => return,
            (Err(refusal), record) => {
                return effects.push(Effect::Refuse(session, Refusal { record, ..refusal }));
            }
        };
        let level = if batch_no.is_none() { self.store_level } else { self.level() };
        match verdict {
            Verdict::Store => {
                if batch_no.is_none() {
                    self.take_over(session, identity, effects);
                }
                let ack = (session, Ack { epoch, batch_no, offset: at, level });
                match incoming {
                    Incoming::Header { header, table } => {
                        self.append_header(identity, header, table, ack, now_ms, effects);
                    }
                    Incoming::Batch { claim, record } => {
                        self.append_batch(identity, &claim, record, ack, now_ms, effects);
                    }
                }
            }
            Verdict::Duplicate { offset } => {
                if batch_no.is_none() && self.holders.contains_key(&identity) {
                    // The same bytes from another stream: the same publisher, reconnected.
                    self.holders.insert(identity, session);
                }
                let ack = Ack { epoch, batch_no, offset, level };
                self.wait(
                    Pending { needs: Offset(0), outcome: Outcome::Answer(Effect::Ack(session, ack)) },
                    effects,
                );
            }
            Verdict::Compare { epoch, batch_no, fingerprint } => {
                let compare = Effect::Compare { session, identity, epoch, batch_no, fingerprint };
                self.wait(Pending { needs: self.next_offset, outcome: Outcome::Answer(compare) }, effects);
            }
        }
    }

    /// A publisher's newest epoch is `session`'s; the stream that had the one before is over.
    fn take_over(&mut self, session: SessionId, identity: PublicKey, effects: &mut Effects) {
        let before = self.holders.insert(identity, session);
        if let Some(older) = before.filter(|older| *older != session) {
            effects.push(Effect::Superseded(older));
        }
    }

    fn append_header(
        &mut self,
        publisher: PublicKey,
        header: Signed<EpochHeader>,
        table: Table,
        ack: (SessionId, Ack),
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let epoch = ack.1.epoch;
        let table = match table {
            Table::Staged(table) => Some(table),
            Table::Empty | Table::Missing => None,
        };
        let record = Record::Header(header.clone()).encode();
        let item = HeaderItem { publisher, epoch, header, table };
        self.append(record, Index::Epoch { publisher, epoch, table }, true, now_ms, effects);
        self.stored(
            ack.1.offset,
            true,
            What::Header(Arc::new(item)),
            Some(Effect::Ack(ack.0, ack.1)),
            effects,
        );
    }

    fn append_batch(
        &mut self,
        publisher: PublicKey,
        claim: &BatchClaim,
        record: Bytes,
        ack: (SessionId, Ack),
        now_ms: u64,
        effects: &mut Effects,
    ) {
        let (epoch, batch_no) = (claim.batch().epoch, claim.batch().batch_no);
        // Of a `memory` topic one batch in many waits, for the offsets of those that come after it.
        let sync = !self.is_memory() || !self.ordered && ack.1.offset >= self.reserved;
        let digest = claim.digest().encode();
        self.append(
            record.clone(),
            Index::Batch { publisher, epoch, batch_no, digest },
            sync,
            now_ms,
            effects,
        );
        let end = if claim.batch().end { self.context(&publisher).map(Box::new) } else { None };
        let what = What::Batch { record, end };
        self.stored(ack.1.offset, sync, what, Some(Effect::Ack(ack.0, ack.1)), effects);
    }

    /// A publisher's newest epoch and batch as a watch is told of them.
    fn context(&self, publisher: &PublicKey) -> Option<Context> {
        let lane = self.acceptor.lane(publisher)?;
        let epoch = EpochDelivery { offset: lane.header_offset(), header: lane.signed().clone(), slot: None };
        Some(Context { epoch, batch: lane.last().map(|last| (last.digest.clone(), last.offset)) })
    }

    fn roster(&mut self, ticket: Ticket, bundle: EntryBundle, now_ms: u64, effects: &mut Effects) {
        let at = self.at();
        let accepted = if self.failed { Err(read_only()) } else { self.accept_roster(&bundle, at, now_ms) };
        let change = match accepted {
            Ok((Verdict::Store, Some(change))) => change,
            Ok((Verdict::Duplicate { offset }, _)) => {
                let done = Effect::Roster(ticket, Ok(offset));
                return self.wait(Pending { needs: Offset(0), outcome: Outcome::Answer(done) }, effects);
            }
            // accept_roster answers Store with a change, Duplicate, or an error.
            Ok(_) => return effects.push(Effect::Roster(ticket, Err(Refusal::new(Code::Malformed, "")))),
            Err(refusal) => return effects.push(Effect::Roster(ticket, Err(refusal))),
        };
        if !change.removed.is_empty() || change.fence {
            self.last_removal_ms = Some(now_ms);
        }
        self.restore_removed(&change, at);
        let item = RosterItem::new(at, &bundle, &change, self.acceptor.roster().chain());
        let record = Record::Roster(bundle.entry).encode();
        let index = Index::Roster { seq: item.seq, bundle: item.bundle().encode() };
        self.append(record, index, true, now_ms, effects);
        self.stored(at, true, What::Roster(Arc::new(item)), Some(Effect::Roster(ticket, Ok(at))), effects);
    }

    /// The acceptance rules, and before them the admission.
    fn accept_roster(
        &mut self,
        bundle: &EntryBundle,
        at: Offset,
        now_ms: u64,
    ) -> Result<(Verdict, Option<Change>), Refusal> {
        if !self.ordered {
            self.admit_roster(bundle, now_ms)?;
        }
        self.acceptor.accept_roster(bundle, at)
    }

    /// The admission of a roster entry: removals come only so fast, or a publisher whose tables are large would never get
    /// past the fence.
    pub fn admit_roster(&self, bundle: &EntryBundle, now_ms: u64) -> Result<(), Refusal> {
        let removes = bundle.entry.peek().is_ok_and(|entry| entry.last_removal_seq == entry.seq);
        if removes && self.acceptor.known_entry(&bundle.entry).is_none() {
            let free_at = self.last_removal_ms.map_or(0, |last| last.saturating_add(self.removal_spacing_ms));
            if now_ms < free_at {
                let retry_after_ms = free_at - now_ms;
                let detail =
                    "one removal at a time: publishers are still rotating; fold removals into one entry";
                return Err(Refusal { retry_after_ms, ..Refusal::new(Code::Busy, detail) });
            }
        }
        Ok(())
    }

    /// Where what is accepted now goes.
    fn at(&self) -> Offset {
        self.place.unwrap_or(self.next_offset)
    }

    fn append(&mut self, record: Bytes, index: Index, sync: bool, now_ms: u64, effects: &mut Effects) {
        self.stored_ms = self.stored_ms.max(now_ms);
        let offset = self.at();
        let reserve = if sync { self.reserve(offset) } else { None };
        let append = Append { offset, stored_ms: self.stored_ms, record, index, sync, reserve };
        // The end of the range was checked before anything was accepted.
        self.next_offset = Offset(offset.0.saturating_add(1));
        effects.push(Effect::Append(append));
    }

    /// What is to be reserved together with a record that waits for the disk: early, for as long as such records come, no
    /// batch has to.
    fn reserve(&mut self, offset: Offset) -> Option<Offset> {
        let early = offset.0.saturating_add(limits::OFFSETS_RESERVED / 2);
        if self.ordered || !self.is_memory() || early < self.reserved.0 {
            return None;
        }
        self.reserved = Offset(offset.0.saturating_add(limits::OFFSETS_RESERVED));
        Some(self.reserved)
    }

    fn stored(
        &mut self,
        offset: Offset,
        sync: bool,
        what: What,
        answer: Option<Effect>,
        effects: &mut Effects,
    ) {
        let needs = if sync { Offset(offset.0.saturating_add(1)) } else { Offset(0) };
        self.wait(
            Pending { needs, outcome: Outcome::Record(Readable { offset, what }, answer.map(Box::new)) },
            effects,
        );
    }

    /// Queues behind everything appended so far; what needs no waiting happens now.
    fn wait(&mut self, pending: Pending, effects: &mut Effects) {
        self.pending.push_back(pending);
        self.settle(effects);
    }

    /// Does what waited and need wait no longer.
    fn settle(&mut self, effects: &mut Effects) {
        let before = self.visible;
        while self.pending.front().is_some_and(|front| front.needs <= self.committed) {
            let Some(pending) = self.pending.pop_front() else { break };
            match pending.outcome {
                Outcome::Record(readable, answer) => {
                    self.visible = Offset(readable.offset.0.saturating_add(1));
                    effects.push(Effect::Readable(readable));
                    effects.extend(answer.map(|answer| *answer));
                }
                Outcome::Answer(effect) => effects.push(effect),
            }
        }
        if self.visible > before {
            effects.push(Effect::Visible(self.visible));
        }
    }

    /// Whatever waits was not stored: said so to everyone, and nothing more is taken, for the rules' state is ahead of the
    /// log now.
    fn fail(&mut self, effects: &mut Effects) {
        self.failed = true;
        for pending in std::mem::take(&mut self.pending) {
            let answer = match pending.outcome {
                Outcome::Record(_, answer) => answer.map(|answer| *answer),
                Outcome::Answer(effect) => Some(effect),
            };
            match answer {
                Some(Effect::Ack(session, Ack { epoch, batch_no, .. })) => {
                    let refusal = Refusal { record: Some((epoch, batch_no)), ..read_only() };
                    effects.push(Effect::Refuse(session, refusal));
                }
                Some(Effect::Compare { session, epoch, batch_no, .. }) => {
                    let refusal = Refusal { record: Some((epoch, batch_no)), ..read_only() };
                    effects.push(Effect::Refuse(session, refusal));
                }
                Some(Effect::Roster(ticket, _)) => effects.push(Effect::Roster(ticket, Err(read_only()))),
                _ => {}
            }
        }
    }
}

fn read_only() -> Refusal {
    let retry_after_ms = limits::READ_ONLY_RETRY_MS;
    Refusal { retry_after_ms, ..Refusal::new(Code::ReadOnly, "the broker cannot store anything now") }
}
