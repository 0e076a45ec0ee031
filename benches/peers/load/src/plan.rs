//! What one run is to be, for every peer alike.

use std::time::Duration;

use clap::Args;

use crate::Peer;

#[derive(Args, Clone)]
pub struct Fanout {
    pub peer: Peer,
    /// An address, or our broker's link
    #[arg(long)]
    pub server: String,
    /// The server's process
    #[arg(long)]
    pub pid: u32,
    #[arg(long, default_value_t = 10)]
    pub subscribers: usize,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    pub size: usize,
    /// Messages handed over at a time; 0: what fits 64 KiB
    #[arg(long, default_value_t = 0)]
    pub batch: usize,
    /// Messages a second, one at a time; 0: as fast as it goes
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// KiB by which the publisher may be ahead of the slowest subscriber; 0: 2 MiB, less for many subscribers
    #[arg(long, default_value_t = 0)]
    pub ahead: usize,
    /// Seconds before the measuring
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Seconds of measuring
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Upper bound of path MTU discovery
    #[arg(long, default_value_t = 1452)]
    pub mtu: u16,
}

impl Fanout {
    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warm_up)
    }

    pub fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// Messages handed over at a time.
    pub fn batch(&self) -> usize {
        match (self.batch, self.rate) {
            (0, 0) => ((64 << 10) / (self.size + 16)).max(1),
            (0, _) => 1,
            (batch, _) => batch,
        }
    }

    /// Messages by which the publisher may be ahead of the slowest subscriber.
    pub fn ahead(&self) -> u64 {
        let bytes = match self.ahead {
            0 => ((64 << 20) / self.subscribers).clamp(256 << 10, 2 << 20),
            kib => kib << 10,
        };
        (bytes / self.size).max(2 * self.batch()) as u64
    }
}
