//! Two network namespaces and a cable between them: the cable is pulled, the address changes. Needs root.

use std::net::Ipv4Addr;
use std::process::{Command, Output};

use crate::parties::{Party, lines};
use crate::program::World;

const LINES: usize = 4_000;

/// A namespace for the broker, one for the clients, a cable between them. Removed when dropped.
struct Cable {
    broker: String,
    clients: String,
}

const BROKER: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);

impl Cable {
    /// `Err`: why this machine has none to give.
    fn lay() -> Result<Self, String> {
        let tag = format!("seal{}", std::process::id());
        let cable = Self { broker: format!("{tag}b"), clients: format!("{tag}c") };
        let (b, c) = (&cable.broker, &cable.clients);
        ip(&format!("netns add {b}"))?;
        ip(&format!("netns add {c}"))?;
        ip(&format!("-n {b} link add cable type veth peer name cable netns {c}"))?;
        ip(&format!("-n {b} addr add {BROKER}/24 dev cable"))?;
        ip(&format!("-n {c} addr add 10.214.0.2/24 dev cable"))?;
        ip(&format!("-n {b} link set cable up"))?;
        ip(&format!("-n {c} link set cable up"))?;
        Ok(cable)
    }

    /// Does something at the clients' end.
    fn clients(&self, what: &str) {
        ip(&format!("-n {} {what}", self.clients)).unwrap();
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.broker, &self.clients] {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

fn ip(args: &str) -> Result<(), String> {
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match Command::new("ip").args(args.split(' ')).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {args}: {}", said(output))),
        Err(error) => Err(format!("ip: {error}")),
    }
}

/// The binary in a namespace.
fn within(world: &World, namespace: &str, args: &[&str]) -> Command {
    let program = world.command(args);
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program.get_program()).args(program.get_args());
    command
        .current_dir(world.path(""))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command
}

#[test]
fn a_pulled_cable_and_another_address_lose_and_repeat_nothing() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => return eprintln!("skipped: no network namespaces here: {why}"),
    };
    let world = World::new();
    let (owner, owner_key) = world.identity("owner");
    let (reader, reader_key) = world.identity("reader");
    let (owner, reader) = (owner.to_str().unwrap(), reader.to_str().unwrap());
    let (owner_state, reader_state) = (world.path("owner.state"), world.path("reader.state"));
    let (owner_state, reader_state) = (owner_state.to_str().unwrap(), reader_state.to_str().unwrap());
    let data = world.path("data");
    let listen = format!("{BROKER}:7443");
    let args = ["broker", "--listen", &listen, "--data", data.to_str().unwrap(), "--owners", &owner_key];
    let mut broker = Party::start(within(&world, &cable.broker, &args));
    let link = broker.wrote_line();
    let client = |args: &[&str]| Party::start(within(&world, &cable.clients, args));

    let create = ["topic", "create", "feed", "--broker", &link, "-i", owner, "--state", owner_state];
    let created = client(&[&create[..], &["-r", &reader_key]].concat()).ok();
    let link = String::from_utf8(created).unwrap().trim().to_owned();
    let count = LINES.to_string();
    let mut sub = client(&["sub", &link, "-n", &count, "-i", reader, "--state", reader_state]);
    sub.says("subscribed at offset");
    let mut publisher = client(&["pub", &link, "--lines", "-i", owner, "--state", owner_state]);
    let part = LINES / 4;
    let mut send = |n: usize| publisher.write(&lines(n * part..(n + 1) * part));

    send(0);
    sub.wrote_lines(part);
    cable.clients("link set cable down");
    send(1);
    cable.clients("link set cable up");
    sub.wrote_lines(2 * part);
    send(2);
    cable.clients("addr del 10.214.0.2/24 dev cable");
    cable.clients("addr add 10.214.0.3/24 dev cable");
    send(3);
    publisher.close_stdin();
    publisher.ok();
    assert!(sub.ok() == lines(0..LINES));
}
