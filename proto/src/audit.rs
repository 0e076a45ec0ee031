//! What a broker can see of a topic, and whether it holds: one pass over a delivery stream that opens nothing.
//!
//! ```text
//! Start ─► genesis = topic id    Roster ─► chain, ops, roles, rules    Epoch ─► role, fence, prev_header, prev_close
//! Context ─► where it goes on    Record ─► signature, number, prev     Hole, AtHead ─► what is not there
//! ```
//! It judges by the rules that a broker accepts by ([`crate::accept`]), but where an acceptor refuses and stands still,
//! an auditor names what does not hold and goes on behind it, so that one forged record does not hide the rest. Entries,
//! epochs and findings are kept up to limits and summed up beyond them: a long log costs no memory. It reads no clock.

mod book;
mod finding;
mod judge;
mod report;
#[cfg(test)]
mod tests;
mod track;

use std::collections::BTreeMap;

use crate::frame::{HoleReason, Reply, Start};
use crate::identity::PublicKey;
use crate::ids::{Hash, Offset, RosterSeq, TopicId};
use crate::object::{Beacon, Genesis, Prekey, Signed};
use crate::roster::RosterMatch;

use book::Book;
use finding::Findings;
pub use finding::{Finding, Kind, MAX_FINDINGS};
pub use report::{
    Audit, Changed, Entry, EpochNote, How, MAX_ENTRIES, MAX_EPOCHS, MAX_HOLES, MAX_NAMED, PrekeyNote,
    PublisherNote, Sighted, Sighting, Sums,
};
use track::Track;

/// Beacon intervals within which what a beacon names should come, a count (docs/protocol.md section 7).
const PATIENCE: u64 = 3;

/// Follows a subscription from the earliest record that was asked for with `roster_seq` 0, so that the roster comes whole.
#[derive(Debug)]
pub struct Auditor {
    topic: TopicId,
    me: PublicKey,
    genesis: Option<Genesis>,
    /// What the broker announced.
    start: Option<Start>,
    /// The roster; `None` before a genesis that holds.
    book: Option<Book>,
    tracks: BTreeMap<PublicKey, Track>,
    prekeys: Option<BTreeMap<PublicKey, PrekeyNote>>,
    holes: Vec<(Offset, Offset, HoleReason)>,
    /// The lowest offset the next record can have.
    next: Offset,
    /// Whether a record or a hole came: before, entries and contexts tell of what stood before the start.
    begun: bool,
    /// Whether contexts tell of what stood in a hole.
    behind_hole: bool,
    records: u64,
    complete: bool,
    findings: Findings,
}

impl Auditor {
    /// For `topic`, as shown to `me`.
    pub fn new(topic: TopicId, me: PublicKey) -> Self {
        Self {
            topic,
            me,
            genesis: None,
            start: None,
            book: None,
            tracks: BTreeMap::new(),
            prekeys: None,
            holes: Vec::new(),
            next: Offset(0),
            begun: false,
            behind_hole: false,
            records: 0,
            complete: false,
            findings: Findings::default(),
        }
    }

    /// Takes the next frame of the stream; of a record, returns what can be seen of it. Prekeys come from a watch.
    /// `now_ms`: milliseconds since 1970 by one's own clock.
    pub fn take(&mut self, reply: Reply, now_ms: u64) -> Option<Sighting> {
        match reply {
            Reply::Start(start) => self.on_start(start),
            // Without a genesis that holds there is nobody whose signature to demand.
            _ if self.book.is_none() => {}
            Reply::Roster(delivery) => return self.on_roster(&delivery),
            Reply::Epoch(delivery) => return self.on_epoch(&delivery),
            Reply::Record(offset, bytes) => return Some(self.on_record(offset, bytes)),
            Reply::Context(context) => self.on_context(&context),
            Reply::Head(head) => {
                if let Some(Err(finding)) = self.book.as_mut().map(|book| book.head(&head)) {
                    self.findings.push(finding);
                }
            }
            Reply::Hole(from, to, why) => self.on_hole(from, to, why),
            Reply::AtHead { next_offset, .. } => self.on_head(next_offset),
            Reply::Beacon(publisher, beacon) => self.on_beacon(&publisher, &beacon, now_ms),
            Reply::Prekey(prekey) => self.on_prekey(&prekey),
            _ => {
                self.findings.push(Finding::new(Kind::Malformed, "a frame that has no place in this stream"))
            }
        }
        None
    }

    /// The broker sent bytes that are no frame, and nothing can follow.
    pub fn broken(&mut self, what: &str) {
        self.findings.push(Finding::new(Kind::Malformed, what).at(self.next));
    }

    /// That prekeys are shown to this identity, even if there are none.
    pub fn sees_prekeys(&mut self) {
        self.prekeys.get_or_insert_default();
    }

    /// The newest roster entry that holds.
    pub fn roster_seq(&self) -> RosterSeq {
        self.book.as_ref().map_or(RosterSeq(0), |book| book.chain().seq())
    }

    /// Whether the identity that looks may publish or administer.
    pub fn is_officer(&self) -> bool {
        self.book.as_ref().is_some_and(|book| book.chain().may_publish(&self.me))
    }

    /// Whether every publisher that may publish and has not ended gave a sign of life that holds, and what it signed there
    /// is has come or is overdue: listening on would tell nothing more.
    pub fn is_heard(&self, now_ms: u64) -> bool {
        let Some(chain) = self.book.as_ref().map(Book::chain) else { return true };
        let live = self
            .tracks
            .iter()
            .filter(|(publisher, track)| chain.may_publish(publisher) && !track.lane.ended());
        let patience_ms = u64::from(chain.policy().beacon_ms).saturating_mul(PATIENCE);
        live.map(|(_, track)| track).all(|track| track.is_settled(now_ms, patience_ms))
    }

    /// Ends the pass.
    pub fn finish(mut self, now_ms: u64) -> Audit {
        let removed = self.book.as_ref().and_then(|book| book.removed);
        let (seq, beacon_ms) = self.book.as_ref().map_or((RosterSeq(0), 0), |book| {
            (book.chain().seq(), u64::from(book.chain().policy().beacon_ms))
        });
        if let Some(start) = self.start.as_ref().filter(|_| removed.is_none() && self.book.is_some()) {
            if !self.complete {
                let text = format!("the stream ended at offset {} of {}", self.next, start.next_offset);
                self.findings.push(Finding::new(Kind::CutOff, text));
            }
            if seq < start.roster_seq {
                let text = format!("the roster ends at entry {seq} of {}", start.roster_seq);
                self.findings.push(Finding::new(Kind::Missing, text));
            }
        }
        for track in self.tracks.values() {
            if let Some((kind, text)) = track.withheld(now_ms, beacon_ms.saturating_mul(PATIENCE)) {
                let header = track.lane.header();
                self.findings.push(Finding::new(kind, text).by(header.publisher, header.epoch));
            }
        }
        self.into_audit(removed)
    }

    fn into_audit(mut self, removed: Option<RosterSeq>) -> Audit {
        let entries = self.book.as_mut().map(|book| std::mem::take(&mut book.history)).unwrap_or_default();
        let chain = self.book.as_ref().map(Book::chain);
        let roster = self.book.as_ref().and_then(Book::roster);
        let publishers = self.tracks.into_iter().map(|(identity, track)| {
            let role = chain.and_then(|chain| chain.role_above_reader(&identity));
            track.into_note(role)
        });
        Audit {
            level: self.start.as_ref().map(|start| start.level),
            start_offset: self.start.as_ref().map_or(Offset(0), |start| start.start_offset),
            next_offset: self.next,
            complete: self.complete,
            policy: chain.map(|chain| chain.policy().clone()).unwrap_or_default(),
            roster_seq: chain.map_or(RosterSeq(0), |chain| chain.seq()),
            roster_hash: chain.map_or(Hash(self.topic.0), |chain| chain.hash()),
            entries,
            head: self.book.as_ref().and_then(|book| book.head.clone()),
            officers: chain.map(|chain| chain.officers().to_vec()).unwrap_or_default(),
            members: roster.map(|roster| roster.members().map(|(index, member)| (index, *member)).collect()),
            members_ever: chain.map_or(0, |chain| chain.next_member.0),
            role: self.book.as_ref().and_then(|book| book.role_of(&self.me)),
            removed,
            prekeys: self.prekeys,
            publishers: publishers.collect(),
            holes: self.holes,
            records: self.records,
            more_findings: self.findings.not_kept,
            findings: self.findings.into_kept(),
            genesis: self.genesis,
        }
    }

    fn on_start(&mut self, start: Start) {
        if self.start.is_some() {
            return self.findings.push(Finding::new(Kind::Malformed, "a second start in one stream"));
        }
        match start.genesis.verify_topic(&self.topic) {
            Ok(genesis) => {
                self.book = Some(Book::new(self.topic, &genesis, self.me));
                self.genesis = Some(genesis);
            }
            Err(error) => self.findings.push(Finding::new(Kind::Genesis, error.to_string())),
        }
        self.next = start.start_offset;
        self.start = Some(start);
    }

    fn on_hole(&mut self, from: Offset, to: Offset, why: HoleReason) {
        if why == HoleReason::Corruption {
            let text = format!("the broker lost records {from} to before {to}");
            self.findings.push(Finding::new(Kind::Lost, text).at(from));
        }
        if self.holes.len() < MAX_HOLES {
            self.holes.push((from, to, why));
        }
        self.begun = true;
        self.behind_hole = true;
        self.next = self.next.max(to);
    }

    fn on_head(&mut self, next_offset: Offset) {
        let announced = self.start.as_ref().map_or(Offset(0), |start| start.next_offset);
        if next_offset < announced {
            let text = format!("the broker ended at offset {next_offset}; it had announced {announced}");
            self.findings.push(Finding::new(Kind::CutOff, text));
        }
        self.complete = true;
        self.next = self.next.max(next_offset);
    }

    fn on_beacon(&mut self, publisher: &PublicKey, signed: &Signed<Beacon>, now_ms: u64) {
        let (Some(book), Some(track)) = (&self.book, self.tracks.get_mut(publisher)) else { return };
        // One of an epoch that did not come (yet) names a key that did not come either.
        let Ok(beacon) = signed.peek() else { return };
        if beacon.header_hash != track.lane.header_hash() {
            return;
        }
        let epoch = track.lane.header().epoch;
        let wrong = match signed.verify(&track.lane.header().epoch_vk) {
            Err(error) => Some((Kind::Signature, error.to_string())),
            Ok(_) if book.chain().compare(beacon.roster_seq, &beacon.roster_hash) == RosterMatch::Fork => {
                Some((Kind::Fork, format!("a beacon names another roster entry {}", beacon.roster_seq)))
            }
            Ok(beacon) => track.beacon(&beacon, now_ms),
        };
        if let Some((kind, text)) = wrong {
            self.findings.push(Finding::new(kind, text).by(*publisher, epoch));
        }
    }

    fn on_prekey(&mut self, signed: &Signed<Prekey>) {
        let Some(roster) = self.book.as_ref().and_then(Book::roster) else { return };
        let Ok(prekey) = signed.verify_own() else {
            return self.findings.push(Finding::new(Kind::Signature, "a prekey that its owner did not sign"));
        };
        // Of somebody who joined meanwhile, perhaps.
        if roster.find(&prekey.owner).is_none() {
            return;
        }
        let note = PrekeyNote { id: prekey.prekey_id, not_after_ms: prekey.not_after_ms };
        self.prekeys.get_or_insert_default().insert(prekey.owner, note);
    }

    /// Whether one more epoch may be kept.
    fn room(&self) -> bool {
        self.tracks.values().map(Track::kept_epochs).sum::<usize>() < MAX_EPOCHS
    }
}
