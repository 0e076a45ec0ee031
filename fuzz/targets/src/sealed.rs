//! What lies behind an AEAD or a key: batches' plaintexts, messages, slots, advances.
//!
//! ```text
//! input = kind u8 ‖ …        0 plaintext of a batch, framed and padded by the fuzzer     count u8 ‖ end u8 ‖ plaintext
//!                            1 the same, framed and padded as it should be               message ‖ …, cut at 0xff 0x00
//!                            2 one message's bytes
//!                            3 a slot and its header, changed                            (place u8 ‖ change u8) …
//!                            4 a header to advance to                                    body
//! ```
//! The fuzzer cannot forge, so it is given the keys: what it makes up is sealed under the batch key, by code written from
//! docs/protocol.md section 7, and signed. What must hold: a batch opens exactly if that page says so; whatever it held,
//! its number is spent and the next one opens; a slot opens only as it was made.

use std::sync::LazyLock;

use aes_gcm_siv::aead::AeadInOut as _;
use aes_gcm_siv::{Aes256GcmSiv, KeyInit as _};
use bytes::Bytes;
use hkdf::Hkdf;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use sealcast_envelope::padme::padme;
use sealcast_envelope::{
    EpochPlan, EpochReceiver, Message, OpenError, SlotError, WrapKey, WrapSecret, WrapTarget, fresh,
};
use sealcast_proto::limits::{MAX_BATCH_PLAINTEXT, MAX_MESSAGE};
use sealcast_proto::object::{Batch, EpochHeader, Mode, Object as _};
use sealcast_proto::record::{BatchRecord, Sealed, VerifiedBatch, batch_aad};
use sealcast_proto::slot::{Slot, find_slot};
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, RosterSeq, Seq, SlotSource, TopicId};
use sha2::Sha256;

use crate::{Reached, Target, valid};

/// See the module's page. Opening copies a batch, framing and decoding copy it again.
pub const TARGET: Target = Target { name: "sealed", run, stages: STAGES, heap: (1 << 20, 64), seeds };

const STAGES: &[&str] = &[
    "opened",
    "bad batch",
    "end",
    "message",
    "messages",
    "slot opens",
    "slot refused",
    "epoch refused",
    "advanced",
];

/// An epoch of a publisher (2) with a slot for one member (3).
struct World {
    header: EpochHeader,
    hash: Hash,
    slot: Slot,
    /// As it stands before batch 0.
    saved: Vec<u8>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let (publisher, member) = (valid::identity(2), valid::identity(3).public());
    let plan = EpochPlan {
        topic: TopicId([9; 32]),
        publisher: publisher.public(),
        epoch: Epoch(5),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(1),
        roster_hash: Hash([8; 32]),
    };
    let target = WrapTarget {
        member: MemberIndex(2),
        identity: member,
        source: SlotSource::Static,
        x25519: WrapKey::of_identity(&member),
    };
    let epoch = fresh(&plan, &[target], &mut StdRng::seed_from_u64(1)).expect("a sound plan");
    let slot = find_slot(&epoch.table(), MemberIndex(2)).expect("its slot");
    let (signed, ..) = epoch.finish(None, 5, &publisher);
    let header = signed.peek().expect("its own header");
    let receiver = open_slot(&header, &signed.hash(), &slot).expect("its own slot");
    World { hash: signed.hash(), header, slot, saved: receiver.snapshot().to_vec() }
});

fn open_slot(header: &EpochHeader, hash: &Hash, slot: &Slot) -> Result<EpochReceiver, SlotError> {
    let member = valid::identity(3);
    EpochReceiver::open_slot(header, hash, slot, &member.public(), &WrapSecret::of_identity(&member))
}

fn run(input: &[u8], reached: &mut Reached) {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 5 {
        0 => {
            let [count, end, plaintext @ ..] = rest else { return };
            batch(u32::from(*count), end % 2 == 1, plaintext, reached);
        }
        1 => {
            let messages = cut(rest);
            let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            let opened = batch(count, false, &framed(&messages), reached);
            assert_eq!(opened, Some(messages), "a well-formed batch opens");
        }
        2 => message(Bytes::copy_from_slice(rest), reached),
        3 => slot(rest, reached),
        _ => advance(rest, reached),
    }
}

fn cut(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while let Some(at) = bytes.windows(2).position(|two| two == [0xff, 0]) {
        messages.push(Bytes::copy_from_slice(&bytes[..at]));
        bytes = &bytes[at + 2..];
    }
    messages.push(Bytes::copy_from_slice(bytes));
    messages
}

/// `u32 n ‖ count × LP(message) ‖ zeros up to Padmé(4 + n)`.
fn framed(messages: &[Bytes]) -> Vec<u8> {
    let lp = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat();
    let inner = messages.iter().flat_map(|message| lp(message)).collect::<Vec<u8>>();
    let mut out = lp(&inner);
    out.resize(padme(out.len()), 0);
    out
}

/// What `framed` made, or nothing: the rule of docs/protocol.md section 7 once more.
fn unframed(plaintext: &[u8], count: u32) -> Option<Vec<Bytes>> {
    let lp = |bytes: &[u8], most: usize| -> Option<(Vec<u8>, Vec<u8>)> {
        let len = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        (len <= most).then_some(())?;
        Some((bytes.get(4..4 + len)?.to_vec(), bytes.get(4 + len..)?.to_vec()))
    };
    let (mut inner, padding) = lp(plaintext, MAX_BATCH_PLAINTEXT)?;
    let sound = plaintext.len() == padme(4 + inner.len()) && padding.iter().all(|byte| *byte == 0);
    let mut messages = Vec::new();
    for _ in 0..count {
        let (message, rest) = lp(&inner, MAX_MESSAGE)?;
        messages.push(message.into());
        inner = rest;
    }
    (sound && inner.is_empty()).then_some(messages)
}

fn derive(prk: &[u8], label: &[u8]) -> [u8; 32] {
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let info = [b"sealcast/1 derive".as_slice(), &len(label), label, &len(&[])].concat();
    let mut out = [0; 32];
    Hkdf::<Sha256>::from_prk(prk).expect("32 bytes").expand(&info, &mut out).expect("32 bytes");
    out
}

/// BK_b of the world's epoch. Where it stands in a saved receiver: `EpochReceiver::snapshot`.
fn batch_key(number: u64) -> [u8; 32] {
    let mut key: [u8; 32] = WORLD.saved[61..93].try_into().expect("32 bytes");
    (0..number).for_each(|_| key = derive(&key, b"next"));
    key
}

/// Seals any plaintext as batch `number` and signs it.
fn seal(number: u64, count: u32, end: bool, plaintext: &[u8]) -> Option<VerifiedBatch> {
    let body = Batch {
        epoch: WORLD.header.epoch,
        batch_no: BatchNo(number),
        first_seq: Seq(0),
        count,
        time_ms: 6,
        end,
        prev_batch_hash: WORLD.hash,
    };
    let body = body.encode();
    let aad = batch_aad(&WORLD.hash, &body);
    let mut sealed = plaintext.to_vec();
    let key = derive(&batch_key(number), b"key");
    let cipher = Aes256GcmSiv::new(&key.into());
    let tag = cipher.encrypt_inout_detached(&[0; 12].into(), aad.as_bytes(), sealed.as_mut_slice().into());
    sealed.extend_from_slice(&tag.expect("short enough"));
    let (record, _) = BatchRecord::sign(body, &aad, Sealed(sealed.into()), &valid::epoch_key());
    record.verify(&WORLD.hash, &valid::epoch_vk()).ok()
}

fn batch(count: u32, end: bool, plaintext: &[u8], reached: &mut Reached) -> Option<Vec<Bytes>> {
    let mut receiver = EpochReceiver::restore(&WORLD.saved).expect("its own snapshot");
    // A body that says 0 messages and no END is refused before it is opened.
    let batch = seal(0, count, end, plaintext)?;
    let expected = unframed(plaintext, count);
    let opened = receiver.open(&batch);
    match &expected {
        Some(messages) => assert_eq!(opened.as_ref(), Ok(messages)),
        None => assert_eq!(opened, Err(OpenError::BadBatch)),
    }
    reached.mark(if opened.is_ok() { "opened" } else { "bad batch" });
    if end {
        reached.mark("end");
    }
    assert_eq!(receiver.next_batch_no(), BatchNo(1));
    assert!(matches!(receiver.open(&batch), Err(OpenError::OutOfOrder { .. })), "a number is spent once");
    let next = [Bytes::from_static(b"next")];
    let following = seal(1, 1, false, &framed(&next)).expect("a valid batch");
    assert_eq!(receiver.open(&following).as_deref(), Ok(next.as_slice()));
    for bytes in opened.iter().flatten() {
        message(bytes.clone(), reached);
    }
    if expected.as_ref().is_some_and(|messages| messages.len() > 1) {
        reached.mark("messages");
    }
    expected
}

fn message(bytes: Bytes, reached: &mut Reached) {
    let Some(message) = reached.ok("message", Message::decode(bytes.clone())) else { return };
    // Never longer than it came: what could be read can be sent on.
    let again = message.encode().expect("within the limits it was read under");
    assert!(again.len() <= bytes.len());
    assert_eq!(Message::decode(again), Ok(message));
}

/// Changes bytes of the slot and of what its key is bound to.
fn slot(changes: &[u8], reached: &mut Reached) {
    let (mut header, mut slot) = (WORLD.header.clone(), WORLD.slot);
    for change in changes.chunks_exact(2) {
        let [place, by] = *change else { continue };
        match usize::from(place) {
            at @ 0..48 => slot.ct[at] ^= by,
            at @ 48..80 => header.enc[at - 48] ^= by,
            at @ 80..112 => header.commitment[at - 80] ^= by,
            at @ 112..144 => header.topic.0[at - 112] ^= by,
            at @ 144..176 => header.roster_hash.0[at - 144] ^= by,
            at @ 176..208 => header.prev_header_hash.0[at - 176] ^= by,
            208 => header.epoch.0 ^= u64::from(by),
            209 => header.roster_seq.0 ^= u64::from(by),
            210 => header.kek_gen ^= u32::from(by),
            211 => header.mode = [Mode::Fresh, Mode::Advance, Mode::Rewrap][usize::from(by % 3)],
            212 => slot.member.0 ^= u32::from(by),
            _ => slot.source = SlotSource::from_u32(slot.source.to_u32() ^ u32::from(by)),
        }
    }
    let same = header == WORLD.header && slot == WORLD.slot;
    match open_slot(&header, &WORLD.hash, &slot) {
        Ok(receiver) => {
            reached.mark("slot opens");
            // X25519 ignores the highest bit of a coordinate; it is hashed into the key all the same.
            assert!(same, "a changed slot opens");
            assert_eq!(receiver.next_batch_no(), BatchNo(0));
        }
        Err(error) => {
            assert!(!same, "{error}");
            reached.mark(if error == SlotError::BadEpochSeed { "epoch refused" } else { "slot refused" });
        }
    }
}

/// An advance derives only what the header commits to, and the epoch held stays as it is.
fn advance(body: &[u8], reached: &mut Reached) {
    let Ok(header) = EpochHeader::decode(body) else { return };
    let receiver = EpochReceiver::restore(&WORLD.saved).expect("its own snapshot");
    let hash = Hash([1; 32]);
    assert!(receiver.rewrap(&header, &hash, &WORLD.slot).is_err(), "no slot here is under the KEK");
    match receiver.follow(&header, &hash, None) {
        Ok(_) => panic!("no header of the fuzzer's holds the commitment"),
        Err(SlotError::BadEpochSeed) => {
            reached.mark("advanced");
            assert_eq!((header.mode, header.prev_header_hash), (Mode::Advance, WORLD.hash));
            assert!(header.epoch > WORLD.header.epoch);
        }
        Err(_) => {}
    }
    assert_eq!(*receiver.snapshot(), WORLD.saved);
}

fn seeds() -> Vec<Vec<u8>> {
    let rich = Message::new("gold 2,431.50").with_header("a", "b").with_content_type("text/plain");
    let rich = Message { time_ms: valid::NOW, ..rich }.encode().expect("a small message");
    let plain = |count: u8, end: u8, plaintext: &[u8]| [&[0, count, end], plaintext].concat();
    let header = EpochHeader {
        mode: Mode::Advance,
        epoch: Epoch(6),
        prev_header_hash: WORLD.hash,
        ..WORLD.header.clone()
    };
    let mut not_zero = framed(&[Bytes::from_static(b"some twenty-two bytes")]);
    if let Some(last) = not_zero.last_mut() {
        *last = 1;
    }
    vec![
        plain(2, 0, &framed(&[rich.clone(), Bytes::new()])),
        plain(0, 1, &framed(&[])),
        plain(1, 0, &not_zero),
        plain(1, 0, &[0xff; 8]),
        [&[1], rich.as_ref(), &[0xff, 0], rich.as_ref()].concat(),
        [&[2], rich.as_ref()].concat(),
        vec![3],
        vec![3, 5, 1],
        vec![3, 80, 1],
        vec![3, 211, 2],
        vec![3, 213, 255],
        [&[4], header.encode().as_slice()].concat(),
    ]
}
