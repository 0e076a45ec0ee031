use std::sync::Arc;

use sealcast_proto::Offset;

use super::trim::REMOVE_STEP;
use super::*;
use crate::store::conformance::{self, Backend, record, topic};

/// Each store in a new directory.
#[derive(Default)]
pub(crate) struct OnDisk(Option<tempfile::TempDir>);

impl OnDisk {
    fn open(&self) -> FjallLog {
        let dir = self.0.as_ref().unwrap().path();
        FjallLog::open(dir, FjallOptions { reserve_bytes: 0, ..FjallOptions::default() }).unwrap().0
    }
}

impl Backend for OnDisk {
    type Log = FjallLog;

    fn fresh(&mut self) -> FjallLog {
        self.0 = Some(tempfile::tempdir().unwrap());
        self.open()
    }

    fn reopen(&mut self, log: FjallLog) -> FjallLog {
        drop(log);
        self.open()
    }
}

fn some(n: u64) -> Vec<Write> {
    let mut writes = vec![Write::CreateTopic { topic: topic(0), genesis: record(0, 9) }];
    writes.extend((0..n).map(|offset| Write::Append {
        topic: topic(0),
        offset: Offset(offset),
        stored_ms: offset,
        record: record(1, 1000),
    }));
    writes
}

#[test]
fn conforms() {
    conformance::run(&mut OnDisk::default());
}

#[test]
fn a_second_broker_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let first = FjallLog::open(dir.path(), FjallOptions::default()).unwrap();
    let Err(error) = FjallLog::open(dir.path(), FjallOptions::default()) else { panic!("opened twice") };
    assert!(matches!(error, LogError::Busy { .. }));
    assert!(error.to_string().contains("in use by another broker"), "{error}");
    drop(first);
    FjallLog::open(dir.path(), FjallOptions::default()).unwrap();
}

#[test]
fn the_reserve_is_kept_and_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) =
        FjallLog::open(dir.path(), FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 }).unwrap();
    log.write(&some(3), true).unwrap();
    drop(log);
    let full = FjallOptions { reserve_bytes: u64::MAX, cache_bytes: 1 << 20 };
    let (log, recovered) = FjallLog::open(dir.path(), full).unwrap();
    assert_eq!((recovered.topics, recovered.records, recovered.bytes), (1, 3, 3000));
    let head = [Write::Head { topic: topic(0), head: record(1, 1) }];
    for _ in 0..2 {
        assert!(matches!(log.write(&head, true), Err(LogError::Full { .. })));
    }
    assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 3);
    // Retention works where nothing else does, or it could not make room.
    assert_eq!(log.trim(&topic(0), Offset(2)).unwrap().records, 2);
    log.write(&[], true).unwrap();
}

#[test]
fn after_a_failure_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) =
        FjallLog::open(dir.path(), FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 }).unwrap();
    log.write(&some(1), true).unwrap();
    let error = log.fail("writing", ::fjall::Error::Io(std::io::Error::other("the disk is gone")));
    assert!(error.to_string().contains("the disk is gone"));
    let head = [Write::Head { topic: topic(0), head: record(1, 1) }];
    let again = log.write(&head, true).unwrap_err();
    assert!(again.to_string().contains("the disk is gone"), "the cause, not its echo: {again}");
    assert!(log.trim(&topic(0), Offset(1)).is_err());
    assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 1);
}

/// The disk was full in the middle of a write, or under one of the engine's threads.
#[test]
fn after_a_full_disk_the_store_opens_again_with_all_it_had() {
    let full = || ::fjall::Error::Io(std::io::ErrorKind::StorageFull.into());
    for echo in [false, true] {
        let mut backend = OnDisk::default();
        let log = backend.fresh();
        log.write(&some(3), true).unwrap();
        let chunk = |table| Write::TableChunk {
            table,
            first_member: MemberIndex(0),
            slots: crate::hand::table(&[MemberIndex(0)], 1),
        };
        let table = log.new_table();
        log.write(&[chunk(table)], true).unwrap();
        let error = match echo {
            // What the engine says of a thread's failure is no more than that there was one.
            true => {
                log.was_full.store(true, Ordering::Relaxed);
                log.fail("writing", ::fjall::Error::Poisoned)
            }
            false => log.fail("writing", full()),
        };
        assert!(matches!(error, LogError::Full { .. }), "{error}");
        assert!(matches!(log.room(), Err(LogError::Full { .. })), "not before it was opened again");
        assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 3, "readers go on");
        let reading = log.engine().unwrap();
        assert!(matches!(log.recover(), Err(LogError::Full { .. })), "not while somebody reads");
        drop(reading);
        log.recover().unwrap();
        log.room().unwrap();
        assert_eq!(log.bounds(&topic(0)).unwrap().next, Offset(3));
        let append =
            Write::Append { topic: topic(0), offset: Offset(3), stored_ms: 9, record: record(1, 10) };
        log.write(&[append], true).unwrap();
        assert!(log.slot(table, MemberIndex(0)).unwrap().is_some(), "an upload goes on");
        let log = backend.reopen(log);
        assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 4);
        assert_eq!(log.slot(table, MemberIndex(0)).unwrap(), None, "and is dropped by a restart");
    }
}

#[test]
fn a_trim_of_many_steps() {
    let mut backend = OnDisk::default();
    let log = backend.fresh();
    let n = REMOVE_STEP as u64 * 2 + 10;
    log.write(&some(n), true).unwrap();
    let trimmed = log.trim(&topic(0), Offset(n - 1)).unwrap();
    assert_eq!((trimmed.records, trimmed.bytes), (n - 1, (n - 1) * 1000));
    log.write(&[], true).unwrap();
    let log = backend.reopen(log);
    assert_eq!(log.bounds(&topic(0)).unwrap(), Bounds { first: Offset(n - 1), next: Offset(n), bytes: 1000 });
    assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 1);
}

/// What a killed process leaves: a copy of the directory taken between two writes, with the journal's tail torn.
#[test]
fn a_torn_journal_loses_what_was_not_synced_only() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 };
    let (log, _) = FjallLog::open(dir.path(), options.clone()).unwrap();
    log.write(&some(5), true).unwrap();
    let journal = std::fs::read_dir(dir.path().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let journal = journal.filter(|path| path.extension().is_some_and(|ext| ext == "jnl")).max().unwrap();
    let synced = std::fs::read(&journal).unwrap();
    let next = Write::Append { topic: topic(0), offset: Offset(5), stored_ms: 9, record: record(7, 1000) };
    log.write(&[next], true).unwrap();
    let whole = std::fs::read(&journal).unwrap();
    drop(log);
    let end_of = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let (from, to) = (end_of(&synced), end_of(&whole));
    for cut in [from + 1, from + 20, from + 500, to - 1, to] {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        std::fs::write(&journal, torn).unwrap();
        let (log, _) = FjallLog::open(dir.path(), options.clone()).unwrap();
        let next = log.bounds(&topic(0)).unwrap().next;
        assert!(next == Offset(5) || (next == Offset(6) && cut == to), "cut at {cut}: {next}");
        assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len() as u64, next.0);
    }
}

/// The same after a power loss: the end of the last batch reached the disk, a page in its middle did not.
#[test]
fn a_hole_in_the_last_batch_loses_that_one_and_elsewhere_is_not_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 };
    let (log, _) = FjallLog::open(dir.path(), options.clone()).unwrap();
    log.write(&some(5), true).unwrap();
    let journal = dir.path().join("log").join("0.jnl");
    let end = || std::fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let ends = [5, 6, 7].map(|offset| {
        let begin = end();
        let record = record(7, 20_000);
        log.write(&[Write::Append { topic: topic(0), offset: Offset(offset), stored_ms: 9, record }], true)
            .unwrap();
        begin
    });
    let whole = std::fs::read(&journal).unwrap();
    drop(log);
    let with_hole = |begin: usize| {
        let page = (begin / 4096 + 2) * 4096;
        let mut torn = whole.clone();
        torn[page..page + 4096].fill(0);
        std::fs::write(&journal, &torn).unwrap();
        torn
    };
    let torn = with_hole(ends[1]);
    let Err(error) = FjallLog::open(dir.path(), options.clone()) else { panic!("lost silently") };
    assert!(matches!(error, LogError::Corrupt(_)), "{error}");
    assert!(std::fs::read(&journal).unwrap() == torn, "left for people to look at");
    with_hole(ends[2]);
    for _ in 0..2 {
        let (log, _) = FjallLog::open(dir.path(), options.clone()).unwrap();
        assert_eq!(log.bounds(&topic(0)).unwrap().next, Offset(7));
        assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 7);
    }
    let (log, _) = FjallLog::open(dir.path(), options).unwrap();
    let record = record(1, 10);
    log.write(&[Write::Append { topic: topic(0), offset: Offset(7), stored_ms: 9, record }], true).unwrap();
}

#[test]
fn reads_and_writes_from_many_threads() {
    let mut backend = OnDisk::default();
    let log = Arc::new(backend.fresh());
    log.write(&some(0), true).unwrap();
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let log = log.clone();
            scope.spawn(move || {
                let mut from = Offset(0);
                while from < Offset(200) {
                    for stored in log.read(&topic(0), from, 10_000 * (reader + 1)).unwrap() {
                        assert_eq!(stored.offset, from, "no hole is ever seen");
                        from = from.next().unwrap();
                    }
                }
            });
        }
        for offset in 0..200 {
            let record = record(1, 600);
            let append = Write::Append { topic: topic(0), offset: Offset(offset), stored_ms: 1, record };
            log.write(&[append], false).unwrap();
        }
    });
}

/// Every file below `dir`, and how long it is.
pub(super) fn files(dir: &Path) -> Vec<(u64, std::path::PathBuf)> {
    let mut out = vec![];
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(files(&entry.path())),
            false => out.push((entry.metadata().unwrap().len(), entry.path())),
        }
    }
    out
}

#[test]
fn a_damaged_record_ends_a_read_and_can_be_passed() {
    let mut backend = OnDisk::default();
    let log = backend.fresh();
    log.write(&some(100), true).unwrap();
    log.engine().unwrap().log.rotate_memtable_and_wait().unwrap();
    drop(log);
    let dir = backend.0.as_ref().unwrap().path();
    let values = files(dir).into_iter().filter(|(_, path)| path.to_string_lossy().contains("blob"));
    let (len, path) = values.max().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(len).unwrap() / 2] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let log = backend.open();
    let before = log.read(&topic(0), Offset(0), usize::MAX).unwrap();
    let lost = Offset(before.len() as u64);
    assert!(lost.0 > 10 && lost.0 < 90, "{lost}");
    let error = log.read(&topic(0), lost, usize::MAX).unwrap_err();
    assert!(error.is_damage(), "{error}");
    let behind = log.read(&topic(0), lost.next().unwrap(), usize::MAX).unwrap();
    assert_eq!(before.len() + 1 + behind.len(), 100);
}

/// A block of the index holds some twenty topics' geneses, and nothing else.
#[test]
fn a_damaged_index_of_topics_keeps_none_of_the_others() {
    use rand::{RngExt as _, SeedableRng as _};
    let mut backend = OnDisk::default();
    let log = backend.fresh();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let topics: Vec<TopicId> = (0..200).rev().map(topic).collect();
    for topic in &topics {
        // Noise: what is compressed shares its blocks with too many.
        let mut genesis = vec![0; 200];
        rng.fill(&mut genesis[..]);
        let append =
            |n| Write::Append { topic: *topic, offset: Offset(n), stored_ms: n, record: record(1, 9) };
        let create = Write::CreateTopic { topic: *topic, genesis: genesis.into() };
        log.write(&[create, append(0), append(1)], true).unwrap();
    }
    // Nothing but geneses was written to the index.
    log.engine().unwrap().index.rotate_memtable_and_wait().unwrap();
    let geneses: Vec<_> = topics.iter().map(|topic| log.topic(topic).unwrap().unwrap()).collect();
    drop(log);
    let dir = backend.0.as_ref().unwrap().path();
    let part = &geneses[100][..64];
    let holds = |bytes: &[u8]| bytes.windows(part.len()).position(|window| window == part);
    let tables = files(dir).into_iter().filter(|(_, path)| path.extension().is_none_or(|it| it != "jnl"));
    let (path, mut bytes, at) = tables
        .filter_map(|(_, path)| {
            let bytes = std::fs::read(&path).unwrap();
            Some((path, holds(&bytes)?, bytes))
        })
        .map(|(path, at, bytes)| (path, bytes, at))
        .next()
        .unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let log = backend.open();
    assert_eq!(log.topics().unwrap(), topics, "each has records that can be read");
    let mut lost = 0;
    for (topic, genesis) in topics.iter().zip(&geneses) {
        match log.topic(topic) {
            Ok(found) => assert_eq!(found.as_ref(), Some(genesis)),
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                lost += 1;
            }
        }
        assert_eq!(log.bounds(topic).unwrap().next, Offset(2));
    }
    assert!((1..60).contains(&lost), "{lost}");
}

#[test]
fn damaged_slot_tables_keep_nobody_from_the_rest() {
    let mut backend = OnDisk::default();
    let log = backend.fresh();
    log.write(&some(3), true).unwrap();
    let (publisher, member) = (conformance::publisher(1), MemberIndex(0));
    let tables: Vec<_> = (1..4).map(|_| log.new_table()).collect();
    for (n, table) in (1_u8..).zip(&tables) {
        let slots = crate::hand::table(&[member], n);
        let (topic, epoch, offset) = (topic(0), Epoch(n.into()), Offset(n.into()));
        let (header, table) = (record(n, 9), *table);
        let chunk = Write::TableChunk { table, first_member: member, slots };
        let named = Write::Epoch { topic, publisher, epoch, offset, header, table: Some(table) };
        log.write(&[chunk, named], true).unwrap();
    }
    log.engine().unwrap().tables.rotate_memtable_and_wait().unwrap();
    drop(log);
    let dir = backend.0.as_ref().unwrap().path();
    // The only file of the third keyspace: its block stands at the beginning.
    let tables_of = |(_, path): &(u64, std::path::PathBuf)| path.to_string_lossy().contains("/3/tables/");
    let (_, path) = files(dir).into_iter().find(tables_of).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let log = backend.open();
    assert_eq!(log.read(&topic(0), Offset(0), usize::MAX).unwrap().len(), 3);
    assert!(log.slot(tables[2], member).unwrap_err().is_damage());
    assert!(log.new_table() > tables[2], "no number is given out again");
}

/// What was acknowledged is damaged, not torn: the engine would drop all that follows, or panic.
#[test]
fn damage_in_the_middle_of_the_journal_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let options = FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 };
    let (log, _) = FjallLog::open(dir.path(), options.clone()).unwrap();
    log.write(&some(1), true).unwrap();
    let journal = dir.path().join("log").join("0.jnl");
    let begin = std::fs::read(&journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for offset in 1..4 {
        let record = record(7, 100);
        let append = Write::Append { topic: topic(0), offset: Offset(offset), stored_ms: 9, record };
        log.write(&[append], true).unwrap();
    }
    let whole = std::fs::read(&journal).unwrap();
    drop(log);
    // A batch's tag, the tag of its item, the item's type.
    for at in [0, 13, 14, 15] {
        let mut damaged = whole.clone();
        damaged[begin + at] = 0x81;
        std::fs::write(&journal, &damaged).unwrap();
        let Err(error) = FjallLog::open(dir.path(), options.clone()) else { panic!("lost silently: {at}") };
        assert!(matches!(error, LogError::Corrupt(_)), "{error}");
        assert!(std::fs::read(&journal).unwrap() == damaged, "left for people to look at");
    }
}

/// A topic that keeps its last 32 MiB, and is given many times that.
#[test]
fn retention_gives_space_back() {
    use rand::{RngExt as _, SeedableRng as _};
    let mut backend = OnDisk::default();
    let log = backend.fresh();
    log.write(&some(0), true).unwrap();
    let mut rng = rand::rngs::StdRng::seed_from_u64(1);
    let mut most = 0;
    for n in 0..1_024 {
        let mut record = vec![0; 1 << 20];
        rng.fill(&mut record[..]);
        let append =
            Write::Append { topic: topic(0), offset: Offset(n), stored_ms: n, record: record.into() };
        log.write(&[append], n % 16 == 15).unwrap();
        if n % 16 == 15 {
            let before = log.seek_bytes(&topic(0), 32 << 20).unwrap();
            log.trim(&topic(0), before).unwrap();
            most = most.max(log.disk_bytes().unwrap());
        }
    }
    // What it keeps, the journals, and what waits to be moved or merged.
    let bound: u64 = (32 + 256 + 384) << 20;
    assert!(most < bound, "{} MiB on the disk", most >> 20);
}
