//! Running a broker: `docs/operations.md` followed word for word, limits as real clients meet them, and what logs, metrics
//! and topics never hold.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};

use crate::parties::{Broker, Feed, lines};
use crate::program::{World, mode};

/// What an operations listener answers.
pub(crate) fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(addr).expect("it listens");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

/// A sample of `/metrics`.
pub(crate) fn metric(addr: SocketAddr, name: &str) -> f64 {
    let text = get(addr, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().expect("a number")
}

/// Where a broker shows health and metrics.
pub(crate) fn ops(broker: &mut Broker) -> SocketAddr {
    let line = broker.says("health, metrics and topics");
    let (_, rest) = line.split_once("\"ops\":\"").expect("an address");
    rest.split('"').next().expect("an address").parse().expect("an address")
}

#[test]
fn the_page_for_operators_works_word_for_word() {
    let world = World::new();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let blocks: Vec<_> = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect();
    assert!(blocks.len() >= 6, "the page has its commands in blocks");
    // Other tests run beside this one: other ports. Nothing else is changed.
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let script = blocks.concat().replace("127.0.0.1:7443", &udp.to_string());
    let script = script.replace("127.0.0.1:7444", &tcp.to_string());
    let program = env!("CARGO_BIN_EXE_sealcast");
    // The same code: `sealcast broker` is `sealcast-broker`.
    let broker = world.write("sealcast-broker", format!("#!/bin/sh\nexec '{program}' broker \"$@\"\n"));
    mode(&broker, 0o700);
    let directory = std::path::Path::new(program).parent().unwrap().display().to_string();
    let path = format!("{}:{directory}:/usr/local/bin:/usr/bin:/bin", broker.parent().unwrap().display());
    let output = Command::new("sh")
        .args(["-eu", "-c", &script])
        .current_dir(world.path(""))
        .env_clear()
        .env("PATH", path)
        .env("HOME", world.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let log = std::fs::read_to_string(world.path("broker.log")).unwrap_or_default();
    assert!(output.status.success(), "{stdout}\n{stderr}\n{log}");
    assert!(stdout.contains("# broker.toml") && stdout.contains("\"name\":\"prices\""), "{stdout}");
    assert_eq!(stdout.matches("ready\n").count(), 2, "{stdout}");
    assert!(stdout.trim_end().ends_with("gold 2,431.50"), "read from the restored copy: {stdout}");
}

#[test]
fn whoever_publishes_too_fast_loses_nothing_and_no_order() {
    let mut feed = Feed::with(&["a"], &["--publish-rate", "512KiB", "--ops", "127.0.0.1:0"]);
    let ops = ops(&mut feed.broker);
    const MANY: usize = 40_000;
    let input = feed.world.path("input");
    std::fs::write(&input, lines(0..MANY)).unwrap();
    let sub = feed.sub("a", &["-n", &MANY.to_string()]);
    feed.publish("owner", &["--lines", "--file", input.to_str().unwrap()]).ok();
    assert!(sub.ok() == lines(0..MANY), "byte for byte");
    assert!(metric(ops, "sealcast_throttled_microseconds_total") > 0.0, "it was held back");
}

#[test]
fn a_subscriber_that_finds_no_place_comes_in_when_one_leaves() {
    let mut feed = Feed::with(&["a", "b", "c"], &["--connections", "2", "--ops", "127.0.0.1:0"]);
    let ops = ops(&mut feed.broker);
    let a = feed.sub("a", &[]);
    let mut b = feed.sub("b", &[]);
    let mut c = feed.begin_sub("c", &["--from", "earliest"]);
    while metric(ops, "sealcast_connection_attempts_total{result=\"turned_away\"}") == 0.0 {
        std::thread::yield_now();
    }
    a.signal("-TERM");
    a.ok();
    c.says("subscribed at offset");
    c.signal("-TERM");
    c.ok();
    // And then there is one for a publisher.
    feed.publish("owner", &["a word"]).ok();
    b.wrote_lines(1);
}

#[test]
fn nothing_the_broker_says_holds_a_payload_or_a_secret() {
    let flags = ["--log", "trace", "--ops", "127.0.0.1:0", "--topic-labels"];
    let mut feed = Feed::with(&["a"], &flags);
    let ops = ops(&mut feed.broker);
    let mut sub = feed.sub("a", &[]);
    let canary = "canary-7f3a9d51-in-clear";
    feed.publish("owner", &["-H", "venue=canary-header-41", canary]).ok();
    sub.wrote_lines(1);
    let shown = [get(ops, "/metrics"), get(ops, "/topics"), get(ops, "/readyz")].concat();
    assert!(shown.contains(&feed.key("a")) && shown.contains("\"name\":\"prices\""), "it shows who");
    drop(sub);
    let said = feed.broker.last_words().join("\n");
    assert!(said.contains("\"level\":\"TRACE\"") && said.contains("connected"), "it says all it can");
    let secret = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with("SEAL-SECRET-KEY-1")).unwrap_or_default();
        assert!(line.len() > 30, "a private key: {text}");
        line.to_owned()
    };
    let own = secret(feed.broker.data().join("identity"));
    for secret in [canary, "canary-header-41", &own, "SEAL-SECRET"] {
        assert!(!said.contains(secret) && !shown.contains(secret), "{secret}");
        // Nor as bytes that a debug format writes as numbers.
        let numbers: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
        assert!(!said.contains(&numbers.join(", ")), "{secret}");
    }
}
