//! A removal by us: a rewrap for everybody who stays, the header signed, the entry that says so signed.

use rand::SeedableRng;
use rand::rngs::StdRng;
use sealcast_envelope::{EpochPlan, EpochReceiver, WrapKey, WrapSecret, WrapTarget, fresh, rewrap};
use sealcast_proto::frame::{EpochDelivery, Reply, RosterDelivery};
use sealcast_proto::object::{Genesis, PrevClose};
use sealcast_proto::roster::{Op, Role, Roster};
use sealcast_proto::slot::find_slot;
use sealcast_proto::{Epoch, Hash, Identity, MemberIndex, Offset, Signed, SlotSource};
use serde_json::{Value, json};

use crate::{ROUNDS, median, timed};

pub fn removal(count: u32) -> Value {
    let rng = &mut StdRng::seed_from_u64(1);
    let owner = Identity::generate(rng);
    let genesis = Genesis { suite: 1, name: "peers".into(), owner: owner.public(), nonce: [1; 32] };
    let topic = Signed::sign(&genesis, owner.signing_key()).topic_id();
    let mut roster = Roster::new(topic, &genesis);
    let readers: Vec<Identity> = (0..count).map(|_| Identity::generate(rng)).collect();
    let mut now_ms = 1;
    for readers in readers.chunks(16_000) {
        let ops: Vec<_> =
            readers.iter().map(|reader| Op::Add { identity: reader.public(), role: Role::Reader }).collect();
        now_ms += 1;
        let entry = roster.sign(&ops, &owner, now_ms).expect("within the rules");
        roster.apply(&entry.entry, &entry.ops).expect("its own entry");
    }
    // One who stays to the end, and the keys of all.
    let staying = readers.last().expect("one");
    let secret = WrapSecret::of_identity(staying);
    let targets = |roster: &Roster| -> Vec<WrapTarget> {
        let keys = roster.members().map(|(member, of)| (member, of.identity));
        let target = |(member, identity)| WrapTarget {
            member,
            identity,
            source: SlotSource::Static,
            x25519: WrapKey::of_identity(&identity),
        };
        keys.map(target).collect()
    };
    let mut all = targets(&roster);
    let plan = |roster: &Roster, epoch, prev_header_hash| EpochPlan {
        topic,
        publisher: owner.public(),
        epoch: Epoch(epoch),
        prev_header_hash,
        roster_seq: roster.chain().seq(),
        roster_hash: roster.chain().hash(),
    };
    let first = fresh(&plan(&roster, 1, Hash::ZERO), &all, rng).expect("a sound plan");
    let (me, _) = roster.find(&staying.public()).expect("a member");
    let slot = find_slot(&first.table(), me).expect("a slot");
    let (_, mut sender, change) = first.finish(None, 1, &owner);
    let mut keks = change.accepted(None).expect("KEKs");
    let mut receiver =
        EpochReceiver::open_slot(sender.header(), &sender.header_hash(), &slot, &staying.public(), &secret)
            .expect("its own slot");
    let (mut publisher_s, mut member_s, mut downloads) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u32 {
        let (member, leaves) = (MemberIndex(1 + round), readers[round as usize].public());
        // An admin's work, on another machine: the entry.
        now_ms += 1;
        let bundle = roster.sign(&[Op::Remove { member, identity: leaves }], &owner, now_ms).expect("sound");
        roster.apply(&bundle.entry, &bundle.ops).expect("its own entry");
        all.retain(|target| target.member != member);
        let close = PrevClose { batches: 0, last_batch_hash: sender.last_hash() };
        let next = plan(&roster, 2 + u64::from(round), sender.header_hash());
        let (took, (signed, table, new_sender, change)) = timed(|| {
            let new = rewrap(&next, &keks, &all, rng).expect("a sound plan");
            let table = new.table();
            let (signed, sender, change) = new.finish(Some(close), now_ms, &owner);
            (signed, table, sender, change)
        });
        publisher_s.push(took);
        assert_eq!(table.len(), all.len() * 56);
        keks = change.accepted(Some(keks)).expect("KEKs");
        sender = new_sender;
        let slot = find_slot(&table, me).expect("its slot");
        let (took, new_receiver) = timed(|| {
            signed.verify(&owner.public()).expect("its signature");
            receiver.rewrap(sender.header(), &sender.header_hash(), &slot).expect("its slot")
        });
        member_s.push(took);
        receiver = new_receiver;
        let offset = Offset(u64::from(round));
        let header = Reply::Epoch(EpochDelivery { offset, header: signed, slot: Some(slot) });
        let entry = Reply::Roster(RosterDelivery {
            offset,
            entry: bundle.entry.clone(),
            ops: None,
            roles: None,
            policy: None,
        });
        downloads.push((header.encode().len() + entry.encode().len()) as f64);
    }
    json!({
        "publisher_ms": median(publisher_s) * 1e3,
        "member_ms": median(member_s) * 1e3,
        "download_bytes": median(downloads),
        "upload_bytes": all.len() * 56,
    })
}
