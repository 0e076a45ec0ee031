//! The command line: a file a subcommand; text rules in [`say`], exit codes in [`failure`].

mod confirmed;
mod demo;
mod failure;
mod input;
mod keygen;
mod keys;
mod links;
mod output;
mod prekey;
mod publish;
mod rotate;
mod say;
mod signals;
mod subscribe;
mod times;
mod topic;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sealcast_state::State;

use failure::{EXIT_CODES, Failure};

/// End-to-end encrypted publish/subscribe: the broker routes; it cannot read.
#[derive(Debug, Parser)]
#[command(name = "sealcast", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every subcommand takes.
#[derive(Debug, Args)]
struct Global {
    /// Where marks, cursors and prekeys are kept [default: ~/.local/state/sealcast or the platform's like]
    #[arg(long, global = true, value_name = "DIR", env = "SEALCAST_STATE")]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(keygen::Keygen),
    #[command(subcommand)]
    Topic(topic::Topic),
    #[command(name = "pub")]
    Publish(publish::Publish),
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    Rotate(rotate::Rotate),
    Prekey(prekey::Prekey),
    Demo(demo::Demo),
}

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout with 0, mistakes to stderr with 2: clap's own rules are ours.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        let global = self.global;
        match self.command {
            Command::Keygen(keygen) => keygen.run(),
            Command::Topic(topic) => run(topic.run(&global)),
            Command::Publish(publish) => run(publish.run(&global)),
            Command::Subscribe(subscribe) => run(subscribe.run(&global)),
            Command::Rotate(rotate) => run(rotate.run(&global)),
            Command::Prekey(prekey) => run(prekey.run(&global)),
            Command::Demo(demo) => run(demo.run()),
        }
    }
}

/// Runs a command to its end. Threads that wait for a terminal or a disk do not keep the process.
fn run(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start", &error))?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

impl Global {
    fn state(&self) -> Result<State, Failure> {
        let dir = match &self.state {
            Some(dir) => dir.clone(),
            None => default_state_dir().ok_or_else(|| {
                Failure::usage("no place for the state is known: neither XDG_STATE_HOME nor HOME is set")
                    .hint("name one with --state DIR")
            })?,
        };
        Ok(State::dir(dir)?)
    }
}

/// The XDG base directory specification's, or Windows' like.
fn default_state_dir() -> Option<PathBuf> {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = if cfg!(windows) {
        dir("LOCALAPPDATA")
    } else {
        dir("XDG_STATE_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/state")))
    };
    base.map(|base| base.join("sealcast"))
}
