//! One publisher's records, one after the other: what follows what, and what they add up to.

use std::collections::VecDeque;

use bytes::Bytes;

use super::finding::Kind;
use super::report::{EpochNote, PublisherNote, Sums};
use crate::accept::{BatchClaim, Known, LastBatch, Seen};
use crate::accept::{Lane, RECENT_RECORDS};
use crate::frame::EpochDelivery;
use crate::ids::{BatchNo, Hash, Offset, Seq};
use crate::object::{Batch, EpochHeader, Signed};
use crate::record::BatchDigest;
use crate::roster::Role;

/// Headers before the newest whose hashes are kept, a count: one that goes on from such a one is a fork, not a hole.
const OLDER: usize = 64;

/// Why something does not follow.
pub(super) type Wrong = (Kind, String);

/// A publisher as far as it was followed.
#[derive(Debug)]
pub(super) struct Track {
    pub(super) lane: Lane,
    older: VecDeque<Hash>,
    /// The number its next message should have; `None` behind a hole.
    next_seq: Option<Seq>,
    epochs: Vec<EpochNote>,
    epochs_in_all: u64,
    sums: Sums,
    beacons: u64,
    last_beacon_ms: Option<u64>,
    /// A signed beacon's next batch, and when it was heard: so many should come.
    ahead: Option<(BatchNo, u64)>,
}

impl Track {
    /// Begins with a header of the log.
    pub(super) fn begin(delivery: &EpochDelivery, header: &EpochHeader) -> Self {
        let lane = Lane::new(detached(&delivery.header), header.clone(), seen(delivery, header));
        // From its first epoch on its messages count from 0; whoever lost its marks goes on elsewhere.
        let next_seq = header.prev_header_hash.is_zero().then_some(Seq(0));
        Self::with(lane, next_seq, note(delivery, header))
    }

    /// Begins with what stood before the stream's start.
    pub(super) fn behind(
        delivery: &EpochDelivery,
        header: &EpochHeader,
        last: Option<&(BatchDigest, Offset)>,
    ) -> Option<Self> {
        let mut track = Self::with(restored(delivery, last)?, None, note(delivery, header));
        track.go_on();
        Some(track)
    }

    fn with(lane: Lane, next_seq: Option<Seq>, epoch: EpochNote) -> Self {
        Self {
            lane,
            older: VecDeque::new(),
            next_seq,
            epochs: vec![epoch],
            epochs_in_all: 1,
            sums: Sums::default(),
            beacons: 0,
            last_beacon_ms: None,
            ahead: None,
        }
    }

    /// Goes on behind a hole. `room`: whether one more epoch may be kept.
    pub(super) fn resume(
        &mut self,
        delivery: &EpochDelivery,
        header: &EpochHeader,
        last: Option<&(BatchDigest, Offset)>,
        room: bool,
    ) {
        let Some(lane) = restored(delivery, last) else { return };
        if lane.header_hash() != self.lane.header_hash() {
            self.close(room);
            self.epochs.push(note(delivery, header));
        }
        self.lane = lane;
        self.next_seq = None;
        self.go_on();
    }

    fn go_on(&mut self) {
        if let Some(last) = self.lane.last() {
            self.next_seq = Some(last.batch.end_seq());
        }
        let ended = self.lane.ended();
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.ended = ended;
        }
    }

    /// Takes the next header.
    pub(super) fn next_epoch(&mut self, delivery: &EpochDelivery, header: &EpochHeader, room: bool) {
        self.close(room);
        let (signed, seen) = (detached(&delivery.header), seen(delivery, header));
        self.lane.begin(signed, header.clone(), seen, RECENT_RECORDS);
        self.epochs.push(note(delivery, header));
        self.ahead = None;
    }

    fn close(&mut self, room: bool) {
        while self.older.len() >= OLDER {
            self.older.pop_front();
        }
        self.older.push_back(self.lane.header_hash());
        if !room {
            self.epochs.pop();
        }
        self.epochs_in_all = self.epochs_in_all.saturating_add(1);
    }

    /// What is known of a record.
    pub(super) fn known(&self, seen: &Seen) -> Known {
        self.lane.known(seen)
    }

    /// Whether a header is one of the last before the newest.
    pub(super) fn is_older(&self, header_hash: &Hash) -> bool {
        self.older.contains(header_hash)
    }

    /// Names what does not follow in a header that the acceptance rules forbid; says whether to go on from it.
    pub(super) fn unfollowed(&self, header: &EpochHeader, why: &str) -> (Wrong, bool) {
        let held = self.lane.header().epoch;
        if header.epoch < held {
            let text = format!("the header of epoch {} came after that of epoch {held}", header.epoch);
            return ((Kind::OutOfPlace, text), false);
        }
        if header.prev_header_hash != self.lane.header_hash() {
            let elsewhere = header.prev_header_hash.is_zero() || self.is_older(&header.prev_header_hash);
            let wrong = match elsewhere {
                true => (Kind::Fork, format!("two epochs claim to follow the one before epoch {held}")),
                false => (Kind::Missing, format!("an epoch between {held} and {} never came", header.epoch)),
            };
            return (wrong, true);
        }
        let due = self.lane.next_batch_no().0;
        let wrong = match header.prev_close {
            Some(close) if close.batches > due => {
                let text = format!("{} of epoch {held} never came", batches(due, close.batches));
                (Kind::Missing, text)
            }
            Some(close) if close != self.lane.close() => {
                (Kind::Fork, format!("epoch {held} is closed with other batches than came"))
            }
            _ => (Kind::Rule, format!("the header of epoch {}: {why}", header.epoch)),
        };
        (wrong, true)
    }

    /// Forgets which message is due: something in between is missing and was named.
    pub(super) fn forget_seq(&mut self) {
        self.next_seq = None;
    }

    /// Judges a batch of the newest epoch whose signature holds, and takes it up unless it is of no use.
    pub(super) fn take(&mut self, claim: &BatchClaim, at: Offset, ciphertext: u64) -> Vec<Wrong> {
        let batch = claim.batch();
        let Some((_, hash)) = claim.verified() else { return Vec::new() };
        let (due, no) = (self.lane.next_batch_no(), batch.batch_no);
        let mut wrong = Vec::new();
        if no < due {
            let text = format!("batch {no} of epoch {} came after later ones", batch.epoch);
            return vec![(Kind::OutOfPlace, text)];
        }
        if no > due {
            let text = format!("{} of epoch {} never came", batches(due.0, no.0), batch.epoch);
            wrong.push((Kind::Missing, text));
        } else {
            if batch.prev_batch_hash != self.lane.last_hash() {
                let text = format!("batch {no} of epoch {} follows another one than came", batch.epoch);
                wrong.push((Kind::Fork, text));
            }
            if let Some(seq) = self.next_seq.filter(|seq| batch.first_seq > *seq) {
                let text = format!("messages {seq} to before {} never came", batch.first_seq);
                wrong.push((Kind::Missing, text));
            }
        }
        self.push(batch, claim.digest(), hash, at, ciphertext, claim.fingerprint());
        wrong
    }

    fn push(
        &mut self,
        batch: &Batch,
        digest: &BatchDigest,
        hash: Hash,
        at: Offset,
        ciphertext: u64,
        fingerprint: Hash,
    ) {
        let seen = Seen { epoch: batch.epoch, batch_no: Some(batch.batch_no), fingerprint, offset: at };
        // A copy: the record's buffer, up to 1 MiB, is not kept alive by its body.
        let digest = BatchDigest { body: Bytes::copy_from_slice(&digest.body), ..digest.clone() };
        self.lane.push(LastBatch { batch: batch.clone(), digest, hash, offset: at }, seen, RECENT_RECORDS);
        self.next_seq = Some(batch.end_seq());
        let one = Sums {
            batches: 1,
            messages: batch.count.into(),
            ciphertext_bytes: ciphertext,
            smallest: Some(ciphertext),
            largest: Some(ciphertext),
            offsets: Some((at, at)),
            times_ms: Some((batch.time_ms, batch.time_ms)),
            seqs: (batch.count > 0).then_some((batch.first_seq, batch.end_seq())),
        };
        self.sums.add(&one);
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.sums.add(&one);
            epoch.ended = batch.end;
        }
    }

    /// A beacon of the newest epoch that holds: says what contradicts it.
    pub(super) fn beacon(&mut self, beacon: &crate::object::Beacon, now_ms: u64) -> Option<Wrong> {
        self.beacons = self.beacons.saturating_add(1);
        self.last_beacon_ms = self.last_beacon_ms.max(Some(beacon.time_ms));
        let due = self.lane.next_batch_no();
        if beacon.next_batch_no > due && self.ahead.is_none() {
            self.ahead = Some((beacon.next_batch_no, now_ms));
        }
        let differs = beacon.next_batch_no == due && beacon.last_batch_hash != self.lane.last_hash();
        let epoch = self.lane.header().epoch;
        differs.then(|| (Kind::Fork, format!("a beacon names another last batch of epoch {epoch}")))
    }

    /// What its publisher signed there is and what has not come in `patience_ms` since.
    pub(super) fn withheld(&self, now_ms: u64, patience_ms: u64) -> Option<Wrong> {
        let due = self.lane.next_batch_no();
        let (next, since) = self.ahead.filter(|(next, _)| *next > due)?;
        let overdue = now_ms.saturating_sub(since) >= patience_ms;
        let epoch = self.lane.header().epoch;
        overdue.then(|| {
            let text = format!("{} of epoch {epoch} exist and are not delivered", batches(due.0, next.0));
            (Kind::Withheld, text)
        })
    }

    /// Whether it was heard, and what it said there is came or is overdue.
    pub(super) fn is_settled(&self, now_ms: u64, patience_ms: u64) -> bool {
        let due = self.lane.next_batch_no();
        let waiting = self.ahead.is_some_and(|(next, _)| next > due);
        self.beacons > 0 && (!waiting || self.withheld(now_ms, patience_ms).is_some())
    }

    pub(super) fn kept_epochs(&self) -> usize {
        self.epochs.len()
    }

    pub(super) fn into_note(self, role: Option<Role>) -> PublisherNote {
        PublisherNote {
            identity: self.lane.header().publisher,
            role,
            epochs: self.epochs,
            epochs_in_all: self.epochs_in_all,
            sums: self.sums,
            beacons: self.beacons,
            last_beacon_ms: self.last_beacon_ms,
        }
    }
}

fn batches(from: u64, to: u64) -> String {
    match to.saturating_sub(from) {
        1 => format!("batch {from}"),
        _ => format!("batches {from} to {}", to.saturating_sub(1)),
    }
}

fn restored(delivery: &EpochDelivery, last: Option<&(BatchDigest, Offset)>) -> Option<Lane> {
    Lane::restored(&detached(&delivery.header), delivery.offset, last.cloned()).ok()
}

fn seen(delivery: &EpochDelivery, header: &EpochHeader) -> Seen {
    let fingerprint = delivery.header.hash();
    Seen { epoch: header.epoch, batch_no: None, fingerprint, offset: delivery.offset }
}

fn note(delivery: &EpochDelivery, header: &EpochHeader) -> EpochNote {
    EpochNote {
        epoch: header.epoch,
        mode: header.mode,
        time_ms: header.time_ms,
        roster_seq: header.roster_seq,
        offset: delivery.offset,
        slots: header.slot_count,
        own_slot: delivery.slot.map(|slot| slot.source),
        sums: Sums::default(),
        ended: false,
    }
}

/// A copy that keeps no frame's buffer alive.
fn detached(header: &Signed<EpochHeader>) -> Signed<EpochHeader> {
    let body = Bytes::copy_from_slice(header.body());
    Signed::from_parts(body, header.signature()).unwrap_or_else(|_| header.clone())
}
