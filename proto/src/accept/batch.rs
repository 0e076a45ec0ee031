//! A batch on its way in: hashed and verified once, outside the lock-step of the log.

use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::identity::PublicKey;
use crate::ids::Hash;
use crate::limits;
use crate::object::{Batch, ObjectError};
use crate::record::{BatchDigest, BatchRecord};

/// A batch as its publisher claims it. Hashing and verifying are the costly part of accepting: a session does them in
/// its own task ([`BatchClaim::read`], [`BatchClaim::verify`]), the log's order is then decided on this.
#[derive(Debug, Clone)]
pub struct BatchClaim {
    batch: Batch,
    digest: BatchDigest,
    fingerprint: Hash,
    verified: Option<(Hash, Hash)>,
}

impl BatchClaim {
    /// Parses and hashes; the signature is not looked at.
    pub fn read(record: &BatchRecord) -> Result<Self, ObjectError> {
        let digest = record.digest();
        let fingerprint = digest.fingerprint();
        Ok(Self { batch: record.peek()?, digest, fingerprint, verified: None })
    }

    /// Verifies the signature under the epoch of `header_hash`; says whether it holds.
    pub fn verify(&mut self, header_hash: &Hash, epoch_vk: &PublicKey) -> bool {
        self.verified = self.digest.verify(header_hash, epoch_vk).ok().map(|(_, hash)| (*header_hash, hash));
        self.verified.is_some()
    }

    /// The body.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Everything but the ciphertext.
    pub fn digest(&self) -> &BatchDigest {
        &self.digest
    }

    /// Two batches with one fingerprint are the same bytes. Unlike a batch's hash it needs no header.
    pub fn fingerprint(&self) -> Hash {
        self.fingerprint
    }

    /// The header under which the signature holds, and the batch's hash there.
    pub(crate) fn verified(&self) -> Option<(Hash, Hash)> {
        self.verified
    }
}

impl BatchDigest {
    /// Two batches with one fingerprint are the same bytes. Unlike a batch's hash it needs no header.
    pub fn fingerprint(&self) -> Hash {
        // Signature and hash have fixed lengths, so the body's end is unambiguous. It never leaves the process.
        let sha = Sha256::new().chain_update(self.ct_hash.0).chain_update(self.signature);
        Hash(sha.chain_update(&self.body).finalize().into())
    }

    /// The bytes in which a broker's index keeps a batch: `signature 64 ‖ ct_hash 32 ‖ body`.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(96 + self.body.len());
        out.put_slice(&self.signature);
        out.put_slice(self.ct_hash.as_bytes());
        out.put_slice(&self.body);
        out.freeze()
    }

    /// Reads [`BatchDigest::encode`]'s bytes.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let (signature, rest) = bytes.split_first_chunk::<64>()?;
        let (ct_hash, body) = rest.split_first_chunk::<32>()?;
        if body.len() > limits::MAX_BATCH_BODY {
            return None;
        }
        Some(Self { body: bytes.slice_ref(body), signature: *signature, ct_hash: Hash(*ct_hash) })
    }
}
