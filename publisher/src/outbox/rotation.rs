//! When an epoch ends and how the next one begins (docs/protocol.md section 6).

use std::sync::Arc;

use bytes::Bytes;
use sealcast_envelope::{EpochPlan, EpochSender, KekChange, Keks, NewEpoch};
use sealcast_proto::frame::{Code, Refusal, Request};
use sealcast_proto::object::{Mode, PrevClose};
use sealcast_proto::record::Record;
use sealcast_proto::{Epoch, Hash, MemberIndex, RosterSeq, limits};

use super::flight::Flight;
use super::{Effect, EpochWork, FENCE_PATIENCE_MS, Outbox, RETRY_MS, Start};
use crate::error::PublishError;
use crate::marks::Position;

/// The epoch that is being prepared.
pub(super) enum Next {
    None,
    /// Its secret is being made and wrapped, elsewhere.
    Building(Build),
    /// Its slot table is being uploaded.
    Uploading {
        build: Build,
        epoch: Box<NewEpoch>,
    },
    /// Its slot table is at the broker; its header waits for what is in flight.
    Ready {
        build: Build,
        epoch: Box<NewEpoch>,
    },
    /// Its header is in flight. The table is kept: a new connection has to carry it again.
    HeaderSent {
        build: Build,
        sender: Box<EpochSender>,
        keks: KekChange,
        table: Table,
        table_stored: bool,
        /// Whether the marks on the disk know of it.
        marked: bool,
    },
}

/// What was decided when it began.
pub(super) struct Build {
    mode: Mode,
    roster_seq: RosterSeq,
    prev_header_hash: Hash,
    /// Who gets a slot, rising.
    slotted: Vec<MemberIndex>,
    /// Who could not.
    unreachable: Vec<MemberIndex>,
}

/// A slot table as it is uploaded.
#[derive(Clone)]
pub(super) struct Table {
    bytes: Bytes,
    slot_count: u32,
    slots_hash: Hash,
}

impl Table {
    fn of(epoch: &NewEpoch) -> Self {
        Self { bytes: epoch.table(), slot_count: epoch.slot_count(), slots_hash: epoch.slots_hash() }
    }

    fn upload(self) -> Effect {
        Effect::UploadTable { table: self.bytes, slot_count: self.slot_count, slots_hash: self.slots_hash }
    }
}

impl Next {
    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether the epoch being prepared has no slot for a member because there was no key to wrap to.
    pub(super) fn could_not_reach(&self, index: MemberIndex) -> bool {
        let build = match self {
            Self::None => return false,
            Self::Building(build) => build,
            Self::Uploading { build, .. } | Self::Ready { build, .. } | Self::HeaderSent { build, .. } => {
                build
            }
        };
        build.unreachable.contains(&index)
    }

    pub(super) fn has_header(&self) -> bool {
        matches!(self, Self::HeaderSent { .. })
    }

    /// Whether the header in flight has to wait: for its table, or for the marks.
    pub(super) fn holds_header_back(&self) -> bool {
        matches!(self, Self::HeaderSent { table_stored, marked, .. } if !(*table_stored && *marked))
    }

    /// The marks on the disk know of the header with this number.
    pub(super) fn marks_saved(&mut self, epoch: Epoch) {
        if let Self::HeaderSent { sender, marked, .. } = self {
            *marked |= sender.epoch() == epoch;
        }
    }

    /// A broker keeps no table for a connection that went before the header came.
    pub(super) fn connection_lost(&mut self) {
        *self = match std::mem::replace(self, Self::None) {
            Self::Ready { build, epoch } => Self::Uploading { build, epoch },
            Self::HeaderSent { build, sender, keks, table, marked, .. } => {
                Self::HeaderSent { build, sender, keks, table, table_stored: false, marked }
            }
            other => other,
        };
    }
}

impl Outbox {
    /// A verified removal: nothing more is sealed under this epoch, no header that was signed before goes out, and the
    /// admin hears of it at once.
    pub(super) fn fence(&mut self) {
        self.drop_unwritten_header();
        self.dead = true;
        self.drain = true;
        self.beacon_now = true;
    }

    /// Starts, or carries on, a rotation.
    pub(super) fn rotate_if_wanted(
        &mut self,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), PublishError> {
        if !self.connected {
            return Ok(());
        }
        if self.fence_patience_ends().is_some_and(|at| at <= now_ms) {
            // The next connection shows the roster anew. A broker may have lost the entry in a crash, or lie.
            self.attempt_failed("it names a removal that it does not show")?;
            self.lost();
            effects.push(Effect::Reconnect { after_ms: RETRY_MS });
            return Ok(());
        }
        if matches!(self.next, Next::Ready { .. }) && !self.header_stands_back() {
            self.send_header(now_ms);
        }
        if matches!(self.next, Next::None)
            && let Some(mode) = self.wanted(now_ms)
        {
            self.begin(mode, now_ms, effects)?;
        }
        Ok(())
    }

    /// Whether a header is ready and waits until everything in flight was answered. Nothing more is sealed meanwhile:
    /// a busy publisher would never rotate.
    pub(super) fn header_stands_back(&self) -> bool {
        matches!(self.next, Next::Ready { .. }) && self.drain && !self.flight.is_empty()
    }

    /// When a removal that a refusal named is waited for no longer; `None`: none is awaited.
    pub(super) fn fence_patience_ends(&self) -> Option<u64> {
        let awaited = self.connected && self.roster.chain().last_removal_seq() < self.fence_due;
        awaited.then(|| self.fence_named_ms.saturating_add(FENCE_PATIENCE_MS))
    }

    /// The newest roster entry that anything in flight was sealed on.
    pub(super) fn built_on(&self) -> RosterSeq {
        match (&self.next, &self.current) {
            (Next::HeaderSent { build, .. }, _) => build.roster_seq,
            (_, Some(current)) => current.header().roster_seq,
            _ => RosterSeq(0),
        }
    }

    /// Which epoch is due, if one is.
    fn wanted(&mut self, now_ms: u64) -> Option<Mode> {
        let policy = self.roster.chain().policy();
        if self.role().is_none() || self.roster.chain().last_removal_seq() < self.fence_due {
            return None;
        }
        let Some(current) = &self.current else {
            // The first epoch begins with the first message: a publisher with nothing to say costs nobody anything.
            return (!self.queue.is_empty() || self.dead).then_some(Mode::Fresh);
        };
        if self.closing && self.queue.is_empty() && self.end_in_flight {
            return None;
        }
        let batches = u64::from(policy.max_epoch_batches).min(limits::MAX_EPOCH_BATCHES);
        if self.want_fresh || now_ms.saturating_sub(self.fresh_ms) >= policy.max_fresh_age_ms {
            return Some(Mode::Fresh);
        }
        // The fresh epoch, those since, and this one: in one answer for who has only the first one's slot.
        let room = self.since_fresh + 2 <= limits::MAX_EPOCHS_FETCHED;
        let usable = self.keks.as_ref().is_some_and(|keks| keks.generation() < limits::MAX_KEK_STEPS);
        let rekey = if room && usable { Mode::Rewrap } else { Mode::Fresh };
        let old = now_ms.saturating_sub(self.rekeyed_ms) >= policy.max_epoch_age_ms;
        if self.dead || old || current.next_batch_no().0 >= batches {
            return Some(rekey);
        }
        if self.advance_at.is_some_and(|at| at <= now_ms) {
            let reachable = self.unslotted.iter().any(|index| {
                let member = self.roster.member(*index);
                member.is_some_and(|member| self.directory.target(*index, member, now_ms).is_some())
            });
            if !reachable {
                self.advance_at = None;
                return None;
            }
            let spent = current.advances() >= limits::MAX_ADVANCES || !room;
            return Some(if spent { rekey } else { Mode::Advance });
        }
        None
    }

    fn begin(&mut self, mode: Mode, now_ms: u64, effects: &mut Vec<Effect>) -> Result<(), PublishError> {
        let start = match (mode, &self.current, &self.keks) {
            (Mode::Advance, Some(current), _) => Start::Advance(current.advance_from()),
            (Mode::Rewrap, _, Some(keks)) => Start::Rewrap(Arc::clone(keks)),
            _ => Start::Fresh,
        };
        let mut targets = Vec::new();
        let mut unreachable = Vec::new();
        let mut take = |index, member| match self.directory.target(index, member, now_ms) {
            Some(target) => targets.push(target),
            None => unreachable.push(index),
        };
        if mode == Mode::Advance {
            for index in &self.unslotted {
                if let Some(member) = self.roster.member(*index) {
                    take(*index, member);
                }
            }
        } else {
            self.roster.members().for_each(|(index, member)| take(index, member));
        }
        self.advance_at = None;
        self.last_epoch = Epoch(
            self.last_epoch.next().ok_or(PublishError::Seal("no more epoch numbers".into()))?.0.max(now_ms),
        );
        let chain = self.roster.chain();
        let plan = EpochPlan {
            topic: self.topic,
            publisher: self.identity.public(),
            epoch: self.last_epoch,
            prev_header_hash: self.accepted.map_or(Hash::ZERO, |position| position.header_hash),
            roster_seq: chain.seq(),
            roster_hash: chain.hash(),
        };
        self.next = Next::Building(Build {
            mode,
            roster_seq: plan.roster_seq,
            prev_header_hash: plan.prev_header_hash,
            slotted: targets.iter().map(|target| target.member).collect(),
            unreachable,
        });
        effects.push(Effect::BuildEpoch(EpochWork { plan, start, targets }));
        Ok(())
    }

    pub(super) fn epoch_built(&mut self, epoch: NewEpoch, effects: &mut Vec<Effect>) {
        let Next::Building(mut build) = std::mem::replace(&mut self.next, Next::None) else { return };
        let fenced = build.roster_seq < self.roster.chain().last_removal_seq();
        let moved =
            self.accepted.map_or(Hash::ZERO, |position| position.header_hash) != build.prev_header_hash;
        if fenced || moved || (build.mode == Mode::Advance && self.dead) {
            return; // Built on what no longer holds; nothing was signed, so nothing is spent but a number.
        }
        build.slotted.retain(|index| !epoch.skipped().contains(index));
        build.unreachable.extend_from_slice(epoch.skipped());
        let epoch = Box::new(epoch);
        if epoch.slot_count() == 0 {
            self.next = Next::Ready { build, epoch };
            return;
        }
        if self.connected {
            effects.push(Table::of(&epoch).upload());
        }
        self.next = Next::Uploading { build, epoch };
    }

    pub(super) fn table_stored(&mut self) {
        self.next = match std::mem::replace(&mut self.next, Next::None) {
            Next::Uploading { build, epoch } => Next::Ready { build, epoch },
            Next::HeaderSent { build, sender, keks, table, marked, .. } => {
                Next::HeaderSent { build, sender, keks, table, table_stored: true, marked }
            }
            other => other,
        };
    }

    pub(super) fn table_refused(
        &mut self,
        refusal: Refusal,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Result<(), PublishError> {
        match refusal.code {
            Code::NotAllowed => Err(PublishError::NotAllowed(self.identity.public())),
            Code::Busy | Code::ReadOnly | Code::Draining => {
                self.try_again_later(&refusal, now_ms, effects);
                Ok(())
            }
            _ => Err(PublishError::Broker(format!("it refused a slot table: {}", refusal.detail))),
        }
    }

    /// A new connection: the table of an epoch under way has to be uploaded again.
    pub(super) fn upload_again(&mut self, effects: &mut Vec<Effect>) {
        match &mut self.next {
            Next::Uploading { epoch, .. } => effects.push(Table::of(epoch).upload()),
            Next::HeaderSent { table, table_stored, .. } => {
                *table_stored = table.slot_count == 0;
                if !*table_stored {
                    effects.push(table.clone().upload());
                }
            }
            _ => {}
        }
    }

    fn send_header(&mut self, now_ms: u64) {
        let Next::Ready { build, epoch } = std::mem::replace(&mut self.next, Next::None) else { return };
        let fenced = build.roster_seq < self.roster.chain().last_removal_seq();
        let moved =
            self.accepted.map_or(Hash::ZERO, |position| position.header_hash) != build.prev_header_hash;
        if fenced || moved || (build.mode == Mode::Advance && self.dead) {
            return;
        }
        let table = Table::of(&epoch);
        let (header, sender, keks) = epoch.finish(self.prev_close(), now_ms, &self.identity);
        let hash = header.hash();
        self.flight.push_back(Flight {
            epoch: sender.epoch(),
            batch: None,
            frame: Request::Record(Record::Header(header).encode()).encode(),
            hash,
            sent: false,
            ever_sent: false,
            waits_ms: 0,
            acked: None,
        });
        // Saved before it is written: else a publisher that dies when the header was taken and no batch under it would not
        // know which numbers were used before, and would use them again.
        self.marks.coming = Some((sender.epoch(), self.next_seq));
        self.marks_dirty = true;
        self.saved_ms = 0;
        let sender = Box::new(sender);
        self.next = Next::HeaderSent { build, sender, keks, table, table_stored: true, marked: false };
    }

    /// Every batch sealed under the epoch before: those acknowledged and those in flight before the header.
    fn prev_close(&self) -> Option<PrevClose> {
        let position = self.accepted.filter(|_| self.close_known)?;
        let last = self.flight.iter().rev().find_map(|flight| {
            let batch = flight.batch.as_ref()?;
            (flight.epoch == position.epoch).then_some((batch.batch_no.0.saturating_add(1), flight.hash))
        });
        let (batches, last_batch_hash) = last.unwrap_or((position.batches, position.last_hash));
        Some(PrevClose { batches, last_batch_hash })
    }

    pub(super) fn header_accepted(&mut self, epoch: Epoch, hash: Hash, now_ms: u64) {
        let Next::HeaderSent { build, sender, keks, .. } = std::mem::replace(&mut self.next, Next::None)
        else {
            return;
        };
        if build.mode != Mode::Advance {
            self.rekeyed_ms = now_ms;
        }
        self.since_fresh += 1;
        if build.mode == Mode::Fresh {
            (self.fresh_ms, self.since_fresh) = (now_ms, 0);
        }
        self.keks = keks.accepted(self.take_keks()).map(Arc::new);
        self.unslotted.extend(build.unreachable.iter().copied());
        let roster = &self.roster;
        self.unslotted
            .retain(|index| build.slotted.binary_search(index).is_err() && roster.member(*index).is_some());
        self.unreachable = build.unreachable;
        self.accepted = Some(Position { epoch, header_hash: hash, batches: 0, last_hash: hash });
        self.close_known = true;
        self.marks.position = self.accepted;
        self.marks_dirty = true;
        // At once: a publisher that dies in its first second shall know that it had begun.
        self.saved_ms = 0;
        self.current = Some(*sender);
        // A removal may have been verified while the header was on its way.
        self.dead = build.roster_seq < self.roster.chain().last_removal_seq();
        self.drain = self.dead;
        self.want_fresh = false;
        self.end_in_flight = false;
    }

    /// The header is dead, its number and its slots are spent. The next attempt is no advance, and fresh if this one was.
    pub(super) fn header_refused(&mut self) {
        self.dead = true;
        let Next::HeaderSent { build, keks, .. } = std::mem::replace(&mut self.next, Next::None) else {
            return;
        };
        self.want_fresh |= build.mode == Mode::Fresh;
        self.keks = keks.refused(self.take_keks()).map(Arc::new);
    }

    /// Nobody else has them but a thread that makes an epoch, and there is none while a header is in flight. Were there
    /// one, the next epoch would be fresh.
    fn take_keks(&mut self) -> Option<Keks> {
        self.keks.take().and_then(Arc::into_inner)
    }
}
