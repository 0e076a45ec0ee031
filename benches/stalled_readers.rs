//! What five readers that stop reading cost twenty that do not.
//!
//! `cargo bench --bench stalled_readers [-- ROUNDS]`. One publisher at a steady rate, a broker process, 20 live readers. In
//! each round three runs in rotating order: twice without anybody else, once with five more that have stopped
//! reading. `beside itself` is the ratio of the two equal runs: what the machine does by itself.

mod scene;

use std::time::Duration;

use scene::{Broker, Feed, Raw, load, percentile, rounds, spread};
use sealcast_proto::frame::From as Begin;

const LIVE: usize = 20;
const STALLED: usize = 5;
const RUN: Duration = Duration::from_secs(4);
/// More than the window of a stream, so that those who do not read are stuck.
const FILL: usize = 6 << 20;

#[tokio::main]
async fn main() {
    let rounds = rounds(7);
    let broker = Broker::start(&[]);
    let stallers: Vec<_> = (0..STALLED).map(|_| scene::identity()).collect();
    let keys: Vec<_> = stallers.iter().map(|staller| staller.public()).collect();
    let mut feed = Feed::new(&broker, LIVE, &keys).await;
    feed.burst(FILL).await;
    println!("load before: {}", load());
    println!("round  p50 without  p99 without  p99 again  p99 with five stalled   (µs)");
    let (mut equal, mut stalled, mut grown) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let mut p99 = [0.0; 3];
        let mut p50 = 0;
        for run in 0..3 {
            let which = (run + round) % 3;
            let mut silent = vec![];
            if which == 2 {
                for staller in &stallers {
                    let raw = Raw::connect(&broker.link, staller.clone(), Duration::from_secs(5)).await;
                    let raw = raw.expect("a connection");
                    let stream = raw.subscribe(feed.link.topic, Begin::Latest).await;
                    silent.push((raw, stream));
                }
            }
            // The same work before each.
            let before = broker.resident();
            feed.burst(FILL).await;
            let latencies = feed.steady(RUN).await;
            if which == 2 {
                grown.push((broker.resident() as f64 - before as f64) / 1024.0);
            }
            p99[which] = percentile(&latencies, 0.99) as f64;
            if which == 0 {
                p50 = percentile(&latencies, 0.5);
            }
        }
        println!("{round:>5}  {p50:>11}  {:>11}  {:>9}  {:>21}", p99[0], p99[1], p99[2]);
        equal.push(p99[1] / p99[0]);
        // Beside the mean of its two neighbours.
        stalled.push(p99[2] / ((p99[0] + p99[1]) / 2.0));
    }
    println!(
        "\nmedian (least–greatest) of {rounds} rounds, {} deliveries a run",
        LIVE as u32 * scene::RATE * 4
    );
    println!("p99 beside itself      {}", spread(&equal));
    println!("p99 with five stalled  {}   (target: at most 1.1)", spread(&stalled));
    println!("broker's memory, MiB   {} more in a run with five stalled", spread(&grown));
    println!("load after: {}", load());
}
