//! What strangers and bad members can do to a broker's memory and to honest clients.
//!
//! `cargo bench --bench hostile_load [-- ROUNDS]`. One publisher at a steady rate and ten honest readers; beside them, one kind
//! of trouble at a time, made by a process of its own at the lowest priority: what it works itself (its half of each
//! handshake) would otherwise take the processor from the honest clients, which an attacker from elsewhere cannot. What
//! the broker does for it at its own priority is what shows.

mod scene;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use scene::{Broker, Feed, Over, Raw, load, median, rounds};
use sealcast::{BrokerLink, Identity, TopicId, TopicLink};
use sealcast_proto::frame::From as Begin;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

const HONEST: usize = 10;
/// Half seconds of a run, a count.
const WINDOWS: usize = 8;
const TROUBLES: [&str; 5] = [
    "nobody else",
    "handshake flood, 16 at once",
    "half-open connections, 64 at once",
    "a reader that takes a frame a second",
    "10,000 subscribes to unknown topics",
];

/// What makes this program a troublemaker: followed by which trouble, the broker's link and the topic's.
const TROUBLE: &str = "--trouble";

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip_while(|arg| arg != TROUBLE).skip(1);
    if let Some(which) = args.next() {
        let mut text = move || args.next().expect("a link");
        let (broker, topic) = (text().parse().expect("a link"), text().parse::<TopicLink>().expect("a link"));
        return trouble(which.parse().expect("a number"), broker, topic.topic).await;
    }
    let rounds = rounds(5);
    let broker = Broker::start(&[]);
    let member = scene::identity();
    let mut feed = Feed::new(&broker, HONEST, &[member.public()]).await;
    feed.burst(6 << 20).await;
    feed.p99(|windows| windows == WINDOWS).await;
    println!("load before: {}", load());
    let mut p99 = vec![vec![]; TROUBLES.len()];
    let mut resident = vec![0; TROUBLES.len()];
    let mut done = vec![0; TROUBLES.len()];
    for round in 0..rounds {
        for n in 0..TROUBLES.len() {
            let which = (n + round) % TROUBLES.len();
            let trouble = Troublemaker::start(which, &broker.link, &feed.link, &member);
            let now = feed.p99(|windows| windows == WINDOWS).await;
            resident[which] = resident[which].max(broker.resident());
            done[which] += trouble.end();
            p99[which].push(now);
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

/// This program again, as a process that makes trouble.
struct Troublemaker(Child);

impl Troublemaker {
    /// Starts it; returns once it has begun.
    fn start(which: usize, broker: &BrokerLink, topic: &TopicLink, member: &Identity) -> Self {
        let own = std::env::current_exe().expect("its own path");
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(own).args([TROUBLE, &which.to_string()]);
        command.args([broker.to_string(), topic.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("nice runs");
        let input = child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{}", *member.to_text()).expect("it listens");
        let mut begun = [0];
        child.stdout.as_mut().expect("a pipe").read_exact(&mut begun).expect("it begins");
        Self(child)
    }

    /// Stops it; how often it made its trouble.
    fn end(mut self) -> usize {
        drop(self.0.stdin.take());
        let mut count = String::new();
        self.0.stdout.take().expect("a pipe").read_to_string(&mut count).expect("a count");
        assert!(self.0.wait().expect("its status").success());
        count.trim().parse().expect("a count")
    }
}

/// The troublemaker's side: a member's key comes on stdin, whose end is the trouble's; says that it begins, then how often.
async fn trouble(which: usize, broker: BrokerLink, topic: TopicId) {
    let mut input = BufReader::new(std::io::stdin());
    let mut member = String::new();
    input.read_line(&mut member).expect("a key");
    let member = Arc::new(member.trim().parse().expect("a key"));
    let over = Over::default();
    let end = over.clone();
    std::thread::spawn(move || {
        let _ = input.read_to_end(&mut vec![]);
        end.say();
    });
    println!("-");
    println!("{}", make(which, broker, member, topic, over).await);
}

/// Makes one kind of trouble until it is over; how often.
async fn make(which: usize, broker: BrokerLink, member: Arc<Identity>, topic: TopicId, over: Over) -> usize {
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
