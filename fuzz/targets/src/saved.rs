//! What is read back from disks: a client's state directory and the broker's store, damaged or made up.
//!
//! ```text
//! input = kind u8 ‖ bytes            for the store: (what u8 ‖ length u16 ‖ bytes) …
//! ```
//! What must hold: what was read is written again, and that is read as the same; a machine that begins with it takes its
//! first inputs without harm; a damaged store is an error that says so, or its undamaged part.

use std::sync::Arc;

use bytes::Bytes;
use sealcast_broker::internals::{Wanted, compare, contexts, epochs, keep, kept, load, rosters};
use sealcast_broker::store::{Log, MemoryLog, TableId, Write};
use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret};
use sealcast_proto::frame::{From as Begin, Level, Reply, Start};
use sealcast_proto::object::{Prekey, RosterHead};
use sealcast_proto::record::{BatchDigest, Record};
use sealcast_proto::roster::{EntryBundle, RosterChain};
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, Offset, RosterSeq, Seq, SlotSource, TopicId};
use sealcast_publisher::internals as publisher;
use sealcast_subscriber::internals as subscriber;

use crate::{Reached, Target, valid};

/// See the module's page. A machine that begins costs some hundred kilobytes.
pub const TARGET: Target = Target { name: "saved", run, stages: STAGES, heap: (1 << 20, 256), seeds };

const STAGES: &[&str] = &[
    "prekeys",
    "chain",
    "cursor",
    "resumed",
    "marks",
    "publisher begins",
    "admin marks",
    "receiver",
    "digest",
    "bundle",
    "head",
    "prekey",
    "loaded",
    "load refused",
    "contexts",
    "epochs",
    "rosters",
];

fn run(input: &[u8], reached: &mut Reached) {
    let Some((kind, rest)) = input.split_first() else { return };
    let bytes = Bytes::copy_from_slice(rest);
    match kind % 10 {
        0 => prekeys(rest, reached),
        1 => chain(rest, reached),
        2 => cursor(rest, reached),
        3 => marks(rest, reached),
        4 => admin_marks(rest, reached),
        5 => receiver(rest, reached),
        6 => {
            let Some(digest) = BatchDigest::decode(&bytes) else { return };
            reached.mark("digest");
            assert_eq!(digest.encode(), bytes);
        }
        7 => {
            let Some(bundle) = reached.ok("bundle", EntryBundle::decode(bytes)) else { return };
            assert_eq!(EntryBundle::decode(bundle.encode()), Ok(bundle));
        }
        8 => {
            if let Ok(head) = kept::<RosterHead>(&bytes) {
                assert_eq!(keep(&head), bytes);
                let _ = reached.ok("head", head.verify(&valid::identity(1).public()));
            }
            if let Ok(prekey) = kept::<Prekey>(&bytes) {
                let _ = reached.ok("prekey", prekey.verify_own());
            }
        }
        _ => store(rest, reached),
    }
}

fn prekeys(bytes: &[u8], reached: &mut Reached) {
    let Some(mut ring) = reached.ok("prekeys", PrekeyRing::decode(bytes)) else { return };
    let again = ring.encode();
    assert_eq!(*PrekeyRing::decode(&again).expect("its own bytes").encode(), *again);
    let newest = ring.newest().map(|signed| signed.verify_own().expect("checked when it was read").prekey_id);
    assert!(newest.is_none_or(|id| ring.secret(id).is_some() && ring.made(id)));
    for id in ring.purge(u64::MAX) {
        assert!(ring.secret(id).is_none() && ring.made(id));
    }
    assert!(ring.newest().is_none());
}

fn chain(bytes: &[u8], reached: &mut Reached) {
    let Some(mut chain) = reached.ok("chain", RosterChain::decode(bytes)) else { return };
    assert_eq!(RosterChain::decode(&chain.encode()).as_ref(), Ok(&chain));
    let before = chain.clone();
    let bundle = valid::bundle();
    if chain.follow(&bundle.entry, bundle.roles.as_deref(), bundle.policy.as_deref()).is_err() {
        assert_eq!(chain, before);
    }
    let _ = chain.verify_head(&valid::head());
}

fn cursor(bytes: &[u8], reached: &mut Reached) {
    let topic = valid::genesis().2;
    let Some(cursor) = reached.ok("cursor", subscriber::Cursor::decode(bytes, &topic)) else { return };
    let again = cursor.encode();
    let twice = subscriber::Cursor::decode(&again, &topic).expect("its own bytes");
    assert_eq!(*twice.encode(), *again);
    assert!(subscriber::Cursor::decode(&again, &TopicId([1; 32])).is_err());

    let member = valid::identity(3);
    let secret = WrapSecret::of_identity(&member);
    let mut inbox =
        subscriber::Inbox::new(member.public(), secret, PrekeyRing::new(), cursor, Begin::Earliest, false);
    let subscribe = inbox.subscribe();
    let bundle = valid::bundle();
    let start = Start {
        genesis: valid::genesis().1,
        start_offset: match subscribe.from {
            Begin::Offset(offset) => offset,
            _ => Offset(0),
        },
        next_offset: Offset(3),
        roster_seq: RosterSeq(1),
        level: Level::Durable,
    };
    let mut effects = subscriber::Effects::default();
    let replies = [
        Reply::Start(start),
        Reply::Roster(sealcast_proto::frame::RosterDelivery {
            offset: Offset(0),
            entry: bundle.entry,
            ops: None,
            roles: bundle.roles,
            policy: bundle.policy,
        }),
        Reply::Epoch(sealcast_proto::frame::EpochDelivery {
            offset: Offset(1),
            header: valid::header(),
            slot: None,
        }),
        Reply::Record(Offset(2), Record::Batch(valid::batch()).encode()),
        Reply::AtHead { next_offset: Offset(3), end_of_stream: false },
        Reply::Beacon(valid::identity(2).public(), valid::beacon()),
    ];
    for reply in replies {
        inbox.handle(subscriber::Input::Reply(reply), valid::NOW, &mut effects);
        if effects.need.take().is_some() {
            inbox.handle(subscriber::Input::Epochs(Vec::new()), valid::NOW, &mut effects);
        }
    }
    inbox.handle(subscriber::Input::Tick, valid::NOW + 60_000, &mut effects);
    inbox.ledger().settle(u64::MAX);
    let saved = inbox.ledger().cursor().encode();
    subscriber::Cursor::decode(&saved, &topic).expect("its own bytes");
    if inbox.is_at_head() {
        reached.mark("resumed");
    }
}

fn marks(bytes: &[u8], reached: &mut Reached) {
    let Some(marks) = reached.ok("marks", publisher::Marks::decode(bytes)) else { return };
    assert_eq!(publisher::Marks::decode(&marks.encode()).as_ref(), Ok(&marks));
    let (genesis, _, topic) = valid::genesis();
    let owner = Arc::new(valid::identity(1));
    let mut outbox = publisher::Outbox::new(owner, topic, &genesis, marks);
    let bundle = valid::bundle();
    let mut effects = Vec::new();
    let inputs = [
        publisher::Input::Roster { entry: bundle.entry, ops: bundle.ops },
        publisher::Input::Prekey(valid::prekey()),
        publisher::Input::Connected { own: None, roster_seq: RosterSeq(1) },
        publisher::Input::Send { token: 1, message: Bytes::from_static(b"m") },
        publisher::Input::Tick,
    ];
    for input in inputs {
        outbox.handle(input, valid::NOW, &mut effects);
    }
    if effects.iter().any(|effect| matches!(effect, publisher::Effect::BuildEpoch(_))) {
        reached.mark("publisher begins");
    }
}

fn admin_marks(bytes: &[u8], reached: &mut Reached) {
    let Some(marks) = reached.ok("admin marks", publisher::AdminMarks::decode(bytes)) else { return };
    assert_eq!(publisher::AdminMarks::decode(&marks.encode()), Ok(marks));
}

fn receiver(bytes: &[u8], reached: &mut Reached) {
    let Some(mut receiver) = reached.ok("receiver", EpochReceiver::restore(bytes)) else { return };
    assert_eq!(*receiver.snapshot(), bytes);
    assert_ne!(receiver.source(), SlotSource::Kek);
    let next = receiver.next_batch_no();
    // Some steps: all 65,536 would take the fuzzer's time.
    let to = BatchNo(next.0.saturating_add(3));
    match receiver.fast_forward(to) {
        Ok(()) => assert_eq!(receiver.next_batch_no(), to),
        Err(_) => assert_eq!(receiver.next_batch_no(), next),
    }
    assert!(receiver.fast_forward(BatchNo(u64::MAX)).is_err());
}

/// A store whose parts are whatever the fuzzer put there.
fn store(mut bytes: &[u8], reached: &mut Reached) {
    let (genesis, signed, topic) = valid::genesis();
    let publisher = valid::identity(2).public();
    let log = MemoryLog::new();
    let write = |write: Write| log.write(&[write], true);
    write(Write::CreateTopic { topic, genesis: keep(&signed) }).expect("a new topic");
    let mut offset = Offset(0);
    while let [what, high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (part, after) = rest.split_at(len);
        bytes = after;
        let part = Bytes::copy_from_slice(part);
        let at = offset;
        offset = Offset(offset.0 + 1);
        let seq = u64::from(what / 8);
        // A write that breaks the store's own rules is refused by it: then nothing was written.
        let _ = match what % 8 {
            0 => write(Write::Append { topic, offset: at, stored_ms: valid::NOW, record: part }),
            1 => write(Write::Roster { topic, seq: RosterSeq(seq + 1), offset: at, bundle: part }),
            2 => write(Write::Head { topic, head: part }),
            3 => write(Write::Publisher { topic, publisher, state: part }),
            4 => {
                let table = (seq > 0).then_some(TableId(seq));
                let epoch = Epoch(valid::NOW + seq);
                write(Write::Epoch { topic, publisher, epoch, offset: at, header: part, table })
            }
            5 => {
                let (epoch, batch_no) = (Epoch(valid::NOW), BatchNo(seq));
                write(Write::Batch { topic, publisher, epoch, batch_no, offset: at, digest: part })
            }
            6 => write(Write::Prekey { owner: publisher, prekey: part }),
            _ => write(Write::TableChunk { table: TableId(seq), first_member: MemberIndex(0), slots: part }),
        };
    }
    match load(&log, topic, &genesis) {
        Ok(loaded) => {
            reached.mark("loaded");
            assert!(loaded.machine.next_offset() >= log.bounds(&topic).expect("in memory").next);
        }
        Err(error) => {
            reached.mark("load refused");
            assert!(!error.to_string().is_empty());
        }
    }
    let members = [MemberIndex(0), MemberIndex(2)];
    drop(reached.ok("contexts", contexts(&log, topic, offset, &members)));
    drop(reached.ok("epochs", epochs(&log, topic, &publisher, Epoch(u64::MAX), offset, &members)));
    drop(reached.ok("rosters", rosters(&log, topic, RosterSeq(1), RosterSeq(u64::MAX), 1 << 20)));
    let wanted = Wanted { publisher, number: (Epoch(valid::NOW), Some(BatchNo(0))), fingerprint: Hash::ZERO };
    if let Ok(found) = compare(&log, topic, &wanted) {
        assert!(found.is_err(), "nothing has this fingerprint");
    }
}

fn saved_cursor() -> Vec<u8> {
    let topic = valid::genesis().2;
    let mut cursor = subscriber::Cursor::new(topic);
    let (genesis, bundle) = (valid::genesis().0, valid::bundle());
    let mut chain = RosterChain::new(topic, &genesis);
    chain.follow(&bundle.entry, bundle.roles.as_deref(), bundle.policy.as_deref()).expect("entry 1");
    cursor.chain = Some(Arc::new(chain));
    cursor.next_offset = Some(Offset(1));
    cursor.tag = Some(Bytes::from_static(b"tag"));
    cursor.acknowledged = vec![(7, valid::NOW)];
    cursor.partial = Some(subscriber::Partial { record: Hash([4; 32]), events: 1, upto: Some(Seq(3)) });
    let header = valid::header();
    let track = subscriber::Track {
        header_hash: header.hash(),
        header,
        older: vec![Hash([5; 32])].into(),
        next_batch_no: BatchNo(1),
        last_hash: Some(Hash([6; 32])),
        next_seq: Some(Seq(13)),
        unbroken: true,
        suspect: None,
        gap_due: false,
        locked_from: Some(Seq(0)),
        locked_told: true,
        ended: false,
        stale_told: false,
    };
    let keys = Arc::new(snapshot().into());
    let saved =
        subscriber::SavedPublisher { track, keys: subscriber::SavedKeys::Open(SlotSource::Static, keys) };
    cursor.publishers.insert(valid::identity(2).public(), saved);
    cursor.encode().to_vec()
}

/// An [`EpochReceiver`] as it saves itself.
fn snapshot() -> Vec<u8> {
    let numbers = [&valid::NOW.to_be_bytes()[..], &[0; 4], &[0; 4], &[0; 4], &1_u64.to_be_bytes()].concat();
    [&[1][..], valid::header().hash().as_bytes(), &numbers, &[0x33; 96]].concat()
}

fn ring() -> Vec<u8> {
    let mut rng = <rand::rngs::StdRng as rand::SeedableRng>::seed_from_u64(1);
    let mut ring = PrekeyRing::new();
    for at in [0, 5_000, 60_000] {
        ring.rotate_if_due(&valid::identity(3), 1_000, 30_000, valid::NOW + at, true, &mut rng);
    }
    ring.purge(valid::NOW + 40_000);
    ring.encode().to_vec()
}

fn seeds() -> Vec<Vec<u8>> {
    let bundle = valid::bundle();
    let topic = valid::genesis().2;
    let mut chain = RosterChain::new(topic, &valid::genesis().0);
    let first = chain.encode();
    chain.follow(&bundle.entry, bundle.roles.as_deref(), bundle.policy.as_deref()).expect("entry 1");
    let remembered = || publisher::Remembered {
        seq: RosterSeq(1),
        hash: bundle.entry.hash(),
        record: Record::Roster(bundle.entry.clone()).encode(),
    };
    let position = publisher::Position {
        epoch: Epoch(valid::NOW),
        header_hash: Hash([2; 32]),
        batches: 3,
        last_hash: Hash([3; 32]),
    };
    let marks = publisher::Marks {
        roster: Some(remembered()),
        position: None,
        next_seq: Seq(44),
        coming: None,
        prekeys: [(valid::identity(3).public(), 5)].into(),
    };
    let admin = publisher::AdminMarks { mark: Some(remembered()), pending: Some(bundle.clone()) };
    let part = |what: u8, bytes: &[u8]| {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&[what][..], &len.to_be_bytes(), bytes].concat()
    };
    let records = [Record::Header(valid::header()).encode(), Record::Batch(valid::batch()).encode()];
    let whole = [
        part(1, &bundle.encode()),
        part(0, &Record::Roster(bundle.entry.clone()).encode()),
        part(2, &keep(&valid::head())),
        part(7 + 8, &valid::table()),
        part(3, &[]),
        part(4 + 8, &records[0]),
        part(0, &records[0]),
        part(5, &valid::batch().digest().encode()),
        part(0, &records[1]),
        part(6, &keep(&valid::prekey())),
    ]
    .concat();
    let of = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
    vec![
        of(0, &ring()),
        of(1, &first),
        of(1, &chain.encode()),
        of(2, &saved_cursor()),
        of(2, &subscriber::Cursor::new(topic).encode()),
        of(3, &marks.encode()),
        of(3, &publisher::Marks { position: Some(position), ..marks }.encode()),
        of(4, &admin.encode()),
        of(5, &snapshot()),
        of(6, &valid::batch().digest().encode()),
        of(7, &bundle.encode()),
        of(8, &keep(&valid::head())),
        of(8, &keep(&valid::prekey())),
        of(9, &whole),
        of(9, &part(1, b"no bundle")),
        of(9, &part(4, b"no header")),
    ]
}
