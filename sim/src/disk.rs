//! The broker's disk: what was written, how much of it is safe, and what a crash leaves.

use std::collections::BTreeMap;

use sealcast_broker::internals::{Keep, retain};
use sealcast_broker::store::{Log, MemoryLog, TableId, Write};
use sealcast_proto::{Offset, TopicId};

/// One change, in order. A crash leaves the first so many of them.
enum Change {
    Write(Vec<Write>),
    Retain { topic: TopicId, keep: Keep, head: Offset, now_ms: u64 },
}

/// See the module.
pub(crate) struct Disk {
    pub(crate) log: MemoryLog,
    journal: Vec<Change>,
    synced: usize,
    /// Which change brought each record.
    places: BTreeMap<Offset, usize>,
    tables: u64,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { log: MemoryLog::new(), journal: Vec::new(), synced: 0, places: BTreeMap::new(), tables: 0 }
    }

    pub(crate) fn write(&mut self, writes: Vec<Write>) {
        self.apply(&Change::Write(writes.clone()));
        self.journal.push(Change::Write(writes));
    }

    pub(crate) fn retain(&mut self, topic: TopicId, keep: Keep, head: Offset, now_ms: u64) -> u64 {
        let trimmed = retain(&self.log, topic, keep, head, now_ms).expect("a log in memory can be trimmed");
        if trimmed > 0 {
            self.journal.push(Change::Retain { topic, keep, head, now_ms });
        }
        trimmed
    }

    fn apply(&mut self, change: &Change) {
        match change {
            Change::Write(writes) => {
                for write in writes {
                    match write {
                        Write::Append { offset, .. } => {
                            self.places.insert(*offset, self.journal.len());
                        }
                        Write::TableChunk { table, .. } => self.tables = self.tables.max(table.0 + 1),
                        _ => {}
                    }
                }
                self.log.write(writes, false).expect("the machine keeps the log's rules");
            }
            Change::Retain { topic, keep, head, now_ms } => {
                retain(&self.log, *topic, *keep, *head, *now_ms).expect("a log in memory can be trimmed");
            }
        }
    }

    pub(crate) fn new_table(&mut self) -> TableId {
        self.tables += 1;
        TableId(self.tables - 1)
    }

    /// How many changes there are.
    pub(crate) fn len(&self) -> usize {
        self.journal.len()
    }

    pub(crate) fn synced(&self) -> usize {
        self.synced
    }

    /// The first `upto` changes are safe.
    pub(crate) fn sync(&mut self, upto: usize) {
        self.synced = self.synced.max(upto);
    }

    /// Whether a crash leaves this record.
    pub(crate) fn is_safe(&self, offset: Offset) -> bool {
        self.places.get(&offset).is_some_and(|at| *at < self.synced)
    }

    /// Whether this record was written and not lost since; retention does not count as loss.
    pub(crate) fn was_written(&self, offset: Offset) -> bool {
        self.places.contains_key(&offset)
    }

    /// What is left after a crash: the first `keep` changes, without tables that no header took.
    pub(crate) fn crash(&mut self, keep: usize) {
        let mut changes = std::mem::take(&mut self.journal);
        changes.truncate(keep);
        self.log = MemoryLog::new();
        self.places.clear();
        for change in changes {
            self.apply(&change);
            self.journal.push(change);
        }
        self.log = self.log.restarted();
        self.synced = self.journal.len();
    }
}
