//! Two signed statements that cannot both be true, and what it takes to prove it to others.

use std::collections::VecDeque;

use bytes::Bytes;
use sealcast_proto::object::{Beacon, RosterEntry};
use sealcast_proto::record::Record;
use sealcast_proto::{Hash, RosterSeq, Signed};

/// Entries kept as evidence, a count: a fork further back is proven by a hash alone.
const KEPT: usize = 64;

/// Two signed statements that cannot both be true.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: two signed statements contradict each other; keep the proof")]
pub struct Fork {
    /// Which ones.
    pub what: String,
    /// The signed objects, each as a record's bytes (docs/protocol.md section 8), or a beacon's `body ‖ signature`; a side
    /// that is no longer held is its 32-byte hash. Anybody who has the topic's link can check them.
    pub proof: Vec<Bytes>,
}

/// The newest roster entries that were verified.
#[derive(Default)]
pub(crate) struct Entries(VecDeque<Signed<RosterEntry>>);

impl Entries {
    /// A copy: the frame that an entry came in may be large.
    pub(crate) fn keep(&mut self, entry: &Signed<RosterEntry>) {
        let detached = Signed::from_parts(Bytes::copy_from_slice(entry.body()), entry.signature());
        self.0.extend(detached);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    /// The last one kept.
    pub(crate) fn newest(&self) -> Option<&Signed<RosterEntry>> {
        self.0.back()
    }

    /// Entry `seq` as evidence; where it is no longer held, what `remembered` has, nothing else.
    pub(crate) fn evidence(&self, seq: RosterSeq, remembered: Option<&Remembered>) -> Bytes {
        let held = self.0.iter().find(|entry| entry.peek().is_ok_and(|entry| entry.seq == seq));
        match (held, remembered) {
            (Some(entry), _) => of_entry(entry),
            (None, Some(mark)) if mark.seq == seq => mark.evidence(),
            _ => Bytes::new(),
        }
    }

    /// Our entry `seq` against one that was shown.
    pub(crate) fn fork(
        &self,
        seq: RosterSeq,
        shown: &Signed<RosterEntry>,
        remembered: Option<&Remembered>,
    ) -> Fork {
        let proof = vec![self.evidence(seq, remembered), of_entry(shown)];
        Fork { what: format!("two signed roster entries have number {seq}"), proof }
    }
}

/// The newest entry that was verified, as it outlives the process: with it, what a broker shows later is proven a fork.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its number.
    pub seq: RosterSeq,
    /// Its hash.
    pub hash: Hash,
    /// As a record; empty where an earlier version did not keep it.
    pub record: Bytes,
}

impl Remembered {
    pub(crate) fn new(seq: RosterSeq, entry: &Signed<RosterEntry>) -> Self {
        Self { seq, hash: entry.hash(), record: of_entry(entry) }
    }

    fn evidence(&self) -> Bytes {
        match self.record.is_empty() {
            true => Bytes::copy_from_slice(self.hash.as_bytes()),
            false => self.record.clone(),
        }
    }

    /// It against another entry of its number.
    pub(crate) fn fork(&self, shown: &Signed<RosterEntry>) -> Fork {
        let what = format!("roster entry {} is not the one seen before", self.seq);
        Fork { what, proof: vec![self.evidence(), of_entry(shown)] }
    }
}

pub(crate) fn of_entry(entry: &Signed<RosterEntry>) -> Bytes {
    Record::Roster(entry.clone()).encode()
}

pub(crate) fn of_beacon(beacon: &Signed<Beacon>) -> Bytes {
    [beacon.body().as_ref(), beacon.signature()].concat().into()
}
