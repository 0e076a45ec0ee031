//! Records and contexts, judged one by one in the order they come.

use bytes::Bytes;

use super::Auditor;
use super::book::Book;
use super::finding::{Finding, Kind};
use super::report::{Sighted, Sighting};
use super::track::{Track, Wrong};
use crate::accept::{BatchClaim, Known, Seen, check_fence, check_follows};
use crate::frame::{Code, Context, EpochDelivery, Reply, RosterDelivery};
use crate::identity::PublicKey;
use crate::ids::Offset;
use crate::object::{EpochHeader, Signed};
use crate::record::BatchRecord;

impl Auditor {
    /// Whether a record may stand at `offset`: places rise.
    fn place(&mut self, offset: Offset) -> Option<Wrong> {
        self.begun = true;
        self.behind_hole = false;
        self.records = self.records.saturating_add(1);
        if offset < self.next {
            return Some((Kind::OutOfPlace, format!("offset {offset} came where {} was due", self.next)));
        }
        self.next = Offset(offset.0.saturating_add(1));
        None
    }

    pub(super) fn on_roster(&mut self, delivery: &RosterDelivery) -> Option<Sighting> {
        let book = self.book.as_mut()?;
        let met = self.findings.met;
        let entry = delivery.entry.peek().ok();
        match book.entry(delivery) {
            Err(finding) => self.findings.push(finding),
            // What stands before the start, or in a hole, is told of first and counts for what follows.
            Ok(()) if delivery.offset < self.next && (!self.begun || self.behind_hole) => return None,
            Ok(()) => {
                if let Some((kind, text)) = self.place(delivery.offset) {
                    self.findings.push(Finding::new(kind, text).at(delivery.offset));
                }
            }
        }
        let what = entry.map_or(Sighted::Unreadable, |entry| Sighted::Roster {
            seq: entry.seq,
            signer: entry.signer,
            time_ms: entry.time_ms,
        });
        Some(Sighting { offset: delivery.offset, what, holds: met == self.findings.met })
    }

    pub(super) fn on_epoch(&mut self, delivery: &EpochDelivery) -> Option<Sighting> {
        let met = self.findings.met;
        let header = delivery.header.peek();
        let what = match &header {
            Err(_) => Sighted::Unreadable,
            Ok(header) => Sighted::Header {
                publisher: header.publisher,
                epoch: header.epoch,
                mode: header.mode,
                slots: header.slot_count,
                time_ms: header.time_ms,
            },
        };
        match header {
            Err(error) => {
                self.findings.push(Finding::new(Kind::Malformed, error.to_string()).at(delivery.offset));
            }
            Ok(header) => {
                for (kind, text) in self.judge_header(delivery, &header) {
                    let finding = Finding::new(kind, text).by(header.publisher, header.epoch);
                    self.findings.push(finding.at(delivery.offset));
                }
            }
        }
        Some(Sighting { offset: delivery.offset, what, holds: met == self.findings.met })
    }

    fn judge_header(&mut self, delivery: &EpochDelivery, header: &EpochHeader) -> Vec<Wrong> {
        if let Some(wrong) = self.unsigned(&delivery.header, header) {
            return vec![wrong];
        }
        let (publisher, epoch) = (header.publisher, header.epoch);
        let fingerprint = delivery.header.hash();
        let seen = Seen { epoch, batch_no: None, fingerprint, offset: delivery.offset };
        let known = self.tracks.get(&publisher).map_or(Known::Never, |track| track.known(&seen));
        if let Some(wrong) = repeated(&known, &format!("the header of epoch {epoch}")) {
            return vec![wrong];
        }
        let mut wrong: Vec<_> = self.place(delivery.offset).into_iter().collect();
        let room = self.room();
        let Some(chain) = self.book.as_ref().map(Book::chain) else { return wrong };
        if let Err(refusal) =
            check_fence(chain, &publisher, header.roster_seq, &header.roster_hash, (epoch, None))
        {
            wrong.push((kind(refusal.code), format!("the header of epoch {epoch}: {}", refusal.detail)));
            if refusal.code == Code::NotAllowed {
                return wrong;
            }
        }
        let removal = chain.last_removal_seq();
        match self.tracks.get_mut(&publisher) {
            None => {
                if let Err((_, why)) = check_follows(None, header, removal) {
                    let text = match header.prev_header_hash.is_zero() {
                        true => format!("the header of epoch {epoch}: {why}"),
                        false => format!("an epoch before {epoch} never came"),
                    };
                    wrong.push((Kind::Missing, text));
                }
                self.tracks.insert(publisher, Track::begin(delivery, header));
            }
            Some(track) => {
                if let Err((_, why)) = check_follows(Some(&track.lane), header, removal) {
                    let (not, go_on) = track.unfollowed(header, why);
                    wrong.push(not);
                    if !go_on {
                        return wrong;
                    }
                    track.forget_seq();
                }
                track.next_epoch(delivery, header, room);
            }
        }
        wrong
    }

    /// What is wrong with a header taken by itself.
    fn unsigned(&self, signed: &Signed<EpochHeader>, header: &EpochHeader) -> Option<Wrong> {
        let epoch = header.epoch;
        if header.topic != self.topic {
            return Some((Kind::OutOfPlace, format!("the header of epoch {epoch} is another topic's")));
        }
        let held = signed.verify(&header.publisher).is_ok();
        (!held)
            .then(|| (Kind::Signature, format!("the header of epoch {epoch}: its signature does not hold")))
    }

    pub(super) fn on_record(&mut self, offset: Offset, bytes: Bytes) -> Sighting {
        let met = self.findings.met;
        let read = Reply::batch(bytes).map_err(|error| error.to_string()).and_then(|batch| {
            let claim = BatchClaim::read(&batch).map_err(|error| error.to_string())?;
            Ok((batch, claim))
        });
        let what = match read {
            Err(why) => {
                let wrong = self.place(offset).into_iter().chain([(Kind::Malformed, why)]);
                for (kind, text) in wrong.collect::<Vec<_>>() {
                    self.findings.push(Finding::new(kind, text).at(offset));
                }
                Sighted::Unreadable
            }
            Ok((record, claim)) => self.on_batch(offset, &record, claim),
        };
        Sighting { offset, what, holds: met == self.findings.met }
    }

    fn on_batch(&mut self, offset: Offset, record: &BatchRecord, mut claim: BatchClaim) -> Sighted {
        let ciphertext = u64::try_from(record.ciphertext().0.len()).unwrap_or(u64::MAX);
        let (publisher, wrong) = self.judge_batch(offset, &mut claim, ciphertext);
        let batch = claim.batch();
        for (kind, text) in wrong {
            let finding = Finding::new(kind, text).at(offset);
            self.findings.push(Finding { publisher, epoch: Some(batch.epoch), ..finding });
        }
        Sighted::Batch {
            publisher,
            epoch: batch.epoch,
            batch_no: batch.batch_no,
            first_seq: batch.first_seq,
            messages: batch.count,
            time_ms: batch.time_ms,
            ciphertext,
            end: batch.end,
        }
    }

    fn judge_batch(
        &mut self,
        offset: Offset,
        claim: &mut BatchClaim,
        ciphertext: u64,
    ) -> (Option<PublicKey>, Vec<Wrong>) {
        let (epoch, no) = (claim.batch().epoch, claim.batch().batch_no);
        let name = format!("batch {no} of epoch {epoch}");
        let seen = Seen { epoch, batch_no: Some(no), fingerprint: claim.fingerprint(), offset };
        // The very bytes again, whoever's newest epoch it is now.
        if let Some((key, Known::Same(first))) = self
            .tracks
            .iter()
            .map(|(key, track)| (*key, track.known(&seen)))
            .find(|(_, known)| matches!(known, Known::Same(_)))
        {
            let text = format!("{name} stands at offset {first} already");
            return (Some(key), vec![(Kind::Replayed, text)]);
        }
        let mut wrong: Vec<_> = self.place(offset).into_iter().collect();
        // A batch names its epoch only, and two publishers may have chosen one number: the signature decides.
        let same = self.tracks.iter_mut().filter(|(_, track)| track.lane.header().epoch == epoch);
        let (mut any, mut found) = (false, None);
        for (key, track) in same {
            any = true;
            if claim.verify(&track.lane.header_hash(), &track.lane.header().epoch_vk) {
                found = Some((*key, track));
                break;
            }
        }
        let Some((publisher, track)) = found else {
            wrong.push(match any {
                true => (Kind::Signature, format!("{name}: its signature does not hold")),
                false => (Kind::OutOfPlace, format!("{name}: that epoch is no publisher's newest")),
            });
            return (None, wrong);
        };
        if let Some(again) = repeated(&track.known(&seen), &name) {
            wrong.push(again);
            return (Some(publisher), wrong);
        }
        let header = track.lane.header();
        let chain = self.book.as_ref().map(Book::chain);
        if let Some(Err(refusal)) = chain.map(|chain| {
            check_fence(chain, &publisher, header.roster_seq, &header.roster_hash, (epoch, Some(no)))
        }) {
            wrong.push((kind(refusal.code), format!("batches of epoch {epoch}: {}", refusal.detail)));
        }
        wrong.extend(track.take(claim, offset, ciphertext));
        (Some(publisher), wrong)
    }

    pub(super) fn on_context(&mut self, context: &Context) {
        let delivery = &context.epoch;
        let header = match delivery.header.peek() {
            Ok(header) => header,
            Err(error) => {
                return self.findings.push(Finding::new(Kind::Malformed, error.to_string()));
            }
        };
        for (kind, text) in self.judge_context(context, &header) {
            let finding = Finding::new(kind, text).by(header.publisher, header.epoch);
            self.findings.push(finding.at(delivery.offset));
        }
    }

    fn judge_context(&mut self, context: &Context, header: &EpochHeader) -> Vec<Wrong> {
        let delivery = &context.epoch;
        if let Some(wrong) = self.unsigned(&delivery.header, header) {
            return vec![wrong];
        }
        let (publisher, epoch) = (header.publisher, header.epoch);
        let mut wrong = Vec::new();
        let Some(book) = &self.book else { return wrong };
        if !book.was_officer(&publisher) {
            return vec![(
                Kind::Role,
                format!("the header of epoch {epoch}: its signer never held the role"),
            )];
        }
        match book.hash(header.roster_seq) {
            Some(hash) if hash == header.roster_hash => {}
            Some(_) => {
                wrong.push((
                    Kind::Fork,
                    format!("epoch {epoch} names another roster entry {}", header.roster_seq),
                ));
            }
            None => wrong.push((
                Kind::Missing,
                format!("epoch {epoch} names roster entry {}, which never came", header.roster_seq),
            )),
        }
        let mut last = context.batch.as_ref();
        let hash = delivery.header.hash();
        if last.is_some_and(|(digest, _)| digest.verify(&hash, &header.epoch_vk).is_err()) {
            wrong.push((
                Kind::Signature,
                format!("the last batch of epoch {epoch}: its signature does not hold"),
            ));
            last = None;
        }
        let room = self.room();
        match self.tracks.get_mut(&publisher) {
            None => {
                self.tracks.extend(Track::behind(delivery, header, last).map(|track| (publisher, track)));
            }
            Some(track) => {
                let shown =
                    last.and_then(|(digest, _)| digest.peek().ok()?.batch_no.next()).unwrap_or_default();
                let (held, due) = (track.lane.header().epoch, track.lane.next_batch_no());
                if (epoch, shown) < (held, due) {
                    let text = format!("the broker goes back to epoch {epoch}: it had shown epoch {held}");
                    wrong.push((Kind::OutOfPlace, text));
                } else if (epoch, shown) > (held, due) {
                    if !self.behind_hole {
                        wrong.push((
                            Kind::Missing,
                            format!("records before batch {shown} of epoch {epoch} never came"),
                        ));
                    }
                    track.resume(delivery, header, last, room);
                }
            }
        }
        wrong
    }
}

/// What is wrong with a number that came before.
fn repeated(known: &Known, name: &str) -> Option<Wrong> {
    match known {
        Known::Never => None,
        Known::Same(first) => Some((Kind::Replayed, format!("{name} stands at offset {first} already"))),
        Known::Other => Some((Kind::Fork, format!("{name} was signed twice, differently"))),
        Known::TooOld => Some((Kind::Replayed, format!("{name} came again, after later ones"))),
    }
}

fn kind(code: Code) -> Kind {
    match code {
        Code::NotAllowed => Kind::Role,
        Code::StaleEpoch => Kind::StaleEpoch,
        Code::OutOfOrder => Kind::Missing,
        _ => Kind::Fork,
    }
}
