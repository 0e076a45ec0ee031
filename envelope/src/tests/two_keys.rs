//! A ciphertext that opens under two keys: made, and shown to be of no use.
//!
//! AES-GCM-SIV does not commit to its key. Its tag is AES over POLYVAL of the plaintext, and POLYVAL is linear: who knows
//! two keys picks a tag, has by it both keystreams and both POLYVAL values, and solves two equations for two blocks of
//! ciphertext (Len, Grubbs and Ristenpart, "Partitioning Oracle Attacks", USENIX Security 2021). A publisher that gave two
//! members different seeds under one header could so show each of them another message under one signature (G6). What
//! stands against it is the commitment in the header.

use aes::Aes256;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sealcast_proto::object::{Batch, EpochHeader};
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::slot::{find_slot, table_hash};
use sealcast_proto::{BatchNo, Hash, Seq, Signed};

use super::{Member, Started, publisher, rng, targets};
use crate::batch;
use crate::derive::{Context, EpochSecrets, Seed};
use crate::padme::padme;
use crate::receiver::{EpochReceiver, SlotError};
use crate::secret::Secret;
use crate::wrap::{SlotMaker, WrapSecret};

/// The plaintext's length, bytes: long, so that many lengths pad to it and the first eight bytes have some play.
const LEN: usize = (1 << 20) + (1 << 15);
/// The larger of the two `n`: no padding. The smaller one's padding is the end of the other's last message.
const N: u32 = LEN as u32 - 4;
/// Where the search for a tag begins: shortly before the first that does, so that the test need not search for a minute.
const FIRST_TAG: u128 = 78_511_700;

/// GF(2^128) as POLYVAL has it (RFC 8452, section 3): bit i is the coefficient of x^i.
mod field {
    const X127: u128 = 1 << 127;
    const MODULUS: u128 = X127 | 1 << 126 | 1 << 121 | 1;
    /// x^-128.
    pub(super) const SHIFT: u128 = X127 | 1 << 124 | 1 << 121 | 1 << 114 | 1;

    pub(super) fn mul(a: u128, b: u128) -> u128 {
        (0..128).rev().fold(0, |sum, bit| {
            let doubled = (sum << 1) ^ if sum & X127 != 0 { MODULUS } else { 0 };
            doubled ^ if b >> bit & 1 == 1 { a } else { 0 }
        })
    }

    pub(super) fn pow(base: u128, mut exponent: u128) -> u128 {
        let (mut base, mut out) = (base, 1);
        while exponent != 0 {
            if exponent & 1 == 1 {
                out = mul(out, base);
            }
            base = mul(base, base);
            exponent >>= 1;
        }
        out
    }

    pub(super) fn inverse(of: u128) -> u128 {
        pow(of, u128::MAX - 1)
    }
}

/// What AES-256-GCM-SIV makes of a key, with the nonce that is always zero (RFC 8452, section 4).
struct Siv {
    /// POLYVAL's key times x^-128: a step of POLYVAL is then one multiplication.
    h: u128,
    aes: Aes256,
}

impl Siv {
    fn new(key: &[u8; 32]) -> Self {
        let aes = Aes256::new(key.into());
        let halves: Vec<u8> = (0..6_u32)
            .flat_map(|counter| {
                let mut block = [0; 16];
                block[..4].copy_from_slice(&counter.to_le_bytes());
                let mut block = block.into();
                aes.encrypt_block(&mut block);
                block[..8].to_vec()
            })
            .collect();
        let h = u128::from_le_bytes(halves[..16].try_into().unwrap());
        let sealing: [u8; 32] = halves[16..].try_into().unwrap();
        Self { h: field::mul(h, field::SHIFT), aes: Aes256::new(&sealing.into()) }
    }

    /// The block of keystream that `tag` gives block `at`.
    fn keystream(&self, tag: u128, at: u32) -> u128 {
        let counter = (tag as u32).wrapping_add(at);
        let block = (tag & !u128::from(u32::MAX)) | u128::from(counter) | 1 << 127;
        let mut block = block.to_le_bytes().into();
        self.aes.encrypt_block(&mut block);
        u128::from_le_bytes(block.into())
    }

    /// What POLYVAL must give for `tag`; `None` if nothing does: its highest bit is always cleared.
    fn polyval_of(&self, tag: u128) -> Option<u128> {
        let mut block = tag.to_le_bytes().into();
        self.aes.decrypt_block(&mut block);
        Some(u128::from_le_bytes(block.into())).filter(|sum| sum >> 127 == 0)
    }

    fn polyval(&self, aad: &Hash, plaintext: impl Iterator<Item = u128>) -> u128 {
        let aad = aad.0.chunks_exact(16).map(|block| u128::from_le_bytes(block.try_into().unwrap()));
        let lengths = u128::from(32 * 8_u64) | u128::from(LEN as u64 * 8) << 64;
        aad.chain(plaintext).chain([lengths]).fold(0, |sum, block| field::mul(sum ^ block, self.h))
    }

    /// What block `at` of the plaintext is multiplied with in [`Siv::polyval`].
    fn weight(&self, at: usize) -> u128 {
        // Itself, the blocks after it, the lengths.
        field::pow(self.h, (LEN / 16 - at + 1) as u128)
    }
}

/// A tag under which both keystreams let both plaintexts begin as batches, and the lengths these begin with: `n` and that
/// of the first message, for each key.
fn tag(sivs: &[Siv; 2]) -> (u128, [[u32; 2]; 2]) {
    for tag in FIRST_TAG.. {
        let differs = sivs[0].keystream(tag, 0) ^ sivs[1].keystream(tag, 0);
        let differs = differs.to_le_bytes();
        let of = |at: usize| u32::from_be_bytes(differs[at..at + 4].try_into().unwrap());
        // `n` within what pads to LEN, and a message within its limit.
        let (n, first) = (N ^ of(0), 0x8_0000 ^ of(4));
        let apart = first.abs_diff(0x8_0000) >= 16 && first >= 64;
        let fits = n <= N && padme(4 + n as usize) == LEN && first < 0xf_0000 && apart;
        if fits && sivs.iter().all(|siv| siv.polyval_of(tag).is_some()) {
            return (tag, [[N, 0x8_0000], [n, first]]);
        }
    }
    unreachable!("one in 2^31 does")
}

/// A ciphertext that opens under both keys with this associated data, each time to two messages.
fn collide(keys: [&[u8; 32]; 2], aad: &Hash) -> Sealed {
    let sivs = keys.map(Siv::new);
    let (tag, lengths) = tag(&sivs);
    let keystreams = sivs.each_ref().map(|siv| {
        (0..LEN as u32 / 16).flat_map(|at| siv.keystream(tag, at).to_le_bytes()).collect::<Vec<u8>>()
    });
    // Anything, where no plaintext wants something of it.
    let mut ciphertext = vec![0x5a; LEN];
    for (keystream, [n, first]) in keystreams.iter().zip(lengths) {
        let mut want = |at: usize, bytes: &[u8]| {
            for (offset, byte) in bytes.iter().enumerate() {
                ciphertext[at + offset] = byte ^ keystream[at + offset];
            }
        };
        let second = n - 8 - first;
        want(0, &n.to_be_bytes());
        want(4, &first.to_be_bytes());
        want(8 + first as usize, &second.to_be_bytes());
        want(4 + n as usize, &vec![0; LEN - 4 - n as usize]);
    }
    // Two blocks within both first messages make both sums come true.
    let free = [1, 2];
    for at in free {
        ciphertext[16 * at..16 * (at + 1)].fill(0);
    }
    let block = |bytes: &[u8], at: usize| u128::from_le_bytes(bytes[16 * at..][..16].try_into().unwrap());
    let missing = [0, 1].map(|key| {
        let plaintext = (0..LEN / 16).map(|at| block(&ciphertext, at) ^ block(&keystreams[key], at));
        sivs[key].polyval(aad, plaintext) ^ sivs[key].polyval_of(tag).unwrap()
    });
    let [[a, b], [c, d]] = sivs.each_ref().map(|siv| free.map(|at| siv.weight(at)));
    let determinant = field::inverse(field::mul(a, d) ^ field::mul(b, c));
    let solved = [
        field::mul(determinant, field::mul(d, missing[0]) ^ field::mul(b, missing[1])),
        field::mul(determinant, field::mul(a, missing[1]) ^ field::mul(c, missing[0])),
    ];
    for (at, solved) in free.into_iter().zip(solved) {
        ciphertext[16 * at..16 * (at + 1)].copy_from_slice(&solved.to_le_bytes());
    }
    ciphertext.extend_from_slice(&tag.to_le_bytes());
    Sealed(ciphertext.into())
}

/// G6: a publisher wraps one seed for one member and another for the other, and signs one batch that opens under the keys
/// of both. The second member refuses the epoch; without the commitment it would have read something else.
#[test]
fn a_ciphertext_that_opens_under_two_keys_is_read_under_one() {
    let members = [Member::with_prekey(1, 77), Member::with_prekey(2, 78)];
    let started = Started::fresh(7, Hash::ZERO, &members);
    // The randomness of that epoch, as its publisher has it.
    let mut script = rng(7);
    let epoch_key = SigningKey::from_bytes(Secret::random(&mut script).as_bytes());
    let ephemeral = WrapSecret::generate(&mut script);
    let seeds = [Seed(Secret::random(&mut script)), Seed(Secret::random(&mut rng(99)))];
    let context = Context::of(&started.header);
    let secrets = seeds.each_ref().map(|seed| EpochSecrets::new(seed, &context));
    assert_eq!((ephemeral.public(), secrets[0].commitment), (started.header.enc, started.header.commitment));

    // Under one signed header, each its own seed.
    let tables = seeds
        .each_ref()
        .map(|seed| SlotMaker::new(&context, &ephemeral, seed, None).table(&targets(&members)).table);
    let table = [&tables[0][..56], &tables[1][56..]].concat();
    let header = EpochHeader { slots_hash: table_hash(&table), ..started.header };
    let hash = Signed::sign(&header, publisher().signing_key()).hash();
    let body = Batch {
        epoch: header.epoch,
        batch_no: BatchNo(0),
        first_seq: Seq(0),
        count: 2,
        time_ms: 1,
        end: false,
        prev_batch_hash: hash,
    };
    let body = sealcast_proto::object::Batch::encode(&body);
    let aad = batch_aad(&hash, &body);
    let keys = secrets.each_ref().map(|secrets| secrets.batch_key.seal_key());
    let ciphertext = collide([&keys[0], &keys[1]], &aad);

    // The attack is what it says: two keys, two different lists of messages, no error.
    let [one, other] = [0, 1].map(|key| batch::open(&ciphertext, 2, &keys[key], &aad).unwrap());
    assert_eq!((one.len(), other.len()), (2, 2));
    assert_ne!(one, other);

    let (record, _) = BatchRecord::sign(body, &aad, ciphertext, &epoch_key);
    let verified = || record.clone().verify(&hash, &header.epoch_vk).unwrap();
    let open = |member: &Member, header: &EpochHeader| {
        let slot = find_slot(&table, member.index).unwrap();
        EpochReceiver::open_slot(header, &hash, &slot, &member.public(), &member.secret)
    };
    let read = |mut receiver: EpochReceiver| -> Vec<Bytes> { receiver.open(&verified()).unwrap() };
    assert_eq!(read(open(&members[0], &header).unwrap()), one);
    assert_eq!(open(&members[1], &header).unwrap_err(), SlotError::BadEpochSeed);

    // It is the commitment, and nothing else, that stands in the way.
    let unbound = EpochHeader { commitment: secrets[1].commitment, ..header.clone() };
    assert_eq!(read(open(&members[1], &unbound).unwrap()), other);
}
