//! Taking up whole topics from elsewhere. A topic that is being imported has no genesis yet, so that nobody sees it, and a
//! mark, so that it is cleared away if the import is cut short.

use std::sync::PoisonError;

use ::fjall::PersistMode;
use bytes::Bytes;
use sealcast_proto::{MemberIndex, Offset, TopicId};

use super::FjallLog;
use super::engine::{Engine, bytes, from};
use super::trim::REMOVE_STEP;
use crate::store::tail::Tail;
use crate::store::{LogError, TableId, keys};

/// Chunks of a table read at a time, a count: of at most 56 KiB.
const CHUNKS: usize = 16;

impl FjallLog {
    /// From here on writes of `topic` are taken, the lowest offset being `first`. Nobody sees it before
    /// [`FjallLog::end_import`]. One that is here already is refused: [`FjallLog::clear_import`] would clear it away.
    pub(crate) fn begin_import(&self, topic: &TopicId, first: Offset) -> Result<(), LogError> {
        let _writing = self.writable()?;
        if self.tails.read().unwrap_or_else(PoisonError::into_inner).contains_key(topic) {
            return Err(LogError::Misuse(format!("topic {} is here already", topic.short())));
        }
        let engine = self.engine()?;
        let mut batch = engine.db.batch();
        batch.insert(&engine.index, keys::of_topic(keys::IMPORT, topic), []);
        batch.insert(&engine.index, keys::of_topic(keys::TRIM, topic), keys::trim_value(first, 0));
        let batch = batch.durability(Some(PersistMode::Buffer));
        batch.commit().map_err(|error| self.fail("beginning an import", error))?;
        self.keep_tail(topic, Some(Tail { first, next: first, start: 0, end: 0 }));
        Ok(())
    }

    /// The topics imported are there, all or none, with everything written of them.
    pub(crate) fn end_import(&self, topics: &[(TopicId, Bytes)]) -> Result<(), LogError> {
        let _writing = self.writable()?;
        let engine = self.engine()?;
        let mut batch = engine.db.batch();
        for (topic, genesis) in topics {
            batch.insert(&engine.index, keys::of_topic(keys::GENESIS, topic), genesis.clone());
            batch.remove(&engine.index, keys::of_topic(keys::IMPORT, topic));
        }
        let batch = batch.durability(Some(PersistMode::SyncData));
        batch.commit().map_err(|error| self.fail("ending an import", error))
    }

    /// Gives an import up.
    pub(crate) fn clear_import(&self, topic: &TopicId) -> Result<(), LogError> {
        let _writing = self.writable()?;
        self.keep_tail(topic, None);
        let engine = self.engine()?;
        clear(&engine, topic).map_err(|error| self.fail("clearing an import away", error))
    }

    /// Chunks of a slot table from `member`'s on, some at a time.
    pub(crate) fn chunks(
        &self,
        table: TableId,
        member: MemberIndex,
    ) -> Result<Vec<(MemberIndex, Bytes)>, LogError> {
        let engine = self.engine()?;
        let doing = |error| self.translate("reading", error);
        let chunks = from(&engine.tables, &table.0.to_be_bytes(), &keys::chunk(table, member));
        let chunks = chunks.take(CHUNKS).map(|chunk| {
            let (key, slots) = chunk.into_inner().map_err(doing)?;
            Ok((keys::parse_chunk_member(&key)?, bytes(slots)))
        });
        chunks.collect()
    }
}

/// Clears away what imports that were cut short left; returns how many.
pub(super) fn clear_all(engine: &Engine) -> ::fjall::Result<u64> {
    let mut cleared = 0;
    for entry in engine.index.prefix([keys::IMPORT]) {
        if let Ok(topic) = keys::parse_topic(&entry.key()?) {
            clear(engine, &topic)?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// Removes all that stands under a topic, its mark last.
fn clear(engine: &Engine, topic: &TopicId) -> ::fjall::Result<()> {
    let id = topic.as_bytes();
    for entry in engine.index.prefix(keys::of_topic(keys::EPOCH, topic)) {
        let (_, value) = entry.into_inner()?;
        if let Ok((_, Some(table))) = keys::parse_epoch_value(&value) {
            remove(engine, &engine.tables, &table.0.to_be_bytes())?;
        }
    }
    remove(engine, &engine.log, id)?;
    remove(engine, &engine.rosters, id)?;
    for tag in [keys::TRIM, keys::RESERVED, keys::HEAD, keys::PUBLISHER, keys::EPOCH, keys::BATCH] {
        remove(engine, &engine.index, &keys::of_topic(tag, topic))?;
    }
    remove(engine, &engine.index, &keys::of_topic(keys::IMPORT, topic))
}

fn remove(engine: &Engine, keyspace: &::fjall::Keyspace, prefix: &[u8]) -> ::fjall::Result<()> {
    let mut batch = engine.db.batch();
    for entry in keyspace.prefix(prefix) {
        batch.remove(keyspace, entry.key()?);
        if batch.len() == REMOVE_STEP {
            let full = std::mem::replace(&mut batch, engine.db.batch());
            full.durability(Some(PersistMode::Buffer)).commit()?;
        }
    }
    batch.durability(Some(PersistMode::Buffer)).commit()
}
