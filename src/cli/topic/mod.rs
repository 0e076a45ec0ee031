//! `sealcast topic …`: a topic and who may read and publish there.

mod create;
mod members;
mod show;

use clap::Subcommand;

use super::Global;
use super::failure::Failure;

pub(crate) use create::Level;

/// Create a topic, change who may read and publish there, or show it
#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    Create(create::Create),
    Add(members::Add),
    Remove(members::Remove),
    Show(show::Show),
}

impl Topic {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(global).await,
            Self::Add(add) => add.run(global).await,
            Self::Remove(remove) => remove.run(global).await,
            Self::Show(show) => show.run().await,
        }
    }
}
