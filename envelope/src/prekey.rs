//! A member's prekeys: short-lived wrap targets whose secrets are erased on a day that is known beforehand (G7).
//!
//! A secret outlives its use, because it serves every publisher and every topic: it goes at
//! `not_after = not_before + rotation + max_offline`.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use rand_core::CryptoRng;
use sealcast_proto::limits::{MAX_PREKEY_AHEAD_MS, MAX_PREKEY_ID, MAX_SIGNED_BODY};
use sealcast_proto::object::Prekey;
use sealcast_proto::{Identity, Signed};
use zeroize::Zeroizing;

use crate::secret::opaque_debug;
use crate::wrap::WrapSecret;

/// Prekeys whose secrets are held, a count: a forced rotation every half hour for three weeks. The oldest goes first.
pub const MAX_PREKEYS: usize = 1024;
/// Erased ids remembered, a count: twenty years of weekly rotation.
const MAX_ERASED: usize = 1024;

/// Bytes that are no prekey ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the saved prekeys are damaged or of another version: remove them, and new ones will be made")]
pub struct RingError;

/// All prekeys of one identity: public halves, secrets, and the ids of those erased.
#[derive(Default)]
pub struct PrekeyRing {
    /// In the order they were made; ids rise (but see [`PrekeyRing::rotate_if_due`]).
    held: VecDeque<Held>,
    erased: BTreeSet<u32>,
}

struct Held {
    signed: Signed<Prekey>,
    prekey: Prekey,
    secret: WrapSecret,
}

opaque_debug!(PrekeyRing);

impl PrekeyRing {
    /// No prekeys yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a new newest prekey if there is none, if the newest began `rotation_ms` ago, or if `force` says so
    /// (after a theft). Returns it, to be published.
    ///
    /// Its id is its first second and rises, also when the ring was lost: time went on. A prekey made while this
    /// machine's clock was more than a day ahead is passed over, because no verifier took it and none after it
    /// would be taken for as long.
    pub fn rotate_if_due(
        &mut self,
        identity: &Identity,
        rotation_ms: u64,
        max_offline_ms: u64,
        now_ms: u64,
        force: bool,
        rng: &mut impl CryptoRng,
    ) -> Option<Signed<Prekey>> {
        let accepted = |held: &&Held| held.prekey.not_before_ms <= now_ms.saturating_add(MAX_PREKEY_AHEAD_MS);
        let newest =
            self.held.iter().filter(accepted).map(|held| &held.prekey).max_by_key(|key| key.prekey_id);
        let due = newest.is_none_or(|key| {
            now_ms >= key.not_before_ms.saturating_add(rotation_ms) || now_ms >= key.not_after_ms
        });
        if !due && !force {
            return None;
        }
        let highest_erased = self.erased.iter().rev().map(|id| u64::from(*id));
        let mut highest_erased =
            highest_erased.filter(|id| id * 1000 <= now_ms.saturating_add(MAX_PREKEY_AHEAD_MS));
        let highest = newest.map(|key| u64::from(key.prekey_id)).max(highest_erased.next()).unwrap_or(0);
        // Twice within a second: the second one begins with the next.
        let not_before_ms = now_ms.max(highest.checked_add(1)?.checked_mul(1000)?);
        let prekey_id = u32::try_from(not_before_ms / 1000).ok().filter(|id| *id <= MAX_PREKEY_ID)?;
        let not_after_ms = not_before_ms.checked_add(rotation_ms)?.checked_add(max_offline_ms)?;
        if not_after_ms <= not_before_ms {
            return None;
        }
        let secret = WrapSecret::generate(rng);
        let prekey = Prekey {
            owner: identity.public(),
            prekey_id,
            x25519: secret.public(),
            not_before_ms,
            not_after_ms,
        };
        let signed = Signed::sign(&prekey, identity.signing_key());
        while self.held.len() >= MAX_PREKEYS {
            let oldest = self.held.pop_front()?;
            self.remember_erased(oldest.prekey.prekey_id);
        }
        self.held.push_back(Held { signed: signed.clone(), prekey, secret });
        Some(signed)
    }

    /// The prekey made last, if its secret is still held.
    pub fn newest(&self) -> Option<&Signed<Prekey>> {
        self.held.back().map(|held| &held.signed)
    }

    /// Erases the secrets whose `not_after` has come. Everything that came from these ids must go with them.
    pub fn purge(&mut self, now_ms: u64) -> Vec<u32> {
        let over = self.held.iter().map(|held| &held.prekey).filter(|key| key.not_after_ms <= now_ms);
        let ids: Vec<u32> = over.map(|key| key.prekey_id).collect();
        self.held.retain(|held| held.prekey.not_after_ms > now_ms);
        ids.iter().for_each(|id| self.remember_erased(*id));
        ids
    }

    /// The secret of prekey `id`, if it is held.
    pub fn secret(&self, id: u32) -> Option<&WrapSecret> {
        self.held.iter().find(|held| held.prekey.prekey_id == id).map(|held| &held.secret)
    }

    /// Whether this ring made prekey `id`, erased or not. If not, another machine uses the identity.
    pub fn made(&self, id: u32) -> bool {
        self.secret(id).is_some() || self.erased.contains(&id)
    }

    fn remember_erased(&mut self, id: u32) {
        self.erased.insert(id);
        while self.erased.len() > MAX_ERASED {
            self.erased.pop_first();
        }
    }

    /// The ring, secrets included, for the member's own disk.
    ///
    /// ```text
    /// version 1 u8 ‖ erased count u32 ‖ erased id u32 … ‖ held: (body_len u16 ‖ body ‖ signature 64 ‖ secret 32) …
    /// ```
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let held = self.held.iter().map(|held| 2 + held.signed.body().len() + 64 + 32).sum::<usize>();
        // Its full size at once: a vector that grows leaves copies of secrets behind.
        let mut out = Zeroizing::new(Vec::with_capacity(1 + 4 + self.erased.len() * 4 + held));
        out.push(RING_VERSION);
        // At most MAX_ERASED.
        out.extend_from_slice(&u32::try_from(self.erased.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.erased.iter().for_each(|id| out.extend_from_slice(&id.to_be_bytes()));
        for held in &self.held {
            // A prekey's body is about 90 bytes.
            let body_len = u16::try_from(held.signed.body().len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&body_len.to_be_bytes());
            out.extend_from_slice(held.signed.body());
            out.extend_from_slice(held.signed.signature());
            out.extend_from_slice(held.secret.secret_bytes());
        }
        out
    }

    /// Reads what [`PrekeyRing::encode`] made.
    pub fn decode(bytes: &[u8]) -> Result<Self, RingError> {
        Self::parse(bytes).ok_or(RingError)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (erased_count, mut rest) = rest.split_first_chunk::<4>()?;
        let erased_count = usize::try_from(u32::from_be_bytes(*erased_count)).ok()?;
        if *version != RING_VERSION || erased_count > MAX_ERASED {
            return None;
        }
        let mut ring = Self::new();
        for _ in 0..erased_count {
            let (id, after) = rest.split_first_chunk::<4>()?;
            ring.erased.insert(u32::from_be_bytes(*id));
            rest = after;
        }
        while !rest.is_empty() {
            let (body_len, after) = rest.split_first_chunk::<2>()?;
            let (body, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*body_len)))?;
            let (signature, after) = after.split_first_chunk::<64>()?;
            let (secret, after) = after.split_first_chunk::<32>()?;
            let secret = WrapSecret::from_bytes(secret);
            if body.len() > MAX_SIGNED_BODY || ring.held.len() >= MAX_PREKEYS {
                return None;
            }
            let signed = Signed::from_parts(Bytes::copy_from_slice(body), signature).ok()?;
            let prekey: Prekey =
                signed.verify_own().ok().filter(|key: &Prekey| key.x25519 == secret.public())?;
            ring.held.push_back(Held { signed, prekey, secret });
            rest = after;
        }
        Some(ring)
    }
}

const RING_VERSION: u8 = 1;
