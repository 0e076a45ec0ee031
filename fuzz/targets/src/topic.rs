//! The broker's topic machine under a list of operations.
//!
//! What must hold: appends have rising offsets without a hole; nothing is acknowledged, readable or visible before it is as
//! safe as the policy promises; what is readable comes in the order of the log; everything that came is answered once; after
//! a failed append nothing more is taken; everybody's standing is what the roster says.

use std::collections::{BTreeMap, BTreeSet};

use sealcast_broker::store::TableId;
use sealcast_broker::topic::{
    Effect, Effects, Incoming, Index, Input, SessionId, Table, Ticket, TopicMachine, What,
};
use sealcast_proto::accept::Acceptor;
use sealcast_proto::frame::{Code, Level};
use sealcast_proto::policy::Durability;
use sealcast_proto::record::Record;
use sealcast_proto::roster::{EntryBundle, Roster};
use sealcast_proto::{Hash, Offset};

use crate::pen::Pen;
use crate::steps::Steps;
use crate::{Reached, Target, entries, valid};

/// See the module's page. A byte can be an operation, which the machine keeps.
pub const TARGET: Target = Target { name: "topic", run, stages: STAGES, heap: (1 << 20, 16 << 10), seeds };

const STAGES: &[&str] = &[
    "header",
    "batch",
    "entry",
    "ack",
    "refused",
    "superseded",
    "compare",
    "duplicate entry",
    "failed",
    "memory",
    "busy",
    "end",
    "removed",
];

/// Operations in a run.
const MOST: usize = 80;

struct World {
    machine: TopicMachine,
    /// As the admin holds it: every entry that the machine took.
    roster: Roster,
    pens: Vec<Pen>,
    sent: Vec<Sent>,
    now_ms: u64,
    committed: Offset,
    /// Offsets appended: whether the disk must have them before anybody hears of them.
    appended: BTreeMap<Offset, bool>,
    next: Option<Offset>,
    readable: Option<Offset>,
    /// Publishes without an answer, by session; tickets without one.
    open: BTreeMap<u64, usize>,
    tickets: BTreeSet<u64>,
    last_ticket: u64,
    failed: bool,
}

enum Sent {
    Header(usize, sealcast_proto::Signed<sealcast_proto::object::EpochHeader>),
    Batch(usize, sealcast_proto::record::BatchRecord),
    Entry(EntryBundle),
}

fn run(input: &[u8], reached: &mut Reached) {
    let (genesis, _, topic) = valid::genesis();
    let mut steps = Steps::new(input);
    // Few are remembered in some runs, so that something is forgotten.
    let window = if steps.rarely(2) { 2 } else { 1024 };
    let acceptor = Acceptor::with_window(topic, &genesis, window);
    let mut world = World {
        machine: TopicMachine::new(acceptor, Offset(0), 0, Level::Durable),
        roster: Roster::new(topic, &genesis),
        pens: (1..=3).map(Pen::new).collect(),
        sent: Vec::new(),
        now_ms: valid::NOW,
        committed: Offset(0),
        appended: BTreeMap::new(),
        next: None,
        readable: None,
        open: BTreeMap::new(),
        tickets: BTreeSet::new(),
        last_ticket: 0,
        failed: false,
    };
    let mut done = 0;
    while let Some(step) = steps.next(done, MOST) {
        world.step(step, &mut steps, reached);
        done += 1;
    }
    world.commit(world.machine.next_offset(), reached);
    assert!(world.open.values().all(|open| *open == 0), "a record was never answered");
    assert!(world.tickets.is_empty(), "an entry was never answered");
}

impl World {
    fn step(&mut self, step: u8, steps: &mut Steps<'_>, reached: &mut Reached) {
        match step % 20 {
            0..3 => {
                let Some(bundle) = entries::entry(&self.roster, self.now_ms, steps) else { return };
                self.sent.push(Sent::Entry(bundle.clone()));
                self.entry(bundle, reached);
            }
            3..6 => {
                let n = usize::from(steps.below(3));
                let header = self.pens[n].header(self.roster.chain(), None, steps);
                let table = [Table::Empty, Table::Staged(TableId(7)), Table::Missing];
                let table = table[usize::from(steps.below(8)).saturating_sub(5)];
                self.sent.push(Sent::Header(n, header.clone()));
                self.header(n, header, table, session(n, steps), reached);
            }
            6..11 => {
                let n = usize::from(steps.below(3));
                let Some((batch, hash)) = self.pens[n].batch(steps) else { return };
                self.sent.push(Sent::Batch(n, batch.clone()));
                if self.batch(n, &batch, session(n, steps), reached) {
                    self.pens[n].sent(hash);
                }
            }
            11..13 => {
                let place = usize::from(steps.byte()) % self.sent.len().max(1);
                match self.sent.get(place) {
                    None => {}
                    Some(Sent::Entry(bundle)) => self.entry(bundle.clone(), reached),
                    Some(Sent::Header(n, header)) => {
                        let (n, header) = (*n, header.clone());
                        self.header(n, header, Table::Empty, session(n, steps), reached);
                    }
                    Some(Sent::Batch(n, batch)) => {
                        let (n, batch) = (*n, batch.clone());
                        self.batch(n, &batch, session(n, steps), reached);
                    }
                }
            }
            13..16 => {
                let upto = self.committed.0 + u64::from(steps.below(6));
                self.commit(Offset(upto.min(self.machine.next_offset().0)), reached);
            }
            16 => self.now_ms += 1000 * u64::from(steps.byte()),
            17 => drop(self.handle(Input::TableUploaded(1000 * u64::from(steps.byte())), reached)),
            18 => drop(self.handle(Input::Ended(session(usize::from(steps.below(3)), steps)), reached)),
            _ if steps.rarely(8) => {
                self.failed = true;
                reached.mark("failed");
                let effects = self.handle(Input::Failed, reached);
                let stored = |effect: &Effect| matches!(effect, Effect::Append(_) | Effect::Ack(..));
                assert!(!effects.iter().any(stored));
                assert!(self.machine.has_failed());
            }
            _ => {}
        }
    }

    fn entry(&mut self, bundle: EntryBundle, reached: &mut Reached) {
        self.last_ticket += 1;
        self.tickets.insert(self.last_ticket);
        let input = Input::Roster { ticket: Ticket(self.last_ticket), bundle: bundle.clone() };
        let effects = self.handle(input, reached);
        if effects.iter().any(|effect| matches!(effect, Effect::Append(_))) {
            reached.mark("entry");
            let change = self.roster.apply(&bundle.entry, &bundle.ops).expect("taken, so it follows");
            for (_, gone) in change.removed {
                reached.mark("removed");
                let standing = self.machine.standing(&gone).expect("it was a member");
                assert_eq!(standing.role, None);
                assert_eq!(standing.removed.map(|(seq, _)| seq), Some(change.entry.seq));
            }
        }
        assert_eq!(self.machine.acceptor().roster().chain(), self.roster.chain());
        for n in 1..=entries::PEOPLE {
            let key = valid::identity(n).public();
            let role = self.machine.standing(&key).and_then(|standing| standing.role);
            assert_eq!(role, self.roster.find(&key).map(|(_, member)| member.role));
        }
    }

    fn header(
        &mut self,
        n: usize,
        header: sealcast_proto::Signed<sealcast_proto::object::EpochHeader>,
        table: Table,
        session: SessionId,
        reached: &mut Reached,
    ) {
        let incoming = Incoming::Header { header: header.clone(), table };
        if self.publish(n, incoming, session, reached) {
            reached.mark("header");
            assert!(table != Table::Missing);
            self.pens[n].begun(header);
        }
    }

    fn batch(
        &mut self,
        n: usize,
        batch: &sealcast_proto::record::BatchRecord,
        session: SessionId,
        reached: &mut Reached,
    ) -> bool {
        let claim = Box::new(self.pens[n].claim(batch));
        let record = Record::Batch(batch.clone()).encode();
        let stored = self.publish(n, Incoming::Batch { claim, record }, session, reached);
        if stored {
            reached.mark("batch");
        }
        stored
    }

    /// Whether it was appended.
    fn publish(&mut self, n: usize, incoming: Incoming, session: SessionId, reached: &mut Reached) -> bool {
        *self.open.entry(session.0).or_default() += 1;
        let identity = self.pens[n].public();
        let effects = self.handle(Input::Publish { session, identity, incoming }, reached);
        let stored = effects.iter().any(|effect| matches!(effect, Effect::Append(_)));
        assert!(!stored || self.roster.chain().may_publish(&identity));
        stored
    }

    fn commit(&mut self, upto: Offset, reached: &mut Reached) {
        if !self.failed {
            self.committed = self.committed.max(upto);
            self.handle(Input::Committed(upto), reached);
        }
    }

    fn handle(&mut self, input: Input, reached: &mut Reached) -> Effects {
        let mut effects = Effects::new();
        self.machine.handle(input, self.now_ms, &mut effects);
        effects.iter().for_each(|effect| self.effect(effect, reached));
        assert!(self.machine.visible() <= self.machine.next_offset());
        effects
    }

    fn effect(&mut self, effect: &Effect, reached: &mut Reached) {
        match effect {
            Effect::Append(append) => {
                assert!(!self.failed, "appended after a failure");
                assert_eq!(append.offset, self.next.and_then(Offset::next).unwrap_or_default());
                self.next = Some(append.offset);
                let batch = matches!(append.index, Index::Batch { .. });
                assert!(append.sync || batch, "entries and headers are always synced");
                if !append.sync {
                    reached.mark("memory");
                    let policy = self.roster.chain().policy().durability;
                    assert_eq!(policy, Durability::Memory);
                }
                self.appended.insert(append.offset, append.sync);
                Record::decode(append.record.clone()).expect("what is stored can be read");
            }
            Effect::Ack(session, ack) => {
                reached.mark("ack");
                self.answered(session.0);
                self.safe(ack.offset);
                assert!(self.readable >= Some(ack.offset), "acknowledged before it could be read");
            }
            Effect::Refuse(session, refusal) => {
                reached.mark("refused");
                self.answered(session.0);
                assert!(!self.failed || refusal.code == Code::ReadOnly || refusal.retry_after_ms == 0);
            }
            Effect::Index(..) | Effect::Gone { .. } => unreachable!("its order is its own"),
            Effect::Superseded(_) => reached.mark("superseded"),
            Effect::Roster(ticket, answer) => {
                assert!(self.tickets.remove(&ticket.0), "answered twice");
                match answer {
                    Ok(offset) => {
                        self.safe(*offset);
                        assert!(self.readable >= Some(*offset));
                        if self.readable > Some(*offset) {
                            reached.mark("duplicate entry");
                        }
                    }
                    Err(refusal) if refusal.code == Code::Busy => {
                        reached.mark("busy");
                        assert!(refusal.retry_after_ms > 0, "busy, but not until when");
                    }
                    Err(_) => {}
                }
            }
            Effect::Compare { session, fingerprint, .. } => {
                reached.mark("compare");
                assert_ne!(*fingerprint, Hash::ZERO);
                self.answered(session.0);
            }
            Effect::Readable(readable) => {
                assert_eq!(readable.offset, self.readable.and_then(Offset::next).unwrap_or_default());
                self.readable = Some(readable.offset);
                self.safe(readable.offset);
                if let What::Batch { end: Some(_), .. } = &readable.what {
                    reached.mark("end");
                }
            }
            Effect::Visible(upto) => {
                assert_eq!(Some(*upto), self.readable.and_then(Offset::next));
            }
        }
    }

    fn answered(&mut self, session: u64) {
        let open = self.open.get_mut(&session).filter(|open| **open > 0).expect("answered twice");
        *open -= 1;
    }

    /// It is stored, and so is every durable record before it.
    fn safe(&self, offset: Offset) {
        let sync = self.appended.get(&offset).expect("it was appended");
        assert!(!sync || offset < self.committed, "{offset} is not on the disk");
        let mut before = self.appended.range(..offset).filter(|(_, sync)| **sync);
        assert!(before.next_back().is_none_or(|(before, _)| *before < self.committed));
    }
}

/// Two streams for each publisher.
fn session(n: usize, steps: &mut Steps<'_>) -> SessionId {
    SessionId(2 * n as u64 + u64::from(steps.below(2)))
}

/// As in `roster`; a header and a batch are followed by a table and a session.
fn seeds() -> Vec<Vec<u8>> {
    let add_publisher = [0, 0, 0, 0, 1, 0, 1, 0];
    let header = |session| [3, 1, 0, 0, session];
    let batch = |session| [6, 1, 0, 5, session];
    let end = [6, 1, 6, 5, 0];
    let commit = [13, 5];
    let memory = [0, 0, 0, 6, 0, 0, 1, 9, 0];
    let remove = [0, 0, 0, 3, 1, 0, 0];
    let add_reader = [0, 0, 0, 0, 2, 0, 0, 0];
    let usual = [&add_publisher[..], &commit, &header(0), &commit, &batch(0), &batch(0), &commit].concat();
    let took_over = [&[0][..], &usual, &header(1), &batch(1), &end, &[11, 1, 0], &[11, 0], &commit].concat();
    let forgotten = [&[1][..], &usual, &batch(0), &batch(0), &commit, &[11, 1, 0], &commit].concat();
    let removed =
        [&[0][..], &usual, &add_reader, &remove, &add_publisher, &remove, &header(0), &commit, &commit]
            .concat();
    let in_memory = [&[0][..], &memory, &usual, &batch(0), &[19, 7], &batch(0), &header(0)].concat();
    vec![took_over, forgotten, removed, in_memory]
}
