//! A broker for one command's own use: this very program, as a process that can be killed and measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sealcast_proto::BrokerLink;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::failure::{Exit, Failure};

/// How long a broker may take to listen.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running broker.
#[derive(Debug)]
pub(crate) struct OwnBroker {
    child: Child,
    settings: &'static [&'static str],
    link: BrokerLink,
    data: PathBuf,
    log: PathBuf,
}

impl OwnBroker {
    /// Starts `sealcast broker` with these settings on loopback, on a port of the system's choice; its data lie in `dir`.
    pub(crate) async fn start(dir: &Path, settings: &'static [&'static str]) -> Result<Self, Failure> {
        let (data, log) = (dir.join("broker"), dir.join("broker.log"));
        let (child, link) = spawn("127.0.0.1:0", &data, &log, settings).await?;
        Ok(Self { child, settings, link, data, log })
    }

    /// `kill -9`, as a power cut would have it.
    pub(crate) async fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| Failure::io("kill the broker", &error))
    }

    /// Starts it again on the same port and data.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        let port = self.link.hosts().first().map_or(0, |(_, port)| *port);
        let (child, link) = spawn(&format!("127.0.0.1:{port}"), &self.data, &self.log, self.settings).await?;
        if link != self.link {
            return Err(Failure::new(Exit::Failure, "the broker came back with another key"));
        }
        self.child = child;
        Ok(())
    }

    pub(crate) fn link(&self) -> &BrokerLink {
        &self.link
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }
}

async fn spawn(
    listen: &str,
    data: &Path,
    log: &Path,
    settings: &[&str],
) -> Result<(Child, BrokerLink), Failure> {
    let starting = |error| Failure::io("start the broker", &error);
    let program = std::env::current_exe().map_err(starting)?;
    let stderr = std::fs::File::options().append(true).create(true).open(log).map_err(starting)?;
    let mut command = Command::new(program);
    command.arg("broker").args(["--listen", listen]).arg("--data").arg(data).args(settings);
    // The caller's settings are for the caller's broker.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SEALCAST_")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
    let mut child = command.spawn().map_err(starting)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        let mut stdout = BufReader::new(stdout);
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        read.map_err(|_| Failure::new(Exit::Failure, "the broker did not start in time"))?
            .map_err(starting)?;
    }
    match line.parse() {
        Ok(link) => Ok((child, link)),
        Err(_) => {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            let last = said.lines().rfind(|line| line.starts_with("error: ")).unwrap_or("no word from it");
            Err(Failure::new(Exit::Failure, format!("the broker did not start: {last}")))
        }
    }
}
