//! Every error a person can meet, as message, hint and exit code: the one place where that is decided.

use std::process::ExitCode;

use sealcast_proto::topic_link::LinkError;
use sealcast_state::StateError;

use super::say;

/// What the exit code tells a script. Part of the interface: never renumbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything without a number of its own.
    Failure = 1,
    /// The command line or a file it names is wrong; clap's number too.
    Usage = 2,
    /// No broker answered, or not the right one.
    CannotConnect = 3,
    /// Not a member, not allowed, or removed.
    NotAllowed = 4,
    /// Something signed or sealed did not check out.
    Crypto = 5,
    /// `--timeout` or `--wait` ran out.
    TimedOut = 6,
}

/// Shown under every command's help.
pub(crate) const EXIT_CODES: &str = "\
Exit codes: 0 ok · 1 failure · 2 usage · 3 cannot connect · 4 not a member, not allowed or removed ·
            5 signature or decryption failed · 6 time ran out";

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// A mistake in what the person asked for.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// An operation of the system that failed: `cannot read keys.txt: …`.
    pub(crate) fn io(doing: impl Into<String>, error: &std::io::Error) -> Self {
        let failure = Self::new(Exit::Failure, format!("cannot {}: {error}", doing.into()));
        match error.kind() {
            std::io::ErrorKind::StorageFull => failure.hint("free some space and try again"),
            _ => failure,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says it, and gives the process's exit code.
    pub(crate) fn report(&self) -> ExitCode {
        say::line("error", format_args!("{}", self.message));
        if let Some(hint) = &self.hint {
            say::line("hint", format_args!("{hint}"));
        }
        ExitCode::from(self.exit as u8)
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let hint = match &error {
            LinkError::HasTopic => {
                "leave out the topic: sealcast://HOST:PORT?broker=KEY, as `sealcast broker` prints it"
            }
            LinkError::NoTopic => "a topic's link is what `sealcast topic create` printed",
            _ => "copy the whole link and put it in quotes",
        };
        Self::usage(error.to_string()).hint(hint)
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(Exit::Failure, error.to_string()).hint(error.hint())
    }
}
