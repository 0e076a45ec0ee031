//! Following the roster, without its members.

use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::frame::RosterDelivery;
use sealcast_proto::limits::MAX_POLICY_BYTES;
use sealcast_proto::object::{RosterEntry, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{RosterChain, RosterError, RosterMatch, removes};
use sealcast_proto::{RosterSeq, Signed};

use super::{Effects, Inbox, Phase, Removal, detached};
use crate::event::Event;
use crate::ledger::{Change, Layout};

/// Entries kept as evidence, a count: a fork further back is proven by hashes alone.
const KEPT_ENTRIES: usize = 64;

impl Inbox {
    pub(super) fn on_roster(&mut self, delivery: &RosterDelivery, now_ms: u64, fx: &mut Effects) {
        let Some(mut chain) = self.chain.clone() else { return };
        let result = match self.begin_chain(&chain, delivery) {
            Some(begun) => begun.map(|(begun, entry)| {
                chain = Arc::new(begun);
                entry
            }),
            None => {
                let policy = delivery.policy.as_deref().filter(|bytes| bytes.len() <= MAX_POLICY_BYTES);
                Arc::make_mut(&mut chain).follow(&delivery.entry, delivery.roles.as_deref(), policy)
            }
        };
        match result {
            Ok(entry) => {
                self.chain = Some(chain);
                self.chain_is_new = false;
                self.progress_ms = now_ms;
                self.followed(delivery, &entry, fx);
            }
            Err(RosterError::Known(seq)) => {
                self.counters.repeated += 1;
                let is_ours = chain.compare(seq, &delivery.entry.hash()) == RosterMatch::Holds;
                if is_ours && let Ok(entry) = delivery.entry.peek() {
                    // Who was removed is shown its removal whenever it asks.
                    self.note_removal(delivery, &entry);
                }
            }
            Err(RosterError::Fork(seq)) => {
                let proof = vec![self.entry_evidence(seq), evidence(&delivery.entry)];
                self.terminal(Event::Fork { publisher: None, proof }, fx);
            }
            Err(error) => {
                self.counters.invalid += 1;
                self.fault(format!("its roster does not verify: {error}"), fx);
            }
        }
    }

    /// A subscriber without a roster begins at entry 1, or at one that the owner vouches for.
    fn begin_chain(
        &self,
        chain: &RosterChain,
        delivery: &RosterDelivery,
    ) -> Option<Result<(RosterChain, RosterEntry), RosterError>> {
        let genesis =
            self.genesis.as_ref().filter(|_| self.chain_is_new && self.phase == Phase::Beginning)?;
        let entry = delivery.entry.peek().ok().filter(|entry| entry.seq > RosterSeq(1))?;
        let roles = delivery.roles.as_deref().unwrap_or_default();
        let policy = delivery.policy.as_deref().unwrap_or_default();
        let (topic, signed) = (chain.topic(), &delivery.entry);
        let begun = match &self.first_head {
            Some(head) if entry.signer != genesis.owner => {
                RosterChain::begin_at_head(topic, genesis, head, signed, roles, policy)
            }
            _ => RosterChain::begin_at(topic, genesis, signed, roles, policy),
        };
        Some(begun.map(|begun| (begun, entry)))
    }

    fn followed(&mut self, delivery: &RosterDelivery, entry: &RosterEntry, fx: &mut Effects) {
        let hash = delivery.entry.hash();
        if entry.seq == self.marks.roster_seq && hash != self.marks.roster_hash {
            let proof = vec![Bytes::copy_from_slice(&self.marks.roster_hash.0), evidence(&delivery.entry)];
            return self.terminal(Event::Fork { publisher: None, proof }, fx);
        }
        self.entries.push_back(detached(&delivery.entry));
        if self.entries.len() > KEPT_ENTRIES {
            self.entries.pop_front();
        }
        self.roster_stale = false;
        self.note_removal(delivery, entry);
        if self.removed == Removal::JustNow && entry.seq > self.stream_roster {
            // Not passed: whoever starts again meets it again.
            return self.terminal(Event::Removed, fx);
        }
        // Entries before the start are one change, made when they are all in.
        if self.phase != Phase::Beginning {
            // One that stood in a hole comes before the contexts that say what was in it.
            if self.context_gap.is_none() {
                self.passed(delivery.offset);
            }
            self.mark_roster();
            let change =
                Change { chain: self.chain.clone(), next_offset: self.next_offset, ..Change::default() };
            self.ledger.push(Layout::default(), change);
        }
    }

    /// Whether an entry that holds removes us. One from the past need not be the last word: an officer, who gets all
    /// operations, may have been added again since.
    fn note_removal(&mut self, delivery: &RosterDelivery, entry: &RosterEntry) {
        match delivery.ops.as_ref().map(|ops| removes(entry, ops, &self.keyring.me)) {
            Some(Ok(true)) => self.removed = Removal::JustNow,
            // Operations that are not the entry's say nothing; the entry itself holds.
            Some(Err(_)) => self.counters.invalid += 1,
            Some(Ok(false)) | None => {}
        }
    }

    /// An admin says that the head is still the head.
    pub(super) fn on_head(&mut self, head: Signed<RosterHead>) {
        if self.phase == Phase::Beginning && self.chain_is_new {
            let owner = self.genesis.as_ref().map(|genesis| genesis.owner);
            if owner.is_some_and(|owner| head.verify(&owner).is_ok()) {
                self.first_head = Some(head);
                return;
            }
        }
        let Some(chain) = &self.chain else { return };
        match chain.verify_head(&head) {
            Ok(head) => {
                self.head_time_ms = self.head_time_ms.max(head.time_ms);
                self.roster_stale = false;
            }
            Err(_) => self.counters.invalid += 1,
        }
    }

    /// When an admin last confirmed the roster.
    pub(super) fn confirmed_ms(&self) -> u64 {
        self.chain.as_ref().map_or(0, |chain| chain.time_ms()).max(self.head_time_ms)
    }

    /// Our entry with this number as evidence: the entry, or its bare hash, or nothing.
    pub(super) fn entry_evidence(&self, seq: RosterSeq) -> Bytes {
        let kept = self.entries.iter().find(|entry| entry.peek().is_ok_and(|entry| entry.seq == seq));
        match (kept, &self.chain) {
            (Some(entry), _) => evidence(entry),
            (None, Some(chain)) if chain.seq() == seq => Bytes::copy_from_slice(&chain.hash().0),
            _ => Bytes::new(),
        }
    }
}

fn evidence(entry: &Signed<RosterEntry>) -> Bytes {
    Record::Roster(entry.clone()).encode()
}
