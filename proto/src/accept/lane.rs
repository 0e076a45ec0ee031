//! One publisher's place in a log: its newest epoch, its last batch, and what it sent lately.

use std::collections::VecDeque;

use super::{RestoreError, Verdict};
use crate::ids::{BatchNo, Epoch, Hash, Offset};
use crate::object::{Batch, EpochHeader, PrevClose, Signed};
use crate::record::BatchDigest;

/// A publisher's newest epoch.
#[derive(Debug, Clone)]
pub struct Lane {
    signed: Signed<EpochHeader>,
    header: EpochHeader,
    header_hash: Hash,
    header_offset: Offset,
    next_batch_no: BatchNo,
    last: Option<LastBatch>,
    /// What was stored lately, rising by (epoch, header before batches).
    recent: VecDeque<Seen>,
    /// Whether `recent` reaches back to the publisher's first record.
    complete: bool,
}

/// The newest epoch's last batch.
#[derive(Debug, Clone)]
pub struct LastBatch {
    /// Its body.
    pub batch: Batch,
    /// All of it but the ciphertext.
    pub digest: BatchDigest,
    /// Its hash.
    pub hash: Hash,
    /// Its place.
    pub offset: Offset,
}

/// A stored record, remembered to recognise it when it comes again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) epoch: Epoch,
    pub(crate) batch_no: Option<BatchNo>,
    pub(crate) fingerprint: Hash,
    pub(crate) offset: Offset,
}

impl Seen {
    fn key(&self) -> (Epoch, Option<BatchNo>) {
        (self.epoch, self.batch_no)
    }

    pub(crate) fn compare(&self) -> Verdict {
        Verdict::Compare { epoch: self.epoch, batch_no: self.batch_no, fingerprint: self.fingerprint }
    }
}

/// What a lane knows of a number.
pub(crate) enum Known {
    /// Stored there, the same bytes.
    Same(Offset),
    /// Stored, other bytes.
    Other,
    /// Before what is remembered.
    TooOld,
    /// Not stored.
    Never,
}

impl Lane {
    pub(crate) fn new(signed: Signed<EpochHeader>, header: EpochHeader, seen: Seen) -> Self {
        Self {
            header_hash: signed.hash(),
            signed,
            header,
            header_offset: seen.offset,
            next_batch_no: BatchNo(0),
            last: None,
            recent: VecDeque::from([seen]),
            complete: true,
        }
    }

    pub(crate) fn restored(
        signed: &Signed<EpochHeader>,
        at: Offset,
        last: Option<(BatchDigest, Offset)>,
    ) -> Result<Self, RestoreError> {
        let header = signed.peek()?;
        let header_hash = signed.hash();
        let last = match last {
            None => None,
            Some((digest, offset)) => {
                Some(LastBatch { batch: digest.peek()?, hash: digest.hash(&header_hash), digest, offset })
            }
        };
        Ok(Self {
            signed: signed.clone(),
            header,
            header_hash,
            header_offset: at,
            next_batch_no: BatchNo(last.as_ref().map_or(0, |last| last.batch.batch_no.0.saturating_add(1))),
            last,
            recent: VecDeque::new(),
            complete: false,
        })
    }

    pub(crate) fn begin(
        &mut self,
        signed: Signed<EpochHeader>,
        header: EpochHeader,
        seen: Seen,
        window: usize,
    ) {
        self.header_hash = signed.hash();
        self.signed = signed;
        self.header = header;
        self.header_offset = seen.offset;
        self.next_batch_no = BatchNo(0);
        self.last = None;
        self.remember(seen, window);
    }

    pub(crate) fn push(&mut self, last: LastBatch, seen: Seen, window: usize) {
        // Bodies hold batch_no < 65,536 (limits::MAX_EPOCH_BATCHES): the sum cannot overflow.
        self.next_batch_no = BatchNo(last.batch.batch_no.0.saturating_add(1));
        self.last = Some(last);
        self.remember(seen, window);
    }

    fn remember(&mut self, seen: Seen, window: usize) {
        while self.recent.len() >= window {
            self.recent.pop_front();
            self.complete = false;
        }
        self.recent.push_back(seen);
    }

    pub(crate) fn known(&self, seen: &Seen) -> Known {
        let at = self.recent.partition_point(|other| other.key() < seen.key());
        match self.recent.get(at) {
            Some(other) if other.key() == seen.key() && other.fingerprint == seen.fingerprint => {
                Known::Same(other.offset)
            }
            Some(other) if other.key() == seen.key() => Known::Other,
            _ if at == 0 && !self.complete && seen.key() < self.next_key() => Known::TooOld,
            _ => Known::Never,
        }
    }

    /// The number of what comes next in the newest epoch.
    fn next_key(&self) -> (Epoch, Option<BatchNo>) {
        (self.header.epoch, Some(self.next_batch_no))
    }

    /// The newest header.
    pub fn header(&self) -> &EpochHeader {
        &self.header
    }

    /// The newest header as it travelled.
    pub fn signed(&self) -> &Signed<EpochHeader> {
        &self.signed
    }

    /// The newest header's hash.
    pub fn header_hash(&self) -> Hash {
        self.header_hash
    }

    /// The newest header's place.
    pub fn header_offset(&self) -> Offset {
        self.header_offset
    }

    /// The number the next batch must have.
    pub fn next_batch_no(&self) -> BatchNo {
        self.next_batch_no
    }

    /// The last batch of the newest epoch.
    pub fn last(&self) -> Option<&LastBatch> {
        self.last.as_ref()
    }

    /// What the next batch must name as the one before it.
    pub fn last_hash(&self) -> Hash {
        self.last.as_ref().map_or(self.header_hash, |last| last.hash)
    }

    /// What the next header's `prev_close` must say, if it says anything.
    pub fn close(&self) -> PrevClose {
        PrevClose { batches: self.next_batch_no.0, last_batch_hash: self.last_hash() }
    }

    /// Whether its publisher said that it is done.
    pub fn ended(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.batch.end)
    }
}
