//! Members to wrap for, each with a prekey; for the benchmarks of wrapping.

use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, WrapTarget};
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, RosterSeq, SlotSource, TopicId};
use x25519_dalek::{PublicKey, StaticSecret};

/// A topic of so many members, and the plan of its first epoch.
pub(crate) fn topic(members: u32, rng: &mut StdRng) -> (EpochPlan, Vec<WrapTarget>) {
    let publisher = Identity::generate(rng).public();
    let target = |member| WrapTarget {
        member: MemberIndex(member),
        identity: Identity::generate(rng).public(),
        source: SlotSource::Prekey(1),
        x25519: PublicKey::from(&StaticSecret::random_from_rng(rng)).to_bytes().into(),
    };
    let targets = (0..members).map(target).collect();
    let plan = EpochPlan {
        topic: TopicId::ZERO,
        publisher,
        epoch: Epoch(1),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(0),
        roster_hash: Hash::ZERO,
    };
    (plan, targets)
}
