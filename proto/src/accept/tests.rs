use bytes::Bytes;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::Seq;
use crate::identity::Identity;
use crate::object::{Batch, PrevClose};
use crate::record::{BatchRecord, Sealed, batch_aad};
use crate::roster::Op;

mod forged;

pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

/// A publisher that signs but cannot seal: its ciphertexts are noise, which nobody here can tell.
pub(crate) struct Hand {
    pub(crate) id: Identity,
    pub(crate) key: SigningKey,
    pub(crate) header: Option<Signed<EpochHeader>>,
    pub(crate) next: u64,
    pub(crate) last: Hash,
}

impl Hand {
    pub(crate) fn new(n: u8) -> Self {
        Self {
            id: identity(n),
            key: SigningKey::from_bytes(&[n ^ 0x80; 32]),
            header: None,
            next: 0,
            last: Hash::ZERO,
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.id.public()
    }

    pub(crate) fn header(&mut self, on: &Roster, epoch: u64, mode: Mode) -> Signed<EpochHeader> {
        let header = EpochHeader {
            topic: on.chain().topic(),
            publisher: self.public(),
            epoch: Epoch(epoch),
            prev_header_hash: self.header.as_ref().map_or(Hash::ZERO, |header| header.hash()),
            prev_close: self
                .header
                .as_ref()
                .map(|_| PrevClose { batches: self.next, last_batch_hash: self.last }),
            roster_seq: on.chain().seq(),
            roster_hash: on.chain().hash(),
            mode,
            kek_gen: 0,
            enc: [0; 32],
            commitment: [1; 32],
            epoch_vk: PublicKey::from_bytes(self.key.verifying_key().as_bytes()).unwrap(),
            slot_count: 0,
            slots_hash: crate::slot::table_hash(&[]),
            time_ms: epoch,
        };
        Signed::sign(&header, self.id.signing_key())
    }

    /// The header counts as sent: what follows builds on it.
    pub(crate) fn begin(&mut self, header: &Signed<EpochHeader>) {
        self.last = header.hash();
        self.next = 0;
        self.header = Some(header.clone());
    }

    pub(crate) fn batch(&self, fill: u8) -> (BatchRecord, Hash) {
        let header = self.header.as_ref().unwrap();
        let body = Batch {
            epoch: header.peek().unwrap().epoch,
            batch_no: BatchNo(self.next),
            first_seq: Seq(self.next),
            count: 1,
            time_ms: 0,
            end: false,
            prev_batch_hash: self.last,
        }
        .encode();
        let aad = batch_aad(&header.hash(), &body);
        BatchRecord::sign(body, &aad, Sealed(Bytes::from(vec![fill; 48])), &self.key)
    }

    pub(crate) fn sent(&mut self, hash: Hash) {
        self.next += 1;
        self.last = hash;
    }

    pub(crate) fn claim(&self, record: &BatchRecord) -> BatchClaim {
        let header = self.header.as_ref().unwrap();
        let mut claim = BatchClaim::read(record).unwrap();
        claim.verify(&header.hash(), &header.peek().unwrap().epoch_vk);
        claim
    }
}

fn genesis(owner: &Identity) -> (TopicId, Genesis) {
    let genesis = Genesis { suite: 1, name: "t".into(), owner: owner.public(), nonce: [7; 32] };
    let signed = Signed::sign(&genesis, owner.signing_key());
    (signed.topic_id(), genesis)
}

/// A topic of owner 1 with publisher 2 and reader 3.
fn topic(window: usize) -> (Acceptor, Identity) {
    let owner = identity(1);
    let (id, genesis) = genesis(&owner);
    let mut acceptor = Acceptor::with_window(id, &genesis, window);
    let ops = [
        Op::Add { identity: identity(2).public(), role: Role::Publisher },
        Op::Add { identity: identity(3).public(), role: Role::Reader },
    ];
    let bundle = acceptor.roster().sign(&ops, &owner, 1).unwrap();
    acceptor.accept_roster(&bundle, Offset(0)).unwrap();
    (acceptor, owner)
}

fn remove(acceptor: &mut Acceptor, owner: &Identity, gone: u8, at: u64) -> EntryBundle {
    let identity = identity(gone).public();
    let member = acceptor.roster().find(&identity).unwrap().0;
    let bundle = acceptor.roster().sign(&[Op::Remove { member, identity }], owner, 2).unwrap();
    assert_eq!(acceptor.accept_roster(&bundle, Offset(at)).unwrap().0, Verdict::Store);
    bundle
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.unwrap_err().code
}

#[test]
fn headers_and_batches_follow_each_other() {
    let (mut acceptor, _) = topic(8);
    let mut hand = Hand::new(2);
    let me = hand.public();
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&me, &header, false, Offset(1))), Code::NoTable);
    assert_eq!(acceptor.accept_header(&me, &header, true, Offset(1)).unwrap(), Verdict::Store);
    hand.begin(&header);
    let (first, hash) = hand.batch(1);
    let claim = hand.claim(&first);
    assert_eq!(acceptor.accept_batch(&me, &claim, Offset(2)).unwrap(), Verdict::Store);
    hand.sent(hash);
    assert_eq!(
        acceptor.accept_batch(&me, &claim, Offset(3)).unwrap(),
        Verdict::Duplicate { offset: Offset(2) }
    );
    let again = acceptor.accept_header(&me, &header, false, Offset(3)).unwrap();
    assert_eq!(again, Verdict::Duplicate { offset: Offset(1) });

    let mut skipped = Hand::new(2);
    skipped.begin(&header);
    skipped.next = 2;
    let (third, _) = skipped.batch(3);
    assert_eq!(code(acceptor.accept_batch(&me, &skipped.claim(&third), Offset(3))), Code::OutOfOrder);
    let lane = acceptor.lane(&me).unwrap();
    assert_eq!((lane.next_batch_no(), lane.last_hash()), (BatchNo(1), hash));
}

#[test]
fn other_bytes_under_a_stored_number_are_a_conflict() {
    let (mut acceptor, _) = topic(8);
    let mut hand = Hand::new(2);
    let me = hand.public();
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&me, &header, true, Offset(1)).unwrap();
    hand.begin(&header);
    let (one, _) = hand.batch(1);
    let (other, _) = hand.batch(2);
    acceptor.accept_batch(&me, &hand.claim(&one), Offset(2)).unwrap();
    assert_eq!(code(acceptor.accept_batch(&me, &hand.claim(&other), Offset(3))), Code::Conflict);
    let mut twin = Hand::new(2);
    let mut changed = twin.header(acceptor.roster(), 10, Mode::Fresh).peek().unwrap();
    changed.commitment = [9; 32];
    twin.header = Some(Signed::sign(&changed, twin.id.signing_key()));
    let twin_header = twin.header.clone().unwrap();
    assert_eq!(code(acceptor.accept_header(&me, &twin_header, true, Offset(3))), Code::Conflict);
    // A batch that continues another history than the stored one.
    hand.sent(Hash([5; 32]));
    let (astray, _) = hand.batch(3);
    assert_eq!(code(acceptor.accept_batch(&me, &hand.claim(&astray), Offset(3))), Code::Conflict);
}

#[test]
fn the_fence_refuses_what_is_new_and_acknowledges_what_is_old() {
    let (mut acceptor, owner) = topic(8);
    let mut hand = Hand::new(2);
    let me = hand.public();
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&me, &header, true, Offset(1)).unwrap();
    hand.begin(&header);
    let (stored, hash) = hand.batch(1);
    acceptor.accept_batch(&me, &hand.claim(&stored), Offset(2)).unwrap();
    let before = hand.claim(&stored);
    hand.sent(hash);
    let stale_roster = acceptor.roster().clone();
    remove(&mut acceptor, &owner, 3, 3);

    assert_eq!(
        acceptor.accept_batch(&me, &before, Offset(4)).unwrap(),
        Verdict::Duplicate { offset: Offset(2) }
    );
    let (late, _) = hand.batch(2);
    let refusal = acceptor.accept_batch(&me, &hand.claim(&late), Offset(4)).unwrap_err();
    assert_eq!((refusal.code, refusal.roster_seq), (Code::StaleEpoch, RosterSeq(2)));
    assert_eq!(refusal.record, Some((Epoch(10), Some(BatchNo(1)))));
    let stale = hand.header(&stale_roster, 11, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&me, &stale, true, Offset(4))), Code::StaleEpoch);
    let advance = hand.header(acceptor.roster(), 12, Mode::Advance);
    assert_eq!(code(acceptor.accept_header(&me, &advance, true, Offset(4))), Code::Malformed);
    let fresh = hand.header(acceptor.roster(), 12, Mode::Fresh);
    assert_eq!(acceptor.accept_header(&me, &fresh, true, Offset(4)).unwrap(), Verdict::Store);
}

#[test]
fn only_publishers_publish_and_only_for_themselves() {
    let (mut acceptor, owner) = topic(8);
    let mut reader = Hand::new(3);
    let header = reader.header(acceptor.roster(), 10, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&reader.public(), &header, true, Offset(1))), Code::NotAllowed);
    let mut hand = Hand::new(2);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&reader.public(), &header, true, Offset(1))), Code::NotAllowed);
    acceptor.accept_header(&hand.public(), &header, true, Offset(1)).unwrap();
    hand.begin(&header);
    let (batch, _) = hand.batch(1);
    assert_eq!(
        code(acceptor.accept_batch(&reader.public(), &hand.claim(&batch), Offset(2))),
        Code::OutOfOrder
    );
    remove(&mut acceptor, &owner, 2, 2);
    assert_eq!(code(acceptor.accept_batch(&hand.public(), &hand.claim(&batch), Offset(3))), Code::NotAllowed);
}

#[test]
fn a_header_must_follow_the_last_one() {
    let (mut acceptor, _) = topic(8);
    let mut hand = Hand::new(2);
    let me = hand.public();
    let advance = hand.header(acceptor.roster(), 9, Mode::Advance);
    assert_eq!(code(acceptor.accept_header(&me, &advance, true, Offset(1))), Code::OutOfOrder);
    let first = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&me, &first, true, Offset(1)).unwrap();
    // Another first header: names nothing before it.
    let second = hand.header(acceptor.roster(), 11, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&me, &second, true, Offset(2))), Code::OutOfOrder);
    hand.begin(&first);
    let older = hand.header(acceptor.roster(), 9, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&me, &older, true, Offset(2))), Code::OutOfOrder);
    hand.next = 3;
    let wrong_close = hand.header(acceptor.roster(), 12, Mode::Fresh);
    assert_eq!(code(acceptor.accept_header(&me, &wrong_close, true, Offset(2))), Code::OutOfOrder);
    hand.next = 0;
    let next = hand.header(acceptor.roster(), 12, Mode::Advance);
    assert_eq!(acceptor.accept_header(&me, &next, true, Offset(2)).unwrap(), Verdict::Store);
}

#[test]
fn unsigned_batches_are_refused() {
    let (mut acceptor, _) = topic(8);
    let mut hand = Hand::new(2);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&hand.public(), &header, true, Offset(1)).unwrap();
    hand.begin(&header);
    hand.key = SigningKey::from_bytes(&[0x55; 32]);
    let (forged, _) = hand.batch(1);
    assert_eq!(code(acceptor.accept_batch(&hand.public(), &hand.claim(&forged), Offset(2))), Code::Malformed);
}

#[test]
fn roster_entries_come_in_order_and_twice_do_no_harm() {
    let (mut acceptor, owner) = topic(8);
    let add = |n| Op::Add { identity: identity(n).public(), role: Role::Reader };
    let first = acceptor.roster().sign(&[add(10)], &owner, 5).unwrap();
    let rival = acceptor.roster().sign(&[add(11)], &owner, 5).unwrap();
    assert_eq!(acceptor.accept_roster(&first, Offset(1)).unwrap().0, Verdict::Store);
    assert_eq!(
        acceptor.accept_roster(&first, Offset(2)).unwrap().0,
        Verdict::Duplicate { offset: Offset(1) }
    );
    assert_eq!(code(acceptor.accept_roster(&rival, Offset(2))), Code::RosterConflict);
    remove(&mut acceptor, &owner, 3, 2);
    assert_eq!(
        acceptor.accept_roster(&first, Offset(3)).unwrap().0,
        Verdict::Duplicate { offset: Offset(1) }
    );
    assert_eq!(code(acceptor.accept_roster(&rival, Offset(3))), Code::RosterConflict);
    let mut lying = acceptor.roster().sign(&[add(12)], &owner, 9).unwrap();
    lying.ops = crate::roster::encode_ops(&[add(13)]);
    assert_eq!(code(acceptor.accept_roster(&lying, Offset(3))), Code::RosterRule);
}

#[test]
fn beacons_of_the_newest_epoch_are_worth_relaying() {
    let (mut acceptor, owner) = topic(8);
    let mut hand = Hand::new(2);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    acceptor.accept_header(&hand.public(), &header, true, Offset(1)).unwrap();
    let counting = |header_hash, key: &SigningKey, next_batch_no| {
        let (roster_seq, roster_hash) = (RosterSeq(1), Hash::ZERO);
        let beacon = Beacon {
            header_hash,
            next_batch_no,
            last_batch_hash: header_hash,
            roster_seq,
            roster_hash,
            time_ms: 1,
        };
        Signed::sign(&beacon, key)
    };
    let beacon = |header_hash, key: &SigningKey| counting(header_hash, key, BatchNo(0));
    assert!(acceptor.check_beacon(&hand.public(), &beacon(header.hash(), &hand.key)).is_some());
    let of_more = counting(header.hash(), &hand.key, BatchNo(1));
    assert!(acceptor.check_beacon(&hand.public(), &of_more).is_none(), "no batch of it is held");
    assert!(acceptor.check_beacon(&hand.public(), &beacon(Hash([1; 32]), &hand.key)).is_none());
    assert!(acceptor.check_beacon(&hand.public(), &beacon(header.hash(), hand.id.signing_key())).is_none());
    assert!(acceptor.check_beacon(&owner.public(), &beacon(header.hash(), &hand.key)).is_none());
}

#[test]
fn digests_round_trip_and_tell_batches_apart() {
    let mut hand = Hand::new(2);
    let (acceptor, _) = topic(8);
    let header = hand.header(acceptor.roster(), 10, Mode::Fresh);
    hand.begin(&header);
    let (one, two) = (hand.batch(1).0.digest(), hand.batch(2).0.digest());
    assert_eq!(BatchDigest::decode(&one.encode()).unwrap(), one);
    assert_ne!(one.fingerprint(), two.fingerprint());
    assert_eq!(BatchDigest::decode(&one.encode().slice(..95)), None);
}

/// One step of a publisher that also repeats itself, forks and loses its way.
#[derive(Debug, Clone)]
enum Step {
    Header { mode_advance: bool },
    Batch { fill: u8, keep: bool },
    Repeat { which: prop::sample::Index },
    Remove { member: u8 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => any::<bool>().prop_map(|mode_advance| Step::Header { mode_advance }),
        6 => (0u8..3, prop::bool::weighted(0.9)).prop_map(|(fill, keep)| Step::Batch { fill, keep }),
        4 => any::<prop::sample::Index>().prop_map(|which| Step::Repeat { which }),
        1 => (20u8..24).prop_map(|member| Step::Remove { member }),
        1 => Just(Step::Restart),
    ]
}

/// A stored record: what came, and where it was put.
#[derive(Clone)]
enum Held {
    Header(Signed<EpochHeader>, Offset),
    Batch(Box<BatchClaim>, Offset),
}

proptest! {
    /// Whatever a publisher sends, and however often the log is opened anew: every number is stored once, what is stored
    /// is acknowledged with its first place for ever, and nothing older than the fence is stored behind it.
    #[test]
    fn every_number_is_stored_once(steps in prop::collection::vec(step(), 1..60), window in 1usize..6) {
        let (mut acceptor, owner) = topic(window);
        let ops: Vec<_> = (20..24).map(|n| Op::Add { identity: identity(n).public(), role: Role::Reader }).collect();
        let mut bundles = vec![];
        let bundle = acceptor.roster().sign(&ops, &owner, 1).unwrap();
        acceptor.accept_roster(&bundle, Offset(1)).unwrap();
        let mut hand = Hand::new(2);
        let me = hand.public();
        let mut log: Vec<Held> = vec![];
        let mut numbers = std::collections::HashSet::new();
        for (i, step) in steps.into_iter().enumerate() {
            let at = Offset(i as u64 + 2);
            match step {
                Step::Header { mode_advance } => {
                    let mode = if mode_advance { Mode::Advance } else { Mode::Fresh };
                    let header = hand.header(acceptor.roster(), at.0 + 100, mode);
                    let verdict = acceptor.accept_header(&me, &header, true, at);
                    if verdict == Ok(Verdict::Store) {
                        prop_assert!(numbers.insert((at.0 + 100, None)));
                        hand.begin(&header);
                        log.push(Held::Header(header, at));
                    }
                }
                Step::Batch { fill, keep } => {
                    if hand.header.is_none() { continue; }
                    let (record, hash) = hand.batch(fill);
                    let claim = hand.claim(&record);
                    let verdict = acceptor.accept_batch(&me, &claim, at);
                    match &verdict {
                        Ok(Verdict::Store) => {
                            let lane = acceptor.lane(&me).unwrap();
                            prop_assert!(lane.header().roster_seq >= acceptor.roster().chain().last_removal_seq());
                            prop_assert!(numbers.insert((claim.batch().epoch.0, Some(claim.batch().batch_no.0))));
                            log.push(Held::Batch(Box::new(claim), at));
                            // Without `keep` the publisher misses the acknowledgement and seals this number again.
                            if keep { hand.sent(hash); }
                        }
                        Ok(Verdict::Duplicate { .. }) if keep => hand.sent(hash),
                        _ => {}
                    }
                }
                Step::Repeat { which } => {
                    if log.is_empty() { continue; }
                    let held = which.get(&log).clone();
                    let (verdict, first, print) = match &held {
                        Held::Header(header, first) => (acceptor.accept_header(&me, header, true, at), first, header.hash()),
                        Held::Batch(claim, first) => (acceptor.accept_batch(&me, claim, at), first, claim.fingerprint()),
                    };
                    match verdict.unwrap() {
                        Verdict::Duplicate { offset } => prop_assert_eq!(offset, *first),
                        Verdict::Compare { fingerprint, .. } => prop_assert_eq!(fingerprint, print),
                        Verdict::Store => prop_assert!(false, "stored twice"),
                    }
                }
                Step::Remove { member } => {
                    if acceptor.roster().find(&identity(member).public()).is_some() {
                        bundles.push((remove(&mut acceptor, &owner, member, at.0), at));
                    }
                }
                Step::Restart => {
                    let (id, genesis) = genesis(&owner);
                    let mut again = Acceptor::with_window(id, &genesis, window);
                    let (mut first, _) = topic(window);
                    std::mem::swap(&mut again, &mut first);
                    again.restore_roster(&bundle, Offset(1)).unwrap();
                    for (bundle, at) in &bundles { again.restore_roster(bundle, *at).unwrap(); }
                    let newest = log.iter().rposition(|held| matches!(held, Held::Header(..)));
                    if let Some(newest) = newest {
                        let Held::Header(header, at) = &log[newest] else { unreachable!() };
                        let last = log[newest..].iter().rev().find_map(|held| match held {
                            Held::Batch(claim, at) => Some((claim.digest().clone(), *at)),
                            Held::Header(..) => None,
                        });
                        again.restore_lane(header, *at, last).unwrap();
                        let (old, new) = (acceptor.lane(&me).unwrap(), again.lane(&me).unwrap());
                        prop_assert_eq!(old.close(), new.close());
                        prop_assert_eq!(old.ended(), new.ended());
                    }
                    prop_assert_eq!(again.roster().chain(), acceptor.roster().chain());
                    acceptor = again;
                }
            }
        }


    }
}
