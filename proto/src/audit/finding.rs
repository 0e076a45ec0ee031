//! What does not hold, by name.

use crate::identity::PublicKey;
use crate::ids::{Epoch, Offset};

/// Different findings kept, a count: more are counted only, so that a broker that lies all the time costs no memory.
pub const MAX_FINDINGS: usize = 1000;

/// Which kind of thing does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The topic shown is not the one asked for, or not signed by its owner.
    Genesis,
    /// Bytes that are not what their place says.
    Malformed,
    /// A signature that does not hold.
    Signature,
    /// Properly signed, by someone who does not hold the role for it.
    Role,
    /// Properly signed, and forbidden by the rules of docs/protocol.md sections 4 and 6.
    Rule,
    /// Sealed for a roster older than the last removal (the fence).
    StaleEpoch,
    /// Two signed statements that contradict each other.
    Fork,
    /// What came does not follow what came before it: something in between never did.
    Missing,
    /// It came a second time.
    Replayed,
    /// It belongs to another topic, another epoch or another place of the log.
    OutOfPlace,
    /// Its publisher signed that there is more than the broker shows.
    Withheld,
    /// The broker says that it lost it.
    Lost,
    /// The broker ended before the head that it announced.
    CutOff,
}

impl Kind {
    /// The name by which programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Malformed => "malformed",
            Self::Signature => "signature",
            Self::Role => "role",
            Self::Rule => "rule",
            Self::StaleEpoch => "stale_epoch",
            Self::Fork => "fork",
            Self::Missing => "missing",
            Self::Replayed => "replayed",
            Self::OutOfPlace => "out_of_place",
            Self::Withheld => "withheld",
            Self::Lost => "lost",
            Self::CutOff => "cut_off",
        }
    }
}

/// One thing that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which kind.
    pub kind: Kind,
    /// One line for people.
    pub text: String,
    /// Whose record it is about, as far as is known.
    pub publisher: Option<PublicKey>,
    /// Of which epoch.
    pub epoch: Option<Epoch>,
    /// Where it was first met.
    pub offset: Option<Offset>,
    /// How often in a row it was met, a count.
    pub times: u64,
}

impl Finding {
    /// About nobody's record in particular.
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), publisher: None, epoch: None, offset: None, times: 1 }
    }

    /// About a record of this publisher.
    pub(super) fn by(self, publisher: PublicKey, epoch: Epoch) -> Self {
        Self { publisher: Some(publisher), epoch: Some(epoch), ..self }
    }

    /// About what stands here.
    pub(super) fn at(self, offset: Offset) -> Self {
        Self { offset: Some(offset), ..self }
    }
}

/// All that was found, in the order met.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<Finding>,
    /// Met in all, repetitions too.
    pub(super) met: u64,
    pub(super) not_kept: u64,
}

impl Findings {
    /// The same thing met again right away (one forged entry makes every later one fail) is one finding.
    pub(super) fn push(&mut self, finding: Finding) {
        self.met = self.met.saturating_add(1);
        if let Some(last) = self.kept.last_mut()
            && (last.kind, last.publisher, last.epoch) == (finding.kind, finding.publisher, finding.epoch)
            && last.text == finding.text
        {
            last.times = last.times.saturating_add(1);
        } else if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        } else {
            self.not_kept = self.not_kept.saturating_add(1);
        }
    }

    pub(super) fn into_kept(self) -> Vec<Finding> {
        self.kept
    }
}
