//! Wrapping an epoch's seed for its members: one 56-byte slot each (docs/protocol.md section 6).
//!
//! ```text
//! kw ‖ kek = HPKE.Export(info = ctx, LP("slot") ‖ identity ‖ source, 64)      RFC 9180, export-only base mode
//! slot     = member u32 ‖ source u32 ‖ AES-256-GCM-SIV(kw, nonce 0, m, aad = ctx ‖ member ‖ source)
//! ```
//! The slots of one header share `enc` (randomness re-use, Bellare–Boldyreva–Staddon): safe because every slot's key
//! also hashes its recipient's public key, and because `enc`'s secret is in no relation to `m`.

use curve25519_dalek::edwards::CompressedEdwardsY;
use rand_core::CryptoRng;
use rayon::prelude::*;
use sealcast_proto::identity::KeyError;
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::slot::Slot;
use sealcast_proto::{Identity, MemberIndex, PublicKey, SlotSource};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::aead::{self, TAG};
use crate::agree::{Agreed, agree, agree_all};
use crate::derive::{Context, Seed, slot_key};
use crate::hpke::{Schedule, SharedSecret};
use crate::secret::{Secret, opaque_debug};

/// Slots a thread makes at a stretch: long enough for a batch backend to share inversions, short enough to spread.
const CHUNK: usize = 64;

/// The static wrap key of a member that has no prekey yet: its identity, Edwards → Montgomery (RFC 7748, section 4.1).
pub fn static_wrap_key(identity: &PublicKey) -> Result<[u8; 32], KeyError> {
    let point = CompressedEdwardsY(*identity.as_bytes()).decompress().ok_or(KeyError::Point)?;
    Ok(point.to_montgomery().to_bytes())
}

/// The secret half of a wrap target: of a prekey, or an identity's static one. Wiped on drop.
pub struct WrapSecret {
    secret: Box<StaticSecret>,
    public: [u8; 32],
}

opaque_debug!(WrapSecret);

impl WrapSecret {
    /// The static wrap secret: the first 32 bytes of SHA-512(seed), clamped when used.
    pub fn of_identity(identity: &Identity) -> Self {
        Self::from_bytes(&Zeroizing::new(identity.signing_key().to_scalar_bytes()))
    }

    /// A new one from `rng`.
    pub(crate) fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::from_bytes(Secret::random(rng).as_bytes())
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let secret = Box::new(StaticSecret::from(*bytes));
        let public = x25519_dalek::PublicKey::from(secret.as_ref()).to_bytes();
        Self { secret, public }
    }

    pub(crate) fn secret_bytes(&self) -> &[u8; 32] {
        self.secret.as_bytes()
    }

    /// The X25519 public key.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// X25519 with `theirs`; `None` where that gives all zeros.
    pub(crate) fn agree(&self, theirs: &[u8; 32]) -> Option<Agreed> {
        agree(&self.secret, theirs)
    }
}

/// A member to wrap for, and under which of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrapTarget {
    /// Its index on the roster.
    pub member: MemberIndex,
    /// Its identity, bound into the slot's key.
    pub identity: PublicKey,
    /// Which of its keys.
    pub source: SlotSource,
    /// That key: its newest valid prekey's, else [`static_wrap_key`].
    pub x25519: [u8; 32],
}

/// Makes the slots of one header.
pub(crate) struct SlotMaker<'a> {
    context: &'a Context,
    schedule: Schedule,
    /// The secret of `enc`: independent randomness, wiped when the last slot is made.
    ephemeral: &'a WrapSecret,
    seed: &'a Seed,
}

impl<'a> SlotMaker<'a> {
    pub(crate) fn new(context: &'a Context, ephemeral: &'a WrapSecret, seed: &'a Seed) -> Self {
        Self { context, schedule: context.schedule(), ephemeral, seed }
    }

    /// The slot table of `targets`, and the members whose key is refused (these have no slot). In parallel, each
    /// thread straight into its part of the one buffer.
    pub(crate) fn table(&self, targets: &[WrapTarget]) -> (Vec<u8>, Vec<MemberIndex>) {
        let mut table = vec![0; targets.len().saturating_mul(SLOT_BYTES)];
        let skipped: Vec<MemberIndex> = table
            .par_chunks_mut(CHUNK * SLOT_BYTES)
            .zip(targets.par_chunks(CHUNK))
            .flat_map_iter(|(slots, targets)| self.fill(targets, slots))
            .collect();
        if !skipped.is_empty() {
            table = without(&table, &skipped);
        }
        (table, skipped)
    }

    fn fill(&self, targets: &[WrapTarget], slots: &mut [u8]) -> Vec<MemberIndex> {
        let agreed = agree_all(&self.ephemeral.secret, targets.iter().map(|target| &target.x25519));
        let mut skipped = Vec::new();
        for ((target, agreed), out) in targets.iter().zip(agreed).zip(slots.chunks_exact_mut(SLOT_BYTES)) {
            match agreed.and_then(|agreed| self.slot(target, &agreed)) {
                Some(slot) => out.copy_from_slice(&slot.encode()),
                None => {
                    // Marked for `without`, which goes by member.
                    out.copy_from_slice(
                        &Slot { member: target.member, source: target.source, ct: [0; 48] }.encode(),
                    );
                    skipped.push(target.member);
                }
            }
        }
        skipped
    }

    fn slot(&self, target: &WrapTarget, agreed: &Agreed) -> Option<Slot> {
        let shared = SharedSecret::new(agreed.as_bytes(), &self.ephemeral.public, &target.x25519);
        let kw = slot_key(&self.schedule, &shared, &target.identity, target.source);
        let aad = self.context.slot_aad(target.member, target.source);
        let mut sealed = Zeroizing::new(*self.seed.0.as_bytes());
        let tag = aead::seal_once(&kw, &aad, sealed.as_mut()).ok()?;
        let mut ct = [0; 32 + TAG];
        ct.iter_mut().zip(sealed.iter().chain(&tag)).for_each(|(to, from)| *to = *from);
        Some(Slot { member: target.member, source: target.source, ct })
    }
}

/// The table without the slots of `skipped`, which rise as the table's do.
fn without(table: &[u8], skipped: &[MemberIndex]) -> Vec<u8> {
    let kept = table.chunks_exact(SLOT_BYTES).filter(|slot| {
        let member = slot.first_chunk::<4>().map(|member| MemberIndex(u32::from_be_bytes(*member)));
        member.is_some_and(|member| skipped.binary_search(&member).is_err())
    });
    kept.flatten().copied().collect()
}

/// The seed in a member's own DH slot; `None` whatever the reason it does not open.
pub(crate) fn open_slot(
    context: &Context,
    enc: &[u8; 32],
    slot: &Slot,
    me: &PublicKey,
    secret: &WrapSecret,
) -> Option<Seed> {
    let agreed = secret.agree(enc)?;
    let shared = SharedSecret::new(agreed.as_bytes(), enc, &secret.public);
    let kw = slot_key(&context.schedule(), &shared, me, slot.source);
    let (sealed, tag) = slot.ct.split_last_chunk::<TAG>()?;
    let mut seed = Zeroizing::new(<[u8; 32]>::try_from(sealed).ok()?);
    aead::open_once(&kw, &context.slot_aad(slot.member, slot.source), seed.as_mut(), tag).ok()?;
    Some(Seed(seed.into()))
}
