//! The house's "may never" arrows (docs/architecture.md), as facts of the build.

use std::collections::BTreeSet;
use std::process::Command;

/// Crates that a package's library and binaries link (not those that only its build script uses).
fn links(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names are text");
    let names: BTreeSet<String> =
        text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(names.contains(package), "{package} lists itself: the command still means what it meant");
    names
}

fn never(package: &str, forbidden: &[&str]) {
    let links = links(package);
    let found: Vec<_> = forbidden.iter().filter(|name| links.contains(**name)).collect();
    assert!(found.is_empty(), "{package} may never link {found:?}");
}

#[test]
fn the_broker_links_nothing_that_opens_an_envelope() {
    let forbidden = ["sealcast-envelope", "sealcast-state", "aes-gcm-siv", "x25519-dalek", "hkdf"];
    never("sealcast-broker", &forbidden);
    // The words above are what the envelope does link: a renamed crate would make the test blind.
    let envelope = links("sealcast-envelope");
    assert!(
        ["aes-gcm-siv", "x25519-dalek", "hkdf"].iter().all(|name| envelope.contains(*name)),
        "{envelope:?}"
    );
}

#[test]
fn the_pure_crates_link_no_runtime_no_socket_and_no_generator() {
    for package in ["sealcast-proto", "sealcast-envelope"] {
        never(package, &["tokio", "quinn", "rustls", "rand", "getrandom", "sealcast-link", "sealcast-state"]);
    }
}

#[test]
fn publisher_and_subscriber_know_neither_each_other_nor_the_broker() {
    never("sealcast-publisher", &["sealcast-subscriber", "sealcast-broker"]);
    never("sealcast-subscriber", &["sealcast-publisher", "sealcast-broker"]);
}

#[test]
fn only_the_link_sets_up_connections() {
    for package in ["sealcast-proto", "sealcast-envelope", "sealcast-state"] {
        never(package, &["quinn", "quinn-proto"]);
    }
    for manifest in ["publisher", "subscriber", "broker"] {
        let path = format!("{}/{manifest}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("the manifest is there");
        assert!(!text.lines().any(|line| line.starts_with("quinn")), "{manifest} names quinn itself");
    }
}
