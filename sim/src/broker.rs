//! The broker without its tasks: the real topic machine, the log, what waits for the disk, and who is to be answered.

use std::collections::VecDeque;

use bytes::Bytes;
use sealcast_broker::internals::{
    Keep, Loaded, Origin, RosterIndex, Wanted, compare, contexts, keep, kept, load, rosters,
};
use sealcast_broker::limits;
use sealcast_broker::store::{Log, TableId, Write};
use sealcast_broker::topic::{
    Append, Effect, Effects, Incoming, Index, Input, SessionId, Table, Ticket, TopicMachine, What,
};
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Ack, Code, FRAME_HEADER, FrameKind, Refusal, Reply, Request, Start};
use sealcast_proto::object::{Prekey, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{EntryBundle, Op, Role, decode_ops};
use sealcast_proto::slot::{TableCheck, table_hash};
use sealcast_proto::{Hash, Offset, PublicKey, RosterSeq, Signed};

use crate::Flaw;
use crate::disk::Disk;
use crate::oracle::Invariant;
use crate::publisher::Link;
use crate::world::World;

/// Bytes of roster entries read at once.
const ROSTER_BYTES: usize = 1 << 20;
/// Headers whose keys a session keeps, a count: as in the broker.
const KEYS: usize = 4;

/// See the module.
pub(crate) struct Broker {
    pub(crate) origin: Origin,
    pub(crate) disk: Disk,
    pub(crate) machine: TopicMachine,
    pub(crate) index: RosterIndex,
    pub(crate) head: Option<Signed<RosterHead>>,
    staged: Vec<Staged>,
    /// On its way to the disk, in order.
    pub(crate) queue: VecDeque<Submission>,
    sessions: u64,
}

struct Staged {
    publisher: PublicKey,
    slot_count: u32,
    slots_hash: Hash,
    table: TableId,
    bytes: Bytes,
}

/// Something that is done once the disk's first `end` changes are.
pub(crate) struct Submission {
    end: usize,
    sync: bool,
    then: Then,
}

enum Then {
    Committed(Offset),
    Prekey(PublicKey, Signed<Prekey>),
    Head(Signed<RosterHead>),
}

impl Broker {
    pub(crate) fn new(origin: Origin) -> Self {
        let mut disk = Disk::new();
        let genesis = origin.signed.body().clone();
        disk.write(vec![Write::CreateTopic { topic: origin.id, genesis }]);
        disk.sync(1);
        let Loaded { machine, index, head } =
            load(&disk.log, origin.id, &origin.genesis).expect("an empty log");
        Self { origin, disk, machine, index, head, staged: Vec::new(), queue: VecDeque::new(), sessions: 0 }
    }

    pub(crate) fn new_session(&mut self) -> SessionId {
        self.sessions += 1;
        SessionId(self.sessions)
    }

    pub(crate) fn is_officer(&self, who: &PublicKey) -> bool {
        self.role(who).is_some_and(|role| role >= Role::Publisher)
    }

    pub(crate) fn role(&self, who: &PublicKey) -> Option<Role> {
        self.machine.standing(who).and_then(|standing| standing.role)
    }

    fn table_of(&self, publisher: &PublicKey, header: &Signed<sealcast_proto::object::EpochHeader>) -> Table {
        let Ok(header) = header.peek() else { return Table::Missing };
        if header.slot_count == 0 {
            return if header.slots_hash == table_hash(&[]) { Table::Empty } else { Table::Missing };
        }
        let named = |it: &&Staged| {
            it.publisher == *publisher
                && it.slot_count == header.slot_count
                && it.slots_hash == header.slots_hash
        };
        self.staged.iter().find(named).map_or(Table::Missing, |staged| Table::Staged(staged.table))
    }

    fn prekey(&self, owner: &PublicKey) -> Option<Signed<Prekey>> {
        let bytes = self.disk.log.prekey(owner).expect("prekeys can be read")?;
        Some(kept(&bytes).expect("what was kept"))
    }

    /// What a watch says before it is at the head.
    pub(crate) fn watch(&self, held: RosterSeq) -> (RosterSeq, Vec<Reply>) {
        let (id, log, head) = (self.origin.id, &self.disk.log, self.machine.visible());
        let mut out = vec![Reply::Start(Start {
            genesis: self.origin.signed.clone(),
            start_offset: head,
            next_offset: head,
            roster_seq: self.index.head(),
            level: self.machine.level(),
        })];
        let through = self.index.before(head);
        let entries =
            rosters(log, id, RosterSeq(held.0 + 1), through, ROSTER_BYTES).expect("entries can be read");
        out.extend(entries.iter().map(|item| Reply::Roster(item.delivery(true))));
        out.extend(self.head.clone().map(Reply::Head));
        let members = self.machine.acceptor().roster().members();
        out.extend(members.filter_map(|(_, member)| self.prekey(&member.identity)).map(Reply::Prekey));
        let shown = contexts(log, id, head, &[]).expect("contexts can be read");
        out.extend(shown.into_iter().map(Reply::Context));
        out.push(Reply::AtHead { next_offset: head, end_of_stream: false });
        (held.max(through), out)
    }
}

impl World {
    /// Puts one input into the topic's machine and does what follows.
    pub(crate) fn topic(&mut self, input: Input) {
        let mut effects = Effects::new();
        self.broker.machine.handle(input, self.now, &mut effects);
        let (mut writes, mut sync, mut rest) = (Vec::new(), false, Vec::new());
        for effect in effects {
            match effect {
                Effect::Append(append) => {
                    sync |= append.sync;
                    self.append(append, &mut writes);
                }
                other => rest.push(other),
            }
        }
        if !writes.is_empty() {
            self.submit(writes, sync, Then::Committed(self.broker.machine.next_offset()));
        }
        rest.into_iter().for_each(|effect| self.topic_effect(effect));
    }

    fn submit(&mut self, writes: Vec<Write>, sync: bool, then: Then) {
        self.broker.disk.write(writes);
        let end = self.broker.disk.len();
        self.broker.queue.push_back(Submission { end, sync, then });
    }

    fn append(&mut self, append: Append, writes: &mut Vec<Write>) {
        let topic = self.broker.origin.id;
        let Append { offset, stored_ms, record, index, sync: _, reserve } = append;
        self.sees(&record, "a record");
        let parsed = Record::decode(record.clone()).expect("the machine takes only records");
        self.say(|| format!("broker    stores {} at {offset}", describe(&parsed)));
        writes.push(Write::Append { topic, offset, stored_ms, record: record.clone() });
        writes.extend(reserve.map(|below| Write::Reserve { topic, below }));
        match index {
            Index::Roster { seq, bundle } => {
                self.sees(&bundle, "a roster entry");
                writes.push(Write::Roster { topic, seq, offset, bundle });
                let roster = self.broker.machine.acceptor().roster();
                self.oracle.roster_is(roster);
                self.tally.entries += 1;
                self.tally.removals += u64::from(roster.chain().last_removal_seq() == seq);
            }
            Index::Epoch { publisher, epoch, table } => {
                let staged = &mut self.broker.staged;
                let at = table.and_then(|table| staged.iter().position(|staged| staged.table == table));
                let bytes = at.map_or(Bytes::new(), |at| staged.remove(at).bytes);
                writes.push(Write::Epoch { topic, publisher, epoch, offset, header: record, table });
                writes.push(Write::Publisher { topic, publisher, state: Bytes::new() });
                if let Record::Header(header) = parsed {
                    self.took_header(&header, bytes);
                }
            }
            Index::Batch { publisher, epoch, batch_no, digest } => {
                writes.push(Write::Batch { topic, publisher, epoch, batch_no, offset, digest });
                if let Record::Batch(batch) = parsed {
                    self.took_batch(&publisher, epoch, &batch);
                }
            }
        }
    }

    fn topic_effect(&mut self, effect: Effect) {
        match effect {
            // Only where several brokers share an order is anything indexed without its record.
            Effect::Append(_) | Effect::Index(..) | Effect::Gone { .. } => {}
            Effect::Ack(session, ack) => {
                self.check_ack(&ack);
                self.answer(session, Reply::Ack(ack));
            }
            Effect::Refuse(session, refusal) => {
                self.tally.fenced += u64::from(refusal.code == Code::StaleEpoch);
                self.answer(session, Reply::Refused(refusal));
            }
            Effect::Superseded(session) => {
                self.answer(session, Reply::Refused(Refusal::new(Code::Superseded, "a newer session")));
                if let Some(link) = self.link_of(session) {
                    link.answers.push_back(None);
                }
            }
            Effect::Roster(ticket, result) => self.entry_answered(ticket, result),
            Effect::Compare { session, identity, epoch, batch_no, fingerprint } => {
                let wanted = Wanted { publisher: identity, number: (epoch, batch_no), fingerprint };
                let found = compare(&self.broker.disk.log, self.broker.origin.id, &wanted);
                let reply = match found.expect("the log can be read") {
                    Ok(offset) => {
                        let level = self.broker.machine.level();
                        Reply::Ack(Ack { epoch, batch_no, offset, level })
                    }
                    Err(refusal) => Reply::Refused(Refusal { record: Some((epoch, batch_no)), ..refusal }),
                };
                self.answer(session, reply);
            }
            Effect::Readable(readable) => self.readable(readable.offset, &readable.what),
            Effect::Visible(_) => {}
        }
    }

    /// A record may be delivered: watches are told what is for them.
    fn readable(&mut self, offset: Offset, what: &What) {
        if let Err((invariant, what)) = self.oracle.shows(offset) {
            self.broke(invariant, what);
        }
        match what {
            What::Roster(item) => {
                let by_owner =
                    item.entry.peek().is_ok_and(|entry| entry.signer == self.broker.origin.genesis.owner);
                self.broker.index.push(item, by_owner);
                let added: Vec<PublicKey> = decode_ops(&item.ops)
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|op| if let Op::Add { identity, .. } = op { Some(*identity) } else { None })
                    .collect();
                let prekeys: Vec<Reply> =
                    added.iter().filter_map(|owner| self.broker.prekey(owner)).map(Reply::Prekey).collect();
                for p in 0..self.publishers.len() {
                    let officer = self.broker.is_officer(&self.publishers[p].who.public());
                    let Some(link) = self.publishers[p].link().filter(|link| link.held < item.seq) else {
                        continue;
                    };
                    link.held = item.seq;
                    let mut news = vec![Some(Reply::Roster(item.delivery(true)))];
                    news.extend(prekeys.iter().cloned().map(Some));
                    if item.touches_access() && !officer {
                        news.push(None);
                    }
                    self.tell_watch(p, news);
                }
            }
            What::Header(item) => {
                let reply = Reply::Epoch(item.delivery(offset));
                self.tell_watches(&reply);
            }
            What::Batch { end: Some(context), .. } => {
                let reply = Reply::Context((**context).clone());
                self.tell_watches(&reply);
            }
            What::Batch { end: None, .. } => {}
        }
    }

    fn tell_watches(&mut self, reply: &Reply) {
        for p in 0..self.publishers.len() {
            if self.publishers[p].link().is_some() {
                self.tell_watch(p, vec![Some(reply.clone())]);
            }
        }
    }

    fn link_of(&mut self, session: SessionId) -> Option<&mut Link> {
        let links = self.publishers.iter_mut().filter_map(|publisher| publisher.link());
        links.into_iter().find(|link| link.session == session)
    }

    fn answer(&mut self, session: SessionId, reply: Reply) {
        if self.flaw == Some(Flaw::ForgetsAnswers) {
            return;
        }
        let evil = self.evil.is_some();
        let reply = if evil { self.tamper_answer(reply) } else { Some(reply) };
        if let (Some(link), Some(reply)) = (self.link_of(session), reply) {
            link.answers.push_back(Some(reply));
        }
    }

    fn check_ack(&mut self, ack: &Ack) {
        let disk = &self.broker.disk;
        let safe = if self.oracle.memory && ack.batch_no.is_some() {
            disk.was_written(ack.offset)
        } else {
            disk.is_safe(ack.offset)
        };
        if !safe {
            self.broke(
                Invariant::Durable,
                format!("record {} was acknowledged; a crash loses it", ack.offset),
            );
        }
    }

    /// The disk has done the first `count` things that wait for it.
    pub(crate) fn disk_did(&mut self, count: usize) {
        let done: Vec<Submission> = self.broker.queue.drain(..count).collect();
        let end = done.iter().filter(|submission| submission.sync).map(|submission| submission.end).max();
        if let Some(end) = end.filter(|_| self.flaw != Some(Flaw::NoFsync)) {
            self.broker.disk.sync(end);
        }
        for submission in done {
            match submission.then {
                Then::Committed(upto) => self.topic(Input::Committed(upto)),
                Then::Prekey(owner, prekey) => {
                    self.tally.prekeys += 1;
                    if self.broker.machine.acceptor().roster().find(&owner).is_some() {
                        self.tell_watches(&Reply::Prekey(prekey.clone()));
                    }
                    self.prekey_stored(&owner, &prekey);
                }
                Then::Head(head) => {
                    self.broker.head = Some(head.clone());
                    self.tell_watches(&Reply::Head(head));
                }
            }
        }
    }

    /// In a `memory` topic nobody waits for the disk, but it follows.
    pub(crate) fn disk_is_behind(&self) -> bool {
        self.broker.queue.is_empty() && self.broker.disk.synced() < self.broker.disk.len()
    }

    pub(crate) fn sync_disk(&mut self) {
        self.submit(Vec::new(), true, Then::Committed(self.broker.machine.next_offset()));
    }

    /// A frame of a publish stream arrives. Returns whether the stream is of use any more.
    pub(crate) fn arrives(
        &mut self,
        session: SessionId,
        who: PublicKey,
        frame: &Bytes,
        keys: &mut Keys,
    ) -> bool {
        self.sees(frame, "a frame");
        let header = *frame.first_chunk::<FRAME_HEADER>().expect("whole frames");
        let (kind, _) = FrameKind::parse(header).expect("a frame's header");
        let request = Request::decode(kind, frame.slice(FRAME_HEADER..)).expect("the publisher's own frames");
        let bytes = match request {
            Request::Record(bytes) => bytes,
            Request::Beacon(beacon) => {
                if self.broker.machine.acceptor().check_beacon(&who, &beacon).is_some() {
                    self.relay(who, &beacon);
                }
                return true;
            }
            other => unreachable!("a publisher sends {other:?}"),
        };
        let incoming = match Record::decode(bytes.clone()).expect("the publisher's own records") {
            Record::Header(header) => {
                let parsed = header.peek().expect("the publisher's own header");
                keys.add(parsed.epoch, header.hash(), parsed.epoch_vk);
                let table = self.broker.table_of(&who, &header);
                Incoming::Header { header, table }
            }
            Record::Batch(batch) => {
                let mut claim = BatchClaim::read(&batch).expect("the publisher's own batch");
                if let Some((hash, vk)) = keys.find(claim.batch().epoch) {
                    claim.verify(&hash, &vk);
                }
                if self.flaw == Some(Flaw::NoFence) && self.is_fenced(&who, &claim) {
                    self.took_batch(&who, claim.batch().epoch, &batch);
                }
                Incoming::Batch { claim: Box::new(claim), record: bytes }
            }
            Record::Roster(_) => unreachable!("a publisher sends no roster entries"),
        };
        self.topic(Input::Publish { session, identity: who, incoming });
        true
    }

    /// Whether the fence is all that stands against this batch.
    fn is_fenced(&self, who: &PublicKey, claim: &BatchClaim) -> bool {
        let acceptor = self.broker.machine.acceptor();
        acceptor.lane(who).is_some_and(|lane| {
            lane.header().epoch == claim.batch().epoch
                && lane.header().roster_seq < acceptor.roster().chain().last_removal_seq()
        })
    }

    /// A slot table arrives whole.
    pub(crate) fn uploaded(
        &mut self,
        who: PublicKey,
        table: &(Bytes, u32, Hash),
        took_ms: u64,
    ) -> Result<(), Refusal> {
        let (bytes, slot_count, slots_hash) = table.clone();
        self.sees(&bytes, "a slot table");
        let mut check = TableCheck::new(slot_count, slots_hash);
        let first_member = check.feed(&bytes).expect("the publisher's own table").expect("it has slots");
        check.finish().expect("the publisher's own table");
        let table = self.broker.disk.new_table();
        self.broker.disk.write(vec![Write::TableChunk { table, first_member, slots: bytes.clone() }]);
        self.topic(Input::TableUploaded(took_ms));
        self.broker.staged.push(Staged { publisher: who, slot_count, slots_hash, table, bytes });
        let mine = self.broker.staged.iter().filter(|staged| staged.publisher == who).count();
        if mine > limits::STAGED_TABLES
            && let Some(at) = self.broker.staged.iter().position(|staged| staged.publisher == who)
        {
            let table = self.broker.staged.remove(at).table;
            self.broker.disk.write(vec![Write::DropTable { table }]);
        }
        Ok(())
    }

    /// A member's prekey arrives.
    pub(crate) fn put_prekey(&mut self, owner: PublicKey, prekey: &Signed<Prekey>) -> bool {
        self.sees(prekey.body(), "a prekey");
        let Ok(parsed) = prekey.verify_own() else { return false };
        if self.broker.role(&owner).is_none() || !parsed.is_valid_at(self.now) {
            return false;
        }
        let held = self.broker.prekey(&owner);
        if held.as_ref() == Some(prekey) {
            self.prekey_stored(&owner, prekey);
            return true;
        }
        if held.and_then(|held| held.peek().ok()).is_some_and(|held| parsed.prekey_id <= held.prekey_id) {
            return false;
        }
        let write = Write::Prekey { owner, prekey: keep(prekey) };
        self.submit(vec![write], true, Then::Prekey(owner, prekey.clone()));
        true
    }

    /// An admin re-asserts the head.
    pub(crate) fn put_head(&mut self, who: &PublicKey, head: &Signed<RosterHead>) {
        let chain = self.broker.machine.acceptor().roster().chain();
        let newest = chain.verify_head(head).is_ok_and(|parsed| parsed.seq == chain.seq());
        if newest && self.broker.role(who) == Some(Role::Admin) {
            let write = Write::Head { topic: self.broker.origin.id, head: keep(head) };
            self.submit(vec![write], true, Then::Head(head.clone()));
        }
    }

    /// An admin's entry. `None`: not its to append.
    pub(crate) fn put_entry(&mut self, who: &PublicKey, ticket: Ticket, bundle: &EntryBundle) -> Option<()> {
        let acceptor = self.broker.machine.acceptor();
        if self.broker.role(who) != Some(Role::Admin) && acceptor.known_entry(&bundle.entry).is_none() {
            return None;
        }
        self.topic(Input::Roster { ticket, bundle: bundle.clone() });
        Some(())
    }

    /// What the topic's policy lets go, goes.
    pub(crate) fn retention(&mut self) {
        let keep = Keep::of(self.broker.machine.acceptor().roster().chain().policy());
        let head = self.broker.machine.visible();
        let trimmed = self.broker.disk.retain(self.broker.origin.id, keep, head, self.now);
        self.tally.trimmed += trimmed;
        if trimmed > 0 {
            self.say(|| format!("broker    lets {trimmed} records go"));
        }
    }

    /// The broker dies and comes back with what its disk holds: at least what is safe, unless it rolls back.
    pub(crate) fn broker_crashes(&mut self, keep: usize) {
        self.tally.broker_crashes += 1;
        let all = self.broker.disk.len();
        self.say(|| format!("broker    crashes; {keep} of its {all} writes are left"));
        for p in 0..self.publishers.len() {
            self.publisher_cut(p);
        }
        for s in 0..self.subscribers.len() {
            self.subscriber_cut(s);
        }
        self.ghosts.clear();
        self.admins.iter_mut().for_each(|admin| admin.ticket = None);
        let broker = &mut self.broker;
        broker.queue.clear();
        broker.staged.clear();
        broker.disk.crash(keep);
        let origin = &broker.origin;
        let loaded = load(&broker.disk.log, origin.id, &origin.genesis);
        let Loaded { machine, index, head } = loaded.expect("a log that was cut off can be taken up");
        (broker.machine, broker.index, broker.head) = (machine, index, head);
        self.check_kept();
    }

    /// What was acknowledged as durable is there after a crash, unless retention let it go.
    fn check_kept(&mut self) {
        for acked in self.oracle.acked.values_mut() {
            // For good: its place may be another record's one day.
            acked.lost |= !self.broker.disk.was_written(acked.offset);
        }
        if self.oracle.memory || !self.oracle.honest {
            return;
        }
        let first = self.broker.disk.log.bounds(&self.broker.origin.id).expect("bounds").first;
        let lost = self.oracle.acked.values().map(|acked| acked.offset);
        let lost =
            lost.filter(|offset| *offset >= first).find(|offset| !self.broker.disk.was_written(*offset));
        if let Some(offset) = lost {
            self.broke(
                Invariant::Durable,
                format!("record {offset} was acknowledged and is gone after a crash"),
            );
        }
    }
}

/// The newest headers' keys that a session holds, to verify batches with.
#[derive(Default)]
pub(crate) struct Keys(Vec<(sealcast_proto::Epoch, Hash, PublicKey)>);

impl Keys {
    pub(crate) fn add(&mut self, epoch: sealcast_proto::Epoch, hash: Hash, vk: PublicKey) {
        if self.0.len() >= KEYS {
            self.0.remove(0);
        }
        self.0.push((epoch, hash, vk));
    }

    fn find(&self, epoch: sealcast_proto::Epoch) -> Option<(Hash, PublicKey)> {
        self.0.iter().rev().find(|(known, ..)| *known == epoch).map(|(_, hash, vk)| (*hash, *vk))
    }
}

pub(crate) fn describe(record: &Record) -> String {
    match record {
        Record::Roster(entry) => entry.peek().map(|entry| format!("roster entry {}", entry.seq)),
        Record::Header(header) => header.peek().map(|header| {
            format!("epoch {} of {} ({:?})", header.epoch, header.publisher.short(), header.mode)
        }),
        Record::Batch(batch) => batch.peek().map(|batch| {
            let end = if batch.end { ", END" } else { "" };
            let (first, after) = (batch.first_seq, batch.end_seq());
            format!("batch {} of epoch {} (messages {first}..{after}{end})", batch.batch_no, batch.epoch)
        }),
    }
    .unwrap_or_else(|error| error.to_string())
}
