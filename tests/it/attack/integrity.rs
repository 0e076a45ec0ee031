//! Every single bit of what travels, flipped; and what protobuf would let through.

use bytes::Bytes;
use sealcast_envelope::{EpochReceiver, SlotError, WrapSecret};
use sealcast_proto::frame::Reply;
use sealcast_proto::hash::{SignLabel, sign};
use sealcast_proto::object::{EpochHeader, Object, Prekey, RosterEntry, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::Role;
use sealcast_proto::slot::Slot;
use sealcast_proto::{Identity, PublicKey, Signed};

use super::pen::Pen;
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2]);
    world.set_policy(|policy| policy.beacon_ms = 100);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.publish(&mut world, &["b"]);
    pen.publish(&mut world, &["end"]);
    (world, pen)
}

fn flipped(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> + '_ {
    (0..bytes.len() * 8).map(move |bit| {
        let mut out = bytes.to_vec();
        out[bit / 8] ^= 1 << (bit % 8);
        out
    })
}

/// Each bit of body and signature: the signature does not hold.
fn no_bit_can_change<T: Object>(signed: &Signed<T>, signer: &PublicKey) {
    assert!(signed.verify(signer).is_ok());
    for body in flipped(signed.body()) {
        assert!(Signed::<T>::from_parts(body.into(), signed.signature()).unwrap().verify(signer).is_err());
    }
    for signature in flipped(signed.signature()) {
        assert!(Signed::<T>::from_parts(signed.body().clone(), &signature).unwrap().verify(signer).is_err());
    }
}

/// Genesis, header, beacon, prekey and roster entry, bit by bit.
#[test]
fn no_bit_of_a_signed_object_can_change() {
    let (world, pen) = world();
    let owner = key(OWNER);
    no_bit_can_change(&world.genesis, &owner);
    let Stored::Epoch { header, .. } = &world.log[2] else { panic!() };
    no_bit_can_change(header, &owner);
    let Reply::Beacon(_, beacon) = pen.beacon(&world) else { panic!() };
    no_bit_can_change(&beacon, &header.peek().unwrap().epoch_vk);
    let prekey = Prekey { owner, prekey_id: 5, x25519: [9; 32], not_before_ms: 5000, not_after_ms: 6000 };
    no_bit_can_change(&Signed::sign(&prekey, identity(OWNER).signing_key()), &owner);
    let Stored::Roster { bundle, .. } = &world.log[1] else { panic!() };
    no_bit_can_change(&bundle.entry, &owner);
    no_bit_can_change(&head(&world), &owner);
}

fn head(world: &World) -> Signed<RosterHead> {
    let chain = world.roster.chain();
    let (seq, hash) = (chain.seq(), chain.hash());
    let head = RosterHead { topic: world.topic, seq, hash, signer: key(OWNER), time_ms: world.now };
    Signed::sign(&head, identity(OWNER).signing_key())
}

/// A roster entry, its operations and its lists, bit by bit: neither a roster nor a chain takes it, nor changes.
#[test]
fn no_bit_of_a_roster_entry_or_its_lists_can_change() {
    let mut world = World::new(&[2]);
    let (roster, chain) = (world.roster.clone(), world.roster.chain().clone());
    world.add(4, Role::Publisher);
    let Some(Stored::Roster { bundle, roles, .. }) = world.log.pop() else { panic!() };
    let entries = flipped(bundle.entry.body()).map(|body| {
        let entry = Signed::<RosterEntry>::from_parts(body.into(), bundle.entry.signature()).unwrap();
        (entry, bundle.ops.to_vec(), roles.to_vec())
    });
    let ops = flipped(&bundle.ops).map(|ops| (bundle.entry.clone(), ops, roles.to_vec()));
    for (entry, ops, _) in entries.chain(ops) {
        let mut held = roster.clone();
        assert!(held.apply(&entry, &ops).is_err());
        assert_eq!(held.chain(), roster.chain());
    }
    for roles in flipped(&roles) {
        let mut held = chain.clone();
        assert!(held.follow(&bundle.entry, Some(&roles), None).is_err());
        assert_eq!(held, chain);
    }
    assert!(roster.clone().apply(&bundle.entry, &bundle.ops).is_ok());
    assert!(chain.clone().follow(&bundle.entry, Some(&roles), None).is_ok());
}

/// A slot, bit by bit: it does not open.
#[test]
fn no_bit_of_a_slot_can_change() {
    let (world, _) = world();
    let Stored::Epoch { header, table } = &world.log[2] else { panic!() };
    let (parsed, hash, me) = (header.peek().unwrap(), header.hash(), key(2));
    let secret = WrapSecret::of_identity(&identity(2));
    let slot = world.slot_of(table, &me).unwrap();
    let open = |slot: &Slot| EpochReceiver::open_slot(&parsed, &hash, slot, &me, &secret);
    assert!(open(&slot).is_ok());
    for bytes in flipped(&slot.encode()) {
        let refused = open(&Slot::decode(&bytes).unwrap()).err();
        assert!(matches!(refused, Some(SlotError::BadSlot | SlotError::NeedsKek)), "{refused:?}");
    }
}

/// A batch's record, bit by bit, ciphertext and all: no record, or no signature; and the genuine one opens afterwards.
#[test]
fn no_bit_of_a_batch_can_change() {
    let (world, _) = world();
    let Stored::Epoch { header, table } = &world.log[2] else { panic!() };
    let Stored::Batch { batch, .. } = &world.log[3] else { panic!() };
    let (parsed, hash, me) = (header.peek().unwrap(), header.hash(), key(2));
    let secret = WrapSecret::of_identity(&identity(2));
    let slot = world.slot_of(table, &me).unwrap();
    let mut receiver = EpochReceiver::open_slot(&parsed, &hash, &slot, &me, &secret).unwrap();
    for bytes in flipped(&Record::Batch(batch.clone()).encode()) {
        if let Ok(Record::Batch(bent)) = Record::decode(bytes.into()) {
            assert!(bent.verify(&hash, &parsed.epoch_vk).is_err());
        }
    }
    assert_eq!(receiver.open(&batch.clone().verify(&hash, &parsed.epoch_vk).unwrap()).unwrap().len(), 1);
}

/// `signed` in four other encodings: under its own signature none holds; signed that way by `signer` each is read as the
/// same object, and kept as it came.
fn no_other_encoding_passes<T: Object + PartialEq + std::fmt::Debug>(signed: &Signed<T>, signer: &Identity) {
    let body = signed.body();
    // The first field: a tag, then a length and as many bytes, or a number.
    let first = match body[0] & 7 {
        2 => 2 + usize::from(body[1]),
        0 => 1 + body[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1,
        other => panic!("wire type {other}"),
    };
    let unknown = [&body[..], &[0xa0, 0x06, 1]].concat();
    let reordered = [&body[first..], &body[..first]].concat();
    // A number, or a length, in one byte more than it takes.
    let last = 1 + body[1..].iter().position(|byte| byte & 0x80 == 0).unwrap();
    let long = [&body[..last], &[body[last] | 0x80, 0], &body[last + 1..]].concat();
    let twice = [&body[..first], body].concat();
    let parsed = signed.verify(&signer.public()).unwrap();
    for other in [unknown, reordered, long, twice] {
        let bent = Signed::<T>::from_parts(other.clone().into(), signed.signature()).unwrap();
        assert!(bent.verify(&signer.public()).is_err(), "{}", T::KIND);
        let signature = sign(signer.signing_key(), T::LABEL, &other);
        let resigned = Signed::<T>::from_parts(Bytes::from(other.clone()), &signature).unwrap();
        assert_eq!(resigned.verify(&signer.public()).unwrap(), parsed);
        assert_eq!(resigned.body(), &other, "what was signed is never encoded anew");
    }
}

/// Fields that nobody knows, fields in another order, numbers written long and fields written twice, put in on the way: the
/// signature is over the bytes, for each kind of object. Two encodings of one header are two headers.
#[test]
fn another_encoding_is_another_object() {
    let (world, pen) = world();
    let owner = identity(OWNER);
    no_other_encoding_passes(&world.genesis, &owner);
    no_other_encoding_passes(&head(&world), &owner);
    let Stored::Roster { bundle, .. } = &world.log[1] else { panic!() };
    no_other_encoding_passes(&bundle.entry, &owner);
    let prekey =
        Prekey { owner: key(OWNER), prekey_id: 5, x25519: [9; 32], not_before_ms: 5000, not_after_ms: 6000 };
    no_other_encoding_passes(&Signed::sign(&prekey, owner.signing_key()), &owner);
    let Reply::Beacon(_, beacon) = pen.beacon(&world) else { panic!() };
    // Under a key of ours: the epoch's own is its sender's.
    no_other_encoding_passes(&Signed::sign(&beacon.peek().unwrap(), owner.signing_key()), &owner);
    let Stored::Epoch { header, .. } = &world.log[2] else { panic!() };
    no_other_encoding_passes(header, &owner);
    let other = [&header.body()[..], &[0xa0, 0x06, 1]].concat();
    let signature = sign(owner.signing_key(), SignLabel::EpochHeader, &other);
    let other = Signed::<EpochHeader>::from_parts(Bytes::from(other), &signature).unwrap();
    assert_ne!(other.hash(), header.hash());
}

/// What a subscriber says to `a`, `b`, `end` with one record changed on the way, and what it counted as invalid.
async fn with(change: impl Fn(Reply) -> Option<Reply> + Send + 'static) -> (Vec<String>, u64) {
    let (world, _) = world();
    let stage = Stage::twisted(world, move |_, _, replies| {
        replies.into_iter().map(|reply| change(reply.clone()).unwrap_or(reply)).collect()
    });
    let mut reader = stage.reader(2).await;
    let said = until(&mut reader, "end").await;
    (said, reader.counters().await.invalid)
}

/// A batch with a bit flipped in each of its parts, to a real subscriber: dropped, named, and the next one is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_batch_is_dropped_and_named() {
    let (world, _) = world();
    let Some(Reply::Record(_, bytes)) = world.record(4, &key(2)) else { panic!() };
    let len = bytes.len();
    // The last body byte, the signature, the ciphertext's first and last.
    for at in [60, len - 16 - 64 - 20, len - 40, len - 1] {
        let (said, invalid) = with(move |reply| match reply {
            Reply::Record(offset, bytes) if offset.0 == 4 => {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= 1;
                Some(Reply::Record(offset, bytes.into()))
            }
            _ => None,
        })
        .await;
        assert_eq!((said, invalid), (vec!["a".into(), "Gap 1..2 Missing".into()], 1), "byte {at} of {len}");
    }
}

/// A slot with a bit flipped: fetched again, and everything is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_slot_is_fetched_again() {
    for at in [8, 40, 55] {
        let (said, _) = with(move |reply| match reply {
            Reply::Epoch(mut delivery) => {
                let mut bytes = delivery.slot?.encode();
                bytes[at] ^= 1;
                delivery.slot = Slot::decode(&bytes);
                Some(Reply::Epoch(delivery))
            }
            _ => None,
        })
        .await;
        assert_eq!(said, ["a", "b"]);
    }
}

/// A slot that does not open, and a broker that is too busy to give it again, time after time: keys that cannot be fetched now are not lost.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_busy_broker_withholds_are_asked_for_again() {
    let (world, _pen) = world();
    let stage = Stage::twisted(world, |_, _, mut replies| {
        for reply in &mut replies {
            let epoch = match reply {
                Reply::Epoch(delivery) => delivery,
                Reply::Context(context) => &mut context.epoch,
                _ => continue,
            };
            let mut bytes = epoch.slot.unwrap().encode();
            bytes[40] ^= 1;
            epoch.slot = Slot::decode(&bytes);
        }
        replies
    });
    *stage.busy.lock().unwrap() = u32::MAX;
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "Stalled").await, [""; 0], "that they are withheld is said meanwhile");
    *stage.busy.lock().unwrap() = 3;
    assert_eq!(until(&mut reader, "b").await, ["a"]);
    assert_eq!(*stage.busy.lock().unwrap(), 0);
}

/// A header with a bit flipped is no header: nothing of its epoch is read, and the next epoch is.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_header_is_not_accepted() {
    let (mut world, mut pen) = world();
    pen.begin(&mut world);
    pen.publish(&mut world, &["next"]);
    let stage = Stage::twisted(world, |_, _, mut replies| {
        for reply in &mut replies {
            if let Reply::Epoch(delivery) = reply
                && delivery.offset.0 == 2
            {
                let mut body = delivery.header.body().to_vec();
                body[100] ^= 4;
                delivery.header = Signed::from_parts(body.into(), delivery.header.signature()).unwrap();
            }
        }
        replies
    });
    let mut reader = stage.reader(2).await;
    let said = until(&mut reader, "next").await;
    assert!(said.iter().all(|line| line.starts_with("Gap 0..")), "{said:?}");
    let counters = reader.counters().await;
    assert_eq!((counters.invalid, counters.unknown), (1, 3));
}
