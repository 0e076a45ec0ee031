//! Where a publisher stands when a connection begins: its marks against what the broker shows.

use sealcast_proto::frame::Context;
use sealcast_proto::{Epoch, PublicKey, RosterSeq, Seq};

use super::Outbox;
use crate::error::PublishError;
use crate::marks::Position;

/// What the broker holds of this publisher, verified under its own signatures.
pub(super) struct Shown {
    position: Position,
    /// The number after the last message shown; `None` if the newest epoch has no batch.
    end_seq: Option<Seq>,
}

impl Shown {
    pub(super) fn verify(own: &Context, me: &PublicKey) -> Result<Self, PublishError> {
        let broken = |what: &str| PublishError::Broker(what.into());
        let header_hash = own.epoch.header.hash();
        let header = own.epoch.header.verify(me).map_err(|_| broken("it shows a header we did not sign"))?;
        let mut position = Position { epoch: header.epoch, header_hash, batches: 0, last_hash: header_hash };
        let Some((digest, _)) = &own.batch else { return Ok(Self { position, end_seq: None }) };
        let (batch, hash) = digest
            .verify(&header_hash, &header.epoch_vk)
            .map_err(|_| broken("it shows a batch we did not sign"))?;
        if batch.epoch != header.epoch {
            return Err(broken("it shows a batch of another epoch"));
        }
        position.batches = batch.batch_no.0.saturating_add(1);
        position.last_hash = hash;
        Ok(Self { position, end_seq: Some(batch.end_seq()) })
    }
}

impl Outbox {
    /// A connection stands and the roster is at its head.
    pub(super) fn connected(
        &mut self,
        own: Option<Context>,
        roster_seq: RosterSeq,
        now_ms: u64,
    ) -> Result<(), PublishError> {
        let me = self.identity.public();
        if let Some(marked) = self.marks.roster.as_ref().map(|marked| marked.seq)
            && (roster_seq < marked || self.roster.chain().seq() < marked)
        {
            return Err(PublishError::Rollback(format!(
                "its roster ends at entry {roster_seq}; entry {marked} was seen"
            )));
        }
        if self.role().is_none() {
            return Err(match self.roster.find(&me) {
                Some(_) => PublishError::NotAllowed(me),
                None => PublishError::Removed(me),
            });
        }
        // What this connection showed is the roster: a removal that is not on it is waited for no longer.
        self.fence_due = RosterSeq(0);
        let shown = own.as_ref().map(|own| Shown::verify(own, &me)).transpose()?;
        // Whoever publishes now, in this process, has a current epoch or a header on its way.
        if self.current.is_some() || !self.flight.is_empty() {
            self.reconnected(shown)?
        } else {
            self.started(shown)?
        }
        self.connected = true;
        self.spoke_ms = now_ms;
        if !self.flight.is_empty() {
            self.drain = true;
        }
        Ok(())
    }

    /// The first connection of this process, or one after a run that never got as far as a header.
    fn started(&mut self, shown: Option<Shown>) -> Result<(), PublishError> {
        let Some(shown) = shown else {
            return match self.accepted {
                None => Ok(()),
                Some(_) => self.broker_lost("it knows nothing of what it acknowledged", None),
            };
        };
        self.last_epoch = self.last_epoch.max(shown.position.epoch);
        if let Some(marked) = self.accepted {
            let (at, mark) = (shown.position, marked);
            let behind = at.epoch < mark.epoch || (at.epoch == mark.epoch && at.batches < mark.batches);
            if behind {
                return self.broker_lost("it lost batches it acknowledged", Some(shown));
            }
            let other = at.epoch == mark.epoch
                && (at.header_hash != mark.header_hash
                    || (at.batches == mark.batches && at.last_hash != mark.last_hash));
            if other {
                return Err(PublishError::IdentityInUse);
            }
        } else {
            self.close_known = false;
        }
        // The mark, extended along what verifies under our own header.
        self.accepted = Some(shown.position);
        let before =
            self.marks.coming.filter(|(epoch, _)| *epoch == shown.position.epoch).map(|(_, seq)| seq);
        self.next_seq = self.next_seq.max(shown.end_seq.or(before).unwrap_or_default());
        self.marks.position = self.accepted;
        self.marks.next_seq = self.next_seq;
        self.marks_dirty = true;
        Ok(())
    }

    /// A later connection: what is in flight is sent again verbatim, if the broker stands where it should.
    fn reconnected(&mut self, shown: Option<Shown>) -> Result<(), PublishError> {
        let Some(accepted) = self.accepted else {
            // Nothing was accepted yet: at most our first header, which is in flight.
            return match shown {
                None => Ok(()),
                Some(shown) => self.expect_in_flight(shown.position),
            };
        };
        let Some(shown) = shown else {
            return self.broker_lost("it knows nothing of what it acknowledged", None);
        };
        let at = shown.position;
        if (at.epoch, at.batches) < (accepted.epoch, accepted.batches) {
            return self.broker_lost("it lost batches it acknowledged", Some(shown));
        }
        if (at.epoch, at.batches) == (accepted.epoch, accepted.batches) {
            if at != accepted {
                return Err(PublishError::IdentityInUse);
            }
            return Ok(());
        }
        self.expect_in_flight(at)
    }

    /// The broker is ahead of what it acknowledged: then what it shows must be ours, and in flight.
    fn expect_in_flight(&mut self, shown: Position) -> Result<(), PublishError> {
        if self.flight.iter().any(|flight| flight.hash == shown.last_hash) {
            return Ok(());
        }
        if self.dead && self.flight.is_empty() && shown.epoch <= self.last_epoch {
            // What we gave up as refused was stored after all: the next header follows it.
            self.accepted = Some(shown);
            return Ok(());
        }
        Err(PublishError::IdentityInUse)
    }

    /// The broker shows less than it acknowledged. In a memory topic that happens; elsewhere it is a rollback.
    fn broker_lost(&mut self, what: &str, shown: Option<Shown>) -> Result<(), PublishError> {
        use sealcast_proto::policy::Durability;
        if self.roster.chain().policy().durability == Durability::Durable {
            return Err(PublishError::Rollback(what.into()));
        }
        self.take_back_all();
        self.accepted = shown.map(|shown| shown.position);
        self.last_epoch = self.last_epoch.max(self.accepted.map_or(Epoch(0), |position| position.epoch));
        self.close_known = false;
        self.last_offset = None;
        self.current = None;
        self.keks = None;
        self.dead = true;
        self.want_fresh = true;
        Ok(())
    }
}
