//! Strict verification, shown by a signature that the loose rules of RFC 8032's cofactorless check let pass.

use curve25519_dalek::Scalar;
use ed25519_dalek::{Signature, Verifier as _};
use sealcast_proto::Identity;
use sealcast_proto::hash::{SignLabel, lp_prefix, sign, verify};
use sha2::{Digest as _, Sha512};

/// `Sign(sk, "beacon", body)` with a nonce of zero: its commitment is the neutral element, of order one. Only the key's
/// holder can make it; but two devices that made "the same" signature would differ, and batch verifiers disagree on it.
fn with_neutral_commitment(identity: &Identity, body: &[u8]) -> ([u8; 64], Vec<u8>) {
    let label = b"beacon";
    let input = [b"sealcast/1 sign", &lp_prefix(label)[..], label, &lp_prefix(body), body].concat();
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let sha = Sha512::new().chain_update(neutral).chain_update(identity.public().as_bytes());
    let wide: [u8; 64] = sha.chain_update(&input).finalize().into();
    let s = Scalar::from_bytes_mod_order_wide(&wide) * identity.signing_key().to_scalar();
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&neutral);
    signature[32..].copy_from_slice(s.as_bytes());
    (signature, input)
}

#[test]
fn a_commitment_of_small_order_is_refused() {
    let identity = Identity::from_seed(&[7; 32]);
    let key = identity.public();
    let honest = sign(identity.signing_key(), SignLabel::Beacon, b"body");
    assert!(verify(&key, SignLabel::Beacon, b"body", &honest));

    let (signature, input) = with_neutral_commitment(&identity, b"body");
    let loose = identity.signing_key().verifying_key().verify(&input, &Signature::from_bytes(&signature));
    assert!(loose.is_ok(), "the loose rules take it: else this shows nothing");
    assert!(!verify(&key, SignLabel::Beacon, b"body", &signature));
}
