//! `sealcast-broker`: the broker alone, for machines that need nothing else.

use std::process::ExitCode;

use clap::Parser;
use sealcast_broker::cli;

/// Stores and forwards what it cannot read
#[derive(Parser)]
#[command(name = "sealcast-broker", version)]
struct Command {
    #[command(flatten)]
    args: cli::Args,
}

fn main() -> ExitCode {
    let command = Command::parse();
    cli::init_logging();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(command.args)) {
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
