//! A topic's policy: what its admins decided for everybody.

use bytes::Bytes;
use prost::Message as _;

use crate::hash::{HashLabel, hash};
use crate::ids::Hash;
use crate::{limits, wire};

const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// When a batch counts as published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Once it is fsynced.
    Durable,
    /// Once the broker holds it in memory.
    Memory,
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the policy is not valid: {0}")]
pub struct PolicyError(pub &'static str);

/// What its admins decided. All times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// When a batch counts as published.
    pub durability: Durability,
    /// How long records are kept; 0: for ever.
    pub retain_ms: u64,
    /// How many bytes of records are kept; 0: no bound.
    pub retain_bytes: u64,
    /// An epoch is followed by another after this long.
    pub max_epoch_age_ms: u64,
    /// A fresh epoch is followed by another fresh one after this long.
    pub max_fresh_age_ms: u64,
    /// Batches in an epoch, at most 65,536.
    pub max_epoch_batches: u32,
    /// A silent publisher gives a sign of life this often.
    pub beacon_ms: u32,
    /// A member makes a new prekey this often.
    pub prekey_rotation_ms: u64,
    /// A member may be away this long and still read what was kept for it.
    pub max_offline_ms: u64,
    /// A publisher without an admin's word younger than this seals nothing; 0: off.
    pub max_roster_age_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            durability: Durability::Durable,
            retain_ms: 7 * DAY,
            retain_bytes: 0,
            max_epoch_age_ms: HOUR,
            max_fresh_age_ms: DAY,
            max_epoch_batches: 65_536,
            beacon_ms: 1000,
            prekey_rotation_ms: 7 * DAY,
            max_offline_ms: 14 * DAY,
            max_roster_age_ms: 0,
        }
    }
}

impl Policy {
    /// The encoding whose hash stands in roster entries.
    pub fn encode(&self) -> Bytes {
        wire::Policy {
            durability: match self.durability {
                Durability::Durable => 0,
                Durability::Memory => 1,
            },
            retain_ms: self.retain_ms,
            retain_bytes: self.retain_bytes,
            max_epoch_age_ms: self.max_epoch_age_ms,
            max_fresh_age_ms: self.max_fresh_age_ms,
            max_epoch_batches: self.max_epoch_batches,
            beacon_ms: self.beacon_ms,
            prekey_rotation_ms: self.prekey_rotation_ms,
            max_offline_ms: self.max_offline_ms,
            max_roster_age_ms: self.max_roster_age_ms,
        }
        .encode_to_vec()
        .into()
    }

    /// Reads and checks a policy.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > limits::MAX_POLICY_BYTES {
            return Err(PolicyError("too long"));
        }
        let raw = wire::Policy::decode(bytes).map_err(|_| PolicyError("not protobuf"))?;
        let policy = Self {
            durability: match raw.durability {
                0 => Durability::Durable,
                1 => Durability::Memory,
                _ => return Err(PolicyError("an unknown durability")),
            },
            retain_ms: raw.retain_ms,
            retain_bytes: raw.retain_bytes,
            max_epoch_age_ms: raw.max_epoch_age_ms,
            max_fresh_age_ms: raw.max_fresh_age_ms,
            max_epoch_batches: raw.max_epoch_batches,
            beacon_ms: raw.beacon_ms,
            prekey_rotation_ms: raw.prekey_rotation_ms,
            max_offline_ms: raw.max_offline_ms,
            max_roster_age_ms: raw.max_roster_age_ms,
        };
        policy.check()?;
        Ok(policy)
    }

    /// Refuses what could not work.
    pub fn check(&self) -> Result<(), PolicyError> {
        const LONG: u64 = 100 * 365 * DAY;
        if !(1..=65_536).contains(&self.max_epoch_batches) {
            return Err(PolicyError("max_epoch_batches is 1 to 65,536"));
        }
        if !(100..=60_000).contains(&self.beacon_ms) {
            return Err(PolicyError("beacon_ms is 100 to 60,000"));
        }
        if self.max_epoch_age_ms < SECOND || self.max_fresh_age_ms < self.max_epoch_age_ms {
            return Err(PolicyError("max_epoch_age is at least 1 s and at most max_fresh_age"));
        }
        if self.prekey_rotation_ms < 60 * SECOND {
            return Err(PolicyError("prekey_rotation is at least 1 min"));
        }
        let times = [
            self.retain_ms,
            self.max_fresh_age_ms,
            self.prekey_rotation_ms,
            self.max_offline_ms,
            self.max_roster_age_ms,
        ];
        if times.iter().any(|time| *time > LONG) {
            return Err(PolicyError("a time is longer than a century"));
        }
        // For ever (0) is an archive for those who kept up: whoever does not, loses what is older than its keys.
        if self.retain_ms > self.max_offline_ms {
            return Err(PolicyError(
                "retain is longer than max_offline, the life of members' keys: retain less, raise max_offline, or keep for ever (0)",
            ));
        }
        Ok(())
    }
}

/// A policy and the bytes it came in. Those are what is hashed and passed on: what was signed is never encoded anew, and
/// protobuf has more than one encoding for one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CarriedPolicy {
    policy: Policy,
    bytes: Bytes,
}

impl CarriedPolicy {
    /// Reads and checks a policy, and keeps its bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, PolicyError> {
        let policy = Policy::decode(bytes)?;
        Ok(Self { policy, bytes: Bytes::copy_from_slice(bytes) })
    }

    /// What it says.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// As it came.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// `H("policy", bytes)`.
    pub fn hash(&self) -> Hash {
        policy_hash(&self.bytes)
    }
}

impl From<Policy> for CarriedPolicy {
    fn from(policy: Policy) -> Self {
        Self { bytes: policy.encode(), policy }
    }
}

/// `H("policy", bytes)`.
pub fn policy_hash(bytes: &[u8]) -> Hash {
    hash(HashLabel::Policy, &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_longer_than_members_keys_live() {
        let policy = |retain_ms| Policy { retain_ms, max_offline_ms: 5 * DAY, ..Policy::default() };
        assert!(
            policy(5 * DAY).check().is_ok() && policy(0).check().is_ok(),
            "for ever is said, not slipped into"
        );
        let refused = policy(5 * DAY + 1);
        let why = refused.check().unwrap_err().to_string();
        assert!(why.contains("retain less, raise max_offline"), "{why}");
        assert!(Policy::decode(&refused.encode()).is_err(), "nor does a broker or a member take it up");
    }
}
