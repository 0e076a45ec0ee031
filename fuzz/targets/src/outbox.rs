//! The publisher's machine before a broker that keeps the real acceptance rules, or before one that lies.
//!
//! ```text
//! input = setting u8 ‖ operation …          setting: even, the broker is honest; odd, its answers are what the fuzzer says
//! ```
//! What must hold: no number is ever sealed with two contents, though batches come again after a reconnect; nothing new is
//! sealed under an epoch older than a removal that was verified; every message is acknowledged at most once, and before an
//! honest broker in the end all are, stored once and in order; what is saved can be read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sealcast_proto::accept::{Acceptor, BatchClaim, Verdict};
use sealcast_proto::frame::{
    Ack, Code, Context, EpochDelivery, FRAME_HEADER, FrameKind, Level, Refusal, Request,
};
use sealcast_proto::object::{Genesis, Mode, Prekey};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, Op, Role};
use sealcast_proto::{BatchNo, Epoch, Hash, Identity, Offset, RosterSeq, Signed};
use sealcast_publisher::internals::{Effect, Input, Marks, Outbox};

use crate::steps::Steps;
use crate::{Reached, Target, valid};

/// See the module's page. A byte can be a new epoch with a slot for everybody.
pub const TARGET: Target = Target { name: "outbox", run, stages: STAGES, heap: (4 << 20, 64 << 10), seeds };

const STAGES: &[&str] = &[
    "batch",
    "beacon",
    "resolved",
    "refused",
    "removal",
    "fresh",
    "advance",
    "rewrap",
    "reconnect",
    "restarted",
    "closed",
    "failed",
    "lied to",
    "all stored",
];

/// Operations in a run.
const MOST: usize = 96;
/// The publisher; the owner is 1.
const PUBLISHER: u8 = 2;

struct World {
    genesis: Genesis,
    publisher: Arc<Identity>,
    broker: Acceptor,
    outbox: Outbox,
    rng: StdRng,
    now: u64,
    honest: bool,
    connected: bool,
    finished: bool,
    entries: Vec<EntryBundle>,
    batches: Vec<BatchRecord>,
    stored: u64,
    tables: BTreeSet<Hash>,
    answers: Vec<Result<Ack, Refusal>>,
    sent: u64,
    resolved: BTreeSet<u64>,
    /// What was written under each number.
    written: HashMap<(Epoch, Option<BatchNo>), Bytes>,
    /// The roster each epoch was made for.
    made_for: HashMap<Epoch, RosterSeq>,
    marks: Marks,
}

fn run(input: &[u8], reached: &mut Reached) {
    let mut steps = Steps::new(input);
    let setting = steps.byte();
    let mut world = World::new(setting & 1 == 0, setting & 2 != 0, reached);
    let mut done = 0;
    while let Some(step) = steps.next(done, MOST) {
        if world.finished {
            return;
        }
        world.step(step, &mut steps, reached);
        done += 1;
    }
    if world.honest {
        world.settle(reached);
    }
}

impl World {
    fn new(honest: bool, impatient: bool, reached: &mut Reached) -> Self {
        let (genesis, _, topic) = valid::genesis();
        let publisher = Arc::new(valid::identity(PUBLISHER));
        let mut world = Self {
            outbox: Outbox::new(Arc::clone(&publisher), topic, &genesis, Marks::default()),
            broker: Acceptor::new(topic, &genesis),
            publisher,
            genesis,
            rng: StdRng::seed_from_u64(2),
            now: valid::NOW,
            honest,
            connected: false,
            finished: false,
            entries: Vec::new(),
            batches: Vec::new(),
            stored: 0,
            tables: BTreeSet::new(),
            answers: Vec::new(),
            sent: 0,
            resolved: BTreeSet::new(),
            written: HashMap::new(),
            made_for: HashMap::new(),
            marks: Marks::default(),
        };
        let mut ops: Vec<Op> = vec![Op::Add { identity: world.publisher.public(), role: Role::Publisher }];
        ops.push(Op::Add { identity: valid::identity(3).public(), role: Role::Reader });
        if impatient {
            // Epochs that are soon over, in time and in batches.
            let policy = Policy { max_epoch_batches: 3, max_epoch_age_ms: 1_000, ..Policy::default() };
            ops.push(Op::set_policy(policy));
        }
        world.entry(&ops, reached);
        world.connect(reached);
        world
    }

    fn step(&mut self, step: u8, steps: &mut Steps<'_>, reached: &mut Reached) {
        match step % 20 {
            0..4 => {
                let message = Bytes::from(vec![b'm'; usize::from(steps.byte())]);
                self.put(Input::Send { token: self.sent, message }, reached);
                self.sent += 1;
            }
            4..8 => self.write(1 + usize::from(steps.below(4)), reached),
            8..10 => self.answer(reached),
            10 => self.answers.reverse(),
            11 => self.tell(reached),
            12 => {
                let identity = valid::identity(4 + steps.below(4)).public();
                let op = match self.broker.roster().find(&identity) {
                    Some((member, _)) => {
                        reached.mark("removal");
                        Op::Remove { member, identity }
                    }
                    None => Op::Add { identity, role: Role::Reader },
                };
                self.entry(&[op], reached);
            }
            13 if steps.rarely(4) => self.entry(&[Op::Rotate], reached),
            13 => {
                let owner = valid::identity(3 + steps.below(4));
                let id = u32::try_from(valid::NOW / 1000).unwrap_or_default() + u32::from(steps.byte());
                let prekey = Prekey {
                    owner: owner.public(),
                    prekey_id: id,
                    // Zeros are no key at all: such a member gets no slot.
                    x25519: [steps.below(3); 32],
                    not_before_ms: u64::from(id) * 1000,
                    not_after_ms: u64::from(id) * 1000 + 5_000 + 1_000 * u64::from(steps.byte()),
                };
                self.put(Input::Prekey(Signed::sign(&prekey, owner.signing_key())), reached);
            }
            14 => {
                self.answers.clear();
                self.connected = false;
                self.put(Input::Lost, reached);
            }
            15 => self.connect(reached),
            16 => {
                self.now += 1 << steps.below(14);
                self.put(Input::Tick, reached);
            }
            17 if steps.rarely(4) => self.restart(reached),
            18 if steps.rarely(8) => self.put(Input::Close, reached),
            _ if !self.honest => self.lie(steps, reached),
            _ => {}
        }
    }

    fn entry(&mut self, ops: &[Op], reached: &mut Reached) {
        let owner = valid::identity(1);
        let Ok(bundle) = self.broker.roster().sign(ops, &owner, self.now) else { return };
        self.broker.accept_roster(&bundle, Offset(self.stored)).expect("signed on its own roster");
        self.stored += 1;
        self.entries.push(bundle);
        if !self.honest {
            self.tell(reached);
        }
    }

    /// The watch catches up.
    fn tell(&mut self, reached: &mut Reached) {
        while !self.finished {
            let held = usize::try_from(self.outbox.roster().chain().seq().0).unwrap_or_default();
            let Some(bundle) = self.entries.get(held) else { return };
            let (entry, ops) = (bundle.entry.clone(), bundle.ops.clone());
            self.put(Input::Roster { entry, ops }, reached);
            let now = self.outbox.roster().chain().seq().0;
            assert!(self.finished || now == held as u64 + 1, "an entry that follows was not taken");
        }
    }

    fn connect(&mut self, reached: &mut Reached) {
        if self.connected {
            return;
        }
        self.tell(reached);
        self.connected = true;
        let own = self.broker.lane(&self.publisher.public()).map(|lane| {
            let epoch =
                EpochDelivery { offset: lane.header_offset(), header: lane.signed().clone(), slot: None };
            Box::new(Context { epoch, batch: lane.last().map(|last| (last.digest.clone(), last.offset)) })
        });
        let roster_seq = self.broker.roster().chain().seq();
        self.put(Input::Connected { own, roster_seq }, reached);
    }

    /// The process dies and begins anew with what it saved.
    fn restart(&mut self, reached: &mut Reached) {
        let marks = Marks::decode(&self.marks.encode()).expect("its own bytes");
        let topic = self.broker.roster().chain().topic();
        self.outbox = Outbox::new(Arc::clone(&self.publisher), topic, &self.genesis, marks);
        self.answers.clear();
        self.connected = false;
        // What was not acknowledged is the application's to send again; here it does not.
        self.resolved.extend(0..self.sent);
        reached.mark("restarted");
        self.connect(reached);
    }

    fn write(&mut self, most: usize, reached: &mut Reached) {
        for _ in 0..most {
            if self.finished || !self.connected || !self.outbox.has_frame(self.now) {
                return;
            }
            self.put(Input::Writable, reached);
        }
    }

    fn answer(&mut self, reached: &mut Reached) {
        for answer in std::mem::take(&mut self.answers) {
            if self.connected && !self.finished {
                self.put(answer.map_or_else(Input::Refused, Input::Acked), reached);
            }
        }
    }

    /// An answer that no honest broker gives.
    fn lie(&mut self, steps: &mut Steps<'_>, reached: &mut Reached) {
        reached.mark("lied to");
        let epochs: Vec<Epoch> = self.made_for.keys().copied().max().into_iter().collect();
        let epoch = steps.pick(&epochs).copied().unwrap_or(Epoch(steps.byte().into()));
        let batch_no = (!steps.rarely(3)).then(|| BatchNo(u64::from(steps.byte()) % 8));
        let offset = Offset(steps.byte().into());
        let refusal = |steps: &mut Steps<'_>| {
            const CODES: [Code; 13] = [
                Code::Malformed,
                Code::NotAllowed,
                Code::StaleEpoch,
                Code::Conflict,
                Code::OutOfOrder,
                Code::Superseded,
                Code::RosterConflict,
                Code::RosterRule,
                Code::NoTable,
                Code::Busy,
                Code::ReadOnly,
                Code::Draining,
                Code::Version,
            ];
            let code = CODES[usize::from(steps.byte()) % CODES.len()];
            let record = (!steps.rarely(4)).then_some((epoch, batch_no));
            let retry_after_ms = u64::from(steps.byte());
            Refusal {
                record,
                retry_after_ms,
                roster_seq: RosterSeq(steps.below(6).into()),
                ..Refusal::new(code, "")
            }
        };
        let input = match steps.below(5) {
            0 | 1 => Input::Acked(Ack { epoch, batch_no, offset, level: Level::Memory }),
            2 => Input::Refused(refusal(steps)),
            3 => Input::TableRefused(refusal(steps)),
            _ => Input::TableStored,
        };
        self.put(input, reached);
    }

    fn put(&mut self, input: Input, reached: &mut Reached) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let mut effects = Vec::new();
            self.outbox.handle(input, self.now, &mut effects);
            for effect in effects {
                self.effect(effect, &mut inputs, reached);
            }
        }
        assert!(self.outbox.wake_at() > self.now || self.finished, "it wants to be woken in the past");
    }

    fn effect(&mut self, effect: Effect, inputs: &mut Vec<Input>, reached: &mut Reached) {
        match effect {
            Effect::BuildEpoch(work) => {
                let built = work.make(&mut self.rng);
                inputs.push(match built {
                    Ok(epoch) => Input::EpochBuilt(Box::new(epoch)),
                    Err(why) => panic!("a plan of the outbox's own: {why}"),
                });
            }
            Effect::UploadTable { slots_hash, .. } => {
                assert!(self.connected);
                self.tables.insert(slots_hash);
                inputs.push(Input::TableStored);
            }
            Effect::Write(frame) => self.arrive(&frame, reached),
            Effect::Resolve { token, .. } => {
                reached.mark("resolved");
                assert!(token < self.sent && self.resolved.insert(token), "{token} acknowledged twice");
            }
            Effect::Save(marks) => {
                assert_eq!(Marks::decode(&marks.encode()).as_ref(), Ok(&marks));
                inputs.extend(marks.coming.map(|(epoch, _)| Input::Saved(epoch)));
                self.marks = marks;
            }
            Effect::Reconnect { .. } => {
                reached.mark("reconnect");
                self.answers.clear();
                self.connected = false;
            }
            Effect::Closed => {
                reached.mark("closed");
                self.finished = true;
            }
            Effect::Fail(error) => {
                reached.mark("failed");
                assert!(!self.honest, "before an honest broker: {error}");
                self.finished = true;
            }
        }
    }

    fn arrive(&mut self, frame: &Bytes, reached: &mut Reached) {
        assert!(self.connected, "a frame without a connection");
        let header = frame.first_chunk::<FRAME_HEADER>().expect("a whole frame");
        let (kind, _) = FrameKind::parse(*header).expect("its own frame");
        let me = self.publisher.public();
        let bytes = match Request::decode(kind, frame.slice(FRAME_HEADER..)).expect("its own frame") {
            Request::Record(bytes) => bytes,
            Request::Beacon(beacon) => {
                reached.mark("beacon");
                let _ = self.broker.check_beacon(&me, &beacon);
                return;
            }
            other => panic!("a publisher does not say {other:?}"),
        };
        let record = Record::decode(bytes.clone()).expect("its own record");
        let at = Offset(self.stored);
        let (number, verdict) = match &record {
            Record::Header(header) => {
                let parsed = header.verify(&me).expect("its own header");
                reached.mark(match parsed.mode {
                    Mode::Fresh => "fresh",
                    Mode::Advance => "advance",
                    Mode::Rewrap => "rewrap",
                });
                self.made_for.insert(parsed.epoch, parsed.roster_seq);
                let number = (parsed.epoch, None);
                self.once(number, &bytes, parsed.roster_seq);
                let known = parsed.slot_count == 0 || self.tables.contains(&parsed.slots_hash);
                (number, self.broker.accept_header(&me, header, known, at))
            }
            Record::Batch(batch) => {
                reached.mark("batch");
                let mut claim = BatchClaim::read(batch).expect("its own batch");
                let number = (claim.batch().epoch, Some(claim.batch().batch_no));
                let made_for = *self.made_for.get(&number.0).expect("its header came first");
                self.once(number, &bytes, made_for);
                if let Some(lane) = self.broker.lane(&me) {
                    claim.verify(&lane.header_hash(), &lane.header().epoch_vk);
                }
                (number, self.broker.accept_batch(&me, &claim, at))
            }
            Record::Roster(_) => panic!("a publisher sends no entries"),
        };
        let ack = |offset| Ack { epoch: number.0, batch_no: number.1, offset, level: Level::Durable };
        self.answers.push(match verdict {
            Ok(Verdict::Store) => {
                self.stored += 1;
                if let Record::Batch(batch) = record {
                    self.batches.push(batch);
                }
                Ok(ack(at))
            }
            Ok(Verdict::Duplicate { offset }) => Ok(ack(offset)),
            Ok(Verdict::Compare { .. }) => {
                Err(Refusal { record: Some(number), ..Refusal::new(Code::OutOfOrder, "") })
            }
            Err(refusal) => {
                reached.mark("refused");
                Err(refusal)
            }
        });
    }

    /// One content under one number, and nothing new under a roster that a verified removal ended.
    fn once(&mut self, number: (Epoch, Option<BatchNo>), bytes: &Bytes, made_for: RosterSeq) {
        match self.written.get(&number) {
            Some(before) => assert_eq!(before, bytes, "{number:?} with two contents"),
            None => {
                let fence = self.outbox.roster().chain().last_removal_seq();
                assert!(made_for >= fence, "{number:?} for roster {made_for} after removal {fence}");
                self.written.insert(number, bytes.clone());
            }
        }
    }

    /// Everything runs to its end.
    fn settle(&mut self, reached: &mut Reached) {
        for _ in 0..400 {
            if self.finished {
                break;
            }
            self.connect(reached);
            self.tell(reached);
            self.write(64, reached);
            let idle = self.answers.is_empty();
            self.answer(reached);
            if idle && !self.outbox.has_frame(self.now) && self.resolved.len() as u64 == self.sent {
                break;
            }
            self.now += 100;
            self.put(Input::Tick, reached);
        }
        assert_eq!(self.resolved.len() as u64, self.sent, "not all were acknowledged");
        let mut next: Option<u64> = None;
        let mut ranges = BTreeMap::new();
        for batch in &self.batches {
            let batch = batch.peek().expect("its own batch");
            assert!(next.is_none_or(|next| next == batch.first_seq.0), "a number is missing or comes twice");
            next = Some(batch.end_seq().0);
            ranges.insert(batch.first_seq, batch.count);
        }
        reached.mark("all stored");
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let send = [0, 5, 0, 200, 1, 9];
    let round = [4, 3, 8, 4, 3, 8];
    let usual = [&send[..], &round, &send, &round].concat();
    vec![
        [&[0][..], &usual, &[16, 13, 4, 3, 18, 7], &round].concat(),
        [&[0][..], &usual, &[12, 0, 11, 16, 6], &round, &[12, 0, 11], &send, &round].concat(),
        // A removal that the publisher does not see at once.
        [&[2][..], &usual, &[12, 0, 11], &usual, &[12, 0], &send, &round, &[14, 15], &round].concat(),
        [&[0][..], &usual, &[13, 0, 5, 2, 30, 13, 1, 5, 0, 30, 12, 0, 11], &usual].concat(),
        [&[0][..], &usual, &[17, 3], &usual, &[10, 8]].concat(),
        [&[1][..], &usual, &[19, 0, 0, 0, 3, 1], &round, &[19, 0, 0, 0, 0, 2, 1, 0, 0, 0]].concat(),
        [&[1][..], &usual, &[19, 0, 0, 1, 0, 0, 2, 1, 0, 0, 0], &round].concat(),
    ]
}
