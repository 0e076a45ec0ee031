//! Objects that are not what they say: each refused by its own check.

use bytes::Bytes;
use sealcast_proto::hash::{SignLabel, sign};
use sealcast_proto::object::{Genesis, ObjectError, Prekey, SUITE};
use sealcast_proto::{Identity, Signed, TopicId, limits};

fn id(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn genesis() -> Genesis {
    Genesis { suite: SUITE, name: "t".into(), owner: id(1).public(), nonce: [0; 32] }
}

#[test]
fn a_genesis_is_signed_by_the_owner_it_names_and_hashes_to_its_topic() {
    let signed = Signed::sign(&genesis(), id(1).signing_key());
    let topic = signed.topic_id();
    assert!(signed.verify_topic(&topic).is_ok());
    let by_another = Signed::sign(&genesis(), id(2).signing_key());
    assert_eq!(by_another.topic_id(), topic, "the id says nothing of the signature");
    assert!(matches!(by_another.verify_topic(&topic), Err(ObjectError::Signature(_))));
    assert!(matches!(signed.verify_topic(&TopicId([1; 32])), Err(ObjectError::Malformed { .. })));
}

#[test]
fn another_suite_is_not_read() {
    let body = Signed::sign(&genesis(), id(1).signing_key()).body().to_vec();
    assert_eq!(body[..2], [8, 1], "the suite is the first field");
    for suite in [0, 2, 3] {
        let body = [&[8, suite], &body[2..]].concat();
        let signature = sign(id(1).signing_key(), SignLabel::Genesis, &body);
        let signed = Signed::<Genesis>::from_parts(body.into(), &signature).unwrap();
        assert!(signed.verify_topic(&signed.topic_id()).is_err(), "suite {suite}");
    }
}

fn prekey() -> Prekey {
    let not_before_ms = 1_800_000_000_123;
    let (x25519, not_after_ms) = ([9; 32], not_before_ms + 1000);
    Prekey { owner: id(1).public(), prekey_id: 1_800_000_000, x25519, not_before_ms, not_after_ms }
}

#[test]
fn a_prekey_is_its_owners_and_numbered_by_its_first_second() {
    let signed = |prekey: &Prekey, signer: u8| Signed::sign(prekey, id(signer).signing_key());
    assert!(signed(&prekey(), 1).verify_own().is_ok());
    assert!(matches!(signed(&prekey(), 2).verify_own(), Err(ObjectError::Signature(_))));
    for prekey_id in [0, 1_800_000_001, u32::MAX] {
        assert!(signed(&Prekey { prekey_id, ..prekey() }, 1).verify_own().is_err(), "{prekey_id}");
    }
}

#[test]
fn a_prekey_has_its_time() {
    let prekey = prekey();
    let (from, to) = (prekey.not_before_ms, prekey.not_after_ms);
    let valid = |now| prekey.is_valid_at(now);
    assert!(valid(from - limits::MAX_PREKEY_AHEAD_MS) && valid(from) && valid(to - 1));
    assert!(!valid(from - limits::MAX_PREKEY_AHEAD_MS - 1) && !valid(to));
}

#[test]
fn a_signed_body_has_a_limit() {
    let of = |len| Signed::<Genesis>::from_parts(Bytes::from(vec![0; len]), &[0; 64]);
    assert!(of(limits::MAX_SIGNED_BODY).is_ok());
    assert!(of(limits::MAX_SIGNED_BODY + 1).is_err());
}
