//! The system calls themselves: nobody is told that a write is stored before the fsync that covers it has returned.

use std::collections::HashMap;
use std::io::Write as _;
use std::process::Command;

use super::*;
use crate::store::conformance::{record, topic};
use crate::store::{Commit, When, Write};

/// Says in the child process where to keep the store.
const CHILD: &str = "SEALCAST_TEST_TRACED";
const SUBMISSIONS: u64 = 40;

/// What is traced: a commit thread that tells of each submission, on stdout, as soon as it is told.
#[test]
fn traced() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let options = FjallOptions { reserve_bytes: 0, ..FjallOptions::default() };
    let (log, _) = FjallLog::open(Path::new(&dir), options).unwrap();
    let commit = Commit::start(Arc::new(log)).unwrap();
    let writer = commit.writer();
    let submit = |write: Write, what: String| {
        let budget = commit.try_reserve(write.size()).unwrap();
        writer.submit(budget, vec![write], When::Synced, move |result| {
            result.unwrap();
            std::io::stdout().lock().write_all(what.as_bytes()).unwrap();
        });
    };
    submit(Write::CreateTopic { topic: topic(0), genesis: record(0, 9) }, "stored: the topic\n".into());
    for n in 0..SUBMISSIONS {
        let record = record(1, 500);
        let append = Write::Append { topic: topic(0), offset: Offset(n), stored_ms: n, record };
        submit(append, format!("stored: {n}\n"));
    }
    commit.shut_down();
}

#[test]
fn every_answer_follows_the_fsync_that_covers_it() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-qq", "-s", "64", "-o"]).arg(&trace);
    command.args(["-e", "trace=write,writev,pwrite64,fsync,fdatasync"]);
    command.arg(std::env::current_exe().unwrap());
    command.args(["store::fjall::trace::traced", "--exact", "--nocapture", "--test-threads=1"]);
    match command.env(CHILD, dir.path().join("data")).output() {
        Ok(done) if done.status.success() && trace.exists() => {}
        refused => return eprintln!("skipped: system calls cannot be traced here: {refused:?}"),
    }
    let trace = std::fs::read_to_string(trace).unwrap();
    let (mut unsynced, mut syncing) = (HashMap::<&str, bool>::new(), HashMap::<&str, bool>::new());
    let (mut told, mut syncs) = (0, 0);
    for line in trace.lines() {
        let (thread, call) = line.split_once(' ').unwrap();
        let call = call.trim_start();
        let of_journal = call.contains(".jnl>");
        let sync = call.starts_with("fdatasync(") || call.starts_with("fsync(");
        if call.contains("stored: ") {
            assert!(!unsynced.get(thread).copied().unwrap_or(false), "told before it was synced: {line}");
            told += 1;
        } else if sync && of_journal && call.ends_with("<unfinished ...>") {
            syncing.insert(thread, true);
        } else if (sync && of_journal && call.ends_with("= 0"))
            || (call.contains("sync resumed>") && call.ends_with("= 0") && syncing.remove(thread).is_some())
        {
            unsynced.insert(thread, false);
            syncs += 1;
        } else if of_journal && !sync {
            unsynced.insert(thread, true);
        }
    }
    assert_eq!(told, SUBMISSIONS + 1, "{trace}");
    assert!(unsynced.values().all(|unsynced| !unsynced) && syncs > 1, "{syncs}");
}
