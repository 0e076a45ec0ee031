//! What a broker process holds for readers who do not read: its resident memory before and after the same work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sealcast::{
    BrokerLink, Durability, Identity, Policy, Publisher, Role, StartAt, State, Subscriber, Subscription,
    Topic, TopicAdmin, TopicLink,
};
use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkOptions};
use sealcast_proto::frame::{From as Begin, Request, Subscribe};
use tokio::time::sleep;

use crate::operations::{metric, ops};
use crate::parties::Broker;
use crate::program::World;

const MIB: u64 = 1 << 20;
/// What is published at a time, and in messages of which size, bytes.
const BURST: u64 = 48 * MIB;
const MESSAGE: u64 = 64 << 10;
/// What a connection whose reader does not read may cost, bytes: QUIC's send window, and what was read for its streams
/// that hold something (four live, four behind): a piece and a message each.
const CONNECTION: u64 = 4 * MIB + 8 * (320 << 10);
/// What a stream costs that holds nothing for its reader, bytes.
const STREAM: u64 = 24 << 10;
/// What a process's memory differs by from one time to the next, bytes.
const SLACK: u64 = 32 * MIB;
/// Bursts in a row.
const BURSTS: u64 = 3;

/// A broker process, a topic, its publisher, a reader who reads, and others.
struct Scene {
    _world: World,
    _broker: Broker,
    ops: SocketAddr,
    link: TopicLink,
    topic: Topic,
    live: Subscription,
    others: Vec<Arc<Identity>>,
}

/// A stream with a subscription, and whatever it hangs on.
type Unread = (Link, Connection, FrameWriter, FrameReader);

impl Scene {
    async fn new(others: usize) -> Self {
        let world = World::new();
        let mut broker = Broker::with(&world, &["--stall", "1h", "--ops", "127.0.0.1:0"]);
        let ops = ops(&mut broker);
        let to: BrokerLink = broker.link.parse().unwrap();
        let identity = || Arc::new(Identity::generate(&mut rand::rng()));
        let (owner, state, reader) = (identity(), State::memory(), identity());
        let others: Vec<_> = (0..others).map(|_| identity()).collect();
        let keys = others.iter().chain([&reader]).map(|reader| (reader.public(), Role::Reader));
        // The disk of a shared machine is not what is looked at here.
        let policy = Policy { durability: Durability::Memory, ..Policy::default() };
        let members: Vec<_> = keys.collect();
        let admin = TopicAdmin::create(&to, "feed", owner.clone(), &state, policy, &members).await;
        let link = admin.unwrap().link().clone();
        let subscriber = Subscriber::new(reader, State::memory());
        let live = subscriber.subscribe(&link, StartAt::Earliest).await.unwrap();
        let topic = Publisher::new(owner, state).topic(&link).await.unwrap();
        let mut scene = Self { _world: world, _broker: broker, ops, link, topic, live, others };
        // Caches and journals have their size afterwards.
        scene.bursts(2 * BURSTS).await;
        scene
    }

    /// Publishes so many times [`BURST`]; the live reader has it afterwards.
    async fn bursts(&mut self, times: u64) {
        for _ in 0..times {
            self.burst().await;
        }
    }

    async fn burst(&mut self) {
        let publish = async {
            for _ in 0..BURST / MESSAGE {
                self.topic.send(vec![7; MESSAGE as usize]).await.unwrap();
            }
            self.topic.flush().await.unwrap();
        };
        let read = async {
            for _ in 0..BURST / MESSAGE {
                self.live.next().await.unwrap().unwrap();
            }
        };
        tokio::join!(publish, read);
    }

    /// Resident memory, bytes.
    fn resident(&self) -> u64 {
        metric(self.ops, "sealcast_resident_memory_bytes") as u64
    }

    /// The same once it has stopped changing.
    async fn settled(&self) -> u64 {
        let mut last = self.resident();
        loop {
            sleep(Duration::from_millis(500)).await;
            let now = self.resident();
            if now.abs_diff(last) < MIB {
                return now;
            }
            last = now;
        }
    }

    /// A connection of the `n`th of the others, with `streams` subscriptions.
    async fn unread(&self, n: usize, streams: usize, from: Begin) -> Vec<Unread> {
        let link = Link::new(self.link.broker.clone(), self.others[n].clone(), LinkOptions::default());
        let connection = link.connect().await.unwrap();
        let mut unread = Vec::new();
        for _ in 0..streams {
            let (mut writer, reader) = connection.open().await.unwrap();
            let wish = Subscribe { topic: self.link.topic, from, roster_seq: None, until_head: false };
            writer.send(Request::Subscribe(wish).encode()).await.unwrap();
            unread.push((link.clone(), connection.clone(), writer, reader));
        }
        unread
    }
}

/// One broker, and three kinds of readers who stop reading, one after the other. A broker that held what somebody has not
/// read would hold some 150 MiB in the first and in the last part.
#[tokio::test(flavor = "multi_thread")]
async fn readers_who_do_not_read_cost_their_windows_and_no_more() {
    const LIVE: usize = 5;
    const BEHIND: usize = 20;
    const STREAMS: usize = 800;
    let mut scene = Scene::new(LIVE + BEHIND + 1).await;
    let mut unread = Vec::new();

    let before = scene.resident();
    scene.bursts(BURSTS).await;
    let without = scene.resident().saturating_sub(before);

    // Who is at the head: stuck once its windows are full.
    for n in 0..LIVE {
        unread.extend(scene.unread(n, 1, Begin::Latest).await);
    }
    let before = scene.resident();
    scene.bursts(BURSTS).await;
    let live = scene.resident().saturating_sub(before);
    eprintln!("MiB more without anybody: {}, with {LIVE} who stopped reading: {}", without / MIB, live / MIB);
    assert!(live < LIVE as u64 * CONNECTION + SLACK, "{} MiB", live / MIB);

    // Who is behind: what was read from the log for it is its own, and can be seen.
    let before = scene.resident();
    for n in 0..BEHIND {
        unread.extend(scene.unread(LIVE + n, 1, Begin::Earliest).await);
    }
    while scene.resident() < before + BEHIND as u64 * MIB {
        sleep(Duration::from_millis(50)).await;
    }
    let behind = scene.settled().await.saturating_sub(before);
    eprintln!("MiB more with {BEHIND} who are behind: {}", behind / MIB);
    assert!(behind < BEHIND as u64 * CONNECTION + SLACK, "{} MiB", behind / MIB);

    // Many of them on one connection: few hold something at a time.
    let before = scene.resident();
    unread.extend(scene.unread(LIVE + BEHIND, STREAMS, Begin::Earliest).await);
    while metric(scene.ops, "sealcast_subscriptions") < (1 + LIVE + BEHIND + STREAMS) as f64 {
        sleep(Duration::from_millis(50)).await;
    }
    let streams = scene.settled().await.saturating_sub(before);
    eprintln!("MiB more with {STREAMS} streams of one connection: {}", streams / MIB);
    assert!(streams < CONNECTION + STREAMS as u64 * STREAM + SLACK, "{} MiB", streams / MIB);
}
