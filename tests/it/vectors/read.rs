//! Reads a conversation of tests/vectors as each of its members, and as one who holds the operations.

use std::collections::HashMap;

use sealcast_envelope::{EpochReceiver, Message, PrekeyRing, WrapSecret};
use sealcast_proto::object::{Beacon, EpochHeader, Genesis, Mode, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{Roster, RosterChain, RosterMatch};
use sealcast_proto::slot::{find_slot, table_hash};
use sealcast_proto::{Hash, Identity, MemberIndex, PublicKey, SlotSource};
use serde_json::Value;

use super::file::{Json, message};

pub(super) fn check(talk: &Json) {
    let genesis = talk.signed::<Genesis>("genesis").verify_topic(&talk.topic()).expect("the topic's genesis");
    let mut roster = Roster::new(talk.topic(), &genesis);
    for it in talk.list("roster") {
        roster.apply(&it.signed("entry"), &it.bytes("ops")).expect("the next entry");
    }
    roster.chain().verify_head(&talk.signed::<RosterHead>("head")).expect("an admin's word");

    let members = talk.list("members");
    assert!(members.len() >= 4);
    for member in members {
        let me = Me::new(&member);
        let listed = roster.find(&me.identity.public()).map(|(index, _)| index);
        let removed = ["alice", "bob"].contains(&member.text("name"));
        assert_eq!(listed, (!removed).then_some(me.index));
        let read = me.read(talk, &genesis);
        let which: Vec<usize> = read.iter().map(|(at, _)| *at).collect();
        assert_eq!(Value::from(which), member.at("reads").0, "{}", member.text("name"));
        for (at, messages) in read {
            assert_eq!(messages, talk.list("epochs")[at].at("messages").0, "{}", member.text("name"));
        }
    }
}

struct Me {
    identity: Identity,
    index: MemberIndex,
    prekeys: Vec<(u32, PrekeyRing)>,
    fixed: WrapSecret,
}

/// What is known of a publisher: its last header's hash, and what closes it if this member read it.
struct Last {
    header: Hash,
    close: Option<(u64, Hash)>,
    receiver: Option<EpochReceiver>,
}

impl Me {
    fn new(member: &Json) -> Self {
        let identity = Identity::from_seed(&member.array("seed"));
        assert_eq!(identity.public(), member.key("identity"));
        let index = MemberIndex(u32::try_from(member.number("index")).expect("an index"));
        let prekeys = member.list("prekeys").iter().map(Json::prekey_secret).collect();
        Self { fixed: WrapSecret::of_identity(&identity), identity, index, prekeys }
    }

    fn secret(&self, source: SlotSource) -> &WrapSecret {
        match source {
            SlotSource::Static => &self.fixed,
            SlotSource::Prekey(id) => self
                .prekeys
                .iter()
                .find_map(|(held, ring)| ring.secret(id).filter(|_| *held == id))
                .expect("a prekey"),
            SlotSource::Kek => panic!("the KEK is in the epoch before"),
        }
    }

    /// The epochs this member reads, and their messages.
    fn read(&self, talk: &Json, genesis: &Genesis) -> Vec<(usize, Value)> {
        let mut chain = RosterChain::new(talk.topic(), genesis);
        let mut entries = talk.list("roster").into_iter();
        let mut lasts: HashMap<PublicKey, Last> = HashMap::new();
        let mut out = Vec::new();
        for (at, epoch) in talk.list("epochs").iter().enumerate() {
            let signed = epoch.signed::<EpochHeader>("header");
            let publisher = signed.peek().expect("a header").publisher;
            let header = signed.verify(&publisher).expect("its publisher's signature");
            while chain.seq() < header.roster_seq {
                let it = entries.next().expect("the entry a header names");
                let (roles, policy) = (it.optional("roles"), it.optional("policy"));
                chain
                    .follow(&it.signed("entry"), roles.as_deref(), policy.as_deref())
                    .expect("the next entry");
            }
            assert_eq!(chain.compare(header.roster_seq, &header.roster_hash), RosterMatch::Holds);
            assert!(chain.may_publish(&publisher) && header.topic == talk.topic());
            let before = lasts.remove(&publisher);
            assert_eq!(header.prev_header_hash, before.as_ref().map_or(Hash::ZERO, |last| last.header));
            if let Some((close, held)) = header.prev_close.zip(before.as_ref().and_then(|last| last.close)) {
                assert_eq!((close.batches, close.last_batch_hash), held);
            }

            let receiver = self.open(epoch, &header, &signed.hash(), before);
            let mut last = Last { header: signed.hash(), close: None, receiver: None };
            if let Some(mut receiver) = receiver {
                let (messages, closed) = batches(epoch, &header, &mut receiver);
                out.push((at, messages));
                last = Last { close: Some(closed), receiver: Some(receiver), ..last };
            }
            lasts.insert(publisher, last);
        }
        out
    }

    fn open(
        &self,
        epoch: &Json,
        header: &EpochHeader,
        hash: &Hash,
        before: Option<Last>,
    ) -> Option<EpochReceiver> {
        let table = epoch.bytes("table");
        assert_eq!(table.len(), header.slot_count as usize * 56);
        assert_eq!(table_hash(&table), header.slots_hash);
        match find_slot(&table, self.index) {
            Some(slot) if slot.source != SlotSource::Kek => {
                let (me, secret) = (self.identity.public(), self.secret(slot.source));
                Some(EpochReceiver::open_slot(header, hash, &slot, &me, secret).expect("its own slot"))
            }
            None if header.mode != Mode::Advance => None,
            slot => Some(before?.receiver?.follow(header, hash, slot.as_ref()).expect("what follows")),
        }
    }
}

/// An epoch's messages, and what closes it.
fn batches(epoch: &Json, header: &EpochHeader, receiver: &mut EpochReceiver) -> (Value, (u64, Hash)) {
    let header_hash = receiver.header_hash();
    let (mut messages, mut last, mut number) = (Vec::new(), header_hash, 0);
    for bytes in epoch.list("batches") {
        let bytes = bytes.own_bytes();
        let Record::Batch(record) = Record::decode(bytes.clone()).expect("a record") else {
            panic!("a batch")
        };
        assert_eq!(Record::Batch(record.clone()).encode(), bytes);
        let verified = record.verify(&header_hash, &header.epoch_vk).expect("the epoch's signature");
        assert_eq!(verified.batch().prev_batch_hash, last);
        let opened = receiver.open(&verified).expect("a batch");
        for (encoded, seq) in opened.into_iter().zip(verified.batch().first_seq.0..) {
            messages.push(message(seq, &Message::decode(encoded).expect("a message")));
        }
        (last, number) = (*verified.hash(), number + 1);
    }
    let beacon = epoch.signed::<Beacon>("beacon").verify(&header.epoch_vk).expect("the epoch's signature");
    assert_eq!(
        (beacon.header_hash, beacon.next_batch_no.0, beacon.last_batch_hash),
        (header_hash, number, last)
    );
    (messages.into(), (number, last))
}
