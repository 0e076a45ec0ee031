//! The primitives as this crate uses them, against their RFCs.

use ed25519_dalek::Signer;
use sealcast_proto::Identity;

use super::hex;
use crate::aead::{open_once, seal_once};
use crate::kdf::{expand, extract};
use crate::wrap::WrapSecret;
use crate::wrap_key::WrapKey;

fn array(text: &str) -> [u8; 32] {
    hex(text).try_into().unwrap()
}

/// RFC 5869, appendix A.1 to A.3.
#[test]
fn hkdf() {
    let prk = extract(&hex("000102030405060708090a0b0c"), &[&[0x0b; 22]]);
    assert_eq!(*prk, array("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"));
    let okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
    assert_eq!(expand::<42>(&prk, &[&hex("f0f1f2f3f4f5f6f7f8f9")]).as_slice(), hex(okm));
    assert_eq!(expand::<42>(&prk, &[&hex("f0f1"), b"", &hex("f2f3f4f5f6f7f8f9")]).as_slice(), hex(okm));

    let range = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
    let prk = extract(&range(0x60, 0xaf), &[&range(0, 0x20), &range(0x21, 0x4f)]);
    assert_eq!(*prk, array("06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244"));
    let okm = "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
               da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87";
    assert_eq!(expand::<82>(&prk, &[&range(0xb0, 0xff)]).as_slice(), hex(okm));

    let prk = extract(b"", &[&[0x0b; 22]]);
    assert_eq!(*prk, array("19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04"));
    let okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8";
    assert_eq!(expand::<42>(&prk, &[]).as_slice(), hex(okm));
}

/// RFC 7748, section 5.2 and 6.1.
#[test]
fn x25519() {
    let agree =
        |k: &[u8; 32], u: &[u8; 32]| *WrapSecret::from_bytes(k).agree(u).expect("contributory").as_bytes();
    let vectors = [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ];
    for (k, u, result) in vectors {
        assert_eq!(agree(&array(k), &array(u)), array(result));
    }
    let mut base_point = [0; 32];
    base_point[0] = 9;
    let (mut k, mut u) = (base_point, base_point);
    for round in 1..=1000 {
        (k, u) = (agree(&k, &u), k);
        if round == 1 {
            assert_eq!(k, array("422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"));
        }
    }
    assert_eq!(k, array("684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"));

    let bob =
        WrapSecret::from_bytes(&array("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    assert_eq!(bob.public(), array("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"));
    let alice = array("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    let shared = array("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_eq!(*bob.agree(&alice).unwrap().as_bytes(), shared);
}

/// The points of small order, in all their encodings (RFC 7748, section 6.1): whatever the secret, all zeros come out.
pub(crate) fn small_order_keys() -> Vec<[u8; 32]> {
    let p = |last: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[31]) = (last, 0x7f);
        bytes
    };
    let mut keys = vec![
        [0; 32],
        {
            let mut one = [0; 32];
            one[0] = 1;
            one
        },
        array("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        array("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        p(0xec),
        p(0xed),
        p(0xee),
    ];
    // The highest bit is ignored.
    let with_high_bit: Vec<_> = keys
        .iter()
        .map(|key| {
            let mut key = *key;
            key[31] |= 0x80;
            key
        })
        .collect();
    keys.extend(with_high_bit);
    keys
}

#[test]
fn x25519_refuses_keys_of_small_order() {
    for key in small_order_keys() {
        for secret in 0..20 {
            assert!(WrapSecret::generate(&mut super::rng(secret)).agree(&key).is_none(), "{key:02x?}");
        }
    }
}

/// RFC 8032, section 7.1, tests 1 and 2, and the Montgomery form of an identity (libsodium's `ed25519_convert` test).
#[test]
fn ed25519() {
    let vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
             387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ];
    for (seed, public, message, signature) in vectors {
        let identity = Identity::from_seed(&array(seed));
        assert_eq!(*identity.public().as_bytes(), array(public));
        assert_eq!(identity.signing_key().sign(&hex(message)).to_bytes().as_slice(), hex(signature));
    }
    let seed = array("421151a459faeade3d247115f94aedae42318124095afabe4d1451a559faedee");
    let identity = Identity::from_seed(&seed);
    let montgomery = array("f1814f0e8ff1043d8a44d25babff3cedcae6c22c3edaa48f857ae70de2baae50");
    assert_eq!(WrapKey::of_identity(&identity.public()).to_bytes(), montgomery);
    assert_eq!(WrapSecret::of_identity(&identity).public(), montgomery);
}

/// RFC 8452, appendix C.3: those of its AES-256 vectors that use the nonce zero, as all of this crate does.
#[test]
fn aes_256_gcm_siv() {
    let vectors = [
        (
            "000000000000000000000000000000004db923dc793ee6497c76dcc03a98e108",
            "f3f80f2cf0cb2dd9c5984fcda908456cc537703b5ba70324a6793a7bf218d3eaffffffff000000000000000000000000",
        ),
        (
            "eb3640277c7ffd1303c7a542d02d3e4c0000000000000000",
            "18ce4f0b8cb4d0cac65fea8f79257b20888e53e72299e56dffffffff000000000000000000000000",
        ),
    ];
    for (plaintext, sealed) in vectors {
        let mut buffer = hex(plaintext);
        let tag = seal_once(&[0; 32], b"", &mut buffer).unwrap();
        assert_eq!([buffer.as_slice(), &tag].concat(), hex(sealed));
        open_once(&[0; 32], b"", &mut buffer, &tag).unwrap();
        assert_eq!(buffer, hex(plaintext));
        assert!(open_once(&[0; 32], b"aad", &mut buffer, &tag).is_err());
    }
}
