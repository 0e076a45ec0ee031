//! One world: its parties, what is drawn from the seed, and the end of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealcast_broker::internals::Origin;
use sealcast_broker::topic::{Input as TopicInput, Ticket};
use sealcast_envelope::WrapSecret;
use sealcast_proto::frame::{FRAME_HEADER, FrameKind, From as Begin, Request};
use sealcast_proto::object::{EpochHeader, Genesis, Mode, SUITE};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::{Op, Role, Roster};
use sealcast_proto::{BatchNo, Epoch, Identity, PublicKey, RosterSeq, Signed};

use crate::admin::Admin;
use crate::broker::Broker;
use crate::evil::Evil;
use crate::hoard::Thief;
use crate::oracle::{Failure, Invariant, Oracle, TakenHeader, has_plaintext};
use crate::plan::Profile;
use crate::publisher::{Ghost, Publisher};
use crate::ring::Ring;
use crate::subscriber::Subscriber;
use crate::tally::Tally;
use crate::{Flaw, Report};

/// When every world begins, milliseconds since 1970.
pub(crate) const START_MS: u64 = 1_800_000_000_000;

/// See the module.
pub(crate) struct World {
    seed: u64,
    pub(crate) now: u64,
    /// Decides what happens.
    pub(crate) rng: StdRng,
    /// Makes keys.
    pub(crate) crypto: StdRng,
    pub(crate) profile: Profile,
    pub(crate) broker: Broker,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    pub(crate) admins: Vec<Admin>,
    pub(crate) rings: BTreeMap<PublicKey, Ring>,
    pub(crate) ghosts: Vec<Ghost>,
    pub(crate) evil: Option<Evil>,
    pub(crate) oracle: Oracle,
    /// Everybody, members or not.
    pub(crate) people: Vec<Arc<Identity>>,
    /// Whoever lost a role at some time, or had none to begin with.
    pub(crate) lost_role: BTreeSet<PublicKey>,
    pub(crate) tickets: u64,
    /// The roster that each epoch was built on, by its publisher.
    built_on: BTreeMap<(usize, Epoch), RosterSeq>,
    sealed: BTreeSet<(usize, Epoch, BatchNo)>,
    pub(crate) flaw: Option<Flaw>,
    /// No more faults.
    pub(crate) quiet: bool,
    pub(crate) tally: Tally,
    pub(crate) digest: u64,
    failure: Option<Failure>,
    trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(seed: u64, flaw: Option<Flaw>, trace: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let crypto = StdRng::seed_from_u64(seed ^ 0x5ea1_ca57);
        let profile = Profile::drawn(&mut rng, flaw.is_some());
        let people: Vec<Arc<Identity>> =
            (0..10).map(|_| Arc::new(Identity::from_seed(&rng.random()))).collect();
        let genesis =
            Genesis { suite: SUITE, name: "sim".into(), owner: people[0].public(), nonce: rng.random() };
        let signed = Signed::sign(&genesis, people[0].signing_key());
        let origin = Origin { id: signed.topic_id(), genesis, signed };
        let evil = profile.evil.then(|| Evil::drawn(&mut rng));
        let memory = profile.policy.durability == Durability::Memory;
        let oracle = Oracle::new(evil.is_none(), memory);
        let roster = Roster::new(origin.id, &origin.genesis);
        let mut world = Self {
            seed,
            now: START_MS,
            rng,
            crypto,
            broker: Broker::new(origin),
            publishers: Vec::new(),
            subscribers: Vec::new(),
            admins: vec![Admin::new(Arc::clone(&people[0]), roster.clone())],
            rings: BTreeMap::new(),
            ghosts: Vec::new(),
            oracle,
            lost_role: BTreeSet::new(),
            tickets: 0,
            built_on: BTreeMap::new(),
            sealed: BTreeSet::new(),
            flaw,
            quiet: false,
            tally: Tally::default(),
            digest: 0xcbf2_9ce4_8422_2325,
            failure: None,
            trace: trace.then(Vec::new),
            evil,
            people,
            profile,
        };
        world.tally.evil_worlds = u64::from(world.evil.is_some());
        world.tally.memory_worlds = u64::from(memory);
        world.oracle.roster_is(&roster);
        world.populate(&roster);
        world
    }

    /// The first members and processes. Of the ten people 0 and 1 are admins, 2 to 4 publishers, the others readers.
    fn populate(&mut self, roster: &Roster) {
        let Profile { publishers, readers, .. } = self.profile;
        let mut ops = Vec::new();
        if self.profile.policy != Policy::default() {
            ops.push(Op::SetPolicy(self.profile.policy.clone().into()));
        }
        if self.profile.two_admins {
            ops.push(Op::Add { identity: self.people[1].public(), role: Role::Admin });
            self.admins.push(Admin::new(Arc::clone(&self.people[1]), roster.clone()));
        }
        for n in 0..publishers {
            let who = Arc::clone(&self.people[2 + n]);
            ops.push(Op::Add { identity: who.public(), role: Role::Publisher });
            self.publishers.push(Publisher::new(who));
        }
        for n in 0..readers {
            // One may be a publisher or the owner who reads too.
            let who = match n {
                0 if self.profile.officers_read => 2,
                1 if self.profile.officers_read => 0,
                _ => 5 + n,
            };
            let who = Arc::clone(&self.people[who]);
            let from = if self.rng.random_bool(0.5) { Begin::Earliest } else { Begin::Latest };
            let outsider = n > 0 && self.rng.random_bool(0.2);
            let key = who.public();
            if outsider {
                self.lost_role.insert(key);
            } else if !ops.iter().any(|op| matches!(op, Op::Add { identity, .. } if *identity == key))
                && key != self.people[0].public()
            {
                ops.push(Op::Add { identity: key, role: Role::Reader });
            }
            self.subscribers.push(Subscriber::new(who, from));
        }
        let bundle = roster.sign(&ops, &self.people[0], self.now).expect("the first members");
        self.topic(TopicInput::Roster { ticket: Ticket(0), bundle });
        self.disk_did(1);
        (0..publishers).for_each(|p| self.publisher_starts(p));
        for s in 0..readers {
            if self.rng.random_bool(0.8) {
                self.subscriber_starts(s);
            }
        }
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Report {
        for _ in 0..self.profile.events {
            self.event();
            let steps = self.rng.random_range(0..self.profile.steps);
            for _ in 0..steps {
                if !self.step() {
                    break;
                }
            }
            if self.failure.is_some() {
                break;
            }
        }
        if self.failure.is_none() {
            self.come_to_rest();
        }
        if self.failure.is_none() {
            self.check_thieves();
        }
        if self.failure.is_none() && self.oracle.honest {
            self.check_delivery();
        }
        Report {
            seed: self.seed,
            failure: self.failure,
            trace: self.trace.unwrap_or_default(),
            tally: self.tally,
            digest: self.digest,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Something that may never be.
    pub(crate) fn broke(&mut self, invariant: Invariant, what: String) {
        if self.failure.is_none() {
            self.say(|| format!("!!!       [{invariant}] {what}"));
            self.failure = Some(Failure { invariant, what, step: self.tally.steps });
        }
    }

    /// A line of the trace.
    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let (step, since) = (self.tally.steps, self.now - START_MS);
            trace.push(format!("{step:>5} {:>10}.{:03}s  {}", since / 1000, since % 1000, what()));
        }
    }

    /// Whether a flaw shows now.
    pub(crate) fn flaw_due(&mut self) -> bool {
        self.rng.random_bool(0.3)
    }

    /// Bytes reach the broker.
    pub(crate) fn sees(&mut self, bytes: &[u8], what: &str) {
        if has_plaintext(bytes) {
            self.broke(Invariant::NoPlaintext, format!("the broker got {what} with a payload in it"));
        }
    }

    fn thief(&self, who: &PublicKey) -> Option<(WrapSecret, Vec<Vec<u8>>)> {
        let identity = self.people.iter().find(|identity| identity.public() == *who)?;
        let rings = self.rings.get(who).map(|ring| ring.stolen.clone()).unwrap_or_default();
        Some((WrapSecret::of_identity(identity), rings))
    }

    /// The broker took a header.
    pub(crate) fn took_header(&mut self, signed: &Signed<EpochHeader>, table: Bytes) {
        let header = signed.peek().expect("a header that was accepted");
        let hash = signed.hash();
        self.tally.epochs += 1;
        self.tally.advances += u64::from(header.mode == Mode::Advance);
        self.tally.rewraps += u64::from(header.mode == Mode::Rewrap);
        let roster_hash = header.roster_hash;
        self.oracle.by_epoch.entry((header.publisher, header.epoch)).or_default().push(hash);
        self.oracle.headers.insert(hash, TakenHeader { header, hash, table });
        let strangers: Vec<PublicKey> = self.oracle.indexes.keys().copied().collect();
        for who in strangers {
            if !self.oracle.was_member(&who, &roster_hash) {
                self.try_header(&who, &hash);
            }
        }
    }

    fn try_header(&mut self, who: &PublicKey, hash: &sealcast_proto::Hash) {
        let Some((identity, rings)) = self.thief(who) else { return };
        self.tally.attempts += 1;
        let thief = Thief { who: *who, identity: &identity, rings: &rings };
        if self.oracle.opens(&thief, hash) {
            let what = format!("{} opens an epoch that was not sealed for it", who.short());
            self.broke(Invariant::MembersOnly, what);
        }
    }

    /// The broker took a batch.
    pub(crate) fn took_batch(&mut self, publisher: &PublicKey, epoch: Epoch, batch: &BatchRecord) {
        let Some(hash) = self.oracle.by_epoch.get(&(*publisher, epoch)).and_then(|all| all.last()).copied()
        else {
            return;
        };
        if !self.oracle.honest {
            return;
        }
        let roster = self.broker.machine.acceptor().roster().chain().hash();
        let removed: Vec<PublicKey> =
            self.oracle.indexes.keys().filter(|who| !self.oracle.was_member(who, &roster)).copied().collect();
        for who in removed {
            let Some((identity, rings)) = self.thief(&who) else { continue };
            self.tally.attempts += 1;
            let thief = Thief { who, identity: &identity, rings: &rings };
            if self.oracle.reads(&thief, &hash, batch) {
                let what = format!("{} was removed and reads a batch taken after that", who.short());
                return self.broke(Invariant::MembersOnly, what);
            }
        }
    }

    /// A publisher wrote a frame: it may not be sealed for those who it knows were removed.
    pub(crate) fn check_written(&mut self, p: usize, frame: &Bytes) {
        let Some(header) = frame.first_chunk::<FRAME_HEADER>() else { return };
        let Ok((kind, _)) = FrameKind::parse(*header) else { return };
        let Ok(Request::Record(bytes)) = Request::decode(kind, frame.slice(FRAME_HEADER..)) else { return };
        match Record::decode(bytes) {
            Ok(Record::Header(header)) => {
                if let Ok(header) = header.peek() {
                    self.built_on.insert((p, header.epoch), header.roster_seq);
                }
            }
            Ok(Record::Batch(batch)) => {
                let Ok(batch) = batch.peek() else { return };
                let is_new = self.sealed.insert((p, batch.epoch, batch.batch_no));
                let built_on = self.built_on.get(&(p, batch.epoch)).copied();
                let known = self.publishers[p].run.as_ref();
                let known = known.map(|run| run.outbox.roster().chain().last_removal_seq());
                if is_new && built_on < known {
                    let what = format!("p{p} knew of a removal at {known:?} and sealed for {built_on:?}");
                    self.broke(Invariant::NothingSealedPastRemoval, what);
                }
            }
            _ => {}
        }
    }

    /// Nobody ever opens an epoch that was not made for it: newcomers the older ones neither.
    fn check_thieves(&mut self) {
        let everyone: Vec<PublicKey> = self.oracle.indexes.keys().copied().collect();
        let mut headers: Vec<_> =
            self.oracle.headers.values().map(|taken| (taken.hash, taken.header.roster_hash)).collect();
        headers.sort();
        for who in everyone {
            for (hash, roster) in &headers {
                if !self.oracle.was_member(&who, roster) {
                    self.try_header(&who, hash);
                }
            }
        }
    }
}
