//! Wrapping an epoch's seed for its members: one 56-byte slot each (docs/protocol.md section 6).
//!
//! ```text
//! kw ‖ kek = HPKE.Export(info = ctx, LP("slot") ‖ identity ‖ source, 64)      a DH slot: RFC 9180, export-only base mode
//! kw       = Derive(kek[g], "wrap", ctx)                                      a KEK slot, in a rewrap
//! slot     = member u32 ‖ source u32 ‖ AES-256-GCM-SIV(kw, nonce 0, m, aad = ctx ‖ member ‖ source)
//! ```
//! The slots of one header share `enc` (randomness re-use, Bellare–Boldyreva–Staddon): safe because every slot's key
//! also hashes its recipient's public key, and because `enc`'s secret is in no relation to `m`.

use rand_core::CryptoRng;
use rayon::prelude::*;
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::slot::Slot;
use sealcast_proto::{Identity, MemberIndex, PublicKey, SlotSource};
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::aead::{self, TAG};
use crate::agree::{Agreed, agree, agree_all};
use crate::derive::{Context, Kek, Seed, slot_keys};
use crate::hpke::{Schedule, SharedSecret};
use crate::kek::{Entry, Keks, Origin};
use crate::secret::{Secret, opaque_debug};
use crate::wrap_key::WrapKey;

/// Slots a thread makes at a stretch: long enough for a batch backend to share inversions, short enough to spread.
const CHUNK: usize = 64;

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
    /// That key: its newest valid prekey's, else [`WrapKey::of_identity`].
    pub x25519: WrapKey,
}

/// Makes the slots of one header.
pub(crate) struct SlotMaker<'a> {
    context: &'a Context,
    schedule: Schedule,
    /// The secret of `enc`: independent randomness, wiped when the last slot is made.
    ephemeral: &'a WrapSecret,
    seed: &'a Seed,
    /// In a rewrap: whoever has a KEK here that its target's key seeded gets a KEK slot.
    keks: Option<&'a Keks>,
}

/// What [`SlotMaker::table`] makes.
#[derive(Default)]
pub(crate) struct Slots {
    /// The slot table.
    pub(crate) table: Vec<u8>,
    /// The members whose key is refused: these have no slot.
    pub(crate) skipped: Vec<MemberIndex>,
    /// Each other member's KEK after this epoch.
    pub(crate) keks: Vec<Entry>,
}

impl Slots {
    /// Whether any slot needs `enc`.
    pub(crate) fn uses_enc(&self) -> bool {
        self.keks.iter().any(|entry| entry.origin == Origin::New)
    }
}

impl<'a> SlotMaker<'a> {
    pub(crate) fn new(
        context: &'a Context,
        ephemeral: &'a WrapSecret,
        seed: &'a Seed,
        keks: Option<&'a Keks>,
    ) -> Self {
        Self { context, schedule: context.schedule(), ephemeral, seed, keks }
    }

    /// The slots of `targets`. In parallel, each thread straight into its part of the buffers.
    pub(crate) fn table(&self, targets: &[WrapTarget]) -> Slots {
        let mut table = vec![0; targets.len().saturating_mul(SLOT_BYTES)];
        let mut keks: Vec<Entry> = targets.iter().map(Entry::empty).collect();
        let skipped: Vec<MemberIndex> = table
            .par_chunks_mut(CHUNK * SLOT_BYTES)
            .zip(keks.par_chunks_mut(CHUNK))
            .zip(targets.par_chunks(CHUNK))
            .flat_map_iter(|((slots, keks), targets)| self.fill(targets, slots, keks))
            .collect();
        if !skipped.is_empty() {
            table = without(&table, &skipped);
            let kept = keks.iter().filter(|entry| skipped.binary_search(&entry.member).is_err());
            keks = kept.map(Entry::copy).collect();
        }
        Slots { table, skipped, keks }
    }

    fn fill(&self, targets: &[WrapTarget], slots: &mut [u8], keks: &mut [Entry]) -> Vec<MemberIndex> {
        let mut skipped = Vec::new();
        let mut held = self.keks.map(|keks| keks.from(targets)).unwrap_or_default().iter().peekable();
        let rows = targets.iter().zip(keks).zip(slots.chunks_exact_mut(SLOT_BYTES));
        let mut by_dh = Vec::new();
        for ((target, kek), out) in rows {
            while held.next_if(|entry| entry.member < target.member).is_some() {}
            match held.peek().filter(|entry| entry.serves(target)) {
                Some(entry) => {
                    let (kw, next) = entry.kek.wrap(self.context);
                    (kek.kek, kek.origin) = (next, Origin::Stepped);
                    match self.slot(&kw, target.member, SlotSource::Kek) {
                        Some(slot) => out.copy_from_slice(&slot.encode()),
                        None => skip(target, out, &mut skipped),
                    }
                }
                None => by_dh.push((target, kek, out)),
            }
        }
        let keys: Vec<&WrapKey> = by_dh.iter().map(|(target, ..)| &target.x25519).collect();
        let agreed = agree_all(&self.ephemeral.secret, keys.into_iter());
        for ((target, kek, out), agreed) in by_dh.into_iter().zip(agreed) {
            let slot = agreed.and_then(|agreed| {
                let shared =
                    SharedSecret::new(agreed.as_bytes(), &self.ephemeral.public, &target.x25519.to_bytes());
                let (kw, seeded) = slot_keys(&self.schedule, &shared, &target.identity, target.source);
                (kek.kek, kek.origin) = (seeded, Origin::New);
                self.slot(&kw, target.member, target.source)
            });
            match slot {
                Some(slot) => out.copy_from_slice(&slot.encode()),
                None => skip(target, out, &mut skipped),
            }
        }
        // Two passes: those of the second may stand before those of the first.
        skipped.sort_unstable();
        skipped
    }

    fn slot(&self, kw: &[u8; 32], member: MemberIndex, source: SlotSource) -> Option<Slot> {
        let aad = self.context.slot_aad(member, source);
        let mut sealed = Zeroizing::new(*self.seed.0.as_bytes());
        let tag = aead::seal_once(kw, &aad, sealed.as_mut()).ok()?;
        let mut ct = [0; 32 + TAG];
        if let Some((at, rest)) = ct.split_first_chunk_mut()
            && let Some(end) = rest.first_chunk_mut()
        {
            (*at, *end) = (*sealed, tag);
        }
        Some(Slot { member, source, ct })
    }
}

/// Marks a slot for [`without`], which goes by member.
fn skip(target: &WrapTarget, out: &mut [u8], skipped: &mut Vec<MemberIndex>) {
    out.copy_from_slice(&Slot { member: target.member, source: target.source, ct: [0; 48] }.encode());
    skipped.push(target.member);
}

/// The table without the slots of `skipped`, which rise as the table's do.
fn without(table: &[u8], skipped: &[MemberIndex]) -> Vec<u8> {
    let kept = table.chunks_exact(SLOT_BYTES).filter(|slot| {
        let member = slot.first_chunk::<4>().map(|member| MemberIndex(u32::from_be_bytes(*member)));
        member.is_some_and(|member| skipped.binary_search(&member).is_err())
    });
    kept.flatten().copied().collect()
}

/// The seed in a member's own DH slot, and the KEK the slot seeds; `None` whatever the reason it does not open.
pub(crate) fn open_dh_slot(
    context: &Context,
    enc: &[u8; 32],
    slot: &Slot,
    me: &PublicKey,
    secret: &WrapSecret,
) -> Option<(Seed, Kek)> {
    let agreed = secret.agree(enc)?;
    let shared = SharedSecret::new(agreed.as_bytes(), enc, &secret.public);
    let (kw, kek) = slot_keys(&context.schedule(), &shared, me, slot.source);
    Some((open(context, slot, &kw)?, kek))
}

/// The seed in a member's own KEK slot under `kek[g]`, and `kek[g+1]`; `None` whatever the reason it does not open.
pub(crate) fn open_kek_slot(context: &Context, slot: &Slot, kek: &Kek) -> Option<(Seed, Kek)> {
    let (kw, next) = kek.wrap(context);
    Some((open(context, slot, &kw)?, next))
}

fn open(context: &Context, slot: &Slot, kw: &[u8; 32]) -> Option<Seed> {
    let (sealed, tag) = slot.ct.split_last_chunk::<TAG>()?;
    let mut seed = Zeroizing::new(<[u8; 32]>::try_from(sealed).ok()?);
    aead::open_once(kw, &context.slot_aad(slot.member, slot.source), seed.as_mut(), tag).ok()?;
    Some(Seed(seed.into()))
}
