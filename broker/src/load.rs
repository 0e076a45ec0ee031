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

/// Reads a topic's roster and its publishers' newest epochs. Nothing appended later than this call is seen.
pub fn load(log: &dyn Log, topic: TopicId, genesis: &Genesis) -> Result<Loaded, LoadError> {
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
    let mut reserved = log.reserved(&topic)?;
    let memory = acceptor.roster().chain().policy().durability == Durability::Memory;
    if memory && reserved == Offset(0) && bounds.next > Offset(0) {
        // It was imported, or written by a broker that reserved nothing: what was given out there is not known.
        reserved = Offset(bounds.next.0.saturating_add(limits::OFFSETS_RESERVED));
    }
    let next = bounds.next.max(reserved);
    let mut machine = TopicMachine::new(acceptor, next, stored_ms, log.level()).reserved(reserved);
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

#[cfg(test)]
mod tests {
    use sealcast_proto::accept::BatchClaim;
    use sealcast_proto::policy::Policy;
    use sealcast_proto::roster::{Op, Role};

    use super::*;
    use crate::hand::{Admin, Hand, batch_record, genesis, header_record, key};
    use crate::store::{MemoryLog, Write};
    use crate::topic::{Append, Effect, Effects, Incoming, Index, Input, SessionId, Table, Ticket};

    /// A `memory` topic whose disk takes what must be synced, with what came before it; a crash loses the rest.
    struct Topic {
        id: TopicId,
        genesis: Genesis,
        log: MemoryLog,
        machine: TopicMachine,
        unsynced: Vec<Write>,
        /// Where a record was shown.
        shown: Vec<Offset>,
    }

    impl Topic {
        fn handle(&mut self, input: Input) {
            let mut effects = Effects::new();
            self.machine.handle(input, 1_000, &mut effects);
            let mut sync = false;
            for effect in effects {
                match effect {
                    Effect::Append(append) => {
                        sync |= append.sync;
                        self.append(append);
                    }
                    Effect::Readable(readable) => self.shown.push(readable.offset),
                    Effect::Refuse(_, refusal) | Effect::Roster(_, Err(refusal)) => panic!("{refusal:?}"),
                    _ => {}
                }
            }
            if sync {
                self.log.write(&std::mem::take(&mut self.unsynced), true).unwrap();
                self.handle(Input::Committed(self.machine.next_offset()));
            }
        }

        fn append(&mut self, append: Append) {
            let (topic, Append { offset, stored_ms, record, index, reserve, .. }) = (self.id, append);
            self.unsynced.push(Write::Append { topic, offset, stored_ms, record: record.clone() });
            self.unsynced.extend(reserve.map(|below| Write::Reserve { topic, below }));
            let write = match index {
                Index::Roster { seq, bundle } => Write::Roster { topic, seq, offset, bundle },
                Index::Epoch { publisher, epoch, table } => {
                    self.unsynced.push(Write::Publisher { topic, publisher, state: Bytes::new() });
                    Write::Epoch { topic, publisher, epoch, offset, header: record, table }
                }
                Index::Batch { publisher, epoch, batch_no, digest } => {
                    Write::Batch { topic, publisher, epoch, batch_no, offset, digest }
                }
            };
            self.unsynced.push(write);
        }

        fn publish(&mut self, hand: &Hand, incoming: Incoming) {
            self.handle(Input::Publish { session: SessionId(1), identity: hand.id.public(), incoming });
        }

        fn batch(&mut self, hand: &mut Hand) {
            let record = hand.batch(b"noise");
            let header = hand.newest.as_ref().unwrap();
            let mut claim = Box::new(BatchClaim::read(&record).unwrap());
            claim.verify(&header.hash(), &header.peek().unwrap().epoch_vk);
            self.publish(hand, Incoming::Batch { claim, record: batch_record(&record) });
        }

        fn crash(&mut self) {
            self.unsynced.clear();
            self.machine = load(&self.log, self.id, &self.genesis).unwrap().machine;
        }
    }

    #[test]
    fn however_often_it_crashes_a_memory_topic_gives_no_offset_out_twice() {
        let (id, genesis, signed) = genesis(0);
        let log = MemoryLog::new();
        log.write(&[Write::CreateTopic { topic: id, genesis: keep(&signed) }], true).unwrap();
        let machine = load(&log, id, &genesis).unwrap().machine;
        let mut admin = Admin::new(id, &genesis);
        let mut topic = Topic { id, genesis, log, machine, unsynced: vec![], shown: vec![] };
        let policy = Policy { durability: Durability::Memory, ..Policy::default() };
        let bundle =
            admin.entry(&[Op::Add { identity: key(2), role: Role::Publisher }, Op::set_policy(policy)]);
        topic.handle(Input::Roster { ticket: Ticket(1), bundle });
        let mut hand = Hand::new(2);
        let (header, _) = hand.begin(&admin.roster, &[]);
        topic.publish(&hand, Incoming::Header { header: header.clone(), table: Table::Empty });
        topic.batch(&mut hand);
        for _ in 0..3 {
            topic.crash();
            // What the crash left, and on from there: other bytes under the next number.
            let lane = topic.machine.acceptor().lane(&hand.id.public()).unwrap();
            (hand.next, hand.last) = (lane.next_batch_no().0, lane.last_hash());
            topic.batch(&mut hand);
            topic.batch(&mut hand);
        }
        assert!(topic.shown.len() >= 9 && topic.shown.is_sorted_by(|a, b| a < b), "{:?}", topic.shown);
        assert_eq!(header_record(&header), topic.log.read(&id, Offset(1), 1).unwrap()[0].record);
    }
}
