//! Publishers that never stop, and readers whose every line is looked at as it comes.

use std::io::{BufRead, BufReader};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::parties::Party;
use crate::scene::Scene;

pub(crate) const PUBLISHERS: usize = 4;
pub(crate) const READERS: usize = 20;
/// Between two handfuls of lines of a publisher,
const EVERY: Duration = Duration::from_millis(50);
/// which are so many.
const HANDFUL: usize = 10;
/// A test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub(crate) struct Crowd {
    publishers: Vec<(Arc<AtomicUsize>, JoinHandle<Party>)>,
    enough: Arc<AtomicBool>,
    readers: Vec<(Party, JoinHandle<()>)>,
    board: Arc<Board>,
}

/// How many lines of each publisher each reader got, in order and without a hole.
#[derive(Default)]
struct Board {
    got: Mutex<Vec<Got>>,
    moved: Condvar,
}

#[derive(Default, Clone, Debug)]
struct Got {
    lines: [usize; PUBLISHERS],
    /// What was not the next line of a publisher.
    wrong: Option<String>,
}

impl Crowd {
    /// All of them at work: each reader has something of each publisher.
    pub(crate) fn gather(scene: &Scene) -> Self {
        let board = Arc::new(Board::default());
        board.got.lock().unwrap().resize(READERS, Got::default());
        let begin = |n| {
            let (stdout, to_stdout) = std::io::pipe().expect("a pipe");
            let party = scene.party(&format!("reader-{n}"), &["sub", &scene.link], Some(to_stdout));
            let board = board.clone();
            (party, std::thread::spawn(move || board.read(n, BufReader::new(stdout))))
        };
        let mut readers: Vec<_> = (0..READERS).map(begin).collect();
        for (reader, _) in &mut readers {
            reader.says("subscribed at offset");
        }
        let enough = Arc::new(AtomicBool::new(false));
        // However long it takes here: that it comes to an end is what counts.
        let args = ["pub", &scene.link, "--lines", "--timeout", "2m"];
        let begin = |n| {
            let party = scene.party(&format!("publisher-{n}"), &args, None);
            let written = Arc::new(AtomicUsize::new(0));
            let (enough, count) = (enough.clone(), written.clone());
            (written, std::thread::spawn(move || write(n, party, &count, &enough)))
        };
        let publishers = (0..PUBLISHERS).map(begin).collect();
        let crowd = Self { publishers, enough, readers, board };
        crowd.wait_for(&[1; PUBLISHERS]);
        crowd
    }

    /// Something happens; returns when every reader has a line of every publisher that was written after it.
    pub(crate) fn outlives(&self, what: &str, happens: impl FnOnce()) {
        let begun = Instant::now();
        happens();
        // What is counted is written; one line of each may be on its way just now.
        let written = self.publishers.iter().map(|(count, _)| count.load(Ordering::SeqCst) + 2);
        let times = self.wait_for(&written.collect::<Vec<_>>());
        let took: Vec<_> = times.iter().map(|time| time.saturating_duration_since(begun)).collect();
        println!(
            "{what}: the first reader goes on after {:.1?}, half of them after {:.1?}, the last after {:.1?}",
            took[0],
            took[took.len() / 2],
            took[took.len() - 1],
        );
    }

    /// Waits until every reader has so many lines of each publisher; when each had, in order.
    fn wait_for(&self, lines: &[usize]) -> Vec<Instant> {
        let begun = Instant::now();
        let mut times = vec![None; READERS];
        let mut got = self.board.got.lock().unwrap();
        loop {
            for (n, (reader, time)) in got.iter().zip(&mut times).enumerate() {
                assert!(reader.wrong.is_none(), "reader {n}: {reader:?}");
                if time.is_none() && reader.lines.iter().zip(lines).all(|(got, wanted)| got >= wanted) {
                    *time = Some(Instant::now());
                }
            }
            if times.iter().all(Option::is_some) {
                let mut times: Vec<_> = times.into_iter().flatten().collect();
                times.sort();
                return times;
            }
            assert!(begun.elapsed() < PATIENCE, "{lines:?} are wanted, got {got:#?}");
            got = self.board.moved.wait_timeout(got, Duration::from_secs(1)).unwrap().0;
        }
    }

    /// Lets the publishers end, and sees that every reader got every line once, in order.
    pub(crate) fn end(mut self) {
        self.enough.store(true, Ordering::SeqCst);
        let mut written = Vec::new();
        for (count, thread) in std::mem::take(&mut self.publishers) {
            // It ends well only when all that it read was acknowledged.
            thread.join().expect("its thread").ok();
            written.push(count.load(Ordering::SeqCst));
        }
        self.wait_for(&written);
        for (reader, thread) in std::mem::take(&mut self.readers) {
            reader.signal("-TERM");
            reader.ok();
            thread.join().expect("its thread");
        }
        for (n, reader) in self.board.got.lock().unwrap().iter().enumerate() {
            assert!(reader.wrong.is_none() && reader.lines[..] == written[..], "reader {n}: {reader:?}");
        }
        println!("{written:?} lines, each once and in order at each of {READERS} readers");
    }
}

impl Board {
    /// Reads what a reader writes, to its end.
    fn read(&self, reader: usize, stdout: impl BufRead) {
        for read in stdout.lines() {
            let read = read.expect("text");
            let mut got = self.got.lock().unwrap();
            let Got { lines, wrong } = &mut got[reader];
            let of = read.bytes().next().map_or(0, |digit| usize::from(digit.wrapping_sub(b'0')));
            match lines.get_mut(of) {
                Some(next) if read == line(of, *next) => *next += 1,
                _ => *wrong = wrong.take().or_else(|| Some(format!("{read:?} after {lines:?}"))),
            }
            self.moved.notify_all();
        }
    }
}

/// A line that tells where it belongs.
fn line(publisher: usize, n: usize) -> String {
    format!("{publisher}: line {n} of a feed that somebody wants to read")
}

/// Writes a handful of lines again and again.
fn write(publisher: usize, mut party: Party, written: &AtomicUsize, enough: &AtomicBool) -> Party {
    while !enough.load(Ordering::SeqCst) {
        for _ in 0..HANDFUL {
            party.write(format!("{}\n", line(publisher, written.load(Ordering::SeqCst))).as_bytes());
            written.fetch_add(1, Ordering::SeqCst);
        }
        // A pace, nothing that is waited for.
        std::thread::sleep(EVERY);
    }
    party.close_stdin();
    party
}
