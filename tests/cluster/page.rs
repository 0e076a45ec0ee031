use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use crate::program::World;
use crate::runner::server;

pub(crate) fn the_page_works_word_for_word() {
    let world = World::new();
    let root = env!("CARGO_MANIFEST_DIR");
    let page = std::fs::read_to_string(format!("{root}/docs/cluster.md")).expect("the page");
    let blocks: Vec<_> = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```").map(|(block, _)| block))
        .collect();
    assert!(blocks.len() >= 6, "the page has its commands in blocks");
    // Other tests may run beside this one: other ports. The page counts them up from 1, so their last digit stays.
    let (clients, routes) =
        (free(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()), free_after_routes());
    let brokers = free(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok());
    let ops = free_after_ops();
    let other = |text: &str| {
        text.replace("1422", &clients.to_string())
            .replace("1522", &routes.to_string())
            .replace("1744", &brokers.to_string())
            .replace("1844", &ops.to_string())
    };
    let conf =
        std::fs::read_to_string(format!("{root}/contrib/cluster/nats-server.conf")).expect("a configuration");
    std::fs::create_dir_all(world.path("contrib/cluster")).expect("a directory");
    std::fs::write(world.path("contrib/cluster/nats-server.conf"), other(&conf)).expect("a configuration");
    let program =
        std::path::Path::new(env!("CARGO_BIN_EXE_sealcast")).parent().expect("a directory").to_owned();
    std::fs::create_dir(world.path("bin")).expect("a directory");
    std::os::unix::fs::symlink(
        absolute(&server().expect("it was there before")),
        world.path("bin/nats-server"),
    )
    .expect("a link");
    let path = format!("{}:{}:/usr/bin:/bin", world.path("bin").display(), program.display());
    // Whatever fails, nothing that it started is left behind.
    let clean = "trap 'for pid in *.pid; do kill -9 $(cat \"$pid\") 2> /dev/null || true; done' EXIT\n";
    let output = Command::new("sh")
        .args(["-eu", "-c", &format!("{clean}{}", other(&blocks.concat()))])
        .current_dir(world.path(""))
        .env_clear()
        .env("PATH", path)
        .env("HOME", world.path(""))
        .stdin(Stdio::null())
        .output()
        .expect("a shell runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let log = |name: &str| std::fs::read_to_string(world.path(name)).unwrap_or_default();
    let logs = ["broker-1.log", "broker-2.log", "sub.log"].map(log).join("\n");
    assert!(output.status.success(), "{stdout}\n{stderr}\n{logs}");
    let got = "gold 2,431.50\ngold 2,433.00\ngold 2,440.25\n";
    assert!(stdout.ends_with(got), "each once, in order: {stdout}\n{stderr}\n{logs}");
}

fn absolute(path: &std::path::Path) -> std::path::PathBuf {
    if path.components().count() > 1 {
        return path.canonicalize().expect("it exists");
    }
    let all = std::env::var_os("PATH").expect("a path");
    std::env::split_paths(&all)
        .map(|dir| dir.join(path))
        .find(|file| file.exists())
        .expect("it is on the path")
}

/// Four digits that with 1, 2 or 3 behind them are free ports, below those that the system gives out by itself.
fn free(is_free: impl Fn(u16) -> bool) -> u16 {
    search(1_100, &is_free)
}

fn free_after_routes() -> u16 {
    search(2_300, &|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn free_after_ops() -> u16 {
    search(1_900, &|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
}

fn search(from: u16, is_free: &impl Fn(u16) -> bool) -> u16 {
    // Two runs of this at once look in other places.
    let begin = from + u16::try_from(std::process::id() % 300).expect("small");
    (begin..begin + 200).find(|tens| (1..=3).all(|n| is_free(tens * 10 + n))).expect("free ports")
}
