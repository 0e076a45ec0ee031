//! Retention: what a topic's policy lets go, a topic at a time, beside everything else.
//!
//! Records go by age and by bytes. Roster entries stay for ever. Of headers and slot tables stay, per publisher, those from
//! the last *fresh* epoch before the oldest retained record, else all (docs/protocol.md section 8): what a
//! subscriber at the oldest record needs to open it. Brokers that share an order agree on it there (crate::edge::trim).

use std::collections::HashMap;
use std::sync::Arc;

use sealcast_proto::object::Mode;
use sealcast_proto::policy::Policy;
use sealcast_proto::{Epoch, Offset, PublicKey, TopicId};
use tokio::time::sleep;

use crate::clock::now_ms;
use crate::damage;
use crate::edge::trim;
use crate::handle::Topic;
use crate::limits::Limits;
use crate::load;
use crate::order::Order;
use crate::shared::Shared;
use crate::store::{Bounds, Log, LogError};

/// Headers looked at in one step back, a count.
const STEP: usize = 16;

/// How much a topic keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Milliseconds; 0: for ever.
    pub ms: u64,
    /// Bytes of records; 0: no bound.
    pub bytes: u64,
}

impl Keep {
    pub fn of(policy: &Policy) -> Self {
        Self { ms: policy.retain_ms, bytes: policy.retain_bytes }
    }

    /// No more than the broker keeps for anybody.
    fn capped(self, limits: &Limits) -> Self {
        let least = |own: u64, cap: u64| match (own, cap) {
            (0, other) | (other, 0) => other,
            (own, cap) => own.min(cap),
        };
        let ms = u64::try_from(limits.retain_time.as_millis()).unwrap_or(u64::MAX);
        Self { ms: least(self.ms, ms), bytes: least(self.bytes, limits.retain_bytes.0) }
    }

    /// A little more, where each trim is said to several brokers: not every record for itself.
    fn lax(self) -> Self {
        let more = |keep: u64| keep.saturating_add(keep / 16);
        Self { ms: more(self.ms), bytes: more(self.bytes) }
    }

    /// Whether retention has something to do, as far as memory tells: no topic is woken and no disk asked for nothing.
    fn is_due(self, bounds: Bounds, oldest: Option<&Oldest>, now_ms: u64) -> bool {
        let too_many = self.bytes > 0 && bounds.bytes > self.bytes;
        let known = oldest.filter(|oldest| oldest.first == bounds.first);
        let is_old = |oldest: &Oldest| oldest.stored_ms.saturating_add(self.ms) < now_ms;
        let too_old = self.ms > 0 && bounds.first < bounds.next && known.is_none_or(is_old);
        too_many || too_old
    }
}

/// When the first record retained was stored.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    first: Offset,
    stored_ms: u64,
}

impl Oldest {
    fn of(log: &dyn Log, id: &TopicId) -> Result<Option<Self>, LogError> {
        let first = log.bounds(id)?.first;
        // What cannot be read is asked again the next time, and gone some day.
        let record = log.read(id, first, 1).unwrap_or_default().into_iter().next();
        Ok(record.map(|record| Self { first, stored_ms: record.stored_ms }))
    }

    fn keep(all: &mut HashMap<TopicId, Self>, id: TopicId, oldest: Option<Self>) {
        match oldest {
            Some(oldest) => all.insert(id, oldest),
            None => all.remove(&id),
        };
    }
}

/// Applies retention to every topic, again and again.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut oldest = HashMap::new();
    let mut parts = tokio::time::Instant::now();
    loop {
        // Even if nobody writes: retention may be what met the full disk, and no topic waits for space then.
        if let Some(LogError::Full { .. }) = shared.storage.trouble()
            && let Err(error) = shared.storage.reads.run(|log| log.recover()).await
        {
            tracing::debug!(%error, "not writable");
        }
        for topic in shared.registry.topics() {
            match apply_to(&shared, &topic, &mut oldest).await {
                Ok(()) => {}
                Err(error) if error.is_damage() => {
                    damage::say(&format!("topic {}: retention failed: {error}", topic.id().short()));
                }
                Err(error) => {
                    tracing::warn!(topic = %topic.id().short(), %error, "retention failed");
                }
            }
        }
        if let Some(order) = &shared.storage.order
            && parts.elapsed() >= shared.limits().parts_wait
        {
            parts = tokio::time::Instant::now();
            if let Err(error) = trim::remove_parts(&shared, order).await {
                tracing::warn!(%error, "parts that no record names: tried again");
            }
        }
        shared.registry.forget_rates();
        sleep(shared.limits().retention_every).await;
    }
}

async fn apply_to(
    shared: &Shared,
    topic: &Topic,
    oldest: &mut HashMap<TopicId, Oldest>,
) -> Result<(), LogError> {
    if let Some(order) = &shared.storage.order {
        return apply_shared(shared, order, topic, oldest).await;
    }
    let (id, keep, head, now_ms) =
        (topic.id(), topic.keep().capped(&shared.limits()), topic.head(), now_ms());
    let reads = &shared.storage.reads;
    if !keep.is_due(reads.log().bounds(&id)?, oldest.get(&id), now_ms) {
        return Ok(());
    }
    let work = move |log: &dyn Log| Ok((apply(log, id, keep, head, now_ms)?, Oldest::of(log, &id)?));
    let (trimmed, first) = reads.run(work).await?;
    Oldest::keep(oldest, id, first);
    said(shared, topic, trimmed);
    Ok(())
}

/// The same where several brokers share an order: when it is time, that is said there, and what is said there is done.
async fn apply_shared(
    shared: &Shared,
    order: &Arc<Order>,
    topic: &Topic,
    oldest: &mut HashMap<TopicId, Oldest>,
) -> Result<(), LogError> {
    said(shared, topic, trim::settle(shared, order, topic).await?);
    let (id, keep, head, now_ms) =
        (topic.id(), topic.keep().capped(&shared.limits()), topic.head(), now_ms());
    let (reads, lax) = (&shared.storage.reads, keep.lax());
    if order.has_failed() || !lax.is_due(reads.log().bounds(&id)?, oldest.get(&id), now_ms) {
        return Ok(());
    }
    let work = move |log: &dyn Log| {
        // The newest record stays: it shows whoever makes its view anew where the log ends.
        let newest = log.read_back(&id, head, 1)?.first().map_or(Offset(0), |newest| newest.offset);
        let is_due = floor(log, id, lax, newest, now_ms)? > log.bounds(&id)?.first;
        let before = if is_due { floor(log, id, keep, newest, now_ms)? } else { Offset(0) };
        // Right behind the last one that goes: every view begins there then.
        let last = log.read_back(&id, before, 1)?.first().map(|last| Offset(last.offset.0.saturating_add(1)));
        let before = last.filter(|_| is_due);
        Ok((before, Oldest::of(log, &id)?))
    };
    let (before, first) = reads.run(work).await?;
    Oldest::keep(oldest, id, first);
    if let Some(before) = before {
        trim::say(shared, order, topic, before).await?;
        said(shared, topic, trim::settle(shared, order, topic).await?);
    }
    Ok(())
}

fn said(shared: &Shared, topic: &Topic, trimmed: u64) {
    shared.metrics.trimmed(trimmed);
    if trimmed > 0 {
        tracing::debug!(topic = %topic.id().short(), records = trimmed, "retention");
    }
}

/// Trims one topic; nothing at or after `head`. Returns how many records went.
pub fn apply(log: &dyn Log, topic: TopicId, keep: Keep, head: Offset, now_ms: u64) -> Result<u64, LogError> {
    let before = floor(log, topic, keep, head, now_ms)?;
    if before <= log.bounds(&topic)?.first { Ok(0) } else { trim(log, topic, before) }
}

/// Up to where one topic is to be trimmed; nothing at or after `head`.
fn floor(log: &dyn Log, topic: TopicId, keep: Keep, head: Offset, now_ms: u64) -> Result<Offset, LogError> {
    let bounds = log.bounds(&topic)?;
    let mut before = bounds.first;
    if keep.ms > 0 {
        before = before.max(log.seek_time(&topic, now_ms.saturating_sub(keep.ms))?);
    }
    if keep.bytes > 0 && bounds.bytes > keep.bytes {
        before = before.max(log.seek_bytes(&topic, keep.bytes)?);
    }
    Ok(before.min(head))
}

/// Removes what stands before `before`, and the headers that nothing retained needs then. Returns how many records went.
pub(crate) fn trim(log: &dyn Log, topic: TopicId, before: Offset) -> Result<u64, LogError> {
    let trimmed = log.trim(&topic, before)?;
    for (publisher, _) in log.publishers(&topic)? {
        if let Some(oldest) = oldest_needed(log, topic, &publisher, before)? {
            log.drop_epochs(&topic, &publisher, oldest)?;
        }
    }
    Ok(trimmed.records)
}

/// The last fresh epoch before the oldest record retained; `None`: all of them are needed.
pub(crate) fn oldest_needed(
    log: &dyn Log,
    topic: TopicId,
    publisher: &PublicKey,
    first: Offset,
) -> Result<Option<Epoch>, LogError> {
    let mut up_to = Epoch(u64::MAX);
    loop {
        let step = log.epochs_back(&topic, publisher, up_to, STEP)?;
        let Some(oldest) = step.last().map(|oldest| oldest.epoch) else { return Ok(None) };
        for found in step {
            let header = load::header(found.header).and_then(|header| header.peek());
            let fresh = header.is_ok_and(|header| header.mode == Mode::Fresh);
            // The epoch in force before the first record retained, or one before it: who begins there is shown by it where
            // the publisher stood.
            if found.offset < first && fresh {
                return Ok(Some(found.epoch));
            }
        }
        let Some(before) = oldest.0.checked_sub(1) else { return Ok(None) };
        up_to = Epoch(before);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sealcast_proto::BatchNo;

    use super::*;
    use crate::hand::{Admin, Hand, batch_record, genesis, header_record};
    use crate::lookup;
    use crate::store::{MemoryLog, Write};

    /// Puts an epoch and a batch of it into `log`, from `at` on.
    fn publish(log: &MemoryLog, admin: &Admin, hand: &mut Hand, at: u64, stored_ms: u64) {
        let (header, _) = hand.begin(&admin.roster, &[]);
        let batch = hand.batch(b"noise");
        let parsed = header.peek().unwrap();
        let (topic, publisher, epoch, next) = (parsed.topic, parsed.publisher, parsed.epoch, Offset(at + 1));
        let append = |offset, record| Write::Append { topic, offset, stored_ms, record };
        let (offset, record) = (Offset(at), header_record(&header));
        let writes = [
            append(offset, record.clone()),
            Write::Epoch { topic, publisher, epoch, offset, header: record, table: None },
            Write::Publisher { topic, publisher, state: Bytes::new() },
            append(next, batch_record(&batch)),
            Write::Batch {
                topic,
                publisher,
                epoch,
                batch_no: BatchNo(0),
                offset: next,
                digest: batch.digest().encode(),
            },
        ];
        log.write(&writes, false).unwrap();
    }

    #[test]
    fn the_epoch_before_the_oldest_record_shows_where_its_publisher_stood() {
        let (topic, genesis, signed) = genesis(0);
        let log = MemoryLog::new();
        log.write(&[Write::CreateTopic { topic, genesis: signed.body().clone() }], false).unwrap();
        let (admin, mut hand) = (Admin::new(topic, &genesis), Hand::new(2));
        for (at, stored_ms) in [(0, 100), (2, 200), (4, 900)] {
            publish(&log, &admin, &mut hand, at, stored_ms);
        }
        assert_eq!(apply(&log, topic, Keep { ms: 500, bytes: 0 }, Offset(6), 1_000).unwrap(), 4);
        assert_eq!(log.bounds(&topic).unwrap().first, Offset(4));
        let shown = lookup::contexts(&log, topic, Offset(4), &[]).unwrap();
        assert_eq!(shown.len(), 1, "a subscription that begins with the third epoch is shown the second");
        assert_eq!(shown[0].batch.as_ref().map(|(_, offset)| *offset), Some(Offset(3)));
        let epochs = log.epochs_back(&topic, &hand.id.public(), Epoch(u64::MAX), 9).unwrap();
        assert_eq!(epochs.len(), 2, "and the first is gone");
    }

    #[test]
    fn where_nothing_ever_stood_retention_leaves_no_hole() {
        let (topic, genesis, signed) = genesis(0);
        let log = MemoryLog::new();
        log.write(&[Write::CreateTopic { topic, genesis: signed.body().clone() }], false).unwrap();
        let (admin, mut hand) = (Admin::new(topic, &genesis), Hand::new(2));
        publish(&log, &admin, &mut hand, 1_000, 100);
        let keep = Keep { ms: 500, bytes: 0 };
        assert_eq!(apply(&log, topic, keep, Offset(1_002), 200).unwrap(), 0);
        assert_eq!(log.bounds(&topic).unwrap().first, Offset(0), "all that ever stood there is there");
        publish(&log, &admin, &mut hand, 5_000, 900);
        assert_eq!(apply(&log, topic, keep, Offset(5_002), 1_000).unwrap(), 2);
        assert_eq!(log.bounds(&topic).unwrap().first, Offset(1_002), "behind the last that went");
    }

    #[test]
    fn a_topic_keeps_no_more_than_the_broker_lets_it() {
        let limits = Limits {
            retain_time: std::time::Duration::from_millis(100),
            retain_bytes: crate::settings::Size(50),
            ..Limits::default()
        };
        let capped = |ms, bytes| Keep { ms, bytes }.capped(&limits);
        assert_eq!(capped(0, 0), Keep { ms: 100, bytes: 50 }, "for ever is longer than any cap");
        assert_eq!(capped(99, 51), Keep { ms: 99, bytes: 50 });
        assert_eq!(Keep { ms: 7, bytes: 0 }.capped(&Limits::default()), Keep { ms: 7, bytes: 0 });
    }

    #[test]
    fn nobody_is_asked_for_nothing() {
        let bounds = |first, next, bytes| Bounds { first: Offset(first), next: Offset(next), bytes };
        let oldest = |first, stored_ms| Some(Oldest { first: Offset(first), stored_ms });
        let due = |ms, bytes, bounds, oldest: Option<Oldest>, now_ms| {
            Keep { ms, bytes }.is_due(bounds, oldest.as_ref(), now_ms)
        };
        assert!(!due(0, 0, bounds(0, 9, 900), None, 1_000), "for ever");
        assert!(!due(10, 0, bounds(9, 9, 0), None, 1_000), "nothing is there");
        assert!(due(10, 0, bounds(0, 9, 900), None, 1_000), "not known yet");
        assert!(!due(10, 0, bounds(0, 9, 900), oldest(0, 990), 1_000));
        assert!(due(10, 0, bounds(0, 9, 900), oldest(0, 989), 1_000));
        assert!(due(10, 0, bounds(3, 9, 900), oldest(0, 990), 1_000), "of another record");
        assert!(!due(0, 900, bounds(0, 9, 900), None, 1_000));
        assert!(due(10, 899, bounds(0, 9, 900), oldest(0, 990), 1_000));
    }
}
