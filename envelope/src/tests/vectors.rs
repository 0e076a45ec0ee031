//! Known answers: RFC 9180's, and a whole epoch's from an implementation that shares no code with this one.

use std::collections::VecDeque;
use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};
use sealcast_proto::object::{EpochHeader, Mode};
use sealcast_proto::record::{Sealed, batch_aad, batch_hash};
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, PublicKey, RosterSeq, SlotSource, TopicId};
use serde_json::Value;

use crate::batch;
use crate::derive::{AdvanceSecret, Context, EpochSecrets, Seed};
use crate::epoch::{EpochPlan, fresh};
use crate::receiver::EpochReceiver;
use crate::secret::Secret;
use crate::wrap::{SlotMaker, Slots, WrapSecret, WrapTarget};
use crate::wrap_key::WrapKey;
use bytes::Bytes;

/// Hexadecimal to bytes.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A JSON object with hexadecimal fields.
pub(crate) struct Vector(Value);

impl Vector {
    /// RFC 9180, appendix A.7, base setup.
    pub(crate) fn rfc_9180() -> Self {
        let text = include_str!("../../../tests/vectors/rfc9180-x25519-export-only-base.json");
        Self(serde_json::from_str(text).unwrap())
    }

    fn epochs() -> Vec<Self> {
        let text = include_str!("../../../tests/vectors/epoch.json");
        let file: Value = serde_json::from_str(text).unwrap();
        file["epochs"].as_array().unwrap().iter().cloned().map(Self).collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        hex(self.0[name].as_str().unwrap())
    }

    pub(crate) fn array(&self, name: &str) -> [u8; 32] {
        self.bytes(name).try_into().unwrap()
    }

    pub(crate) fn secret(&self, name: &str) -> WrapSecret {
        WrapSecret::from_bytes(&self.array(name))
    }

    fn number(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap()
    }

    fn list(&self, name: &str) -> Vec<Self> {
        self.0[name].as_array().unwrap().iter().cloned().map(Self).collect()
    }

    /// `(exporter_context, value)` pairs of 32 bytes.
    pub(crate) fn exports(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let exports = self.list("exports");
        exports.iter().map(|export| (export.bytes("exporter_context"), export.bytes("value"))).collect()
    }

    fn header(&self) -> EpochHeader {
        EpochHeader {
            topic: TopicId(self.array("topic")),
            publisher: PublicKey::from_bytes(&self.bytes("publisher")).unwrap(),
            epoch: Epoch(self.number("epoch")),
            prev_header_hash: Hash(self.array("prev_header_hash")),
            prev_close: None,
            roster_seq: RosterSeq(self.number("roster_seq")),
            roster_hash: Hash(self.array("roster_hash")),
            mode: if self.number("mode") == 1 { Mode::Fresh } else { Mode::Advance },
            kek_gen: 0,
            enc: self.array("enc"),
            commitment: self.array("commitment"),
            epoch_vk: PublicKey::from_bytes(&self.bytes("publisher")).unwrap(),
            slot_count: u32::try_from(self.list("members").len()).unwrap(),
            slots_hash: Hash(self.array("slots_hash")),
            time_ms: 0,
        }
    }

    fn targets(&self) -> Vec<WrapTarget> {
        let target = |member: &Self| WrapTarget {
            member: MemberIndex(u32::try_from(member.number("member")).unwrap()),
            identity: PublicKey::from_bytes(&member.bytes("identity")).unwrap(),
            source: SlotSource::from_u32(u32::try_from(member.number("source")).unwrap()),
            x25519: member.array("public").into(),
        };
        self.list("members").iter().map(target).collect()
    }
}

#[test]
fn an_epochs_tree_is_the_documents() {
    for vector in Vector::epochs() {
        let context = Context::of(&vector.header());
        // The context has no accessor; a slot's associated data begins with it.
        assert_eq!(&context.slot_aad(MemberIndex(0), SlotSource::Static)[..32], vector.bytes("ctx"));
        let seed = Seed(Secret::copy_from(&vector.array("seed")));
        let EpochSecrets { commitment, batch_key, advance } = EpochSecrets::new(&seed, &context);
        assert_eq!(commitment, vector.array("commitment"));
        assert_eq!(*batch_key.0.as_bytes(), vector.array("batch_key_0"));
        assert_eq!(*batch_key.next().0.as_bytes(), vector.array("batch_key_1"));
        assert_eq!(*advance.0.as_bytes(), vector.array("advance_secret"));
    }
}

#[test]
fn an_advances_seed_is_the_documents() {
    let epochs = Vector::epochs();
    assert_eq!(epochs.len(), 3);
    for pair in epochs.windows(2) {
        let advance = AdvanceSecret(Secret::copy_from(&pair[0].array("advance_secret")));
        let seed = advance.seed(&Context::of(&pair[1].header()));
        assert_eq!(*seed.0.as_bytes(), pair[1].array("seed"));
    }
}

#[test]
fn a_table_is_the_documents() {
    for vector in Vector::epochs() {
        let (context, ephemeral) = (Context::of(&vector.header()), vector.secret("enc_secret"));
        let seed = Seed(Secret::copy_from(&vector.array("seed")));
        let Slots { table, skipped, .. } =
            SlotMaker::new(&context, &ephemeral, &seed, None).table(&vector.targets());
        assert_eq!(table, vector.bytes("table"));
        assert!(skipped.is_empty());
        assert_eq!(*sealcast_proto::slot::table_hash(&table).as_bytes(), vector.array("slots_hash"));
    }
}

#[test]
fn a_member_opens_the_documents_slot_and_the_advances_after_it() {
    let epochs = Vector::epochs();
    let hashes: Vec<Hash> =
        epochs.iter().map(|epoch| Hash(epoch.list("batches")[0].array("header_hash"))).collect();
    for (first, vector) in epochs.iter().enumerate() {
        for (slot, member) in vector.bytes("table").chunks(56).zip(vector.list("members")) {
            let (slot, header) = (sealcast_proto::slot::Slot::decode(slot).unwrap(), vector.header());
            let me = PublicKey::from_bytes(&member.bytes("identity")).unwrap();
            let secret = member.secret("secret");
            let mut receiver =
                EpochReceiver::open_slot(&header, &hashes[first], &slot, &me, &secret).unwrap();
            for next in first + 1..epochs.len() {
                receiver = receiver.advance(&epochs[next].header(), &hashes[next]).unwrap();
            }
            let last = &epochs[2];
            assert_eq!(receiver.snapshot()[61..93], last.bytes("batch_key_0"));
            assert_eq!(receiver.snapshot()[93..125], last.bytes("advance_secret"));
        }
    }
}

#[test]
fn static_wrap_keys_are_the_documents() {
    for vector in Vector::epochs() {
        for member in vector.list("members").iter().filter(|member| member.number("source") == 0) {
            let identity = Identity::from_seed(&member.array("seed"));
            assert_eq!(*identity.public().as_bytes(), member.array("identity"));
            assert_eq!(WrapKey::of_identity(&identity.public()).to_bytes(), member.array("public"));
            assert_eq!(WrapSecret::of_identity(&identity).public(), member.array("public"));
        }
    }
}

#[test]
fn batches_are_the_documents() {
    for vector in Vector::epochs() {
        for (name, batch) in ["batch_key_0", "batch_key_1"].iter().zip(vector.list("batches")) {
            let key = crate::derive::BatchKey(Secret::copy_from(&vector.array(name))).seal_key();
            let aad = batch_aad(&Hash(batch.array("header_hash")), &batch.bytes("body"));
            assert_eq!(*aad.as_bytes(), batch.array("aad"));
            let messages = batch.0["messages"].as_array().unwrap().iter();
            let messages: Vec<Bytes> =
                messages.map(|message| hex(message.as_str().unwrap()).into()).collect();
            let (count, n) = batch::measure(&messages, true).unwrap();
            let sealed = batch::seal(&messages, n, &key, &aad).unwrap();
            assert_eq!(sealed, Sealed(batch.bytes("ct").into()));
            let ct_hash = sealcast_proto::hash::sha256(&sealed.0);
            assert_eq!(*batch_hash(&aad, &ct_hash).as_bytes(), batch.array("hash"));
            assert_eq!(batch::open(&sealed, count, &key, &aad), Ok(messages));
        }
    }
}

/// The whole of `fresh`, with the vector's random values handed to it in the order it asks for them.
#[test]
fn a_fresh_epoch_is_the_documents() {
    let vector = &Vector::epochs()[0];
    let header = vector.header();
    let plan = EpochPlan {
        topic: header.topic,
        publisher: header.publisher,
        epoch: header.epoch,
        prev_header_hash: header.prev_header_hash,
        roster_seq: header.roster_seq,
        roster_hash: header.roster_hash,
    };
    let epoch_key = [5; 32];
    let mut rng = Script([epoch_key, vector.array("enc_secret"), vector.array("seed")].into());
    let new = fresh(&plan, &vector.targets(), &mut rng).unwrap();
    assert!(rng.0.is_empty());
    assert_eq!(new.table(), vector.bytes("table"));
    let publisher = Identity::from_seed(&vector.list("members")[0].array("seed"));
    let (signed, _, _) = new.finish(None, 0, &publisher);
    let expected = EpochHeader { epoch_vk: Identity::from_seed(&epoch_key).public(), ..header };
    assert_eq!(signed.verify(&publisher.public()).unwrap(), expected);
}

/// Randomness that was written down beforehand.
struct Script(VecDeque<[u8; 32]>);

impl TryRng for Script {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only whole keys are asked for")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only whole keys are asked for")
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0.pop_front().expect("no more randomness than this"));
        Ok(())
    }
}

impl TryCryptoRng for Script {}
