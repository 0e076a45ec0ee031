//! What a subscription yields: messages, and everything else that a reader has to know.

use std::fmt;

use bytes::Bytes;
use sealcast_envelope::Message;
use sealcast_proto::{BatchNo, Epoch, Offset, PublicKey, Seq, TopicId};

/// One item of a subscription.
pub type Item = Result<Received, Event>;

/// A message, verified and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which topic.
    pub topic: TopicId,
    /// Who published it: proven by signature.
    pub publisher: PublicKey,
    /// Under which key it was sealed.
    pub epoch: Epoch,
    /// Its number at its publisher: signed, from 0, without holes. With `publisher` it names the message for ever.
    pub seq: Seq,
    /// Where the broker holds it. Not signed.
    pub offset: Offset,
    /// What was published.
    pub message: Message,
}

/// Why messages are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The broker keeps records for a limited time, and theirs was over.
    Retention,
    /// The broker says that it found them damaged.
    Corruption,
    /// What came does not follow what came before it: something in between never arrived.
    Missing,
    /// The publisher says that it published more than the broker delivers.
    Withheld,
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Retention => "the broker no longer keeps them",
            Self::Corruption => "the broker found them damaged",
            Self::Missing => "they never arrived",
            Self::Withheld => "the broker does not deliver them",
        })
    }
}

/// Which rule a signed record broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedReason {
    /// Sealed for a roster older than the last removal: a removed member could read it.
    StaleEpoch,
    /// Its signer does not hold the publisher role.
    NotPublisher,
    /// It names a roster entry that the broker did not deliver.
    RosterAhead,
    /// It names an older roster than the publisher's epoch before.
    RosterBackwards,
    /// An `advance` from an epoch that a removed member could read.
    AdvanceOverRemoval,
}

impl fmt::Display for RefusedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StaleEpoch => "it was sealed for a roster older than the last removal",
            Self::NotPublisher => "its signer does not hold the publisher role",
            Self::RosterAhead => "it names a roster entry that was not delivered",
            Self::RosterBackwards => "it names an older roster than the epoch before it",
            Self::AdvanceOverRemoval => "it derives its key from one that a removed member holds",
        })
    }
}

/// Everything a subscription says that is no message. Ranges of seqs are half open: `from` is the first, `to` the
/// first after; `to: None` where the end is not known (yet).
///
/// After an event that [is terminal](Event::is_terminal) nothing follows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Event {
    /// Messages are missing. `from` is 0 where nothing of this publisher was known.
    #[error("messages {} of {publisher} are missing: {why}", Range(*.from, *.to))]
    Gap {
        /// Whose.
        publisher: PublicKey,
        /// The first one.
        from: Seq,
        /// The first after them.
        to: Option<Seq>,
        /// Why.
        why: GapReason,
    },
    /// No sign of life for three beacon intervals: the publisher died, the network is cut, or somebody withholds. Said
    /// once; not again before a sign of life came.
    #[error("{publisher} gives no sign of life")]
    Stalled {
        /// Who.
        publisher: PublicKey,
    },
    /// What the publisher said may have been cut off at its end: it never said that it was done.
    #[error("{publisher} did not say that it was done: what it published last may be missing")]
    Truncated {
        /// Whose.
        publisher: PublicKey,
    },
    /// The publisher says that it is done. Silence is legitimate from here on.
    #[error("{publisher} has ended")]
    Ended {
        /// Who.
        publisher: PublicKey,
    },
    /// Messages that this member cannot read: sealed before it joined, or for keys it has erased. Once for a run.
    #[error("messages {} of {publisher} were not sealed for us, or for keys that are erased", Range(*.from, *.to))]
    Locked {
        /// Whose.
        publisher: PublicKey,
        /// The first one.
        from: Seq,
        /// The first after them; `None`: from there on, until a message comes.
        to: Option<Seq>,
    },
    /// The publisher signed a batch that does not open. Its messages are lost; the stream goes on.
    #[error("batch {batch_no} of epoch {epoch} by {publisher} (messages {}) does not open", Range(*.from, Some(*.to)))]
    BadBatch {
        /// Whose.
        publisher: PublicKey,
        /// Of which epoch.
        epoch: Epoch,
        /// Which one.
        batch_no: BatchNo,
        /// Its first message.
        from: Seq,
        /// The first after its messages.
        to: Seq,
    },
    /// A properly signed record that breaks the topic's rules was not accepted.
    #[error("a record of {publisher} was refused: {why}")]
    Refused {
        /// Whose.
        publisher: PublicKey,
        /// Which rule it breaks.
        why: RefusedReason,
    },
    /// The publisher still wraps for an old key of ours: it may not see our newest prekey.
    #[error("{publisher} still seals for an old key of ours: the broker may keep it in the dark")]
    StalePrekey {
        /// Who.
        publisher: PublicKey,
    },
    /// A prekey of this identity was met that this state did not make: another machine uses the identity.
    #[error(
        "this identity is in use elsewhere: give every device an identity of its own, or remove it if it was stolen"
    )]
    IdentityInUse,
    /// No admin has confirmed the roster for longer than the topic's policy allows.
    #[error(
        "no admin has confirmed the roster for longer than the policy allows: a removal may be kept from us"
    )]
    RosterStale,
    /// Two signed statements that cannot both be true. Terminal.
    #[error("{}: two signed statements contradict each other; keep the proof", fork_of(.publisher))]
    Fork {
        /// Whose statements; `None`: the admins', about the roster.
        publisher: Option<PublicKey>,
        /// The signed objects, each as a record's bytes without its ciphertext (docs/protocol.md section 8), or a
        /// beacon's `body ‖ signature`; a side that is no longer held is its 32-byte hash.
        proof: Vec<Bytes>,
    },
    /// The broker offers less than it showed before. Terminal.
    #[error("the broker was rolled back: {what}")]
    Rollback {
        /// What it shows, and what was seen before.
        what: String,
    },
    /// An admin removed this member. Terminal.
    #[error("this identity was removed from the topic")]
    Removed,
    /// The broker says that this identity is not a member (any more). Its word alone. Terminal.
    #[error("the broker says that this identity is not a member of the topic: {detail}")]
    NotAllowed {
        /// The broker's words.
        detail: String,
    },
    /// The broker does not do what it should, again and again. Terminal.
    #[error("the broker does not behave: {what}")]
    Broker {
        /// What it did.
        what: String,
    },
    /// The state could not be read or saved. Terminal.
    #[error("{what}")]
    State {
        /// What happened.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl Event {
    /// Whether the subscription ends with it.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::Fork { .. }
                | Self::Rollback { .. }
                | Self::Removed
                | Self::NotAllowed { .. }
                | Self::Broker { .. }
                | Self::State { .. }
        )
    }

    /// Whom it is about, if about a publisher.
    pub fn publisher(&self) -> Option<PublicKey> {
        match self {
            Self::Gap { publisher, .. }
            | Self::Stalled { publisher }
            | Self::Truncated { publisher }
            | Self::Ended { publisher }
            | Self::Locked { publisher, .. }
            | Self::BadBatch { publisher, .. }
            | Self::Refused { publisher, .. }
            | Self::StalePrekey { publisher } => Some(*publisher),
            Self::Fork { publisher, .. } => *publisher,
            _ => None,
        }
    }
}

fn fork_of(publisher: &Option<PublicKey>) -> String {
    match publisher {
        Some(publisher) => format!("{publisher} was forked"),
        None => "the roster was forked".into(),
    }
}

/// Half open, for people: `5`, `5–9` or `from 5 on`.
struct Range(Seq, Option<Seq>);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            None => write!(f, "from {} on", self.0),
            Some(to) if to.0 <= self.0.0 => write!(f, "before {to}"),
            Some(to) if to.0 - self.0.0 == 1 => write!(f, "{}", self.0),
            Some(to) => write!(f, "{}–{}", self.0, to.0 - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::Identity;

    #[test]
    fn ranges_read_as_people_count() {
        let text = |from, to: Option<u64>| Range(Seq(from), to.map(Seq)).to_string();
        assert_eq!(text(5, None), "from 5 on");
        assert_eq!(text(5, Some(6)), "5");
        assert_eq!(text(5, Some(10)), "5–9");
        assert_eq!(text(5, Some(5)), "before 5");
    }

    #[test]
    fn every_event_is_one_line() {
        let publisher = Identity::from_seed(&[1; 32]).public();
        for event in [
            Event::Gap { publisher, from: Seq(1), to: None, why: GapReason::Withheld },
            Event::Fork { publisher: None, proof: Vec::new() },
            Event::Refused { publisher, why: RefusedReason::StaleEpoch },
        ] {
            assert!(!event.to_string().contains('\n'));
        }
        assert!(Event::Removed.is_terminal() && !Event::RosterStale.is_terminal());
    }
}
