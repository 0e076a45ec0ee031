//! Why a publisher seals nothing, or hears nothing, for the time being.

use std::fmt;

/// Why nothing gets through at present. What was handed over is kept, and goes on once the reason is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standstill {
    /// No admin has confirmed the roster for longer than the topic's policy (`max_roster_age`) allows: a removal may be
    /// kept from this publisher, so it seals nothing until an admin signs an entry or a head.
    RosterStale {
        /// Since when, milliseconds since 1970.
        since_ms: u64,
    },
    /// The broker took records and says nothing about them. They are sent again on another connection.
    Unanswered {
        /// Since when, milliseconds since 1970.
        since_ms: u64,
    },
    /// The broker stores nothing: its disk is full, or failed. What was handed over is sent again until it is stored; a
    /// full disk needs space and nothing else, a failed one a restart of the broker.
    ReadOnly {
        /// Since when, milliseconds since 1970.
        since_ms: u64,
    },
    /// The broker says what cannot be true. What is in flight is sent again on another connection; after a few times in
    /// a row everything fails with [`PublishError::Broker`](crate::PublishError::Broker).
    BrokerFault {
        /// What it does.
        what: &'static str,
    },
}

impl Standstill {
    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::RosterStale { .. } => {
                "an admin has to confirm who is a member: any change to the topic does, and so does `sealcast rotate`"
            }
            Self::Unanswered { .. } => "see whether the broker's disk is full, failing or slow",
            Self::ReadOnly { .. } => "the broker's operator has to make space, or to look at its disk",
            Self::BrokerFault { .. } => "do not go on with this broker before its operator has looked at it",
        }
    }
}

impl fmt::Display for Standstill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RosterStale { .. } => f.write_str(
                "nothing is sealed: no admin has confirmed the roster for longer than the policy allows",
            ),
            Self::Unanswered { .. } => f.write_str("the broker takes records and does not answer"),
            Self::ReadOnly { .. } => {
                f.write_str("the broker stores nothing for now: its disk is full, or failed")
            }
            Self::BrokerFault { what } => write!(f, "the broker broke the protocol: {what}"),
        }
    }
}
