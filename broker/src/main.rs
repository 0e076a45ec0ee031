//! `sealcast-broker`: the broker alone, for machines that need nothing else.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sealcast_broker::archive::{ArchiveError, Export, Import};
use sealcast_broker::{StartError, cli};

/// Stores and forwards what it cannot read
#[derive(Parser)]
#[command(name = "sealcast-broker", version, args_conflicts_with_subcommands = true)]
struct Command {
    #[command(subcommand)]
    job: Option<Job>,
    #[command(flatten)]
    args: cli::Args,
}

#[derive(Subcommand)]
enum Job {
    /// Check the settings, and print those in force and where each comes from
    Check(cli::Args),
    Export(Export),
    Import(Import),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let result = match command.job {
        Some(Job::Check(args)) => cli::check(&args),
        Some(Job::Export(export)) => return archived(export.run()),
        Some(Job::Import(import)) => return archived(import.run()),
        None => run(command.args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(args: cli::Args) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StartError::Runtime { error: std::sync::Arc::new(error) })?;
    runtime.block_on(cli::run(args))
}

fn archived(done: Result<String, ArchiveError>) -> ExitCode {
    match done {
        Ok(said) => {
            eprintln!("sealcast-broker: {said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}
