//! `sealcast broker`: the broker of `sealcast-broker`, for one's own machine.

use clap::{Args, Subcommand};
use sealcast_broker::archive::{ArchiveError, Export, Import};

use super::failure::Failure;
use super::say::say;

/// Run a broker: it stores and forwards what it cannot read, and prints its link
///
/// On a host that nobody should have to trust, install `sealcast-broker` alone: it links nothing that opens an envelope.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Broker {
    #[command(subcommand)]
    job: Option<Job>,
    #[command(flatten)]
    args: sealcast_broker::cli::Args,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Check the settings, and print those in force and where each comes from
    Check(sealcast_broker::cli::Args),
    Export(Export),
    Import(Import),
}

impl Broker {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        match self.job {
            Some(Job::Check(args)) => Ok(sealcast_broker::cli::check(&args)?),
            Some(Job::Export(export)) => said(export.run()),
            Some(Job::Import(import)) => said(import.run()),
            None => Ok(sealcast_broker::cli::run(self.args).await?),
        }
    }
}

fn said(done: Result<String, ArchiveError>) -> Result<(), Failure> {
    say!("{}", done?);
    Ok(())
}
