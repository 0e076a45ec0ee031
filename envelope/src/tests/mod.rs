//! Tests of the whole crate, and what they share: a publisher, members, plans.

mod batches;
mod epochs;
mod messages;
mod prekeys;
mod primitives;
mod rewraps;
mod strict;
mod tables;
mod two_keys;
mod vectors;
mod wycheproof;

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_proto::object::EpochHeader;
use sealcast_proto::record::{BatchRecord, VerifiedBatch};
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, PublicKey, RosterSeq, Seq, SlotSource, TopicId};

use crate::epoch::{EpochPlan, NewEpoch, fresh};
use crate::kek::KekChange;
use crate::receiver::{EpochReceiver, SlotError};
use crate::sender::EpochSender;
use crate::wrap::{WrapSecret, WrapTarget};

pub(crate) use primitives::small_order_keys;
pub(crate) use vectors::{Vector, hex};

fn rng(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// A member with one wrap key.
struct Member {
    identity: Identity,
    index: MemberIndex,
    source: SlotSource,
    secret: WrapSecret,
}

impl Member {
    fn with_static_key(index: u32) -> Self {
        let identity = Identity::generate(&mut rng(1000 + u64::from(index)));
        let secret = WrapSecret::of_identity(&identity);
        Self { identity, index: MemberIndex(index), source: SlotSource::Static, secret }
    }

    fn with_prekey(index: u32, id: u32) -> Self {
        let secret = WrapSecret::generate(&mut rng(u64::from(id)));
        Self { source: SlotSource::Prekey(id), secret, ..Self::with_static_key(index) }
    }

    fn public(&self) -> PublicKey {
        self.identity.public()
    }

    fn target(&self) -> WrapTarget {
        WrapTarget {
            member: self.index,
            identity: self.public(),
            source: self.source,
            x25519: self.secret.public().into(),
        }
    }

    fn open(&self, started: &Started) -> Result<EpochReceiver, SlotError> {
        let slot = started.slot(self).expect("a slot of this member");
        EpochReceiver::open_slot(&started.header, &started.hash, &slot, &self.public(), &self.secret)
    }
}

fn targets(members: &[Member]) -> Vec<WrapTarget> {
    members.iter().map(Member::target).collect()
}

/// A publisher whose identity is member 0's.
fn publisher() -> Identity {
    Member::with_static_key(0).identity
}

fn plan(epoch: u64, prev_header_hash: Hash) -> EpochPlan {
    EpochPlan {
        topic: TopicId([9; 32]),
        publisher: publisher().public(),
        epoch: Epoch(epoch),
        prev_header_hash,
        roster_seq: RosterSeq(epoch),
        roster_hash: Hash([8; 32]),
    }
}

/// An epoch as both sides see it.
struct Started {
    header: EpochHeader,
    hash: Hash,
    table: Bytes,
    sender: EpochSender,
    keks: Option<KekChange>,
}

impl Started {
    fn finish(new: NewEpoch) -> Self {
        let table = new.table();
        let (signed, sender, keks) = new.finish(None, 5, &publisher());
        let header = signed.verify(&publisher().public()).expect("its own signature");
        Self { hash: signed.hash(), header, table, sender, keks: Some(keks) }
    }

    fn fresh(epoch: u64, prev: Hash, members: &[Member]) -> Self {
        Self::finish(fresh(&plan(epoch, prev), &targets(members), &mut rng(epoch)).expect("a sound plan"))
    }

    fn slot(&self, member: &Member) -> Option<Slot> {
        find_slot(&self.table, member.index)
    }

    fn seal(&mut self, messages: &[&[u8]]) -> BatchRecord {
        let messages: Vec<Bytes> = messages.iter().map(|message| Bytes::copy_from_slice(message)).collect();
        self.sender.seal(&messages, Seq(0), 6, false).expect("within the limits")
    }

    fn verify(&self, record: &BatchRecord) -> VerifiedBatch {
        record.clone().verify(&self.hash, &self.header.epoch_vk).expect("its own signature")
    }
}
