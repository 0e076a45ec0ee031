//! Roster and acceptance rules under a list of operations: entries, headers, batches and beacons, honest or not.
//!
//! ```text
//!                 ┌─► Roster        every member            agree on every entry
//! entry ──────────┼─► RosterChain   without members
//! header, batch ──┴─► Acceptor      what a log takes up
//! ```
//! What must hold: a refusal changes nothing; the three agree; what was stored is known again for ever, at its first
//! place; nothing is stored that the fence or a role forbids; an index is never used again, and an admin always remains; an
//! acceptor made anew from the log decides as the old one did.

use std::collections::BTreeMap;

use sealcast_proto::accept::{Acceptor, Verdict};
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::{EpochHeader, Genesis};
use sealcast_proto::record::{BatchDigest, BatchRecord};
use sealcast_proto::roster::{EntryBundle, Officer, Role, Roster, RosterChain, RosterError, RosterMatch};
use sealcast_proto::{MemberIndex, Offset, PublicKey, Signed, TopicId};

use crate::pen::Pen;
use crate::steps::Steps;
use crate::{Reached, Target, entries, valid};

/// See the module's page. A byte can be an operation, which the log keeps and every check copies.
pub const TARGET: Target = Target { name: "roster", run, stages: STAGES, heap: (1 << 20, 16 << 10), seeds };

const STAGES: &[&str] = &[
    "entry stored",
    "entry refused",
    "removal",
    "policy",
    "header stored",
    "header refused",
    "batch stored",
    "batch refused",
    "stale",
    "duplicate",
    "compare",
    "beacon",
    "restored",
];

/// Operations in a run.
const MOST: usize = 64;
/// Records that an acceptor remembers: few, so that it forgets within a run.
const WINDOW: usize = 3;

enum Stored {
    Entry(EntryBundle),
    Header(Signed<EpochHeader>, PublicKey),
    Batch(BatchRecord, PublicKey, usize),
}

struct World {
    topic: TopicId,
    genesis: Genesis,
    roster: Roster,
    chain: RosterChain,
    acceptor: Acceptor,
    pens: Vec<Pen>,
    log: Vec<Stored>,
    /// Whose each index was.
    indexes: BTreeMap<MemberIndex, PublicKey>,
}

fn run(input: &[u8], reached: &mut Reached) {
    let (genesis, _, topic) = valid::genesis();
    let mut world = World {
        topic,
        roster: Roster::new(topic, &genesis),
        chain: RosterChain::new(topic, &genesis),
        acceptor: Acceptor::with_window(topic, &genesis, WINDOW),
        pens: (1..=3).map(Pen::new).collect(),
        log: Vec::new(),
        indexes: BTreeMap::new(),
        genesis,
    };
    let mut steps = Steps::new(input);
    let mut done = 0;
    while let Some(step) = steps.next(done, MOST) {
        match step % 16 {
            0..4 => world.entry(&mut steps, reached),
            4..7 => world.header(&mut steps, reached),
            7..11 => world.batch(&mut steps, reached),
            11..14 => world.again(&mut steps, reached),
            14 => world.beacon(&mut steps, reached),
            _ => world.restore(reached),
        }
        done += 1;
    }
}

impl World {
    fn at(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    fn entry(&mut self, steps: &mut Steps<'_>, reached: &mut Reached) {
        let Some(bundle) = entries::entry(&self.roster, valid::NOW + self.at().0, steps) else { return };
        self.offer(bundle, reached);
    }

    fn offer(&mut self, bundle: EntryBundle, reached: &mut Reached) {
        let (before, accepted_before) = (self.snapshot(), format!("{:?}", self.acceptor));
        let at = self.at();
        let applied = self.roster.apply(&bundle.entry, &bundle.ops);
        let mut chain = self.chain.clone();
        let followed = chain.follow(&bundle.entry, bundle.roles.as_deref(), bundle.policy.as_deref());
        let accepted = self.acceptor.accept_roster(&bundle, at);
        match &applied {
            Ok(change) => {
                assert_eq!(accepted, Ok((Verdict::Store, Some(change.clone()))));
                match followed {
                    Ok(entry) => assert_eq!(entry, change.entry),
                    // The lists were kept back from the subscriber: the chain is not followed without them.
                    Err(RosterError::MissingList(_)) => {
                        let policy = self.roster.chain().policy_bytes();
                        let roles = self.roster.chain().roles_bytes();
                        chain.follow(&bundle.entry, Some(&roles), Some(policy)).expect("with its lists");
                    }
                    Err(error) => panic!("a subscriber refuses what its broker took: {error}"),
                }
                self.chain = chain;
                reached.mark("entry stored");
                if change.fence {
                    reached.mark("removal");
                    assert_eq!(self.chain.last_removal_seq(), self.chain.seq());
                }
                if change.policy {
                    reached.mark("policy");
                }
                for (index, identity, _) in &change.added {
                    assert!(self.indexes.insert(*index, *identity).is_none(), "index {index} used again");
                }
                self.log.push(Stored::Entry(bundle));
            }
            Err(error) => {
                reached.mark("entry refused");
                assert_eq!(self.snapshot(), before);
                match accepted {
                    Ok((Verdict::Duplicate { .. }, None)) => {
                        assert!(matches!(error, RosterError::Known(_)), "{error}");
                    }
                    Ok(other) => panic!("{error}, but {other:?}"),
                    Err(_) => {}
                }
                assert_eq!(format!("{:?}", self.acceptor), accepted_before);
                if followed.is_ok() {
                    // A subscriber does not hold the operations: only what follows from them may escape it.
                    let derived = matches!(
                        error,
                        RosterError::Derived(_) | RosterError::Rule(_) | RosterError::Malformed(_)
                    );
                    assert!(derived, "{error}");
                }
            }
        }
        self.hold();
    }

    fn snapshot(&self) -> (RosterChain, Vec<(MemberIndex, PublicKey, Role)>) {
        let members = self.roster.members().map(|(index, member)| (index, member.identity, member.role));
        (self.roster.chain().clone(), members.collect())
    }

    /// What is true of every roster.
    fn hold(&self) {
        let (chain, members) = self.snapshot();
        assert_eq!(self.chain, chain);
        assert_eq!(*self.acceptor.roster().chain(), chain);
        assert_eq!(RosterChain::decode(&chain.encode()), Ok(chain.clone()));
        assert_eq!(chain.compare(chain.seq(), &chain.hash()), RosterMatch::Holds);
        assert!(chain.last_removal_seq() <= chain.seq());
        let officers: Vec<Officer> = members
            .iter()
            .filter(|(.., role)| *role > Role::Reader)
            .map(|(member, identity, role)| Officer { member: *member, identity: *identity, role: *role })
            .collect();
        assert_eq!(chain.officers(), officers);
        assert!(officers.iter().any(|officer| officer.role == Role::Admin));
        for (index, identity, _) in &members {
            assert_eq!(self.roster.find(identity).map(|(found, _)| found), Some(*index));
        }
        if let Some(Stored::Entry(bundle)) = self.log.last()
            && let Ok(entry) = bundle.entry.verify(&chain.owner())
        {
            let (roles, policy) = (chain.roles_bytes(), chain.policy_bytes());
            let begun = RosterChain::begin_at(self.topic, &self.genesis, &bundle.entry, &roles, policy);
            assert_eq!(begun.map(|begun| begun.hash()), Ok(chain.hash()));
            assert_eq!(entry.seq, chain.seq());
        }
    }

    fn header(&mut self, steps: &mut Steps<'_>, reached: &mut Reached) {
        let n = usize::from(steps.below(3));
        let session = valid::identity(if steps.rarely(16) { entries::person(steps) } else { n as u8 + 1 });
        let signer = steps.rarely(16).then(|| valid::identity(entries::person(steps)));
        let table_known = !steps.rarely(16);
        let header = self.pens[n].header(&self.chain, signer.as_ref(), steps);
        let before = format!("{:?}", self.acceptor);
        let lane = self.acceptor.lane(&session.public()).map(|lane| lane.header().epoch);
        let at = self.at();
        match self.acceptor.accept_header(&session.public(), &header, table_known, at) {
            Ok(Verdict::Store) => {
                reached.mark("header stored");
                let parsed = header.verify(&session.public()).expect("stored, so signed by its sender");
                assert!(table_known && parsed.topic == self.topic);
                assert!(lane.is_none_or(|newest| newest < parsed.epoch));
                self.unfenced(&session.public(), &parsed);
                let again = self.acceptor.accept_header(&session.public(), &header, true, Offset(999));
                assert_eq!(again, Ok(Verdict::Duplicate { offset: at }));
                self.log.push(Stored::Header(header.clone(), session.public()));
                self.pens[n].begun(header);
            }
            other => {
                refused(&other, "header refused", reached);
                assert_eq!(format!("{:?}", self.acceptor), before);
            }
        }
    }

    /// Who publishes holds the role, on a roster of this log, at or after the last removal (G4).
    fn unfenced(&self, publisher: &PublicKey, header: &EpochHeader) {
        assert!(self.chain.may_publish(publisher));
        assert!(header.roster_seq >= self.chain.last_removal_seq());
        assert_eq!(self.chain.compare(header.roster_seq, &header.roster_hash), RosterMatch::Holds);
    }

    fn batch(&mut self, steps: &mut Steps<'_>, reached: &mut Reached) {
        let n = usize::from(steps.below(3));
        let Some((batch, hash)) = self.pens[n].batch(steps) else { return };
        let session = self.pens[n].public();
        let claim = self.pens[n].claim(&batch);
        let before = format!("{:?}", self.acceptor);
        let at = self.at();
        match self.acceptor.accept_batch(&session, &claim, at) {
            Ok(Verdict::Store) => {
                reached.mark("batch stored");
                let lane = self.acceptor.lane(&session).expect("it publishes").clone();
                batch
                    .clone()
                    .verify(&lane.header_hash(), &lane.header().epoch_vk)
                    .expect("stored, so signed");
                self.unfenced(&session, lane.header());
                assert_eq!(lane.last_hash(), hash);
                assert_eq!(lane.ended(), claim.batch().end);
                let again = self.acceptor.accept_batch(&session, &claim, Offset(999));
                assert_eq!(again, Ok(Verdict::Duplicate { offset: at }));
                self.log.push(Stored::Batch(batch, session, n));
                self.pens[n].sent(hash);
            }
            other => {
                refused(&other, "batch refused", reached);
                assert_eq!(format!("{:?}", self.acceptor), before);
            }
        }
    }

    /// Something of the log comes again.
    fn again(&mut self, steps: &mut Steps<'_>, reached: &mut Reached) {
        let place = usize::from(steps.byte()) % self.log.len().max(1);
        let first = Offset(place as u64);
        let verdict = match self.log.get(place) {
            None => return,
            Some(Stored::Entry(bundle)) => {
                let known = self.acceptor.accept_roster(bundle, Offset(999));
                assert_eq!(known, Ok((Verdict::Duplicate { offset: first }, None)));
                return;
            }
            Some(Stored::Header(header, publisher)) => {
                (self.acceptor.accept_header(publisher, header, true, Offset(999)), header.hash())
            }
            Some(Stored::Batch(batch, publisher, n)) => {
                let claim = self.pens[*n].claim(batch);
                (self.acceptor.accept_batch(publisher, &claim, Offset(999)), claim.fingerprint())
            }
        };
        match verdict {
            (Ok(Verdict::Duplicate { offset }), _) => {
                reached.mark("duplicate");
                assert_eq!(offset, first);
            }
            (Ok(Verdict::Compare { fingerprint, .. }), expected) => {
                reached.mark("compare");
                assert_eq!(fingerprint, expected);
            }
            (other, _) => panic!("what was stored is not known: {other:?}"),
        }
    }

    fn beacon(&self, steps: &mut Steps<'_>, reached: &mut Reached) {
        let n = usize::from(steps.below(3));
        let flip = steps.byte() & 1;
        let Some(beacon) = self.pens[n].beacon(&self.chain, flip) else { return };
        let publisher = self.pens[n].public();
        let newest = self.acceptor.lane(&publisher).map(|lane| lane.header_hash());
        let relayed = self.acceptor.check_beacon(&publisher, &beacon);
        let own = newest == self.pens[n].newest.as_ref().map(|(signed, _)| signed.hash());
        let counted = beacon.peek().expect("its own beacon").next_batch_no;
        let held = self.acceptor.lane(&publisher).is_some_and(|lane| counted <= lane.next_batch_no());
        assert_eq!(relayed.is_some(), own && held && flip == 0 && self.chain.may_publish(&publisher));
        if relayed.is_some() {
            reached.mark("beacon");
        }
        for other in 0..3 {
            let other = self.pens[other].public();
            assert!(other == publisher || self.acceptor.check_beacon(&other, &beacon).is_none());
        }
    }

    /// The broker restarts.
    fn restore(&mut self, reached: &mut Reached) {
        let mut acceptor = Acceptor::with_window(self.topic, &self.genesis, WINDOW);
        let mut newest: BTreeMap<PublicKey, (Signed<EpochHeader>, Offset)> = BTreeMap::new();
        let mut last: BTreeMap<PublicKey, (BatchDigest, Offset)> = BTreeMap::new();
        for (at, stored) in (0..).map(Offset).zip(&self.log) {
            match stored {
                Stored::Entry(bundle) => drop(acceptor.restore_roster(bundle, at).expect("its own log")),
                Stored::Header(header, publisher) => {
                    newest.insert(*publisher, (header.clone(), at));
                    last.remove(publisher);
                }
                Stored::Batch(batch, publisher, _) => drop(last.insert(*publisher, (batch.digest(), at))),
            }
        }
        for (publisher, (header, at)) in &newest {
            acceptor.restore_lane(header, *at, last.get(publisher).cloned()).expect("its own log");
        }
        assert_eq!(acceptor.roster().chain(), self.acceptor.roster().chain());
        assert_eq!(acceptor.lanes().len(), self.acceptor.lanes().len());
        for ((key, lane), (was_key, was)) in acceptor.lanes().zip(self.acceptor.lanes()) {
            assert_eq!((key, lane.header_hash(), lane.close()), (was_key, was.header_hash(), was.close()));
            assert_eq!((lane.next_batch_no(), lane.ended()), (was.next_batch_no(), was.ended()));
            assert_eq!(lane.header_offset(), was.header_offset());
        }
        self.acceptor = acceptor;
        reached.mark("restored");
    }
}

fn refused(verdict: &Result<Verdict, Refusal>, stage: &'static str, reached: &mut Reached) {
    match verdict {
        Err(refusal) => {
            reached.mark(stage);
            if refusal.code == Code::StaleEpoch {
                reached.mark("stale");
                assert!(refusal.roster_seq.0 > 0, "it names the removal");
            }
        }
        Ok(_) => reached.mark("duplicate"),
    }
}

/// `0 = entry`: rarely another admin, how many operations less one, then each: kind, person, rarely another index, role.
fn seeds() -> Vec<Vec<u8>> {
    let add_publisher = [0, 0, 0, 0, 1, 0, 1, 0];
    let header = [4, 1, 0, 0, 0, 0];
    let batch = [7, 1, 0, 5];
    let remove_reader = [0, 0, 0, 3, 2, 0, 0];
    let add_reader = [0, 0, 0, 0, 2, 0, 0, 0];
    let policy = [0, 0, 0, 6, 0, 0, 1, 9, 0];
    let usual =
        [&add_publisher[..], &add_reader, &header, &batch, &batch, &[14, 1, 0], &[11, 2], &[15]].concat();
    let fenced = [&usual[..], &remove_reader, &batch, &header, &header, &batch, &batch, &batch].concat();
    let forgotten = [&fenced[..], &[11, 2, 11, 3, 11, 9], &policy, &[15, 11, 2, 12, 9]].concat();
    let refused = [&add_publisher[..], &[0, 0, 0, 0, 3, 0, 0, 2, 1], &[4, 1, 0, 0, 0, 5, 9]].concat();
    vec![usual, fenced, forgotten, refused]
}
