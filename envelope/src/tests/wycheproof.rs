//! Project Wycheproof's vectors against the primitives, through the functions that the protocol uses.
//!
//! Where those are narrower than the primitive, the vectors go the nearest way: an AEAD call here takes no nonce, so all
//! vectors go through the cipher type it wraps, and those whose nonce is zero through the call itself; signatures have a
//! label in front of what is signed, so the vectors go through `PublicKey` and the `verify_strict` that `verify` calls.

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv, KeyInit, Nonce};
use ed25519_dalek::{Signature, VerifyingKey};
use sealcast_proto::PublicKey;
use wycheproof::{TestResult, aead, eddsa, hkdf, xdh};
use x25519_dalek::StaticSecret;

use crate::aead::{open_once, seal_once};
use crate::agree::{agree, agree_all};
use crate::kdf;

/// Every vector is `Valid` or `Acceptable` (RFC 7748 takes any 32 bytes). Stricter here: a result of zeros is refused,
/// which no `Valid` vector has.
#[test]
fn x25519() {
    let set = xdh::TestSet::load(xdh::TestName::X25519).unwrap();
    let (mut agreed, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let secret = StaticSecret::from(<[u8; 32]>::try_from(test.private_key.as_ref()).unwrap());
        let public: [u8; 32] = test.public_key.as_ref().try_into().unwrap();
        let one = agree(&secret, &public).map(|shared| *shared.as_bytes());
        let many = agree_all(&secret, [&public.into(); 3].into_iter());
        for shared in many {
            assert_eq!(shared.map(|shared| *shared.as_bytes()), one, "test {}", test.tc_id);
        }
        let zeros = test.shared_secret.iter().all(|byte| *byte == 0);
        if zeros {
            assert_eq!((one, test.result), (None, TestResult::Acceptable), "test {}", test.tc_id);
            refused += 1;
        } else {
            assert_eq!(
                one.as_ref().map(|shared| &shared[..]),
                Some(test.shared_secret.as_ref()),
                "test {}",
                test.tc_id
            );
            agreed += 1;
        }
    }
    assert_eq!(agreed + refused, set.number_of_tests);
    assert!(agreed > 400 && refused > 20, "{agreed} agreed, {refused} refused");
}

/// No vector is `Acceptable`: what is valid is accepted, keys included; all else is refused.
#[test]
fn ed25519() {
    let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in &set.test_groups {
        let key = PublicKey::from_bytes(&group.key.pk).ok();
        let key = key.and_then(|key| VerifyingKey::from_bytes(key.as_bytes()).ok());
        for test in &group.tests {
            let signature = Signature::from_slice(&test.sig).ok();
            let holds = key
                .as_ref()
                .zip(signature)
                .is_some_and(|(key, it)| key.verify_strict(&test.msg, &it).is_ok());
            match test.result {
                TestResult::Valid => valid += 1,
                TestResult::Invalid => invalid += 1,
                TestResult::Acceptable => panic!("test {}: none was", test.tc_id),
            }
            assert_eq!(holds, test.result == TestResult::Valid, "test {}", test.tc_id);
        }
    }
    assert_eq!(valid + invalid, set.number_of_tests);
    assert!(valid > 50 && invalid > 50, "{valid} valid, {invalid} invalid");
}

/// Groups of 256-bit keys; nonces of another size than 96 bits cannot be handed to the type.
#[test]
fn aes_256_gcm_siv() {
    let set = aead::TestSet::load(aead::TestName::AesGcmSiv).unwrap();
    let groups = set.test_groups.iter().filter(|group| (group.key_size, group.nonce_size) == (256, 96));
    let (mut valid, mut invalid, mut at_zero) = (0, 0, 0);
    for test in groups.flat_map(|group| &group.tests) {
        let key: &[u8; 32] = test.key.as_ref().try_into().unwrap();
        let nonce = <[u8; 12]>::try_from(test.nonce.as_ref()).unwrap();
        let tag: &[u8; 16] = test.tag.as_ref().try_into().unwrap();
        let (cipher, nonce) = (Aes256GcmSiv::new(<&Array<_, _>>::from(key)), Nonce::from(nonce));

        let mut opened = test.ct.to_vec();
        let opens = cipher
            .decrypt_inout_detached(&nonce, &test.aad, opened.as_mut_slice().into(), tag.into())
            .is_ok();
        let mut sealed = test.pt.to_vec();
        let made: [u8; 16] =
            cipher.encrypt_inout_detached(&nonce, &test.aad, sealed.as_mut_slice().into()).unwrap().into();
        if nonce == Nonce::default() {
            at_zero += 1;
            let mut through = test.ct.to_vec();
            assert_eq!(open_once(key, &test.aad, &mut through, tag).is_ok(), opens, "test {}", test.tc_id);
            assert_eq!(through, opened);
            let mut through = test.pt.to_vec();
            assert_eq!(seal_once(key, &test.aad, &mut through).unwrap(), made);
            assert_eq!(through, sealed);
        }
        if test.result == TestResult::Invalid {
            assert!(!opens, "test {}", test.tc_id);
            assert_eq!(opened, test.ct.to_vec(), "a refused ciphertext was left decrypted");
            invalid += 1;
        } else {
            assert!(opens, "test {}", test.tc_id);
            assert_eq!(
                (opened, sealed, &made),
                (test.pt.to_vec(), test.ct.to_vec(), tag),
                "test {}",
                test.tc_id
            );
            valid += 1;
        }
    }
    assert!(
        valid > 50 && invalid > 20 && at_zero > 0,
        "{valid} valid, {invalid} invalid, {at_zero} at nonce zero"
    );
}

/// Lengths are constants here, and a shorter output is a longer one's beginning: so all are made at the longest.
/// Lengths beyond RFC 5869's do not compile.
#[test]
fn hkdf_sha256() {
    const LONGEST: usize = 255 * 32;
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let (mut made, mut too_long) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        if test.result == TestResult::Invalid {
            assert!(test.size > LONGEST, "test {}", test.tc_id);
            too_long += 1;
            continue;
        }
        let (ikm, info) = (&test.ikm[..], &test.info[..]);
        let (left, right) = ikm.split_at(ikm.len() / 2);
        let prk = kdf::extract(&test.salt, &[left, right]);
        let (left, right) = info.split_at(info.len() / 2);
        let okm = kdf::expand::<LONGEST>(&prk, &[left, right]);
        assert_eq!(&okm[..test.size], test.okm.as_ref(), "test {}", test.tc_id);
        made += 1;
    }
    assert_eq!(made + too_long, set.number_of_tests);
    assert!(made > 50, "{made} made, {too_long} too long");
}
