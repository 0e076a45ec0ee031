//! A topic in memory for the attacks: material that real senders made, and what an honest broker would serve of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealcast_envelope::{WrapKey, WrapTarget};
use sealcast_proto::frame::{
    Context, EpochDelivery, From as Begin, Level, Reply, RosterDelivery, Start, Subscribe,
};
use sealcast_proto::object::{EpochHeader, Genesis, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};
use sealcast_proto::slot::find_slot;
use sealcast_proto::{Epoch, Identity, MemberIndex, Offset, PublicKey, Signed, SlotSource, TopicId};

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

pub(crate) fn key(n: u8) -> PublicKey {
    identity(n).public()
}

pub(crate) const OWNER: u8 = 1;

#[derive(Clone)]
pub(crate) enum Stored {
    Roster { bundle: EntryBundle, roles: Bytes, policy: Bytes },
    Epoch { header: Signed<EpochHeader>, table: Bytes },
    Batch { publisher: PublicKey, batch: BatchRecord },
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) topic: TopicId,
    pub(crate) genesis: Signed<Genesis>,
    pub(crate) roster: Roster,
    pub(crate) log: Vec<Stored>,
    /// Offsets below are no longer kept.
    pub(crate) trimmed: usize,
    pub(crate) level: Level,
    pub(crate) now: u64,
    /// The newest prekey that publishers know of each member.
    pub(crate) prekeys: BTreeMap<PublicKey, (u32, [u8; 32])>,
    members: BTreeMap<PublicKey, MemberIndex>,
}

impl World {
    /// A topic of the owner, with these readers.
    pub(crate) fn new(readers: &[u8]) -> Self {
        Self::at(now_ms(), readers)
    }

    /// The same, begun at another time.
    pub(crate) fn at(now: u64, readers: &[u8]) -> Self {
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: key(OWNER), nonce: rand::random() };
        let signed = Signed::sign(&genesis, identity(OWNER).signing_key());
        let topic = signed.topic_id();
        let mut world = Self {
            topic,
            genesis: signed,
            roster: Roster::new(topic, &genesis),
            log: Vec::new(),
            trimmed: 0,
            level: Level::Durable,
            now,
            prekeys: BTreeMap::new(),
            members: BTreeMap::from([(key(OWNER), MemberIndex(0))]),
        };
        let ops: Vec<Op> =
            readers.iter().map(|n| Op::Add { identity: key(*n), role: Role::Reader }).collect();
        if !ops.is_empty() {
            world.change(&ops);
        }
        world
    }

    pub(crate) fn change(&mut self, ops: &[Op]) {
        self.change_by(OWNER, ops);
    }

    pub(crate) fn change_by(&mut self, admin: u8, ops: &[Op]) {
        let bundle = self.roster.sign(ops, &identity(admin), self.now).unwrap();
        let change = self.roster.apply(&bundle.entry, &bundle.ops).unwrap();
        self.members.extend(change.added.iter().map(|(index, identity, _)| (*identity, *index)));
        let roles = self.roster.chain().roles_bytes();
        let policy = self.roster.chain().policy_bytes().clone();
        self.log.push(Stored::Roster { bundle, roles, policy });
    }

    pub(crate) fn add(&mut self, n: u8, role: Role) {
        self.change(&[Op::Add { identity: key(n), role }]);
    }

    pub(crate) fn remove(&mut self, n: u8) {
        let (member, _) = self.roster.find(&key(n)).unwrap();
        self.change(&[Op::Remove { member, identity: key(n) }]);
    }

    pub(crate) fn set_policy(&mut self, change: impl FnOnce(&mut Policy)) {
        let mut policy = self.roster.chain().policy().clone();
        change(&mut policy);
        self.change(&[Op::set_policy(policy)]);
    }

    pub(crate) fn targets(&self, of: impl Fn(&PublicKey) -> bool) -> Vec<WrapTarget> {
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

    pub(crate) fn next_offset(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    pub(crate) fn slot_of(&self, table: &[u8], me: &PublicKey) -> Option<sealcast_proto::slot::Slot> {
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
    pub(crate) fn serve(&self, subscribe: &Subscribe, me: &PublicKey) -> Vec<Reply> {
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

    pub(crate) fn contexts(&self, start: usize, me: &PublicKey) -> Vec<Reply> {
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
    pub(crate) fn record(&self, at: usize, me: &PublicKey) -> Option<Reply> {
        match &self.log[at] {
            Stored::Roster { .. } => self.roster_reply(at, me, false),
            Stored::Epoch { .. } => self.epoch_delivery(at, me).map(Reply::Epoch),
            Stored::Batch { batch, .. } => {
                Some(Reply::Record(Offset(at as u64), Record::Batch(batch.clone()).encode()))
            }
        }
    }

    pub(crate) fn fetch_epochs(
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
