//! What strangers and bad members can do to a broker's memory and to honest clients.
//!
//! `cargo bench --bench hostile_load [-- ROUNDS]`. One publisher at a steady rate and ten honest readers; beside them, one kind
//! of trouble at a time. The trouble's own work is done in this process on the same two cores, and shows in the honest
//! clients' figures too.

mod scene;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use scene::{Broker, Feed, Over, Raw, load, median, percentile, rounds};
use sealcast::{BrokerLink, TopicId};
use sealcast_proto::frame::From as Begin;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const HONEST: usize = 10;
const RUN: Duration = Duration::from_secs(4);
const TROUBLES: [&str; 5] = [
    "nobody else",
    "handshake flood, 16 at once",
    "half-open connections, 64 at once",
    "a reader that takes a frame a second",
    "10,000 subscribes to unknown topics",
];

#[tokio::main]
async fn main() {
    let rounds = rounds(5);
    let broker = Broker::start(&[]);
    let member = scene::identity();
    let mut feed = Feed::new(&broker, HONEST, &[member.public()]).await;
    feed.burst(6 << 20).await;
    feed.steady(RUN).await;
    println!("load before: {}", load());
    let mut p99 = vec![vec![]; TROUBLES.len()];
    let mut resident = vec![0; TROUBLES.len()];
    let mut done = vec![0; TROUBLES.len()];
    for round in 0..rounds {
        for n in 0..TROUBLES.len() {
            let which = (n + round) % TROUBLES.len();
            let over = Over::default();
            let trouble =
                tokio::spawn(make(which, broker.link.clone(), member.clone(), feed.link.topic, over.clone()));
            let latencies = feed.steady(RUN).await;
            resident[which] = resident[which].max(broker.resident());
            over.say();
            done[which] += trouble.await.expect("no panic");
            p99[which].push(percentile(&latencies, 0.99) as f64);
        }
    }
    let quiet = median(&p99[0]);
    println!("honest p99, µs   beside quiet   broker at most, MiB   how often    trouble");
    for (which, name) in TROUBLES.iter().enumerate() {
        let p99 = median(&p99[which]);
        let mib = resident[which] as f64 / 1024.0;
        println!("{p99:>14.0}   {:>12.2}   {mib:>19.1}   {:>9}    {name}", p99 / quiet, done[which]);
    }
    println!("afterwards {:.1} MiB; load after: {}", broker.settled().await as f64 / 1024.0, load());
}

/// Makes one kind of trouble until it is over; how often.
async fn make(
    which: usize,
    broker: BrokerLink,
    member: Arc<sealcast::Identity>,
    topic: TopicId,
    over: Over,
) -> usize {
    let keep_alive = Duration::from_secs(5);
    match which {
        1 => {
            many(16, over, move || {
                let broker = broker.clone();
                async move { Raw::connect(&broker, scene::identity(), keep_alive).await.is_some() }
            })
            .await
        }
        2 => {
            let (host, port) = broker.hosts()[0].clone();
            let to: SocketAddr = format!("{host}:{port}").parse().expect("an address");
            many(64, over, move || half_open(broker.clone(), to)).await
        }
        3 => {
            let raw = Raw::connect(&broker, member, keep_alive).await.expect("a connection");
            let (_writer, mut reader) = raw.subscribe(topic, Begin::Earliest).await;
            let mut frames = 0;
            while !over.is() {
                frames += usize::from(matches!(reader.next().await, Ok(Some(_))));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            frames
        }
        4 => {
            let raw = Raw::connect(&broker, scene::identity(), keep_alive).await.expect("a connection");
            let raw = Arc::new(raw);
            let mut under_way = JoinSet::new();
            let mut refused = 0;
            for _ in 0..10_000 {
                if under_way.len() >= 256 {
                    refused +=
                        under_way.join_next().await.map_or(0, |done| usize::from(done.unwrap_or(false)));
                }
                let raw = raw.clone();
                under_way.spawn(async move {
                    let (_writer, mut reader) = raw.subscribe(TopicId(rand::random()), Begin::Latest).await;
                    matches!(reader.next().await, Ok(Some(_)))
                });
            }
            while let Some(done) = under_way.join_next().await {
                refused += usize::from(done.unwrap_or(false));
            }
            refused
        }
        _ => 0,
    }
}

/// The same again and again, some at a time; how often it came to something.
async fn many<F: Future<Output = bool> + Send + 'static>(
    at_once: usize,
    over: Over,
    what: impl Fn() -> F,
) -> usize {
    let mut under_way = JoinSet::new();
    let mut count = 0;
    while !over.is() {
        while under_way.len() < at_once {
            under_way.spawn(what());
        }
        count += under_way.join_next().await.map_or(0, |done| usize::from(done.unwrap_or(false)));
    }
    count
}

/// A first flight from a source of its own whose answers nobody hears: the broker is left with half a handshake.
async fn half_open(broker: BrokerLink, to: SocketAddr) -> bool {
    let (front, out) = match (UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind("127.0.0.1:0").await) {
        (Ok(front), Ok(out)) => (front, out),
        _ => return false,
    };
    let addr = front.local_addr().expect("an address");
    let hosts = vec![(addr.ip().to_string(), addr.port())];
    let deaf = BrokerLink::new(hosts, broker.keys().to_vec()).expect("a link");
    let client = tokio::spawn(Raw::connect_owned(deaf));
    let mut buffer = [0; 2048];
    // Both packets of its first flight.
    for _ in 0..2 {
        if let Ok((len, _)) = front.recv_from(&mut buffer).await {
            let _ = out.send_to(&buffer[..len], to).await;
        }
    }
    client.abort();
    true
}
