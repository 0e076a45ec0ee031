//! Why a subscription cannot begin, or its position cannot be saved.

use std::sync::Arc;

use sealcast_link::{ConnectError, LinkError, Passing};
use sealcast_proto::PublicKey;
use sealcast_proto::frame::Refusal;
use sealcast_state::StateError;

/// See the module's page. Cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// No broker of the link could be reached.
    #[error("cannot connect: {0}")]
    Connect(Arc<ConnectError>),
    /// No such topic, or this identity is not a member. A broker does not tell which.
    #[error("no such topic, or {0} is not a member of it")]
    NotAllowed(PublicKey),
    /// The broker refused, for a reason of its own.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The connection failed before there was an answer.
    #[error("the connection failed: {0}")]
    Lost(LinkError),
    /// The broker did not serve the subscription.
    #[error("the broker does not serve the subscription: {0}")]
    Broker(String),
    /// The state directory. What was saved before is intact.
    #[error(transparent)]
    State(Arc<StateError>),
    /// A tag longer than [`MAX_TAG`](crate::MAX_TAG).
    #[error("a tag is at most 1024 bytes long; this one is {0}")]
    Tag(usize),
    /// The subscription's task is gone, with the runtime it ran on.
    #[error("the subscription was ended from outside")]
    Closed,
}

impl SubscribeError {
    /// Whether the same may work later without anyone changing anything.
    pub(crate) fn passing(&self) -> Option<Passing> {
        match self {
            Self::Refused(refusal) => Passing::refused(refusal),
            Self::Lost(error) => Passing::lost(error),
            _ => None,
        }
    }
}

impl From<LinkError> for SubscribeError {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

impl From<ConnectError> for SubscribeError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(Arc::new(error))
    }
}

impl From<StateError> for SubscribeError {
    fn from(error: StateError) -> Self {
        Self::State(Arc::new(error))
    }
}
