//! The broker's disk fills up, or fails, under a publisher and its readers.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use rand::{RngExt as _, SeedableRng as _};
use sealcast::{
    BrokerLink, Event, Identity, Offset, Pending, Policy, Publisher, Role, Standstill, StartAt, State,
    Subscriber, Subscription, Topic, TopicAdmin, TopicLink,
};
use sealcast_broker::settings::Size;
use sealcast_broker::{Broker, Config, Limits};
use tokio::time::sleep;

use crate::disk::Disk;
use crate::operations::get;
use crate::parties::{self, Party};
use crate::program::World;

/// Bytes of a message.
const MESSAGE: usize = 64 << 10;

/// A topic, its publisher, and readers who have their state in memory.
struct Feed {
    link: TopicLink,
    topic: Topic,
    readers: Vec<Subscriber>,
}

impl Feed {
    async fn new(broker: &BrokerLink) -> Self {
        let identity = || Arc::new(Identity::generate(&mut rand::rng()));
        let (owner, state) = (identity(), State::memory());
        let readers: Vec<_> = (0..3).map(|_| identity()).collect();
        let members: Vec<_> = readers.iter().map(|reader| (reader.public(), Role::Reader)).collect();
        let admin =
            TopicAdmin::create(broker, "feed", owner.clone(), &state, Policy::default(), &members).await;
        let link = admin.unwrap().link().clone();
        let topic = Publisher::new(owner, state).topic(&link).await.unwrap();
        let readers = readers.into_iter().map(|reader| Subscriber::new(reader, State::memory())).collect();
        Self { link, topic, readers }
    }

    /// All that is stored, to somebody who begins now.
    async fn read(&self, reader: usize, count: usize) -> Vec<(u64, Offset)> {
        let mut subscription = self.readers[reader].subscribe(&self.link, StartAt::Earliest).await.unwrap();
        take(&mut subscription, count).await
    }
}

/// A message that says which it is, and cannot be made smaller.
fn noise(n: u64) -> Vec<u8> {
    let mut noise = vec![0; MESSAGE];
    rand::rngs::StdRng::seed_from_u64(n).fill(&mut noise[..]);
    noise[..8].copy_from_slice(&n.to_be_bytes());
    noise
}

/// The next messages: which, and where they stand. No gap, no fork, no rollback may be told meanwhile.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<(u64, Offset)> {
    let mut out = Vec::new();
    while out.len() < count {
        match subscription.next().await.unwrap() {
            Ok(received) => {
                let payload = received.message.payload;
                assert!(payload.len() == MESSAGE);
                out.push((u64::from_be_bytes(payload[..8].try_into().unwrap()), received.offset));
            }
            // A publisher that cannot store anything says nothing either.
            Err(Event::Ended { .. } | Event::Stalled { .. }) => {}
            Err(event) => panic!("{event}: {event:?}"),
        }
    }
    out
}

/// Hands messages over; nobody waits for them yet.
async fn send(topic: &Topic, numbers: std::ops::Range<u64>) -> Vec<Pending> {
    let mut pending = Vec::new();
    for n in numbers {
        pending.push(topic.send(noise(n)).await.unwrap());
    }
    pending
}

/// What was acknowledged so far: of those handed over, the first ones. Takes them out.
fn acknowledged(pending: &mut Vec<Pending>) -> Vec<Offset> {
    let mut offsets = Vec::new();
    while let Some(done) = pending.first_mut().and_then(|first| first.now_or_never()) {
        offsets.push(done.unwrap().offset);
        pending.remove(0);
    }
    offsets
}

fn numbered(offsets: &[Offset]) -> Vec<(u64, Offset)> {
    (0..).zip(offsets.iter().copied()).collect()
}

async fn until_ready(ops: SocketAddr) {
    while get(ops, "/readyz") != "ready\n" {
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_readers_go_on_and_the_publisher_does_once_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::over(dir.path(), 192 << 20) else { return };
    let reserve = 64 << 20;
    let start = || {
        let listen = "127.0.0.1:0".parse().unwrap();
        let limits = Limits { disk_reserve: Size(reserve), ..Limits::default() };
        Broker::start(Config { listen, ops: Some(listen), limits, ..Config::new(dir.path()) })
    };
    let broker = start().await.unwrap();
    let ops = broker.ops_addr().unwrap();
    let feed = Feed::new(broker.link()).await;
    let mut live = feed.readers[0].subscribe(&feed.link, StartAt::Earliest).await.unwrap();
    // More than there is space for, and less than may wait for its acknowledgement.
    const MESSAGES: u64 = 320;
    disk.fill(reserve + (8 << 20));
    let mut pending = send(&feed.topic, 0..MESSAGES).await;

    let standstill = feed.topic.standstill().await;
    assert!(matches!(standstill, Standstill::ReadOnly { .. }), "{standstill}");
    assert_eq!(get(ops, "/readyz"), "disk full\n");
    assert_eq!(get(ops, "/healthz"), "ok\n");
    let mut offsets = acknowledged(&mut pending);
    let stored = offsets.len();
    assert!(stored > 0 && !pending.is_empty(), "{stored}");
    assert_eq!(take(&mut live, stored).await, numbered(&offsets), "who reads goes on reading");
    assert_eq!(feed.read(1, stored).await, numbered(&offsets), "and so does who comes only now");

    disk.make_space();
    until_ready(ops).await;
    for pending in pending {
        offsets.push(pending.await.unwrap().offset);
    }
    assert_eq!(feed.topic.status().standstill, None);
    let rest = take(&mut live, MESSAGES as usize - stored).await;
    assert_eq!(rest, numbered(&offsets)[stored..], "everything, once and in order");

    broker.shutdown().await;
    let again = start().await.unwrap();
    let link = TopicLink { broker: again.link().clone(), topic: feed.link.topic };
    let mut all = feed.readers[2].subscribe(&link, StartAt::Earliest).await.unwrap();
    assert_eq!(take(&mut all, MESSAGES as usize).await, numbered(&offsets), "after a restart too");
    again.shutdown().await;
}

/// A broker process whose every fsync fails from some on; `None` where system calls cannot be tampered with.
fn with_failing_disk(world: &World, data: &Path) -> Option<(Party, BrokerLink, SocketAddr)> {
    // They are counted for each thread: the one that opens the store needs a hundred.
    let fails = "inject=fsync,fdatasync:error=EIO:when=200+";
    let usual = world.command(["broker", "--listen", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--data"]);
    let mut command = Command::new("strace");
    // `-D`: the broker is the child, and not the tracer, which ends with it.
    command.args(["-D", "-f", "-qqq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync", "-e", fails]);
    command.arg(usual.get_program()).args(usual.get_args()).arg(data);
    // Not even one: what is refused here is refused to the broker too.
    let probe = Command::new("strace").args(["-e", fails, "-o", "/dev/null", "true"]).output();
    match probe {
        Ok(done) if done.status.success() => {}
        refused => {
            eprintln!("skipped: an fsync cannot be made to fail here: {refused:?}");
            return None;
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.current_dir(world.path("")).env_clear().env("PATH", path).env("HOME", world.path(""));
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut party = Party::start(command);
    let line = party.says("health, metrics and topics");
    let (_, ops) = line.split_once("\"ops\":\"").unwrap();
    let ops = ops.split('"').next().unwrap().parse().unwrap();
    let link = party.wrote_line().parse().unwrap();
    Some((party, link, ops))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_disk_is_read_only_until_a_restart_and_keeps_what_was_acknowledged() {
    let world = World::new();
    let data = world.path("data");
    let Some((broker, link, ops)) = with_failing_disk(&world, &data) else { return };
    let feed = Feed::new(&link).await;
    let mut live = feed.readers[0].subscribe(&feed.link, StartAt::Earliest).await.unwrap();
    // One at a time, an fsync each, until one of them fails.
    let mut offsets = Vec::new();
    let mut unanswered = loop {
        let mut pending = send(&feed.topic, offsets.len() as u64..offsets.len() as u64 + 1).await;
        tokio::select! {
            done = &mut pending[0] => offsets.push(done.unwrap().offset),
            standstill = feed.topic.standstill() => {
                assert!(matches!(standstill, Standstill::ReadOnly { .. }), "{standstill}");
                break pending;
            }
        }
    };
    let stored = offsets.len();
    assert!(stored > 10, "{stored}");
    assert_eq!(get(ops, "/readyz"), "storage failed\n");
    assert_eq!(take(&mut live, stored).await, numbered(&offsets), "who reads goes on reading");
    assert_eq!(feed.read(1, stored).await, numbered(&offsets), "and so does who comes only now");
    let more = stored as u64 + 1..stored as u64 + 6;
    unanswered.extend(send(&feed.topic, more).await);
    assert_eq!(get(ops, "/readyz"), "storage failed\n", "it does not try again");
    assert!(acknowledged(&mut unanswered).is_empty(), "a failed fsync stores nothing");
    broker.kill();

    // Another disk, or a repaired one: the same address, the same directory.
    let listen = link.to_string();
    let (_, listen) = listen.split_once("://").unwrap();
    let listen = listen.split(['?', '/']).next().unwrap().to_owned();
    let mut restarted = parties::Broker::at(&world, &listen, &[]);
    for pending in unanswered {
        offsets.push(pending.await.unwrap().offset);
    }
    assert_eq!(feed.topic.status().standstill, None);
    let rest = take(&mut live, 6).await;
    assert_eq!(rest, numbered(&offsets)[stored..], "what waited came after it, once and in order");
    assert_eq!(feed.read(2, stored + 6).await, numbered(&offsets), "what was acknowledged is there");
    restarted.stop();
}
