//! Records: what the broker stores at an offset, byte for byte as its publisher sent it.
//!
//! ```text
//! record = kind u8 ‖ body_len u16 ‖ body ‖ signature 64 ‖ ciphertext        kind: 1 roster entry, 2 epoch header, 3 batch
//! ```
//! Only a batch has a ciphertext.

use bytes::{BufMut, Bytes, BytesMut};
use ed25519_dalek::SigningKey;

use crate::hash::{HashLabel, SignLabel, hash, sha256, sign, verify};
use crate::identity::PublicKey;
use crate::ids::Hash;
use crate::limits;
use crate::object::{Batch, EpochHeader, ObjectError, RosterEntry, Signed};

/// The only payload a frame can carry: an AES-256-GCM-SIV ciphertext with its tag.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(pub Bytes);

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Bytes that are no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its own lengths say, or longer than allowed.
    #[error("a record is {0}")]
    Length(&'static str),
    /// A kind this version does not know.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// Its body is malformed.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A roster entry's body (its operations are stored beside).
    Roster(Signed<RosterEntry>),
    /// An epoch's header (its slot table is stored beside).
    Header(Signed<EpochHeader>),
    /// A sealed batch.
    Batch(BatchRecord),
}

const KIND_ROSTER: u8 = 1;
const KIND_HEADER: u8 = 2;
const KIND_BATCH: u8 = 3;

impl Record {
    /// The bytes that travel and are stored.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Roster(entry) => encode(KIND_ROSTER, entry.body(), entry.signature(), &[]),
            Self::Header(header) => encode(KIND_HEADER, header.body(), header.signature(), &[]),
            Self::Batch(batch) => encode(KIND_BATCH, &batch.body, &batch.signature, &batch.ciphertext.0),
        }
    }

    /// Reads a record; the parts are slices of `bytes`, not copies. Nothing is verified.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        let [kind, hi, lo] = *bytes.first_chunk::<3>().ok_or(RecordError::Length("too short"))?;
        let body_end = 3 + usize::from(u16::from_be_bytes([hi, lo]));
        let sig_end = body_end + 64;
        if bytes.len() < sig_end {
            return Err(RecordError::Length("too short"));
        }
        let body = bytes.slice(3..body_end);
        let signature: [u8; 64] = bytes
            .get(body_end..sig_end)
            .and_then(|sig| sig.try_into().ok())
            .ok_or(RecordError::Length("too short"))?;
        let rest = bytes.slice(sig_end..);
        if kind != KIND_BATCH && !rest.is_empty() {
            return Err(RecordError::Length("longer than its parts"));
        }
        match kind {
            KIND_ROSTER => Ok(Self::Roster(Signed::from_parts(body, &signature)?)),
            KIND_HEADER => Ok(Self::Header(Signed::from_parts(body, &signature)?)),
            KIND_BATCH => {
                if body.len() > limits::MAX_BATCH_BODY || rest.len() > limits::MAX_BATCH_CIPHERTEXT {
                    return Err(RecordError::Length("longer than a batch may be"));
                }
                Ok(Self::Batch(BatchRecord { body, signature, ciphertext: Sealed(rest) }))
            }
            kind => Err(RecordError::Kind(kind)),
        }
    }
}

fn encode(kind: u8, body: &[u8], signature: &[u8; 64], ciphertext: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(3 + body.len() + 64 + ciphertext.len());
    out.put_u8(kind);
    // Bodies are at most 1 KiB (limits::MAX_SIGNED_BODY).
    out.put_u16(u16::try_from(body.len()).unwrap_or(u16::MAX));
    out.put_slice(body);
    out.put_slice(signature);
    out.put_slice(ciphertext);
    out.freeze()
}

/// A sealed batch as it travels: body, signature over body and ciphertext, ciphertext.
#[derive(Clone, PartialEq)]
pub struct BatchRecord {
    body: Bytes,
    signature: [u8; 64],
    ciphertext: Sealed,
}

impl std::fmt::Debug for BatchRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BatchRecord({} + {} bytes)", self.body.len(), self.ciphertext.0.len())
    }
}

/// `aad = H("batch", header_hash, body)`: binds a ciphertext to its epoch and its place.
pub fn batch_aad(header_hash: &Hash, body: &[u8]) -> Hash {
    hash(HashLabel::Batch, &[header_hash.as_bytes(), body])
}

/// `batch_hash = H("sealed", aad, SHA-256(ct))`.
pub fn batch_hash(aad: &Hash, ct_hash: &Hash) -> Hash {
    hash(HashLabel::Sealed, &[aad.as_bytes(), ct_hash.as_bytes()])
}

impl BatchRecord {
    /// Signs `ciphertext`, which was sealed with `aad = batch_aad(header_hash, body)`. Returns the record and its hash.
    pub fn sign(body: Vec<u8>, aad: &Hash, ciphertext: Sealed, epoch_key: &SigningKey) -> (Self, Hash) {
        let hash = batch_hash(aad, &sha256(&ciphertext.0));
        let signature = sign(epoch_key, SignLabel::Batch, hash.as_bytes());
        (Self { body: body.into(), signature, ciphertext }, hash)
    }

    /// The signed body, parsed but not verified.
    pub fn peek(&self) -> Result<Batch, ObjectError> {
        Batch::decode(&self.body)
    }

    /// The ciphertext.
    pub fn ciphertext(&self) -> &Sealed {
        &self.ciphertext
    }

    /// Everything but the ciphertext.
    pub fn digest(&self) -> BatchDigest {
        BatchDigest {
            body: self.body.clone(),
            signature: self.signature,
            ct_hash: sha256(&self.ciphertext.0),
        }
    }

    /// Verifies the signature: that the holder of `epoch_vk` sealed this under the epoch of `header_hash`.
    pub fn verify(self, header_hash: &Hash, epoch_vk: &PublicKey) -> Result<VerifiedBatch, ObjectError> {
        let digest = self.digest();
        let (batch, hash) = digest.verify(header_hash, epoch_vk)?;
        let aad = batch_aad(header_hash, &self.body);
        Ok(VerifiedBatch { batch, aad, hash, digest, ciphertext: self.ciphertext })
    }
}

/// A batch without its ciphertext: enough to verify who sealed it and to chain from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDigest {
    pub(crate) body: Bytes,
    pub(crate) signature: [u8; 64],
    pub(crate) ct_hash: Hash,
}

impl BatchDigest {
    /// The body, parsed but not verified.
    pub fn peek(&self) -> Result<Batch, ObjectError> {
        Batch::decode(&self.body)
    }

    /// The batch's hash under the epoch of `header_hash`; the signature is not looked at.
    pub fn hash(&self, header_hash: &Hash) -> Hash {
        batch_hash(&batch_aad(header_hash, &self.body), &self.ct_hash)
    }

    /// As evidence: the record's bytes with SHA-256 in place of the ciphertext. A copy, so that it keeps no buffer alive.
    pub fn evidence(&self) -> Bytes {
        encode(KIND_BATCH, &self.body, &self.signature, self.ct_hash.as_bytes())
    }

    /// Verifies the signature; returns the body and the batch's hash.
    pub fn verify(&self, header_hash: &Hash, epoch_vk: &PublicKey) -> Result<(Batch, Hash), ObjectError> {
        let hash = self.hash(header_hash);
        if !verify(epoch_vk, SignLabel::Batch, hash.as_bytes(), &self.signature) {
            return Err(ObjectError::Signature("a batch"));
        }
        Ok((Batch::decode(&self.body)?, hash))
    }
}

/// A batch whose signature holds: only such a one can be opened.
#[derive(Debug)]
pub struct VerifiedBatch {
    batch: Batch,
    aad: Hash,
    hash: Hash,
    digest: BatchDigest,
    ciphertext: Sealed,
}

impl VerifiedBatch {
    /// The signed body.
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The associated data it was sealed with.
    pub fn aad(&self) -> &Hash {
        &self.aad
    }

    /// Its hash, which the next batch names.
    pub fn hash(&self) -> &Hash {
        &self.hash
    }

    /// Everything but the ciphertext, with the signature: to be shown to others.
    pub fn digest(&self) -> &BatchDigest {
        &self.digest
    }

    /// The ciphertext.
    pub fn ciphertext(&self) -> &Sealed {
        &self.ciphertext
    }
}
