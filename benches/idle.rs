//! What an idle subscriber costs the broker, and how fast subscribers come.
//!
//! `cargo bench --bench idle [-- CONNECTIONS]`. Up to 10,000 subscribers of one topic, each with a connection and a socket of
//! its own (raise the limit of open files beyond that: `ulimit -n 20000`), to one broker process whose resident memory is read
//! once it has settled. On two cores the clients' half of each handshake is paid here too.

mod scene;

use std::time::{Duration, Instant};

use scene::{Broker, Feed, Raw, load};
use sealcast_proto::frame::{From as Begin, Reply};
use tokio::task::JoinSet;

/// Connections being made at a time, a count.
const AT_ONCE: usize = 32;
/// Connections an identity may have: the broker's limit is 64.
const EACH: usize = 50;

#[tokio::main]
async fn main() {
    let most = scene::rounds(10_000);
    let broker = Broker::start(&[]);
    let who: Vec<_> = (0..most.div_ceil(EACH)).map(|_| scene::identity()).collect();
    let keys: Vec<_> = who.iter().map(|who| who.public()).collect();
    let feed = Feed::new(&broker, 0, &keys).await;
    // What a broker needs once: tables, threads, the allocator's first arenas.
    drop(add(&broker, &feed, &who, 0..100).await);
    let empty = broker.settled().await;
    println!("load before: {}", load());
    println!("subscribers   resident, MiB   each, kB    connected and subscribed a second");
    println!("{:>11}   {:>13.1}", 0, empty as f64 / 1024.0);
    let mut held = vec![];
    for goal in [most / 10, most / 2, most] {
        let begun = Instant::now();
        let count = goal - held.len();
        held.extend(add(&broker, &feed, &who, held.len()..goal).await);
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        let now = broker.settled().await;
        let each = (now - empty) as f64 * 1.024 / goal as f64;
        println!("{goal:>11}   {:>13.1}   {each:>9.1}   {rate:>33.0}", now as f64 / 1024.0);
    }
    println!("target: at most 48 kB (48,000 bytes) each; load after: {}", load());
}

type Held = (Raw, sealcast_link::FrameWriter, sealcast_link::FrameReader);

async fn add(
    broker: &Broker,
    feed: &Feed,
    who: &[std::sync::Arc<sealcast::Identity>],
    range: std::ops::Range<usize>,
) -> Vec<Held> {
    let mut under_way = JoinSet::new();
    let mut out = vec![];
    for n in range {
        if under_way.len() >= AT_ONCE {
            out.extend(under_way.join_next().await.map(|done| done.expect("no panic")));
        }
        let (link, who, topic) = (broker.link.clone(), who[n / EACH].clone(), feed.link.topic);
        under_way.spawn(async move {
            // Fewer signs of life than usual: ten thousand clients of one process are a test, not a use.
            let raw = loop {
                match Raw::connect(&link, who.clone(), Duration::from_secs(20)).await {
                    Some(raw) => break raw,
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            let (writer, mut reader) = raw.subscribe(topic, Begin::Latest).await;
            while !matches!(reader.reply().await.expect("a reply"), Some(Reply::AtHead { .. })) {}
            (raw, writer, reader)
        });
    }
    while let Some(done) = under_way.join_next().await {
        out.push(done.expect("no panic"));
    }
    out
}
