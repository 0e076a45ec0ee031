//! Sealing and signing full batches, beside what no sealing can do without: the AEAD and the hash over the same bytes.

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::aes::Aes256Enc;
use aes_gcm_siv::{AeadInOut, AesGcmSiv, KeyInit, Nonce};
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, Message, fresh};
use sealcast_proto::{Identity, Seq};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{ROUNDS, median, members, timed};

/// Messages of a batch: of 1 KiB the most that are within a batch's limit.
const MESSAGES: usize = 1024;
/// Batches a round.
const BATCHES: usize = 100;

pub fn run(size: usize) -> Value {
    let rng = &mut StdRng::seed_from_u64(1);
    let (plan, targets) = members::topic(1, rng);
    let publisher = Identity::generate(rng);
    let plan = EpochPlan { publisher: publisher.public(), ..plan };
    let message = Message::new(vec![7; size]).encode().expect("small");
    let messages: Vec<Bytes> = vec![message; MESSAGES];
    let bytes = MESSAGES * size;
    let mut buffer = vec![7; bytes];
    let (mut bare_s, mut seal_s) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (_, mut sender, _) =
            fresh(&plan, &targets, rng).expect("a sound plan").finish(None, 1, &publisher);
        bare_s.push(timed(|| (0..BATCHES).for_each(|batch| bare(batch as u8, &mut buffer))).0);
        let seal =
            |_| drop(std::hint::black_box(sender.seal(&messages, Seq(0), 1, false).expect("within limits")));
        seal_s.push(timed(|| (0..BATCHES).for_each(seal)).0);
    }
    let per_s = |times| (bytes * BATCHES) as f64 / median(times);
    let (bare, seal) = (per_s(bare_s), per_s(seal_s));
    json!({ "size": size, "messages": MESSAGES, "bare_bytes_per_s": bare, "seal_bytes_per_s": seal, "ratio": seal / bare })
}

/// A key of its own for every batch, as sealing has it.
fn bare(key: u8, buffer: &mut [u8]) {
    let cipher = AesGcmSiv::<Aes256Enc>::new(<&Array<_, _>>::from(&[key; 32]));
    let tag =
        cipher.encrypt_inout_detached(&Nonce::default(), &[], (&mut *buffer).into()).expect("not too long");
    std::hint::black_box((tag, Sha256::digest(buffer)));
}
