//! What the broker shows of each publisher before the point where a stream begins, against what we hold.

use sealcast_proto::frame::{Context, HoleReason};
use sealcast_proto::object::Batch;
use sealcast_proto::{Hash, Offset, PublicKey, Seq};

use super::epoch::Keys;
use super::header::{Objection, Place, Standing};
use super::publisher::Publisher;
use super::{Effects, Inbox, RecordItems};
use crate::event::{Event, GapReason};
use crate::ledger::{Change, Layout};

/// A context's last batch, verified.
struct Shown {
    body: Batch,
    hash: Hash,
    evidence: bytes::Bytes,
}

impl Inbox {
    pub(super) fn on_context(&mut self, context: &Context, now_ms: u64, fx: &mut Effects) {
        let (header, standing) = self.standing(&context.epoch);
        let Some(header) = header else {
            self.counters.invalid += 1;
            return;
        };
        let key = header.publisher;
        let known = self.publishers.contains_key(&key);
        let header_hash = context.epoch.header.hash();
        let shown = match context
            .batch
            .as_ref()
            .map(|(digest, _)| (digest, digest.verify(&header_hash, &header.epoch_vk)))
        {
            None => None,
            Some((digest, Ok((body, hash)))) if body.epoch == header.epoch => {
                Some(Shown { body, hash, evidence: digest.evidence() })
            }
            Some(_) => {
                self.counters.invalid += 1;
                return;
            }
        };
        let mut events = Vec::new();
        match standing {
            Standing::Invalid => self.counters.invalid += 1,
            Standing::Fork(proof) => return self.terminal(Event::Fork { publisher: Some(key), proof }, fx),
            Standing::Lower => return self.behind(&key, "an older epoch", fx),
            Standing::Same => self.late_slot(&key, &context.epoch),
            Standing::New => match self.accept(header, &context.epoch, Place::Before) {
                Ok(said) => {
                    self.progress_ms = now_ms;
                    self.alive_at_header(&key, now_ms);
                    events = said;
                }
                Err(Objection::Fork(proof)) => {
                    return self.terminal(Event::Fork { publisher: Some(key), proof }, fx);
                }
                Err(Objection::Refused(why)) => {
                    self.counters.refused += 1;
                    let items = RecordItems {
                        before: vec![Event::Refused { publisher: key, why }],
                        ..Default::default()
                    };
                    return self.hand_out(Some(header_hash), items, Change::default(), fx);
                }
            },
        }
        let missed_why = self.context_gap;
        let Some(publisher) = self.publishers.get_mut(&key) else { return };
        match (shown, known) {
            (Some(shown), false) => events.extend(begin_after(publisher, shown, missed_why)),
            (None, false) => {
                // What we did not ask for is not missing.
                if let Some(why) = missed_why.filter(|_| !publisher.header.prev_header_hash.is_zero()) {
                    publisher.expect_gap(why);
                }
            }
            (Some(shown), true) => {
                match shown.body.batch_no.next().map(|next| next.cmp(&publisher.track.next_batch_no)) {
                    Some(std::cmp::Ordering::Equal) => {
                        if publisher.track.last_hash.is_some_and(|last| last != shown.hash) {
                            let proof =
                                vec![publisher.header_evidence(), publisher.batch_evidence(), shown.evidence];
                            return self.terminal(Event::Fork { publisher: Some(key), proof }, fx);
                        }
                        publisher.track.last_hash = Some(shown.hash);
                        not_missed(publisher);
                    }
                    Some(std::cmp::Ordering::Greater) => events.extend(missed(publisher, shown)),
                    _ => return self.behind(&key, "fewer batches", fx),
                }
            }
            (None, true) if publisher.track.next_batch_no.0 > 0 => return self.behind(&key, "no batch", fx),
            (None, true) => not_missed(publisher),
        }
        let items = RecordItems { before: events, ..RecordItems::default() };
        self.hand_out(Some(header_hash), items, self.change_of(&key), fx);
    }

    /// The broker shows less of a publisher than we hold, at a place where it cannot.
    fn behind(&mut self, key: &PublicKey, what: &str, fx: &mut Effects) {
        // A memory topic loses what was not stored yet; and before where we asked to begin there is less.
        if self.marks.durable && !self.rewound {
            let what = format!("it shows {what} of {key} than was seen");
            self.terminal(Event::Rollback { what }, fx);
        }
    }

    /// Records up to `to` are gone, says the broker. Whose, the next record of each publisher tells.
    pub(super) fn on_hole(&mut self, to: Offset, why: HoleReason) {
        self.begun();
        if to <= self.stream_start {
            // The contexts of the start showed where every publisher stands after it.
            return;
        }
        let why = match why {
            HoleReason::Retention => GapReason::Retention,
            HoleReason::Corruption => GapReason::Corruption,
        };
        self.suspect_all(why);
        self.context_gap = Some(why);
        // Not passed yet: who starts again before the contexts came has to be told of it again.
        let publishers =
            self.publishers.iter().map(|(key, publisher)| (*key, Some(publisher.saved()))).collect();
        let change = Change { publishers, next_offset: self.next_offset, ..Change::default() };
        self.ledger.push(Layout::default(), change);
    }

    pub(super) fn suspect_all(&mut self, why: GapReason) {
        for publisher in self.publishers.values_mut() {
            publisher.track.suspect.get_or_insert(why);
        }
    }
}

/// A publisher that was unknown: what comes next follows the batch shown.
fn begin_after(publisher: &mut Publisher, shown: Shown, missed_why: Option<GapReason>) -> Option<Event> {
    let from_start = missed_why.map(|why| Event::Gap {
        publisher: publisher.header.publisher,
        from: Seq(0),
        to: Some(shown.body.end_seq()),
        why,
    });
    stand_after(publisher, shown);
    from_start
}

/// A publisher whose records went on while we were away, and are gone.
fn missed(publisher: &mut Publisher, shown: Shown) -> Vec<Event> {
    let next_seq = publisher.track.next_seq;
    let mut events: Vec<Event> = publisher.end_locked(next_seq).into_iter().collect();
    events.push(publisher.gap(Some(shown.body.end_seq())));
    if shown.body.end {
        events.push(Event::Ended { publisher: publisher.header.publisher });
    }
    stand_after(publisher, shown);
    events
}

/// A publisher whose records did not go on.
fn not_missed(publisher: &mut Publisher) {
    if !publisher.track.gap_due {
        publisher.track.suspect = None;
    }
}

fn stand_after(publisher: &mut Publisher, shown: Shown) {
    let track = &mut publisher.track;
    track.next_batch_no = shown.body.batch_no.next().unwrap_or(shown.body.batch_no);
    track.last_hash = Some(shown.hash);
    track.next_seq = Some(shown.body.end_seq());
    track.unbroken = true;
    track.suspect = None;
    track.gap_due = false;
    track.ended = shown.body.end;
    publisher.evidence = Some(shown.evidence);
    if let Keys::Open(receiver) = &mut publisher.keys {
        // Keys of what we do not read are not kept. A number in range, so it cannot fail.
        let _ = receiver.fast_forward(track.next_batch_no);
    }
}
