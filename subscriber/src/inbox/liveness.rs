//! Silence, and what is said against it: beacons, the head of the log, time.

use sealcast_proto::limits::MAX_CLOCK_SKEW_MS;
use sealcast_proto::object::Beacon;
use sealcast_proto::roster::RosterMatch;
use sealcast_proto::{BatchNo, Offset, PublicKey, Signed};

use super::publisher::{Ahead, Publisher};
use super::{Effects, Inbox, Phase, Removal};
use crate::event::{Event, GapReason};

/// Beacon intervals of silence after which something is said.
const PATIENCE: u64 = 3;

impl Inbox {
    /// How long silence may last, milliseconds.
    fn patience_ms(&self) -> u64 {
        self.chain.as_ref().map_or(1000, |chain| u64::from(chain.policy().beacon_ms)) * PATIENCE
    }

    /// How often [`super::Input::Tick`] is wanted, milliseconds.
    pub fn tick_ms(&self) -> u64 {
        (self.patience_ms() / (2 * PATIENCE)).clamp(50, 1000)
    }

    /// While nothing was read, nobody was silent.
    pub(super) fn on_resumed(&mut self, now_ms: u64) {
        let Some(since) = self.paused_ms.take() else { return };
        let pause = now_ms.saturating_sub(since);
        let later = |time: &mut u64| *time = time.saturating_add(pause);
        later(&mut self.progress_ms);
        for publisher in self.publishers.values_mut() {
            later(&mut publisher.life.heard_ms);
            if let Some(ahead) = &mut publisher.life.ahead {
                later(&mut ahead.due_ms);
            }
        }
    }

    pub(super) fn alive_at_header(&mut self, key: &PublicKey, now_ms: u64) {
        if let Some(publisher) = self.publishers.get_mut(key) {
            if publisher.life.heard_ms == 0 {
                // It was not known before: its silence counts from here on, even if its clock is off.
                publisher.life.heard_ms = now_ms;
            }
            alive(publisher, publisher.header.time_ms, now_ms);
        }
    }

    pub(super) fn alive_at_batch(&mut self, key: &PublicKey, time_ms: u64, now_ms: u64) {
        if let Some(publisher) = self.publishers.get_mut(key) {
            alive(publisher, time_ms, now_ms);
        }
    }

    pub(super) fn on_beacon(
        &mut self,
        key: &PublicKey,
        signed: &Signed<Beacon>,
        now_ms: u64,
        fx: &mut Effects,
    ) {
        let due_ms = now_ms.saturating_add(self.patience_ms());
        let at_head = self.phase == Phase::AtHead;
        let Some(chain) = self.chain.clone() else { return };
        let Some(publisher) = self.publishers.get_mut(key).filter(|_| chain.may_publish(key)) else { return };
        let Ok(claimed) = signed.peek() else { return };
        let mut ahead = Ahead {
            header_hash: claimed.header_hash,
            next_batch_no: claimed.next_batch_no,
            roster_seq: claimed.roster_seq,
            due_ms,
        };
        if claimed.header_hash != publisher.track.header_hash {
            // Of an epoch before (behind), or of one whose header is on its way. Nobody can tell a forgery here, so it
            // is no sign of life; if the header does not come, something is withheld or somebody lies.
            if at_head && !publisher.is_older(&claimed.header_hash) && !publisher.life.ahead_told {
                ahead.next_batch_no = BatchNo(0);
                ahead.roster_seq = chain.seq();
                publisher.life.ahead.get_or_insert(ahead);
            }
            return;
        }
        let Ok(beacon) = signed.verify(&publisher.header.epoch_vk) else {
            self.counters.invalid += 1;
            return;
        };
        if beacon.next_batch_no < publisher.track.next_batch_no {
            return;
        }
        let roster = chain.compare(beacon.roster_seq, &beacon.roster_hash);
        let equal = beacon.next_batch_no == publisher.track.next_batch_no;
        let forked = equal && publisher.track.last_hash.is_some_and(|last| last != beacon.last_batch_hash);
        if forked || roster == RosterMatch::Fork {
            let beacon_evidence = [signed.body().as_ref(), signed.signature()].concat().into();
            let ours = match forked {
                true => publisher.batch_evidence(),
                false => self.entry_evidence(beacon.roster_seq),
            };
            let header = self.publishers.get(key).map(Publisher::header_evidence).unwrap_or_default();
            let proof = vec![header, beacon_evidence, ours];
            return self.terminal(Event::Fork { publisher: Some(*key), proof }, fx);
        }
        if !alive(publisher, beacon.time_ms, now_ms) {
            return;
        }
        if !equal || roster == RosterMatch::Ahead {
            if at_head && !publisher.life.ahead_told {
                publisher.life.ahead.get_or_insert(ahead);
            }
        } else if publisher.track.suspect.is_some() && !publisher.track.gap_due {
            // Feared, and now disproved: its own word on what is the last.
            publisher.track.suspect = None;
        }
    }

    pub(super) fn on_head_reached(&mut self, next_offset: Offset, end_of_stream: bool, fx: &mut Effects) {
        if self.phase != Phase::AtHead {
            // Up to here everybody's records counted. A stream that brings nothing new buys nobody time.
            for publisher in self.publishers.values_mut() {
                publisher.life.heard_ms = publisher.life.heard_ms.max(self.progress_ms);
            }
        }
        self.phase = Phase::AtHead;
        self.faults = 0;
        self.context_gap = None;
        let officer = |key: &PublicKey| self.chain.as_ref().is_some_and(|chain| chain.may_publish(key));
        if self.removed != Removal::No && !officer(&self.keyring.me) {
            return self.terminal(Event::Removed, fx);
        }
        self.removed = Removal::No;
        if next_offset > self.next_offset.unwrap_or_default() {
            self.next_offset = Some(next_offset);
            self.marks.next_offset = self.marks.next_offset.max(next_offset);
            self.ledger.set_marks(self.marks);
        }
        self.progress();
        for key in self.publishers.keys().copied().collect::<Vec<_>>() {
            let Some(publisher) = self.publishers.get_mut(&key) else { continue };
            let ended = publisher.track.ended;
            // One by one: each is taken, and saved as said, by itself.
            if let Some(event) = publisher.tell_locked() {
                self.tell(&key, event, fx);
            }
            if let Some(publisher) = self.publishers.get_mut(&key).filter(|publisher| publisher.track.gap_due)
            {
                let event = publisher.gap(None);
                self.tell(&key, event, fx);
            }
            let may_publish = self.chain.as_ref().is_some_and(|chain| chain.may_publish(&key));
            if end_of_stream && may_publish && !ended {
                self.tell(&key, Event::Truncated { publisher: key }, fx);
            }
        }
        if end_of_stream && self.until_head {
            self.ended = true;
        }
    }

    pub(super) fn on_tick(&mut self, now_ms: u64, fx: &mut Effects) {
        if self.paused_ms.is_some() {
            return;
        }
        let patience = self.patience_ms();
        let at_head = self.phase == Phase::AtHead;
        let Some(chain) = self.chain.clone() else { return };
        for key in chain.officers().iter().map(|officer| officer.identity) {
            let Some(publisher) = self.publishers.get_mut(&key) else { continue };
            if let Some(event) = overdue(publisher, chain.seq(), now_ms) {
                self.tell(&key, event, fx);
                continue;
            }
            // While catching up, no record at all; at the head, none of this publisher's.
            let others = if at_head { 0 } else { self.progress_ms };
            let silent = now_ms >= publisher.life.heard_ms.max(others).saturating_add(patience);
            if !silent || publisher.life.stalled || publisher.track.ended {
                continue;
            }
            publisher.life.stalled = true;
            if publisher.track.suspect.is_some() {
                // Feared, and nobody is there to disprove it.
                let event = publisher.gap(None);
                self.tell(&key, event, fx);
            }
            self.tell(&key, Event::Stalled { publisher: key }, fx);
        }
        let max_age = chain.policy().max_roster_age_ms;
        if at_head
            && max_age > 0
            && !self.roster_stale
            && now_ms > self.confirmed_ms().saturating_add(max_age)
        {
            self.roster_stale = true;
            self.tell_all(Event::RosterStale, fx);
        }
    }
}

/// Counts a sign of life, if it is one: newer than the last, and of about now.
fn alive(publisher: &mut Publisher, time_ms: u64, now_ms: u64) -> bool {
    if time_ms <= publisher.life.time_ms || time_ms.abs_diff(now_ms) > MAX_CLOCK_SKEW_MS {
        return false;
    }
    publisher.life.time_ms = time_ms;
    publisher.life.heard_ms = now_ms;
    publisher.life.stalled = false;
    true
}

/// What a beacon spoke of and did not come in time.
fn overdue(publisher: &mut Publisher, roster_seq: sealcast_proto::RosterSeq, now_ms: u64) -> Option<Event> {
    let ahead = publisher.life.ahead?;
    let arrived = if ahead.header_hash == publisher.track.header_hash {
        publisher.track.next_batch_no >= ahead.next_batch_no
    } else {
        publisher.is_older(&ahead.header_hash)
    };
    if arrived && roster_seq >= ahead.roster_seq {
        publisher.life.ahead = None;
        return None;
    }
    if now_ms < ahead.due_ms {
        return None;
    }
    publisher.life.ahead = None;
    publisher.life.ahead_told = true;
    publisher.track.suspect = Some(GapReason::Withheld);
    Some(publisher.gap(None))
}
