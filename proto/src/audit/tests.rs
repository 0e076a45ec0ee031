use bytes::Bytes;

use super::*;
use crate::accept::tests::{Hand, identity};
use crate::frame::{Context, EpochDelivery, Level, RosterDelivery};
use crate::identity::Identity;
use crate::ids::{BatchNo, Epoch, Seq};
use crate::object::{EpochHeader, Mode, RosterEntry, SUITE};
use crate::record::{BatchRecord, Record, Sealed, batch_aad};
use crate::roster::{EntryBundle, Op, Role, Roster};

const OWNER: u8 = 1;
const PUBLISHER: u8 = 2;
const READER: u8 = 3;

/// A topic's log as an honest broker delivers it from the beginning.
struct Feed {
    genesis: Signed<Genesis>,
    roster: Roster,
    hand: Hand,
    log: Vec<Reply>,
    /// Whether the operations are shown.
    ops: bool,
}

impl Feed {
    fn empty(ops: bool) -> Self {
        let owner = identity(OWNER);
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: owner.public(), nonce: [7; 32] };
        let signed = Signed::sign(&genesis, owner.signing_key());
        let roster = Roster::new(signed.topic_id(), &genesis);
        Self { genesis: signed, roster, hand: Hand::new(PUBLISHER), log: Vec::new(), ops }
    }

    /// Two epochs of three batches each, a removal and a rotation between them.
    fn usual(ops: bool) -> Self {
        let mut feed = Self::empty(ops);
        let add = |n, role| Op::Add { identity: identity(n).public(), role };
        feed.entry(&[add(PUBLISHER, Role::Publisher), add(READER, Role::Reader), add(4, Role::Reader)]);
        feed.begin(100);
        (0..3).for_each(|_| feed.publish());
        let gone = identity(4).public();
        feed.entry(&[Op::Remove { member: feed.roster.find(&gone).unwrap().0, identity: gone }]);
        feed.entry(&[Op::Rotate]);
        feed.begin(200);
        (0..3).for_each(|_| feed.publish());
        feed
    }

    fn at(&self) -> Offset {
        Offset(self.log.len() as u64)
    }

    fn entry(&mut self, ops: &[Op]) {
        let bundle = self.roster.sign(ops, &identity(OWNER), 5).unwrap();
        self.roster.apply(&bundle.entry, &bundle.ops).unwrap();
        self.log.push(self.delivered(bundle));
    }

    fn delivered(&self, bundle: EntryBundle) -> Reply {
        let EntryBundle { entry, ops, roles, policy } = bundle;
        let ops = self.ops.then_some(ops);
        Reply::Roster(RosterDelivery { offset: self.at(), entry, ops, roles, policy })
    }

    fn begin(&mut self, epoch: u64) {
        let header = self.hand.header(&self.roster, epoch, Mode::Fresh);
        self.hand.begin(&header);
        self.log.push(epoch_at(self.at(), header));
    }

    fn publish(&mut self) {
        let (batch, hash) = self.hand.batch(self.hand.next as u8);
        self.hand.sent(hash);
        self.log.push(record_at(self.at(), batch));
    }

    fn start(&self) -> Reply {
        Reply::Start(Start {
            genesis: self.genesis.clone(),
            start_offset: Offset(0),
            next_offset: self.at(),
            roster_seq: self.roster.chain().seq(),
            level: Level::Durable,
        })
    }

    fn end(&self) -> Reply {
        Reply::AtHead { next_offset: self.at(), end_of_stream: true }
    }

    fn auditor(&self) -> Auditor {
        Auditor::new(self.genesis.topic_id(), identity(READER).public())
    }

    /// An audit of this stream, from start to head.
    fn audit(&self, log: &[Reply]) -> Audit {
        let all = [self.start()].into_iter().chain(log.iter().cloned()).chain([self.end()]);
        self.audit_all(all)
    }

    fn audit_all(&self, replies: impl IntoIterator<Item = Reply>) -> Audit {
        let mut auditor = self.auditor();
        for reply in replies {
            // What was sent and read back, as over a connection.
            let frame = reply.encode();
            let (kind, _) = crate::frame::FrameKind::parse(*frame.first_chunk().unwrap()).unwrap();
            let reply = Reply::decode(kind, frame.slice(crate::frame::FRAME_HEADER..)).unwrap();
            auditor.take(reply, 0);
        }
        auditor.finish(0)
    }

    /// What is found in this stream.
    fn kinds(&self, log: &[Reply]) -> Vec<Kind> {
        kinds(&self.audit(log))
    }
}

fn kinds(audit: &Audit) -> Vec<Kind> {
    audit.findings.iter().map(|finding| finding.kind).collect()
}

fn epoch_at(offset: Offset, header: Signed<EpochHeader>) -> Reply {
    Reply::Epoch(EpochDelivery { offset, header, slot: None })
}

fn record_at(offset: Offset, batch: BatchRecord) -> Reply {
    Reply::Record(offset, Record::Batch(batch).encode())
}

/// The same with one bit of what is signed, of the signature or of the ciphertext turned.
fn altered(reply: &Reply, part: u8) -> Reply {
    fn twist<T: crate::object::Object>(signed: &Signed<T>, part: u8) -> Signed<T> {
        let (mut body, mut signature) = (signed.body().to_vec(), *signed.signature());
        match part {
            0 => *body.last_mut().unwrap() ^= 1,
            _ => signature[7] ^= 1,
        }
        Signed::from_parts(body.into(), &signature).unwrap()
    }
    match reply.clone() {
        Reply::Roster(mut delivery) => {
            delivery.entry = twist(&delivery.entry, part);
            Reply::Roster(delivery)
        }
        Reply::Epoch(mut delivery) => {
            delivery.header = twist(&delivery.header, part);
            Reply::Epoch(delivery)
        }
        Reply::Record(offset, bytes) => {
            let mut bytes = bytes.to_vec();
            let at = match part {
                // The last byte of the batch's body is one of the hash before it.
                0 => 2 + usize::from(u16::from_be_bytes([bytes[1], bytes[2]])),
                1 => bytes.len() - 50,
                _ => bytes.len() - 1,
            };
            bytes[at] ^= 1;
            Reply::Record(offset, bytes.into())
        }
        other => other,
    }
}

fn moved(reply: &Reply, to: u64) -> Reply {
    match reply.clone() {
        Reply::Roster(delivery) => Reply::Roster(RosterDelivery { offset: Offset(to), ..delivery }),
        Reply::Epoch(delivery) => Reply::Epoch(EpochDelivery { offset: Offset(to), ..delivery }),
        Reply::Record(_, bytes) => Reply::Record(Offset(to), bytes),
        other => other,
    }
}

#[test]
fn a_topic_that_holds_is_summed_up() {
    let feed = Feed::usual(true);
    let audit = feed.audit(&feed.log);
    assert_eq!(audit.findings, []);
    assert!(audit.complete);
    assert_eq!((audit.records, audit.next_offset, audit.roster_seq), (11, Offset(11), RosterSeq(3)));
    assert_eq!((audit.members.as_ref().unwrap().len(), audit.members_ever), (3, 4));
    assert_eq!(audit.role, Some(Role::Reader));
    let entries: Vec<_> = audit
        .entries
        .iter()
        .map(|entry| (entry.added, entry.removed.unwrap(), entry.fence, entry.rotate.unwrap()))
        .collect();
    assert_eq!(entries, [(3, 0, false, false), (0, 1, true, false), (0, 0, false, true)]);
    assert_eq!(audit.entries[1].changed[0].identity, identity(4).public());
    let [publisher] = &audit.publishers[..] else { panic!("one publisher") };
    assert_eq!((publisher.role, publisher.epochs_in_all), (Some(Role::Publisher), 2));
    let epochs: Vec<_> = publisher
        .epochs
        .iter()
        .map(|epoch| (epoch.epoch.0, epoch.roster_seq.0, epoch.sums.batches, epoch.sums.ciphertext_bytes))
        .collect();
    assert_eq!(epochs, [(100, 1, 3, 144), (200, 3, 3, 144)]);
    assert_eq!(publisher.epochs[1].sums.offsets, Some((Offset(8), Offset(10))));
    assert_eq!((publisher.sums.messages, publisher.sums.smallest), (6, Some(48)));
}

#[test]
fn readers_are_told_less_and_check_as_much() {
    let feed = Feed::usual(false);
    let audit = feed.audit(&feed.log);
    assert_eq!(audit.findings, []);
    assert_eq!((audit.members, audit.members_ever, audit.officers.len()), (None, 4, 2));
    let entries: Vec<_> =
        audit.entries.iter().map(|entry| (entry.added, entry.removed, entry.fence)).collect();
    assert_eq!(entries, [(3, None, false), (0, None, true), (0, None, false)]);
    // The publisher is in the roles list; readers are in nothing that readers are shown.
    assert_eq!(audit.entries[0].changed.len(), 1);
}

/// Whatever single record is altered, dropped, delivered twice or exchanged with its neighbour, something is found; but
/// that the newest record is withheld shows only by what comes later.
#[test]
fn no_single_change_goes_unnamed() {
    for ops in [true, false] {
        let feed = Feed::usual(ops);
        for at in 0..feed.log.len() {
            for part in 0..3 {
                let mut log = feed.log.clone();
                log[at] = altered(&log[at], part);
                assert_ne!(feed.kinds(&log), [], "record {at}, part {part} altered");
            }
            let mut twice = feed.log.clone();
            twice.insert(at + 1, feed.log[at].clone());
            assert!(feed.kinds(&twice).contains(&Kind::Replayed), "record {at} twice");
            // As if it were a new one at the end.
            let mut later = feed.log.clone();
            later.push(moved(&feed.log[at], feed.at().0));
            assert!(feed.kinds(&later).contains(&Kind::Replayed), "record {at} again at the end");
            if at + 1 < feed.log.len() {
                let mut without = feed.log.clone();
                without.remove(at);
                // Without its header a batch hangs in the air.
                let found = feed.kinds(&without);
                let named = |kind: &Kind| [Kind::Missing, Kind::OutOfPlace].contains(kind);
                assert!(found.iter().any(named), "without record {at}");
                // Renumbered, so that the places do not give it away.
                let mut swapped = feed.log.clone();
                swapped[at] = moved(&feed.log[at + 1], at as u64);
                swapped[at + 1] = moved(&feed.log[at], at as u64 + 1);
                assert_ne!(feed.kinds(&swapped), [], "records {at} and {} exchanged", at + 1);
            }
        }
    }
}

/// One finding a cause: what is named first is what was done.
#[test]
fn what_was_done_is_named() {
    let feed = Feed::usual(true);
    let named = |change: &dyn Fn(&mut Vec<Reply>)| {
        let mut log = feed.log.clone();
        change(&mut log);
        feed.kinds(&log)
    };
    // The last batch of an epoch: the next header says how many there were.
    assert_eq!(named(&|log| drop(log.remove(4))), [Kind::Missing]);
    assert_eq!(named(&|log| drop(log.remove(3))), [Kind::Missing]);
    assert_eq!(named(&|log| log[3] = altered(&log[3], 2)), [Kind::Signature, Kind::Missing]);
    assert_eq!(named(&|log| log[1] = altered(&log[1], 1))[0], Kind::Signature);
    assert_eq!(named(&|log| log[5] = altered(&log[5], 1))[0], Kind::Signature);
    // A whole epoch: what follows goes on from a header that never came.
    let mut longer = Feed::usual(true);
    longer.begin(300);
    longer.publish();
    let mut log = longer.log.clone();
    log.drain(7..11);
    assert_eq!(longer.kinds(&log), [Kind::Missing]);
    assert_eq!(
        named(&|log| log.push(Reply::Hole(Offset(11), Offset(12), HoleReason::Corruption))),
        [Kind::Lost]
    );
    assert_eq!(named(&|log| log.push(feed.start())), [Kind::Malformed]);
}

#[test]
fn a_forged_roster_entry_is_named() {
    let feed = Feed::usual(true);
    let next = |signer: &Identity, claimed: &Identity| {
        let op = Op::Add { identity: identity(66).public(), role: Role::Admin };
        let genuine = feed.roster.sign(&[op], &identity(OWNER), 9).unwrap();
        let entry = RosterEntry { signer: claimed.public(), ..genuine.entry.peek().unwrap() };
        EntryBundle { entry: Signed::sign(&entry, signer.signing_key()), ..genuine }
    };
    let found = |bundle: EntryBundle| {
        let mut log = feed.log.clone();
        log.push(feed.delivered(bundle));
        let audit = feed.audit(&log);
        assert_eq!(audit.members.as_ref().unwrap().len(), 3, "nobody joins by it");
        kinds(&audit)
    };
    let (owner, stranger, reader) = (identity(OWNER), identity(66), identity(READER));
    assert_eq!(found(next(&stranger, &owner)), [Kind::Signature]);
    assert_eq!(found(next(&stranger, &stranger)), [Kind::Role]);
    assert_eq!(found(next(&reader, &reader)), [Kind::Role]);
    let genuine = next(&owner, &owner);
    assert_eq!(
        found(EntryBundle { ops: crate::roster::encode_ops(&[Op::Rotate]), ..genuine.clone() }),
        [Kind::Rule]
    );
    let roles = Some(Bytes::from_static(b"another list"));
    let mut log = feed.log.clone();
    log.push(feed.delivered(EntryBundle { roles, ..genuine }));
    assert_eq!(feed.kinds(&log), [Kind::Rule]);
}

#[test]
fn two_signed_statements_are_a_fork() {
    let feed = Feed::usual(true);
    // Another last batch under the same number.
    let mut hand = Hand::new(PUBLISHER);
    hand.begin(feed.hand.header.as_ref().unwrap());
    let (other, _) = hand.batch(99);
    let mut log = feed.log.clone();
    log.push(record_at(Offset(11), other));
    assert_eq!(feed.kinds(&log), [Kind::Fork]);
    // Another header of the newest epoch.
    let mut changed = feed.hand.header.as_ref().unwrap().peek().unwrap();
    changed.commitment = [9; 32];
    let other = Signed::sign(&changed, feed.hand.id.signing_key());
    let mut log = feed.log.clone();
    log.push(epoch_at(Offset(11), other));
    assert_eq!(feed.kinds(&log), [Kind::Fork]);
    // A later header that closes the epoch with other batches.
    let mut feed = feed;
    feed.hand.last = Hash([9; 32]);
    feed.begin(300);
    assert_eq!(feed.kinds(&feed.log), [Kind::Fork]);
}

#[test]
fn what_the_fence_forbids_is_named() {
    let mut feed = Feed::usual(true);
    let add = Op::Add { identity: identity(5).public(), role: Role::Reader };
    feed.entry(&[add]);
    let gone = identity(5).public();
    feed.entry(&[Op::Remove { member: feed.roster.find(&gone).unwrap().0, identity: gone }]);
    // Under the epoch of before the removal.
    feed.publish();
    feed.publish();
    let audit = feed.audit(&feed.log);
    assert_eq!(kinds(&audit), [Kind::StaleEpoch]);
    assert_eq!((audit.findings[0].times, audit.findings[0].offset), (2, Some(Offset(13))));
}

#[test]
fn who_holds_no_role_is_named() {
    let mut feed = Feed::usual(true);
    feed.hand = Hand::new(READER);
    feed.begin(300);
    feed.publish();
    assert_eq!(feed.kinds(&feed.log), [Kind::Role, Kind::OutOfPlace]);
    assert_eq!(feed.audit(&feed.log).publishers.len(), 1);
}

#[test]
fn what_stood_before_the_start_is_taken_from_its_context() {
    let feed = Feed::usual(true);
    let Reply::Epoch(epoch) = feed.log[7].clone() else { panic!("a header") };
    let Reply::Record(at, bytes) = feed.log[8].clone() else { panic!("a batch") };
    let digest = Reply::batch(bytes).unwrap().digest();
    let context = |epoch: &EpochDelivery| {
        Reply::Context(Context { epoch: epoch.clone(), batch: Some((digest.clone(), at)) })
    };
    let Reply::Start(start) = feed.start() else { panic!("a start") };
    let start = Reply::Start(Start { start_offset: Offset(9), ..start });
    let rosters = [0, 5, 6].map(|at| feed.log[at].clone());
    let trimmed = |context: Option<Reply>, from: usize| {
        let log = feed.log[from..].to_vec();
        let all = [start.clone()].into_iter().chain(rosters.clone()).chain(context).chain(log);
        feed.audit_all(all.chain([feed.end()]))
    };
    let audit = trimmed(Some(context(&epoch)), 9);
    assert_eq!(audit.findings, []);
    assert_eq!((audit.start_offset, audit.records), (Offset(9), 2));
    assert_eq!(audit.publishers[0].sums.seqs, Some((Seq(1), Seq(3))));
    // Without it, or with another one, what follows hangs in the air.
    assert_eq!(kinds(&trimmed(None, 9)), [Kind::OutOfPlace, Kind::OutOfPlace]);
    assert_eq!(kinds(&trimmed(Some(context(&epoch)), 10)), [Kind::Missing]);
    let Reply::Epoch(forged) = altered(&feed.log[7], 1) else { panic!("a header") };
    assert_eq!(kinds(&trimmed(Some(context(&forged)), 9))[0], Kind::Signature);
}

#[test]
fn a_beacon_says_what_is_withheld() {
    let feed = Feed::usual(true);
    let beacon = |next: u64, last: Hash| {
        let chain = feed.roster.chain();
        let beacon = Beacon {
            header_hash: feed.hand.header.as_ref().unwrap().hash(),
            next_batch_no: BatchNo(next),
            last_batch_hash: last,
            roster_seq: chain.seq(),
            roster_hash: chain.hash(),
            time_ms: 7,
        };
        Reply::Beacon(feed.hand.public(), Signed::sign(&beacon, &feed.hand.key))
    };
    let listen = |heard: Reply, until_ms: u64| {
        let mut auditor = feed.auditor();
        let log = feed.log.iter().cloned();
        for reply in [feed.start()].into_iter().chain(log).chain([feed.end(), heard]) {
            auditor.take(reply, 1_000);
        }
        auditor.finish(until_ms)
    };
    let heard = |reply: Reply| {
        let mut auditor = feed.auditor();
        let log = feed.log.iter().cloned();
        [feed.start()].into_iter().chain(log).for_each(|reply| _ = auditor.take(reply, 1_000));
        assert!(!auditor.is_heard(u64::MAX), "nothing was said yet");
        auditor.take(reply, 1_000);
        [1_000, 3_999, 4_000].map(|now| auditor.is_heard(now))
    };
    assert_eq!(heard(beacon(3, feed.hand.last)), [true; 3]);
    assert_eq!(heard(beacon(4, Hash([1; 32]))), [false, false, true]);

    let good = listen(beacon(3, feed.hand.last), 9_000);
    assert_eq!((kinds(&good), good.publishers[0].beacons), (vec![], 1));
    assert_eq!(kinds(&listen(beacon(4, Hash([1; 32])), 4_000)), [Kind::Withheld]);
    // It may still be on its way.
    assert_eq!(kinds(&listen(beacon(4, Hash([1; 32])), 3_999)), []);
    assert_eq!(kinds(&listen(beacon(3, Hash([1; 32])), 1_000)), [Kind::Fork]);
    let Reply::Beacon(publisher, signed) = beacon(3, feed.hand.last) else { panic!("a beacon") };
    let forged = Signed::from_parts(signed.body().clone(), &[0; 64]).unwrap();
    assert_eq!(kinds(&listen(Reply::Beacon(publisher, forged), 1_000)), [Kind::Signature]);
}

#[test]
fn another_topic_and_an_early_end_are_named() {
    let feed = Feed::usual(true);
    let mut auditor = Auditor::new(TopicId([3; 32]), identity(READER).public());
    auditor.take(feed.start(), 0);
    feed.log.iter().for_each(|reply| _ = auditor.take(reply.clone(), 0));
    let audit = auditor.finish(0);
    assert_eq!((kinds(&audit), audit.records), (vec![Kind::Genesis], 0));
    let log = feed.log[..3].to_vec();
    let cut = feed.audit_all([feed.start()].into_iter().chain(log));
    assert_eq!(kinds(&cut), [Kind::CutOff, Kind::Missing]);
}

/// Whoever was removed is shown what came before, and that is all there is.
#[test]
fn the_removed_see_up_to_their_removal() {
    let feed = Feed::usual(true);
    let mut auditor = Auditor::new(feed.genesis.topic_id(), identity(4).public());
    for (at, reply) in [feed.start()].into_iter().chain(feed.log[..6].to_vec()).enumerate() {
        let reply = match reply {
            // As readers get them, but for the last one.
            Reply::Roster(delivery) if at == 1 => Reply::Roster(RosterDelivery { ops: None, ..delivery }),
            reply => reply,
        };
        auditor.take(reply, 0);
    }
    let audit = auditor.finish(0);
    assert_eq!((kinds(&audit), audit.removed, audit.complete), (vec![], Some(RosterSeq(2)), false));
}

/// A broker that lies all the time costs neither memory nor words.
#[test]
fn findings_are_bounded() {
    let feed = Feed::usual(true);
    let mut auditor = feed.auditor();
    auditor.take(feed.start(), 0);
    for n in 0..3 * MAX_FINDINGS as u64 {
        auditor.take(Reply::Record(Offset(n), Bytes::from_static(b"nothing")), 0);
        auditor.take(Reply::Hole(Offset(n), Offset(n + 1), HoleReason::Corruption), 0);
    }
    let audit = auditor.finish(0);
    assert_eq!(audit.findings.len(), MAX_FINDINGS);
    assert_eq!(audit.holes.len(), MAX_HOLES);
    // Three for each pair: the record, its place after the first, and the hole; and the end that never came.
    assert!(audit.more_findings > 4 * MAX_FINDINGS as u64);

    // The same thing again and again is one finding.
    let mut auditor = feed.auditor();
    auditor.take(feed.start(), 0);
    for n in 0..5_000 {
        auditor.take(Reply::Record(Offset(n), Bytes::from_static(b"nothing")), 0);
    }
    let audit = auditor.finish(0);
    assert_eq!((audit.findings[0].kind, audit.findings[0].times), (Kind::Malformed, 5_000));
}

/// A batch of a megabyte leaves nothing behind but its numbers.
#[test]
fn a_batch_leaves_its_numbers_only() {
    let mut feed = Feed::usual(true);
    let header = feed.hand.header.clone().unwrap();
    let body = crate::object::Batch {
        epoch: Epoch(200),
        batch_no: BatchNo(feed.hand.next),
        first_seq: Seq(feed.hand.next),
        count: 1,
        time_ms: 0,
        end: true,
        prev_batch_hash: feed.hand.last,
    }
    .encode();
    let aad = batch_aad(&header.hash(), &body);
    let (batch, _) = BatchRecord::sign(body, &aad, Sealed(vec![0; 1 << 20].into()), &feed.hand.key);
    feed.log.push(record_at(feed.at(), batch));
    let mut auditor = feed.auditor();
    auditor.take(feed.start(), 0);
    feed.log[..11].iter().for_each(|reply| _ = auditor.take(reply.clone(), 0));
    let Reply::Record(offset, bytes) = feed.log.pop().unwrap() else { panic!("a batch") };
    auditor.take(Reply::Record(offset, bytes.clone()), 0);
    assert!(bytes.is_unique(), "the auditor holds no part of the record");
    let audit = auditor.finish(0);
    let epoch = audit.publishers[0].epochs.last().unwrap();
    assert_eq!((epoch.ended, epoch.sums.largest), (true, Some(1 << 20)));
}
