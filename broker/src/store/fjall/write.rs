//! Turning writes into one batch of the engine.

use std::collections::{BTreeMap, HashSet};

use ::fjall::OwnedWriteBatch;
use bytes::Bytes;

use super::engine::Engine;
use crate::store::tail::Plan;
use crate::store::{TableId, Write, keys};

/// All of `writes` in one batch; keeps `staged` up to date.
pub(super) fn batch(
    engine: &Engine,
    writes: &[Write],
    plan: &Plan,
    staged: &mut HashSet<TableId>,
) -> ::fjall::Result<OwnedWriteBatch> {
    let mut pending = Pending::default();
    let mut starts = plan.starts.iter().copied();
    for write in writes {
        pending.add(engine, write, &mut starts, staged)?;
    }
    let mut batch = engine.db.batch();
    for ((space, key), value) in pending.0 {
        let keyspace = match space {
            Space::Log => &engine.log,
            Space::Rosters => &engine.rosters,
            Space::Tables => &engine.tables,
            Space::Index => &engine.index,
        };
        match value {
            Some(value) => batch.insert(keyspace, key, value),
            None => batch.remove(keyspace, key),
        }
    }
    Ok(batch)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Log,
    Rosters,
    Tables,
    Index,
}

/// What each key becomes. The engine gives all of a batch one sequence number, so a key must not stand in it twice;
/// and what is pending is not yet there to be searched.
#[derive(Default)]
struct Pending(BTreeMap<(Space, Vec<u8>), Option<Bytes>>);

impl Pending {
    fn add(
        &mut self,
        engine: &Engine,
        write: &Write,
        starts: &mut impl Iterator<Item = u64>,
        staged: &mut HashSet<TableId>,
    ) -> ::fjall::Result<()> {
        match write {
            Write::CreateTopic { topic, genesis } => {
                self.index(keys::of_topic(keys::GENESIS, topic), genesis.clone());
            }
            Write::Append { topic, offset, stored_ms, record } => {
                let start = starts.next().unwrap_or_default();
                let place = keys::Place { offset: *offset, stored_ms: *stored_ms, start };
                self.put(Space::Log, keys::log(topic, place), record.clone());
            }
            Write::Reserve { topic, below } => {
                let below = Bytes::copy_from_slice(&below.0.to_be_bytes());
                self.index(keys::of_topic(keys::RESERVED, topic), below);
            }
            Write::Roster { topic, seq, offset, bundle } => {
                self.put(Space::Rosters, keys::roster(topic, *seq, *offset), bundle.clone());
            }
            Write::Head { topic, head } => self.index(keys::of_topic(keys::HEAD, topic), head.clone()),
            Write::Publisher { topic, publisher, state } => {
                self.index(keys::of_publisher(keys::PUBLISHER, topic, publisher).done(), state.clone());
            }
            Write::Epoch { topic, publisher, epoch, offset, header, table } => {
                let value = keys::epoch_value(*offset, *table, header);
                self.index(keys::epoch(topic, publisher, *epoch), value.into());
                if let Some(table) = table
                    && staged.remove(table)
                {
                    self.remove(Space::Index, keys::staged(*table));
                }
            }
            Write::Batch { topic, publisher, epoch, batch_no, offset, digest } => {
                let key = keys::batch(topic, publisher, *epoch, *batch_no);
                self.index(key, keys::batch_value(*offset, digest).into());
            }
            Write::Prekey { owner, prekey } => self.index(keys::prekey(owner), prekey.clone()),
            Write::TableChunk { table, first_member, slots } => {
                if staged.insert(*table) {
                    self.index(keys::staged(*table), Bytes::new());
                }
                self.put(Space::Tables, keys::chunk(*table, *first_member), slots.clone());
            }
            Write::DropTable { table } => {
                if staged.remove(table) {
                    self.remove_table(engine, *table)?;
                    self.remove(Space::Index, keys::staged(*table));
                }
            }
        }
        Ok(())
    }

    fn remove_table(&mut self, engine: &Engine, table: TableId) -> ::fjall::Result<()> {
        for chunk in engine.tables.prefix(table.0.to_be_bytes()) {
            self.remove(Space::Tables, chunk.key()?.to_vec());
        }
        let (first, last) = (table.0.to_be_bytes().to_vec(), keys::chunk(table, keys::LAST_MEMBER));
        for (_, value) in self.0.range_mut((Space::Tables, first)..=(Space::Tables, last)) {
            *value = None;
        }
        Ok(())
    }

    fn index(&mut self, key: Vec<u8>, value: Bytes) {
        self.put(Space::Index, key, value);
    }

    fn put(&mut self, space: Space, key: Vec<u8>, value: Bytes) {
        self.0.insert((space, key), Some(value));
    }

    fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.0.insert((space, key), None);
    }
}
