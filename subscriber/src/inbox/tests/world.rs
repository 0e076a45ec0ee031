//! A topic in memory: an owner, publishers, a log, and a broker that serves it as docs/protocol.md section 8 says.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, EpochSender, Keks, Message, WrapKey, WrapTarget, advance, fresh, rewrap};
use sealcast_proto::frame::{
    Context, EpochDelivery, From as Begin, Level, Reply, RosterDelivery, Start, Subscribe,
};
use sealcast_proto::object::{EpochHeader, Genesis, PrevClose, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};
use sealcast_proto::slot::find_slot;
use sealcast_proto::{
    Epoch, Hash, Identity, MemberIndex, Offset, PublicKey, Seq, Signed, SlotSource, TopicId,
};

pub(super) const START_MS: u64 = 1_800_000_000_000;

pub(super) fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

pub(super) fn key(n: u8) -> PublicKey {
    identity(n).public()
}

pub(super) const OWNER: u8 = 1;

#[derive(Clone)]
pub(super) enum Stored {
    Roster { bundle: EntryBundle, roles: Bytes, policy: Bytes },
    Epoch { header: Signed<EpochHeader>, table: Bytes },
    Batch { publisher: PublicKey, batch: BatchRecord },
}

pub(super) struct World {
    pub(super) topic: TopicId,
    pub(super) genesis: Signed<Genesis>,
    pub(super) roster: Roster,
    pub(super) log: Vec<Stored>,
    /// Offsets below are no longer kept.
    pub(super) trimmed: usize,
    pub(super) level: Level,
    pub(super) now: u64,
    /// The newest prekey that publishers know of each member.
    pub(super) prekeys: BTreeMap<PublicKey, (u32, [u8; 32])>,
    members: BTreeMap<PublicKey, MemberIndex>,
    rng: StdRng,
}

impl World {
    /// A topic of the owner, with these readers.
    pub(super) fn new(readers: &[u8]) -> Self {
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: key(OWNER), nonce: [7; 32] };
        let signed = Signed::sign(&genesis, identity(OWNER).signing_key());
        let topic = signed.topic_id();
        let mut world = Self {
            topic,
            genesis: signed,
            roster: Roster::new(topic, &genesis),
            log: Vec::new(),
            trimmed: 0,
            level: Level::Durable,
            now: START_MS,
            prekeys: BTreeMap::new(),
            members: BTreeMap::from([(key(OWNER), MemberIndex(0))]),
            rng: StdRng::seed_from_u64(1),
        };
        let ops: Vec<Op> =
            readers.iter().map(|n| Op::Add { identity: key(*n), role: Role::Reader }).collect();
        if !ops.is_empty() {
            world.change(&ops);
        }
        world
    }

    pub(super) fn change(&mut self, ops: &[Op]) {
        self.change_by(OWNER, ops);
    }

    pub(super) fn change_by(&mut self, admin: u8, ops: &[Op]) {
        let bundle = self.roster.sign(ops, &identity(admin), self.now).unwrap();
        let change = self.roster.apply(&bundle.entry, &bundle.ops).unwrap();
        self.members.extend(change.added.iter().map(|(index, identity, _)| (*identity, *index)));
        let roles = self.roster.chain().roles_bytes();
        let policy = self.roster.chain().policy_bytes().clone();
        self.log.push(Stored::Roster { bundle, roles, policy });
    }

    pub(super) fn add(&mut self, n: u8, role: Role) {
        self.change(&[Op::Add { identity: key(n), role }]);
    }

    pub(super) fn remove(&mut self, n: u8) {
        let (member, _) = self.roster.find(&key(n)).unwrap();
        self.change(&[Op::Remove { member, identity: key(n) }]);
    }

    pub(super) fn set_policy(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.roster.chain().policy().clone();
        change(&mut policy);
        self.change(&[Op::set_policy(policy)]);
    }

    pub(super) fn targets(&self, of: impl Fn(&PublicKey) -> bool) -> Vec<WrapTarget> {
        let members = self.roster.members().filter(|(_, member)| of(&member.identity));
        let target = |(index, member): (MemberIndex, &sealcast_proto::roster::Member)| {
            let (source, x25519) = match self.prekeys.get(&member.identity) {
                Some((id, x25519)) => (SlotSource::Prekey(*id), WrapKey::from(*x25519)),
                None => (SlotSource::Static, WrapKey::of_identity(&member.identity)),
            };
            WrapTarget { member: index, identity: member.identity, source, x25519 }
        };
        members.map(target).collect()
    }

    pub(super) fn next_offset(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    pub(super) fn slot_of(&self, table: &[u8], me: &PublicKey) -> Option<sealcast_proto::slot::Slot> {
        find_slot(table, *self.members.get(me)?)
    }

    fn roster_reply(&self, at: usize, me: &PublicKey, whole: bool) -> Option<Reply> {
        let Stored::Roster { bundle, roles, policy } = &self.log[at] else { return None };
        let entry = bundle.entry.peek().unwrap();
        let mine = sealcast_proto::roster::removes(&entry, &bundle.ops, me).unwrap();
        Some(Reply::Roster(RosterDelivery {
            offset: Offset(at as u64),
            entry: bundle.entry.clone(),
            ops: mine.then(|| bundle.ops.clone()),
            roles: if whole { Some(roles.clone()) } else { bundle.roles.clone() },
            policy: if whole { Some(policy.clone()) } else { bundle.policy.clone() },
        }))
    }

    fn epoch_delivery(&self, at: usize, me: &PublicKey) -> Option<EpochDelivery> {
        let Stored::Epoch { header, table } = &self.log[at] else { return None };
        Some(EpochDelivery {
            offset: Offset(at as u64),
            header: header.clone(),
            slot: self.slot_of(table, me),
        })
    }

    /// What a broker sends to `me`.
    pub(super) fn serve(&self, subscribe: &Subscribe, me: &PublicKey) -> Vec<Reply> {
        let head = self.log.len();
        let start = match subscribe.from {
            Begin::Earliest => self.trimmed,
            Begin::Latest => head,
            Begin::Offset(offset) => (offset.0 as usize).max(self.trimmed).min(head),
            Begin::Time(_) => unreachable!("not served here"),
        };
        let mut out = vec![Reply::Start(Start {
            genesis: self.genesis.clone(),
            start_offset: Offset(start as u64),
            next_offset: self.next_offset(),
            roster_seq: self.roster.chain().seq(),
            level: self.level,
        })];
        let entry = |at: usize| match &self.log[at] {
            Stored::Roster { bundle, .. } => Some(bundle.entry.peek().unwrap()),
            _ => None,
        };
        let first = match subscribe.roster_seq {
            Some(seq) => (0..start).find(|at| entry(*at).is_some_and(|entry| entry.seq > seq)),
            None => (0..start).rev().find(|at| entry(*at).is_some_and(|entry| entry.signer == key(OWNER))),
        };
        for at in first.unwrap_or(start)..start {
            out.extend(self.roster_reply(at, me, subscribe.roster_seq.is_none() && Some(at) == first));
        }
        out.extend(self.contexts(start, me));
        out.extend((start..head).flat_map(|at| self.record(at, me)));
        out.push(Reply::AtHead { next_offset: self.next_offset(), end_of_stream: subscribe.until_head });
        out
    }

    pub(super) fn contexts(&self, start: usize, me: &PublicKey) -> Vec<Reply> {
        let mut newest = BTreeMap::new();
        let mut last = BTreeMap::new();
        for at in 0..start {
            match &self.log[at] {
                Stored::Epoch { header, .. } => {
                    let publisher = header.peek().unwrap().publisher;
                    newest.insert(publisher, at);
                    last.remove(&publisher);
                }
                Stored::Batch { publisher, batch } => {
                    last.insert(*publisher, (batch.digest(), Offset(at as u64)));
                }
                Stored::Roster { .. } => {}
            }
        }
        let context = |(publisher, at): (&PublicKey, &usize)| {
            let epoch = self.epoch_delivery(*at, me).unwrap();
            Reply::Context(Context { epoch, batch: last.get(publisher).cloned() })
        };
        newest.iter().map(context).collect()
    }

    /// The record at `at`, as it is delivered.
    pub(super) fn record(&self, at: usize, me: &PublicKey) -> Option<Reply> {
        match &self.log[at] {
            Stored::Roster { .. } => self.roster_reply(at, me, false),
            Stored::Epoch { .. } => self.epoch_delivery(at, me).map(Reply::Epoch),
            Stored::Batch { batch, .. } => {
                Some(Reply::Record(Offset(at as u64), Record::Batch(batch.clone()).encode()))
            }
        }
    }

    pub(super) fn fetch_epochs(
        &self,
        publisher: &PublicKey,
        epoch: Epoch,
        me: &PublicKey,
    ) -> Vec<EpochDelivery> {
        let deliveries = (0..self.log.len()).filter_map(|at| self.epoch_delivery(at, me));
        let wanted = deliveries.filter(|delivery| {
            let header = delivery.header.peek().unwrap();
            header.publisher == *publisher && header.epoch <= epoch
        });
        let all: Vec<_> = wanted.collect();
        let dh = |delivery: &EpochDelivery| delivery.slot.is_some_and(|slot| slot.source != SlotSource::Kek);
        let from = all.iter().rposition(dh).unwrap_or(0);
        all[from..].to_vec()
    }
}

/// A publisher.
pub(super) struct Pen {
    pub(super) identity: Identity,
    pub(super) sender: Option<EpochSender>,
    pub(super) keks: Option<Keks>,
    pub(super) next_seq: u64,
    last_epoch: u64,
}

impl Pen {
    pub(super) fn new(n: u8) -> Self {
        Self { identity: identity(n), sender: None, keks: None, next_seq: 0, last_epoch: 0 }
    }

    pub(super) fn public(&self) -> PublicKey {
        self.identity.public()
    }

    pub(super) fn sender(&self) -> &EpochSender {
        self.sender.as_ref().unwrap()
    }

    pub(super) fn plan(&mut self, world: &World) -> EpochPlan {
        self.last_epoch = (self.last_epoch + 1).max(world.now);
        EpochPlan {
            topic: world.topic,
            publisher: self.public(),
            epoch: Epoch(self.last_epoch),
            prev_header_hash: self.sender.as_ref().map_or(Hash::ZERO, EpochSender::header_hash),
            roster_seq: world.roster.chain().seq(),
            roster_hash: world.roster.chain().hash(),
        }
    }

    pub(super) fn close(&self) -> Option<PrevClose> {
        let sender = self.sender.as_ref()?;
        Some(PrevClose { batches: sender.next_batch_no().0, last_batch_hash: sender.last_hash() })
    }

    /// A fresh epoch for all members.
    pub(super) fn begin(&mut self, world: &mut World) {
        let plan = self.plan(world);
        let close = self.close();
        self.begin_as(world, &plan, close, &[]);
    }

    /// A fresh epoch for all members but these, as planned.
    pub(super) fn begin_as(
        &mut self,
        world: &mut World,
        plan: &EpochPlan,
        close: Option<PrevClose>,
        without: &[u8],
    ) {
        let out: Vec<_> = without.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| !out.contains(identity));
        let epoch = fresh(plan, &targets, &mut world.rng).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(close, world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// An advance, with slots for these newcomers.
    pub(super) fn advance(&mut self, world: &mut World, newcomers: &[u8]) {
        let plan = self.plan(world);
        let keys: Vec<_> = newcomers.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| keys.contains(identity));
        let from = self.sender.take().unwrap();
        let close = Some(PrevClose { batches: from.next_batch_no().0, last_batch_hash: from.last_hash() });
        let epoch = advance(&plan, &from.advance_from(), &targets, &mut world.rng).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(close, world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// A rewrap for all members but these.
    pub(super) fn rewrap(&mut self, world: &mut World, without: &[u8]) {
        let plan = self.plan(world);
        let out: Vec<_> = without.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| !out.contains(identity));
        let epoch = rewrap(&plan, self.keks.as_ref().unwrap(), &targets, &mut world.rng).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(self.close(), world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// A batch of these messages, unpublished.
    pub(super) fn seal(&mut self, world: &World, messages: &[&str], end: bool) -> BatchRecord {
        let encoded: Vec<Bytes> =
            messages.iter().map(|text| Message::from(*text).encode().unwrap()).collect();
        self.seal_raw(world, &encoded, end)
    }

    pub(super) fn seal_raw(&mut self, world: &World, messages: &[Bytes], end: bool) -> BatchRecord {
        let first = Seq(self.next_seq);
        self.next_seq += messages.len() as u64;
        self.sender.as_mut().unwrap().seal(messages, first, world.now, end).unwrap()
    }

    pub(super) fn publish(&mut self, world: &mut World, messages: &[&str]) {
        let batch = self.seal(world, messages, false);
        world.log.push(Stored::Batch { publisher: self.public(), batch });
    }

    pub(super) fn end(&mut self, world: &mut World) {
        let batch = self.seal(world, &[], true);
        world.log.push(Stored::Batch { publisher: self.public(), batch });
    }

    pub(super) fn beacon(&self, world: &World) -> Reply {
        let chain = world.roster.chain();
        Reply::Beacon(self.public(), self.sender().beacon(chain.seq(), chain.hash(), world.now))
    }
}

/// Signs a header with changes that the real publisher would not make.
pub(super) fn resign(
    header: &Signed<EpochHeader>,
    signer: &Identity,
    change: impl FnOnce(&mut EpochHeader),
) -> Signed<EpochHeader> {
    let mut parsed = header.peek().unwrap();
    change(&mut parsed);
    Signed::sign(&parsed, signer.signing_key())
}

pub(super) fn flip(bytes: &Bytes, at: usize) -> Bytes {
    let mut out = bytes.to_vec();
    out[at] ^= 1;
    out.into()
}
