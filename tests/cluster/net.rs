//! A network in which a server can be cut off: a namespace for each, a cable from it to a bridge, and the bridge in a namespace
//! in which the test runs itself again. Needs root.

use std::process::{Command, Output};

use crate::runner::skip;
use crate::servers::Place;

/// Servers, a count.
const SERVERS: usize = 3;
/// Tells the test, run again, that it stands where the bridge is; its value is the namespaces' tag.
const WITHIN: &str = "SEALCAST_TEST_NET";

/// Such a network. Whoever laid it takes it away when it is dropped.
pub(crate) struct Net {
    tag: String,
    ours: bool,
}

impl Net {
    /// The network this process runs in; `None`: the test `name` was run there and passed. Where the machine has none to
    /// give, the test is reported as ignored.
    pub(crate) fn enter(name: &str) -> Option<Self> {
        if let Ok(tag) = std::env::var(WITHIN) {
            return Some(Self { tag, ours: false });
        }
        let net = match Self::lay() {
            Ok(net) => net,
            Err(why) => skip(&format!("no network namespaces here: {why}")),
        };
        let program = std::env::current_exe().expect("its own program");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.tag]).arg(program).args([name, "--exact"]);
        let status = command.env(WITHIN, &net.tag).status().expect("it was there before");
        assert!(status.success(), "{status}");
        None
    }

    fn lay() -> Result<Self, String> {
        let tag = format!("seal{}", std::process::id());
        ip(&format!("netns add {tag}"))?;
        let net = Self { tag, ours: true };
        let hub = &net.tag;
        ip(&format!("-n {hub} link set lo up"))?;
        ip(&format!("-n {hub} link add hub type bridge"))?;
        ip(&format!("-n {hub} addr add 10.215.0.100/24 dev hub"))?;
        ip(&format!("-n {hub} link set hub up"))?;
        for n in 0..SERVERS {
            let its = net.namespace(n);
            ip(&format!("netns add {its}"))?;
            ip(&format!("-n {hub} link add cable{n} type veth peer name cable netns {its}"))?;
            ip(&format!("-n {its} addr add {}/24 dev cable", address(n)))?;
            ip(&format!("-n {its} link set lo up"))?;
            ip(&format!("-n {its} link set cable up"))?;
            ip(&format!("-n {hub} link set cable{n} up"))?;
        }
        let net = net;
        (0..SERVERS).try_for_each(|n| net.join(n)).map(|()| net)
    }

    /// Where the servers are to run.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |n| Place { address: address(n), namespace: Some(self.namespace(n)) };
        (0..SERVERS).map(place).collect()
    }

    /// Takes a server off the bridge: its packets go nowhere, and nobody is told.
    pub(crate) fn cut(&self, n: usize) {
        ip(&format!("-n {} link set cable{n} nomaster", self.tag)).unwrap();
    }

    /// Puts it on the bridge.
    pub(crate) fn join(&self, n: usize) -> Result<(), String> {
        ip(&format!("-n {} link set cable{n} master hub", self.tag))
    }

    /// Cuts a server off from the other servers, and from nobody else.
    pub(crate) fn part(&self, n: usize) {
        self.peers(n, "add");
    }

    /// Undoes it.
    pub(crate) fn unite(&self, n: usize) {
        self.peers(n, "del");
    }

    fn peers(&self, n: usize, what: &str) {
        for other in (0..SERVERS).filter(|other| *other != n) {
            ip(&format!("-n {} route {what} blackhole {}/32", self.namespace(n), address(other))).unwrap();
        }
    }

    fn namespace(&self, n: usize) -> String {
        format!("{}s{n}", self.tag)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.ours {
            for name in (0..SERVERS).map(|n| self.namespace(n)).chain([self.tag.clone()]) {
                let _ = ip(&format!("netns del {name}"));
            }
        }
    }
}

fn address(n: usize) -> String {
    format!("10.215.0.{}", n + 1)
}

fn ip(args: &str) -> Result<(), String> {
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match Command::new("ip").args(args.split(' ')).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("ip {args}: {}", said(output))),
        Err(error) => Err(format!("ip: {error}")),
    }
}
