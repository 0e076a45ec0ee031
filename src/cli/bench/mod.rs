//! `sealcast bench`: what a machine carries, end to end.

mod check;
mod load;
mod process;
mod progress;
mod report;
mod stage;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use sealcast_proto::{BrokerLink, limits};

use super::failure::{Exit, Failure};
use super::keys::IdentityArg;
use super::output::to_stdout;
use super::signals::Stop;
use super::times;
use super::topic::Level;
use check::MIN_SIZE;
use load::Plan;
use progress::Progress;
use report::Report;
use stage::Stage;

/// All that a topic takes, and the owner is one of them.
const MAX_PUBLISHERS: usize = limits::MAX_ROLES - 1;

/// Measure what a machine carries: publishers, a broker, subscribers; every message checked
///
/// Starts a broker as a process of its own, with a store that is removed afterwards, a topic, and publishers and
/// subscribers in this process; or loads a broker that runs already (--broker). Everything is as in earnest: messages are
/// sealed, signed, sent, stored, fanned out, verified and opened. Each message that a subscriber gets is compared with
/// what was published; one that is missing, repeated or out of order makes the run fail.
///
/// Without --rate it publishes as fast as the slowest subscriber takes it: throughput is then what the machine carries,
/// and latency is the time in queues. To learn latencies, give the --rate that you expect. They count from when a message
/// was due, so that a publisher that is held up cannot hide it.
///
/// To size a machine: begin with your own --size, --subscribers and --rate, look at the CPU of the broker per million
/// deliveries, and multiply. Publishers and subscribers take most of the CPU here; in earnest they run elsewhere.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Publishers, each with an identity and a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1, env = "SEALCAST_BENCH_PUBLISHERS")]
    publishers: usize,
    /// Subscribers, each with an identity and a connection of its own
    #[arg(long, value_name = "N", default_value_t = 10, env = "SEALCAST_BENCH_SUBSCRIBERS")]
    subscribers: usize,
    /// Bytes of each message
    #[arg(long, value_name = "BYTES", default_value_t = 100, env = "SEALCAST_BENCH_SIZE")]
    size: usize,
    /// Messages a second, of all publishers together [default: as fast as it goes]
    #[arg(long, value_name = "N", env = "SEALCAST_BENCH_RATE")]
    rate: Option<u32>,
    /// Members of the topic; those beyond the ones that take part are never there, but each key is wrapped for them
    /// [default: those that take part]
    #[arg(long, value_name = "N", env = "SEALCAST_BENCH_MEMBERS")]
    members: Option<usize>,
    /// When a message counts as published, and may be delivered
    #[arg(long, value_name = "LEVEL", default_value = "durable", env = "SEALCAST_DURABILITY")]
    durability: Level,
    /// How long to publish
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = times::duration, env = "SEALCAST_BENCH_DURATION")]
    duration: Duration,
    /// Put the broker's store in this directory, to measure the disk it is on [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", conflicts_with = "broker", env = "SEALCAST_BENCH_DIR")]
    dir: Option<PathBuf>,
    /// Load this broker instead. It keeps a topic of the bench's, emptied after ten minutes
    #[arg(long, value_name = "LINK", env = "SEALCAST_BROKER")]
    broker: Option<String>,
    /// The process of that broker, if it runs on this machine: its CPU and memory are then shown
    #[arg(long, value_name = "PID", requires = "broker", env = "SEALCAST_BENCH_BROKER_PID")]
    broker_pid: Option<u32>,
    #[command(flatten)]
    owner: IdentityArg,
    /// Print one JSON object instead of the table
    #[arg(long, env = "SEALCAST_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Bench {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let plan = self.plan()?;
        let broker = self.broker.as_deref().map(str::parse::<BrokerLink>).transpose()?;
        let owner = self.owner.read_if_given()?;
        if let Some(pid) = self.broker_pid
            && process::Usage::of(pid).is_none()
        {
            return Err(Failure::usage(format!("nothing can be learned about the process {pid}"))
                .hint("--broker-pid is for a broker on this machine, and for Linux"));
        }
        let mut stop = Stop::listen();
        let progress = Progress::new();
        let measured = async {
            let dir = self.dir.as_deref();
            let mut stage = Stage::set(&plan, broker, self.broker_pid, owner, dir, &progress).await?;
            let report = load::measure(&plan, &mut stage, &progress).await;
            stage.strike().await;
            report
        };
        let report: Report = tokio::select! {
            report = measured => report?,
            () = stop.asked() => return Err(Failure::new(Exit::Failure, "interrupted before the end")),
        };
        progress.clear();
        to_stdout(if self.json { report.json() } else { report.table() }.as_bytes())
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let none = |what| Failure::usage(format!("without {what} there is nothing to measure"));
        if !(1..=MAX_PUBLISHERS).contains(&self.publishers) {
            return Err(Failure::usage(format!("a topic cannot have {} publishers here", self.publishers))
                .hint(format!("--publishers takes 1 to {MAX_PUBLISHERS}")));
        }
        if self.subscribers == 0 {
            return Err(none("subscribers").hint("--subscribers takes 1 or more"));
        }
        if self.size < MIN_SIZE || self.size > limits::MAX_MESSAGE / 2 {
            return Err(Failure::usage(format!("messages of {} bytes cannot be checked", self.size))
                .hint(format!("--size takes {MIN_SIZE} to {}", limits::MAX_MESSAGE / 2)));
        }
        if self.rate == Some(0) {
            return Err(none("messages").hint("leave out --rate to publish as fast as it goes"));
        }
        // The topic's owner is one more, and sends nothing.
        let taking_part = self.publishers + self.subscribers + 1;
        let members = self.members.unwrap_or(taking_part);
        if members < taking_part || members > limits::MAX_SLOTS as usize {
            return Err(Failure::usage(format!(
                "{taking_part} members take part, and --members is {members}"
            ))
            .hint(format!("--members takes {taking_part} to {}: the owner is one too", limits::MAX_SLOTS)));
        }
        Ok(Plan {
            publishers: self.publishers,
            subscribers: self.subscribers,
            size: self.size,
            rate: self.rate,
            members,
            durability: self.durability.into(),
            duration: self.duration,
        })
    }
}
