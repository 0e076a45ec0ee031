//! What was sealed and not yet answered.

use bytes::Bytes;
use sealcast_proto::frame::{Ack, Code, Refusal, Request};
use sealcast_proto::record::Record;
use sealcast_proto::{BatchNo, Epoch, Hash, Seq, limits};

use super::{
    Effect, MAX_ATTEMPTS, MAX_FAULTS, MAX_FLIGHT, MAX_FLIGHT_BYTES, MAX_RETRY_MS, Outbox, Queued, RETRY_MS,
    Receipt, cost, fits,
};
use crate::error::PublishError;
use crate::marks::Position;
use crate::standstill::Standstill;

/// How long a record may go without an answer, milliseconds: many slow fsyncs, and not so long that nobody waits for it.
pub(super) const ANSWER_MS: u64 = 30_000;

/// A record on its way: kept as bytes, to be sent again verbatim.
pub(super) struct Flight {
    pub(super) epoch: Epoch,
    /// `None`: the epoch's header.
    pub(super) batch: Option<FlyingBatch>,
    pub(super) frame: Bytes,
    pub(super) hash: Hash,
    /// Whether it was written on this connection.
    pub(super) sent: bool,
    /// Whether it was written on any: then a broker may have stored it, and has to say so.
    pub(super) ever_sent: bool,
    /// Since when nothing but its answer is missing, milliseconds since 1970: when it was written, or when the one before it
    /// was answered.
    pub(super) waits_ms: u64,
    /// The broker's answer, while one before it has none yet.
    pub(super) acked: Option<Ack>,
}

/// A batch on its way, and what it takes to seal its messages anew.
pub(super) struct FlyingBatch {
    pub(super) batch_no: BatchNo,
    first_seq: Seq,
    messages: Vec<Queued>,
    bytes: usize,
    end: bool,
}

impl Flight {
    fn is(&self, record: (Epoch, Option<BatchNo>)) -> bool {
        (self.epoch, self.batch.as_ref().map(|batch| batch.batch_no)) == record
    }
}

impl Outbox {
    /// The first record in flight that this connection has not carried yet.
    pub(super) fn next_unsent(&self) -> Option<usize> {
        let at = self.flight.iter().position(|flight| !flight.sent)?;
        // A header follows its table, and what the marks say of it.
        let waits =
            self.flight.get(at).is_some_and(|flight| flight.batch.is_none()) && self.next.holds_header_back();
        (!waits).then_some(at)
    }

    /// Whether a batch can be sealed now.
    pub(super) fn may_seal(&self, now_ms: u64) -> bool {
        let Some(current) = &self.current else { return false };
        let something = !self.queue.is_empty() || (self.closing && !self.end_in_flight);
        let last_no =
            u64::from(self.roster.chain().policy().max_epoch_batches).min(limits::MAX_EPOCH_BATCHES);
        something
            && self.connected
            && !self.dead
            && !self.next.has_header()
            && !self.header_stands_back()
            && self.next_unsent().is_none()
            && self.flight.iter().all(|flight| flight.sent)
            && self.flight.len() < MAX_FLIGHT
            && self.flight_bytes < MAX_FLIGHT_BYTES
            && current.next_batch_no().0 < last_no
            && self.role().is_some()
            && self.roster_is_recent(now_ms)
    }

    /// Seals what waits, up to one batch, and returns the frame.
    pub(super) fn seal(&mut self, now_ms: u64) -> Result<Bytes, PublishError> {
        let mut bytes = 0;
        let mut messages = Vec::new();
        while let Some(queued) = self.queue.front() {
            let full = messages.len() >= limits::MAX_BATCH_MESSAGES as usize;
            if full || !fits(bytes, &queued.message) {
                break;
            }
            bytes += cost(&queued.message);
            messages.extend(self.queue.pop_front());
        }
        let end = self.closing && self.queue.is_empty();
        let plain: Vec<Bytes> = messages.iter().map(|queued| queued.message.clone()).collect();
        let current = self.current.as_mut().ok_or(PublishError::Closed)?;
        let batch_no = current.next_batch_no();
        let first_seq = self.next_seq;
        let record = current
            .seal(&plain, first_seq, now_ms, end)
            .map_err(|error| PublishError::Seal(error.to_string()))?;
        let count = u64::try_from(messages.len()).unwrap_or(u64::MAX);
        self.next_seq = first_seq.plus(count).ok_or(PublishError::Seal("no more message numbers".into()))?;
        self.end_in_flight = end;
        self.flight_bytes += bytes;
        let frame = Request::Record(Record::Batch(record).encode()).encode();
        self.flight.push_back(Flight {
            epoch: current.epoch(),
            batch: Some(FlyingBatch { batch_no, first_seq, messages, bytes, end }),
            frame: frame.clone(),
            hash: current.last_hash(),
            sent: true,
            ever_sent: true,
            waits_ms: now_ms,
            acked: None,
        });
        Ok(frame)
    }

    /// The broker stored a record. Answers may come in any order: a restarted broker knows the newest of what is sent
    /// again at once and looks up the others. They are taken in the order of the records.
    pub(super) fn acked(
        &mut self,
        ack: Ack,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), PublishError> {
        if !self.connected {
            return Ok(()); // Said on a connection that was given up.
        }
        let number = (ack.epoch, ack.batch_no);
        // Each record that this connection carried is answered once.
        let unanswered = |flight: &&mut Flight| flight.is(number) && flight.sent && flight.acked.is_none();
        let Some(flight) = self.flight.iter_mut().find(unanswered) else {
            return self.fault("it acknowledges a record that waits for no answer", effects);
        };
        flight.acked = Some(ack);
        while let Some(front) = self.flight.front()
            && let Some(ack) = front.acked
        {
            let refused = self.refused.first_key_value().map(|(first_seq, _)| *first_seq);
            // A header comes after every batch that was sealed before it.
            let before = |seq| front.batch.as_ref().is_none_or(|batch| seq < batch.first_seq);
            if refused.is_some_and(before) {
                return Err(PublishError::Broker("it stored a batch but not the one before".into()));
            }
            if self.last_offset.is_some_and(|last| ack.offset <= last) {
                return self.fault("it stored a record before the one that it follows", effects);
            }
            self.settled(ack, now_ms, effects);
            if let Some(next) = self.flight.front_mut() {
                next.waits_ms = now_ms;
            }
        }
        // A refusal may have overtaken these answers.
        self.requeue_refused();
        Ok(())
    }

    /// The oldest record in flight is stored.
    fn settled(&mut self, ack: Ack, now_ms: u64, effects: &mut Vec<Effect>) {
        let Some(flight) = self.flight.pop_front() else { return };
        self.last_offset = Some(ack.offset);
        let Some(batch) = flight.batch else {
            // A header is no success while messages wait for it: a broker could take each header and no batch, for ever.
            if self.queue.is_empty() {
                (self.attempts, self.faults, self.trouble) = (0, 0, None);
            }
            self.header_accepted(flight.epoch, flight.hash, now_ms);
            return;
        };
        (self.attempts, self.faults, self.trouble) = (0, 0, None);
        self.flight_bytes = self.flight_bytes.saturating_sub(batch.bytes);
        let header_hash = self.accepted.map_or(flight.hash, |position| position.header_hash);
        self.accepted = Some(Position {
            epoch: flight.epoch,
            header_hash,
            batches: batch.batch_no.0.saturating_add(1),
            last_hash: flight.hash,
        });
        self.marks.position = self.accepted;
        let mut seq = batch.first_seq;
        for queued in batch.messages {
            let receipt = Receipt { seq, epoch: ack.epoch, offset: ack.offset, level: ack.level };
            effects.push(Effect::Resolve { token: queued.token, receipt });
            seq = Seq(seq.0.saturating_add(1));
        }
        self.marks.next_seq = seq;
        self.marks_dirty = true;
    }

    /// The broker refused a record.
    pub(super) fn refused(
        &mut self,
        refusal: Refusal,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), PublishError> {
        match refusal.code {
            Code::Superseded => return Err(PublishError::IdentityInUse),
            Code::NotAllowed => return Err(PublishError::NotAllowed(self.identity.public())),
            // Not now: what is in flight stays as it is and is sent again on the next connection.
            Code::Busy | Code::ReadOnly | Code::Draining => {
                self.try_again_later(&refusal, now_ms, effects);
                return Ok(());
            }
            _ => {}
        }
        if !self.connected {
            return Ok(()); // Said on a connection that was given up.
        }
        let Some(at) = refusal
            .record
            .and_then(|record| self.flight.iter().position(|flight| flight.is(record) && flight.sent))
        else {
            return self.fault("it refuses a record that waits for no answer", effects);
        };
        if self.flight.range(at..).any(|flight| flight.acked.is_some()) {
            return Err(PublishError::Broker("it refuses a batch but stored one after it".into()));
        }
        // Of an epoch that died every batch in flight is refused: one failure. A refused header is another.
        let first = !self.dead || self.flight.get(at).is_some_and(|flight| flight.batch.is_none());
        if first {
            self.attempt_failed(&refusal.detail)?;
        }
        if refusal.code == Code::StaleEpoch {
            if refusal.roster_seq <= self.built_on() {
                return Err(PublishError::Broker("it calls an epoch stale that no removal ended".into()));
            }
            // Counts only with a verified newer entry that removes someone: rotation waits for it.
            self.fence_due = self.fence_due.max(refusal.roster_seq);
            self.fence_named_ms = now_ms;
        } else if first {
            // Numbers are not what the broker expects: learn from it where we stand, then begin a fresh epoch.
            self.want_fresh = true;
            self.lost();
            effects.push(Effect::Reconnect { after_ms: RETRY_MS });
        }
        self.dead = true;
        self.drain = true;
        let Some(flight) = self.flight.remove(at) else { return Ok(()) };
        match flight.batch {
            None => self.header_refused(),
            Some(batch) => self.take_back(batch),
        }
        self.requeue_refused();
        Ok(())
    }

    /// The broker says what cannot be true. Another connection, or another host, may do better; what is in flight is kept
    /// and sent again. After a few times in a row it is named to the application.
    fn fault(&mut self, what: &'static str, effects: &mut Vec<Effect>) -> Result<(), PublishError> {
        self.faults += 1;
        if self.faults > MAX_FAULTS {
            return Err(PublishError::Broker(what.into()));
        }
        self.trouble = Some(Standstill::BrokerFault { what });
        self.lost();
        effects.push(Effect::Reconnect { after_ms: RETRY_MS });
        Ok(())
    }

    /// The broker cannot now. How long it asks for is followed only so far.
    pub(super) fn try_again_later(&mut self, refusal: &Refusal, now_ms: u64, effects: &mut Vec<Effect>) {
        // The others pass by themselves within seconds; for this one somebody may have to do something.
        if refusal.code == Code::ReadOnly && !matches!(self.trouble, Some(Standstill::ReadOnly { .. })) {
            self.trouble = Some(Standstill::ReadOnly { since_ms: now_ms });
        }
        self.lost();
        effects.push(Effect::Reconnect { after_ms: refusal.retry_after_ms.clamp(RETRY_MS, MAX_RETRY_MS) });
    }

    /// A header that was signed and never written is given up: nobody waits for an answer to it.
    pub(super) fn drop_unwritten_header(&mut self) {
        // Nothing is sealed after a header until it is answered.
        if self.flight.back().is_some_and(|flight| flight.batch.is_none() && !flight.ever_sent) {
            self.flight.pop_back();
            self.header_refused();
        }
    }

    /// One more epoch came to nothing.
    pub(super) fn attempt_failed(&mut self, why: &str) -> Result<(), PublishError> {
        self.attempts += 1;
        if self.attempts > MAX_ATTEMPTS {
            return Err(PublishError::Broker(format!("it refuses everything: {why}")));
        }
        Ok(())
    }

    fn take_back(&mut self, batch: FlyingBatch) {
        self.flight_bytes = self.flight_bytes.saturating_sub(batch.bytes);
        if batch.end {
            self.end_in_flight = false;
        }
        self.refused.insert(batch.first_seq, batch.messages);
    }

    /// Once nothing is in flight, refused messages go back to the queue's front, in order, with their numbers.
    pub(super) fn requeue_refused(&mut self) {
        if self.flight.iter().any(|flight| flight.batch.is_some()) {
            return;
        }
        while let Some((first_seq, messages)) = self.refused.pop_last() {
            self.next_seq = first_seq;
            for queued in messages.into_iter().rev() {
                self.queue.push_front(queued);
            }
        }
    }

    /// Everything in flight goes back to the queue: the broker lost it (a memory topic), or never had it.
    pub(super) fn take_back_all(&mut self) {
        while let Some(flight) = self.flight.pop_back() {
            match flight.batch {
                None => self.header_refused(),
                Some(batch) => self.take_back(batch),
            }
        }
        self.requeue_refused();
    }

    /// When the oldest record that was sent has waited too long for its answer.
    pub(super) fn answer_due(&self) -> Option<u64> {
        let oldest = self.flight.front().filter(|flight| flight.sent && flight.acked.is_none())?;
        let carried_ms = u64::try_from(oldest.frame.len()).unwrap_or(u64::MAX).saturating_mul(1000)
            / limits::SLOWEST_UPLINK;
        let patience = ANSWER_MS.saturating_add(carried_ms);
        self.connected.then(|| oldest.waits_ms.saturating_add(patience))
    }

    /// A broker that takes records and says nothing about them is left, for another connection or another host.
    pub(super) fn reconnect_if_unanswered(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.answer_due().is_some_and(|due| due <= now_ms) {
            // Not an error, however often: a disk may be slow, and the application may want to wait.
            let since_ms = self.flight.front().map_or(now_ms, |oldest| oldest.waits_ms);
            self.trouble = Some(self.trouble.unwrap_or(Standstill::Unanswered { since_ms }));
            self.lost();
            effects.push(Effect::Reconnect { after_ms: RETRY_MS });
        }
    }

    /// The connection is gone: everything in flight has to be sent again.
    pub(super) fn lost(&mut self) {
        self.connected = false;
        for flight in &mut self.flight {
            flight.sent = false;
            flight.acked = None;
        }
        self.next.connection_lost();
    }
}
