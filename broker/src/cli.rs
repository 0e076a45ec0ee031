//! The broker's command line, shared by `sealcast-broker` and `sealcast broker`.
//!
//! stdout carries the link and nothing else; what happens is logged on stderr.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::broker::Broker;
use crate::config::{Config, StartError};
use crate::settings::{Effective, SETTINGS, Setting, Sources, flag};
use crate::{logging, notify};

/// Where `--ops` alone listens.
const DEFAULT_OPS: &str = "127.0.0.1:7444";
/// The heading of what one seldom touches.
const LIMITS: &str = "Limits";
/// The flag that names the file.
const FILE: &str = "config";

/// How to start a broker: a flag for every setting, and the file.
#[derive(Debug, Clone, Default)]
pub struct Args {
    sources: Sources,
}

impl Args {
    /// The settings in force, and where each comes from. Reads the file anew.
    pub fn effective(&self) -> Result<Effective, StartError> {
        let effective = self.sources.effective(Config::new(default_data()))?;
        effective.config.check()?;
        Ok(effective)
    }
}

impl clap::Args for Args {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new(FILE)
            .long(FILE)
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Settings in TOML: the keys are the flags below with _ for -. Over it the environment (SEALCAST_BROKER_LISTEN …), over that flags");
        SETTINGS.iter().fold(command.arg(file), |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Limits stand in `--help`, not in `-h`.
fn arg(setting: &'static Setting) -> Arg {
    let live = if setting.live { " SIGHUP reloads it." } else { "" };
    let arg = Arg::new(setting.key)
        .long(flag(setting.key).trim_start_matches('-').to_owned())
        .value_name(setting.kind())
        .help(setting.what.trim_end_matches('.'))
        .long_help(format!("{}{live} [default: {}]", setting.what, shown_default(setting)))
        .action(ArgAction::Append);
    let arg = if setting.is_limit { arg.help_heading(LIMITS).hide_short_help(true) } else { arg };
    match setting.key {
        "ops" => arg.num_args(0..=1).default_missing_value(DEFAULT_OPS),
        "ops_public" | "topic_labels" => arg.num_args(0..=1).default_missing_value("true"),
        "owners" => arg.num_args(1..),
        _ => arg,
    }
}

fn shown_default(setting: &Setting) -> String {
    let text = setting.value(&Config::new("the platform's data directory"));
    if text.is_empty() { "none".into() } else { text }
}

impl clap::FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &'static Setting| {
            let values: Vec<String> = matches.get_many::<String>(setting.key)?.cloned().collect();
            // Of a flag given twice the last one counts; of owners all do.
            let text = if setting.key == "owners" { values.join(",") } else { values.last()?.clone() };
            Some((setting.key, text))
        };
        // What is not text is no value of any setting.
        let environment = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()));
        let sources = Sources {
            file: matches.get_one::<PathBuf>(FILE).cloned(),
            environment: environment.filter(|(name, _)| name.starts_with(crate::settings::PREFIX)).collect(),
            flags: SETTINGS.iter().filter_map(given).collect(),
        };
        Ok(Self { sources })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Checks the settings and prints those in force on stdout, as a configuration file, with where each comes from.
pub fn check(args: &Args) -> Result<(), StartError> {
    use std::io::Write as _;
    let text = args.effective()?.to_toml();
    // Whoever closed stdout wanted the exit code.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// Runs a broker until SIGINT or SIGTERM, then drains it. Prints its link on stdout once it listens.
pub async fn run(args: Args) -> Result<(), StartError> {
    // First: a signal that comes while it starts is not lost.
    let told_to_stop = told_to_stop();
    let mut hangups = signal(SignalKind::hangup()).ok();
    let config = args.effective()?.config;
    logging::init(&config.log, config.log_format);
    let broker = Broker::start(config.clone()).await?;
    {
        use std::io::Write as _;
        let mut stdout = std::io::stdout().lock();
        // Whoever closed stdout does not want the link.
        let _ = writeln!(stdout, "{}", broker.link()).and_then(|()| stdout.flush());
    }
    notify::tell("READY=1");
    let mut running = config;
    tokio::pin!(told_to_stop);
    loop {
        tokio::select! {
            () = &mut told_to_stop => break,
            () = hung_up(&mut hangups) => {
                notify::tell("RELOADING=1");
                reload(&args, &broker, &mut running);
                notify::tell("READY=1");
            }
        }
    }
    notify::tell("STOPPING=1");
    broker.shutdown().await;
    Ok(())
}

/// Reads the settings again and takes over those that may change while the broker runs. If anything is wrong with them,
/// everything stays as it is.
fn reload(args: &Args, broker: &Broker, running: &mut Config) {
    let mut wanted = match args.effective() {
        Ok(effective) => effective.config,
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            tracing::error!(%error, hint, "not reloaded: everything stays as it is");
            return;
        }
    };
    let (mut changed, mut kept) = (Vec::new(), Vec::new());
    for setting in SETTINGS {
        let now = setting.value(running);
        if setting.value(&wanted) == now {
            continue;
        }
        if setting.live {
            changed.push(setting.key);
        } else {
            kept.push(setting.key);
            // It was read from text like this before.
            let _ = (setting.read)(&mut wanted, &now);
        }
    }
    broker.reload(&wanted);
    logging::set(&wanted.log);
    *running = wanted;
    let changed = changed.join(", ");
    tracing::info!(changed, "reloaded");
    if !kept.is_empty() {
        let kept = kept.join(", ");
        tracing::warn!(kept, "these change only with a restart");
    }
}

/// Completes at SIGHUP.
async fn hung_up(hangups: &mut Option<Signal>) {
    let heard = match hangups {
        Some(hangups) => hangups.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

/// Completes at SIGINT or SIGTERM, from the moment of the call on.
fn told_to_stop() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (mut interrupt, mut terminate) = match signals {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "cannot listen for signals: only a kill will stop this broker");
                return std::future::pending().await;
            }
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        tracing::info!("told to stop");
    }
}

/// `$XDG_DATA_HOME/sealcast/broker`, by default `~/.local/share/sealcast/broker`.
pub(crate) fn default_data() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")));
    base.unwrap_or_default().join("sealcast").join("broker")
}
