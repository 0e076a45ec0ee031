//! What a subscriber that replays a gibibyte costs those who are live, and how fast it is.
//!
//! `cargo bench --bench slow_start [-- ROUNDS]`. The topic's log holds 1 GiB. First it is replayed while nothing is published.
//! Then one publisher at a steady rate, ten live readers; in each round a run without and a run with one more, a process of its
//! own at the lowest priority (on two cores its decryption would otherwise take the processor that the others are measured on)
//! that verifies and opens all of it. Each p99 is the median of those of half seconds. That the replay says of the publisher "did not
//! say that it was done" is right: that one goes on.

mod scene;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use scene::{Broker, Feed, load, rounds, spread};
use sealcast::TopicLink;

const LIVE: usize = 10;
/// Half seconds of a run without a replay, a count.
const WINDOWS: usize = 10;
const STORED: usize = 1 << 30;

#[tokio::main]
async fn main() {
    let rounds = rounds(5);
    let broker = Broker::start(&[]);
    let identity = broker.path("replayer");
    let sealcast = env!("CARGO_BIN_EXE_sealcast");
    let made = Command::new(sealcast).args(["keygen", "-o"]).arg(&identity).status().expect("a key");
    assert!(made.success());
    let key = Command::new(sealcast).args(["keygen", "-y"]).arg(&identity).output().expect("a key").stdout;
    let key = String::from_utf8(key).expect("text").trim().parse().expect("a key");
    let mut feed = Feed::new(&broker, LIVE, &[key]).await;
    for _ in 0..16 {
        feed.burst(STORED / 16).await;
    }
    let before = broker.settled().await / 1024;
    println!("load before: {}", load());
    let begun = Instant::now();
    assert!(replay(&broker, &identity, &feed.link, rounds).wait().expect("its status").success());
    println!(
        "replay while nobody is live: {:.0} MiB/s",
        (STORED >> 20) as f64 / begun.elapsed().as_secs_f64()
    );
    println!("round  p99 without  p99 with a replay  (µs)   replay, MiB/s");
    let (mut ratios, mut speeds, mut alone) = (vec![], vec![], vec![]);
    for round in 0..rounds {
        let quiet = feed.p99(|windows| windows == WINDOWS).await;
        let again = feed.p99(|windows| windows == WINDOWS).await;
        let begun = Instant::now();
        let mut replay = replay(&broker, &identity, &feed.link, round);
        let mut ended = None;
        let over = |_| {
            ended = replay.try_wait().expect("its status");
            ended.is_some()
        };
        let busy = feed.p99(over).await;
        assert!(ended.is_some_and(|status| status.success()));
        let seconds = begun.elapsed().as_secs_f64();
        let speed = (STORED >> 20) as f64 / seconds;
        println!("{round:>5}  {quiet:>11}  {busy:>17}  {speed:>20.0}");
        alone.push(again / quiet);
        ratios.push(busy / ((quiet + again) / 2.0));
        speeds.push(speed);
    }
    println!("\nmedian (least–greatest) of {rounds} rounds");
    println!("p99 beside itself     {}", spread(&alone));
    println!("p99 with a replay     {}   (target: at most 1.5)", spread(&ratios));
    println!("replay, MiB/s         {}", spread(&speeds));
    println!("broker's memory, MiB  {}; {before} when the 1 GiB was stored", broker.resident() / 1024);
    println!("load after: {}", load());
}

/// Somebody that reads all of it, as a process of its own.
fn replay(broker: &Broker, identity: &Path, link: &TopicLink, round: usize) -> Child {
    let mut command = Command::new("nice");
    command.args(["-n", "19", env!("CARGO_BIN_EXE_sealcast"), "sub", &link.to_string()]);
    command.args(["--from", "earliest", "--exit-at-end", "-o", "/dev/null", "-i"]).arg(identity);
    command.arg("--state").arg(broker.path(&format!("state-{round}"))).stdout(Stdio::null());
    command.spawn().expect("nice runs")
}
