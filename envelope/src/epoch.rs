//! Starting a publisher's epochs: fresh, as an advance of the one before, or as a rewrap under the KEKs it left.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use rand_core::CryptoRng;

use sealcast_proto::ids::is_prekey_id;
use sealcast_proto::limits::{MAX_ADVANCES, MAX_KEK_STEPS, MAX_SLOTS};
use sealcast_proto::object::{EpochHeader, Mode, PrevClose};
use sealcast_proto::slot::table_hash;
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, PublicKey, RosterSeq, Signed, SlotSource, TopicId};

use crate::derive::{AdvanceSecret, Context, EpochSecrets, Seed};
use crate::kek::{Change, KekChange, Keks};
use crate::secret::{Secret, opaque_debug};
use crate::sender::EpochSender;
use crate::wrap::{SlotMaker, Slots, WrapSecret, WrapTarget};

/// What an epoch is bound to, decided before its secrets are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochPlan {
    /// Which topic.
    pub topic: TopicId,
    /// Who will seal: the identity given to [`NewEpoch::finish`].
    pub publisher: PublicKey,
    /// Higher than the last known.
    pub epoch: Epoch,
    /// The publisher's last accepted header; zeros: none.
    pub prev_header_hash: Hash,
    /// The roster it is made for.
    pub roster_seq: RosterSeq,
    /// That entry's hash; at seq 0 the topic id.
    pub roster_hash: Hash,
}

/// An epoch that could not be started. Nothing was stepped or erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// Two targets of one member, or not in order.
    #[error("wrap targets must be sorted by member, each member once")]
    Order,
    /// Not a key to agree with: the KEK, or an impossible prekey id.
    #[error("a wrap target's source must be a prekey or the static wrap key")]
    Source,
    /// More members than a table holds.
    #[error("a slot table holds at most 4000000 members: split the topic")]
    TooManySlots,
    /// The plan does not follow the epoch it is to advance from.
    #[error("an advance must follow its own publisher's last accepted epoch: start a fresh one")]
    NotSuccessor,
    /// [`MAX_ADVANCES`] in a row.
    #[error("256 epochs advanced in a row: start a fresh one")]
    TooManyAdvances,
    /// [`MAX_KEK_STEPS`] rewraps after a fresh epoch.
    #[error("the KEKs were stepped 4096 times: start a fresh epoch")]
    TooManySteps,
    /// The random generator gave a key that cannot come from randomness.
    #[error("the random generator is broken: do not use this machine")]
    Randomness,
}

/// Starts an epoch from new randomness, with one DH slot per target (rising by member). In parallel on rayon's threads.
pub fn fresh(
    plan: &EpochPlan,
    targets: &[WrapTarget],
    rng: &mut impl CryptoRng,
) -> Result<NewEpoch, EpochError> {
    start(plan, Start::Fresh, targets, rng)
}

/// What an advance needs of the epoch it follows, apart from the sender that goes on sealing meanwhile: so that the
/// epoch can be made on another thread. Wiped on drop.
pub struct AdvanceFrom {
    topic: TopicId,
    publisher: PublicKey,
    epoch: Epoch,
    header_hash: Hash,
    advances: u32,
    kek_gen: u32,
    secret: AdvanceSecret,
}

opaque_debug!(AdvanceFrom);

impl AdvanceFrom {
    pub(crate) fn of(sender: &EpochSender, secret: AdvanceSecret) -> Self {
        Self {
            topic: sender.header().topic,
            publisher: sender.header().publisher,
            epoch: sender.epoch(),
            header_hash: sender.header_hash(),
            advances: sender.advances(),
            kek_gen: sender.kek_gen(),
            secret,
        }
    }
}

/// Starts an epoch that everybody in `from` derives, with slots for `newcomers` only: one way, so these learn nothing
/// of the past.
pub fn advance(
    plan: &EpochPlan,
    from: &AdvanceFrom,
    newcomers: &[WrapTarget],
    rng: &mut impl CryptoRng,
) -> Result<NewEpoch, EpochError> {
    if (plan.topic, plan.publisher) != (from.topic, from.publisher)
        || plan.prev_header_hash != from.header_hash
        || plan.epoch <= from.epoch
    {
        return Err(EpochError::NotSuccessor);
    }
    if from.advances >= MAX_ADVANCES {
        return Err(EpochError::TooManyAdvances);
    }
    start(plan, Start::Advance(from), newcomers, rng)
}

/// Starts an epoch from new randomness, with one slot per target (rising by member): under its KEK where `keks` has one
/// that the target's key seeded, else a DH slot. In parallel on rayon's threads.
///
/// Nothing in `keks` steps: the caller replaces them by what [`NewEpoch::finish`] gives, once the header is accepted or
/// refused.
pub fn rewrap(
    plan: &EpochPlan,
    keks: &Keks,
    targets: &[WrapTarget],
    rng: &mut impl CryptoRng,
) -> Result<NewEpoch, EpochError> {
    if keks.generation() >= MAX_KEK_STEPS {
        return Err(EpochError::TooManySteps);
    }
    start(plan, Start::Rewrap(keks), targets, rng)
}

#[derive(Clone, Copy)]
enum Start<'a> {
    Fresh,
    Advance(&'a AdvanceFrom),
    Rewrap(&'a Keks),
}

fn start(
    plan: &EpochPlan,
    how: Start<'_>,
    targets: &[WrapTarget],
    rng: &mut impl CryptoRng,
) -> Result<NewEpoch, EpochError> {
    check_targets(targets)?;
    let epoch_key = Box::new(SigningKey::from_bytes(Secret::random(rng).as_bytes()));
    let epoch_vk = PublicKey::from_bytes(epoch_key.verifying_key().as_bytes());
    // Independent of the seed: every member knows the seed, and must not know the other members' slot keys.
    let ephemeral = WrapSecret::generate(rng);
    let (mode, kek_gen, advances) = match how {
        Start::Fresh => (Mode::Fresh, 0, 0),
        Start::Advance(from) => (Mode::Advance, from.kek_gen, from.advances.saturating_add(1)),
        Start::Rewrap(keks) => (Mode::Rewrap, keks.generation(), 0),
    };
    let held = match how {
        Start::Rewrap(keks) => Some(keks),
        Start::Fresh | Start::Advance(_) => None,
    };
    let needs_enc = match held {
        Some(keks) => keks.misses_any(targets),
        None => !targets.is_empty(),
    };
    let mut header = EpochHeader {
        topic: plan.topic,
        publisher: plan.publisher,
        epoch: plan.epoch,
        prev_header_hash: plan.prev_header_hash,
        prev_close: None,
        roster_seq: plan.roster_seq,
        roster_hash: plan.roster_hash,
        mode,
        kek_gen,
        enc: if needs_enc { ephemeral.public() } else { [0; 32] },
        commitment: [0; 32],
        epoch_vk: epoch_vk.map_err(|_| EpochError::Randomness)?,
        slot_count: 0,
        slots_hash: Hash::ZERO,
        time_ms: 0,
    };
    let context = Context::of(&header);
    let seed = match how {
        Start::Fresh | Start::Rewrap(_) => Seed(Secret::random(rng)),
        Start::Advance(from) => from.secret.seed(&context),
    };
    let slots = SlotMaker::new(&context, &ephemeral, &seed, held).table(targets);
    if needs_enc && !slots.uses_enc() {
        // Every such key was refused: `enc` must be zeros where there is no DH slot, and all of it is bound to `enc`.
        let skipped = slots.skipped;
        let usable: Vec<WrapTarget> =
            targets.iter().filter(|target| skipped.binary_search(&target.member).is_err()).cloned().collect();
        return Ok(NewEpoch { skipped, ..start(plan, how, &usable, rng)? });
    }
    let Slots { table, skipped, keks } = slots;
    let keks = KekChange(match how {
        Start::Fresh => Change::All(Keks::new(0, keks)),
        Start::Rewrap(_) => Change::All(Keks::new(kek_gen.saturating_add(1), keks)),
        Start::Advance(_) => Change::Newcomers(keks),
    });
    let secrets = EpochSecrets::new(&seed, &context);
    header.commitment = secrets.commitment;
    header.slot_count = u32::try_from(targets.len() - skipped.len()).map_err(|_| EpochError::TooManySlots)?;
    header.slots_hash = table_hash(&table);
    Ok(NewEpoch { header, table: table.into(), skipped, secrets, epoch_key, advances, keks })
}

fn check_targets(targets: &[WrapTarget]) -> Result<(), EpochError> {
    if targets.len() > MAX_SLOTS as usize {
        return Err(EpochError::TooManySlots);
    }
    if !targets.is_sorted_by(|a, b| a.member < b.member) {
        return Err(EpochError::Order);
    }
    let usable = |source| match source {
        SlotSource::Static => true,
        SlotSource::Prekey(id) => is_prekey_id(id),
        SlotSource::Kek => false,
    };
    if targets.iter().all(|target| usable(target.source)) { Ok(()) } else { Err(EpochError::Source) }
}

/// An epoch whose table can be uploaded while the epoch before still seals; [`NewEpoch::finish`] signs its header.
pub struct NewEpoch {
    header: EpochHeader,
    table: Bytes,
    skipped: Vec<MemberIndex>,
    secrets: EpochSecrets,
    epoch_key: Box<SigningKey>,
    advances: u32,
    keks: KekChange,
}

impl NewEpoch {
    /// The slot table: `slot_count` records of 56 bytes, rising by member.
    pub fn table(&self) -> Bytes {
        self.table.clone()
    }

    /// `H("slots", table)`.
    pub fn slots_hash(&self) -> Hash {
        self.header.slots_hash
    }

    /// Slots in the table.
    pub fn slot_count(&self) -> u32 {
        self.header.slot_count
    }

    /// The members that got no slot because their key is non-contributory, rising.
    pub fn skipped(&self) -> &[MemberIndex] {
        &self.skipped
    }

    /// Signs the header with `identity`, which must be the plan's publisher. `prev_close` covers every batch sealed
    /// under the epoch before: so this comes last. What becomes of the KEKs is decided by the broker's answer.
    pub fn finish(
        self,
        prev_close: Option<PrevClose>,
        time_ms: u64,
        identity: &Identity,
    ) -> (Signed<EpochHeader>, EpochSender, KekChange) {
        debug_assert_eq!(identity.public(), self.header.publisher, "the plan names another publisher");
        let header = EpochHeader { prev_close, time_ms, ..self.header };
        let signed = Signed::sign(&header, identity.signing_key());
        let header_hash = signed.hash();
        let sender = EpochSender::new(header, header_hash, self.epoch_key, self.secrets, self.advances);
        (signed, sender, self.keks)
    }
}

opaque_debug!(NewEpoch);
