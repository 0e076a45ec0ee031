//! What the measurements of an isolated broker share: the broker as a process of its own, a steady feed, what its
//! readers see of it, and tables of medians.
#![allow(dead_code, reason = "each measurement uses a part")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sealcast::{
    BrokerLink, Durability, Identity, Policy, PublicKey, Publisher, Role, StartAt, State, Subscriber,
    Subscription, Topic, TopicAdmin, TopicLink,
};
use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkOptions};
use sealcast_proto::frame::{From as Begin, Request, Subscribe};

/// A broker process with a directory that ends with it.
pub(crate) struct Broker {
    process: Child,
    dir: tempfile::TempDir,
    pub(crate) link: BrokerLink,
}

impl Broker {
    pub(crate) fn start(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast"));
        command.args(["broker", "--listen", "127.0.0.1:0", "--data"]).arg(dir.path().join("data")).args(more);
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the broker starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("a pipe")).read_line(&mut line).expect("its link");
        Self { process, dir, link: line.trim().parse().expect("a link") }
    }

    /// Its resident memory, KiB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("Linux");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The same once it has stopped changing.
    pub(crate) async fn settled(&self) -> u64 {
        let mut last = self.resident();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.resident();
            if now.abs_diff(last) * 200 <= now {
                return now;
            }
            last = now;
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn identity() -> Arc<Identity> {
    Arc::new(Identity::generate(&mut rand::rng()))
}

/// A topic, its publisher, and readers that say how long each message took.
pub(crate) struct Feed {
    pub(crate) link: TopicLink,
    pub(crate) topic: Arc<Topic>,
    pub(crate) owner: Arc<Identity>,
    readers: Vec<Subscription>,
    epoch: Instant,
}

/// What one p99 is taken of: a thousand deliveries to ten readers.
pub(crate) const WINDOW: Duration = Duration::from_millis(500);
/// Messages a second of a steady feed, and bytes of each.
pub(crate) const RATE: u32 = 200;
pub(crate) const SIZE: usize = 1024;

impl Feed {
    /// `memory`: the disk of a shared machine is not what is measured here.
    pub(crate) async fn new(broker: &Broker, readers: usize, others: &[PublicKey]) -> Self {
        let owner = identity();
        let mine: Vec<_> = (0..readers).map(|_| identity()).collect();
        let keys = mine.iter().map(|reader| reader.public()).chain(others.iter().copied());
        let members: Vec<_> = keys.map(|key| (key, Role::Reader)).collect();
        let state = State::memory();
        let policy = Policy { durability: Durability::Memory, ..Policy::default() };
        let admin = TopicAdmin::create(&broker.link, "bench", owner.clone(), &state, policy, &members)
            .await
            .expect("a topic");
        let link = admin.link().clone();
        let mut subscriptions = Vec::new();
        for reader in mine {
            let subscriber = Subscriber::new(reader, State::memory());
            subscriptions.push(subscriber.subscribe(&link, StartAt::Latest).await.expect("a subscription"));
        }
        let topic = Publisher::new(owner.clone(), state).topic(&link).await.expect("a publisher");
        Self { link, topic: Arc::new(topic), owner, readers: subscriptions, epoch: Instant::now() }
    }

    /// Publishes at [`RATE`] for `time`; every delivery's latency, microseconds, sorted.
    pub(crate) async fn steady(&mut self, time: Duration) -> Vec<u64> {
        let count = u64::from(RATE) * time.as_millis() as u64 / 1000;
        let (topic, epoch) = (self.topic.clone(), self.epoch);
        let publish = async move {
            let mut due = tokio::time::interval(Duration::from_secs(1) / RATE);
            for _ in 0..count {
                due.tick().await;
                let mut payload = vec![0; SIZE];
                payload[..8].copy_from_slice(&micros(epoch).to_be_bytes());
                topic.send(payload).await.expect("a place in the queue");
            }
        };
        let receive = futures_util::future::join_all(self.readers.iter_mut().map(|reader| async move {
            let mut latencies = Vec::new();
            while (latencies.len() as u64) < count {
                let Ok(received) = reader.next().await.expect("it goes on") else { continue };
                let payload = &received.message.payload;
                // Others are of a burst.
                if payload.len() == SIZE {
                    let sent = u64::from_be_bytes(payload[..8].try_into().expect("eight bytes"));
                    latencies.push(micros(epoch) - sent);
                }
            }
            latencies
        }));
        let ((), latencies) = tokio::join!(publish, receive);
        let mut all: Vec<u64> = latencies.into_iter().flatten().collect();
        all.sort_unstable();
        all
    }

    /// The p99 of [`WINDOW`] after [`WINDOW`] until it is `over` after so many, microseconds: their median, because one in which
    /// another program of a shared machine was busy is one of many.
    pub(crate) async fn p99(&mut self, mut over: impl FnMut(usize) -> bool) -> f64 {
        let mut p99s = vec![];
        loop {
            p99s.push(percentile(&self.steady(WINDOW).await, 0.99) as f64);
            if over(p99s.len()) {
                return median(&p99s);
            }
        }
    }

    /// Publishes so many bytes as fast as they go, in messages of 32 KiB; every live reader has them afterwards.
    pub(crate) async fn burst(&mut self, bytes: usize) {
        let count = bytes / BURST;
        let topic = self.topic.clone();
        let publish = async move {
            for _ in 0..count {
                topic.send(vec![7; BURST]).await.expect("a place in the queue");
            }
            topic.flush().await.expect("acknowledged");
        };
        let receive = futures_util::future::join_all(self.readers.iter_mut().map(|reader| async move {
            let mut had = 0;
            while had < count {
                had += usize::from(reader.next().await.expect("it goes on").is_ok());
            }
        }));
        tokio::join!(publish, receive);
    }
}

/// Bytes of a burst's message.
const BURST: usize = 32 << 10;

fn micros(since: Instant) -> u64 {
    since.elapsed().as_micros() as u64
}

/// A connection, and one stream on it that was only begun.
pub(crate) struct Raw {
    pub(crate) connection: Connection,
    _link: Link,
}

impl Raw {
    pub(crate) async fn connect(
        broker: &BrokerLink,
        who: Arc<Identity>,
        keep_alive: Duration,
    ) -> Option<Self> {
        let patient = Duration::from_secs(30);
        let options = LinkOptions {
            keep_alive,
            connect_timeout: patient,
            address_timeout: patient,
            ..LinkOptions::default()
        };
        let link = Link::new(broker.clone(), who, options);
        let connection = link.connect().await.ok()?;
        Some(Self { connection, _link: link })
    }

    /// As a stranger, once.
    pub(crate) async fn connect_owned(broker: BrokerLink) -> Option<Self> {
        Self::connect(&broker, identity(), Duration::from_secs(5)).await
    }

    /// A subscription whose frames the caller reads, or does not.
    pub(crate) async fn subscribe(
        &self,
        topic: sealcast::TopicId,
        from: Begin,
    ) -> (FrameWriter, FrameReader) {
        let (mut writer, reader) = self.connection.open().await.expect("a stream");
        let wish = Subscribe { topic, from, roster_seq: None, until_head: false };
        writer.send(Request::Subscribe(wish).encode()).await.expect("a request");
        (writer, reader)
    }
}

/// The value below which a share of the sorted values lies.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The least, the median and the greatest.
pub(crate) fn spread(values: &[f64]) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.2} ({least:.2}–{most:.2})", median(values))
}

/// Set when a measurement is over, for what runs beside it.
#[derive(Clone, Default)]
pub(crate) struct Over(Arc<AtomicBool>);

impl Over {
    pub(crate) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The machine's load as it says itself, for the reader of a table.
pub(crate) fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// How often something is repeated: the first argument that is a number.
pub(crate) fn rounds(default: usize) -> usize {
    std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(default)
}
