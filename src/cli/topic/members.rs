//! `sealcast topic add` and `remove`.

use std::sync::Arc;

use clap::{Args, ValueEnum};
use sealcast_proto::roster::Role;
use sealcast_publisher::TopicAdmin;

use crate::cli::Global;
use crate::cli::confirmed::{ConfirmArg, all_heard, say_confirmed, say_unheard};
use crate::cli::failure::Failure;
use crate::cli::keys::{IdentityArg, MembersArg};
use crate::cli::left_over::say_left_over;
use crate::cli::links::TopicArg;
use crate::cli::say::{count, say};

/// Add members, or give members another role
///
/// A new member reads what is sealed from now on, nothing from before. A member that is one already gets the role.
#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    #[command(flatten)]
    members: MembersArg,
    /// What they may do
    #[arg(long, value_name = "ROLE", default_value = "reader", env = "SEALCAST_ROLE")]
    role: Wanted,
    #[command(flatten)]
    confirm: ConfirmArg,
}

/// Remove members: nothing sealed from now on opens with their keys
///
/// Returns when no live publisher seals for them any more. Exit code 6: the removal stands, but some publisher was not
/// heard from in time; it is named.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    #[command(flatten)]
    members: MembersArg,
    #[command(flatten)]
    confirm: ConfirmArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    /// Reads
    Reader,
    /// Reads and publishes
    Publisher,
    /// Reads, publishes and changes the roster
    Admin,
}

impl Add {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let (link, members) = (self.topic.read()?, self.members.read_some()?);
        let identity = Arc::new(self.identity.read()?);
        let role = match self.role {
            Wanted::Reader => Role::Reader,
            Wanted::Publisher => Role::Publisher,
            Wanted::Admin => Role::Admin,
        };
        let mut admin = TopicAdmin::open(&link, identity, &global.state()?).await?;
        say_left_over(&admin)?;
        let before = admin.roster().chain().seq();
        let confirmation = admin.add(&members, role, self.confirm.confirm).await?;
        admin.close().await;
        if confirmation.seq == before {
            say!("nothing to do: roster entry {before} has them all as {role}");
            return Ok(());
        }
        say!("added {}, roster entry {}", count(members.len() as u64, &role.to_string()), confirmation.seq);
        say_confirmed(&confirmation);
        say_unheard(&confirmation);
        Ok(())
    }
}

impl Remove {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let (link, members) = (self.topic.read()?, self.members.read_some()?);
        let identity = Arc::new(self.identity.read()?);
        let mut admin = TopicAdmin::open(&link, identity, &global.state()?).await?;
        say_left_over(&admin)?;
        let confirmation = admin.remove(&members, self.confirm.confirm).await?;
        admin.close().await;
        say!("removed {}, roster entry {}", count(members.len() as u64, "member"), confirmation.seq);
        say_confirmed(&confirmation);
        all_heard(&confirmation, self.confirm.confirm)
    }
}
