//! A topic's state, made anew from its log.

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::accept::{Acceptor, RestoreError};
use sealcast_proto::object::{EpochHeader, Genesis, Object, ObjectError, RosterHead};
use sealcast_proto::policy::Durability;
use sealcast_proto::record::{BatchDigest, Record};
use sealcast_proto::roster::EntryBundle;
use sealcast_proto::{Epoch, Offset, PublicKey, RosterSeq, Signed, TopicId};

use crate::damage;
use crate::limits;
use crate::roster_index::RosterIndex;
use crate::store::{Log, LogError};
use crate::topic::{RosterItem, TopicMachine};

/// What a topic's actor starts with.
pub struct Loaded {
    pub machine: TopicMachine,
    pub index: RosterIndex,
    /// The roster head put last.
    pub head: Option<Signed<RosterHead>>,
}

/// A log that cannot be taken up.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The store.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What it holds.
    #[error("the log of topic {topic} is damaged: {why}; restore the data directory from a copy")]
    Damaged {
        /// Which topic, in short.
        topic: String,
        /// What is wrong.
        why: String,
    },
}

impl LoadError {
    /// Whether what the store held is lost, and not only out of reach.
    pub(crate) fn is_damage(&self) -> bool {
        match self {
            Self::Log(error) => error.is_damage(),
            Self::Damaged { .. } => true,
        }
    }
}

/// Reads a topic's roster and its publishers' newest epochs. Nothing appended later than this call is seen. Offsets below
/// `past` were given out before.
pub fn load(log: &dyn Log, topic: TopicId, genesis: &Genesis, past: Offset) -> Result<Loaded, LoadError> {
    let damaged = |why: String| LoadError::Damaged { topic: topic.short(), why };
    let mut acceptor = Acceptor::new(topic, genesis);
    let mut index = RosterIndex::default();
    let mut changes = Vec::new();
    loop {
        let from = RosterSeq(index.head().0.saturating_add(1));
        let stored = log.rosters(&topic, from, limits::ROSTER_READ_BYTES)?;
        if stored.is_empty() {
            break;
        }
        for entry in stored {
            let bundle = EntryBundle::decode(entry.bundle).map_err(|error| damaged(error.to_string()))?;
            let change =
                acceptor.restore_roster(&bundle, entry.offset).map_err(|error| damaged(error.to_string()))?;
            let by_owner = change.entry.signer == genesis.owner;
            let item =
                RosterItem::from_bundle(entry.offset, bundle).map_err(|error| damaged(error.to_string()))?;
            index.push(&item, by_owner);
            changes.push((change, entry.offset));
        }
    }
    for (publisher, _) in log.publishers(&topic)? {
        restore_publisher(log, topic, &publisher, &mut acceptor)?;
    }
    let bounds = log.bounds(&topic)?;
    let stored_ms = match log.read_back(&topic, bounds.next, 1) {
        Ok(newest) => newest.first().map_or(0, |newest| newest.stored_ms),
        Err(error) if error.is_damage() => {
            damage::say(&format!("topic {}: the newest record is lost: {error}", topic.short()));
            0
        }
        Err(error) => return Err(error.into()),
    };
    let mut next = bounds.next.max(past);
    if next.0 > 0 && acceptor.roster().chain().policy().durability == Durability::Memory {
        next = Offset(next.0.saturating_add(limits::MEMORY_OFFSET_SKIP));
    }
    let mut machine = TopicMachine::new(acceptor, next, stored_ms, log.level());
    for (change, offset) in &changes {
        machine.restore_removed(change, *offset);
    }
    let head = match log.head(&topic).and_then(|head| head.map(|head| kept(&head)).transpose()) {
        Err(error) if error.is_damage() => {
            damage::say(&format!("topic {}: its roster head is lost: {error}", topic.short()));
            None
        }
        head => head?,
    };
    Ok(Loaded { machine, index, head })
}

fn restore_publisher(
    log: &dyn Log,
    topic: TopicId,
    publisher: &PublicKey,
    acceptor: &mut Acceptor,
) -> Result<(), LoadError> {
    let damaged = |why: String| LoadError::Damaged { topic: topic.short(), why };
    let Some(epoch) = log.epochs_back(&topic, publisher, Epoch(u64::MAX), 1)?.into_iter().next() else {
        return Err(damaged(format!("no header of {}", publisher.short())));
    };
    let header = header(epoch.header).map_err(|error| damaged(error.to_string()))?;
    let last = log.batch_before(&topic, publisher, epoch.epoch, Offset(u64::MAX))?;
    let last = match last {
        None => None,
        Some(batch) => {
            let digest =
                BatchDigest::decode(&batch.digest).ok_or_else(|| damaged("a batch's index".into()))?;
            Some((digest, batch.offset))
        }
    };
    let restored = acceptor.restore_lane(&header, epoch.offset, last);
    restored.map_err(|error: RestoreError| damaged(error.to_string()))
}

/// The header in a header's record.
pub(crate) fn header(record: Bytes) -> Result<Signed<EpochHeader>, ObjectError> {
    match Record::decode(record) {
        Ok(Record::Header(header)) => Ok(header),
        _ => Err(ObjectError::Malformed { kind: "an epoch header", what: "another record" }),
    }
}

/// A signed object as the store keeps it: `signature 64 ‖ body`.
pub fn keep<T: Object>(signed: &Signed<T>) -> Bytes {
    let mut out = BytesMut::with_capacity(64 + signed.body().len());
    out.put_slice(signed.signature());
    out.put_slice(signed.body());
    out.freeze()
}

/// Reads [`keep`]'s bytes.
pub fn kept<T: Object>(bytes: &Bytes) -> Result<Signed<T>, LogError> {
    let damaged = || LogError::Corrupt(format!("{} is not one", T::KIND));
    let signature = bytes.get(..64).ok_or_else(damaged)?;
    Signed::from_parts(bytes.slice(64..), signature).map_err(|_| damaged())
}
