//! A batch: lengths → known epoch → `batch_no` → signature → ratchet → open → padding → deliver.

use bytes::Bytes;
use sealcast_envelope::Message;
use sealcast_proto::frame::{EpochDelivery, Reply};
use sealcast_proto::object::Batch;
use sealcast_proto::record::{BatchRecord, VerifiedBatch};
use sealcast_proto::{Offset, PublicKey, RosterSeq, Seq};

use super::epoch::{Keys, Shut};
use super::publisher::Publisher;
use super::{Effects, Held, Inbox, Need, Phase, RecordItems};
use crate::event::{Event, Received, RefusedReason};

impl Inbox {
    pub(super) fn on_record(&mut self, offset: Offset, bytes: Bytes, now_ms: u64, fx: &mut Effects) {
        let batch = Reply::batch(bytes).ok().and_then(|batch| Some((batch.peek().ok()?, batch)));
        let Some((body, batch)) = batch else {
            self.counters.invalid += 1;
            self.passed(offset);
            return self.progress();
        };
        let Some(key) = self.owner(&body, &batch) else {
            self.counters.unknown += 1;
            self.passed(offset);
            return self.progress();
        };
        let Some(held) = self.publishers.get(&key) else { return };
        if body.batch_no < held.track.next_batch_no {
            return self.on_lower(offset, &key, &body, &batch, fx);
        }
        let Ok(batch) = batch.verify(&held.track.header_hash, &held.header.epoch_vk) else {
            self.counters.invalid += 1;
            self.passed(offset);
            return self.progress();
        };
        if let Some(why) = self.objection(held) {
            return self.on_refused(offset, &key, why, fx);
        }
        let next = body.batch_no == held.track.next_batch_no;
        if next && held.track.last_hash.is_some_and(|last| last != body.prev_batch_hash) {
            let proof = vec![held.header_evidence(), held.batch_evidence(), batch.digest().evidence()];
            return self.terminal(Event::Fork { publisher: Some(key), proof }, fx);
        }
        self.open(Held { offset, publisher: key, batch, need: Need::Prekeys }, Stage::AtHand, now_ms, fx);
    }

    /// Whose newest epoch a batch is of. A batch names its epoch only, and two publishers may have chosen one number:
    /// then the signature decides.
    fn owner(&self, body: &Batch, batch: &BatchRecord) -> Option<PublicKey> {
        let mut same = self.publishers.iter().filter(|(_, held)| held.header.epoch == body.epoch);
        let (first, _) = same.next()?;
        if same.next().is_none() {
            return Some(*first);
        }
        let digest = batch.digest();
        let mut same = self.publishers.iter().filter(|(_, held)| held.header.epoch == body.epoch);
        let signer =
            same.find(|(_, held)| digest.verify(&held.track.header_hash, &held.header.epoch_vk).is_ok());
        signer.map(|(key, _)| *key)
    }

    /// A number that was passed already: a repeat, unless it is another batch under the last one's number.
    fn on_lower(
        &mut self,
        offset: Offset,
        key: &PublicKey,
        body: &Batch,
        batch: &BatchRecord,
        fx: &mut Effects,
    ) {
        let Some(held) = self.publishers.get(key) else { return };
        let is_last = body.batch_no.next() == Some(held.track.next_batch_no);
        if is_last && let Some(last) = held.track.last_hash {
            let digest = batch.digest();
            let differs = digest.hash(&held.track.header_hash) != last;
            if differs && digest.verify(&held.track.header_hash, &held.header.epoch_vk).is_ok() {
                let proof = vec![held.header_evidence(), held.batch_evidence(), digest.evidence()];
                return self.terminal(Event::Fork { publisher: Some(*key), proof }, fx);
            }
        }
        self.counters.repeated += u64::from(body.count).max(1);
        self.passed(offset);
        self.progress();
    }

    /// The rules of the roster: they may have changed since the epoch began.
    fn objection(&self, held: &Publisher) -> Option<RefusedReason> {
        let chain = self.chain.as_ref()?;
        if !chain.may_publish(&held.header.publisher) {
            return Some(RefusedReason::NotPublisher);
        }
        (held.header.roster_seq < chain.last_removal_seq()).then_some(RefusedReason::StaleEpoch)
    }

    fn on_refused(&mut self, offset: Offset, key: &PublicKey, why: RefusedReason, fx: &mut Effects) {
        self.counters.refused += 1;
        self.passed(offset);
        let epoch = self.publishers.get(key).map(|held| (*key, held.header.epoch));
        if self.refused_epoch == epoch {
            return self.progress();
        }
        self.refused_epoch = epoch;
        self.tell(key, Event::Refused { publisher: *key, why }, fx);
    }

    /// Prekeys came: perhaps the ones that the held batch needs.
    pub(super) fn on_prekeys(&mut self, now_ms: u64, fx: &mut Effects) {
        if let Some(held) = self.held.take_if(|held| held.need == Need::Prekeys) {
            self.open(held, Stage::Reloaded, now_ms, fx);
        }
    }

    /// The epochs came that the held batch needs; or none.
    pub(super) fn on_epochs(&mut self, epochs: &[EpochDelivery], now_ms: u64, fx: &mut Effects) {
        let Some(held) = self.held.take_if(|held| held.need != Need::Prekeys) else { return };
        let removal = self.chain.as_ref().map_or(RosterSeq(0), |chain| chain.last_removal_seq());
        if let Some(publisher) = self.publishers.get_mut(&held.publisher) {
            let wanted = publisher.track.header_hash;
            let opened = self.keyring.walk(&held.publisher, &wanted, removal, epochs);
            publisher.keys = opened.map_or(Keys::Locked, Keys::Open);
        }
        self.open(held, Stage::Fetched, now_ms, fx);
    }

    /// Opens the epoch as far as that takes, then the batch.
    fn open(&mut self, mut held: Held, stage: Stage, now_ms: u64, fx: &mut Effects) {
        if let Some(need) = self.unlock(&held.publisher, stage, fx) {
            held.need = need;
            fx.need = Some(need);
            self.held = Some(held);
            return;
        }
        self.passed(held.offset);
        let hash = *held.batch.hash();
        let at_head = self.phase == Phase::AtHead;
        let Some(publisher) = self.publishers.get_mut(&held.publisher) else { return };
        let (mut items, repeated) = take(publisher, &held.batch, held.offset);
        if at_head {
            // Nothing else is here to end the run.
            items.after.extend(publisher.tell_locked());
        }
        self.counters.repeated += repeated;
        self.progress_ms = now_ms;
        self.alive_at_batch(&held.publisher, held.batch.batch().time_ms, now_ms);
        self.hand_out(Some(hash), items, self.change_of(&held.publisher), fx);
    }

    /// Opens the publisher's epoch; returns what that takes and is not at hand.
    fn unlock(&mut self, key: &PublicKey, stage: Stage, fx: &mut Effects) -> Option<Need> {
        let held = self.publishers.get_mut(key)?;
        let Keys::Pending(slot) = held.keys else { return None };
        let opened = slot.map(|slot| self.keyring.open(&held.header, &held.track.header_hash, &slot));
        let shut = match opened {
            Some(Ok(receiver)) => {
                held.keys = Keys::Open(receiver);
                return None;
            }
            Some(Err(shut)) => Some(shut),
            None => None,
        };
        let need = match (stage, shut) {
            (_, Some(Shut::Never)) | (Stage::Fetched, _) => None,
            // Another process of ours may have made it, or the one that seeded the epochs before.
            (Stage::AtHand, Some(Shut::Unknown(_) | Shut::Kek) | None) => Some(Need::Prekeys),
            _ => Some(Need::Epochs(*key, held.header.epoch)),
        };
        if need.is_none() {
            held.keys = Keys::Locked;
        }
        if let (Stage::Reloaded, Some(Shut::Unknown(id))) = (stage, shut) {
            self.met_prekey(id, fx);
        }
        need
    }
}

/// How much was tried to open an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    AtHand,
    Reloaded,
    Fetched,
}

/// Takes a verified batch: steps ratchet, hash and seq, and returns what comes of it, with how many messages of it
/// were repeats.
fn take(publisher: &mut Publisher, batch: &VerifiedBatch, offset: Offset) -> (RecordItems, u64) {
    let body = batch.batch();
    let (key, first, end) = (publisher.header.publisher, body.first_seq, body.end_seq());
    let mut items = RecordItems::default();
    let skipped = body.batch_no > publisher.track.next_batch_no;
    let jumped = publisher.track.next_seq.is_some_and(|next| first > next);
    // Lower numbers are repeats only along an unbroken chain: else their publisher may have begun anew.
    let fresh_from = match publisher.track.next_seq {
        Some(next) if publisher.track.unbroken => next.max(first),
        _ => first,
    };
    if publisher.track.gap_due || skipped || jumped {
        items.before.extend(publisher.end_locked(publisher.track.next_seq));
        items.before.push(publisher.gap(Some(first)));
    }
    let repeated = fresh_from.0.min(end.0) - first.0;

    let opened = match &mut publisher.keys {
        Keys::Open(receiver) => Some(match receiver.fast_forward(body.batch_no) {
            Ok(()) => receiver.open(batch).ok().and_then(|messages| decode(messages, body.count)),
            Err(_) => None,
        }),
        Keys::Pending(_) | Keys::Locked => None,
    };
    match opened {
        None if end > fresh_from => {
            publisher.track.locked_from.get_or_insert(fresh_from);
        }
        None => {}
        Some(opened) => {
            items.before.splice(0..0, publisher.end_locked(publisher.track.next_seq));
            match opened {
                Some(messages) => items.messages = received(publisher, messages, first, fresh_from, offset),
                None => items.after.push(Event::BadBatch {
                    publisher: key,
                    epoch: body.epoch,
                    batch_no: body.batch_no,
                    from: first,
                    to: end,
                }),
            }
        }
    }
    let track = &mut publisher.track;
    track.next_batch_no = body.batch_no.next().unwrap_or(body.batch_no);
    track.last_hash = Some(*batch.hash());
    track.next_seq = Some(if track.unbroken { end.max(track.next_seq.unwrap_or(end)) } else { end });
    track.unbroken = true;
    track.suspect = None;
    track.ended = body.end;
    publisher.evidence = Some(batch.digest().evidence());
    publisher.life.ahead_told = false;
    if body.end {
        items.after.extend(publisher.end_locked(Some(end)));
        items.after.push(Event::Ended { publisher: key });
    }
    (items, repeated)
}

/// All messages of a batch, or none: a batch with one that is no message was made by a broken publisher.
fn decode(messages: Vec<Bytes>, count: u32) -> Option<Vec<Message>> {
    let whole = u32::try_from(messages.len()) == Ok(count);
    messages
        .into_iter()
        .filter(|_| whole)
        .map(|bytes| Message::decode(bytes).ok())
        .collect::<Option<Vec<_>>>()
        .filter(|_| whole)
}

fn received(
    publisher: &Publisher,
    messages: Vec<Message>,
    first: Seq,
    fresh_from: Seq,
    offset: Offset,
) -> Vec<Received> {
    let header = &publisher.header;
    let numbered = messages.into_iter().zip(first.0..).skip_while(|(_, seq)| *seq < fresh_from.0);
    let received = numbered.map(|(message, seq)| Received {
        topic: header.topic,
        publisher: header.publisher,
        epoch: header.epoch,
        seq: Seq(seq),
        offset,
        message,
    });
    received.collect()
}
