//! Every error a person can meet, as message, hint and exit code: the one place where that is decided.

use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sealcast_broker::StartError;
use sealcast_broker::archive::ArchiveError;
use sealcast_envelope::MessageError;
use sealcast_link::{ConnectError, RequestError};
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::roster::RosterError;
use sealcast_proto::topic_link::LinkError;
use sealcast_publisher::{AdminError, Fork, PublishError};
use sealcast_state::StateError;
use sealcast_subscriber::{Event, SubscribeError};

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
    /// Signed objects that contradict each other.
    proof: Vec<Bytes>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, proof: Vec::new() }
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

    /// What happened, without what to do.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Says it, and gives the process's exit code.
    pub(crate) fn report(&self) -> ExitCode {
        for (part, n) in self.proof.iter().zip(1..) {
            say::line(
                "sealcast",
                format_args!("proof {n} of {}: {}", self.proof.len(), STANDARD.encode(part)),
            );
        }
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

impl From<&StateError> for Failure {
    fn from(error: &StateError) -> Self {
        Self::new(Exit::Failure, error.to_string()).hint(error.hint())
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        (&error).into()
    }
}

impl From<&ConnectError> for Failure {
    fn from(error: &ConnectError) -> Self {
        let failure = Self::new(Exit::CannotConnect, error.to_string());
        match error {
            ConnectError::Resolve { .. } => failure.hint("check the link's host name"),
            ConnectError::Unreachable { .. } => failure
                .hint("is the broker running there, and does UDP reach it? `sealcast broker` starts one"),
            ConnectError::WrongKey { .. } => {
                failure.hint("another broker, or someone in between: get the link anew from whom you trust")
            }
            ConnectError::Refused(refusal) => from_refusal(refusal, Exit::CannotConnect),
            ConnectError::Socket(_) | ConnectError::Closed => failure,
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        (&error).into()
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match &error {
            RequestError::Refused(refusal) => from_refusal(refusal, Exit::Failure),
            _ => Self::new(Exit::CannotConnect, error.to_string()).hint(AGAIN),
        }
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::new(Exit::Failure, error.to_string()).hint("split it, or publish where the rest can be found")
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let as_is = |exit| Self::new(exit, error.to_string());
        match &error {
            PublishError::Connect(error) => error.as_ref().into(),
            PublishError::NotAllowed(_) => as_is(Exit::NotAllowed).hint(ASK_ADMIN_PUBLISH),
            PublishError::Removed(_) => {
                as_is(Exit::NotAllowed).hint("only an admin of the topic can add it again")
            }
            PublishError::Rollback(_) => as_is(Exit::Crypto).hint(DISTRUST),
            PublishError::Fork(fork) => forked(fork, as_is(Exit::Crypto)),
            PublishError::Roster(_) | PublishError::Seal(_) => as_is(Exit::Crypto).hint(DISTRUST),
            PublishError::IdentityInUse => as_is(Exit::Failure)
                .hint("give every machine an identity of its own; if nobody of yours does, remove it"),
            PublishError::State(error) => error.as_ref().into(),
            PublishError::Message(error) => error.clone().into(),
            PublishError::Refused(refusal) => from_refusal(refusal, Exit::Failure),
            PublishError::Lost(_) => as_is(Exit::CannotConnect).hint(AGAIN),
            PublishError::Broker(_) => as_is(Exit::Failure).hint(AGAIN),
            PublishError::Closed => as_is(Exit::Failure).hint(AGAIN),
        }
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        let message = error.to_string();
        if let AdminError::HalfMade { link, error } = error {
            let hint = format!("`sealcast topic add` goes on with it; its link is {link}");
            return Self { message, hint: Some(hint), ..Self::from(*error) };
        }
        let as_is = |exit| Self::new(exit, error.to_string());
        match &error {
            AdminError::Connect(error) => error.into(),
            AdminError::NotAllowed(_) => as_is(Exit::NotAllowed)
                .hint("act as an admin of the topic (-i); a broker may let only its owners create topics"),
            // What a person asked for is against the rules; anything else is wrong with what the broker showed.
            AdminError::Roster(RosterError::Rule(_) | RosterError::TooMany(_) | RosterError::Policy(_)) => {
                as_is(Exit::Failure).hint("`sealcast topic show LINK -i ADMIN` lists the members")
            }
            AdminError::Roster(RosterError::Signer(_)) => {
                as_is(Exit::NotAllowed).hint("act as an admin of the topic (-i)")
            }
            AdminError::Roster(_) => as_is(Exit::Crypto).hint(DISTRUST),
            AdminError::Members(_) => {
                as_is(Exit::Failure).hint("`sealcast topic show LINK -i ADMIN` lists the members")
            }
            AdminError::Rollback(_) => as_is(Exit::Crypto).hint(DISTRUST),
            AdminError::Fork(fork) => forked(fork, as_is(Exit::Crypto)),
            AdminError::Refused(refusal) => from_refusal(refusal, Exit::Failure),
            AdminError::Lost(_) => as_is(Exit::CannotConnect).hint(AGAIN),
            AdminError::Broker(_) => as_is(Exit::Failure).hint(AGAIN),
            // Answered above.
            AdminError::HalfMade { .. } => as_is(Exit::Failure),
            AdminError::State(error) => error.into(),
        }
    }
}

impl From<SubscribeError> for Failure {
    fn from(error: SubscribeError) -> Self {
        let as_is = |exit| Self::new(exit, error.to_string());
        match &error {
            SubscribeError::Connect(error) => error.as_ref().into(),
            SubscribeError::NotAllowed(_) => as_is(Exit::NotAllowed).hint(ASK_ADMIN_READ),
            SubscribeError::State(error) => error.as_ref().into(),
            SubscribeError::Refused(refusal) => from_refusal(refusal, Exit::Failure),
            SubscribeError::Lost(_) => as_is(Exit::CannotConnect).hint(AGAIN),
            _ => as_is(Exit::Failure).hint(AGAIN),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = if error.exit_code() == Exit::Usage as u8 { Exit::Usage } else { Exit::Failure };
        let failure = Self::new(exit, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let failure = Self::new(Exit::Failure, error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<Event> for Failure {
    fn from(event: Event) -> Self {
        let as_is = |exit| Self::new(exit, event.to_string());
        match &event {
            Event::Removed => as_is(Exit::NotAllowed).hint("only an admin of the topic can add it again"),
            Event::NotAllowed { .. } => as_is(Exit::NotAllowed).hint(ASK_ADMIN_READ),
            Event::Fork { .. } => {
                as_is(Exit::Crypto).hint("--json prints the proof: show it to the topic's owner")
            }
            Event::Rollback { .. } => as_is(Exit::Crypto).hint(DISTRUST),
            Event::BadBatch { .. } | Event::Refused { .. } => as_is(Exit::Crypto).hint(DISTRUST),
            Event::State { what, hint } => Self::new(Exit::Failure, what).hint(hint),
            _ => as_is(Exit::Failure).hint(AGAIN),
        }
    }
}

/// With the proof, for whoever can do something about it.
fn forked(fork: &Fork, failure: Failure) -> Failure {
    Failure { proof: fork.proof.clone(), ..failure }.hint("show the proof to the topic's owner")
}

const AGAIN: &str = "try again; if it persists, look at the broker's log";
const DISTRUST: &str = "do not go on with this broker before the topic's owner has looked at it";
const ASK_ADMIN_READ: &str =
    "is this the right link? an admin adds a key with `sealcast topic add LINK -i ADMIN -r KEY`";
const ASK_ADMIN_PUBLISH: &str =
    "an admin adds it with `sealcast topic add LINK -i ADMIN --role publisher -r KEY`";

/// What a broker said no to.
fn from_refusal(refusal: &Refusal, otherwise: Exit) -> Failure {
    let failure = |exit| Failure::new(exit, format!("the broker refused: {}", refusal.detail));
    match refusal.code {
        Code::NotAllowed => failure(Exit::NotAllowed).hint("is this the right link, and the key a member's?"),
        Code::Version => failure(Exit::CannotConnect).hint("update the older of the two"),
        Code::Busy | Code::Draining => failure(otherwise).hint("try again in a while"),
        Code::ReadOnly => {
            failure(otherwise).hint("it can store nothing (its disk, or its cluster): its operator must look")
        }
        _ => failure(otherwise).hint(AGAIN),
    }
}
