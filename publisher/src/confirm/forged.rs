//! Whose word an admin takes for a publisher's notice: the publisher's alone.

use sealcast_proto::object::{Batch, Genesis, Mode, SUITE};
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::{BatchNo, Epoch, Identity, Offset, Seq};

use super::*;

struct Bench {
    roster: Roster,
    entry: Signed<RosterEntry>,
    publisher: Identity,
    epoch_key: Identity,
    forger: Identity,
    head: (RosterSeq, Hash),
    before: (RosterSeq, Hash),
}

impl Bench {
    fn new() -> Self {
        let [owner, publisher, epoch_key, forger] = [1, 2, 3, 4].map(|n| Identity::from_seed(&[n; 32]));
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: owner.public(), nonce: [0; 32] };
        let topic = Signed::sign(&genesis, owner.signing_key()).topic_id();
        let mut roster = Roster::new(topic, &genesis);
        let add = Op::Add { identity: publisher.public(), role: Role::Publisher };
        let bundle = roster.sign(&[add], &owner, 1).unwrap();
        roster.apply(&bundle.entry, &bundle.ops).unwrap();
        let head = (roster.chain().seq(), roster.chain().hash());
        let before = (RosterSeq(0), Hash(topic.0));
        let entry = bundle.entry;
        Self { roster, entry, publisher, epoch_key, forger, head, before }
    }

    fn header(&self, knows: (RosterSeq, Hash), signer: &Identity) -> Signed<EpochHeader> {
        let header = EpochHeader {
            topic: self.roster.chain().topic(),
            publisher: self.publisher.public(),
            epoch: Epoch(1),
            prev_header_hash: Hash::ZERO,
            prev_close: None,
            roster_seq: knows.0,
            roster_hash: knows.1,
            mode: Mode::Fresh,
            kek_gen: 0,
            enc: [0; 32],
            commitment: [0; 32],
            epoch_vk: self.epoch_key.public(),
            slot_count: 0,
            slots_hash: Hash::ZERO,
            time_ms: 1,
        };
        Signed::sign(&header, signer.signing_key())
    }

    /// What an admin that was shown this says of the publisher.
    fn hear(&mut self, show: impl FnOnce(&Self, &mut Watcher)) -> Confirmation {
        let mut roster = self.roster.clone();
        let entries = BTreeMap::from([(self.head.0, self.entry.clone())]);
        let (until, target, at_head, publishers) = (Until::Noticed, self.head.0, true, BTreeMap::new());
        let mut watcher = Watcher { roster: &mut roster, until, target, entries, publishers, at_head };
        show(self, &mut watcher);
        watcher.confirmation()
    }
}

#[test]
fn a_header_that_the_publisher_did_not_sign_is_not_heard() {
    let mut bench = Bench::new();
    let publisher = bench.publisher.public();
    let genuine =
        bench.hear(|bench, watcher| watcher.heard_header(&bench.header(bench.head, &bench.publisher)));
    assert_eq!(genuine.confirmed, [publisher]);
    let forged = bench.hear(|bench, watcher| watcher.heard_header(&bench.header(bench.head, &bench.forger)));
    assert_eq!(forged.confirmed, []);
    assert!(forged.unseen.contains(&publisher));
}

#[test]
fn a_beacon_that_the_epochs_key_did_not_sign_is_not_heard() {
    let mut bench = Bench::new();
    let publisher = bench.publisher.public();
    let mut with_beacon = |by_forger: bool| {
        bench.hear(|bench, watcher| {
            let header = bench.header(bench.before, &bench.publisher);
            watcher.heard_header(&header);
            let (roster_seq, roster_hash) = bench.head;
            let (header_hash, next_batch_no) = (header.hash(), BatchNo(0));
            let last_batch_hash = header_hash;
            let beacon =
                Beacon { header_hash, next_batch_no, last_batch_hash, roster_seq, roster_hash, time_ms: 2 };
            let signer = if by_forger { &bench.forger } else { &bench.epoch_key };
            heard_beacon(
                &bench.publisher.public(),
                &Signed::sign(&beacon, signer.signing_key()),
                &mut watcher.publishers,
            );
        })
    };
    assert_eq!(with_beacon(false).confirmed, [publisher]);
    let forged = with_beacon(true);
    assert_eq!((forged.confirmed, forged.unheard), (vec![], vec![publisher]));
}

#[test]
fn an_end_that_the_epochs_key_did_not_sign_ends_nobody() {
    let mut bench = Bench::new();
    let publisher = bench.publisher.public();
    let mut with_end = |by_forger: bool| {
        bench.hear(|bench, watcher| {
            let header = bench.header(bench.before, &bench.publisher);
            let body = Batch {
                epoch: Epoch(1),
                batch_no: BatchNo(0),
                first_seq: Seq(0),
                count: 0,
                time_ms: 7,
                end: true,
                prev_batch_hash: header.hash(),
            }
            .encode();
            let aad = batch_aad(&header.hash(), &body);
            let signer = if by_forger { &bench.forger } else { &bench.epoch_key };
            let sealed = Sealed(vec![0; 20].into());
            let (batch, _) = BatchRecord::sign(body, &aad, sealed, signer.signing_key());
            let epoch = sealcast_proto::frame::EpochDelivery {
                offset: Offset(1),
                header: header.clone(),
                slot: None,
            };
            watcher.heard_context(&Context { epoch, batch: Some((batch.digest(), Offset(2))) });
        })
    };
    assert_eq!(with_end(false).ended, [(publisher, 7)]);
    let forged = with_end(true);
    assert_eq!((forged.ended, forged.unheard), (vec![], vec![publisher]));
}
