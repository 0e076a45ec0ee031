//! Every label, the hash and the signature of the protocol, on one page (docs/protocol.md section 2).
//!
//! ```text
//! LP(x)              = u32_be(len x) ‖ x
//! H(label, p1..pk)   = SHA-256("sealcast/1 hash" ‖ LP(label) ‖ LP(p1) ‖ … ‖ LP(pk))
//! Sign(sk, label, b) = Ed25519(sk, "sealcast/1 sign" ‖ LP(label) ‖ LP(b))
//! ```

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};

use crate::identity::PublicKey;
use crate::ids::Hash;

/// What a hash is taken of. Each kind of input has its own label, so no two kinds can collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashLabel {
    /// A genesis body: the topic id.
    Topic,
    /// A roster entry's body.
    Roster,
    /// An epoch header's body.
    Header,
    /// The operations of a roster entry.
    Ops,
    /// The list of members above reader.
    Roles,
    /// A policy.
    Policy,
    /// A slot table.
    Slots,
    /// An epoch's context (docs/protocol.md section 5).
    Epoch,
    /// A batch's associated data: header hash and body.
    Batch,
    /// A sealed batch: associated data and ciphertext hash.
    Sealed,
}

impl HashLabel {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Topic => b"topic",
            Self::Roster => b"roster",
            Self::Header => b"header",
            Self::Ops => b"ops",
            Self::Roles => b"roles",
            Self::Policy => b"policy",
            Self::Slots => b"slots",
            Self::Epoch => b"epoch",
            Self::Batch => b"batch",
            Self::Sealed => b"sealed",
        }
    }
}

/// What is signed. No verifier accepts one label where it expects another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignLabel {
    /// A topic's genesis, signed by its owner.
    Genesis,
    /// A roster entry, signed by an admin.
    RosterEntry,
    /// A re-asserted roster head, signed by an admin.
    RosterHead,
    /// A prekey, signed by its owner.
    Prekey,
    /// An epoch header, signed by the publisher's identity.
    EpochHeader,
    /// A batch hash, signed by the epoch key.
    Batch,
    /// A beacon, signed by the epoch key.
    Beacon,
}

impl SignLabel {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Genesis => b"genesis",
            Self::RosterEntry => b"roster entry",
            Self::RosterHead => b"roster head",
            Self::Prekey => b"prekey",
            Self::EpochHeader => b"epoch header",
            Self::Batch => b"batch",
            Self::Beacon => b"beacon",
        }
    }
}

/// `u32_be(len) ‖ bytes`, the length prefix of every hashed, signed and derived input.
///
/// Inputs are bounded by [`crate::limits`] long before they reach 4 GiB; the prefix saturates rather than wraps.
pub fn lp_prefix(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// `H(label, parts…)`, fed piece by piece: for inputs too large to stand in memory at once (a slot table).
#[derive(Clone)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts `H(label, …)`.
    pub fn new(label: HashLabel) -> Self {
        let label = label.as_bytes();
        let sha = Sha256::new().chain_update(b"sealcast/1 hash").chain_update(lp_prefix(label));
        Self(sha.chain_update(label))
    }

    /// Adds one whole part.
    pub fn part(mut self, part: &[u8]) -> Self {
        self.0.update(lp_prefix(part));
        self.0.update(part);
        self
    }

    /// Announces one part of `len` bytes, which follow through [`Hasher::feed`].
    pub fn begin_part(&mut self, len: u32) {
        self.0.update(len.to_be_bytes());
    }

    /// More bytes of the part announced by [`Hasher::begin_part`].
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash.
    pub fn finish(self) -> Hash {
        Hash(self.0.finalize().into())
    }
}

/// `H(label, parts…)`.
pub fn hash(label: HashLabel, parts: &[&[u8]]) -> Hash {
    parts.iter().fold(Hasher::new(label), |hasher, part| hasher.part(part)).finish()
}

/// Plain SHA-256, which the protocol uses only for a ciphertext inside `H("sealed", …)`.
pub fn sha256(bytes: &[u8]) -> Hash {
    Hash(Sha256::digest(bytes).into())
}

fn signing_input(label: SignLabel, body: &[u8]) -> Vec<u8> {
    let label = label.as_bytes();
    let mut input = Vec::with_capacity(15 + 8 + label.len() + body.len());
    input.extend_from_slice(b"sealcast/1 sign");
    input.extend_from_slice(&lp_prefix(label));
    input.extend_from_slice(label);
    input.extend_from_slice(&lp_prefix(body));
    input.extend_from_slice(body);
    input
}

/// `Sign(sk, label, body)`.
pub fn sign(key: &SigningKey, label: SignLabel, body: &[u8]) -> [u8; 64] {
    key.sign(&signing_input(label, body)).to_bytes()
}

/// Verifies `Sign(sk, label, body)` by `verify_strict`: canonical encodings only, no small-order keys.
pub fn verify(key: &PublicKey, label: SignLabel, body: &[u8], signature: &[u8; 64]) -> bool {
    let signature = ed25519_dalek::Signature::from_bytes(signature);
    match key.verifying_key() {
        Some(key) => key.verify_strict(&signing_input(label, body), &signature).is_ok(),
        None => false,
    }
}
