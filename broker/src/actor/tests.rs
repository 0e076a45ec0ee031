mod recorded;

use std::time::Duration;

use bytes::Bytes;
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Code, FRAME_HEADER, FrameKind, HoleReason, Reply};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::record::BatchRecord;
use sealcast_proto::roster::Op;
use sealcast_proto::{BatchNo, Epoch};
use tokio::time::timeout;

use super::*;
use crate::config::Config;
use crate::delivery::{Stop, Viewer, deliver_from_log};
use crate::faulty::{Disk, Faulty};
use crate::hand::{Admin, Hand, batch_record, genesis, key};
use crate::outgoing::Outgoing;
use crate::shared::Shared;
use crate::store::MemoryLog;

const SESSION: SessionId = SessionId(1);

/// A topic of owner 1 and publisher 2, on a disk that can fail.
struct Bench {
    disk: Arc<Faulty>,
    shared: Shared,
    topic: Arc<Topic>,
    admin: Admin,
    hand: Hand,
    answers: mpsc::UnboundedReceiver<Answer>,
}

impl Bench {
    async fn new(policy: Policy) -> Self {
        Self::on(Faulty::new(MemoryLog::new()), policy).await
    }

    async fn on(disk: Arc<Faulty>, policy: Policy) -> Self {
        let storage = Storage::start(disk.clone(), &Config::new(".").limits).unwrap();
        let shared = Shared::new(storage, &Config::new("."));
        let (id, parsed, signed) = genesis(0);
        shared.create(key(1), signed).await.unwrap();
        let topic = shared.registry.topic(&id).unwrap();
        let (_, answers) = mpsc::unbounded_channel();
        let mut bench =
            Self { disk, shared, topic, admin: Admin::new(id, &parsed), hand: Hand::new(2), answers };
        let ops = [Op::Add { identity: key(2), role: Role::Publisher }, Op::set_policy(policy)];
        let entry = bench.admin.entry(&ops);
        bench.roster(entry).await.unwrap();
        bench.attach().await;
        bench.header().await;
        assert!(matches!(bench.answer().await, Answer::Ack(_)));
        bench
    }

    async fn attach(&mut self) {
        let (answers, answered) = mpsc::unbounded_channel();
        self.answers = answered;
        let (session, identity) = (SESSION, key(2));
        let attach = self.topic.ask(|reply| Message::Attach { session, identity, answers, reply });
        assert!(attach.await.unwrap().is_some());
    }

    async fn roster(&self, bundle: EntryBundle) -> Result<Offset, Refusal> {
        let budget = self.shared.storage.commit.reserve(1).await.unwrap();
        self.topic.ask(|answer| Message::Roster { bundle, budget, answer }).await.unwrap()
    }

    async fn offer(&self, offered: Offered) {
        let budget = self.shared.storage.commit.reserve(1).await.unwrap();
        let (session, identity) = (SESSION, key(2));
        self.topic.send(Message::Publish { session, identity, offered, budget }).await.unwrap();
    }

    async fn header(&mut self) {
        let (header, _) = self.hand.begin(&self.admin.roster, &[]);
        self.offer(Offered::Header(header)).await;
    }

    async fn batch(&self, batch: &BatchRecord) {
        let header = self.hand.newest.as_ref().unwrap();
        let mut claim = Box::new(BatchClaim::read(batch).unwrap());
        claim.verify(&header.hash(), &header.peek().unwrap().epoch_vk);
        self.offer(Offered::Batch { claim, record: batch_record(batch) }).await;
    }

    async fn answer(&mut self) -> Answer {
        timeout(Duration::from_secs(20), self.answers.recv()).await.unwrap().unwrap()
    }

    /// Sends it again until it is taken.
    async fn insist(&mut self, batch: &BatchRecord) -> Ack {
        loop {
            self.batch(batch).await;
            match self.answer().await {
                Answer::Ack(ack) => return ack,
                Answer::Refused(refusal) => assert_eq!(refusal.code, Code::ReadOnly),
                Answer::Superseded => panic!(),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_goes_on_once_there_is_space() {
    let mut bench = Bench::new(Policy::default()).await;
    let (first, second) = (bench.hand.batch(b"first"), bench.hand.batch(b"second"));
    bench.batch(&first).await;
    assert!(matches!(bench.answer().await, Answer::Ack(ack) if ack.offset == Offset(2)));
    bench.disk.becomes(Disk::Full);
    bench.batch(&second).await;
    let Answer::Refused(refusal) = bench.answer().await else { panic!() };
    assert_eq!((refusal.code, refusal.record), (Code::ReadOnly, Some((Epoch(101), Some(BatchNo(1))))));
    assert!(refusal.retry_after_ms > 0);
    let entry = bench.admin.add(&[(9, Role::Reader)]);
    assert_eq!(bench.roster(entry.clone()).await.unwrap_err().code, Code::ReadOnly);
    assert_eq!(bench.topic.head(), Offset(3), "what is stored stays readable, and no more");
    bench.disk.becomes(Disk::Well);
    // The same bytes: neither lost nor stored twice, at the place that the failed write did not use up.
    assert_eq!(bench.insist(&second).await.offset, Offset(3));
    assert_eq!(bench.insist(&first).await.offset, Offset(2));
    assert_eq!(bench.roster(entry).await.unwrap(), Offset(4));
    assert_eq!(bench.topic.roster_head().0, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_write_stored_all_the_same_reaches_who_is_live() {
    let mut bench = Bench::new(Policy::default()).await;
    let (first, second) = (bench.hand.batch(b"first"), bench.hand.batch(b"second"));
    bench.batch(&first).await;
    assert!(matches!(bench.answer().await, Answer::Ack(ack) if ack.offset == Offset(2)));
    let mut events = bench.topic.events();
    bench.disk.becomes(Disk::Unsure);
    bench.batch(&second).await;
    assert!(matches!(bench.answer().await, Answer::Refused(refusal) if refusal.code == Code::ReadOnly));
    assert_eq!(bench.topic.head(), Offset(3));
    bench.disk.becomes(Disk::Well);
    // It is found in the log, and acknowledged as what it is: a repeat.
    assert_eq!(bench.insist(&second).await.offset, Offset(3));
    assert_eq!(bench.topic.head(), Offset(4));
    // A reader that had everything before goes to the log for it, not past it.
    assert!(bench.topic.ring().is_behind(Offset(3)) && !bench.topic.ring().is_behind(Offset(4)));
    let told = timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
    assert!(matches!(told, WatchEvent::Again), "and watches read it again: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_disk_is_read_only_until_a_restart() {
    let mut bench = Bench::new(Policy::default()).await;
    let batch = bench.hand.batch(b"lost");
    bench.disk.becomes(Disk::Broken);
    bench.batch(&batch).await;
    assert!(matches!(bench.answer().await, Answer::Refused(refusal) if refusal.code == Code::ReadOnly));
    bench.disk.becomes(Disk::Well);
    bench.batch(&batch).await;
    assert!(matches!(bench.answer().await, Answer::Refused(refusal) if refusal.code == Code::ReadOnly));
    assert!(bench.shared.storage.commit.failure().is_some());
    let id = bench.topic.id();
    let held = bench.shared.storage.reads.run(move |log| log.read(&id, Offset(0), 1 << 20)).await.unwrap();
    assert_eq!(held.len(), 2, "what was stored can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_topic_that_lost_batches_never_gives_their_offsets_out_again() {
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let mut bench = Bench::new(policy).await;
    let batch = bench.hand.batch(b"seen, then lost");
    bench.disk.becomes(Disk::Full);
    bench.batch(&batch).await;
    let Answer::Ack(seen) = bench.answer().await else { panic!() };
    // Until the failed write is noticed, the batch counts as stored.
    while let Answer::Ack(_) = {
        bench.batch(&batch).await;
        bench.answer().await
    } {}
    bench.disk.becomes(Disk::Well);
    let again = bench.insist(&batch).await;
    assert!(again.offset > Offset(seen.offset.0 + 1_000), "{} {}", seen.offset, again.offset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_looks_after_its_chores_and_sleeps_without() {
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let mut bench = Bench::new(policy).await;
    let syncs = |bench: &Bench| bench.disk.syncs.load(std::sync::atomic::Ordering::SeqCst);
    for n in 0..2 {
        let before = syncs(&bench);
        let batch = bench.hand.batch(&[n; 9]);
        bench.batch(&batch).await;
        assert!(matches!(bench.answer().await, Answer::Ack(_)));
        // Nobody asks for it, and it happens all the same; once.
        tokio::time::sleep(limits::SYNC_EVERY * 5 / 2).await;
        assert_eq!(syncs(&bench), before + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_whose_genesis_is_lost_keeps_none_of_the_others() {
    let bench = Bench::new(Policy::default()).await;
    let (lost, parsed, signed) = genesis(1);
    bench.shared.create(key(1), signed.clone()).await.unwrap();
    let bundle = Admin::new(lost, &parsed).add(&[(3, Role::Reader)]);
    let budget = bench.shared.storage.commit.reserve(1).await.unwrap();
    let topic = bench.shared.registry.topic(&lost).unwrap();
    topic.ask(|answer| Message::Roster { bundle, budget, answer }).await.unwrap().unwrap();
    bench.disk.loses(lost);

    // As a restart finds it.
    let storage = Storage::start(bench.disk.clone(), &Config::new(".").limits).unwrap();
    let shared = Shared::new(storage, &Config::new("."));
    assert_eq!(shared.take_up().await.unwrap(), 1);
    assert!(shared.enter(key(2), &bench.topic.id()).await.is_ok());
    assert_eq!(
        shared.create(key(1), signed).await.unwrap_err().code,
        Code::ReadOnly,
        "not as if it never was"
    );
    let refused = async |n| shared.enter(key(n), &lost).await.err().unwrap();
    for member in [1, 3] {
        let refusal = refused(member).await;
        assert_eq!(
            (refusal.code, refusal.retry_after_ms > 0),
            (Code::ReadOnly, true),
            "its entries name {member}"
        );
    }
    let (unknown, ..) = genesis(2);
    let nothing = shared.enter(key(2), &unknown).await.err().unwrap();
    assert_eq!(refused(2).await, nothing, "whoever has nothing to do with it learns nothing");
}

/// What a reader gets from the log below `end`.
fn read_back(bench: &Bench, standing: &crate::topic::Standing, end: Offset) -> Vec<Reply> {
    let viewer = Viewer::new(standing.clone());
    let (mut cursor, mut out) = (Offset(0), Outgoing::default());
    while cursor < end {
        let id = bench.topic.id();
        let stop = deliver_from_log(&*bench.disk, id, end, &viewer, &mut cursor, &mut out).unwrap();
        assert_eq!(stop, Stop::Through);
    }
    let mut frames = Bytes::from(out.take().concat());
    let mut replies = vec![];
    while let Some(header) = frames.first_chunk() {
        let (kind, len) = FrameKind::parse(*header).unwrap();
        frames = frames.slice(FRAME_HEADER..);
        replies.push(Reply::decode(kind, frames.split_to(len)).unwrap());
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_lost_is_a_hole_and_reading_goes_on_behind_it() {
    let mut bench = Bench::new(Policy::default()).await;
    // 0 entry, 1 header, 2..=41 batches, 42 entry, 43..=82 batches.
    for round in 0..2u8 {
        for n in 0..40 {
            let batch = bench.hand.batch(&[n; 9]);
            bench.batch(&batch).await;
            assert!(matches!(bench.answer().await, Answer::Ack(_)));
        }
        if round == 0 {
            let entry = bench.admin.add(&[(9, Role::Reader)]);
            bench.roster(entry).await.unwrap();
        }
    }
    let end = bench.topic.head();
    assert_eq!(end, Offset(83));
    let standing = bench.topic.open(key(1)).await.unwrap().unwrap().standing;
    let offsets = |replies: &[Reply]| -> Vec<u64> {
        let offset = |reply: &Reply| match reply {
            Reply::Record(offset, _) => Some(offset.0),
            _ => None,
        };
        replies.iter().filter_map(offset).collect()
    };
    assert_eq!(offsets(&read_back(&bench, &standing, end)).len(), 80);

    bench.disk.damages([5].into_iter().chain(20..=60));
    let replies = read_back(&bench, &standing, end);
    let expected: Vec<u64> = (2..5).chain(6..20).chain(61..83).collect();
    assert_eq!(offsets(&replies), expected, "nothing that can be read is left out");
    let at = |what: Reply| replies.iter().position(|reply| *reply == what).unwrap();
    let small = at(Reply::Hole(Offset(5), Offset(6), HoleReason::Corruption));
    let Reply::Context(context) = &replies[small + 1] else { panic!() };
    assert_eq!(context.batch.as_ref().unwrap().1, Offset(5), "where its publisher stands behind it");
    let large = at(Reply::Hole(Offset(20), Offset(61), HoleReason::Corruption));
    // The entry that stood in it comes all the same: the chain must not break.
    assert!(matches!(&replies[large + 1], Reply::Roster(entry) if entry.offset == Offset(42)));
    assert!(matches!(&replies[large + 2], Reply::Context(_)));

    // To the end, the header too.
    bench.disk.damages(1..83);
    let replies = read_back(&bench, &standing, end);
    let kinds: Vec<_> = replies.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 4, "{replies:?}");
    assert_eq!(replies[1], Reply::Hole(Offset(1), end, HoleReason::Corruption));
    assert!(
        matches!(&replies[3], Reply::Context(context) if context.batch.as_ref().unwrap().1 == Offset(82))
    );
}
