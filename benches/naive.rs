//! Wrapping as one would write it first: what ours is measured against, in the same run.

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce};
use hkdf::Hkdf;
use rand::Rng;
use rand::rngs::StdRng;
use sealcast_envelope::WrapTarget;
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};

/// A Diffie–Hellman by x25519-dalek's ladder, HKDF-SHA256 and AES-256-GCM-SIV a member, on this thread.
pub(crate) fn wrap(targets: &[WrapTarget], ephemeral_each: bool, rng: &mut StdRng) -> Vec<u8> {
    let (mut seed, mut table) = ([0; 32], Vec::new());
    rng.fill_bytes(&mut seed);
    let mut ephemeral = StaticSecret::random_from_rng(rng);
    let mut enc = PublicKey::from(&ephemeral);
    for target in targets {
        if ephemeral_each {
            ephemeral = StaticSecret::random_from_rng(rng);
            enc = PublicKey::from(&ephemeral);
        }
        let x25519 = target.x25519.to_bytes();
        let shared = ephemeral.diffie_hellman(&PublicKey::from(x25519));
        let mut key = [0; 32];
        let info = [enc.to_bytes(), x25519, *target.identity.as_bytes()].concat();
        Hkdf::<Sha256>::new(None, shared.as_bytes()).expand(&info, &mut key).expect("32 bytes");
        let mut sealed = seed;
        let cipher = Aes256GcmSiv::new(&Array::from(key));
        let tag = cipher.encrypt_inout_detached(&Nonce::default(), &info, sealed.as_mut_slice().into());
        table.extend_from_slice(enc.as_bytes());
        table.extend_from_slice(&sealed);
        table.extend_from_slice(&tag.expect("32 bytes"));
    }
    table
}
