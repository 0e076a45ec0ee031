//! `sealcast bench`: a small run of everything, and what it says where it cannot run.

use std::process::Stdio;

use sealcast_broker::{Broker, Config};
use serde_json::Value;

use crate::program::World;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn every_delivery_is_counted_and_checked() {
    let world = World::new();
    std::fs::create_dir(world.path("disk")).unwrap();
    let args = ["--publishers", "2", "--subscribers", "3", "--size", "200", "--duration", "300ms"];
    for (durability, more) in
        [("durable", ["--dir", "disk"]), ("memory", ["--members", "40"]), ("memory", ["--rate", "500"])]
    {
        let own = ["bench", "--json", "--durability", durability];
        let ran = world.run([&own[..], &args, &more].concat());
        let result = json(&ran.ok());
        let published = result["published"]["messages"].as_u64().unwrap();
        assert!(published >= 2, "{result}");
        assert_eq!(result["delivered"]["messages"], published * 3);
        assert_eq!(result["durability"], durability);
        assert_eq!(result["members"], if more[0] == "--members" { 40 } else { 6 });
        assert!(result["latency_us"]["p50"].as_u64() <= result["latency_us"]["max"].as_u64());
        if more[0] == "--rate" {
            // 75 each, at a distance of four milliseconds, and a last one each, however slow this machine is.
            assert_eq!(published, 2 * 75 + 2);
        }
        if cfg!(target_os = "linux") {
            assert!(result["broker"]["resident_bytes"].as_u64().unwrap() > 0);
            assert!(result["clients"]["cpu_s"].as_f64().unwrap() > 0.0);
        }
        assert_eq!(ran.stderr, "", "no bar where no terminal is");
    }
    assert_eq!(std::fs::read_dir(world.path("disk")).unwrap().count(), 0, "it leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_runs_already_is_loaded() {
    let world = World::new();
    let mut config = Config::new(world.path("data"));
    config.listen = "127.0.0.1:0".parse().unwrap();
    let broker = Broker::start(config).await.unwrap();
    let link = broker.link().to_string();
    let mut command = world.command(["bench", "--duration", "100ms", "--subscribers", "1", "--rate", "100"]);
    command.env("SEALCAST_BROKER", &link).stderr(Stdio::inherit());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{table}");
    assert!(table.contains("none lost, repeated or out of order"), "{table}");
    assert!(table.contains("\nbroker ") && table.contains("--broker-pid"), "{table}");
    broker.shutdown().await;
    let mut gone = world.command(["bench", "--broker", &link]);
    let gone = tokio::task::spawn_blocking(move || gone.output().unwrap()).await.unwrap();
    crate::program::Ran::new(gone).fails(3, "cannot reach", "sealcast broker");
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let world = World::new();
    let bench = |more: &[&str]| world.run([&["bench"], more].concat());
    bench(&["--subscribers", "0"]).fails(2, "without subscribers", "--subscribers");
    bench(&["--publishers", "0"]).fails(2, "0 publishers", "1 to 1023");
    bench(&["--size", "10"]).fails(2, "10 bytes", "18 to ");
    bench(&["--rate", "0"]).fails(2, "without messages", "--rate");
    bench(&["--members", "3"]).fails(2, "--members is 3", "12 to ");
    bench(&["--dir", "nowhere"]).fails(1, "nowhere", "--dir");
    bench(&["--broker", "nonsense"]).fails(2, "", "quotes");
    bench(&["--broker-pid", "1"]).fails(2, "--broker", "");
    let link =
        "sealcast://127.0.0.1:1?broker=seal1mvk4fqr77hzznvegawmhahrf50h8p566q5p86zvnp2apvphp3eesgru8fh";
    bench(&["--broker", link, "--broker-pid", "4294967295"]).fails(2, "4294967295", "this machine");
}
