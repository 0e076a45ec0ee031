//! A slot table on its way into the store: checked as it streams, never held whole.

use bytes::BytesMut;
use sealcast_proto::frame::{Reply, Request};
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::roster::Role;
use sealcast_proto::slot::TableCheck;
use sealcast_proto::{Hash, Offset, TopicId};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::{End, Stream, malformed};
use crate::handle::Message;
use crate::lookup;
use crate::order::{Kind, Order, unconfirmed};
use crate::registry::Counted;
use crate::store::{LogError, TableId, When, Write, Writer};

pub(super) async fn run(
    stream: &mut Stream,
    id: TopicId,
    slot_count: u32,
    slots_hash: Hash,
) -> Result<(), End> {
    let shared = stream.shared.clone();
    let may =
        |opened: &crate::handle::Opened| opened.standing.role.is_some_and(|role| role >= Role::Publisher);
    let (topic, _) = shared.enter_if(stream.peer, &id, may).await?;
    let limits = shared.limits();
    if slot_count > limits.table_slots {
        let detail = format!("this broker takes tables of at most {} slots", limits.table_slots);
        return Err(malformed(detail));
    }
    let Some(place) = shared.registry.take(Counted::Uploads, stream.peer, limits.uploads_per_identity) else {
        return Err(lookup::busy("this identity uploads as many tables as one may").into());
    };
    let begun = Instant::now();
    let writer = shared.storage.commit.writer();
    let table = shared.storage.reads.log().new_table();
    let mut check = TableCheck::new(slot_count, slots_hash);
    let received = async {
        match shared.storage.order.clone() {
            Some(order) => send_parts(stream, &order, id, slot_count, &mut check).await,
            None => receive(stream, &writer, table, slot_count, &mut check).await.map(|()| Vec::new()),
        }
    };
    let received = timeout(limits.upload, received);
    let received = received.await.unwrap_or_else(|_| Err(lookup::busy("the table took too long").into()));
    let result = match received {
        Ok(parts) => check.finish().map(|()| parts).map_err(|error| malformed(error.to_string())),
        Err(end) => Err(end),
    };
    let parts = match result {
        Ok(parts) => parts,
        Err(end) => {
            let commit = shared.storage.commit.clone();
            // What was staged is of no use; if this fails too, it goes when the log is opened.
            tokio::spawn(async move { commit.write(vec![Write::DropTable { table }]).await });
            return Err(end);
        }
    };
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let identity = stream.peer;
    topic.send(Message::Table { identity, slot_count, slots_hash, table, parts, took_ms }).await?;
    // Before the answer: whoever has it may begin the next one.
    drop(place);
    stream.reply(&Reply::Done(Offset(0))).await?;
    Ok(())
}

/// Takes chunk after chunk. None of them is synced for its own sake: the header that names the table is, and with it all
/// that was written before.
async fn receive(
    stream: &mut Stream,
    writer: &Writer,
    table: TableId,
    slot_count: u32,
    check: &mut TableCheck,
) -> Result<(), End> {
    let rate = stream.shared.registry.rate(stream.peer);
    let mut left = usize::try_from(slot_count).unwrap_or(usize::MAX).saturating_mul(SLOT_BYTES);
    let mut last: Option<oneshot::Receiver<Result<(), LogError>>> = None;
    while left > 0 {
        let Request::Table(slots) = stream.owed().await? else {
            return Err(malformed("only slots belong to an upload"));
        };
        let first = check.feed(&slots).map_err(|error| malformed(error.to_string()))?;
        let Some(first_member) = first else { return Err(malformed("a frame without slots")) };
        left = left.saturating_sub(slots.len());
        stream.shared.throttle(&rate, slots.len()).await;
        last = Some(submit(stream, writer, Write::TableChunk { table, first_member, slots }).await?);
    }
    if let Some(last) = last {
        // In order: when the last chunk is written, all are.
        last.await.unwrap_or(Err(LogError::Closed))?;
    }
    Ok(())
}

async fn submit(
    stream: &Stream,
    writer: &Writer,
    write: Write,
) -> Result<oneshot::Receiver<Result<(), LogError>>, End> {
    let budget = stream.shared.storage.commit.reserve(write.size()).await?;
    let (done, result) = oneshot::channel();
    writer.submit(budget, vec![write], When::Written, move |result| {
        // Only the last one is waited for.
        let _ = done.send(result);
    });
    Ok(result)
}

/// Takes chunk after chunk and gives them to the cluster, as few parts as hold them; returns where they stand. The header that
/// names them comes behind them.
async fn send_parts(
    stream: &mut Stream,
    order: &Order,
    id: TopicId,
    slot_count: u32,
    check: &mut TableCheck,
) -> Result<Vec<u64>, End> {
    let rate = stream.shared.registry.rate(stream.peer);
    let cluster = order.cluster();
    let whole = cluster.part_bytes() / SLOT_BYTES * SLOT_BYTES;
    let mut left = usize::try_from(slot_count).unwrap_or(usize::MAX).saturating_mul(SLOT_BYTES);
    let (mut parts, mut held) = (Vec::new(), BytesMut::new());
    while left > 0 || !held.is_empty() {
        if left > 0 && held.len() < whole {
            let Request::Table(slots) = stream.owed().await? else {
                return Err(malformed("only slots belong to an upload"));
            };
            let first = check.feed(&slots).map_err(|error| malformed(error.to_string()))?;
            if first.is_none() {
                return Err(malformed("a frame without slots"));
            }
            left = left.saturating_sub(slots.len());
            stream.shared.throttle(&rate, slots.len()).await;
            held.extend_from_slice(&slots);
            continue;
        }
        let part = held.split_to(held.len().min(whole)).freeze();
        let put = cluster.put_part(&id, Kind::Header, part).await;
        let at = put.map_err(|error| {
            tracing::warn!(%error, "a slot table is refused");
            unconfirmed(&error)
        })?;
        parts.push(at);
    }
    Ok(parts)
}
