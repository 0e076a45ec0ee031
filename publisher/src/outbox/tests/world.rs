//! A publisher's outbox, the broker's real acceptance rules, and a clock that only the test moves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochReceiver, Message, WrapSecret};
use sealcast_proto::accept::{Acceptor, BatchClaim, Verdict};
use sealcast_proto::frame::{Ack, Context, EpochDelivery, FRAME_HEADER, FrameKind, Level, Refusal, Request};
use sealcast_proto::object::{Beacon, EpochHeader, Genesis, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, Op, Role, RosterError};
use sealcast_proto::slot::find_slot;
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, Offset, PublicKey, RosterSeq, Seq, Signed, TopicId,
};

use super::super::{Effect, Input, Outbox, Receipt};
use crate::error::PublishError;
use crate::marks::Marks;

pub(super) const START_MS: u64 = 1_800_000_000_000;

/// What the broker stored, in order.
#[derive(Clone)]
pub(super) enum Stored {
    Roster(EntryBundle),
    Header(Signed<EpochHeader>),
    Batch(BatchRecord),
}

pub(super) struct World {
    pub(super) owner: Arc<Identity>,
    pub(super) publisher: Arc<Identity>,
    pub(super) topic: TopicId,
    pub(super) genesis: Genesis,
    pub(super) broker: Acceptor,
    pub(super) log: Vec<Stored>,
    pub(super) tables: HashMap<Hash, Bytes>,
    pub(super) outbox: Outbox,
    pub(super) now: u64,
    pub(super) connected: bool,
    /// Answers on their way to the publisher.
    pub(super) answers: Vec<Result<Ack, Refusal>>,
    /// Roster entries the publisher has yet to see.
    pub(super) news: Vec<EntryBundle>,
    pub(super) receipts: BTreeMap<u64, Receipt>,
    pub(super) marks: Marks,
    /// As they were when the newest header was written.
    pub(super) marks_at_header: Marks,
    /// A save takes until the test says [`Input::Saved`].
    pub(super) saves_slowly: bool,
    pub(super) closed: bool,
    pub(super) failed: Option<PublishError>,
    pub(super) reconnects: u32,
    pub(super) frames: Vec<Bytes>,
    pub(super) beacons: u32,
    rng: StdRng,
}

pub(super) fn identity(n: u8) -> Arc<Identity> {
    Arc::new(Identity::from_seed(&[n; 32]))
}

impl World {
    /// Owner 1, publisher 2, and members 10… as readers; connected, nothing published.
    pub(super) fn new(readers: u8) -> Self {
        Self::with_policy(readers, Policy::default())
    }

    pub(super) fn with_policy(readers: u8, policy: Policy) -> Self {
        let (owner, publisher) = (identity(1), identity(2));
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: owner.public(), nonce: [9; 32] };
        let topic = Signed::sign(&genesis, owner.signing_key()).topic_id();
        let mut world = Self {
            outbox: Outbox::new(Arc::clone(&publisher), topic, &genesis, Marks::default()),
            broker: Acceptor::new(topic, &genesis),
            owner,
            publisher,
            topic,
            genesis,
            log: Vec::new(),
            tables: HashMap::new(),
            now: START_MS,
            connected: false,
            answers: Vec::new(),
            news: Vec::new(),
            receipts: BTreeMap::new(),
            marks: Marks::default(),
            marks_at_header: Marks::default(),
            saves_slowly: false,
            closed: false,
            failed: None,
            reconnects: 0,
            frames: Vec::new(),
            beacons: 0,
            rng: StdRng::seed_from_u64(1),
        };
        let mut ops = vec![Op::Add { identity: world.publisher.public(), role: Role::Publisher }];
        ops.extend((0..readers).map(|n| Op::Add { identity: identity(10 + n).public(), role: Role::Reader }));
        if policy != Policy::default() {
            ops.push(Op::set_policy(policy));
        }
        world.roster(&ops);
        world.connect();
        world
    }

    /// The admin appends an entry at the broker; the publisher sees it with [`World::tell`].
    pub(super) fn roster(&mut self, ops: &[Op]) {
        let bundle = self.broker.roster().sign(ops, &self.owner, self.now).unwrap();
        self.broker.accept_roster(&bundle, Offset(self.log.len() as u64)).unwrap();
        self.log.push(Stored::Roster(bundle.clone()));
        self.news.push(bundle);
    }

    pub(super) fn add(&mut self, n: u8) {
        self.roster(&[Op::Add { identity: identity(n).public(), role: Role::Reader }]);
    }

    pub(super) fn remove(&mut self, n: u8) {
        let key = identity(n).public();
        let (member, _) = self.broker.roster().find(&key).unwrap();
        self.roster(&[Op::Remove { member, identity: key }]);
    }

    /// The publisher's watch catches up.
    pub(super) fn tell(&mut self) {
        for bundle in std::mem::take(&mut self.news) {
            self.input(Input::Roster { entry: bundle.entry, ops: bundle.ops });
        }
    }

    pub(super) fn connect(&mut self) {
        let from = self.outbox.roster().chain().seq();
        let missed: Vec<EntryBundle> = self
            .log
            .iter()
            .filter_map(
                |stored| if let Stored::Roster(bundle) = stored { Some(bundle.clone()) } else { None },
            )
            .skip(usize::try_from(from.0).unwrap())
            .collect();
        self.news.clear();
        for bundle in missed {
            self.input(Input::Roster { entry: bundle.entry, ops: bundle.ops });
        }
        self.connected = true;
        let own = self.own_context().map(Box::new);
        let roster_seq = self.broker.roster().chain().seq();
        self.input(Input::Connected { own, roster_seq });
    }

    pub(super) fn own_context(&self) -> Option<Context> {
        let lane = self.broker.lane(&self.publisher.public())?;
        Some(Context {
            epoch: EpochDelivery { offset: lane.header_offset(), header: lane.signed().clone(), slot: None },
            batch: lane.last().map(|last| (last.digest.clone(), last.offset)),
        })
    }

    /// The connection breaks; answers under way are lost with it.
    pub(super) fn disconnect(&mut self) {
        self.answers.clear();
        self.connected = false;
        self.input(Input::Lost);
    }

    /// The process dies and starts again with the marks it saved.
    pub(super) fn restart(&mut self, marks: Marks) {
        self.answers.clear();
        self.connected = false;
        self.outbox = Outbox::new(Arc::clone(&self.publisher), self.topic, &self.genesis, marks);
        self.connect();
    }

    pub(super) fn send(&mut self, token: u64) {
        let message = Message::from(format!("message {token}")).encode().unwrap();
        self.input(Input::Send { token, message });
    }

    pub(super) fn send_bytes(&mut self, token: u64, len: usize) {
        let message = Message::from("m".repeat(len)).encode().unwrap();
        self.input(Input::Send { token, message });
    }

    pub(super) fn advance_clock(&mut self, ms: u64) {
        self.now += ms;
        self.input(Input::Tick);
    }

    /// Gives one input and does what the outbox asks for, except for writing, which [`World::write`] does.
    pub(super) fn input(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.outbox.handle(input, self.now, &mut effects);
        for effect in effects {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::BuildEpoch(work) => {
                let built = work.make(&mut self.rng).unwrap();
                self.input(Input::EpochBuilt(Box::new(built)));
            }
            Effect::UploadTable { table, slots_hash, .. } => {
                assert!(self.connected);
                self.tables.insert(slots_hash, table);
                self.input(Input::TableStored);
            }
            Effect::Write(frame) => self.arrive(frame),
            Effect::Resolve { token, receipt } => {
                assert!(self.receipts.insert(token, receipt).is_none(), "answered twice");
            }
            Effect::Save(marks) => {
                let header = marks.coming.map(|(epoch, _)| epoch);
                self.marks = marks;
                if let Some(epoch) = header.filter(|_| !self.saves_slowly) {
                    self.input(Input::Saved(epoch));
                }
            }
            Effect::Reconnect { .. } => {
                self.reconnects += 1;
                self.answers.clear();
                self.connected = false;
            }
            Effect::Closed => self.closed = true,
            Effect::Fail(error) => self.failed = Some(error),
        }
    }

    /// One frame reaches the broker, which answers by its rules.
    fn arrive(&mut self, frame: Bytes) {
        assert!(self.connected, "a frame without a connection");
        self.frames.push(frame.clone());
        let me = self.publisher.public();
        let (kind, _) = FrameKind::parse(*frame.first_chunk::<FRAME_HEADER>().unwrap()).unwrap();
        let record = match Request::decode(kind, frame.slice(FRAME_HEADER..)).unwrap() {
            Request::Record(record) => Record::decode(record).unwrap(),
            Request::Beacon(beacon) => {
                self.beacons += u32::from(self.broker.check_beacon(&me, &beacon).is_some());
                return;
            }
            other => panic!("unexpected {other:?}"),
        };
        let at = Offset(self.log.len() as u64);
        let (number, verdict) = match &record {
            Record::Header(header) => {
                self.marks_at_header = self.marks.clone();
                let parsed = header.peek().unwrap();
                let known = parsed.slot_count == 0 || self.tables.contains_key(&parsed.slots_hash);
                ((parsed.epoch, None), self.broker.accept_header(&me, header, known, at))
            }
            Record::Batch(batch) => {
                let mut claim = BatchClaim::read(batch).unwrap();
                if let Some(lane) = self.broker.lane(&me) {
                    claim.verify(&lane.header_hash(), &lane.header().epoch_vk);
                }
                let parsed = batch.peek().unwrap();
                ((parsed.epoch, Some(parsed.batch_no)), self.broker.accept_batch(&me, &claim, at))
            }
            Record::Roster(_) => panic!("a publisher sends no roster entries"),
        };
        let answer = match verdict {
            Ok(Verdict::Store) => {
                self.log.push(match record {
                    Record::Header(header) => Stored::Header(header),
                    Record::Batch(batch) => Stored::Batch(batch),
                    Record::Roster(_) => unreachable!(),
                });
                Ok(ack(number, at))
            }
            Ok(Verdict::Duplicate { offset }) => Ok(ack(number, offset)),
            Ok(Verdict::Compare { .. }) => panic!("nothing is that old here"),
            Err(refusal) => Err(refusal),
        };
        self.answers.push(answer);
    }

    /// The newest beacon among the frames written.
    pub(super) fn last_beacon(&self) -> Beacon {
        let beacons = self.frames.iter().filter_map(|frame| {
            let (kind, _) = FrameKind::parse(*frame.first_chunk::<FRAME_HEADER>()?).ok()?;
            match Request::decode(kind, frame.slice(FRAME_HEADER..)).ok()? {
                Request::Beacon(beacon) => beacon.peek().ok(),
                _ => None,
            }
        });
        beacons.last().expect("a beacon was written")
    }

    /// The stream takes frames until there is none.
    pub(super) fn write(&mut self) {
        while self.connected && self.outbox.has_frame(self.now) {
            self.input(Input::Writable);
        }
    }

    /// The stream takes one frame.
    pub(super) fn write_one(&mut self) {
        if self.connected && self.outbox.has_frame(self.now) {
            self.input(Input::Writable);
        }
    }

    /// Answers reach the publisher.
    pub(super) fn answer(&mut self) {
        for answer in std::mem::take(&mut self.answers) {
            if !self.connected {
                return;
            }
            self.input(match answer {
                Ok(ack) => Input::Acked(ack),
                Err(refusal) => Input::Refused(refusal),
            });
        }
    }

    /// Everything runs until nothing is left to do.
    pub(super) fn settle(&mut self) {
        for _ in 0..200 {
            if self.failed.is_some() || self.closed {
                return;
            }
            if !self.connected {
                self.connect();
            }
            self.tell();
            self.write();
            let idle = self.answers.is_empty();
            self.answer();
            if idle && !self.outbox.has_frame(self.now) {
                return;
            }
        }
        panic!("it does not settle");
    }

    /// The log as `member` reads it: (seq, text) of every batch it could open, in the log's order.
    pub(super) fn read_as(&self, member: &Identity) -> Vec<(u64, String)> {
        let mut roster = sealcast_proto::roster::Roster::new(self.topic, &self.genesis);
        let secret = WrapSecret::of_identity(member);
        let me = member.public();
        let mut index: Option<MemberIndex> = None;
        let mut keys: Option<EpochReceiver> = None;
        let mut newest: Option<(EpochHeader, Hash)> = None;
        let mut read = Vec::new();
        for stored in &self.log {
            match stored {
                Stored::Roster(bundle) => {
                    match roster.apply(&bundle.entry, &bundle.ops) {
                        Ok(_) | Err(RosterError::Known(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                    // A removed member keeps all it ever held, and still gets the log: see what it can open.
                    index = roster.find(&me).map(|(index, _)| index).or(index);
                }
                Stored::Header(signed) => {
                    let header = signed.verify(&self.publisher.public()).unwrap();
                    let hash = signed.hash();
                    let slot = index.and_then(|index| find_slot(self.tables.get(&header.slots_hash)?, index));
                    let opened = slot
                        .and_then(|slot| EpochReceiver::open_slot(&header, &hash, &slot, &me, &secret).ok());
                    keys = opened.or_else(|| keys.as_ref()?.follow(&header, &hash, slot.as_ref()).ok());
                    newest = Some((header, hash));
                }
                Stored::Batch(batch) => {
                    let (header, hash) = newest.as_ref().unwrap();
                    let verified = batch.clone().verify(hash, &header.epoch_vk).unwrap();
                    let first = verified.batch().first_seq;
                    let Some(keys) = &mut keys else { continue };
                    if keys.next_batch_no() != verified.batch().batch_no {
                        keys.fast_forward(verified.batch().batch_no).unwrap();
                    }
                    let Ok(messages) = keys.open(&verified) else { continue };
                    for (i, message) in messages.into_iter().enumerate() {
                        let message = Message::decode(message).unwrap();
                        read.push((first.0 + i as u64, String::from_utf8(message.payload.to_vec()).unwrap()));
                    }
                }
            }
        }
        read
    }

    /// Headers stored, in order.
    pub(super) fn headers(&self) -> Vec<EpochHeader> {
        self.log
            .iter()
            .filter_map(
                |stored| {
                    if let Stored::Header(header) = stored { Some(header.peek().unwrap()) } else { None }
                },
            )
            .collect()
    }

    /// Batches stored: epoch, number, first seq, count.
    pub(super) fn batches(&self) -> Vec<(Epoch, BatchNo, Seq, u32)> {
        self.log
            .iter()
            .filter_map(|stored| if let Stored::Batch(batch) = stored { batch.peek().ok() } else { None })
            .map(|batch| (batch.epoch, batch.batch_no, batch.first_seq, batch.count))
            .collect()
    }

    /// Every message number stands in the log once, in order, without a hole.
    pub(super) fn assert_dense(&self) {
        let mut next = 0;
        for (_, _, first, count) in self.batches() {
            assert_eq!(first.0, next, "{:?}", self.batches());
            next += u64::from(count);
        }
    }

    pub(super) fn reader(&self, n: u8) -> Vec<String> {
        self.read_as(&identity(n)).into_iter().map(|(_, text)| text).collect()
    }

    pub(super) fn members(&self) -> HashSet<PublicKey> {
        self.broker.roster().members().map(|(_, member)| member.identity).collect()
    }

    pub(super) fn head(&self) -> RosterSeq {
        self.broker.roster().chain().seq()
    }
}

fn ack((epoch, batch_no): (Epoch, Option<BatchNo>), offset: Offset) -> Ack {
    Ack { epoch, batch_no, offset, level: Level::Durable }
}
