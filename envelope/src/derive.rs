//! Every key derivation of the protocol, on one page (docs/protocol.md sections 2, 5, 6, 7).
//!
//! ```text
//! Extract(label, ikm)     = HKDF-Extract-SHA256(salt = "sealcast/1 " ‖ label, ikm)
//! Derive(prk, label, ctx) = HKDF-Expand-SHA256(prk, "sealcast/1 derive" ‖ LP(label) ‖ LP(ctx), 32)
//! ctx = H("epoch", suite, topic, publisher, epoch, prev_header_hash, roster_seq, roster_hash, mode, kek_gen, enc)
//!
//! m = 32 random bytes (fresh, rewrap)  |  Derive(AS of the epoch before, "seed", ctx) (advance)
//! │
//! └─ prk = Extract("epoch seed", m)
//!     ├─ Derive(prk, "commit",  ctx) = commitment          public, in the signed header
//!     ├─ Derive(prk, "batch 0", ctx) = BK_0
//!     │   ├─ Derive(BK_b, "key",  "") = the key of batch b
//!     │   └─ Derive(BK_b, "next", "") = BK_{b+1}
//!     └─ Derive(prk, "advance", ctx) = AS                  seeds the next epoch, if that is an advance
//!
//! DH(enc, wrap key)
//! └─ HPKE.Export(info = ctx, LP("slot") ‖ identity ‖ source, 64) = kw ‖ kek
//!     ├─ kw seals m in a slot, aad = ctx ‖ member ‖ source
//!     └─ kek: this member's, from the next rewrap on
//!
//! kek[g]                                                   pairwise, publisher and member
//! ├─ Derive(kek[g], "wrap", ctx) = kw                      of a KEK slot: seals m, with the same aad
//! └─ Derive(kek[g], "next", "")  = kek[g+1]
//! ```
//! One-way downwards: who holds a node gets what is below it and nothing above or beside it. That no arrow leads from
//! `m` to the secret of `enc` is what keeps a member from opening the slots of others.

use sealcast_proto::hash::{HashLabel, hash, lp_prefix};
use sealcast_proto::object::{EpochHeader, SUITE};
use sealcast_proto::{Hash, MemberIndex, PublicKey, SlotSource};
use zeroize::Zeroizing;

use crate::hpke::{Schedule, SharedSecret};
use crate::kdf::{self, Expander};
use crate::secret::Secret;

fn extract(label: &str, ikm: &Secret) -> Secret {
    let salt = [b"sealcast/1 ", label.as_bytes()].concat();
    kdf::extract(&salt, &[ikm.as_bytes()]).into()
}

fn derive(prk: &Secret, label: &str, ctx: &[u8]) -> Zeroizing<[u8; 32]> {
    let label = label.as_bytes();
    kdf::expand(prk.as_bytes(), &[b"sealcast/1 derive", &lp_prefix(label), label, &lp_prefix(ctx), ctx])
}

/// What an epoch's secrets are bound to. Holds no `prev_close`, so that a table can be made while sealing goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Context(Hash);

impl Context {
    /// The context of an epoch. Reads every field that stands in `ctx` and no other.
    pub(crate) fn of(header: &EpochHeader) -> Self {
        let parts: [&[u8]; 10] = [
            &SUITE.to_be_bytes(),
            header.topic.as_bytes(),
            header.publisher.as_bytes(),
            &header.epoch.0.to_be_bytes(),
            header.prev_header_hash.as_bytes(),
            &header.roster_seq.0.to_be_bytes(),
            header.roster_hash.as_bytes(),
            &[header.mode.to_u8()],
            &header.kek_gen.to_be_bytes(),
            &header.enc,
        ];
        Self(hash(HashLabel::Epoch, &parts))
    }

    /// What depends on the context alone in making a slot key.
    pub(crate) fn schedule(&self) -> Schedule {
        Schedule::new(self.0.as_bytes())
    }

    /// A slot's associated data: `ctx ‖ member ‖ source`.
    pub(crate) fn slot_aad(&self, member: MemberIndex, source: SlotSource) -> [u8; 40] {
        let mut aad = [0; 40];
        let (ctx, rest) = aad.split_at_mut(32);
        let (member_part, source_part) = rest.split_at_mut(4);
        ctx.copy_from_slice(self.0.as_bytes());
        member_part.copy_from_slice(&member.0.to_be_bytes());
        source_part.copy_from_slice(&source.to_u32().to_be_bytes());
        aad
    }
}

/// `kw ‖ kek`: the key of one member's DH slot, and the KEK it seeds.
pub(crate) fn slot_keys(
    schedule: &Schedule,
    shared: &SharedSecret,
    identity: &PublicKey,
    source: SlotSource,
) -> (Zeroizing<[u8; 32]>, Kek) {
    let source = source.to_u32().to_be_bytes();
    let context: [&[u8]; 4] = [&lp_prefix(b"slot"), b"slot", identity.as_bytes(), &source];
    let export: Zeroizing<[u8; 64]> = schedule.exporter(shared).export(&context);
    let (mut kw, mut kek) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
    let halves = kw.iter_mut().chain(kek.iter_mut());
    halves.zip(export.iter()).for_each(|(to, from)| *to = *from);
    (kw, Kek(kek))
}

/// `"sealcast/1 derive" ‖ LP("wrap") ‖ LP(ctx)` up to the 32 bytes of `ctx`.
const WRAP: &[u8] = b"sealcast/1 derive\0\0\0\x04wrap\0\0\0\x20";
/// `"sealcast/1 derive" ‖ LP("next") ‖ LP("")`.
const NEXT: &[u8] = b"sealcast/1 derive\0\0\0\x04next\0\0\0\0";

/// `kek[g]`: what a publisher and one member share from one rewrap to the next. Not boxed: a publisher holds a million.
pub(crate) struct Kek(pub(crate) Zeroizing<[u8; 32]>);

impl Kek {
    /// `kw` of this member's slot in the rewrap whose context this is, and `kek[g+1]`.
    pub(crate) fn wrap(&self, context: &Context) -> (Zeroizing<[u8; 32]>, Self) {
        // For every member of every rewrap: what `derive` puts together piece by piece stands here as constants.
        let prk = Expander::new(&self.0);
        let kw = prk.expand(&[WRAP, context.0.as_bytes()]);
        (kw, Self(prk.expand_last(&[NEXT])))
    }

    /// `kek[g+1]`; `kek[g]` is wiped when the caller replaces it.
    pub(crate) fn next(&self) -> Self {
        Self(kdf::expand(&self.0, &[NEXT]))
    }
}

/// `m`: what a slot wraps, and all of an epoch comes from.
pub(crate) struct Seed(pub(crate) Secret);

/// `AS`: seeds the next epoch, if that is an advance.
pub(crate) struct AdvanceSecret(pub(crate) Secret);

impl AdvanceSecret {
    /// `m` of the epoch whose context is `next`.
    pub(crate) fn seed(&self, next: &Context) -> Seed {
        Seed(derive(&self.0, "seed", next.0.as_bytes()).into())
    }
}

/// `BK_b`: the batch ratchet.
pub(crate) struct BatchKey(pub(crate) Secret);

impl BatchKey {
    /// The key that seals this batch.
    pub(crate) fn seal_key(&self) -> Zeroizing<[u8; 32]> {
        derive(&self.0, "key", b"")
    }

    /// `BK_{b+1}`; `BK_b` is wiped when the caller replaces it.
    pub(crate) fn next(&self) -> Self {
        Self(derive(&self.0, "next", b"").into())
    }
}

/// What an epoch starts with.
pub(crate) struct EpochSecrets {
    pub(crate) commitment: [u8; 32],
    pub(crate) batch_key: BatchKey,
    pub(crate) advance: AdvanceSecret,
}

impl EpochSecrets {
    /// From the seed; `prk` is wiped on return, the seed when the caller drops it.
    pub(crate) fn new(seed: &Seed, context: &Context) -> Self {
        let (prk, ctx) = (extract("epoch seed", &seed.0), context.0.as_bytes());
        Self {
            commitment: *derive(&prk, "commit", ctx),
            batch_key: BatchKey(derive(&prk, "batch 0", ctx).into()),
            advance: AdvanceSecret(derive(&prk, "advance", ctx).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rewrap_derives_what_derive_does() {
        let context = Context(Hash([3; 32]));
        for fill in [0, 1, 0x5a, 0xff] {
            let (kek, prk) = (Kek(Zeroizing::new([fill; 32])), Secret::from(Zeroizing::new([fill; 32])));
            let (kw, next) = kek.wrap(&context);
            assert_eq!(kw, derive(&prk, "wrap", context.0.as_bytes()));
            assert_eq!(next.0, derive(&prk, "next", b""));
            assert_eq!(next.0, kek.next().0);
        }
    }
}
