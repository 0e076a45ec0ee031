//! A publisher begins an epoch.

use bytes::Bytes;
use sealcast_proto::frame::EpochDelivery;
use sealcast_proto::object::{EpochHeader, Mode};
use sealcast_proto::record::Record;
use sealcast_proto::roster::RosterMatch;
use sealcast_proto::{PublicKey, SlotSource};

use super::epoch::Keys;
use super::publisher::Publisher;
use super::{Effects, Inbox, MAX_PUBLISHERS, RecordItems, detached};
use crate::event::{Event, GapReason, RefusedReason};
use crate::ledger::Change;

/// A header is stale for a member only this long after the broker acknowledged a newer prekey: what a publisher that
/// was already wrapping, or whose clock is off, may need. Milliseconds.
const STALE_GRACE_MS: u64 = 60_000;

/// Why a properly signed header is not accepted.
pub(super) enum Objection {
    Refused(RefusedReason),
    Fork(Vec<Bytes>),
}

/// Where in the stream a header stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In the log: the entries before it are those that counted when it was stored.
    Log,
    /// Before the start: entries that came after it were delivered already.
    Before,
}

/// What a delivery is in the light of what is held.
pub(super) enum Standing {
    /// The signature does not hold, or it is for another topic.
    Invalid,
    /// The newest header again.
    Same,
    /// Lower than the newest.
    Lower,
    /// Another header with the newest's number.
    Fork(Vec<Bytes>),
    /// New.
    New,
}

impl Inbox {
    pub(super) fn on_epoch(&mut self, delivery: &EpochDelivery, now_ms: u64, fx: &mut Effects) {
        let (header, standing) = self.standing(delivery);
        let Some(header) = header else {
            self.counters.invalid += 1;
            return;
        };
        let key = header.publisher;
        match standing {
            Standing::Invalid => self.counters.invalid += 1,
            Standing::Fork(proof) => self.terminal(Event::Fork { publisher: Some(key), proof }, fx),
            Standing::Same => {
                self.counters.repeated += 1;
                self.passed(delivery.offset);
                self.late_slot(&key, delivery);
                self.progress();
            }
            Standing::Lower => {
                self.counters.repeated += 1;
                self.passed(delivery.offset);
                self.progress();
            }
            Standing::New => {
                self.passed(delivery.offset);
                let hash = delivery.header.hash();
                match self.accept(header, delivery, Place::Log) {
                    Ok(events) => {
                        self.progress_ms = now_ms;
                        self.alive_at_header(&key, now_ms);
                        let items = RecordItems { before: events, ..RecordItems::default() };
                        self.hand_out(Some(hash), items, self.change_of(&key), fx);
                    }
                    Err(Objection::Fork(proof)) => {
                        self.terminal(Event::Fork { publisher: Some(key), proof }, fx)
                    }
                    Err(Objection::Refused(why)) => {
                        self.counters.refused += 1;
                        let event = Event::Refused { publisher: key, why };
                        let items = RecordItems { before: vec![event], ..RecordItems::default() };
                        let change = Change { next_offset: self.next_offset, ..Change::default() };
                        self.hand_out(Some(hash), items, change, fx);
                    }
                }
            }
        }
    }

    /// Verifies a header and compares it with the newest of its publisher.
    pub(super) fn standing(&self, delivery: &EpochDelivery) -> (Option<EpochHeader>, Standing) {
        let signer = delivery.header.peek().map(|header| header.publisher);
        let header = signer.ok().and_then(|signer| self.keyring.verified(&delivery.header, &signer));
        let Some(header) = header else { return (None, Standing::Invalid) };
        let standing = match self.publishers.get(&header.publisher) {
            None => Standing::New,
            Some(held) if held.track.header_hash == delivery.header.hash() => Standing::Same,
            Some(held) if held.header.epoch == header.epoch => {
                Standing::Fork(vec![held.header_evidence(), Record::Header(delivery.header.clone()).encode()])
            }
            Some(held) if held.header.epoch > header.epoch => Standing::Lower,
            Some(_) => Standing::New,
        };
        (Some(header), standing)
    }

    /// The newest header came again, perhaps with the slot that was missing or damaged before.
    pub(super) fn late_slot(&mut self, key: &PublicKey, delivery: &EpochDelivery) {
        if let Some(held) = self.publishers.get_mut(key)
            && !matches!(held.keys, Keys::Open(_))
            && let Some(slot) = &delivery.slot
        {
            let fresh = self.keyring.first(&held.header, &held.track.header_hash, Some(slot), None);
            // Batches of this epoch that were passed over unread stay unread.
            if let (Keys::Open(mut receiver), next) = (fresh, held.track.next_batch_no)
                && receiver.fast_forward(next).is_ok()
            {
                held.keys = Keys::Open(receiver);
            }
        }
    }

    /// Accepts a new header, or says why not and changes nothing. Returns what is to be said.
    pub(super) fn accept(
        &mut self,
        header: EpochHeader,
        delivery: &EpochDelivery,
        place: Place,
    ) -> Result<Vec<Event>, Objection> {
        let key = header.publisher;
        self.judge(&header, delivery, place)?;
        let hash = delivery.header.hash();
        let mut events = Vec::new();
        let follows = match self.publishers.get_mut(&key) {
            None => false,
            Some(held) => {
                let end =
                    |held: &Publisher| vec![held.header_evidence(), record(delivery), held.batch_evidence()];
                if header.prev_header_hash == held.track.header_hash {
                    match header.prev_close {
                        Some(close) if close.batches < held.track.next_batch_no.0 => {
                            return Err(Objection::Fork(end(held)));
                        }
                        Some(close) if close.batches > held.track.next_batch_no.0 => {
                            held.expect_gap(GapReason::Missing);
                        }
                        Some(close)
                            if held.track.last_hash.is_some_and(|last| last != close.last_batch_hash) =>
                        {
                            return Err(Objection::Fork(end(held)));
                        }
                        Some(_) => {}
                        None => {
                            // Its publisher lost its marks, so what we hold may go on where it does not know.
                            held.track.unbroken = false;
                            if !held.track.ended {
                                events.push(Event::Truncated { publisher: key });
                            }
                        }
                    }
                    true
                } else if header.prev_header_hash.is_zero() || held.is_older(&header.prev_header_hash) {
                    return Err(Objection::Fork(end(held)));
                } else {
                    held.expect_gap(GapReason::Missing);
                    held.track.unbroken = false;
                    false
                }
            }
        };
        let before = self.publishers.get(&key).filter(|_| follows).and_then(|held| match &held.keys {
            Keys::Open(receiver) => Some(receiver.as_ref()),
            _ => None,
        });
        let keys = self.keyring.first(&header, &hash, delivery.slot.as_ref(), before);
        // A KEK is as old as the key that seeded it.
        let source = delivery.slot.and_then(|slot| match (slot.source, &keys) {
            (SlotSource::Kek, Keys::Open(receiver)) => Some(receiver.source()),
            (SlotSource::Kek, _) => None,
            (source, _) => Some(source),
        });
        let stale = source.is_some_and(|source| self.is_stale(&header, source));
        match self.publishers.get_mut(&key) {
            Some(held) => held.begin(detached(&delivery.header), header, hash, keys),
            None => self.add(key, Publisher::new(detached(&delivery.header), header, hash, keys), place),
        }
        if let Some(held) = self.publishers.get_mut(&key)
            && source.is_some()
        {
            if stale && !held.track.stale_told {
                events.push(Event::StalePrekey { publisher: key });
            }
            held.track.stale_told = stale;
        }
        Ok(events)
    }

    fn add(&mut self, key: PublicKey, mut publisher: Publisher, place: Place) {
        if place == Place::Log && !publisher.header.prev_header_hash.is_zero() {
            // It published before, and the broker did not say so.
            publisher.expect_gap(match self.from {
                sealcast_proto::frame::From::Earliest => GapReason::Retention,
                _ => GapReason::Missing,
            });
        }
        if self.publishers.len() >= MAX_PUBLISHERS
            && let Some(chain) = &self.chain
            && let Some(gone) = self.publishers.keys().find(|known| !chain.may_publish(known)).copied()
        {
            self.publishers.remove(&gone);
            self.ledger
                .push(Default::default(), Change { publishers: vec![(gone, None)], ..Change::default() });
        }
        self.publishers.insert(key, publisher);
    }

    /// The rules of the roster, by the entries before it in the stream.
    fn judge(&self, header: &EpochHeader, delivery: &EpochDelivery, place: Place) -> Result<(), Objection> {
        let refused = |why| Err(Objection::Refused(why));
        let Some(chain) = &self.chain else { return refused(RefusedReason::RosterAhead) };
        if place == Place::Log && !chain.may_publish(&header.publisher) {
            return refused(RefusedReason::NotPublisher);
        }
        match chain.compare(header.roster_seq, &header.roster_hash) {
            RosterMatch::Fork => {
                return Err(Objection::Fork(vec![record(delivery), self.entry_evidence(header.roster_seq)]));
            }
            RosterMatch::Ahead => return refused(RefusedReason::RosterAhead),
            RosterMatch::Stale if place == Place::Log => return refused(RefusedReason::StaleEpoch),
            RosterMatch::Stale | RosterMatch::Holds | RosterMatch::Unknown => {}
        }
        let Some(held) = self.publishers.get(&header.publisher) else { return Ok(()) };
        if header.roster_seq < held.header.roster_seq {
            return refused(RefusedReason::RosterBackwards);
        }
        let removal = chain.last_removal_seq();
        // Of an advance from an epoch that was never seen here nobody can say that yet: its key is then fetched, and
        // nothing fetched is derived across a removal.
        let derived = header.mode == Mode::Advance && header.prev_header_hash == held.track.header_hash;
        if derived && held.header.roster_seq < removal && removal <= header.roster_seq {
            return refused(RefusedReason::AdvanceOverRemoval);
        }
        Ok(())
    }

    /// Whether a slot from `source` in this header is older than what its publisher must have seen by then.
    fn is_stale(&self, header: &EpochHeader, source: SlotSource) -> bool {
        let used = match source {
            SlotSource::Static => 0,
            SlotSource::Prekey(id) => id,
            // Seeds nothing itself.
            SlotSource::Kek => return false,
        };
        let Some(chain) = &self.chain else { return false };
        let grace = chain.policy().max_epoch_age_ms.saturating_add(STALE_GRACE_MS);
        let newer = self.ledger.cursor().acknowledged.iter().filter(|(id, _)| *id > used);
        newer.into_iter().any(|(_, at_ms)| header.time_ms > at_ms.saturating_add(grace))
    }
}

fn record(delivery: &EpochDelivery) -> Bytes {
    Record::Header(delivery.header.clone()).encode()
}
