//! Slot tables that wait for their header.

use std::collections::{HashMap, VecDeque};

use sealcast_proto::object::EpochHeader;
use sealcast_proto::slot::table_hash;
use sealcast_proto::{Hash, PublicKey, Signed};

use crate::limits;
use crate::store::TableId;
use crate::topic::Table;

/// A table that was uploaded whole and checked.
pub(super) struct Staged {
    pub(super) slot_count: u32,
    pub(super) slots_hash: Hash,
    pub(super) table: TableId,
    /// Where several brokers share an order: where its parts stand there.
    pub(super) parts: Vec<u64>,
}

/// Each publisher's newest ones.
#[derive(Default)]
pub(super) struct Tables(HashMap<PublicKey, VecDeque<Staged>>);

impl Tables {
    /// Keeps a table for its header; returns one that it displaced.
    pub(super) fn stage(&mut self, publisher: PublicKey, staged: Staged) -> Option<TableId> {
        let waiting = self.0.entry(publisher).or_default();
        waiting.push_back(staged);
        if waiting.len() <= limits::STAGED_TABLES {
            return None;
        }
        waiting.pop_front().map(|oldest| oldest.table)
    }

    /// The table that a header names.
    pub(super) fn find(&self, publisher: &PublicKey, header: &Signed<EpochHeader>) -> Table {
        let Ok(header) = header.peek() else { return Table::Missing };
        if header.slot_count == 0 {
            return if header.slots_hash == table_hash(&[]) { Table::Empty } else { Table::Missing };
        }
        let named = |it: &&Staged| it.slot_count == header.slot_count && it.slots_hash == header.slots_hash;
        let found = self.0.get(publisher).and_then(|waiting| waiting.iter().find(named));
        found.map_or(Table::Missing, |staged| Table::Staged(staged.table))
    }

    /// Where the parts of a table that was found stand.
    pub(super) fn parts(&self, publisher: &PublicKey, table: Table) -> Vec<u64> {
        let Table::Staged(table) = table else { return Vec::new() };
        let found = self.0.get(publisher).and_then(|waiting| waiting.iter().find(|it| it.table == table));
        found.map(|staged| staged.parts.clone()).unwrap_or_default()
    }

    /// A header took its table.
    pub(super) fn taken(&mut self, publisher: &PublicKey, table: Option<TableId>) {
        if let (Some(table), Some(waiting)) = (table, self.0.get_mut(publisher)) {
            waiting.retain(|staged| staged.table != table);
            if waiting.is_empty() {
                self.0.remove(publisher);
            }
        }
    }
}
