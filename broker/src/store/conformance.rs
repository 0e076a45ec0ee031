//! What every back end must do: one suite, run against each.
//!
//! ```ignore
//! conformance::run(&mut MyBackend::default());
//! ```
//! A step that fails panics, and says which case it belongs to.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use bytes::Bytes;
use sealcast_proto::slot::Slot;
use sealcast_proto::{
    BatchNo, Epoch, Identity, MemberIndex, Offset, PublicKey, RosterSeq, SlotSource, TopicId,
};

use super::{Bounds, Log, LogError, Stored, TableId, Write};

/// A back end under test.
pub trait Backend {
    /// Its store.
    type Log: Log;

    /// A new, empty store.
    fn fresh(&mut self) -> Self::Log;

    /// The store a restart would find after `log` went away without warning: everything synced, nothing staged.
    fn reopen(&mut self, log: Self::Log) -> Self::Log;
}

type Case<B> = (&'static str, fn(&mut B));

/// Runs every case, each on a new store.
pub fn run<B: Backend>(backend: &mut B) {
    let cases: [Case<B>; 17] = [
        ("an unknown topic holds nothing", unknown_topic),
        ("records come back in order, byte for byte", order),
        ("reads keep to their budget", budgets),
        ("reading backwards", backwards),
        ("offsets need not be dense", sparse),
        ("a write that breaks a rule changes nothing", misuse),
        ("topics do not see each other", isolation),
        ("what was synced outlives a restart", restart),
        ("what was reserved outlives a restart", reserved),
        ("search by time", time),
        ("search by size", size),
        ("rosters", rosters),
        ("epochs and batches by publisher", epochs),
        ("slots across chunk borders", slots),
        ("staged tables are dropped by a restart", staged),
        ("a trim removes records and nothing else", trim),
        ("dropping epochs takes their tables along", drop_epochs),
    ];
    for (name, case) in cases {
        let case = std::panic::AssertUnwindSafe(|| case(backend));
        if let Err(panic) = std::panic::catch_unwind(case) {
            eprintln!("conformance: {name}");
            std::panic::resume_unwind(panic);
        }
    }
}

/// Topics whose ids are neighbours, up to the last.
pub fn topic(n: u8) -> TopicId {
    let mut id = [0xff; 32];
    id[31] -= n;
    TopicId(id)
}

/// A publisher.
pub fn publisher(n: u8) -> PublicKey {
    Identity::from_seed(&[n; 32]).public()
}

/// A record of `len` bytes.
pub fn record(n: u8, len: usize) -> Bytes {
    vec![n; len].into()
}

/// A slot of `member`.
pub fn slot(member: u32) -> Slot {
    Slot { member: MemberIndex(member), source: SlotSource::Kek, ct: [member.to_be_bytes()[3]; 48] }
}

fn create(topic: TopicId) -> Write {
    Write::CreateTopic { topic, genesis: Bytes::copy_from_slice(topic.as_bytes()) }
}

fn append(topic: TopicId, offset: u64, record: Bytes) -> Write {
    Write::Append { topic, offset: Offset(offset), stored_ms: offset.saturating_mul(10), record }
}

fn epoch(topic: TopicId, publisher: PublicKey, epoch: u64, offset: u64, table: Option<TableId>) -> Write {
    let header = record(0xee, 300);
    Write::Epoch { topic, publisher, epoch: Epoch(epoch), offset: Offset(offset), header, table }
}

fn batch(topic: TopicId, publisher: PublicKey, epoch: u64, batch_no: u64, offset: u64) -> Write {
    let (epoch, batch_no, offset) = (Epoch(epoch), BatchNo(batch_no), Offset(offset));
    let digest = Bytes::copy_from_slice(&offset.0.to_be_bytes());
    Write::Batch { topic, publisher, epoch, batch_no, offset, digest }
}

fn chunk(table: TableId, members: std::ops::Range<u32>) -> Write {
    let slots: Vec<u8> = members.clone().flat_map(|member| slot(member).encode()).collect();
    Write::TableChunk { table, first_member: MemberIndex(members.start), slots: slots.into() }
}

fn offsets(stored: &[Stored]) -> Vec<u64> {
    stored.iter().map(|stored| stored.offset.0).collect()
}

/// A new store with a topic of `n` records of 100 bytes.
fn filled<B: Backend>(backend: &mut B, n: u64) -> B::Log {
    let log = backend.fresh();
    let mut writes = vec![create(topic(0))];
    writes.extend((0..n).map(|offset| append(topic(0), offset, record(1, 100))));
    log.write(&writes, true).unwrap();
    log
}

fn unknown_topic<B: Backend>(backend: &mut B) {
    let log = backend.fresh();
    let (topic, publisher) = (topic(0), publisher(1));
    assert_eq!(log.topics().unwrap(), []);
    assert_eq!(log.topic(&topic).unwrap(), None);
    assert_eq!(log.bounds(&topic).unwrap(), Bounds::default());
    assert_eq!(log.read(&topic, Offset(0), 1000).unwrap(), []);
    assert_eq!(log.read_back(&topic, Offset(9), 9).unwrap(), []);
    assert_eq!(log.seek_time(&topic, 0).unwrap(), Offset(0));
    assert_eq!(log.seek_bytes(&topic, 0).unwrap(), Offset(0));
    assert_eq!(log.rosters(&topic, RosterSeq(0), 1000).unwrap(), []);
    assert_eq!(log.roster_before(&topic, Offset(9)).unwrap(), None);
    assert_eq!(log.head(&topic).unwrap(), None);
    assert_eq!(log.publishers(&topic).unwrap(), []);
    assert_eq!(log.epochs_back(&topic, &publisher, Epoch(9), 9).unwrap(), []);
    assert_eq!(log.batch_before(&topic, &publisher, Epoch(9), Offset(9)).unwrap(), None);
    assert_eq!(log.prekey(&publisher).unwrap(), None);
    assert_eq!(log.slot(TableId(0), MemberIndex(0)).unwrap(), None);
    assert_eq!(log.trim(&topic, Offset(9)).unwrap(), Default::default());
    assert_eq!(log.drop_epochs(&topic, &publisher, Epoch(9)).unwrap(), 0);
}

fn order<B: Backend>(backend: &mut B) {
    let log = backend.fresh();
    log.write(&[create(topic(0))], true).unwrap();
    for n in 0..40_u8 {
        // Around the sizes where a back end may change how it stores a value.
        let record = record(n, usize::from(n) * 50);
        log.write(&[append(topic(0), n.into(), record)], n % 3 == 0).unwrap();
    }
    let stored = log.read(&topic(0), Offset(0), usize::MAX).unwrap();
    assert_eq!(offsets(&stored), (0..40).collect::<Vec<_>>());
    for (n, stored) in (0..).zip(stored) {
        assert_eq!((stored.stored_ms, stored.record), (u64::from(n) * 10, record(n, usize::from(n) * 50)));
    }
    assert_eq!(log.bounds(&topic(0)).unwrap(), Bounds { first: Offset(0), next: Offset(40), bytes: 39_000 });
    assert_eq!(log.topics().unwrap(), [topic(0)]);
    assert_eq!(log.topic(&topic(0)).unwrap(), Some(Bytes::copy_from_slice(topic(0).as_bytes())));
}

fn budgets<B: Backend>(backend: &mut B) {
    let log = filled(backend, 10);
    let read = |from, max| offsets(&log.read(&topic(0), Offset(from), max).unwrap());
    assert_eq!(read(0, 0), [0], "at least one");
    assert_eq!(read(0, 199), [0]);
    assert_eq!(read(0, 200), [0, 1]);
    assert_eq!(read(7, 1000), [7, 8, 9]);
    assert_eq!(read(10, 1000), [0_u64; 0]);
    assert_eq!(read(u64::MAX, 1000), [0_u64; 0]);
}

fn backwards<B: Backend>(backend: &mut B) {
    let log = filled(backend, 5);
    let read = |before, max| offsets(&log.read_back(&topic(0), Offset(before), max).unwrap());
    assert_eq!(read(5, 2), [4, 3]);
    assert_eq!(read(u64::MAX, 9), [4, 3, 2, 1, 0]);
    assert_eq!(read(1, 9), [0]);
    assert_eq!(read(0, 9), [0_u64; 0]);
    assert_eq!(read(5, 0), [0_u64; 0]);
}

fn sparse<B: Backend>(backend: &mut B) {
    let log = backend.fresh();
    let mut writes = vec![create(topic(0))];
    writes.extend([3, 1000, u64::from(u32::MAX) + 7].map(|offset| append(topic(0), offset, record(1, 10))));
    log.write(&writes, true).unwrap();
    assert_eq!(offsets(&log.read(&topic(0), Offset(4), 1000).unwrap()), [1000, (1 << 32) + 6]);
    assert_eq!(log.seek_time(&topic(0), 31).unwrap(), Offset(1000));
    assert_eq!(log.seek_bytes(&topic(0), 25).unwrap(), Offset(1000));
    assert_eq!(log.bounds(&topic(0)).unwrap().next, Offset((1 << 32) + 7));
    // A trim says where the last record stood that it took, not where the next one stands.
    let first = |log: &B::Log| log.bounds(&topic(0)).unwrap().first;
    assert_eq!(log.trim(&topic(0), Offset(3)).unwrap(), Default::default());
    assert_eq!(first(&log), Offset(0));
    assert_eq!(log.trim(&topic(0), Offset(1000)).unwrap().records, 1);
    assert_eq!(first(&log), Offset(4));
    log.write(&[], true).unwrap();
    let log = backend.reopen(log);
    assert_eq!((first(&log), log.bounds(&topic(0)).unwrap().bytes), (Offset(4), 20));
    assert_eq!(log.trim(&topic(0), Offset(u64::MAX)).unwrap().records, 2);
    assert_eq!(first(&log), Offset((1 << 32) + 7));
}

fn misuse<B: Backend>(backend: &mut B) {
    let log = filled(backend, 3);
    let before = log.bounds(&topic(0)).unwrap();
    let head = Write::Head { topic: topic(0), head: record(1, 1) };
    let broken = [
        vec![head.clone(), append(topic(0), 2, record(9, 9))],
        vec![head.clone(), append(topic(0), 3, record(9, 9)), append(topic(0), 3, record(9, 9))],
        vec![head.clone(), append(topic(0), u64::MAX, record(9, 9))],
        vec![head, append(topic(1), 0, record(9, 9))],
    ];
    for writes in broken {
        assert!(matches!(log.write(&writes, true), Err(LogError::Misuse(_))));
        assert_eq!(log.bounds(&topic(0)).unwrap(), before);
        assert_eq!(log.head(&topic(0)).unwrap(), None);
        assert_eq!(offsets(&log.read(&topic(0), Offset(0), 1000).unwrap()), [0, 1, 2]);
    }
    // And the next one succeeds.
    log.write(&[create(topic(0)), append(topic(0), 3, record(1, 1))], true).unwrap();
    assert_eq!(log.bounds(&topic(0)).unwrap().next, Offset(4));
}

fn isolation<B: Backend>(backend: &mut B) {
    let log = backend.fresh();
    let mut writes = Vec::new();
    for n in 0..3 {
        writes.extend([
            create(topic(n)),
            append(topic(n), 0, record(n, 10)),
            append(topic(n), 1, record(n, 20)),
        ]);
        writes.push(Write::Head { topic: topic(n), head: record(n, 3) });
        let bundle = record(n, 5);
        writes.push(Write::Roster { topic: topic(n), seq: RosterSeq(1), offset: Offset(0), bundle });
        for p in 0..3 {
            let publisher = publisher(p);
            writes.push(Write::Publisher { topic: topic(n), publisher, state: record(n + p, 7) });
            writes.push(epoch(topic(n), publisher, 5, 0, None));
            writes.push(batch(topic(n), publisher, 5, 0, 1));
        }
    }
    log.write(&writes, true).unwrap();
    // The middle one goes as far as it can; its neighbours keep everything.
    log.trim(&topic(1), Offset(2)).unwrap();
    log.drop_epochs(&topic(1), &publisher(1), Epoch(u64::MAX)).unwrap();
    let log = backend.reopen(log);
    for n in 0..3 {
        let stored = log.read(&topic(n), Offset(0), 1000).unwrap();
        assert_eq!(offsets(&stored), if n == 1 { vec![] } else { vec![0, 1] });
        assert!(stored.iter().all(|stored| stored.record[0] == n));
        assert_eq!(log.read_back(&topic(n), Offset(u64::MAX), 9).unwrap().len(), stored.len());
        assert_eq!(log.head(&topic(n)).unwrap(), Some(record(n, 3)));
        let rosters = log.rosters(&topic(n), RosterSeq(0), 1000).unwrap();
        assert_eq!(rosters.len(), 1);
        assert_eq!(rosters[0].bundle, record(n, 5));
        let publishers = log.publishers(&topic(n)).unwrap();
        assert_eq!(publishers.len(), 3);
        for p in 0..3 {
            assert!(publishers.contains(&(publisher(p), record(n + p, 7))));
            let here = usize::from((n, p) != (1, 1));
            assert_eq!(log.epochs_back(&topic(n), &publisher(p), Epoch(u64::MAX), 9).unwrap().len(), here);
            let batch = log.batch_before(&topic(n), &publisher(p), Epoch(5), Offset(9)).unwrap();
            assert_eq!(usize::from(batch.is_some()), here);
        }
    }
}

fn restart<B: Backend>(backend: &mut B) {
    let mut log = filled(backend, 0);
    for round in 0..4_u64 {
        let base = round * 10;
        for offset in base..base + 10 {
            // Only the last is synced: it covers the ones before.
            let state = Bytes::copy_from_slice(&offset.to_be_bytes());
            let publisher = Write::Publisher { topic: topic(0), publisher: publisher(1), state };
            let append = append(topic(0), offset, record(1, 2000));
            log.write(&[append, publisher], offset == base + 9).unwrap();
        }
        let prekey = Bytes::copy_from_slice(&round.to_be_bytes());
        log.write(&[Write::Prekey { owner: publisher(1), prekey: prekey.clone() }], true).unwrap();
        let before = log.bounds(&topic(0)).unwrap();
        log = backend.reopen(log);
        assert_eq!(log.bounds(&topic(0)).unwrap(), before);
        assert_eq!(log.prekey(&publisher(1)).unwrap(), Some(prekey));
        let stored = log.read(&topic(0), Offset(0), usize::MAX).unwrap();
        assert_eq!(offsets(&stored), (0..base + 10).collect::<Vec<_>>());
        // Append and snapshot went together.
        let state = Bytes::copy_from_slice(&(base + 9).to_be_bytes());
        assert_eq!(log.publishers(&topic(0)).unwrap(), [(publisher(1), state)]);
    }
}

fn reserved<B: Backend>(backend: &mut B) {
    let log = filled(backend, 3);
    assert_eq!(log.reserved(&topic(0)).unwrap(), Offset(0));
    for below in [100, 1 << 40] {
        let reserve = Write::Reserve { topic: topic(0), below: Offset(below) };
        log.write(&[append(topic(0), below / 2, record(1, 10)), reserve], true).unwrap();
        assert_eq!(log.reserved(&topic(0)).unwrap(), Offset(below));
    }
    let next = log.bounds(&topic(0)).unwrap().next;
    assert_eq!(next, Offset((1 << 39) + 1), "what is reserved is not taken");
    log.trim(&topic(0), next).unwrap();
    log.write(&[create(topic(1))], true).unwrap();
    let log = backend.reopen(log);
    assert_eq!([0, 1].map(|n| log.reserved(&topic(n)).unwrap()), [Offset(1 << 40), Offset(0)]);
}

fn time<B: Backend>(backend: &mut B) {
    let log = filled(backend, 100);
    let seek = |log: &B::Log, ms| log.seek_time(&topic(0), ms).unwrap().0;
    assert_eq!([seek(&log, 0), seek(&log, 1), seek(&log, 10), seek(&log, 989)], [0, 1, 1, 99]);
    assert_eq!([seek(&log, 990), seek(&log, 991), seek(&log, u64::MAX)], [99, 100, 100]);
    log.trim(&topic(0), Offset(50)).unwrap();
    assert_eq!([seek(&log, 0), seek(&log, 500), seek(&log, 501)], [50, 50, 51]);
    // Many in one millisecond: the first of them.
    let same: Vec<Write> = (100..120)
        .map(|n| Write::Append { topic: topic(0), offset: Offset(n), stored_ms: 5000, record: record(1, 1) })
        .collect();
    log.write(&same, true).unwrap();
    assert_eq!([seek(&log, 4999), seek(&log, 5000), seek(&log, 5001)], [100, 100, 120]);
}

fn size<B: Backend>(backend: &mut B) {
    let log = filled(backend, 10);
    let seek = |log: &B::Log, bytes| log.seek_bytes(&topic(0), bytes).unwrap().0;
    assert_eq!([seek(&log, u64::MAX), seek(&log, 1000), seek(&log, 999)], [0, 0, 1]);
    assert_eq!([seek(&log, 250), seek(&log, 100), seek(&log, 99), seek(&log, 0)], [8, 9, 10, 10]);
    log.trim(&topic(0), Offset(6)).unwrap();
    assert_eq!([seek(&log, 400), seek(&log, 399)], [6, 7]);
    assert_eq!(log.bounds(&topic(0)).unwrap().bytes, 400);
    let log = backend.reopen(log);
    log.write(&[append(topic(0), 10, record(1, 50))], true).unwrap();
    assert_eq!([seek(&log, 450), seek(&log, 150), seek(&log, 149)], [6, 9, 10]);
}

fn rosters<B: Backend>(backend: &mut B) {
    let log = filled(backend, 0);
    let entry = |seq: u64| {
        let bundle = record(seq.to_be_bytes()[7], 1000);
        [
            append(topic(0), seq * 10, record(1, 300)),
            Write::Roster { topic: topic(0), seq: RosterSeq(seq), offset: Offset(seq * 10), bundle },
        ]
    };
    log.write(&(1..=9).flat_map(entry).collect::<Vec<_>>(), true).unwrap();
    let seqs = |log: &B::Log, from, max| -> Vec<u64> {
        let rosters = log.rosters(&topic(0), RosterSeq(from), max).unwrap();
        assert!(rosters.iter().all(|entry| entry.offset.0 == entry.seq.0 * 10 && entry.bundle.len() == 1000));
        rosters.iter().map(|entry| entry.seq.0).collect()
    };
    assert_eq!(seqs(&log, 0, 0), [1], "at least one");
    assert_eq!(seqs(&log, 4, 2999), [4, 5]);
    assert_eq!(seqs(&log, 7, 3000), [7, 8, 9]);
    assert_eq!(seqs(&log, 10, 3000), [0_u64; 0]);
    let before =
        |log: &B::Log, offset| log.roster_before(&topic(0), Offset(offset)).unwrap().map(|seq| seq.0);
    assert_eq!([before(&log, 0), before(&log, 10)], [None, None]);
    assert_eq!([before(&log, 11), before(&log, 90), before(&log, 91)], [Some(1), Some(8), Some(9)]);
    assert_eq!(before(&log, u64::MAX), Some(9));
    // Retention does not touch them.
    log.trim(&topic(0), Offset(u64::MAX)).unwrap();
    let log = backend.reopen(log);
    assert_eq!(seqs(&log, 1, usize::MAX), (1..=9).collect::<Vec<_>>());
    assert_eq!(before(&log, 55), Some(5));
}

fn epochs<B: Backend>(backend: &mut B) {
    let log = filled(backend, 0);
    let who = publisher(1);
    let mut writes = Vec::new();
    for (at, e) in [1000, 2000, 3000].into_iter().enumerate() {
        let base = at as u64 * 10;
        writes.push(epoch(topic(0), who, e, base, None));
        // Numbers may have holes; other publishers stand between.
        writes.extend([0, 1, 2, 7].map(|no| batch(topic(0), who, e, no, base + 1 + no)));
        writes.push(epoch(topic(0), publisher(2), e, base + 9, None));
    }
    log.write(&writes, true).unwrap();
    let log = backend.reopen(log);
    let back = |up_to, max| -> Vec<u64> {
        let epochs = log.epochs_back(&topic(0), &who, Epoch(up_to), max).unwrap();
        epochs.iter().map(|epoch| epoch.epoch.0).collect()
    };
    assert_eq!(back(u64::MAX, 9), [3000, 2000, 1000]);
    assert_eq!([back(2000, 1), back(2999, 1)], [[2000], [2000]]);
    assert_eq!(back(999, 9), [0_u64; 0]);
    let found = log.epoch(&topic(0), &who, Epoch(2000)).unwrap().unwrap();
    assert_eq!((found.offset, found.header, found.table), (Offset(10), record(0xee, 300), None));
    assert_eq!(log.epoch(&topic(0), &who, Epoch(2001)).unwrap(), None);
    let at = |epoch, no| {
        let batch = log.batch(&topic(0), &who, Epoch(epoch), BatchNo(no)).unwrap();
        batch.inspect(|batch| assert_eq!(batch.digest, batch.offset.0.to_be_bytes()[..])).map(|b| b.offset.0)
    };
    assert_eq!([at(2000, 0), at(2000, 7), at(2000, 3), at(2001, 0)], [Some(11), Some(18), None, None]);
    let before = |epoch, offset| {
        let batch = log.batch_before(&topic(0), &who, Epoch(epoch), Offset(offset)).unwrap();
        batch.map(|batch| batch.batch_no.0)
    };
    assert_eq!([before(2000, 0), before(2000, 11), before(2000, 12)], [None, None, Some(0)]);
    assert_eq!([before(2000, 14), before(2000, 18), before(2000, 19)], [Some(2), Some(2), Some(7)]);
    assert_eq!([before(2000, u64::MAX), before(1500, u64::MAX)], [Some(7), None]);
}

fn slots<B: Backend>(backend: &mut B) {
    let log = filled(backend, 0);
    let (one, two, three) = (log.new_table(), log.new_table(), log.new_table());
    assert!(one != two && two != three);
    let writes = [chunk(two, 10..20), chunk(two, 25..30), chunk(one, 0..40), chunk(three, 3..4)];
    log.write(&writes, false).unwrap();
    let named = epoch(topic(0), publisher(1), 1, 0, Some(two));
    log.write(&[chunk(two, u32::MAX - 1..u32::MAX), named], true).unwrap();
    let has = |log: &B::Log, table, member| {
        let found = log.slot(table, MemberIndex(member)).unwrap();
        assert!(found.is_none_or(|found| found == slot(member)));
        found.is_some()
    };
    let check = |log: &B::Log| {
        for member in [10, 19, 25, 29, u32::MAX - 1] {
            assert!(has(log, two, member), "{member}");
        }
        for member in [0, 9, 20, 24, 30, u32::MAX] {
            assert!(!has(log, two, member), "{member}");
        }
    };
    check(&log);
    assert!(has(&log, one, 9) && has(&log, three, 3), "staged tables can be read too");
    log.write(&[Write::DropTable { table: one }, Write::DropTable { table: two }], true).unwrap();
    assert!(!has(&log, one, 9));
    check(&log);
    // All of it in one write, as a group commit may bring it: the drop sees the chunks before it.
    let four = log.new_table();
    log.write(&[chunk(four, 0..5), chunk(four, 5..9), Write::DropTable { table: four }], true).unwrap();
    assert!(!has(&log, four, 1) && !has(&log, four, 6));
    let five = log.new_table();
    let named = epoch(topic(0), publisher(1), 2, 0, Some(five));
    log.write(&[chunk(five, 0..5), named, Write::DropTable { table: five }], true).unwrap();
    let log = backend.reopen(log);
    assert!(!has(&log, four, 1) && has(&log, five, 1));
    check(&log);
    assert!(log.new_table() > two, "no number is given twice while it is in use");
}

fn staged<B: Backend>(backend: &mut B) {
    let log = filled(backend, 0);
    let (kept, staged) = (log.new_table(), log.new_table());
    let named = epoch(topic(0), publisher(1), 1, 0, Some(kept));
    log.write(&[chunk(kept, 0..5), chunk(staged, 0..5)], true).unwrap();
    log.write(&[chunk(staged, 5..9), named], true).unwrap();
    let log = backend.reopen(log);
    assert_eq!(log.slot(staged, MemberIndex(1)).unwrap(), None);
    assert_eq!(log.slot(staged, MemberIndex(6)).unwrap(), None);
    assert_eq!(log.slot(kept, MemberIndex(1)).unwrap(), Some(slot(1)));
    // Its number may come again: with nothing of the old in it.
    let again = log.new_table();
    log.write(&[chunk(again, 6..7)], true).unwrap();
    assert_eq!(log.slot(again, MemberIndex(1)).unwrap(), None);
    assert_eq!(log.slot(again, MemberIndex(6)).unwrap(), Some(slot(6)));
}

fn trim<B: Backend>(backend: &mut B) {
    let log = filled(backend, 20);
    let table = log.new_table();
    let prekey = Write::Prekey { owner: publisher(1), prekey: record(4, 4) };
    let head = Write::Head { topic: topic(0), head: record(5, 5) };
    let state = Write::Publisher { topic: topic(0), publisher: publisher(1), state: record(6, 6) };
    let bundle = record(7, 7);
    let roster = Write::Roster { topic: topic(0), seq: RosterSeq(1), offset: Offset(1), bundle };
    let index = [epoch(topic(0), publisher(1), 1, 0, Some(table)), batch(topic(0), publisher(1), 1, 0, 1)];
    log.write(&[vec![prekey, head, state, roster, chunk(table, 0..3)], index.into()].concat(), true).unwrap();

    let trimmed = log.trim(&topic(0), Offset(5)).unwrap();
    assert_eq!((trimmed.records, trimmed.bytes), (5, 500));
    assert_eq!(log.trim(&topic(0), Offset(5)).unwrap(), Default::default(), "again: nothing");
    assert_eq!(log.trim(&topic(0), Offset(3)).unwrap(), Default::default(), "backwards: nothing");
    let bounds = Bounds { first: Offset(5), next: Offset(20), bytes: 1500 };
    assert_eq!(log.bounds(&topic(0)).unwrap(), bounds);
    assert_eq!(offsets(&log.read(&topic(0), Offset(0), 200).unwrap()), [5, 6]);
    assert_eq!(log.read_back(&topic(0), Offset(7), 9).unwrap().len(), 2);

    // All of it: the end is remembered though nothing is left to tell.
    assert_eq!(log.trim(&topic(0), Offset(u64::MAX)).unwrap().records, 15);
    log.write(&[], true).unwrap();
    let log = backend.reopen(log);
    let empty = Bounds { first: Offset(20), next: Offset(20), bytes: 0 };
    assert_eq!(log.bounds(&topic(0)).unwrap(), empty);
    assert!(matches!(log.write(&[append(topic(0), 19, record(1, 1))], true), Err(LogError::Misuse(_))));
    log.write(&[append(topic(0), 20, record(1, 30))], true).unwrap();
    assert_eq!(log.bounds(&topic(0)).unwrap().bytes, 30);

    assert_eq!(log.prekey(&publisher(1)).unwrap(), Some(record(4, 4)));
    assert_eq!(log.head(&topic(0)).unwrap(), Some(record(5, 5)));
    assert_eq!(log.publishers(&topic(0)).unwrap(), [(publisher(1), record(6, 6))]);
    assert_eq!(log.rosters(&topic(0), RosterSeq(1), 1).unwrap().len(), 1);
    assert_eq!(log.epoch(&topic(0), &publisher(1), Epoch(1)).unwrap().unwrap().table, Some(table));
    assert!(log.batch(&topic(0), &publisher(1), Epoch(1), BatchNo(0)).unwrap().is_some());
    assert_eq!(log.slot(table, MemberIndex(2)).unwrap(), Some(slot(2)));
    assert_eq!(log.topics().unwrap().len(), 1);
}

fn drop_epochs<B: Backend>(backend: &mut B) {
    let log = filled(backend, 0);
    let who = publisher(1);
    let tables: Vec<TableId> = (0..3).map(|_| log.new_table()).collect();
    for (at, table) in tables.iter().enumerate() {
        let e = at as u64 + 1;
        let other = epoch(topic(0), publisher(2), e, e * 10 + 5, None);
        let writes = [
            chunk(*table, 0..3),
            epoch(topic(0), who, e, e * 10, Some(*table)),
            batch(topic(0), who, e, 0, e * 10 + 1),
            other,
        ];
        log.write(&writes, true).unwrap();
    }
    assert_eq!(log.drop_epochs(&topic(0), &who, Epoch(0)).unwrap(), 0);
    assert_eq!(log.drop_epochs(&topic(0), &who, Epoch(3)).unwrap(), 2);
    log.write(&[], true).unwrap();
    let log = backend.reopen(log);
    assert_eq!(log.epochs_back(&topic(0), &who, Epoch(u64::MAX), 9).unwrap().len(), 1);
    assert_eq!(log.epochs_back(&topic(0), &publisher(2), Epoch(u64::MAX), 9).unwrap().len(), 3);
    for (at, table) in tables.iter().enumerate() {
        let kept = at == 2;
        assert_eq!(log.slot(*table, MemberIndex(1)).unwrap().is_some(), kept);
        let e = Epoch(at as u64 + 1);
        assert_eq!(log.batch(&topic(0), &who, e, BatchNo(0)).unwrap().is_some(), kept);
    }
}
