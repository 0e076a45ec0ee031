//! Makes rust.json: a conversation written by this implementation, always the same bytes.

use std::convert::Infallible;

use bytes::Bytes;
use rand::{TryCryptoRng, TryRng};
use sealcast_envelope::epoch::EpochPlan;
use sealcast_envelope::{
    EpochSender, KekChange, Message, NewEpoch, PrekeyRing, WrapKey, WrapSecret, WrapTarget, advance, fresh,
    rewrap,
};
use sealcast_proto::hash::sha256;
use sealcast_proto::object::{EpochHeader, Genesis, Prekey, PrevClose, RosterHead, SUITE};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{Op, Role, Roster};
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, Seq, Signed, SlotSource};
use serde_json::{Value, json};

use super::file::{hex, message};

const NOW: u64 = 1_750_000_000_000;
const DAY: u64 = 24 * 3600 * 1000;

/// Randomness that is always the same: SHA-256 of a counter.
struct Counter(u64);

impl TryRng for Counter {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only whole keys are asked for")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only whole keys are asked for")
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        self.0 += 1;
        out.copy_from_slice(sha256(&self.0.to_be_bytes()).as_bytes());
        Ok(())
    }
}

impl TryCryptoRng for Counter {}

struct Party {
    name: &'static str,
    index: MemberIndex,
    seed: [u8; 32],
    identity: Identity,
    prekeys: Vec<(Signed<Prekey>, Vec<u8>)>,
    target: WrapTarget,
}

impl Party {
    fn new(name: &'static str, index: u32) -> Self {
        let seed = sha256(format!("sealcast vectors: {name}").as_bytes()).0;
        let identity = Identity::from_seed(&seed);
        let x25519 = WrapKey::of_identity(&identity.public());
        assert_eq!(WrapSecret::of_identity(&identity).public(), x25519.to_bytes());
        let index = MemberIndex(index);
        let target =
            WrapTarget { member: index, identity: identity.public(), source: SlotSource::Static, x25519 };
        Self { name, index, seed, identity, prekeys: Vec::new(), target }
    }

    /// Makes a prekey, and is wrapped to it from now on.
    fn rotate(&mut self, now_ms: u64, rng: &mut Counter) {
        let mut ring = PrekeyRing::new();
        let made = ring.rotate_if_due(&self.identity, 7 * DAY, 14 * DAY, now_ms, true, rng).expect("forced");
        let prekey = made.peek().expect("its own");
        self.target.source = SlotSource::Prekey(prekey.prekey_id);
        self.target.x25519 = prekey.x25519.into();
        // A saved ring ends in its last secret.
        let saved = ring.encode();
        self.prekeys.push((made, saved[saved.len() - 32..].to_vec()));
    }

    fn add(&self, role: Role) -> Op {
        Op::Add { identity: self.identity.public(), role }
    }

    fn json(&self, reads: &[usize]) -> Value {
        let prekeys = self.prekeys.iter();
        json!({
            "name": self.name, "index": self.index.0, "seed": hex(&self.seed),
            "identity": hex(self.identity.public().as_bytes()), "reads": reads,
            "prekeys": prekeys.map(|(it, secret)| json!({"prekey": pair(it), "secret": hex(secret)})).collect::<Vec<_>>(),
        })
    }
}

fn pair<T: sealcast_proto::object::Object>(signed: &Signed<T>) -> Value {
    json!([hex(signed.body()), hex(signed.signature())])
}

/// The topic as its admin holds it.
struct Topic {
    roster: Roster,
    entries: Vec<Value>,
}

impl Topic {
    fn entry(&mut self, admin: &Party, ops: &[Op]) {
        let bundle = self.roster.sign(ops, &admin.identity, NOW).expect("allowed");
        self.roster.apply(&bundle.entry, &bundle.ops).expect("its own");
        self.entries.push(json!({
            "entry": pair(&bundle.entry), "ops": hex(&bundle.ops),
            "roles": bundle.roles.as_deref().map(hex), "policy": bundle.policy.as_deref().map(hex),
        }));
    }

    fn plan(&self, publisher: &Party, epoch: u64, prev: Option<&Talking>) -> EpochPlan {
        let chain = self.roster.chain();
        EpochPlan {
            topic: chain.topic(),
            publisher: publisher.identity.public(),
            epoch: Epoch(epoch),
            prev_header_hash: prev.map_or(Hash::ZERO, |prev| prev.sender.header_hash()),
            roster_seq: chain.seq(),
            roster_hash: chain.hash(),
        }
    }
}

/// An epoch being written.
struct Talking {
    sender: EpochSender,
    keks: Option<KekChange>,
    header: Signed<EpochHeader>,
    table: Bytes,
    batches: Vec<String>,
    messages: Vec<Value>,
}

impl Talking {
    fn new(new: NewEpoch, publisher: &Party, close: Option<&Talking>) -> Self {
        let table = new.table();
        let close = close.map(|prev| PrevClose {
            batches: prev.sender.next_batch_no().0,
            last_batch_hash: prev.sender.last_hash(),
        });
        let (header, sender, keks) = new.finish(close, NOW, &publisher.identity);
        Self { sender, keks: Some(keks), header, table, batches: Vec::new(), messages: Vec::new() }
    }

    fn seal(&mut self, first_seq: u64, messages: &[Message], end: bool) {
        let encoded: Vec<Bytes> = messages.iter().map(|it| it.encode().expect("small")).collect();
        let record = self.sender.seal(&encoded, Seq(first_seq), NOW + first_seq, end).expect("small");
        self.batches.push(hex(&Record::Batch(record).encode()));
        self.messages.extend(messages.iter().zip(first_seq..).map(|(it, seq)| message(seq, it)));
    }

    fn json(&self, roster: &Roster) -> Value {
        let chain = roster.chain();
        json!({
            "header": pair(&self.header), "table": hex(&self.table), "batches": self.batches,
            "messages": self.messages, "beacon": pair(&self.sender.beacon(chain.seq(), chain.hash(), NOW)),
        })
    }
}

pub(super) fn conversation() -> Value {
    let rng = &mut Counter(0);
    let (owner, mut alice, press) = (Party::new("owner", 0), Party::new("alice", 1), Party::new("press", 2));
    let (mut bob, mut carol) = (Party::new("bob", 3), Party::new("carol", 4));
    let name = "the vectors' topic, made by Rust".to_owned();
    let genesis = Genesis { suite: SUITE, name, owner: owner.identity.public(), nonce: [7; 32] };
    let signed = Signed::sign(&genesis, owner.identity.signing_key());
    let mut topic = Topic { roster: Roster::new(signed.topic_id(), &genesis), entries: Vec::new() };
    let targets = |parties: &[&Party]| parties.iter().map(|it| it.target.clone()).collect::<Vec<_>>();

    alice.rotate(NOW - DAY, rng);
    topic.entry(&owner, &[alice.add(Role::Reader), press.add(Role::Publisher)]);
    let policy = Policy {
        durability: Durability::Memory,
        retain_bytes: u64::MAX,
        beacon_ms: 100,
        ..Policy::default()
    };
    topic.entry(&owner, &[Op::set_policy(policy), Op::Rotate]);
    let new = fresh(&topic.plan(&owner, NOW, None), &targets(&[&owner, &alice, &press]), rng);
    let mut first = Talking::new(new.expect("a sound plan"), &owner, None);
    let full = Message { time_ms: u64::MAX, ..Message::new(vec![0xff; 300]) };
    let full =
        full.with_header("z", "last").with_header("a", "").with_header("", "no name").with_header("é", "ü");
    first.seal(0, &[Message::new("hello"), Message::default(), full.with_content_type("text/plain")], false);
    first.seal(3, &[1, 100, 1000, 5000].map(|len| Message::new(vec![b'x'; len])), false);
    first.seal(7, &[Message::new("the last of this epoch")], true);

    bob.rotate(NOW - 5000, rng);
    topic.entry(&owner, &[bob.add(Role::Reader)]);
    let plan = topic.plan(&owner, NOW + 1000, Some(&first));
    let new = advance(&plan, &first.sender.advance_from(), &targets(&[&bob]), rng).expect("a successor");
    let mut second = Talking::new(new, &owner, Some(&first));
    second.seal(8, &[Message::new("bob reads from here")], false);
    let new = fresh(&topic.plan(&press, NOW + 1500, None), &targets(&[&owner, &alice, &press, &bob]), rng);
    let mut third = Talking::new(new.expect("a sound plan"), &press, None);
    third.seal(0, &[Message::new("another publisher")], false);

    topic.entry(&owner, &[Op::Remove { member: alice.index, identity: alice.identity.public() }]);
    let plan = topic.plan(&owner, NOW + 2000, Some(&second));
    let new = fresh(&plan, &targets(&[&owner, &press, &bob]), rng).expect("a sound plan");
    let mut fourth = Talking::new(new, &owner, Some(&second));
    fourth.seal(9, &[Message::new("alice does not read this")], false);
    let to = |who: &Party, role| Op::SetRole { member: who.index, identity: who.identity.public(), role };
    topic.entry(&owner, &[carol.add(Role::Admin), to(&press, Role::Admin)]);
    topic.entry(&carol, &[to(&owner, Role::Publisher), to(&press, Role::Reader)]);
    bob.rotate(NOW + 2500, rng);
    let plan = topic.plan(&owner, NOW + 3000, Some(&fourth));
    let new = fresh(&plan, &targets(&[&owner, &press, &bob, &carol]), rng).expect("a sound plan");
    let mut fifth = Talking::new(new, &owner, None);
    let plan = topic.plan(&owner, NOW + 3001, Some(&fifth));
    let new = advance(&plan, &fifth.sender.advance_from(), &[], rng).expect("a successor");
    let mut sixth = Talking::new(new, &owner, Some(&fifth));
    sixth.seal(10, &[Message::new("derived by everybody, without a slot")], false);
    sixth.seal(11, &[], true);

    topic.entry(&carol, &[Op::Remove { member: bob.index, identity: bob.identity.public() }]);
    let keks = fifth.keks.take().and_then(|it| it.accepted(None));
    let keks = sixth.keks.take().and_then(|it| it.accepted(keks));
    let plan = topic.plan(&owner, NOW + 4000, Some(&sixth));
    let new = rewrap(&plan, &keks.expect("KEKs"), &targets(&[&owner, &press, &carol]), rng).expect("sound");
    let mut seventh = Talking::new(new, &owner, Some(&sixth));
    seventh.seal(11, &[Message::new("bob does not read this")], false);
    carol.rotate(NOW + 4500, rng);
    let mut keks = seventh.keks.take().and_then(|it| it.accepted(None));
    for number in [NOW + 4800, NOW + 4900] {
        // Signed, refused, and seen by nobody.
        let plan = topic.plan(&owner, number, Some(&seventh));
        let held = keks.take().expect("KEKs");
        let dead = rewrap(&plan, &held, &targets(&[&owner, &press, &carol]), rng).expect("sound");
        keks = dead.finish(None, NOW, &owner.identity).2.refused(Some(held));
    }
    let plan = topic.plan(&owner, NOW + 5000, Some(&seventh));
    let new = rewrap(&plan, &keks.expect("KEKs"), &targets(&[&owner, &press, &carol]), rng).expect("sound");
    let mut eighth = Talking::new(new, &owner, Some(&seventh));
    eighth.seal(12, &[Message::new("carol by her new prekey, the others two generations later")], false);
    let plan = topic.plan(&owner, NOW + 5001, Some(&eighth));
    let new = advance(&plan, &eighth.sender.advance_from(), &[], rng).expect("a successor");
    let mut ninth = Talking::new(new, &owner, Some(&eighth));
    ninth.seal(13, &[Message::new("derived after a rewrap")], true);

    let chain = topic.roster.chain();
    let head = RosterHead {
        topic: chain.topic(),
        seq: chain.seq(),
        hash: chain.hash(),
        signer: carol.identity.public(),
        time_ms: NOW,
    };
    let epochs = [first, second, third, fourth, fifth, sixth, seventh, eighth, ninth];
    json!({
        "source": "tests/it/vectors/make.rs",
        "topic": hex(&chain.topic().0),
        "genesis": pair(&signed),
        "roster": topic.entries,
        "head": pair(&Signed::sign(&head, carol.identity.signing_key())),
        "epochs": epochs.iter().map(|it| it.json(&topic.roster)).collect::<Vec<_>>(),
        "members": [
            owner.json(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), alice.json(&[0, 1, 2]),
            press.json(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), bob.json(&[1, 2, 3, 4, 5]), carol.json(&[4, 5, 6, 7, 8]),
        ],
    })
}
