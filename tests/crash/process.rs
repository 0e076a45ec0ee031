use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rand::RngExt as _;
use sealcast::BrokerLink;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// Long enough for any machine: what takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A broker process, on one port and one directory however often it is started.
pub(crate) struct Process {
    child: Option<Child>,
    stdout: Option<BufReader<ChildStdout>>,
    link: Option<BrokerLink>,
    port: u16,
    dir: PathBuf,
}

impl Process {
    pub(crate) fn new(dir: &Path) -> Self {
        // Not one that the system gives out by itself: a client would be given it some day while the broker is dead.
        let is_free = |port: &u16| UdpSocket::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
        let mut ports = (0..100).map(|_| rand::rng().random_range(16_384..32_768));
        let port = ports.find(is_free).expect("a port");
        Self { child: None, stdout: None, link: None, port, dir: dir.into() }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Starts it; does not wait for anything.
    pub(crate) fn start(&mut self) {
        // What it said is for whoever looks into a failure.
        let log = File::options().create(true).append(true).open(self.dir.join("broker.log")).expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast"));
        command.args(["broker", "--listen", &format!("127.0.0.1:{}", self.port), "--data"]);
        // So often that many kills meet it.
        command.arg(self.data()).args(["--retention-every", "50ms"]).env_clear().kill_on_drop(true);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary runs");
        self.stdout = child.stdout.take().map(BufReader::new);
        self.child = Some(child);
    }

    /// Waits until it listens: then it says where.
    pub(crate) async fn listening(&mut self) {
        let Some(mut stdout) = self.stdout.take() else { return };
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        if !matches!(read, Ok(Ok(1..))) {
            panic!("the broker did not start:\n{}", self.said());
        }
        let link = line.trim().parse().expect("a link");
        assert_eq!(*self.link.get_or_insert(link), line.trim().parse().expect("a link"));
    }

    pub(crate) fn link(&self) -> BrokerLink {
        self.link.clone().expect("it listened")
    }

    /// SIGKILL, and its end.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        if let Some(ended) = child.try_wait().expect("ours") {
            panic!("the broker ended by itself, {ended}:\n{}", self.said());
        }
        child.kill().await.expect("ours to kill");
    }

    /// SIGTERM, and its orderly end.
    pub(crate) async fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let id = child.id().expect("it runs");
        let told = Command::new("sh").args(["-c", &format!("kill -TERM {id}")]).status().await;
        assert!(told.expect("a shell").success());
        let ended = timeout(PATIENCE, child.wait()).await.expect("it drains").expect("its end");
        assert!(ended.success(), "{ended}:\n{}", self.said());
    }

    /// The end of what it said.
    pub(crate) fn said(&self) -> String {
        let log = std::fs::read_to_string(self.dir.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
