//! What is taken out of the streams: a topic's trimmed records, headers that nobody needs, parts that nobody names.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use sealcast_proto::{Offset, TopicId};
use tokio::time::timeout;

use super::cluster::away;
use super::{Body, Cluster, Kind, NAMED_WITHIN, OrderError, PATIENCE, Proposal, Proposed, lead, place, tail};
use crate::topic::Trim;

/// A part that stands in the streams.
struct Part {
    at: u64,
    topic: TopicId,
    kind: Kind,
}

impl Cluster {
    /// How many messages were ever taken out of a partition: while it does not change, nothing is.
    pub(crate) async fn removed(&self, partition: u16) -> Result<u64, OrderError> {
        let Some(stream) = self.log(partition) else { return Ok(0) };
        let state = lead::state(stream).await?;
        Ok(state.last_sequence.saturating_sub(state.messages))
    }

    /// The highest trim of a topic that stands in its stream, and where it stands.
    pub(crate) async fn trimmed(&self, topic: &TopicId) -> Result<Option<(u64, Trim)>, OrderError> {
        let partition = place::partition(topic);
        let (mut highest, mut from): (Option<(u64, Trim)>, _) = (None, 1);
        while let Some((at, bytes)) = self.next(topic, Kind::Trim, from).await? {
            from = at.saturating_add(1);
            let Some(proposal) = Proposal::decode(&bytes) else { continue };
            let body = tail::body(self, partition, &proposal, None).await?;
            if let Some(trim) = body.and_then(Trim::decode)
                && highest.as_ref().is_none_or(|(_, other)| other.before < trim.before)
            {
                highest = Some((at, trim));
            }
        }
        Ok(highest)
    }

    /// Takes out of the streams what a trim, which stands there at `at`, says is gone; again: no change.
    pub(crate) async fn remove(&self, topic: &TopicId, at: u64, trim: &Trim) -> Result<(), OrderError> {
        let before = trim.before.0;
        for (kind, before) in [(Kind::Batch, before), (Kind::Large, before), (Kind::Trim, at)] {
            self.purge(topic, kind, before).await?;
        }
        let mut from = 1;
        while let Some((at, _)) = self.next(topic, Kind::Header, from).await?.filter(|(at, _)| *at < before) {
            if !trim.keeps_any(Offset(at))
                && let Some(stream) = self.log(place::partition(topic))
            {
                delete(stream, at).await?;
            }
            from = at.saturating_add(1);
        }
        Ok(())
    }

    /// Takes out of a partition the parts that stand there for `waited` and that no message names. Returns how many.
    pub(crate) async fn remove_parts(&self, partition: u16, waited: Duration) -> Result<u64, OrderError> {
        let Some(stream) = self.part_stream(partition) else { return Ok(0) };
        let mut old = self.old_parts(stream, waited).await?;
        let mut removed = 0;
        // A topic's parts of a kind are named by its messages of that kind.
        while let Some(Part { topic, kind, .. }) = old.first() {
            let (topic, kind) = (*topic, *kind);
            let (these, rest) = old.into_iter().partition(|part| part.topic == topic && part.kind == kind);
            old = rest;
            let named = self.named(&topic, kind).await?;
            for Part { at, .. } in these {
                if !named.contains(&at) {
                    delete(stream, at).await?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Parts that were put `waited` ago or earlier. Some may be left out.
    async fn old_parts(&self, stream: &Stream, waited: Duration) -> Result<Vec<Part>, OrderError> {
        let mut left = lead::state(stream).await?.messages;
        let mut parts = Vec::new();
        if left == 0 {
            return Ok(parts);
        }
        let all = pull::OrderedConfig {
            headers_only: true,
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let consumer = stream.create_consumer(all).await.map_err(away("makes no consumer"))?;
        let mut messages = consumer.messages().await.map_err(away("does not deliver"))?;
        let now = std::time::SystemTime::now();
        while left > 0 {
            let message =
                timeout(PATIENCE, messages.next()).await.map_err(away("does not list its parts"))?;
            let Some(message) = message.transpose().map_err(away("does not list its parts"))? else { break };
            let info = message.info().map_err(away("does not list its parts"))?;
            left = info.pending;
            let put = std::time::SystemTime::from(info.published);
            if now.duration_since(put).unwrap_or_default() < waited {
                break;
            }
            if let Some((topic, kind)) =
                place::topic_of(&message.subject).zip(place::kind_of(&message.subject))
            {
                parts.push(Part { at: info.stream_sequence, topic, kind });
            }
        }
        Ok(parts)
    }

    /// All parts that a topic's messages of a kind name; an error rather than too few.
    async fn named(&self, topic: &TopicId, kind: Kind) -> Result<HashSet<u64>, OrderError> {
        let (mut named, mut from) = (HashSet::new(), 1);
        while let Some((at, bytes)) = self.next(topic, kind, from).await? {
            from = at.saturating_add(1);
            let Some(Proposal { what, body, .. }) = Proposal::decode(&bytes) else { continue };
            if let Proposed::Header(table) = what {
                named.extend(table);
            }
            if let Body::Parts(parts) = body {
                named.extend(parts);
            }
        }
        Ok(named)
    }

    /// A topic's first message of a kind at or after `from`, asked of the stream's leader.
    async fn next(&self, topic: &TopicId, kind: Kind, from: u64) -> Result<Option<(u64, Bytes)>, OrderError> {
        let Some(stream) = self.log(place::partition(topic)) else { return Ok(None) };
        match stream.get_first_raw_message_by_subject(place::log_subject(topic, kind), from).await {
            Ok(message) => Ok(Some((message.sequence, message.payload))),
            Err(error) if matches!(error.kind(), NoMessageFound) => Ok(None),
            Err(error) => Err(away("does not give a message")(error)),
        }
    }

    /// Takes a topic's messages of a kind below `before` out of its stream.
    async fn purge(&self, topic: &TopicId, kind: Kind, before: u64) -> Result<(), OrderError> {
        // Asking costs the servers less than an agreement on removing nothing.
        let first = self.next(topic, kind, 1).await?;
        if let Some(stream) = self.log(place::partition(topic))
            && first.is_some_and(|(at, _)| at < before)
        {
            let purge = stream.purge().filter(place::log_subject(topic, kind)).sequence(before);
            purge.await.map_err(away("does not purge"))?;
        }
        Ok(())
    }
}

/// Deletes a message, if another edge has not done it.
async fn delete(stream: &Stream, at: u64) -> Result<(), OrderError> {
    match stream.delete_message(at).await {
        Ok(_) => Ok(()),
        Err(_) => match stream.get_raw_message(at).await {
            Err(error) if matches!(error.kind(), NoMessageFound) => Ok(()),
            Err(error) => Err(away("does not delete a message")(error)),
            Ok(_) => Err(away("does not delete a message")(at)),
        },
    }
}

/// Whether a part that was put at `put_ms` may be named by a message that was stored at `stored_ms`: later it may have been
/// taken out as one that nobody names. Both times stand in the streams, so every edge finds alike.
pub(super) fn may_name(put_ms: u64, stored_ms: u64) -> bool {
    stored_ms.saturating_sub(put_ms) <= u64::try_from(NAMED_WITHIN.as_millis()).unwrap_or(u64::MAX)
}
