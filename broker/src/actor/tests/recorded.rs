//! What the disk holds at each fsync, copied; and what a broker makes of such a copy, and of a torn one.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::load;
use crate::store::{FjallLog, FjallOptions, Log, Recovered};

/// Copies a directory; a file's zeros at its end are left as a hole.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            write(&to, &std::fs::read(entry.path()).unwrap());
        }
    }
}

fn write(to: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(to).unwrap();
    file.write_all(&bytes[..end(bytes)]).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
}

/// Where the written part of a file ends.
fn end(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

fn open(dir: &Path) -> (FjallLog, Recovered) {
    FjallLog::open(dir, FjallOptions { reserve_bytes: 0, ..FjallOptions::default() }).unwrap()
}

/// A broker at work, and a copy of its disk at each fsync.
struct Recording {
    dir: tempfile::TempDir,
    genesis: (sealcast_proto::TopicId, sealcast_proto::object::Genesis),
    /// What was acknowledged: after how many fsyncs, where, the record.
    acknowledged: Vec<(usize, Offset, Bytes)>,
    copies: usize,
}

impl Recording {
    async fn new(rng: &mut StdRng) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let live = dir.path().join("live");
        let disk = Faulty::new(open(&live).0);
        let synced = Arc::new(AtomicUsize::new(0));
        let (count, copies) = (synced.clone(), dir.path().to_path_buf());
        disk.when_synced(move || {
            let n = count.load(std::sync::atomic::Ordering::SeqCst);
            copy(&live, &copies.join(n.to_string()));
            count.store(n + 1, std::sync::atomic::Ordering::SeqCst);
        });
        let mut bench = Bench::on(disk, Policy::default()).await;
        let mut acknowledged = Vec::new();
        while synced.load(std::sync::atomic::Ordering::SeqCst) < 30 {
            let batches: Vec<BatchRecord> = (0..rng.random_range(1..6))
                .map(|_| {
                    let len = rng.random_range(1..9_000);
                    bench.hand.batch(&rng.random_iter().take(len).collect::<Vec<u8>>())
                })
                .collect();
            for batch in &batches {
                bench.batch(batch).await;
            }
            for batch in &batches {
                let Answer::Ack(ack) = bench.answer().await else { panic!() };
                let synced = synced.load(std::sync::atomic::Ordering::SeqCst);
                acknowledged.push((synced, ack.offset, batch_record(batch)));
            }
            if rng.random_ratio(1, 6) {
                bench.header().await;
                assert!(matches!(bench.answer().await, Answer::Ack(_)));
            }
        }
        bench.disk.when_synced(|| {});
        let (id, parsed, _) = genesis(0);
        let copies = synced.load(std::sync::atomic::Ordering::SeqCst);
        Self { dir, genesis: (id, parsed), acknowledged, copies }
    }

    fn copy(&self, n: usize) -> PathBuf {
        self.dir.path().join(n.to_string())
    }

    /// A broker that starts on `dir` holds what was acknowledged before fsync `n` + 1 began, and nothing that was never
    /// sent.
    fn holds(&self, dir: &Path, n: usize) -> Recovered {
        let (log, recovered) = open(dir);
        let (id, genesis) = &self.genesis;
        let records = log.read(id, Offset(0), usize::MAX).unwrap();
        for (synced, offset, record) in &self.acknowledged {
            let found = records.iter().find(|stored| stored.offset == *offset);
            match found {
                Some(found) => assert!(found.record == *record, "{offset} is as it was sent"),
                None => assert!(*synced > n + 1, "{offset} was acknowledged after {synced} fsyncs: {n}"),
            }
        }
        assert!(records.iter().map(|stored| stored.offset.0).eq(0..records.len() as u64), "no hole");
        let loaded = load::load(&log, *id, genesis).unwrap();
        assert_eq!(loaded.machine.next_offset().0, records.len() as u64);
        recovered
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ack_follows_its_fsync_and_each_fsync_leaves_a_broker_that_holds_it() {
    let mut rng = StdRng::seed_from_u64(20_261_123);
    let recording = Recording::new(&mut rng).await;
    assert!(recording.acknowledged.len() >= 30);
    let journal = |n| std::fs::read(recording.copy(n).join("log").join("0.jnl")).unwrap();
    let mut torn = 0;
    for n in 2..recording.copies {
        // What the next fsync was to cover, cut off at random: a page is there or not, or is something else.
        if n + 1 < recording.copies {
            let (before, after) = (journal(n), journal(n + 1));
            let (from, to) = (end(&before), end(&after));
            assert!(before[..from] == after[..from], "a journal only grows");
            for how in 0..3 {
                let cut = rng.random_range(from + 1..to);
                let mut bytes = after.clone();
                match how {
                    0 => bytes[cut..].fill(0),
                    1 => bytes.truncate(cut),
                    _ => {
                        let stop = (cut + 4096).min(to);
                        rng.fill(&mut bytes[cut..stop]);
                    }
                }
                let dir = recording.dir.path().join("torn");
                copy(&recording.copy(n), &dir);
                write(&dir.join("log").join("0.jnl"), &bytes);
                let recovered = recording.holds(&dir, n);
                torn += usize::from(recovered.torn_bytes > 0);
                std::fs::remove_dir_all(&dir).unwrap();
            }
        }
        assert_eq!(recording.holds(&recording.copy(n), n).torn_bytes, 0);
    }
    assert!(torn > 60, "a torn tail is reported: {torn}");
}
