//! A publish stream: records in, an answer for each out.

use std::sync::Arc;

use bytes::Bytes;
use sealcast_link::{FrameReader, FrameWriter};
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Code, Refusal, Reply, Request};
use sealcast_proto::record::{BatchRecord, Record};
use sealcast_proto::roster::Role;
use sealcast_proto::{Epoch, Hash, PublicKey, TopicId};
use tokio::sync::{Semaphore, mpsc};

use super::{End, Stream, malformed, next_request};
use crate::handle::{Answer, Message, Offered, Topic};
use crate::limits;
use crate::lookup;
use crate::ops::report::Feeding;
use crate::outgoing::Outgoing;
use crate::rate::Bucket;
use crate::shared::{Shared, not_allowed};
use crate::topic::SessionId;

/// What a record needs beside its own bytes while it waits for the disk: index entries and keys.
const BESIDE: usize = 1 << 10;
/// Headers whose keys a session keeps, a count: batches follow their header; a re-sent older epoch needs no verifying.
const KEYS: usize = 4;
/// Answers put into one write, a count.
const AT_ONCE: usize = 256;

pub(super) async fn run(stream: &mut Stream, id: TopicId) -> Result<(), End> {
    let shared = stream.shared.clone();
    let may =
        |opened: &crate::handle::Opened| opened.standing.role.is_some_and(|role| role >= Role::Publisher);
    let (topic, _) = shared.enter_if(stream.peer, &id, may).await?;
    let session = shared.new_session();
    let (answers, mut answered) = mpsc::unbounded_channel();
    let identity = stream.peer;
    let attached = topic.ask(|reply| Message::Attach { session, identity, answers, reply }).await?;
    let attached = attached.ok_or_else(not_allowed)?;
    let _seen = topic.feeds.enter(Feeding { identity });
    let unanswered = Arc::new(Semaphore::new(limits::UNANSWERED));
    let feed = Feed {
        shared: shared.clone(),
        topic: topic.clone(),
        session,
        identity,
        keys: attached.newest.into_iter().collect(),
        unanswered: unanswered.clone(),
        rate: shared.registry.rate(identity),
    };
    let ended = {
        let Stream { writer, reader, .. } = stream;
        let answering = answer(writer, &mut answered, &unanswered, &shared);
        tokio::pin!(answering);
        tokio::select! {
            // Every record is answered, and the publisher said that there are no more; or one was unreadable.
            fed = feed.run(reader) => fed,
            ended = &mut answering => ended,
        }
    };
    topic.send(Message::Detach { session }).await?;
    ended
}

/// The reading half.
struct Feed {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    session: SessionId,
    identity: PublicKey,
    keys: Vec<(Epoch, Hash, PublicKey)>,
    unanswered: Arc<Semaphore>,
    rate: Arc<Bucket>,
}

impl Feed {
    /// Ends only once every record is answered, unless the connection is gone.
    async fn run(mut self, reader: &mut FrameReader) -> Result<(), End> {
        let ended = self.feed(reader).await;
        if !matches!(ended, Err(End::Link(_))) {
            self.all_answered().await;
        }
        ended
    }

    async fn feed(&mut self, reader: &mut FrameReader) -> Result<(), End> {
        loop {
            let request = tokio::select! {
                request = next_request(reader, self.shared.limits().next_frame) => request?,
                // What comes from now on belongs on another connection.
                () = self.shared.drained() => return Ok(()),
            };
            match request {
                Some(Request::Record(record)) => self.record(record).await?,
                Some(Request::Beacon(beacon)) => {
                    self.topic.offer(Message::Beacon { identity: self.identity, beacon });
                }
                Some(_) => return Err(malformed("only records and beacons are published")),
                None => return Ok(()),
            }
        }
    }

    async fn record(&mut self, record: Bytes) -> Result<(), End> {
        let record_bytes = record.len();
        let size = record_bytes + BESIDE;
        let offered = match Record::decode(record.clone()) {
            Ok(Record::Header(header)) => {
                let parsed = header.peek().map_err(|error| malformed(error.to_string()))?;
                if self.keys.len() >= KEYS {
                    self.keys.remove(0);
                }
                self.keys.push((parsed.epoch, header.hash(), parsed.epoch_vk));
                Offered::Header(header)
            }
            Ok(Record::Batch(batch)) => Offered::Batch { claim: Box::new(self.claim(&batch)?), record },
            Ok(Record::Roster(_)) => return Err(malformed("a roster entry comes as a bundle of its own")),
            Err(error) => return Err(malformed(error.to_string())),
        };
        if let Ok(permit) = self.unanswered.acquire().await {
            // Given back with the answer.
            permit.forget();
        }
        self.shared.throttle(&self.rate, record_bytes).await;
        let budget =
            self.shared.storage.commit.reserve(size).await.map_err(|error| lookup::refusal(&error))?;
        let (session, identity) = (self.session, self.identity);
        self.topic.send(Message::Publish { session, identity, offered, budget }).await?;
        Ok(())
    }

    /// Hashing and verifying happen here, beside other sessions', not in the topic's single file.
    fn claim(&self, batch: &BatchRecord) -> Result<BatchClaim, End> {
        let mut claim = BatchClaim::read(batch).map_err(|error| malformed(error.to_string()))?;
        let epoch = claim.batch().epoch;
        if let Some((_, header_hash, epoch_vk)) = self.keys.iter().rev().find(|(known, ..)| *known == epoch) {
            claim.verify(header_hash, epoch_vk);
        }
        Ok(claim)
    }

    async fn all_answered(&self) {
        let all = u32::try_from(limits::UNANSWERED).unwrap_or(u32::MAX);
        // Never closed.
        let _ = self.unanswered.acquire_many(all).await;
    }
}

/// The writing half: answers as they come, several a write.
async fn answer(
    writer: &mut FrameWriter,
    answered: &mut mpsc::UnboundedReceiver<Answer>,
    unanswered: &Semaphore,
    shared: &Shared,
) -> Result<(), End> {
    let mut batch = Vec::new();
    let mut out = Outgoing::default();
    while answered.recv_many(&mut batch, AT_ONCE).await > 0 {
        let count = batch.len();
        for answer in batch.drain(..) {
            match answer {
                Answer::Ack(ack) => out.reply(&Reply::Ack(ack)),
                Answer::Refused(refusal) => out.reply(&Reply::Refused(refusal)),
                Answer::Superseded => {
                    writer.send_all_within(&mut out.take(), shared.limits().stall).await?;
                    return Err(Refusal::new(
                        Code::Superseded,
                        "a newer session of this identity publishes here",
                    )
                    .into());
                }
            }
        }
        writer.send_all_within(&mut out.take(), shared.limits().stall).await?;
        unanswered.add_permits(count);
    }
    Ok(())
}
