//! Retention where several brokers share an order. What goes is itself said in the order, by whichever edge finds first that it
//! is time; every edge trims its view when it reads that, and the edge that said it takes it out of the streams.
//!
//! What it says ([`Trim`]) is enough for who reads the streams later, and meets a hole, to go on as the others do. Each edge
//! compares it with its own view before it trims: edges that do not agree are found.

use std::sync::{Arc, Mutex, PoisonError};

use sealcast_proto::{Epoch, Offset, PublicKey, TopicId};

use crate::handle::Topic;
use crate::order::{Order, OrderError, Proposed};
use crate::retention;
use crate::shared::Shared;
use crate::store::{Log, LogError};
use crate::topic::{Left, REPEATS, Trim};

/// Headers looked at in one step back, a count.
const STEP: usize = 64;

/// A trim where it stands in the order.
#[derive(Clone)]
struct Said {
    at: u64,
    trim: Arc<Trim>,
    /// Whether this edge takes it out of the streams.
    ours: bool,
}

/// The highest trim of a topic that was read, until it is done.
#[derive(Default)]
pub(crate) struct Trims(Mutex<Option<Said>>);

impl Trims {
    /// A trim stands in the order at `at`.
    pub(crate) fn note(&self, at: u64, trim: Arc<Trim>, ours: bool) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref().is_none_or(|said| said.trim.before < trim.before) {
            *said = Some(Said { at, trim, ours });
        }
    }

    fn said(&self) -> Option<Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn done(&self, at: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|said| said.at == at);
    }
}

/// Trims the view of a topic as the order says; returns how many records went.
pub(crate) async fn settle(shared: &Shared, order: &Order, topic: &Topic) -> Result<u64, LogError> {
    let Some(said) = topic.trims.said() else { return Ok(0) };
    topic.stored_up_to(said.trim.before, shared.limits().next_frame).await;
    let (id, trim) = (topic.id(), said.trim.clone());
    let trimmed = match shared.storage.reads.run(move |log| apply(log, id, &trim)).await? {
        Applied::Trimmed(records) => records,
        Applied::Behind => return Ok(0),
        Applied::Differs => {
            tracing::error!(topic = %id.short(), at = said.at, "this broker's view is not that of the others: stop it, move its `view` and `view.marks` away, and start it again");
            order.fail();
            return Ok(0);
        }
    };
    if said.ours {
        let removed = order.cluster().remove(&id, said.at, &said.trim).await;
        // Tried again the next time.
        removed.map_err(|error| LogError::Io {
            doing: "trimming the cluster's streams",
            error: Arc::new(std::io::Error::other(error.to_string())),
        })?;
    }
    topic.trims.done(said.at);
    Ok(trimmed)
}

/// What came of a trim.
#[derive(Debug, PartialEq, Eq)]
enum Applied {
    /// So many records went, perhaps earlier.
    Trimmed(u64),
    /// The view has not got so far yet: it is tried again, and nothing can be said of it.
    Behind,
    /// The view has got there, and is another one.
    Differs,
}

fn apply(log: &dyn Log, topic: TopicId, trim: &Trim) -> Result<Applied, LogError> {
    let bounds = log.bounds(&topic)?;
    if trim.before <= bounds.first {
        return Ok(Applied::Trimmed(0));
    }
    if bounds.next < trim.before {
        return Ok(Applied::Behind);
    }
    if left(log, topic, trim.before)? != *trim {
        return Ok(Applied::Differs);
    }
    retention::trim(log, topic, trim.before).map(Applied::Trimmed)
}

/// Says in the order that what stands before `before` may go; waits until that was read back.
pub(crate) async fn say(
    shared: &Shared,
    order: &Arc<Order>,
    topic: &Topic,
    before: Offset,
) -> Result<(), LogError> {
    let id = topic.id();
    let trim = shared.storage.reads.run(move |log| left(log, id, before)).await?;
    let settled = order.settle(id, Proposed::Trim, topic.origin().genesis.owner, trim.encode()).await;
    if let Err(error) = settled {
        tracing::warn!(topic = %id.short(), %error, "not trimmed: tried again");
    }
    Ok(())
}

/// What is left of a topic without what stands before `before`.
fn left(log: &dyn Log, topic: TopicId, before: Offset) -> Result<Trim, LogError> {
    let mut out = Vec::new();
    for (publisher, _) in log.publishers(&topic)? {
        out.extend(left_of(log, topic, publisher, before)?);
    }
    Ok(Trim { before, left: out })
}

fn left_of(
    log: &dyn Log,
    topic: TopicId,
    publisher: PublicKey,
    before: Offset,
) -> Result<Option<Left>, LogError> {
    let oldest = retention::oldest_needed(log, topic, &publisher, before)?.unwrap_or(Epoch(0));
    let (mut headers, mut newest, mut up_to) = (Vec::new(), None, Epoch(u64::MAX));
    loop {
        let step = log.epochs_back(&topic, &publisher, up_to, STEP)?;
        let Some(last) = step.last().map(|last| last.epoch) else { break };
        for found in step.into_iter().filter(|found| found.epoch >= oldest && found.offset < before) {
            newest = newest.or(Some(found.epoch));
            headers.push(found.offset);
        }
        match last.0.checked_sub(1) {
            Some(next) if last > oldest => up_to = Epoch(next),
            _ => break,
        }
    }
    headers.reverse();
    let Some(epoch) = newest else { return Ok(None) };
    let mut batches = Vec::new();
    if let Some(last) = log.batch_before(&topic, &publisher, epoch, before)? {
        for no in last.batch_no.0.saturating_sub(REPEATS - 1)..last.batch_no.0 {
            let batch = log.batch(&topic, &publisher, epoch, sealcast_proto::BatchNo(no))?;
            batches.extend(batch.map(|batch| (batch.offset, batch.digest)));
        }
        batches.push((last.offset, last.digest));
    }
    Ok(Some(Left { publisher, headers, batches }))
}

/// Takes out of the streams, a partition after another, the parts that were put long ago and that nothing names.
pub(crate) async fn remove_parts(shared: &Shared, order: &Order) -> Result<(), OrderError> {
    for partition in 0..crate::order::PARTITIONS {
        let removed = order.cluster().remove_parts(partition, shared.limits().parts_wait).await?;
        if removed > 0 {
            tracing::info!(partition, removed, "parts that no record names");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::store::{MemoryLog, Write};

    #[test]
    fn a_view_that_is_not_there_yet_is_no_other_view() {
        let (log, topic) = (MemoryLog::new(), TopicId([7; 32]));
        let append = |offset| {
            let (offset, record) = (Offset(offset), Bytes::from_static(b"record"));
            log.write(&[Write::Append { topic, offset, stored_ms: 1, record }], true).unwrap();
        };
        log.write(&[Write::CreateTopic { topic, genesis: Bytes::from_static(b"genesis") }], true).unwrap();
        // Others hold a publisher's header there; this one has read nothing of it yet.
        let left = Left { publisher: crate::hand::key(1), headers: vec![Offset(2)], batches: Vec::new() };
        let theirs = Trim { before: Offset(5), left: vec![left] };
        let ours = Trim { before: Offset(5), left: Vec::new() };
        append(1);
        assert_eq!(apply(&log, topic, &theirs).unwrap(), Applied::Behind);
        append(4);
        append(8);
        assert_eq!(apply(&log, topic, &theirs).unwrap(), Applied::Differs, "it is there, and without it");
        assert_eq!(log.bounds(&topic).unwrap().first, Offset(0), "nothing went");
        assert_eq!(apply(&log, topic, &ours).unwrap(), Applied::Trimmed(2));
        assert_eq!(apply(&log, topic, &ours).unwrap(), Applied::Trimmed(0));
    }
}
