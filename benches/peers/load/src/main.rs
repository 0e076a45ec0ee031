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
mod plan;
mod process;
mod tcp;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use plan::Fanout;

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
