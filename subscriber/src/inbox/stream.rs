//! Where a stream begins and ends.

use std::sync::Arc;

use sealcast_proto::frame::{self, Start};
use sealcast_proto::roster::RosterChain;

use super::{Effects, Inbox, Phase};
use crate::cursor::Marks;
use crate::event::{Event, GapReason};
use crate::ledger::{Change, Layout};

impl Inbox {
    pub(super) fn on_start(&mut self, start: &Start, now_ms: u64, fx: &mut Effects) {
        if self.phase != Phase::Offline {
            return self.fault("it starts one stream twice".into(), fx);
        }
        let genesis = match start.genesis.verify_topic(&self.keyring.topic) {
            Ok(genesis) => genesis,
            Err(error) => return self.terminal(Event::Broker { what: error.to_string() }, fx),
        };
        let Marks { roster_seq, next_offset, durable, .. } = self.marks;
        if start.roster_seq < roster_seq {
            let what = format!("its roster ends at entry {}; entry {roster_seq} was seen", start.roster_seq);
            return self.terminal(Event::Rollback { what }, fx);
        }
        if durable && start.next_offset < next_offset {
            let what = format!("its log ends before offset {}; {next_offset} was seen", start.next_offset);
            return self.terminal(Event::Rollback { what }, fx);
        }
        if self.chain.is_none() {
            self.chain = Some(Arc::new(RosterChain::new(self.keyring.topic, &genesis)));
        }
        self.genesis = Some(genesis);
        self.rewound = self.next_offset.is_some_and(|asked| start.start_offset < asked);
        self.context_gap = None;
        if self.next_offset.is_some_and(|asked| start.start_offset > asked) {
            self.suspect_all(GapReason::Retention);
            self.context_gap = Some(GapReason::Retention);
        }
        self.stream_start = start.start_offset;
        self.stream_roster = start.roster_seq;
        if self.next_offset.is_none() {
            self.context_gap = (self.from == frame::From::Earliest).then_some(GapReason::Retention);
            self.next_offset = Some(start.start_offset);
            self.start_offset = start.start_offset;
        }
        self.phase = Phase::Beginning;
        if self.progress_ms == 0 {
            // Silence counts from here on.
            self.progress_ms = now_ms;
        }
    }

    /// The entries before the start are in: from here on the roster is the one to judge by.
    pub(super) fn begun(&mut self) {
        if self.phase != Phase::Beginning {
            return;
        }
        self.phase = Phase::CatchingUp;
        // One change for all entries before the start: each would carry a copy of the chain.
        let change = Change { chain: self.chain.clone(), next_offset: self.next_offset, ..Change::default() };
        self.ledger.push(Layout::default(), change);
        self.mark_roster();
    }

    pub(super) fn on_lost(&mut self) {
        self.phase = Phase::Offline;
        // It comes again: nothing was changed by it yet.
        self.held = None;
        self.first_head = None;
        self.publishers.values_mut().for_each(|publisher| publisher.life.ahead = None);
    }
}
