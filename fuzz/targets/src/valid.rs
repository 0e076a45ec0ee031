//! Valid objects with fixed keys: what seeds are made of.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sealcast_proto::hash::{HashLabel, hash};
use sealcast_proto::object::{Batch, Beacon, EpochHeader, Genesis, Mode, Prekey, PrevClose, RosterHead};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};
use sealcast_proto::slot::{Slot, table_hash};
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, PublicKey, RosterSeq, Seq, Signed, SlotSource, TopicId,
};

/// Some time, milliseconds since 1970.
pub(crate) const NOW: u64 = 1_800_000_000_000;

pub(crate) fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

/// The key that signs batches and beacons here.
pub(crate) fn epoch_key() -> SigningKey {
    SigningKey::from_bytes(&[0xee; 32])
}

pub(crate) fn epoch_vk() -> PublicKey {
    PublicKey::from_bytes(epoch_key().verifying_key().as_bytes()).expect("a key of this process")
}

pub(crate) fn genesis() -> (Genesis, Signed<Genesis>, TopicId) {
    let owner = identity(1);
    let genesis = Genesis { suite: 1, name: "prices".into(), owner: owner.public(), nonce: [7; 32] };
    let signed = Signed::sign(&genesis, owner.signing_key());
    let topic = signed.topic_id();
    (genesis, signed, topic)
}

/// Entry 1: a publisher, a reader and another policy.
pub(crate) fn bundle() -> EntryBundle {
    let (genesis, _, topic) = genesis();
    let ops = [
        Op::Add { identity: identity(2).public(), role: Role::Publisher },
        Op::Add { identity: identity(3).public(), role: Role::Reader },
        Op::set_policy(Policy { retain_ms: 60_000, ..Policy::default() }),
        Op::Rotate,
    ];
    Roster::new(topic, &genesis).sign(&ops, &identity(1), NOW).expect("the owner may")
}

pub(crate) fn head() -> Signed<RosterHead> {
    let owner = identity(1);
    let hash = bundle().entry.hash();
    let head =
        RosterHead { topic: genesis().2, seq: RosterSeq(1), hash, signer: owner.public(), time_ms: NOW };
    Signed::sign(&head, owner.signing_key())
}

pub(crate) fn prekey() -> Signed<Prekey> {
    let owner = identity(3);
    let prekey = Prekey {
        owner: owner.public(),
        prekey_id: u32::try_from(NOW / 1000).expect("before 2106"),
        x25519: [9; 32],
        not_before_ms: NOW,
        not_after_ms: NOW + 1_000_000,
    };
    Signed::sign(&prekey, owner.signing_key())
}

pub(crate) fn table() -> Bytes {
    let slot = |member, source| Slot { member: MemberIndex(member), source, ct: [5; 48] }.encode();
    [slot(0, SlotSource::Static), slot(2, SlotSource::Prekey(7)), slot(9, SlotSource::Kek)].concat().into()
}

pub(crate) fn header() -> Signed<EpochHeader> {
    let publisher = identity(2);
    let header = EpochHeader {
        topic: genesis().2,
        publisher: publisher.public(),
        epoch: Epoch(NOW),
        prev_header_hash: Hash([3; 32]),
        prev_close: Some(PrevClose { batches: 4, last_batch_hash: Hash([4; 32]) }),
        roster_seq: RosterSeq(1),
        roster_hash: bundle().entry.hash(),
        mode: Mode::Fresh,
        kek_gen: 0,
        enc: [9; 32],
        commitment: [1; 32],
        epoch_vk: epoch_vk(),
        slot_count: 3,
        slots_hash: table_hash(&table()),
        time_ms: NOW,
    };
    Signed::sign(&header, publisher.signing_key())
}

pub(crate) fn batch() -> BatchRecord {
    let header_hash = header().hash();
    let body = Batch {
        epoch: Epoch(NOW),
        batch_no: BatchNo(0),
        first_seq: Seq(11),
        count: 2,
        time_ms: NOW,
        end: false,
        prev_batch_hash: header_hash,
    };
    let body = body.encode();
    let aad = batch_aad(&header_hash, &body);
    BatchRecord::sign(body, &aad, Sealed(Bytes::from_static(&[6; 48])), &epoch_key()).0
}

pub(crate) fn beacon() -> Signed<Beacon> {
    let beacon = Beacon {
        header_hash: header().hash(),
        next_batch_no: BatchNo(1),
        last_batch_hash: hash(HashLabel::Sealed, &[b"some"]),
        roster_seq: RosterSeq(1),
        roster_hash: bundle().entry.hash(),
        time_ms: NOW,
    };
    Signed::sign(&beacon, &epoch_key())
}
