//! A member's side of one epoch of one publisher: opens batches in order, never seals.

use bytes::Bytes;
use sealcast_proto::limits::{MAX_ADVANCES, MAX_EPOCH_BATCHES, MAX_KEK_STEPS};
use sealcast_proto::object::{EpochHeader, Mode};
use sealcast_proto::record::VerifiedBatch;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, Hash, PublicKey, SlotSource};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::batch;
use crate::derive::{AdvanceSecret, BatchKey, Context, EpochSecrets, Kek, Seed};
use crate::secret::{Secret, opaque_debug};
use crate::wrap::{self, WrapSecret};

/// An epoch that did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The slot does not open under this key. Anyone may have done that: fetch it again, or try another prekey.
    #[error("the slot does not open: fetch it again")]
    BadSlot,
    /// The seed is not the one the header commits to: the publisher's doing.
    #[error("the publisher's epoch does not match its own commitment: distrust the publisher")]
    BadEpochSeed,
    /// Not the epoch after this one, or too far from the last fresh one.
    #[error("the epoch does not follow the one held: open it with a DH slot")]
    NotSuccessor,
    /// A slot under the KEK, which only the epoch before can open.
    #[error("the slot is under the KEK: open it with the epoch before")]
    NeedsKek,
}

/// A batch that was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Of another epoch. Nothing changed.
    #[error("the batch is of epoch {found}, this is {expected}")]
    WrongEpoch {
        /// This epoch.
        expected: Epoch,
        /// The batch's.
        found: Epoch,
    },
    /// Not the next one. Nothing changed: drop it if lower, fast-forward if higher.
    #[error("the batch has number {found}, {expected} is next")]
    OutOfOrder {
        /// The number expected.
        expected: BatchNo,
        /// The batch's.
        found: BatchNo,
    },
    /// Signed by its publisher, but it does not open or is malformed inside. The ratchet stepped as if it was read.
    #[error("the publisher signed a batch that does not open: its messages are lost")]
    BadBatch,
}

/// A step the ratchet cannot take. Nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FastForwardError {
    /// The keys of lower numbers are gone.
    #[error("the keys of batches before {next} are erased")]
    Behind {
        /// The number that is next.
        next: BatchNo,
    },
    /// No epoch has so many batches.
    #[error("an epoch has at most 65536 batches")]
    TooFar,
}

/// A snapshot that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved epoch is damaged or of another version: open the epoch again with its slot")]
pub struct RestoreError;

/// The keys to read one epoch of one publisher, from its next batch on.
pub struct EpochReceiver {
    header_hash: Hash,
    epoch: Epoch,
    source: SlotSource,
    advances: u32,
    next_batch_no: BatchNo,
    batch_key: BatchKey,
    advance: AdvanceSecret,
    /// The KEK after this epoch, and its generation.
    kek: Kek,
    kek_gen: u32,
}

opaque_debug!(EpochReceiver);

impl EpochReceiver {
    /// Opens the member's own DH slot with the secret that `slot.source` names. The header's signature was verified, and
    /// `header_hash` is its hash. On any error nothing is erased.
    pub fn open_slot(
        header: &EpochHeader,
        header_hash: &Hash,
        slot: &Slot,
        me: &PublicKey,
        secret: &WrapSecret,
    ) -> Result<Self, SlotError> {
        if slot.source == SlotSource::Kek {
            return Err(SlotError::NeedsKek);
        }
        let context = Context::of(header);
        let opened = wrap::open_dh_slot(&context, &header.enc, slot, me, secret);
        let (seed, kek) = opened.ok_or(SlotError::BadSlot)?;
        Self::seeded(&seed, &context, header, header_hash, Lineage { source: slot.source, advances: 0, kek })
    }

    /// The next epoch without a DH slot: under the KEK if the member's slot is, else derived. `self` stays as it is until
    /// the caller drops it.
    pub fn follow(
        &self,
        header: &EpochHeader,
        header_hash: &Hash,
        slot: Option<&Slot>,
    ) -> Result<Self, SlotError> {
        match slot.filter(|slot| slot.source == SlotSource::Kek) {
            Some(slot) => self.rewrap(header, header_hash, slot),
            None => self.advance(header, header_hash),
        }
    }

    /// Derives the next epoch, an advance. `self` stays as it is until the caller drops it.
    pub fn advance(&self, header: &EpochHeader, header_hash: &Hash) -> Result<Self, SlotError> {
        if header.mode != Mode::Advance || self.advances >= MAX_ADVANCES {
            return Err(SlotError::NotSuccessor);
        }
        let kek = self.kek_at(header)?;
        let context = Context::of(header);
        let seed = self.advance.seed(&context);
        let lineage = Lineage { source: self.source, advances: self.advances.saturating_add(1), kek };
        Self::seeded(&seed, &context, header, header_hash, lineage)
    }

    /// Opens the member's own KEK slot in the next epoch, a rewrap. `self` stays as it is until the caller drops it.
    pub fn rewrap(&self, header: &EpochHeader, header_hash: &Hash, slot: &Slot) -> Result<Self, SlotError> {
        if header.mode != Mode::Rewrap || slot.source != SlotSource::Kek {
            return Err(SlotError::NotSuccessor);
        }
        let kek = self.kek_at(header)?;
        let context = Context::of(header);
        let (seed, kek) = wrap::open_kek_slot(&context, slot, &kek).ok_or(SlotError::BadSlot)?;
        Self::seeded(&seed, &context, header, header_hash, Lineage { source: self.source, advances: 0, kek })
    }

    /// The KEK of the generation that the next epoch's header names: later than ours where rewraps were refused.
    fn kek_at(&self, next: &EpochHeader) -> Result<Kek, SlotError> {
        let follows = next.prev_header_hash == self.header_hash && next.epoch > self.epoch;
        let steps = next.kek_gen.checked_sub(self.kek_gen);
        // Bounds the hashing that one signed header can ask for.
        let steps =
            steps.filter(|_| follows && next.kek_gen <= MAX_KEK_STEPS).ok_or(SlotError::NotSuccessor)?;
        let held = Kek(self.kek.0.clone());
        Ok((0..steps).fold(held, |kek, _| kek.next()))
    }

    fn seeded(
        seed: &Seed,
        context: &Context,
        header: &EpochHeader,
        header_hash: &Hash,
        lineage: Lineage,
    ) -> Result<Self, SlotError> {
        let Lineage { source, advances, kek } = lineage;
        let EpochSecrets { commitment, batch_key, advance } = EpochSecrets::new(seed, context);
        if !bool::from(commitment.ct_eq(&header.commitment)) {
            return Err(SlotError::BadEpochSeed);
        }
        Ok(Self {
            header_hash: *header_hash,
            epoch: header.epoch,
            source,
            advances,
            next_batch_no: BatchNo(0),
            batch_key,
            advance,
            kek,
            // A rewrap steps everybody's.
            kek_gen: header.kek_gen.saturating_add((header.mode == Mode::Rewrap).into()),
        })
    }

    /// Which epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Its header's hash.
    pub fn header_hash(&self) -> Hash {
        self.header_hash
    }

    /// The source of the DH slot that seeded it, directly or through advances and rewraps: when that prekey goes, this
    /// must go.
    pub fn source(&self) -> SlotSource {
        self.source
    }

    /// The only number [`EpochReceiver::open`] takes.
    pub fn next_batch_no(&self) -> BatchNo {
        self.next_batch_no
    }

    /// Erases the keys of the batches before `to`. Only after the signature of batch `to` held: it cannot be undone.
    pub fn fast_forward(&mut self, to: BatchNo) -> Result<(), FastForwardError> {
        let steps = to.0.checked_sub(self.next_batch_no.0);
        let steps = steps.ok_or(FastForwardError::Behind { next: self.next_batch_no })?;
        // Bounds the hashing that one signed number can ask for.
        if to.0 > MAX_EPOCH_BATCHES {
            return Err(FastForwardError::TooFar);
        }
        (0..steps).for_each(|_| self.batch_key = self.batch_key.next());
        self.next_batch_no = to;
        Ok(())
    }

    /// Opens the next batch: encoded messages, slices of one plaintext buffer. Its key is gone on return; to read it
    /// again after a crash, take the [`EpochReceiver::snapshot`] before.
    ///
    /// That the batch was verified under this epoch's header and key is the caller's part.
    pub fn open(&mut self, batch: &VerifiedBatch) -> Result<Vec<Bytes>, OpenError> {
        let body = batch.batch();
        if body.epoch != self.epoch {
            return Err(OpenError::WrongEpoch { expected: self.epoch, found: body.epoch });
        }
        let next = self.next_batch_no.next().filter(|_| body.batch_no == self.next_batch_no);
        let out_of_order = OpenError::OutOfOrder { expected: self.next_batch_no, found: body.batch_no };
        let next = next.ok_or(out_of_order)?;
        let key = self.batch_key.seal_key();
        let opened = batch::open(batch.ciphertext(), body.count, &key, batch.aad());
        // The signature held, so this number is spent whatever it contains.
        self.batch_key = self.batch_key.next();
        self.next_batch_no = next;
        opened.map_err(|_| OpenError::BadBatch)
    }

    /// The state as it stands, secrets included, for the member's own disk.
    ///
    /// ```text
    /// version 1 u8 ‖ header_hash 32 ‖ epoch u64 ‖ source u32 ‖ advances u32 ‖ kek_gen u32 ‖ next_batch_no u64
    ///   ‖ BK 32 ‖ AS 32 ‖ KEK 32
    /// ```
    pub fn snapshot(&self) -> Zeroizing<Vec<u8>> {
        let parts: [&[u8]; 10] = [
            &[SNAPSHOT_VERSION],
            self.header_hash.as_bytes(),
            &self.epoch.0.to_be_bytes(),
            &self.source.to_u32().to_be_bytes(),
            &self.advances.to_be_bytes(),
            &self.kek_gen.to_be_bytes(),
            &self.next_batch_no.0.to_be_bytes(),
            self.batch_key.0.as_bytes(),
            self.advance.0.as_bytes(),
            self.kek.0.as_ref(),
        ];
        // Its full size at once: a vector that grows leaves copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(SNAPSHOT_BYTES));
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out
    }

    /// Reads what [`EpochReceiver::snapshot`] made.
    pub fn restore(bytes: &[u8]) -> Result<Self, RestoreError> {
        Self::parse(bytes).ok_or(RestoreError)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (header_hash, rest) = rest.split_first_chunk::<32>()?;
        let (epoch, rest) = rest.split_first_chunk::<8>()?;
        let (source, rest) = rest.split_first_chunk::<4>()?;
        let (advances, rest) = rest.split_first_chunk::<4>()?;
        let (kek_gen, rest) = rest.split_first_chunk::<4>()?;
        let (next_batch_no, rest) = rest.split_first_chunk::<8>()?;
        let (batch_key, rest) = rest.split_first_chunk::<32>()?;
        let (advance, rest) = rest.split_first_chunk::<32>()?;
        let kek: &[u8; 32] = rest.try_into().ok()?;
        let receiver = Self {
            header_hash: Hash(*header_hash),
            epoch: Epoch(u64::from_be_bytes(*epoch)),
            source: SlotSource::from_u32(u32::from_be_bytes(*source)),
            advances: u32::from_be_bytes(*advances),
            next_batch_no: BatchNo(u64::from_be_bytes(*next_batch_no)),
            batch_key: BatchKey(Secret::copy_from(batch_key)),
            advance: AdvanceSecret(Secret::copy_from(advance)),
            kek: Kek(Zeroizing::new(*kek)),
            kek_gen: u32::from_be_bytes(*kek_gen),
        };
        let sound = *version == SNAPSHOT_VERSION
            && receiver.source != SlotSource::Kek
            && receiver.advances <= MAX_ADVANCES
            && receiver.kek_gen <= MAX_KEK_STEPS
            && receiver.next_batch_no.0 <= MAX_EPOCH_BATCHES;
        sound.then_some(receiver)
    }
}

const SNAPSHOT_VERSION: u8 = 1;
const SNAPSHOT_BYTES: usize = 1 + 32 + 8 + 4 + 4 + 4 + 8 + 32 + 32 + 32;

/// Where an epoch's keys come from.
struct Lineage {
    source: SlotSource,
    advances: u32,
    kek: Kek,
}
