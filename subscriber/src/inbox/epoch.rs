//! Opening epochs: the own slot, the epoch before, or, where neither will do, what the broker is asked for.

use sealcast_envelope::{EpochReceiver, PrekeyRing, SlotError, WrapSecret};
use sealcast_proto::frame::EpochDelivery;
use sealcast_proto::limits::MAX_EPOCHS_FETCHED;
use sealcast_proto::object::{EpochHeader, Mode};
use sealcast_proto::slot::Slot;
use sealcast_proto::{Hash, PublicKey, RosterSeq, Signed, SlotSource, TopicId};

/// The keys of a publisher's newest epoch.
pub(super) enum Keys {
    /// From the next batch on.
    Open(Box<EpochReceiver>),
    /// Not opened yet, with our own slot if there was one: decided when the first batch comes.
    Pending(Option<Slot>),
    /// Not for us, or erased.
    Locked,
}

/// Why a slot does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shut {
    /// The slot is not what its publisher made: the broker may give a better one.
    Bad,
    /// No slot of this header will ever open.
    Never,
    /// For a prekey that this ring does not know.
    Unknown(u32),
    /// Under the KEK, which the epoch before has.
    Kek,
}

/// Every key of ours that can open a slot.
pub(super) struct Keyring {
    pub(super) me: PublicKey,
    pub(super) topic: TopicId,
    pub(super) identity: WrapSecret,
    pub(super) prekeys: PrekeyRing,
}

impl Keyring {
    pub(super) fn open(
        &self,
        header: &EpochHeader,
        hash: &Hash,
        slot: &Slot,
    ) -> Result<Box<EpochReceiver>, Shut> {
        let secret = match slot.source {
            SlotSource::Static => &self.identity,
            SlotSource::Kek => return Err(Shut::Kek),
            SlotSource::Prekey(id) => match self.prekeys.secret(id) {
                Some(secret) => secret,
                None if self.prekeys.made(id) => return Err(Shut::Never),
                None => return Err(Shut::Unknown(id)),
            },
        };
        match EpochReceiver::open_slot(header, hash, slot, &self.me, secret) {
            Ok(receiver) => Ok(Box::new(receiver)),
            Err(SlotError::BadSlot) => Err(Shut::Bad),
            Err(error) => {
                tracing::warn!(publisher = %header.publisher, epoch = %header.epoch, "{error}");
                Err(Shut::Never)
            }
        }
    }

    /// The keys of a header that was just accepted, from what is at hand.
    pub(super) fn first(
        &self,
        header: &EpochHeader,
        hash: &Hash,
        slot: Option<&Slot>,
        before: Option<&EpochReceiver>,
    ) -> Keys {
        // The slot first: it may be for a newer prekey than the one that seeded the epoch before.
        let shut = match slot.map(|slot| self.open(header, hash, slot)) {
            Some(Ok(receiver)) => return Keys::Open(receiver),
            Some(Err(shut)) => Some(shut),
            None => None,
        };
        if let Some(Ok(receiver)) = before.map(|before| before.follow(header, hash, slot)) {
            return Keys::Open(Box::new(receiver));
        }
        match shut {
            Some(Shut::Bad | Shut::Unknown(_) | Shut::Kek) => Keys::Pending(slot.copied()),
            Some(Shut::Never) => Keys::Locked,
            None if header.mode == Mode::Advance => Keys::Pending(None),
            None => Keys::Locked,
        }
    }

    /// Whether `id` is higher than any prekey of ours: another machine made it.
    pub(super) fn is_foreign(&self, id: u32) -> bool {
        let newest = self.prekeys.newest().and_then(|newest| newest.peek().ok());
        newest.is_some_and(|newest| id > newest.prekey_id) && !self.prekeys.made(id)
    }

    /// The keys of the header with hash `wanted`, from fetched headers: the newest that opens, and those that follow from
    /// it. These are judged by signature, order and slot alone, except that nothing may be derived across the removal
    /// at `last_removal_seq`.
    pub(super) fn walk(
        &self,
        publisher: &PublicKey,
        wanted: &Hash,
        last_removal_seq: RosterSeq,
        epochs: &[EpochDelivery],
    ) -> Option<Box<EpochReceiver>> {
        let mut before: Option<(Box<EpochReceiver>, RosterSeq)> = None;
        for delivery in epochs.iter().take(MAX_EPOCHS_FETCHED) {
            let header = self.verified(&delivery.header, publisher)?;
            let hash = delivery.header.hash();
            let own = delivery.slot.as_ref().and_then(|slot| self.open(&header, &hash, slot).ok());
            let derived = || {
                let (receiver, roster_seq) = before.as_ref()?;
                let over = *roster_seq < last_removal_seq && last_removal_seq <= header.roster_seq;
                // A rewrap over a removal is just what a removal asks for.
                let derived = receiver.follow(&header, &hash, delivery.slot.as_ref()).ok();
                derived.filter(|_| !over || header.mode != Mode::Advance).map(Box::new)
            };
            let receiver = own.or_else(derived);
            if hash == *wanted {
                return receiver;
            }
            before = receiver.map(|receiver| (receiver, header.roster_seq));
        }
        None
    }

    /// A header that its publisher signed for this topic.
    pub(super) fn verified(
        &self,
        signed: &Signed<EpochHeader>,
        publisher: &PublicKey,
    ) -> Option<EpochHeader> {
        let header = signed.verify(publisher).ok()?;
        (header.topic == self.topic && header.publisher == *publisher).then_some(header)
    }
}
