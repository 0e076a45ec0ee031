//! Keys and signatures at the edges of their groups, and one key as two members.

use sealcast::{PublicKey, Role};
use sealcast_envelope::{EpochPlan, WrapKey, WrapTarget, fresh};
use sealcast_proto::object::Prekey;
use sealcast_proto::roster::{Op, decode_ops, encode_ops};
use sealcast_proto::{Epoch, Hash, MemberIndex, RosterSeq, Signed, SlotSource, TopicId};

use super::world::{OWNER, World, identity, key};

/// 2^255 − 19, little-endian, plus `n`.
fn p_plus(n: u8) -> [u8; 32] {
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xed + n, 0x7f);
    bytes
}

/// Every X25519 point of small order, canonical or not: skipped, and everybody else has a slot.
#[test]
fn x25519_points_of_small_order_get_no_slot() {
    let hex = |text: &str| -> [u8; 32] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    };
    let order_8 = [
        hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    ];
    let mut one = [0; 32];
    one[0] = 1;
    let mut minus_one = p_plus(0);
    minus_one[0] -= 1;
    let small = [[0; 32], one, minus_one, p_plus(0), p_plus(1), order_8[0], order_8[1]];
    // The same with the highest bit, which X25519 ignores.
    let high = small.map(|mut point| {
        point[31] |= 0x80;
        point
    });
    let owner = key(OWNER);
    let plan = EpochPlan {
        topic: TopicId([1; 32]),
        publisher: owner,
        epoch: Epoch(1),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(1),
        roster_hash: Hash([2; 32]),
    };
    let target = |n: usize, x25519| WrapTarget {
        member: MemberIndex(n as u32),
        identity: owner,
        source: SlotSource::Prekey(7),
        x25519,
    };
    let mut targets: Vec<_> =
        small.iter().chain(&high).enumerate().map(|(n, point)| target(n, WrapKey::from(*point))).collect();
    targets.push(target(targets.len(), WrapKey::of_identity(&owner)));
    let epoch = fresh(&plan, &targets, &mut rand::rng()).unwrap();
    assert_eq!(epoch.skipped().len(), targets.len() - 1);
    assert_eq!(epoch.slot_count(), 1);
}

/// Ed25519 keys of small order, and names for a key that are not its one encoding, are no members.
#[test]
fn degenerate_identities_are_refused() {
    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    let mut minus_one = p_plus(0);
    minus_one[0] -= 1;
    let mut signed_zero = [0; 32];
    signed_zero[31] = 0x80;
    let mut negative_one = identity_point;
    negative_one[31] = 0x80;
    let mut high = p_plus(1);
    high[31] |= 0x80;
    let genuine = key(9);
    let ops = encode_ops(&[Op::Add { identity: genuine, role: Role::Reader }]);
    let at = ops.windows(32).position(|window| window == genuine.as_bytes()).unwrap();
    assert!(decode_ops(&ops).is_ok());
    for bad in [
        [0; 32],
        identity_point,
        minus_one,
        signed_zero,
        negative_one,
        p_plus(0),
        p_plus(1),
        high,
        [0xff; 32],
    ] {
        assert!(PublicKey::from_bytes(&bad).is_err(), "{bad:?}");
        let mut bent = ops.to_vec();
        bent[at..at + 32].copy_from_slice(&bad);
        assert!(decode_ops(&bent).is_err());
    }
}

/// A signature has one form: adding the group's order to its scalar, or any bit, gives none.
#[test]
fn a_signature_cannot_be_written_in_two_ways() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let me = identity(2);
    let genuine =
        Prekey { owner: me.public(), prekey_id: 5, x25519: [9; 32], not_before_ms: 5000, not_after_ms: 6000 };
    let genuine = Signed::sign(&genuine, me.signing_key());
    assert!(genuine.verify_own().is_ok());
    let mut signature = *genuine.signature();
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0);
    let other = Signed::<Prekey>::from_parts(genuine.body().clone(), &signature).unwrap();
    assert!(other.verify_own().is_err());
}

/// One key cannot be two members.
#[test]
fn one_key_is_one_member() {
    let world = World::new(&[2]);
    let add = |n| Op::Add { identity: key(n), role: Role::Reader };
    for ops in [vec![add(2)], vec![add(OWNER)], vec![add(7), add(7)]] {
        assert!(world.roster.sign(&ops, &identity(OWNER), world.now).is_err());
    }
}
