//! Each file of a store, damaged in each way: what is read afterwards is what was stored, or an error.

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;

use rand::{RngExt as _, SeedableRng as _};

use super::tests::files;
use super::*;
use crate::store::conformance::{publisher, topic};

const RECORDS: u64 = 40;
const OPTIONS: FjallOptions = FjallOptions { reserve_bytes: 0, cache_bytes: 1 << 20 };

/// What a disk does to a file.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// One byte is another, so many 64ths of what is written from its beginning.
    Byte(u64),
    /// A sector of zeros, there.
    Zeros(u64),
    /// Nothing from there on.
    Cut(u64),
    /// The file is gone.
    Gone,
}

impl Damage {
    /// Whether the file is another one now.
    fn does(self, path: &Path) -> bool {
        let before = std::fs::read(path).unwrap();
        let written = before.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        match self {
            Self::Gone => {
                std::fs::remove_file(path).unwrap();
                return true;
            }
            Self::Cut(share) => file.set_len(written * share / 64).unwrap(),
            Self::Byte(share) => {
                let at = written * share / 64;
                let Some(byte) = before.get(usize::try_from(at).unwrap()) else { return false };
                file.write_all_at(&[byte ^ 0x40], at).unwrap();
            }
            Self::Zeros(share) => {
                let at = written * share / 64 / 512 * 512;
                let len = (written - at).min(512);
                file.write_all_at(&vec![0; usize::try_from(len).unwrap()], at).unwrap();
            }
        }
        std::fs::read(path).unwrap() != before
    }
}

/// Two topics whose every kind of thing lies in files and in a journal that is no longer written, and newer ones of each
/// in the newest journal.
fn stored(dir: &Path) {
    let mut rng = rand::rngs::StdRng::seed_from_u64(3);
    let mut noise = move |len: usize| -> Bytes {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes[..]);
        bytes.into()
    };
    let (log, _) = FjallLog::open(dir, OPTIONS).unwrap();
    let journal = dir.join("log").join("0.jnl");
    let written = || {
        let mut bytes = std::fs::read(&journal).unwrap();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1);
        bytes
    };
    let mut first = vec![];
    for half in 0..2 {
        for n in [1, 2] {
            let (topic, publisher) = (topic(n), publisher(n));
            let table = log.new_table();
            if half == 0 {
                log.write(&[Write::CreateTopic { topic, genesis: noise(300) }], true).unwrap();
            }
            let slots = crate::hand::table(&[MemberIndex(0), MemberIndex(1)], 1);
            log.write(&[Write::TableChunk { table, first_member: MemberIndex(0), slots }], true).unwrap();
            for offset in half * RECORDS / 2..(half + 1) * RECORDS / 2 {
                let (at, len) = (Offset(offset), if offset % 3 == 0 { 2_000 } else { 100 });
                let (epoch, batch_no) = (Epoch(half + 1), BatchNo(offset));
                let append = Write::Append { topic, offset: at, stored_ms: offset, record: noise(len) };
                let beside = match offset % (RECORDS / 2) {
                    0 => Write::Roster { topic, seq: RosterSeq(half + 1), offset: at, bundle: noise(700) },
                    1 => {
                        let header = noise(200);
                        Write::Epoch { topic, publisher, epoch, offset: at, header, table: Some(table) }
                    }
                    _ => Write::Batch { topic, publisher, epoch, batch_no, offset: at, digest: noise(60) },
                };
                log.write(&[append, beside], true).unwrap();
            }
        }
        if half == 0 {
            let engine = log.engine().unwrap();
            for keyspace in [&engine.log, &engine.tables, &engine.index] {
                keyspace.rotate_memtable_and_wait().unwrap();
            }
            first = written();
        }
    }
    drop(log);
    // As the engine does once a journal holds 64 MiB.
    std::fs::write(dir.join("log").join("1.jnl"), &written()[first.len()..]).unwrap();
    std::fs::write(&journal, first).unwrap();
}

/// Everything in it, each with what asking for it gave.
fn everything(log: &FjallLog) -> Vec<(String, Result<String, LogError>)> {
    let mut out = vec![];
    let mut say = |what: String, found: Result<String, LogError>| out.push((what, found));
    say("topics".into(), log.topics().map(|topics| format!("{topics:?}")));
    for n in [1, 2] {
        let (topic, publisher) = (topic(n), publisher(n));
        say(format!("{n} genesis"), log.topic(&topic).map(|it| format!("{it:?}")));
        say(format!("{n} bounds"), log.bounds(&topic).map(|it| format!("{it:?}")));
        for offset in 0..=RECORDS {
            say(
                format!("{n} record {offset}"),
                log.read(&topic, Offset(offset), 1).map(|it| format!("{it:?}")),
            );
        }
        for half in 0..2 {
            let seq = RosterSeq(half + 1);
            say(format!("{n} entry {half}"), log.rosters(&topic, seq, 1).map(|it| format!("{it:?}")));
            let epoch = log.epoch(&topic, &publisher, Epoch(half + 1));
            let table = epoch.clone().map(|it| it.and_then(|it| it.table));
            for member in [0, 1] {
                let slot = table.clone().and_then(|table| match table {
                    Some(table) => log.slot(table, MemberIndex(member)),
                    None => Ok(None),
                });
                say(format!("{n} slot {half} {member}"), slot.map(|it| format!("{it:?}")));
            }
            say(format!("{n} epoch {half}"), epoch.map(|it| format!("{it:?}")));
            for batch in half * RECORDS / 2..(half + 1) * RECORDS / 2 {
                let found = log.batch(&topic, &publisher, Epoch(half + 1), BatchNo(batch));
                say(format!("{n} batch {batch}"), found.map(|it| format!("{it:?}")));
            }
        }
    }
    out
}

fn copy(from: &Path, to: &Path) {
    for (_, path) in files(from) {
        let copied = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
        std::fs::copy(path, copied).unwrap();
    }
}

#[test]
fn no_damage_is_passed_over_in_silence() {
    let whole = tempfile::tempdir().unwrap();
    stored(whole.path());
    let paths: Vec<PathBuf> = files(&whole.path().join("log")).into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths.iter().filter(|path| is_journal(path)).count(), 2, "{paths:?}");
    let expected = {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        everything(&FjallLog::open(dir.path(), OPTIONS).unwrap().0)
    };
    assert!(expected.iter().all(|(_, found)| found.is_ok()));
    let newest = paths.iter().filter(|path| is_journal(path)).max().unwrap();
    let done = Mutex::new(Done::default());
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            for way in ways(path, path == newest) {
                let dir = tempfile::tempdir().unwrap();
                copy(whole.path(), dir.path());
                let file = path.strip_prefix(whole.path()).unwrap();
                if way.does(&dir.path().join(file)) {
                    let now = judge(dir.path(), &expected);
                    done.lock().unwrap().add(format!("{} {way:?}", file.display()), now);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
    let Done { refused, partly, harmless, wrong } = done.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(
        refused > 50 && partly > 5 && harmless > 5,
        "{refused} refused, {partly} read in part, {harmless} not met"
    );
}

#[derive(Default)]
struct Done {
    refused: usize,
    partly: usize,
    /// What was damaged is nothing that is read.
    harmless: usize,
    wrong: Vec<String>,
}

impl Done {
    fn add(&mut self, case: String, found: Result<usize, String>) {
        match found {
            Ok(0) => self.harmless += 1,
            Ok(ALL) => self.refused += 1,
            Ok(_) => self.partly += 1,
            Err(what) => self.wrong.push(format!("{case}: {what:.200}")),
        }
    }
}

/// Errors where nothing can be read.
const ALL: usize = usize::MAX;

/// How many things of a store are errors; or one that is neither what was stored nor an error.
fn judge(dir: &Path, expected: &[(String, Result<String, LogError>)]) -> Result<usize, String> {
    let log = match FjallLog::open(dir, OPTIONS) {
        Ok((log, _)) => log,
        Err(error) if error.to_string().contains("restore it from a copy") => return Ok(ALL),
        Err(error) => return Err(error.to_string()),
    };
    let mut errors = 0;
    for ((what, expected), (_, found)) in expected.iter().zip(everything(&log)) {
        match found {
            Ok(found) if Some(&found) == expected.as_ref().ok() => {}
            Err(error) if error.is_damage() => errors += 1,
            other => return Err(format!("{what}: {other:?}")),
        }
    }
    Ok(errors)
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "jnl")
}

/// What can be told. A journal that is gone is no other than one that was moved to files; where the newest one ends in
/// damage, that is a write that was not finished, and nobody was told that it is stored.
fn ways(path: &Path, newest: bool) -> Vec<Damage> {
    let shares: &[u64] = if newest { &[0, 9, 31, 52] } else { &[0, 9, 31, 62] };
    let changed = shares.iter().flat_map(|at| [Damage::Byte(*at), Damage::Zeros(*at)]);
    let shorter = shares.iter().map(|at| Damage::Cut(*at)).filter(|_| !newest);
    changed.chain(shorter).chain((!is_journal(path)).then_some(Damage::Gone)).collect()
}
