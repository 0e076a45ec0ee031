//! A slot table from the shared order into the view, part by part.

use bytes::Bytes;
use sealcast_proto::slot::TableCheck;

use crate::load;
use crate::order::{Order, OrderError};
use crate::storage::Storage;
use crate::store::{LogError, TableId, Write};
use crate::topic::Table;

/// Stages the table that a header's proposal names. What is not the table that the header names is none: every edge finds
/// so alike.
pub(super) async fn stage(
    storage: &Storage,
    order: &Order,
    (partition, stored_ms): (u16, u64),
    header: &Bytes,
    parts: &[u64],
) -> Result<Table, LogError> {
    let Some(header) = load::header(header.clone()).ok().and_then(|header| header.peek().ok()) else {
        return Ok(Table::Missing);
    };
    let mut check = TableCheck::new(header.slot_count, header.slots_hash);
    if header.slot_count == 0 {
        return Ok(if check.finish().is_ok() { Table::Empty } else { Table::Missing });
    }
    let table = storage.reads.log().new_table();
    for at in parts {
        let part = loop {
            match order.cluster().part(partition, *at, Some(stored_ms)).await {
                Ok(part) => break part,
                // The order cannot be read on without it.
                Err(error @ OrderError::Away { .. }) => {
                    tracing::warn!(%error, "a slot table's part: trying again");
                    tokio::time::sleep(super::ASK_EVERY).await;
                }
                Err(error) => return Err(LogError::Corrupt(error.to_string())),
            }
        };
        let first = part.as_ref().and_then(|part| check.feed(part).ok()).flatten();
        let (Some(slots), Some(first_member)) = (part, first) else { return missing(storage, table).await };
        storage.put(vec![Write::TableChunk { table, first_member, slots }]).await?;
    }
    match check.finish() {
        Ok(()) => Ok(Table::Staged(table)),
        Err(_) => missing(storage, table).await,
    }
}

async fn missing(storage: &Storage, table: TableId) -> Result<Table, LogError> {
    storage.put(vec![Write::DropTable { table }]).await?;
    Ok(Table::Missing)
}
