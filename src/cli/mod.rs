//! The command line: a file a subcommand; text rules in [`say`], exit codes in [`failure`].

mod bench;
mod broker;
mod confirmed;
mod demo;
mod failure;
mod input;
mod inspect;
mod keygen;
mod keys;
mod left_over;
mod links;
mod output;
mod own_broker;
mod prekey;
mod publish;
mod rotate;
mod say;
mod signals;
mod subscribe;
mod table;
mod times;
mod top;
mod topic;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sealcast_state::State;

use failure::{EXIT_CODES, Exit, Failure};

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
    #[arg(long, global = true, value_name = "DIR", env = "SEALCAST_STATE", display_order = 900)]
    state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keygen(keygen::Keygen),
    Broker(broker::Broker),
    #[command(subcommand)]
    Topic(topic::Topic),
    #[command(name = "pub")]
    Publish(publish::Publish),
    #[command(name = "sub")]
    Subscribe(subscribe::Subscribe),
    Inspect(inspect::Inspect),
    Rotate(rotate::Rotate),
    Prekey(prekey::Prekey),
    Top(top::Top),
    Bench(bench::Bench),
    Demo(demo::Demo),
}

/// Parses, runs, reports.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return mistaken(&error),
    };
    match cli.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Help and version are data; a mistake is one error line and one hint line, as everywhere.
fn mistaken(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    if matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand) {
        // A stdout that is gone wants no help.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
    }
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let message =
        message.strip_prefix("error: ").unwrap_or(message).split_whitespace().collect::<Vec<_>>().join(" ");
    let line = |start: &str| text.lines().find_map(|line| line.trim_start().strip_prefix(start));
    let hint = match (line("tip: "), line("Usage: ")) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("usage: {usage}"),
        (None, None) => "--help tells more".to_owned(),
    };
    Failure::usage(message).hint(hint).report()
}

/// What goes on inside, for whoever looks for a fault: `SEALCAST_LOG=debug`. The broker logs by itself.
fn start_log() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("SEALCAST_LOG") {
        // Fails where it was started already: then so be it.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    }
}

impl Cli {
    fn run(self) -> Result<(), Failure> {
        let global = self.global;
        if !matches!(self.command, Command::Broker(_)) {
            start_log();
        }
        match self.command {
            Command::Keygen(keygen) => keygen.run(),
            Command::Broker(broker) => run(broker.run()),
            Command::Topic(topic) => run(topic.run(&global)),
            Command::Publish(publish) => run(publish.run(&global)),
            Command::Subscribe(subscribe) => run(subscribe.run(&global)),
            Command::Inspect(inspect) => run(inspect.run()),
            Command::Rotate(rotate) => run(rotate.run(&global)),
            Command::Prekey(prekey) => run(prekey.run(&global)),
            Command::Top(top) => run(top.run()),
            Command::Bench(bench) => run(bench.run()),
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
