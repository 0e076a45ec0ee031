//! A publisher that seals by hand: its signature holds, the ciphertext opens, and what is inside is no batch.

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::{AeadInOut as _, Aes256GcmSiv, KeyInit as _, Nonce};
use hkdf::Hkdf;
use sealcast_envelope::padme::padme;
use sealcast_envelope::{EpochReceiver, Message, WrapSecret};
use sealcast_proto::hash::lp_prefix;
use sealcast_proto::limits::{MAX_BATCH_CIPHERTEXT, MAX_BATCH_MESSAGES, MAX_MESSAGE};
use sealcast_proto::object::{Batch, PrevClose};
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::{BatchNo, Seq};
use sha2::Sha256;

use super::pen::{Pen, resign};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

/// What member 2 says of a batch with this plaintext and count, between `a` and `end`, and what it counted as invalid.
async fn read(plaintext: &[u8], count: u32) -> (Vec<String>, u64) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);

    // An epoch whose signing key the publisher keeps, and the key of its first batch, as any member has it.
    pen.begin(&mut world);
    let Some(Stored::Epoch { header, table }) = world.log.pop() else { panic!() };
    let epoch_key = identity(99);
    let header = resign(&header, &pen.identity, |header| header.epoch_vk = epoch_key.public());
    let (parsed, hash) = (header.peek().unwrap(), header.hash());
    let slot = world.slot_of(&table, &key(2)).unwrap();
    let secret = WrapSecret::of_identity(&identity(2));
    let receiver = EpochReceiver::open_slot(&parsed, &hash, &slot, &key(2), &secret).unwrap();
    let mut batch_key = [0; 32];
    let info = [b"sealcast/1 derive", &lp_prefix(b"key")[..], b"key", &lp_prefix(b"")].concat();
    Hkdf::<Sha256>::from_prk(&receiver.snapshot()[61..93]).unwrap().expand(&info, &mut batch_key).unwrap();
    world.log.push(Stored::Epoch { header, table });

    let body = Batch {
        epoch: parsed.epoch,
        batch_no: BatchNo(0),
        first_seq: Seq(1),
        count,
        time_ms: world.now,
        end: false,
        prev_batch_hash: hash,
    };
    let body = body.encode();
    let aad = batch_aad(&hash, &body);
    let mut sealed = plaintext.to_vec();
    let cipher = Aes256GcmSiv::new(<&Array<_, _>>::from(&batch_key));
    let tag = cipher.encrypt_inout_detached(&Nonce::default(), aad.as_bytes(), (&mut sealed[..]).into());
    sealed.extend_from_slice(&tag.unwrap());
    let (batch, last_batch_hash) =
        BatchRecord::sign(body, &aad, Sealed(sealed.into()), epoch_key.signing_key());
    world.log.push(Stored::Batch { publisher: pen.public(), batch });

    let mut plan = pen.plan(&world);
    plan.prev_header_hash = hash;
    pen.begin_as(&mut world, &plan, Some(PrevClose { batches: 1, last_batch_hash }), &[]);
    pen.next_seq = 1 + u64::from(count);
    pen.publish(&mut world, &["end"]);
    let mut reader = Stage::new(world).reader(2).await;
    let said = until(&mut reader, "end").await;
    (said, reader.counters().await.invalid)
}

fn lp(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// `n ‖ framed ‖ zeros`, padded right.
fn plaintext(n: usize, framed: &[u8]) -> Vec<u8> {
    let mut out = [&u32::try_from(n).unwrap().to_be_bytes(), framed].concat();
    out.resize(padme(out.len()), 0);
    out
}

/// Two messages whose batch has padding: `x`, and one that is long.
fn framed() -> Vec<u8> {
    let [x, long] = ["x".to_owned(), "y".repeat(80)].map(|text| Message::from(text).encode().unwrap());
    [lp(&x), lp(&long)].concat()
}

/// Padding that is not zero, or not as long as it must be; counts and lengths that do not add up; what is no message: each
/// signed by the publisher, named by the reader, passed, and the next epoch is read. The same hand's sound batch is read,
/// so it is what is inside that is refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_inside_and_is_no_batch_is_named() {
    let framed = framed();
    let sound = plaintext(framed.len(), &framed);
    assert!(sound.len() > 4 + framed.len() + 1, "it has padding");
    assert_eq!(read(&sound, 2).await, (vec!["a".into(), "x".into(), "y".repeat(80)], 0));

    let with = |at: usize, byte: u8| {
        let mut out = sound.clone();
        out[at] = byte;
        out
    };
    let over = lp(&vec![0; MAX_MESSAGE + 1]);
    let bad: [(&str, Vec<u8>, u32); 15] = [
        ("the first byte of padding", with(4 + framed.len(), 1), 2),
        ("the last byte of padding", with(sound.len() - 1, 0x80), 2),
        ("padding too short", sound[..sound.len() - 1].to_vec(), 2),
        ("padding too long", [&sound[..], &[0; 8]].concat(), 2),
        ("none at all", sound[..4 + framed.len()].to_vec(), 2),
        ("fewer messages than are counted", sound.clone(), 3),
        ("more messages than are counted", sound.clone(), 1),
        ("as many as may be, counted", sound.clone(), MAX_BATCH_MESSAGES),
        ("n too small", plaintext(framed.len() - 1, &framed), 2),
        ("n too large", plaintext(framed.len() + 1, &framed), 2),
        ("n larger than everything", plaintext(u32::MAX as usize, &framed), 2),
        ("a length larger than everything", with(4, 0xff), 2),
        ("a message over the limit", plaintext(over.len(), &over), 1),
        ("what is no message", plaintext(8, &lp(&[0xff; 4])), 1),
        ("nothing", Vec::new(), 1),
    ];
    for (what, plaintext, count) in bad {
        let named = format!("BadBatch 1..{}", 1 + count);
        assert_eq!(read(&plaintext, count).await, (vec!["a".into(), named], 0), "{what}");
    }
}

/// More than may be counted, or longer than anything pads to: not even looked into, and missing by name.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_limits_is_no_record() {
    let framed = framed();
    let sound = plaintext(framed.len(), &framed);
    let too_many = MAX_BATCH_MESSAGES + 1;
    for (plaintext, count) in [(sound, too_many), (vec![0; MAX_BATCH_CIPHERTEXT - 16 + 1], 2)] {
        let missing = format!("Gap 1..{} Missing", 1 + count);
        assert_eq!(read(&plaintext, count).await, (vec!["a".into(), missing], 1));
    }
}
