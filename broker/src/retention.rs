//! Retention: what a topic's policy lets go, a topic at a time, beside everything else.
//!
//! Records go by age and by bytes. Roster entries stay for ever. Of headers and slot tables stay, per publisher, those from
//! the last *fresh* epoch at or before its oldest retained batch, else its newest epoch (docs/protocol.md section 8): what a
//! subscriber at the oldest record needs to open it.

use std::sync::Arc;

use sealcast_proto::object::Mode;
use sealcast_proto::{Epoch, Offset, PublicKey, TopicId};
use tokio::time::{MissedTickBehavior, interval};

use crate::clock::now_ms;
use crate::handle::{Message, Topic};
use crate::load;
use crate::shared::Shared;
use crate::store::{Log, LogError};

/// Headers looked at in one step back, a count.
const STEP: usize = 16;

/// How much a topic keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    /// Milliseconds; 0: for ever.
    pub(crate) ms: u64,
    /// Bytes of records; 0: no bound.
    pub(crate) bytes: u64,
}

/// Applies retention to every topic, again and again.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut tick = interval(shared.limits.retention_every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for topic in shared.registry.topics() {
            if let Err(error) = apply_to(&shared, &topic).await {
                tracing::warn!(topic = %topic.id().short(), %error, "retention failed");
            }
        }
    }
}

async fn apply_to(shared: &Shared, topic: &Topic) -> Result<(), LogError> {
    let Ok(keep) = topic.ask(|reply| Message::Keep { reply }).await else { return Ok(()) };
    if keep == (Keep { ms: 0, bytes: 0 }) {
        return Ok(());
    }
    let (id, head, now_ms) = (topic.id(), topic.head(), now_ms());
    let trimmed = shared.storage.reads.run(move |log| apply(log, id, keep, head, now_ms)).await?;
    if trimmed > 0 {
        tracing::debug!(topic = %id.short(), records = trimmed, "retention");
    }
    Ok(())
}

/// Trims one topic; nothing at or after `head`. Returns how many records went.
pub(crate) fn apply(
    log: &dyn Log,
    topic: TopicId,
    keep: Keep,
    head: Offset,
    now_ms: u64,
) -> Result<u64, LogError> {
    let bounds = log.bounds(&topic)?;
    let mut before = bounds.first;
    if keep.ms > 0 {
        before = before.max(log.seek_time(&topic, now_ms.saturating_sub(keep.ms))?);
    }
    if keep.bytes > 0 && bounds.bytes > keep.bytes {
        before = before.max(log.seek_bytes(&topic, keep.bytes)?);
    }
    let before = before.min(head);
    if before <= bounds.first {
        return Ok(0);
    }
    let trimmed = log.trim(&topic, before)?;
    for (publisher, _) in log.publishers(&topic)? {
        if let Some(oldest) = oldest_needed(log, topic, &publisher, before)? {
            log.drop_epochs(&topic, &publisher, oldest)?;
        }
    }
    Ok(trimmed.records)
}

/// The last fresh epoch at or before the oldest batch retained; `None`: all of them are needed.
fn oldest_needed(
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
            // The epoch in force at the first record retained, or one before it.
            if found.offset <= first && fresh {
                return Ok(Some(found.epoch));
            }
        }
        let Some(before) = oldest.0.checked_sub(1) else { return Ok(None) };
        up_to = Epoch(before);
    }
}
