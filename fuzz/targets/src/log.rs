//! One topic's honest log, made once, and a broker that serves it to member 3 as docs/protocol.md section 8 says.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sealcast_envelope::{
    EpochPlan, EpochSender, Keks, Message, PrekeyRing, WrapKey, WrapTarget, advance, fresh, rewrap,
};
use sealcast_proto::frame::{
    Context, EpochDelivery, From as Begin, Level, Reply, RosterDelivery, Start, Subscribe,
};
use sealcast_proto::object::{Beacon, EpochHeader, Mode, PrevClose};
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster, removes};
use sealcast_proto::slot::find_slot;
use sealcast_proto::{Epoch, Hash, MemberIndex, Offset, PublicKey, Seq, Signed, SlotSource};

use crate::valid;

/// Who reads.
pub(crate) const READER: u8 = 3;

enum Stored {
    Entry { bundle: EntryBundle, roles: Bytes, policy: Bytes },
    Epoch { header: Signed<EpochHeader>, table: Bytes },
    Batch { publisher: PublicKey, batch: BatchRecord },
}

/// See the module's page.
pub(crate) struct Log {
    stored: Vec<Stored>,
    reader: MemberIndex,
    /// Every message of every publisher, by its number.
    pub(crate) said: BTreeMap<(PublicKey, Seq), Message>,
    /// A beacon after each record of a publisher.
    pub(crate) beacons: Vec<(PublicKey, Signed<Beacon>)>,
    /// The reader's prekeys.
    pub(crate) ring: Vec<u8>,
    head: sealcast_proto::RosterSeq,
}

/// The one there is.
pub(crate) static LOG: LazyLock<Log> = LazyLock::new(Maker::make);

struct Maker {
    log: Log,
    roster: Roster,
    senders: BTreeMap<u8, (EpochSender, u64)>,
    keks: BTreeMap<u8, Keks>,
    prekey: Option<(u32, [u8; 32])>,
    now: u64,
    rng: StdRng,
}

impl Maker {
    fn make() -> Log {
        let (genesis, _, topic) = valid::genesis();
        let log = Log {
            stored: Vec::new(),
            reader: MemberIndex(2),
            said: BTreeMap::new(),
            beacons: Vec::new(),
            ring: Vec::new(),
            head: sealcast_proto::RosterSeq(0),
        };
        let mut maker = Self {
            log,
            roster: Roster::new(topic, &genesis),
            senders: BTreeMap::new(),
            keks: BTreeMap::new(),
            prekey: None,
            now: valid::NOW,
            rng: StdRng::seed_from_u64(3),
        };
        maker.history();
        maker.log.head = maker.roster.chain().seq();
        maker.log
    }

    /// Something of everything: locked epochs, an advance, a prekey, a removal and its rewrap, an END, two publishers.
    fn history(&mut self) {
        let reader = valid::identity(READER).public();
        self.entry(&[Op::Add { identity: valid::identity(2).public(), role: Role::Publisher }]);
        self.epoch(1, Mode::Fresh);
        self.batch(1, 1, false);
        self.entry(&[Op::Add { identity: reader, role: Role::Reader }]);
        self.epoch(2, Mode::Fresh);
        self.batch(2, 2, false);
        self.batch(2, 1, false);
        self.epoch(1, Mode::Fresh);
        self.batch(1, 1, false);
        self.entry(&[Op::Add { identity: valid::identity(4).public(), role: Role::Reader }]);
        self.epoch(2, Mode::Advance);
        self.batch(2, 3, false);

        let mut ring = PrekeyRing::new();
        let made =
            ring.rotate_if_due(&valid::identity(READER), 1_000_000, 1_000_000, self.now, true, &mut self.rng);
        let made = made.and_then(|signed| signed.peek().ok()).expect("a prekey");
        self.prekey = Some((made.prekey_id, made.x25519));
        self.log.ring = ring.encode().to_vec();
        self.epoch(2, Mode::Fresh);
        self.batch(2, 1, false);
        let gone = valid::identity(4).public();
        let (member, _) = self.roster.find(&gone).expect("a member");
        self.entry(&[Op::Remove { member, identity: gone }]);
        self.epoch(2, Mode::Rewrap);
        self.batch(2, 2, false);
        self.epoch(1, Mode::Fresh);
        self.batch(1, 2, false);
        self.batch(2, 0, true);
    }

    fn entry(&mut self, ops: &[Op]) {
        let bundle = self.roster.sign(ops, &valid::identity(1), self.now).expect("the owner may");
        self.roster.apply(&bundle.entry, &bundle.ops).expect("its own entry");
        let (roles, policy) = (self.roster.chain().roles_bytes(), self.roster.chain().policy_bytes().clone());
        self.log.stored.push(Stored::Entry { bundle, roles, policy });
        self.now += 1;
    }

    fn targets(&self, of: impl Fn(&PublicKey) -> bool) -> Vec<WrapTarget> {
        let reader = valid::identity(READER).public();
        let members = self.roster.members().filter(|(_, member)| of(&member.identity));
        let target = members.map(|(index, member)| {
            let (source, x25519) = match self.prekey.filter(|_| member.identity == reader) {
                Some((id, x25519)) => (SlotSource::Prekey(id), WrapKey::from(x25519)),
                None => (SlotSource::Static, WrapKey::of_identity(&member.identity)),
            };
            WrapTarget { member: index, identity: member.identity, source, x25519 }
        });
        target.collect()
    }

    fn epoch(&mut self, n: u8, mode: Mode) {
        let publisher = valid::identity(n);
        let before = self.senders.remove(&n);
        let sender = before.as_ref().map(|(sender, _)| sender);
        let plan = EpochPlan {
            topic: self.roster.chain().topic(),
            publisher: publisher.public(),
            epoch: Epoch(self.now),
            prev_header_hash: sender.map_or(Hash::ZERO, EpochSender::header_hash),
            roster_seq: self.roster.chain().seq(),
            roster_hash: self.roster.chain().hash(),
        };
        let close = sender.map(|sender| PrevClose {
            batches: sender.next_batch_no().0,
            last_batch_hash: sender.last_hash(),
        });
        let all = self.targets(|_| true);
        let newcomers = self.targets(|member| *member == valid::identity(4).public());
        let keks = self.keks.remove(&n);
        let new = match (mode, sender, &keks) {
            (Mode::Advance, Some(sender), _) => {
                advance(&plan, &sender.advance_from(), &newcomers, &mut self.rng)
            }
            (Mode::Rewrap, _, Some(keks)) => rewrap(&plan, keks, &all, &mut self.rng),
            _ => fresh(&plan, &all, &mut self.rng),
        };
        let new = new.expect("a sound plan");
        let table = new.table();
        let (header, sender, change) = new.finish(close, self.now, &publisher);
        self.keks.extend(change.accepted(keks).map(|keks| (n, keks)));
        self.senders.insert(n, (sender, before.map_or(0, |(_, seq)| seq)));
        self.log.stored.push(Stored::Epoch { header, table });
        self.spoke(n);
    }

    fn batch(&mut self, n: u8, count: u64, end: bool) {
        let publisher = valid::identity(n).public();
        let Some((sender, next)) = self.senders.get_mut(&n) else { return };
        let messages: Vec<Message> =
            (*next..*next + count).map(|seq| Message::from(format!("{n}: {seq}"))).collect();
        let encoded: Vec<Bytes> = messages.iter().map(|message| message.encode().expect("short")).collect();
        let batch = sender.seal(&encoded, Seq(*next), self.now, end).expect("within the limits");
        for (seq, message) in (*next..).map(Seq).zip(messages) {
            self.log.said.insert((publisher, seq), message);
        }
        *next += count;
        self.log.stored.push(Stored::Batch { publisher, batch });
        self.spoke(n);
    }

    fn spoke(&mut self, n: u8) {
        self.now += 1;
        let chain = self.roster.chain();
        if let Some((sender, _)) = self.senders.get(&n) {
            let beacon = sender.beacon(chain.seq(), chain.hash(), self.now);
            self.log.beacons.push((valid::identity(n).public(), beacon));
        }
    }
}

impl Log {
    /// How many records.
    pub(crate) fn len(&self) -> usize {
        self.stored.len()
    }

    /// The record at `at` as it is delivered to the reader.
    pub(crate) fn record(&self, at: usize, whole: bool) -> Option<Reply> {
        let offset = Offset(at as u64);
        Some(match self.stored.get(at)? {
            Stored::Entry { bundle, roles, policy } => {
                let me = valid::identity(READER).public();
                let mine = removes(&bundle.entry.peek().ok()?, &bundle.ops, &me).ok()?;
                Reply::Roster(RosterDelivery {
                    offset,
                    entry: bundle.entry.clone(),
                    ops: mine.then(|| bundle.ops.clone()),
                    roles: if whole { Some(roles.clone()) } else { bundle.roles.clone() },
                    policy: if whole { Some(policy.clone()) } else { bundle.policy.clone() },
                })
            }
            Stored::Epoch { .. } => Reply::Epoch(self.epoch(at)?),
            Stored::Batch { batch, .. } => Reply::Record(offset, Record::Batch(batch.clone()).encode()),
        })
    }

    fn epoch(&self, at: usize) -> Option<EpochDelivery> {
        let Some(Stored::Epoch { header, table }) = self.stored.get(at) else { return None };
        let slot = find_slot(table, self.reader);
        Some(EpochDelivery { offset: Offset(at as u64), header: header.clone(), slot })
    }

    /// All that answers this wish, up to a head at `head`.
    pub(crate) fn serve(&self, wish: &Subscribe, head: usize) -> Vec<Reply> {
        let head = head.min(self.len());
        let start = match wish.from {
            Begin::Earliest | Begin::Time(_) => 0,
            Begin::Latest => head,
            Begin::Offset(offset) => usize::try_from(offset.0).unwrap_or(head).min(head),
        };
        let entry = |at: usize| match self.stored.get(at) {
            Some(Stored::Entry { bundle, .. }) => bundle.entry.peek().ok(),
            _ => None,
        };
        let seq = (0..head).rev().find_map(entry).map_or(self.head, |entry| entry.seq);
        let mut out = vec![Reply::Start(Start {
            genesis: valid::genesis().1,
            start_offset: Offset(start as u64),
            next_offset: Offset(head as u64),
            roster_seq: seq,
            level: Level::Durable,
        })];
        let first = match wish.roster_seq {
            Some(held) => (0..start).find(|at| entry(*at).is_some_and(|entry| entry.seq > held)),
            None => (0..start).rev().find(|at| entry(*at).is_some()),
        };
        let entries = (first.unwrap_or(start)..start).filter(|at| entry(*at).is_some());
        out.extend(entries.filter_map(|at| self.record(at, wish.roster_seq.is_none() && Some(at) == first)));
        out.extend(self.contexts(start));
        out.extend((start..head).filter_map(|at| self.record(at, false)));
        out.push(Reply::AtHead { next_offset: Offset(head as u64), end_of_stream: wish.until_head });
        out
    }

    fn contexts(&self, start: usize) -> Vec<Reply> {
        let mut newest = BTreeMap::new();
        let mut last = BTreeMap::new();
        for (at, stored) in self.stored.iter().enumerate().take(start) {
            match stored {
                Stored::Epoch { header, .. } => {
                    let Ok(header) = header.peek() else { continue };
                    newest.insert(header.publisher, at);
                    last.remove(&header.publisher);
                }
                Stored::Batch { publisher, batch } => {
                    last.insert(*publisher, (batch.digest(), Offset(at as u64)));
                }
                Stored::Entry { .. } => {}
            }
        }
        let context = |(publisher, at): (&PublicKey, &usize)| {
            Some(Reply::Context(Context { epoch: self.epoch(*at)?, batch: last.get(publisher).cloned() }))
        };
        newest.iter().filter_map(context).collect()
    }

    /// A publisher's epochs up to this one, from the newest with a slot for the reader.
    pub(crate) fn epochs(&self, publisher: &PublicKey, epoch: Epoch) -> Vec<EpochDelivery> {
        let all = (0..self.len()).filter_map(|at| self.epoch(at)).filter(|delivery| {
            delivery.header.peek().is_ok_and(|header| header.publisher == *publisher && header.epoch <= epoch)
        });
        let all: Vec<_> = all.collect();
        let from = all.iter().rposition(|delivery| delivery.slot.is_some()).unwrap_or(0);
        all[from..].to_vec()
    }
}
