//! Sealing and opening: round trips, limits, tampering, and what a dishonest signer could put inside.

use bytes::Bytes;
use proptest::prelude::*;
use sealcast_proto::hash::sha256;
use sealcast_proto::limits::{
    MAX_BATCH_CIPHERTEXT, MAX_BATCH_MESSAGES, MAX_BATCH_PLAINTEXT, MAX_EPOCH_BATCHES, MAX_MESSAGE,
};
use sealcast_proto::object::Batch;
use sealcast_proto::record::{BatchRecord, Record, Sealed, batch_aad};
use sealcast_proto::{BatchNo, Hash, Identity, Seq};

use super::{Member, Started};
use crate::batch::{SealError, batch_fits, message_cost};
use crate::padme::padme;
use crate::receiver::{EpochReceiver, OpenError};

fn pair() -> (Started, EpochReceiver) {
    let member = Member::with_prekey(1, 77);
    let started = Started::fresh(7, Hash::ZERO, std::slice::from_ref(&member));
    let receiver = member.open(&started).unwrap();
    (started, receiver)
}

#[test]
fn batches_chain_and_open_in_order() {
    let (mut epoch, mut receiver) = pair();
    let (mut last, mut seq) = (epoch.hash, Seq(40));
    for number in 0..5_u64 {
        let messages: Vec<Bytes> = (0..=number).map(|i| format!("{number}.{i}").into()).collect();
        assert_eq!(epoch.sender.next_batch_no(), BatchNo(number));
        let record = epoch.sender.seal(&messages, seq, 100 + number, number == 4).unwrap();
        let batch = epoch.verify(&record);
        let expected = Batch {
            epoch: epoch.header.epoch,
            batch_no: BatchNo(number),
            first_seq: seq,
            count: messages.len() as u32,
            time_ms: 100 + number,
            end: number == 4,
            prev_batch_hash: last,
        };
        assert_eq!(*batch.batch(), expected);
        assert_eq!(*batch.hash(), epoch.sender.last_hash());
        assert_eq!(receiver.open(&batch).unwrap(), messages);
        (last, seq) = (*batch.hash(), batch.batch().end_seq());
    }
}

#[test]
fn opened_messages_are_slices_of_one_buffer() {
    let (mut epoch, mut receiver) = pair();
    let record = epoch.seal(&[&[1; 100], &[2; 100]]);
    let opened = receiver.open(&epoch.verify(&record)).unwrap();
    assert_eq!(opened[0].as_ptr() as usize + 100 + 4, opened[1].as_ptr() as usize);
}

#[test]
fn limits_hold_and_a_refusal_steps_nothing() {
    let (mut epoch, mut receiver) = pair();
    let zeros = Bytes::from(vec![0; MAX_MESSAGE + 1]);
    let of = |len: usize| zeros.slice(..len);
    let mut seal = |messages: &[Bytes], end| epoch.sender.seal(messages, Seq(0), 1, end).map(drop);
    assert_eq!(seal(&[], false), Err(SealError::Empty));
    assert_eq!(seal(&[of(MAX_MESSAGE + 1)], false), Err(SealError::MessageTooLarge(MAX_MESSAGE + 1)));
    let rest = MAX_BATCH_PLAINTEXT - message_cost(MAX_MESSAGE) - message_cost(0);
    assert!(batch_fits(message_cost(MAX_MESSAGE), rest) && !batch_fits(message_cost(MAX_MESSAGE), rest + 1));
    assert!(batch_fits(0, MAX_MESSAGE) && !batch_fits(0, MAX_MESSAGE + 1) && !batch_fits(usize::MAX, 0));
    assert_eq!(seal(&[of(MAX_MESSAGE), of(rest + 1)], false), Err(SealError::BatchTooLarge));
    assert_eq!(seal(&vec![of(0); MAX_BATCH_MESSAGES as usize + 1], false), Err(SealError::BatchTooLarge));
    let overflow = epoch.sender.seal(&[of(1)], Seq(u64::MAX), 1, false).map(drop);
    assert_eq!(overflow, Err(SealError::SeqOverflow));
    assert_eq!(epoch.sender.next_batch_no(), BatchNo(0));
    assert_eq!(epoch.sender.last_hash(), epoch.hash);

    // The largest of each, and an END without messages.
    for (messages, end) in [
        (vec![of(MAX_MESSAGE), of(rest)], false),
        (vec![of(0); MAX_BATCH_MESSAGES as usize], false),
        (vec![of(1024); 1024], false),
        (vec![], true),
    ] {
        let record = epoch.sender.seal(&messages, Seq(0), 1, end).unwrap();
        assert!(record.ciphertext().0.len() <= MAX_BATCH_CIPHERTEXT);
        let encoded = Record::Batch(record.clone()).encode();
        assert_eq!(Record::decode(encoded).unwrap(), Record::Batch(record.clone()));
        assert_eq!(receiver.open(&epoch.verify(&record)).unwrap(), messages);
    }
}

#[test]
fn an_epoch_has_so_many_batches_and_no_more() {
    let (mut epoch, mut receiver) = pair();
    let message = [Bytes::from_static(b"m")];
    let mut last = None;
    for _ in 0..MAX_EPOCH_BATCHES {
        last = Some(epoch.sender.seal(&message, Seq(0), 1, false).unwrap());
    }
    assert_eq!(epoch.sender.seal(&message, Seq(0), 1, false), Err(SealError::EpochFull));
    assert_eq!(epoch.sender.seal(&[], Seq(0), 1, true), Err(SealError::EpochFull));
    receiver.fast_forward(BatchNo(MAX_EPOCH_BATCHES - 1)).unwrap();
    assert_eq!(receiver.open(&epoch.verify(&last.unwrap())).unwrap(), message);
}

#[test]
fn lengths_show_only_their_padded_form() {
    let (mut epoch, _) = pair();
    for len in [0, 1, 100, 1000, 100_000] {
        let record = epoch.seal(&[&vec![1; len]]);
        assert_eq!(record.ciphertext().0.len(), padme(4 + 4 + len) + 16);
    }
}

/// Every byte of a record, flipped in turn: it fails to parse, or its signature does not hold.
#[test]
fn no_byte_of_a_record_can_change() {
    let (mut epoch, mut receiver) = pair();
    let record = epoch.seal(&[b"first message", b"second message"]);
    let encoded = Record::Batch(record.clone()).encode();
    for at in 0..encoded.len() {
        let mut bytes = encoded.to_vec();
        bytes[at] ^= 1;
        if let Ok(Record::Batch(tampered)) = Record::decode(bytes.into()) {
            assert!(tampered.verify(&epoch.hash, &epoch.header.epoch_vk).is_err(), "byte {at}");
        }
    }
    // Under another header, or another epoch key.
    assert!(record.clone().verify(&Hash([1; 32]), &epoch.header.epoch_vk).is_err());
    assert!(record.clone().verify(&epoch.hash, &Member::with_static_key(5).public()).is_err());
    assert_eq!(receiver.open(&epoch.verify(&record)).unwrap().len(), 2);
}

/// A signer that signs what does not open: every byte of ciphertext and tag, flipped and signed again.
#[test]
fn a_signed_batch_that_does_not_open_is_bad_and_steps() {
    let (mut epoch, receiver) = pair();
    let record = epoch.seal(&[b"first message", b"second message"]);
    let next = epoch.seal(&[b"next"]);
    let (honest, snapshot) = (epoch.verify(&record), receiver.snapshot());
    for at in 0..record.ciphertext().0.len() {
        let mut bytes = record.ciphertext().0.to_vec();
        bytes[at] ^= 0x10;
        let mut receiver = EpochReceiver::restore(&snapshot).unwrap();
        let bad = resign(honest.batch(), Sealed(bytes.into()));
        assert_eq!(receiver.open(&bad), Err(OpenError::BadBatch), "byte {at}");
        assert_eq!(receiver.next_batch_no(), BatchNo(1));
        assert_eq!(receiver.open(&epoch.verify(&next)).unwrap(), [b"next".as_slice()]);
    }
    for len in 0..17 {
        let mut receiver = EpochReceiver::restore(&snapshot).unwrap();
        let bad = resign(honest.batch(), Sealed(record.ciphertext().0.slice(..len)));
        assert_eq!(receiver.open(&bad), Err(OpenError::BadBatch), "{len} bytes");
    }
    // Sealed right, under another body: the associated data holds it.
    let mut receiver = EpochReceiver::restore(&snapshot).unwrap();
    let body = Batch { time_ms: 7, ..honest.batch().clone() };
    assert_eq!(receiver.open(&resign(&body, record.ciphertext().clone())), Err(OpenError::BadBatch));
}

/// A verified batch of `body` and any ciphertext: what a dishonest publisher can make under the test's epoch.
fn resign(body: &Batch, ciphertext: Sealed) -> sealcast_proto::record::VerifiedBatch {
    let (epoch, _) = pair();
    let key = Identity::from_seed(&[6; 32]);
    let body = body.encode();
    let aad = batch_aad(&epoch.hash, &body);
    let (record, _) = BatchRecord::sign(body, &aad, ciphertext, key.signing_key());
    record.verify(&epoch.hash, &key.public()).unwrap()
}

/// Opens a plaintext of our making, sealed under the right key as batch 0 with `count` messages.
fn open_plaintext(plaintext: &[u8], count: u32) -> Result<Vec<Bytes>, OpenError> {
    let (epoch, mut receiver) = pair();
    let body = Batch {
        epoch: epoch.header.epoch,
        batch_no: BatchNo(0),
        first_seq: Seq(0),
        count,
        time_ms: 1,
        end: count == 0,
        prev_batch_hash: epoch.hash,
    };
    let aad = batch_aad(&epoch.hash, &body.encode());
    let batch_key: [u8; 32] = receiver.snapshot()[61..93].try_into().unwrap();
    let key = crate::derive::BatchKey(crate::secret::Secret::copy_from(&batch_key)).seal_key();
    let mut sealed = plaintext.to_vec();
    let tag = crate::aead::seal_once(&key, aad.as_bytes(), &mut sealed).unwrap();
    sealed.extend_from_slice(&tag);
    let opened = receiver.open(&resign(&body, Sealed(sealed.into())));
    assert_eq!(receiver.next_batch_no(), BatchNo(1), "the ratchet steps whatever was inside");
    opened
}

/// `n ‖ framed ‖ zeros`, padded right.
fn plaintext(n: usize, framed: &[u8]) -> Vec<u8> {
    let mut out = [&u32::try_from(n).unwrap().to_be_bytes(), framed].concat();
    out.resize(padme(4 + framed.len()), 0);
    out
}

#[test]
fn what_is_inside_must_be_exactly_a_batch() {
    let third = [3; 80];
    let framed = [b"\0\0\0\x05first\0\0\0\0\0\0\0\x50".as_slice(), &third].concat();
    let framed = framed.as_slice();
    let sound = plaintext(framed.len(), framed);
    assert_eq!(open_plaintext(&sound, 3).unwrap(), [b"first".as_slice(), b"", &third]);
    assert_eq!(open_plaintext(&plaintext(0, b""), 0), Ok(vec![]));

    let bad = |plaintext: &[u8], count, what| {
        assert_eq!(open_plaintext(plaintext, count), Err(OpenError::BadBatch), "{what}");
    };
    bad(&sound, 2, "more messages than counted");
    bad(&sound, 4, "fewer messages than counted");
    bad(&sound, 0, "messages in an empty END");
    bad(&sound, MAX_BATCH_MESSAGES, "a count that the bytes cannot hold");
    assert_eq!(sound.len(), 4 + framed.len() + 3, "this length has padding");
    for at in 4 + framed.len()..sound.len() {
        let mut padded = sound.clone();
        padded[at] = 1;
        bad(&padded, 3, "padding that is not zero");
    }
    bad(&sound[..sound.len() - 1], 3, "padding too short");
    bad(&[sound.as_slice(), &[0]].concat(), 3, "padding too long");
    bad(&[sound.as_slice(), &[0; 1000]].concat(), 3, "padding much too long");
    bad(&plaintext(framed.len() - 1, framed), 3, "n too small");
    bad(&plaintext(framed.len() + 1, framed), 3, "n too large by what padding hides");
    bad(&plaintext(u32::MAX as usize, framed), 3, "n larger than all");
    bad(b"", 0, "nothing");
    bad(b"\0\0\0", 0, "no length");
    bad(&plaintext(3, b"\0\0\0"), 1, "a length cut short");
    bad(&plaintext(6, b"\0\0\0\x03ab"), 1, "a message cut short");
    bad(&plaintext(8, b"\xff\xff\xff\xffabcd"), 1, "a length larger than all");
    let huge = [&u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes(), vec![0; MAX_MESSAGE + 1].as_slice()]
        .concat();
    bad(&plaintext(huge.len(), &huge), 1, "a message over the limit");
    // Two sound messages, one byte more than a batch holds; both pad to the same length.
    let two_of = |second: usize| {
        let lp = |len: usize| [&u32::try_from(len).unwrap().to_be_bytes(), vec![0; len].as_slice()].concat();
        [lp(MAX_MESSAGE), lp(second)].concat()
    };
    let largest = MAX_BATCH_PLAINTEXT - message_cost(MAX_MESSAGE) - message_cost(0);
    let (fits, over) = (two_of(largest), two_of(largest + 1));
    assert_eq!((fits.len(), padme(4 + fits.len())), (MAX_BATCH_PLAINTEXT, padme(4 + over.len())));
    assert_eq!(open_plaintext(&plaintext(fits.len(), &fits), 2).map(|opened| opened.len()), Ok(2));
    bad(&plaintext(over.len(), &over), 2, "n over the limit");
}

#[test]
fn a_batch_out_of_place_changes_nothing() {
    let (mut epoch, mut receiver) = pair();
    let records: Vec<_> = (0..3).map(|_| epoch.seal(&[b"message"])).collect();
    let before = receiver.snapshot();
    let refused = receiver.open(&epoch.verify(&records[1]));
    assert_eq!(refused, Err(OpenError::OutOfOrder { expected: BatchNo(0), found: BatchNo(1) }));
    let mut other = Started::fresh(8, Hash::ZERO, &[]);
    let foreign = other.seal(&[b"message"]);
    let refused = receiver.open(&other.verify(&foreign));
    assert_eq!(
        refused,
        Err(OpenError::WrongEpoch { expected: epoch.header.epoch, found: other.header.epoch })
    );
    assert_eq!(receiver.snapshot(), before);
    for record in &records {
        receiver.open(&epoch.verify(record)).unwrap();
    }
    let refused = receiver.open(&epoch.verify(&records[2]));
    assert_eq!(refused, Err(OpenError::OutOfOrder { expected: BatchNo(3), found: BatchNo(2) }));
    assert_ne!(sha256(&receiver.snapshot()), sha256(&before));
}

/// G7: what a member holds after a batch opens nothing before it.
#[test]
fn a_batch_cannot_be_opened_again_with_what_is_left() {
    let (mut epoch, mut receiver) = pair();
    let records: Vec<_> = (0..3).map(|_| epoch.seal(&[b"message"])).collect();
    for record in &records {
        receiver.open(&epoch.verify(record)).unwrap();
    }
    for (number, record) in records.iter().enumerate() {
        let mut rewound = receiver.snapshot();
        rewound[53..61].copy_from_slice(&(number as u64).to_be_bytes());
        let mut rewound = EpochReceiver::restore(&rewound).unwrap();
        assert_eq!(rewound.open(&epoch.verify(record)), Err(OpenError::BadBatch));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_messages_come_back(
        batches in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..40), 1..5,
        ),
    ) {
        let (mut epoch, mut receiver) = pair();
        for messages in batches {
            let messages: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
            let record = epoch.sender.seal(&messages, Seq(3), 1, false).unwrap();
            let n: usize = messages.iter().map(|message| message_cost(message.len())).sum();
            prop_assert_eq!(record.ciphertext().0.len(), padme(4 + n) + 16);
            prop_assert_eq!(receiver.open(&epoch.verify(&record)).unwrap(), messages);
        }
    }

    #[test]
    fn no_plaintext_panics(plaintext in proptest::collection::vec(any::<u8>(), 0..200), count in 1..5_u32) {
        let _ = open_plaintext(&plaintext, count);
    }
}
