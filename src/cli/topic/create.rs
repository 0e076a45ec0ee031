//! `sealcast topic create`.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sealcast_proto::limits::MAX_TOPIC_NAME;
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::Role;
use sealcast_publisher::TopicAdmin;

use crate::cli::Global;
use crate::cli::failure::Failure;
use crate::cli::keys::{IdentityArg, MembersArg, public_keys};
use crate::cli::links::BrokerArg;
use crate::cli::output::to_stdout;
use crate::cli::say::{count, say};
use crate::cli::times;

/// Create a topic owned by the identity and print its link
///
/// The link is enough to subscribe with a member's private key. The owner is an admin: it may publish too.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The topic's name, for people
    #[arg(value_name = "NAME", env = "SEALCAST_NAME")]
    name: String,
    #[command(flatten)]
    broker: BrokerArg,
    #[command(flatten)]
    identity: IdentityArg,
    #[command(flatten)]
    readers: MembersArg,
    /// Public keys of those who may publish too
    #[arg(short = 'p', long = "publisher", value_name = "KEY", num_args = 1.., env = "SEALCAST_PUBLISHERS")]
    publishers: Vec<String>,
    /// How long messages are kept; 0: for ever
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = times::duration, env = "SEALCAST_RETAIN")]
    retain: Duration,
    /// When a message counts as published
    #[arg(long, value_name = "LEVEL", default_value = "durable", env = "SEALCAST_DURABILITY")]
    durability: Level,
}

/// When a message counts as published.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    /// Once it is on the broker's disk
    Durable,
    /// Once the broker holds it in memory: faster; a crash of the broker is then a named gap
    Memory,
}

impl From<Level> for Durability {
    fn from(level: Level) -> Self {
        match level {
            Level::Durable => Self::Durable,
            Level::Memory => Self::Memory,
        }
    }
}

impl Create {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        if self.name.is_empty() || self.name.len() > MAX_TOPIC_NAME {
            return Err(Failure::usage(format!("a topic's name is 1 to {MAX_TOPIC_NAME} bytes long"))
                .hint("a short name for people; the topic's link is what names it"));
        }
        let broker = self.broker.read()?;
        let publishers = public_keys(&self.publishers)?;
        let readers = self.readers.read()?;
        let readers =
            readers.into_iter().filter(|key| !publishers.contains(key)).map(|key| (key, Role::Reader));
        let mut members: Vec<_> = publishers.iter().map(|key| (*key, Role::Publisher)).collect();
        members.extend(readers);
        members.sort_unstable();
        members.dedup_by_key(|(key, _)| *key);
        let policy = Policy {
            retain_ms: times::millis(self.retain),
            durability: self.durability.into(),
            ..Policy::default()
        };
        let identity = Arc::new(self.identity.read()?);
        let admin =
            TopicAdmin::create(&broker, &self.name, identity, &global.state()?, policy, &members).await?;
        let members = admin.roster().members().len() as u64;
        say!("created the topic {:?} with {}", self.name, count(members, "member"));
        let printed = to_stdout(format!("{}\n", admin.link()).as_bytes());
        if printed.is_err() {
            // It exists now; its link must not be lost with a full disk.
            say!("its link is {}", admin.link());
        }
        admin.close().await;
        printed
    }
}
