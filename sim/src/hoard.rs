//! What somebody who is no member any more can open, together with the broker: every prekey it ever had, erased or not,
//! every slot at every index it ever had, everything that the broker ever held.

use std::collections::HashMap;

use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret};
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::object::Mode;
use sealcast_proto::record::BatchRecord;
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{Hash, PublicKey, SlotSource};

use crate::oracle::Oracle;

/// Epochs that one identity could open, as of their first batch; `None`: it could not.
#[derive(Default)]
pub(crate) struct Hoard {
    epochs: HashMap<Hash, Option<Vec<u8>>>,
}

/// Who tries.
pub(crate) struct Thief<'a> {
    pub(crate) who: PublicKey,
    pub(crate) identity: &'a WrapSecret,
    pub(crate) rings: &'a [Vec<u8>],
}

impl Oracle {
    /// Whether `thief` gets into the epoch of header `hash`, with its slots and with the epochs before it.
    pub(crate) fn opens(&mut self, thief: &Thief<'_>, hash: &Hash) -> bool {
        self.receiver(thief, hash).is_some()
    }

    /// Whether `thief` reads this batch.
    pub(crate) fn reads(&mut self, thief: &Thief<'_>, header: &Hash, batch: &BatchRecord) -> bool {
        let Some(mut receiver) = self.receiver(thief, header) else { return false };
        let Some(taken) = self.headers.get(header) else { return false };
        let Ok(batch) = batch.clone().verify(header, &taken.header.epoch_vk) else { return false };
        receiver.fast_forward(batch.batch().batch_no).is_ok() && receiver.open(&batch).is_ok()
    }

    fn receiver(&mut self, thief: &Thief<'_>, hash: &Hash) -> Option<EpochReceiver> {
        let hoard = self.hoards.entry(thief.who).or_default();
        if let Some(known) = hoard.epochs.get(hash) {
            return EpochReceiver::restore(known.as_ref()?).ok();
        }
        let opened = self.open(thief, hash);
        let saved = opened.as_ref().map(|receiver| receiver.snapshot().to_vec());
        self.hoards.entry(thief.who).or_default().epochs.insert(*hash, saved);
        opened
    }

    fn open(&mut self, thief: &Thief<'_>, hash: &Hash) -> Option<EpochReceiver> {
        let taken = self.headers.get(hash)?;
        let (header, prev) = (taken.header.clone(), taken.header.prev_header_hash);
        let indexes = self.indexes.get(&thief.who).into_iter().flatten();
        for slot in indexes.filter_map(|index| find_slot(&taken.table, *index)) {
            let opened = match slot.source {
                SlotSource::Static => {
                    EpochReceiver::open_slot(&header, hash, &slot, &thief.who, thief.identity).ok()
                }
                SlotSource::Prekey(id) => thief.rings.iter().find_map(|ring| {
                    let ring = PrekeyRing::decode(ring).ok()?;
                    EpochReceiver::open_slot(&header, hash, &slot, &thief.who, ring.secret(id)?).ok()
                }),
                SlotSource::Kek => None,
            };
            if opened.is_some() {
                return opened;
            }
        }
        let table = taken.table.clone();
        match header.mode {
            Mode::Fresh => None,
            Mode::Advance => self.receiver(thief, &prev)?.advance(&header, hash).ok(),
            // With its own KEK, in everybody's slots.
            Mode::Rewrap => {
                let before = self.receiver(thief, &prev)?;
                let mut slots = table.chunks_exact(SLOT_BYTES).filter_map(Slot::decode);
                slots.find_map(|slot| before.rewrap(&header, hash, &slot).ok())
            }
        }
    }
}
