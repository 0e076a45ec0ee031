//! A publisher's side of one epoch.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sealcast_proto::limits::MAX_EPOCH_BATCHES;
use sealcast_proto::object::{Batch, Beacon, EpochHeader, Mode};
use sealcast_proto::record::{BatchRecord, batch_aad};
use sealcast_proto::{BatchNo, Epoch, Hash, RosterSeq, Seq, Signed};

use crate::batch::{self, SealError};
use crate::derive::{AdvanceSecret, BatchKey, EpochSecrets};
use crate::epoch::AdvanceFrom;
use crate::secret::{Secret, opaque_debug};

/// A publisher's side of one epoch: seals batches and signs beacons. Never opens.
pub struct EpochSender {
    header: EpochHeader,
    header_hash: Hash,
    epoch_key: Box<SigningKey>,
    batch_key: BatchKey,
    advance: AdvanceSecret,
    advances: u32,
    next_batch_no: BatchNo,
    last_hash: Hash,
}

opaque_debug!(EpochSender);

impl EpochSender {
    pub(crate) fn new(
        header: EpochHeader,
        header_hash: Hash,
        epoch_key: Box<SigningKey>,
        secrets: EpochSecrets,
        advances: u32,
    ) -> Self {
        let EpochSecrets { batch_key, advance, .. } = secrets;
        let (next_batch_no, last_hash) = (BatchNo(0), header_hash);
        Self { header, header_hash, epoch_key, batch_key, advance, advances, next_batch_no, last_hash }
    }

    /// What an advance of this epoch needs. Its `AS` stays in both until they are dropped.
    pub fn advance_from(&self) -> AdvanceFrom {
        AdvanceFrom::of(self, AdvanceSecret(Secret::copy_from(self.advance.0.as_bytes())))
    }

    /// The generation of KEKs after this epoch: a rewrap steps them.
    pub(crate) fn kek_gen(&self) -> u32 {
        self.header.kek_gen.saturating_add((self.header.mode == Mode::Rewrap).into())
    }

    /// Which epoch.
    pub fn epoch(&self) -> Epoch {
        self.header.epoch
    }

    /// Its header's hash.
    pub fn header_hash(&self) -> Hash {
        self.header_hash
    }

    /// Its header.
    pub fn header(&self) -> &EpochHeader {
        &self.header
    }

    /// The number the next batch gets; also how many were sealed.
    pub fn next_batch_no(&self) -> BatchNo {
        self.next_batch_no
    }

    /// The last batch's hash; the header's if there was none.
    pub fn last_hash(&self) -> Hash {
        self.last_hash
    }

    /// Advances since the last epoch that was none.
    pub fn advances(&self) -> u32 {
        self.advances
    }

    /// Seals encoded messages ([`crate::Message::encode`]) as the next batch and steps the ratchet: the key that
    /// sealed it is gone on return. On error nothing was sealed and nothing steps.
    pub fn seal(
        &mut self,
        messages: &[Bytes],
        first_seq: Seq,
        time_ms: u64,
        end: bool,
    ) -> Result<BatchRecord, SealError> {
        let (count, n) = batch::measure(messages, end)?;
        first_seq.plus(count.into()).ok_or(SealError::SeqOverflow)?;
        if self.next_batch_no.0 >= MAX_EPOCH_BATCHES {
            return Err(SealError::EpochFull);
        }
        let next_batch_no = self.next_batch_no.next().ok_or(SealError::EpochFull)?;
        let body = Batch {
            epoch: self.header.epoch,
            batch_no: self.next_batch_no,
            first_seq,
            count,
            time_ms,
            end,
            prev_batch_hash: self.last_hash,
        }
        .encode();
        let aad = batch_aad(&self.header_hash, &body);
        let sealed = batch::seal(messages, n, &self.batch_key.seal_key(), &aad)?;
        let (record, hash) = BatchRecord::sign(body, &aad, sealed, &self.epoch_key);
        self.batch_key = self.batch_key.next();
        self.next_batch_no = next_batch_no;
        self.last_hash = hash;
        Ok(record)
    }

    /// A sign of life. The roster named is the newest the publisher verified, which may be ahead of the header's.
    pub fn beacon(&self, roster_seq: RosterSeq, roster_hash: Hash, time_ms: u64) -> Signed<Beacon> {
        self.beacon_at(self.next_batch_no, self.last_hash, roster_seq, roster_hash, time_ms)
    }

    /// The same for a publisher some of whose batches were refused: it must not speak of batches that nobody will see.
    pub fn beacon_at(
        &self,
        next_batch_no: BatchNo,
        last_batch_hash: Hash,
        roster_seq: RosterSeq,
        roster_hash: Hash,
        time_ms: u64,
    ) -> Signed<Beacon> {
        let header_hash = self.header_hash;
        let beacon = Beacon { header_hash, next_batch_no, last_batch_hash, roster_seq, roster_hash, time_ms };
        Signed::sign(&beacon, &self.epoch_key)
    }
}
