use std::sync::mpsc::{Receiver, Sender, channel};

use proptest::prelude::*;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use super::*;
use crate::store::conformance::{publisher, record, topic};
use crate::store::{Bounds, MemoryLog, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, Trimmed};
use bytes::Bytes;

/// A log that does nothing unbidden: each write tells `entered` what it was asked, and then waits for its answer.
struct Scripted {
    inner: MemoryLog,
    entered: Mutex<Sender<(Vec<Write>, bool)>>,
    answers: Mutex<Receiver<Result<(), LogError>>>,
}

impl Log for Scripted {
    fn write(&self, writes: &[Write], sync: bool) -> Result<(), LogError> {
        self.entered.lock().unwrap().send((writes.to_vec(), sync)).unwrap();
        // When the test has let go of its end, everything succeeds.
        self.answers.lock().unwrap().recv().unwrap_or(Ok(()))?;
        self.inner.write(writes, sync)
    }

    fn level(&self) -> Level {
        self.inner.level()
    }
    fn room(&self) -> Result<(), LogError> {
        self.inner.room()
    }
    fn topics(&self) -> Result<Vec<TopicId>, LogError> {
        self.inner.topics()
    }
    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.inner.topic(topic)
    }
    fn bounds(&self, topic: &TopicId) -> Result<Bounds, LogError> {
        self.inner.bounds(topic)
    }
    fn reserved(&self, topic: &TopicId) -> Result<Offset, LogError> {
        self.inner.reserved(topic)
    }
    fn read(&self, topic: &TopicId, from: Offset, max: usize) -> Result<Vec<Stored>, LogError> {
        self.inner.read(topic, from, max)
    }
    fn read_back(&self, topic: &TopicId, before: Offset, max: usize) -> Result<Vec<Stored>, LogError> {
        self.inner.read_back(topic, before, max)
    }
    fn seek_time(&self, topic: &TopicId, ms: u64) -> Result<Offset, LogError> {
        self.inner.seek_time(topic, ms)
    }
    fn seek_bytes(&self, topic: &TopicId, max: u64) -> Result<Offset, LogError> {
        self.inner.seek_bytes(topic, max)
    }
    fn rosters(&self, topic: &TopicId, from: RosterSeq, max: usize) -> Result<Vec<StoredRoster>, LogError> {
        self.inner.rosters(topic, from, max)
    }
    fn roster_before(&self, topic: &TopicId, before: Offset) -> Result<Option<RosterSeq>, LogError> {
        self.inner.roster_before(topic, before)
    }
    fn head(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.inner.head(topic)
    }
    fn publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>, LogError> {
        self.inner.publishers(topic)
    }
    fn epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>, LogError> {
        self.inner.epochs_back(topic, publisher, up_to, max)
    }
    fn batch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        batch_no: BatchNo,
    ) -> Result<Option<StoredBatch>, LogError> {
        self.inner.batch(topic, publisher, epoch, batch_no)
    }
    fn batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>, LogError> {
        self.inner.batch_before(topic, publisher, epoch, before)
    }
    fn new_table(&self) -> TableId {
        self.inner.new_table()
    }
    fn slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>, LogError> {
        self.inner.slot(table, member)
    }
    fn prekey(&self, owner: &PublicKey) -> Result<Option<Bytes>, LogError> {
        self.inner.prekey(owner)
    }
    fn trim(&self, topic: &TopicId, before: Offset) -> Result<Trimmed, LogError> {
        self.inner.trim(topic, before)
    }
    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64, LogError> {
        self.inner.drop_epochs(topic, publisher, before)
    }
}

/// A commit thread over a scripted log, and what its submitters were told.
struct World {
    // First: let go of before the commit thread is waited for.
    answers: Sender<Result<(), LogError>>,
    commit: Commit,
    log: Arc<Scripted>,
    entered: Receiver<(Vec<Write>, bool)>,
    told: Receiver<(u64, Result<(), LogError>)>,
    tell: Sender<(u64, Result<(), LogError>)>,
}

impl World {
    fn new() -> Self {
        let (entered_tx, entered) = channel();
        let (answers, answers_rx) = channel();
        let (tell, told) = channel();
        let log = Arc::new(Scripted {
            inner: MemoryLog::new(),
            entered: Mutex::new(entered_tx),
            answers: Mutex::new(answers_rx),
        });
        for n in 0..3 {
            let genesis = record(n, 1);
            log.inner.write(&[Write::CreateTopic { topic: topic(n), genesis }], true).unwrap();
        }
        let commit = Commit::with_budget(log.clone(), 64 << 20).unwrap();
        Self { answers, commit, log, entered, told, tell }
    }

    fn submit(&self, writer: &Writer, id: u64, writes: Vec<Write>, when: When) {
        let budget = self.commit.try_reserve(writes.iter().map(Write::size).sum()).unwrap();
        let tell = self.tell.clone();
        writer.submit(budget, writes, when, move |result| tell.send((id, result)).unwrap());
    }

    fn told(&self, n: usize) -> Vec<(u64, Result<(), LogError>)> {
        (0..n).map(|_| self.told.recv().unwrap()).collect()
    }

    fn told_ok(&self, n: usize) -> Vec<u64> {
        self.told(n).into_iter().map(|(id, result)| result.map(|()| id).unwrap()).collect()
    }

    /// Holds the thread inside a write, so that what is submitted meanwhile becomes one group.
    fn hold(&self) {
        self.submit(&self.commit.writer(), 999, vec![prekey(9)], When::Synced);
        self.entered.recv().unwrap();
    }

    fn release(&self) {
        self.answers.send(Ok(())).unwrap();
        assert_eq!(self.told_ok(1), [999]);
    }
}

fn append(n: u8, offset: u64) -> Write {
    Write::Append { topic: topic(n), offset: Offset(offset), stored_ms: 0, record: record(n, 100) }
}

fn prekey(n: u8) -> Write {
    Write::Prekey { owner: publisher(n), prekey: record(n, 10) }
}

fn snapshot(of: u8, state: u8) -> Write {
    Write::Publisher { topic: topic(0), publisher: publisher(of), state: record(state, 8) }
}

fn full() -> LogError {
    LogError::Full { dir: "/data".into(), free: 1, reserve: 2 }
}

fn broken() -> LogError {
    LogError::Io { doing: "writing", error: Arc::new(std::io::Error::other("gone")) }
}

#[test]
fn what_waits_is_written_together_and_answered_in_order() {
    let world = World::new();
    world.hold();
    let writers = [world.commit.writer(), world.commit.writer()];
    for id in 0..10 {
        let n = (id % 2) as u8;
        world.submit(
            &writers[usize::from(n)],
            id,
            vec![append(n, id)],
            if id == 3 { When::Synced } else { When::Written },
        );
    }
    world.release();
    let (writes, sync) = world.entered.recv().unwrap();
    assert_eq!(writes, (0..10).map(|id| append((id % 2) as u8, id)).collect::<Vec<_>>());
    assert!(sync, "one asked for it");
    world.answers.send(Ok(())).unwrap();
    assert_eq!(world.told_ok(10), (0..10).collect::<Vec<_>>());
    assert_eq!((world.commit.stats().groups, world.commit.stats().submissions), (2, 11));
}

#[test]
fn without_sync_none_is_made() {
    let world = World::new();
    world.submit(&world.commit.writer(), 1, vec![append(0, 0)], When::Written);
    assert!(!world.entered.recv().unwrap().1);
    world.answers.send(Ok(())).unwrap();
    assert_eq!(world.told_ok(1), [1]);
}

#[test]
fn what_nobody_waits_for_gathers() {
    const COUNT: u64 = 1_000;
    let world = World::new();
    let (commit, tell) = (Commit::start(Arc::new(MemoryLog::new())).unwrap(), world.tell.clone());
    let writer = commit.writer();
    for id in 0..COUNT {
        let (budget, tell) = (commit.try_reserve(0).unwrap(), tell.clone());
        writer.submit(budget, vec![prekey(1)], When::Later, move |result| tell.send((id, result)).unwrap());
    }
    assert_eq!(world.told_ok(1_000), (0..COUNT).collect::<Vec<_>>());
    assert!(commit.stats().groups < COUNT / 2, "{:?}", commit.stats());
}

#[test]
fn it_goes_along_with_what_somebody_waits_for() {
    let waiting = |ids: std::ops::Range<u64>, when| {
        ids.map(move |_| {
            let (done, budget) = (Done(None), Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
            let (writes, failure, budget) = (vec![], Arc::default(), Budget(budget));
            Message::Submit(Submission { writes, size: 1, when, failure, done, budget })
        })
    };
    let mut gathered = Gathered::default();
    waiting(0..3, When::Later).for_each(|message| gathered.take(message));
    assert!(gathered.can_wait());
    waiting(3..4, When::Written).for_each(|message| gathered.take(message));
    assert!(!gathered.can_wait());
    let mut gathered = Gathered { size: GROUP_BYTES - 1, ..Gathered::default() };
    waiting(0..1, When::Later).for_each(|message| gathered.take(message));
    assert!(!gathered.can_wait(), "there is no more room");
    let mut gathered = Gathered::default();
    gathered.take(Message::Stop);
    assert!(!gathered.can_wait(), "it is over");
}

#[test]
fn a_group_has_its_size() {
    let world = World::new();
    world.hold();
    let writer = world.commit.writer();
    for id in 0..5 {
        let big = Write::Append {
            topic: topic(0),
            offset: Offset(id),
            stored_ms: 0,
            record: record(1, GROUP_BYTES / 2),
        };
        world.submit(&writer, id, vec![big], When::Synced);
    }
    world.release();
    let mut sizes = Vec::new();
    for _ in 0..3 {
        sizes.push(world.entered.recv().unwrap().0.len());
        world.answers.send(Ok(())).unwrap();
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(world.told_ok(5), [0, 1, 2, 3, 4]);
}

#[test]
fn of_a_publishers_snapshots_the_last_is_written() {
    let world = World::new();
    world.hold();
    let writer = world.commit.writer();
    world.submit(&writer, 1, vec![append(0, 0), snapshot(1, 1), snapshot(2, 1)], When::Synced);
    world.submit(&writer, 2, vec![append(0, 1), snapshot(1, 2)], When::Synced);
    world.submit(&writer, 3, vec![append(0, 2), snapshot(1, 3)], When::Synced);
    world.release();
    let (writes, _) = world.entered.recv().unwrap();
    assert_eq!(writes, [append(0, 0), snapshot(2, 1), append(0, 1), append(0, 2), snapshot(1, 3)]);
    world.answers.send(Ok(())).unwrap();
    assert_eq!(world.told_ok(3), [1, 2, 3]);
}

#[test]
fn a_full_disk_fails_what_follows_it_and_nobody_else() {
    let world = World::new();
    world.hold();
    let (one, two) = (world.commit.writer(), world.commit.writer());
    world.submit(&one, 1, vec![append(0, 0)], When::Synced);
    world.release();
    world.entered.recv().unwrap();
    // In the queue before anybody has heard of the failure.
    world.submit(&one, 2, vec![append(0, 1)], When::Synced);
    world.submit(&two, 3, vec![append(1, 0)], When::Synced);
    world.answers.send(Err(full())).unwrap();
    world.answers.send(Ok(())).unwrap();
    let told = world.told(3);
    assert!(matches!(told[0], (1, Err(LogError::Full { .. }))));
    assert!(matches!(told[1], (2, Err(LogError::Full { .. }))), "it would stand without what went before it");
    assert!(matches!(told[2], (3, Ok(()))));
    assert_eq!(world.entered.recv().unwrap().0, [append(1, 0)]);
    assert!(one.failure().is_some() && two.failure().is_none() && world.commit.failure().is_none());
    // There is space again: a new writer goes on where the log ends.
    assert_eq!(world.log.bounds(&topic(0)).unwrap().next, Offset(0));
    world.submit(&world.commit.writer(), 4, vec![append(0, 0)], When::Synced);
    world.answers.send(Ok(())).unwrap();
    assert_eq!(world.told_ok(1), [4]);
}

#[test]
fn a_broken_disk_ends_writing() {
    let world = World::new();
    let writer = world.commit.writer();
    world.submit(&writer, 1, vec![append(0, 0)], When::Synced);
    world.entered.recv().unwrap();
    world.answers.send(Err(broken())).unwrap();
    assert!(matches!(world.told(1)[0], (1, Err(LogError::Io { .. }))));
    world.submit(&world.commit.writer(), 2, vec![append(1, 0)], When::Synced);
    assert!(matches!(world.told(1)[0], (2, Err(LogError::Io { .. }))));
    assert!(matches!(world.commit.failure(), Some(LogError::Io { .. })));
    world.commit.shut_down();
    assert!(world.entered.try_recv().is_err(), "the log was not asked again");
}

#[test]
fn a_broken_rule_fails_its_writer_alone() {
    let world = World::new();
    world.hold();
    let (bad, good) = (world.commit.writer(), world.commit.writer());
    world.submit(&good, 1, vec![append(0, 0)], When::Synced);
    world.submit(&bad, 2, vec![append(1, 5), append(1, 5)], When::Synced);
    world.submit(&good, 3, vec![append(0, 1)], When::Synced);
    world.submit(&bad, 4, vec![append(1, 6)], When::Synced);
    world.release();
    drop(world.answers);
    let told: Vec<_> = (0..4).map(|_| world.told.recv().unwrap()).collect();
    assert!(matches!(
        &told[..],
        [(1, Ok(())), (2, Err(LogError::Misuse(_))), (3, Ok(())), (4, Err(LogError::Misuse(_)))]
    ));
    assert_eq!(world.log.bounds(&topic(0)).unwrap().next, Offset(2));
    assert_eq!(world.log.bounds(&topic(1)).unwrap().next, Offset(0));
}

#[test]
fn shutting_down_writes_what_waits_and_refuses_the_rest() {
    let world = World::new();
    world.hold();
    let writer = world.commit.writer();
    world.submit(&writer, 1, vec![append(0, 0)], When::Written);
    let late = world.commit.try_reserve(1).unwrap();
    drop(world.answers);
    world.commit.shut_down();
    let told: Vec<_> = world.told.try_iter().collect();
    assert!(matches!(&told[..], [(999, Ok(())), (1, Ok(()))]));
    let asked: Vec<_> = world.entered.try_iter().map(|(writes, sync)| (writes.len(), sync)).collect();
    assert_eq!(asked, [(1, false), (0, true)], "the last thing is a sync");
    let tell = world.tell.clone();
    writer.submit(late, vec![append(0, 1)], When::Synced, move |result| tell.send((2, result)).unwrap());
    assert!(matches!(world.told.recv().unwrap(), (2, Err(LogError::Closed))));
    assert!(world.commit.try_reserve(1).is_none());
}

#[tokio::test]
async fn the_budget_comes_back_when_synced() {
    let (entered_tx, entered) = channel();
    let (answers, answers_rx) = channel();
    let log = Arc::new(Scripted {
        inner: MemoryLog::new(),
        entered: Mutex::new(entered_tx),
        answers: Mutex::new(answers_rx),
    });
    let commit = Commit::with_budget(log, 4 * UNIT).unwrap();
    let all = commit.reserve(usize::MAX).await.unwrap();
    assert!(commit.try_reserve(0).is_none(), "even nothing takes a unit");
    let (done, synced) = oneshot::channel();
    commit.writer().submit(all, vec![prekey(1)], When::Synced, move |result| done.send(result).unwrap());
    entered.recv().unwrap();
    assert!(commit.try_reserve(1).is_none(), "still held: not synced yet");
    let mut waiting = std::pin::pin!(commit.reserve(2 * UNIT));
    assert!(futures_poll(waiting.as_mut()).await.is_none());
    answers.send(Ok(())).unwrap();
    synced.await.unwrap().unwrap();
    let mut held = waiting.await.unwrap();
    held.merge(commit.reserve(2 * UNIT).await.unwrap());
    assert!(commit.try_reserve(1).is_none());
    drop(held);
    assert!(commit.try_reserve(4 * UNIT).is_some());
    drop(answers);
    commit.write(vec![prekey(2)]).await.unwrap();
}

/// Polls once.
async fn futures_poll<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever fails, a topic's log never holds a record without those submitted before it by the same writer.
    #[test]
    fn no_holes(script in proptest::collection::vec((0..3_u8, proptest::option::weighted(0.1, 0..2_u8)), 1..40)) {
        let world = World::new();
        let answers: Vec<_> = script.iter().map(|(_, fail)| match fail {
            None => Ok(()),
            Some(0) => Err(full()),
            Some(_) => Err(broken()),
        }).collect();
        for answer in answers {
            world.answers.send(answer).unwrap();
        }
        let writers = [world.commit.writer(), world.commit.writer(), world.commit.writer()];
        let mut next = [0; 3];
        for (id, (n, _)) in (0..).zip(&script) {
            let at = usize::from(*n);
            world.submit(&writers[at], id, vec![append(*n, next[at])], When::Synced);
            next[at] += 1;
        }
        let told = world.told(script.len());
        for n in 0..3_u8 {
            let of_topic = |(id, _): &&(u64, Result<(), LogError>)| script[*id as usize].0 == n;
            let told: Vec<_> = told.iter().filter(of_topic).collect();
            prop_assert!(told.is_sorted_by_key(|(id, _)| id), "answered in order");
            let stored = told.iter().take_while(|(_, result)| result.is_ok()).count();
            prop_assert!(told[stored..].iter().all(|(_, result)| result.is_err()), "no success after a failure");
            prop_assert_eq!(world.log.bounds(&topic(n)).unwrap().next, Offset(stored as u64));
        }
    }
}
