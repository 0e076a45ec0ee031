//! A store in memory: for tests, and for a broker that need not remember.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use super::tail::{Tails, lowest, plan};
use super::{Bounds, Log, LogError, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, Trimmed, Write};

/// Holds everything in memory; nothing outlives the process. Its only bound is retention.
#[derive(Default)]
pub struct MemoryLog {
    inner: RwLock<Inner>,
    next_table: AtomicU64,
}

type Epochs = BTreeMap<Epoch, StoredEpoch>;
type Batches = BTreeMap<(Epoch, BatchNo), StoredBatch>;

#[derive(Clone, Default)]
struct Inner {
    tails: Tails,
    topics: BTreeMap<TopicId, Topic>,
    prekeys: HashMap<PublicKey, Bytes>,
    tables: HashMap<TableId, BTreeMap<MemberIndex, Bytes>>,
    staged: BTreeSet<TableId>,
}

#[derive(Clone, Default)]
struct Topic {
    genesis: Option<Bytes>,
    reserved: Offset,
    /// With the bytes stored before each.
    log: BTreeMap<Offset, (u64, Stored)>,
    rosters: BTreeMap<RosterSeq, StoredRoster>,
    head: Option<Bytes>,
    publishers: BTreeMap<PublicKey, Bytes>,
    epochs: HashMap<PublicKey, Epochs>,
    batches: HashMap<PublicKey, Batches>,
}

impl MemoryLog {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy as a restart would find it, had this one been on a disk: without what was staged.
    pub fn restarted(&self) -> Self {
        let mut inner = self.inner().clone();
        for table in std::mem::take(&mut inner.staged) {
            inner.tables.remove(&table);
        }
        Self {
            inner: RwLock::new(inner),
            next_table: AtomicU64::new(self.next_table.load(Ordering::Relaxed)),
        }
    }

    // A panic elsewhere cannot leave it half written: every write is checked before it begins.
    fn inner(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner_mut(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads of a topic; what an unknown one holds is nothing.
    fn of<T: Default>(&self, topic: &TopicId, read: impl FnOnce(&Topic) -> T) -> Result<T, LogError> {
        Ok(self.inner().topics.get(topic).map(read).unwrap_or_default())
    }
}

impl Log for MemoryLog {
    fn level(&self) -> Level {
        Level::Memory
    }

    fn write(&self, writes: &[Write], _sync: bool) -> Result<(), LogError> {
        let mut inner = self.inner_mut();
        let plan = plan(writes, &inner.tails)?;
        let mut starts = plan.starts.into_iter();
        for write in writes {
            inner.apply(write, &mut starts);
        }
        inner.tails.extend(plan.tails);
        Ok(())
    }

    fn room(&self) -> Result<(), LogError> {
        Ok(())
    }

    fn topics(&self) -> Result<Vec<TopicId>, LogError> {
        let inner = self.inner();
        Ok(inner.topics.iter().filter(|(_, topic)| topic.genesis.is_some()).map(|(id, _)| *id).collect())
    }

    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.of(topic, |topic| topic.genesis.clone())
    }

    fn bounds(&self, topic: &TopicId) -> Result<Bounds, LogError> {
        Ok(self.inner().tails.get(topic).copied().unwrap_or_default().bounds())
    }

    fn reserved(&self, topic: &TopicId) -> Result<Offset, LogError> {
        self.of(topic, |topic| topic.reserved)
    }

    fn read(&self, topic: &TopicId, from: Offset, max_bytes: usize) -> Result<Vec<Stored>, LogError> {
        self.of(topic, |topic| {
            let records = topic.log.range(from..).map(|(_, (_, stored))| stored);
            within(records, max_bytes, |stored| stored.record.len())
        })
    }

    fn read_back(&self, topic: &TopicId, before: Offset, max: usize) -> Result<Vec<Stored>, LogError> {
        self.of(topic, |topic| {
            topic.log.range(..before).rev().take(max).map(|(_, (_, stored))| stored.clone()).collect()
        })
    }

    fn seek_time(&self, topic: &TopicId, ms: u64) -> Result<Offset, LogError> {
        self.seek(topic, |_, stored| stored.stored_ms >= ms)
    }

    fn seek_bytes(&self, topic: &TopicId, max_bytes: u64) -> Result<Offset, LogError> {
        let end = self.inner().tails.get(topic).copied().unwrap_or_default().end;
        self.seek(topic, |start, _| end.saturating_sub(start) <= max_bytes)
    }

    fn rosters(&self, topic: &TopicId, from: RosterSeq, max: usize) -> Result<Vec<StoredRoster>, LogError> {
        self.of(topic, |topic| {
            within(topic.rosters.range(from..).map(|(_, roster)| roster), max, |roster| roster.bundle.len())
        })
    }

    fn roster_before(&self, topic: &TopicId, before: Offset) -> Result<Option<RosterSeq>, LogError> {
        self.of(topic, |topic| {
            topic.rosters.values().rev().find(|roster| roster.offset < before).map(|roster| roster.seq)
        })
    }

    fn head(&self, topic: &TopicId) -> Result<Option<Bytes>, LogError> {
        self.of(topic, |topic| topic.head.clone())
    }

    fn publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>, LogError> {
        self.of(topic, |topic| topic.publishers.iter().map(|(id, state)| (*id, state.clone())).collect())
    }

    fn epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>, LogError> {
        self.of(topic, |topic| {
            let epochs = topic.epochs.get(publisher);
            epochs
                .map(|epochs| {
                    epochs.range(..=up_to).rev().take(max).map(|(_, epoch)| epoch.clone()).collect()
                })
                .unwrap_or_default()
        })
    }

    fn batch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        batch_no: BatchNo,
    ) -> Result<Option<StoredBatch>, LogError> {
        self.of(topic, |topic| topic.batches.get(publisher)?.get(&(epoch, batch_no)).cloned())
    }

    fn batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>, LogError> {
        self.of(topic, |topic| {
            let all = (epoch, BatchNo(0))..=(epoch, BatchNo(u64::MAX));
            let batches = topic.batches.get(publisher)?.range(all).rev();
            batches.map(|(_, batch)| batch).find(|batch| batch.offset < before).cloned()
        })
    }

    fn new_table(&self) -> TableId {
        TableId(self.next_table.fetch_add(1, Ordering::Relaxed))
    }

    fn slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>, LogError> {
        let inner = self.inner();
        let chunk = inner.tables.get(&table).and_then(|chunks| chunks.range(..=member).next_back());
        Ok(chunk.and_then(|(_, slots)| find_slot(slots, member)))
    }

    fn prekey(&self, owner: &PublicKey) -> Result<Option<Bytes>, LogError> {
        Ok(self.inner().prekeys.get(owner).cloned())
    }

    fn trim(&self, topic: &TopicId, before: Offset) -> Result<Trimmed, LogError> {
        let mut inner = self.inner_mut();
        let Inner { tails, topics, .. } = &mut *inner;
        let (Some(tail), Some(topic)) = (tails.get_mut(topic), topics.get_mut(topic)) else {
            return Ok(Trimmed::default());
        };
        let before = before.min(tail.next);
        if before <= tail.first {
            return Ok(Trimmed::default());
        }
        let kept = topic.log.split_off(&before);
        let removed = std::mem::replace(&mut topic.log, kept);
        // Where nothing stood nothing is lost.
        let Some(last) = removed.last_key_value().map(|(offset, _)| *offset) else {
            return Ok(Trimmed::default());
        };
        let start = topic.log.first_key_value().map_or(tail.end, |(_, (start, _))| *start);
        let trimmed = Trimmed {
            records: u64::try_from(removed.len()).unwrap_or(u64::MAX),
            bytes: start.saturating_sub(tail.start),
        };
        (tail.first, tail.start) = (Offset(last.0.saturating_add(1)), start);
        Ok(trimmed)
    }

    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64, LogError> {
        let mut inner = self.inner_mut();
        let Inner { tables, topics, .. } = &mut *inner;
        let Some(topic) = topics.get_mut(topic) else { return Ok(0) };
        if let Some(batches) = topic.batches.get_mut(publisher) {
            *batches = batches.split_off(&(before, BatchNo(0)));
        }
        let Some(epochs) = topic.epochs.get_mut(publisher) else { return Ok(0) };
        let kept = epochs.split_off(&before);
        let dropped = std::mem::replace(epochs, kept);
        for table in dropped.values().filter_map(|epoch| epoch.table) {
            tables.remove(&table);
        }
        Ok(u64::try_from(dropped.len()).unwrap_or(u64::MAX))
    }
}

impl MemoryLog {
    /// The first record for which `holds`, which is false up to some record and true from there on.
    fn seek(&self, topic: &TopicId, holds: impl Fn(u64, &Stored) -> bool) -> Result<Offset, LogError> {
        let inner = self.inner();
        let tail = inner.tails.get(topic).copied().unwrap_or_default();
        let at = |x| inner.topics.get(topic).and_then(|topic| topic.log.range(Offset(x)..).next());
        let x = lowest(tail.first.0, tail.next.0, |x| {
            Ok(at(x).is_none_or(|(_, (start, stored))| holds(*start, stored)))
        })?;
        Ok(at(x).map_or(tail.next, |(offset, _)| *offset))
    }
}

impl Inner {
    fn apply(&mut self, write: &Write, starts: &mut impl Iterator<Item = u64>) {
        match write.clone() {
            Write::CreateTopic { topic, genesis } => self.topic(topic).genesis = Some(genesis),
            Write::Append { topic, offset, stored_ms, record } => {
                let start = starts.next().unwrap_or_default();
                self.topic(topic).log.insert(offset, (start, Stored { offset, stored_ms, record }));
            }
            Write::Reserve { topic, below } => self.topic(topic).reserved = below,
            Write::Roster { topic, seq, offset, bundle } => {
                self.topic(topic).rosters.insert(seq, StoredRoster { seq, offset, bundle });
            }
            Write::Head { topic, head } => self.topic(topic).head = Some(head),
            Write::Publisher { topic, publisher, state } => {
                self.topic(topic).publishers.insert(publisher, state);
            }
            Write::Epoch { topic, publisher, epoch, offset, header, table } => {
                if let Some(table) = table {
                    self.staged.remove(&table);
                }
                let stored = StoredEpoch { epoch, offset, header, table };
                self.topic(topic).epochs.entry(publisher).or_default().insert(epoch, stored);
            }
            Write::Batch { topic, publisher, epoch, batch_no, offset, digest } => {
                let stored = StoredBatch { batch_no, offset, digest };
                self.topic(topic).batches.entry(publisher).or_default().insert((epoch, batch_no), stored);
            }
            Write::Prekey { owner, prekey } => {
                self.prekeys.insert(owner, prekey);
            }
            Write::TableChunk { table, first_member, slots } => {
                self.staged.insert(table);
                self.tables.entry(table).or_default().insert(first_member, slots);
            }
            Write::DropTable { table } => {
                if self.staged.remove(&table) {
                    self.tables.remove(&table);
                }
            }
        }
    }

    fn topic(&mut self, topic: TopicId) -> &mut Topic {
        self.topics.entry(topic).or_default()
    }
}

/// As many as `max_bytes` hold, at least one.
fn within<'a, T: Clone + 'a>(
    all: impl Iterator<Item = &'a T>,
    max_bytes: usize,
    size: impl Fn(&T) -> usize,
) -> Vec<T> {
    let mut bytes = 0_usize;
    let mut some = Vec::new();
    for one in all {
        bytes = bytes.saturating_add(size(one));
        if bytes > max_bytes && !some.is_empty() {
            break;
        }
        some.push(one.clone());
    }
    some
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::conformance::{self, Backend};

    #[derive(Default)]
    pub(crate) struct InMemory;

    impl Backend for InMemory {
        type Log = MemoryLog;

        fn fresh(&mut self) -> MemoryLog {
            MemoryLog::new()
        }

        fn reopen(&mut self, log: MemoryLog) -> MemoryLog {
            log.restarted()
        }
    }

    #[test]
    fn conforms() {
        conformance::run(&mut InMemory);
    }
}
