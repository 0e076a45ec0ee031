//! Genuine parts in the wrong place: of another topic, publisher, epoch, member or kind.

use bytes::Bytes;
use sealcast_envelope::{EpochReceiver, SlotError, WrapSecret};
use sealcast_proto::frame::Reply;
use sealcast_proto::hash::{SignLabel, verify};
use sealcast_proto::object::{Genesis, Prekey, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::Role;
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{MemberIndex, PublicKey, SlotSource};

use super::pen::{Pen, body, record};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// Serves `world` with these before its head, and returns what member 2 reads up to `end` and how many were dropped as
/// invalid and as unknown.
async fn with(mut world: World, mut pen: Pen, spliced: Vec<Reply>) -> (Vec<String>, u64, u64) {
    let at = world.log.len();
    pen.publish(&mut world, &["end"]);
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        let before_end = replies.len() - 2;
        replies.splice(before_end..before_end, spliced.clone());
        replies
    });
    assert!(matches!(stage.world().log[at], Stored::Batch { .. }));
    let mut reader = stage.reader(2).await;
    let said = until(&mut reader, "end").await;
    let counters = reader.counters().await;
    (said, counters.invalid, counters.unknown)
}

fn nothing() -> Vec<String> {
    vec!["a".into()]
}

/// The same publisher's batch and header from another topic.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_another_topic_is_taken() {
    let (world, pen) = world();
    let (mut other, mut twin) = (World::new(&[2, 3]), Pen::new(OWNER));
    twin.begin(&mut other);
    twin.publish(&mut other, &["other"]);
    twin.publish(&mut other, &["of another topic"]);
    let (header, batch) = (other.record(1, &key(2)).unwrap(), other.record(3, &key(2)).unwrap());
    let (said, invalid, unknown) = with(world, pen, vec![header, batch]).await;
    assert_eq!((said, invalid + unknown), (nothing(), 2));
}

/// Another publisher's batch with the number that this one's next batch has.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_publisher_is_none_of_anothers() {
    let (mut world, pen) = world();
    world.add(4, Role::Publisher);
    let mut second = Pen::new(4);
    second.begin(&mut world);
    let theirs = second.seal(&world, &["theirs"], false);
    // Under this publisher's epoch number, with that publisher's key.
    let mut claimed = theirs.peek().unwrap();
    claimed.epoch = pen.sender().epoch();
    claimed.batch_no = pen.sender().next_batch_no();
    claimed.prev_batch_hash = pen.sender().last_hash();
    let claimed = resigned(&claimed.encode(), &theirs.ciphertext().0, &theirs);
    let at = world.log.len() as u64;
    let (said, invalid, unknown) = with(world, pen, vec![record(at, claimed)]).await;
    assert_eq!((said, invalid + unknown), (nothing(), 1));
}

/// A batch of the epoch before, with the number that is due: under its own epoch it is old, under the new one forged.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_epoch_is_none_of_the_next() {
    let (mut world, mut pen) = world();
    let old = pen.seal(&world, &["old"], false);
    pen.begin(&mut world);
    let mut claimed = old.peek().unwrap();
    claimed.epoch = pen.sender().epoch();
    claimed.batch_no.0 = 0;
    claimed.prev_batch_hash = pen.sender().header_hash();
    let claimed = resigned(&claimed.encode(), &old.ciphertext().0, &old);
    let at = world.log.len() as u64;
    let (said, invalid, unknown) = with(world, pen, vec![record(at, old), record(at, claimed)]).await;
    assert_eq!(said, ["a", "Gap 1..2 Missing"], "the header says that one more was sealed");
    assert_eq!((invalid, unknown), (1, 1));
}

/// One batch's ciphertext under another's body and signature.
#[tokio::test(flavor = "multi_thread")]
async fn a_ciphertext_under_another_header_is_not_opened() {
    let (world, mut pen) = world();
    let (one, other) = (pen.seal(&world, &["one"], false), pen.seal(&world, &["other"], false));
    let swapped = resigned(&body(&one), &other.ciphertext().0, &one);
    let at = world.log.len() as u64;
    let (said, invalid, _) = with(world, pen, vec![record(at, swapped)]).await;
    assert_eq!((said, invalid), (vec!["a".into(), "Gap 1..3 Missing".into()], 1));
}

/// A record with `genuine`'s signature, which holds for something else.
fn resigned(
    body: &[u8],
    ciphertext: &[u8],
    genuine: &sealcast_proto::record::BatchRecord,
) -> sealcast_proto::record::BatchRecord {
    let bytes = Record::Batch(genuine.clone()).encode();
    let signature = &bytes[3 + super::pen::body(genuine).len()..][..64];
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    let bytes: Vec<u8> = [&[3][..], &len, body, signature, ciphertext].concat();
    let Ok(Record::Batch(batch)) = Record::decode(Bytes::from(bytes)) else { panic!() };
    batch
}

/// Each member's slot, in every other member's place and under every other member's name, opens for nobody else.
#[test]
fn a_slot_opens_for_its_member_alone() {
    let mut world = World::new(&[2, 3, 4]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let Stored::Epoch { header, table } = &world.log[1] else { panic!() };
    let (parsed, hash) = (header.peek().unwrap(), header.hash());
    for (index, n) in [OWNER, 2, 3, 4].into_iter().enumerate() {
        let me = key(n);
        let secret = WrapSecret::of_identity(&identity(n));
        for (other, _) in [OWNER, 2, 3, 4].into_iter().enumerate() {
            let slot = find_slot(table, MemberIndex(other as u32)).unwrap();
            for claimed in 0..4 {
                let slot = Slot { member: MemberIndex(claimed), ..slot };
                let opened = EpochReceiver::open_slot(&parsed, &hash, &slot, &me, &secret);
                assert_eq!(opened.is_ok(), other == index && claimed as usize == index);
            }
        }
        let renamed =
            Slot { source: SlotSource::Prekey(7), ..find_slot(table, MemberIndex(index as u32)).unwrap() };
        assert!(matches!(
            EpochReceiver::open_slot(&parsed, &hash, &renamed, &me, &secret),
            Err(SlotError::BadSlot)
        ));
    }
}

/// An object of each kind, offered as each other kind: its signature holds under its own label only.
#[test]
fn no_signed_object_passes_for_one_of_another_kind() {
    use SignLabel::{
        Beacon, EpochHeader, Genesis as GenesisLabel, Prekey as PrekeyLabel, RosterEntry, RosterHead as Head,
    };
    let (world, pen) = world();
    let owner = identity(OWNER);
    let Stored::Roster { bundle, .. } = &world.log[0] else { panic!() };
    let Stored::Epoch { header, .. } = &world.log[1] else { panic!() };
    let Reply::Beacon(_, beacon) = pen.beacon(&world) else { panic!() };
    let chain = world.roster.chain();
    let head = RosterHead {
        topic: world.topic,
        seq: chain.seq(),
        hash: chain.hash(),
        signer: owner.public(),
        time_ms: world.now,
    };
    let head = sealcast_proto::Signed::sign(&head, owner.signing_key());
    let prekey = Prekey {
        owner: owner.public(),
        prekey_id: 5,
        x25519: [9; 32],
        not_before_ms: 5000,
        not_after_ms: 6000,
    };
    let prekey = sealcast_proto::Signed::sign(&prekey, owner.signing_key());
    let epoch_vk: PublicKey = header.peek().unwrap().epoch_vk;
    let genesis: &sealcast_proto::Signed<Genesis> = &world.genesis;
    let objects: [(SignLabel, PublicKey, &Bytes, &[u8; 64]); 6] = [
        (GenesisLabel, owner.public(), genesis.body(), genesis.signature()),
        (RosterEntry, owner.public(), bundle.entry.body(), bundle.entry.signature()),
        (Head, owner.public(), head.body(), head.signature()),
        (PrekeyLabel, owner.public(), prekey.body(), prekey.signature()),
        (EpochHeader, owner.public(), header.body(), header.signature()),
        (Beacon, epoch_vk, beacon.body(), beacon.signature()),
    ];
    let labels = [GenesisLabel, RosterEntry, Head, PrekeyLabel, EpochHeader, SignLabel::Batch, Beacon];
    for (own, signer, body, signature) in objects {
        for label in labels {
            assert_eq!(verify(&signer, label, body, signature), label == own, "{own:?} as {label:?}");
        }
    }
}
