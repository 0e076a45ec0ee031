//! The broker's command line, shared by `sealcast-broker` and `sealcast broker`.
//!
//! stdout carries the link and nothing else; what happens is logged on stderr.

use std::net::SocketAddr;
use std::path::PathBuf;

use sealcast_proto::PublicKey;
use sealcast_proto::limits::DEFAULT_PORT;
use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Broker;
use crate::config::{Config, StartError};
use crate::limits::Limits;

/// How to start a broker.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to listen, UDP
    #[arg(long, env = "SEALCAST_LISTEN", value_name = "ADDR:PORT", default_value_t = default_listen())]
    pub listen: SocketAddr,
    /// The host and port that the link names [default: where it listens]
    #[arg(long, env = "SEALCAST_ADVERTISE", value_name = "HOST:PORT", value_parser = parse_host)]
    pub advertise: Option<Host>,
    /// Where to keep what is published, and the broker's key [default: the platform's data directory]
    #[arg(long, env = "SEALCAST_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Who may create topics; without it anyone may, which is allowed on loopback only
    #[arg(long, env = "SEALCAST_OWNERS", value_name = "KEY", value_delimiter = ',', num_args = 1..)]
    pub owners: Vec<PublicKey>,
    /// Where to show health, metrics and topics, TCP; without a value 127.0.0.1:7444 [default: nowhere]
    #[arg(long, env = "SEALCAST_BROKER_OPS", value_name = "ADDR:PORT", num_args = 0..=1, default_missing_value = DEFAULT_OPS)]
    pub ops: Option<SocketAddr>,
    /// Let --ops be another address than loopback
    #[arg(long, env = "SEALCAST_BROKER_OPS_PUBLIC")]
    pub ops_public: bool,
    /// Name topics in metrics
    #[arg(long, env = "SEALCAST_BROKER_TOPIC_LABELS")]
    pub topic_labels: bool,
    /// Write the link to a file too, once the broker listens
    #[arg(long, env = "SEALCAST_LINK_FILE", value_name = "FILE")]
    pub link_file: Option<PathBuf>,
}

/// Where `--ops` alone listens.
const DEFAULT_OPS: &str = "127.0.0.1:7444";

/// A host and a port as given on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// A name or an address; IPv6 without brackets.
    pub name: String,
    /// The UDP port.
    pub port: u16,
}

impl Args {
    /// The configuration these arguments ask for.
    pub fn config(self) -> Config {
        Config {
            listen: self.listen,
            data: self.data.unwrap_or_else(default_data),
            owners: self.owners,
            advertise: self.advertise.map(|host| (host.name, host.port)),
            link_file: self.link_file,
            ops: self.ops,
            ops_public: self.ops_public,
            topic_labels: self.topic_labels,
            limits: Limits::default(),
        }
    }
}

/// Runs a broker until SIGINT or SIGTERM, then drains it. Prints its link on stdout once it listens.
pub async fn run(args: Args) -> Result<(), StartError> {
    // First: a signal that comes while it starts is not lost.
    let told_to_stop = told_to_stop();
    let broker = Broker::start(args.config()).await?;
    {
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        // Whoever closed stdout does not want the link.
        let _ = writeln!(stdout, "{}", broker.link()).and_then(|()| stdout.flush());
    }
    broker.run_until(told_to_stop).await;
    Ok(())
}

/// Logs to stderr, at `info` unless `SEALCAST_LOG` says otherwise (as `RUST_LOG` does elsewhere): for people on a terminal,
/// else an object a line. Does nothing if the program logs already.
pub fn init_logging() {
    use std::io::IsTerminal as _;
    use tracing_subscriber::EnvFilter;
    // The storage engine names a damaged place at every read; the broker itself says it once.
    let engine = "fjall=warn,lsm_tree=warn,lsm_tree::vlog::blob_file::reader=off,lsm_tree::table::block=off";
    let filter =
        EnvFilter::try_from_env("SEALCAST_LOG").unwrap_or_else(|_| EnvFilter::new(format!("info,{engine}")));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Fails where logging is set up already: then so be it.
    let _ = if std::io::stderr().is_terminal() { log.try_init() } else { log.json().try_init() };
}

/// Completes at SIGINT or SIGTERM, from the moment of the call on.
fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (mut interrupt, mut terminate) = match signals {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals: only a kill will stop this broker");
                return std::future::pending().await;
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("told to stop");
    }
}

fn default_listen() -> SocketAddr {
    SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, DEFAULT_PORT))
}

/// `$XDG_DATA_HOME/sealcast/broker`, by default `~/.local/share/sealcast/broker`.
fn default_data() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    base.unwrap_or_default().join("sealcast").join("broker")
}

fn parse_host(text: &str) -> Result<Host, String> {
    let bad = || format!("{text:?} is not HOST:PORT");
    let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?;
    let name = match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(bad)?,
        None if name.contains(':') => return Err(bad()),
        None => name,
    };
    if name.is_empty()
        || !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'))
    {
        return Err(bad());
    }
    Ok(Host { name: name.into(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_links_write_them() {
        let host = |name: &str, port| Host { name: name.into(), port };
        assert_eq!(parse_host("broker.example:7443").unwrap(), host("broker.example", 7443));
        assert_eq!(parse_host("[::1]:9").unwrap(), host("::1", 9));
        for bad in ["broker.example", "::1:9", ":9", "a:0", "a:x", "[::1:9", "a b:9"] {
            assert!(parse_host(bad).is_err(), "{bad}");
        }
    }
}
