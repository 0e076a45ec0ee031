//! Every signed object, and the small encodings inside them.
//!
//! ```text
//! input = kind u8 ‖ signature 64 ‖ body
//! ```
//! What must hold: what decodes is encoded again and read as the same; signed with the right key it verifies, with any
//! other key, as any other kind, or with one bit of body or signature changed it does not; no signature that the fuzzer
//! makes up holds.

use bytes::Bytes;
use sealcast_proto::object::{Batch, Beacon, EpochHeader, Genesis, Object, Prekey, RosterEntry, RosterHead};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::BatchDigest;
use sealcast_proto::roster::{EntryBundle, Op, decode_ops, encode_ops};
use sealcast_proto::slot::Slot;
use sealcast_proto::{Identity, PublicKey, Signed};

use crate::{Reached, Target, valid};

/// See the module's page.
pub const TARGET: Target = Target { name: "objects", run, stages: STAGES, heap: (64 << 10, 128), seeds };

const STAGES: &[&str] = &[
    "genesis",
    "roster entry",
    "roster head",
    "prekey",
    "epoch header",
    "beacon",
    "batch",
    "ops",
    "policy",
    "bundle",
    "slot",
    "public key",
    "end",
];

fn run(input: &[u8], reached: &mut Reached) {
    let Some((kind, rest)) = input.split_first() else { return };
    let Some((signature, body)) = rest.split_first_chunk::<64>() else { return };
    match kind % 12 {
        0 => signed::<Genesis>("genesis", signature, body, reached),
        1 => signed::<RosterEntry>("roster entry", signature, body, reached),
        2 => signed::<RosterHead>("roster head", signature, body, reached),
        3 => signed::<Prekey>("prekey", signature, body, reached),
        4 => signed::<EpochHeader>("epoch header", signature, body, reached),
        5 => signed::<Beacon>("beacon", signature, body, reached),
        6 => batch(body, reached),
        7 => ops(body, reached),
        8 => policy(body, reached),
        9 => bundle(body, reached),
        10 => slot(body, reached),
        _ => public_key(body, reached),
    }
}

fn signed<T: Object + PartialEq + std::fmt::Debug>(
    stage: &'static str,
    signature: &[u8; 64],
    body: &[u8],
    reached: &mut Reached,
) {
    let (right, wrong) = (valid::identity(91), valid::identity(92));
    let bytes = Bytes::copy_from_slice(body);
    if let Ok(foreign) = Signed::<T>::from_parts(bytes, signature) {
        assert!(foreign.verify(&right.public()).is_err(), "a signature out of nothing");
        assert_eq!(foreign.peek().is_ok(), T::decode(body).is_ok());
    }
    let Some(object) = reached.ok(stage, T::decode(body)) else { return };
    assert_eq!(T::decode(&object.encode()).as_ref(), Ok(&object));

    let made = Signed::sign(&object, right.signing_key());
    assert_eq!(made.verify(&right.public()).as_ref(), Ok(&object));
    assert!(made.verify(&wrong.public()).is_err());
    assert!(made == Signed::from_parts(made.body().clone(), made.signature()).expect("its own parts"));
    other_kinds(&made, &right.public());
    let at = usize::from(signature[0]);
    changed(&made, at, &right);
}

/// One label is never accepted for another.
fn other_kinds<T: Object>(made: &Signed<T>, key: &PublicKey) {
    fn refused<T: Object, U: Object>(made: &Signed<T>, key: &PublicKey) {
        if let Ok(other) = Signed::<U>::from_parts(made.body().clone(), made.signature()) {
            assert_eq!(other.verify(key).is_ok(), T::LABEL == U::LABEL);
        }
    }
    // Two of the six: a signature is costly, and every kind has its turn as `T`.
    refused::<T, RosterEntry>(made, key);
    refused::<T, Prekey>(made, key);
}

/// With one bit changed it does not verify.
fn changed<T: Object>(made: &Signed<T>, at: usize, right: &Identity) {
    let mut body = made.body().to_vec();
    let len = body.len();
    if let Some(byte) = body.get_mut(at % len.max(1)) {
        *byte ^= 1 << (at % 8);
        let other = Signed::<T>::from_parts(body.into(), made.signature()).expect("as long as before");
        assert!(other.verify(&right.public()).is_err());
    }
    let mut signature = *made.signature();
    signature[at % 64] ^= 1 << (at % 8);
    let other = Signed::<T>::from_parts(made.body().clone(), &signature).expect("as long as before");
    assert!(other.verify(&right.public()).is_err());
}

fn batch(body: &[u8], reached: &mut Reached) {
    let Some(batch) = reached.ok("batch", Batch::decode(body)) else { return };
    assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(&batch));
    assert!(batch.end_seq() >= batch.first_seq);
    assert!(batch.count > 0 || batch.end);
    if batch.end {
        reached.mark("end");
    }
    let digest = [&[0; 96], body].concat();
    if let Some(digest) = BatchDigest::decode(&digest.into()) {
        assert_eq!(digest.peek().as_ref(), Ok(&batch));
        assert!(digest.verify(&valid::header().hash(), &valid::epoch_vk()).is_err());
    }
}

fn ops(body: &[u8], reached: &mut Reached) {
    let Some(ops) = reached.ok("ops", decode_ops(body)) else { return };
    assert_eq!(decode_ops(&encode_ops(&ops)).as_ref(), Ok(&ops));
    for op in ops {
        if let Op::SetPolicy(policy) = op {
            assert_eq!(policy.policy().check(), Ok(()));
        }
    }
}

fn policy(body: &[u8], reached: &mut Reached) {
    let Some(policy) = reached.ok("policy", Policy::decode(body)) else { return };
    assert_eq!(Policy::decode(&policy.encode()), Ok(policy));
}

fn bundle(body: &[u8], reached: &mut Reached) {
    let decoded = EntryBundle::decode(Bytes::copy_from_slice(body));
    let Some(bundle) = reached.ok("bundle", decoded) else { return };
    assert_eq!(EntryBundle::decode(bundle.encode()), Ok(bundle));
}

fn slot(body: &[u8], reached: &mut Reached) {
    assert_eq!(Slot::decode(body).is_some(), body.len() == 56);
    let Some(slot) = Slot::decode(body) else { return };
    reached.mark("slot");
    assert_eq!(slot.encode(), body);
}

fn public_key(body: &[u8], reached: &mut Reached) {
    let Some(key) = reached.ok("public key", PublicKey::from_bytes(body)) else { return };
    // One name for one member.
    assert_eq!(key.as_bytes(), body);
    assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |kind: u8, signature: &[u8; 64], body: &[u8]| {
        seeds.push([&[kind], signature.as_slice(), body].concat());
    };
    let (genesis, bundle, header) = (valid::genesis().1, valid::bundle(), valid::header());
    add(0, genesis.signature(), genesis.body());
    add(1, bundle.entry.signature(), bundle.entry.body());
    add(2, valid::head().signature(), valid::head().body());
    add(3, valid::prekey().signature(), valid::prekey().body());
    add(4, header.signature(), header.body());
    add(5, valid::beacon().signature(), valid::beacon().body());
    let batch = valid::batch().peek().expect("a valid batch");
    add(6, &[0; 64], &batch.encode());
    add(6, &[0; 64], &Batch { count: 0, end: true, ..batch }.encode());
    add(7, &[0; 64], &bundle.ops);
    add(8, &[0; 64], bundle.policy.as_deref().unwrap_or_default());
    add(9, &[0; 64], &bundle.encode());
    add(10, &[0; 64], valid::table().get(..56).unwrap_or_default());
    add(11, &[0; 64], valid::identity(1).public().as_bytes());
    seeds
}
