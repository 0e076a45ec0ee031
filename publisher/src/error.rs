//! What can go wrong while publishing.

use std::sync::Arc;

use sealcast_envelope::MessageError;
use sealcast_link::{ConnectError, LinkError, Passing, RequestError};
use sealcast_proto::PublicKey;
use sealcast_proto::frame::Refusal;
use sealcast_proto::roster::RosterError;
use sealcast_state::StateError;

use crate::fork::Fork;

/// Why nothing can be published (any more). Cheap to clone: every waiting message gets the same answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// No broker of the link could be reached.
    #[error("cannot connect: {0}")]
    Connect(Arc<ConnectError>),
    /// No such topic, or this identity may not publish to it. A broker does not tell which.
    #[error("no such topic, or {0} may not publish to it")]
    NotAllowed(PublicKey),
    /// An admin removed this identity.
    #[error("{0} was removed from the topic")]
    Removed(PublicKey),
    /// The broker offers less than was already seen: it was restored from an old copy, or it lies.
    #[error("the broker was rolled back: {0}")]
    Rollback(String),
    /// Two properly signed histories exist; with what proves it.
    #[error("the topic was forked: {0}")]
    Fork(Fork),
    /// The same identity publishes elsewhere. One identity has one state directory.
    #[error("this identity publishes to the topic from somewhere else too")]
    IdentityInUse,
    /// The state directory.
    #[error(transparent)]
    State(Arc<StateError>),
    /// The message itself.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The broker showed a roster that does not hold.
    #[error("the broker showed a roster that does not hold: {0}")]
    Roster(#[from] RosterError),
    /// The broker refused, for a reason of its own.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The connection failed before there was an answer; before a topic is open only (later it is made anew).
    #[error("the connection failed: {0}")]
    Lost(LinkError),
    /// The broker broke the protocol.
    #[error("the broker broke the protocol: {0}")]
    Broker(String),
    /// A key could not be made or used.
    #[error("sealing failed: {0}")]
    Seal(String),
    /// The topic was closed.
    #[error("the topic is closed")]
    Closed,
}

impl PublishError {
    /// Whether the same may work later without anyone changing anything.
    pub(crate) fn passing(&self) -> Option<Passing> {
        match self {
            Self::Refused(refusal) => Passing::refused(refusal),
            Self::Lost(error) => Passing::lost(error),
            _ => None,
        }
    }
}

impl From<LinkError> for PublishError {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

impl From<RequestError> for PublishError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => Self::Refused(refusal),
            RequestError::Link(error) => Self::Lost(error),
            RequestError::NoAnswer => Self::Broker(error.to_string()),
        }
    }
}

impl From<ConnectError> for PublishError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<StateError> for PublishError {
    fn from(error: StateError) -> Self {
        Self::State(Arc::new(error))
    }
}
