//! Loads a server and prints what it did in one JSON object: deliveries, the server's CPU time and memory, latencies.
//!
//! One thread, so that it can be pinned beside a server that is pinned too. Each peer is spoken to as plainly as its
//! protocol allows: the subscribers decrypt TLS or QUIC, find each message's boundaries and check its number, and do
//! nothing else. Publishers wait for the slowest subscriber, so that no peer may drop anything or pile it up.

mod bare;
mod certs;
mod durable;
mod load;
mod ours;
mod process;
mod tcp;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a key and a self-signed certificate for 127.0.0.1
    Certs { dir: PathBuf },
    /// The limit: a QUIC server that passes on what it gets, nothing else
    BareServer {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long, default_value_t = 1452)]
        mtu: u16,
    },
    /// One publisher, many subscribers
    Fanout(Fanout),
    /// Messages acknowledged a second by a server that syncs them to disk
    Durable(durable::Durable),
}

/// Whom to load.
#[derive(Clone, Copy, ValueEnum, PartialEq, Eq)]
pub enum Peer {
    Ours,
    Bare,
    Nats,
    Mqtt,
}

#[derive(Args, Clone)]
pub struct Fanout {
    peer: Peer,
    /// An address, or our broker's link
    #[arg(long)]
    server: String,
    /// The server's process
    #[arg(long)]
    pid: u32,
    #[arg(long, default_value_t = 10)]
    subscribers: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    size: usize,
    /// Messages handed over at a time; 0: what fits 64 KiB
    #[arg(long, default_value_t = 0)]
    batch: usize,
    /// Messages a second, one at a time; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// KiB by which the publisher may be ahead of the slowest subscriber; 0: 2 MiB, less for many subscribers
    #[arg(long, default_value_t = 0)]
    ahead: usize,
    /// Seconds before the measuring
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of measuring
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Upper bound of path MTU discovery
    #[arg(long, default_value_t = 1452)]
    mtu: u16,
}

impl Fanout {
    fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Messages handed over at a time.
    fn batch(&self) -> usize {
        match (self.batch, self.rate) {
            (0, 0) => ((64 << 10) / (self.size + 16)).max(1),
            (0, _) => 1,
            (batch, _) => batch,
        }
    }

    /// Messages by which the publisher may be ahead of the slowest subscriber.
    fn ahead(&self) -> u64 {
        let bytes = match self.ahead {
            0 => ((64 << 20) / self.subscribers).clamp(256 << 10, 2 << 20),
            kib => kib << 10,
        };
        (bytes / self.size).max(2 * self.batch()) as u64
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Certs { dir } => certs::write(&dir),
        Command::BareServer { listen, mtu } => bare::serve(listen, mtu).await,
        Command::Fanout(plan) => {
            let result = match plan.peer {
                Peer::Ours => ours::fanout(&plan).await?,
                Peer::Bare => bare::fanout(&plan).await?,
                Peer::Nats | Peer::Mqtt => tcp::fanout(&plan).await?,
            };
            println!("{result}");
            Ok(())
        }
        Command::Durable(durable) => {
            println!("{}", durable.run().await?);
            Ok(())
        }
    }
}
