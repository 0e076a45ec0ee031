//! The chain that subscribers follow, without the operations: what an entry may not claim, however well it is signed.

use sealcast_proto::hash::{HashLabel, hash};
use sealcast_proto::object::{Batch, Genesis, RosterEntry, RosterHead, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::{Record, RecordError};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster, RosterChain, RosterError};
use sealcast_proto::slot::{Slot, TableCheck, TableError, table_hash};
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, RosterSeq, Seq, Signed, SlotSource, TopicId, limits,
};

fn id(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn add(n: u8, role: Role) -> Op {
    Op::Add { identity: id(n).public(), role }
}

/// A topic of owner 0 with admin 1 and reader 2, and the chain that follows it.
fn start() -> (TopicId, Genesis, Roster, RosterChain) {
    let genesis = Genesis { suite: SUITE, name: "t".into(), owner: id(0).public(), nonce: [0; 32] };
    let topic = Signed::sign(&genesis, id(0).signing_key()).topic_id();
    let mut roster = Roster::new(topic, &genesis);
    let bundle = roster.sign(&[add(1, Role::Admin), add(2, Role::Reader)], &id(0), 1).unwrap();
    roster.apply(&bundle.entry, &bundle.ops).unwrap();
    let mut chain = RosterChain::new(topic, &genesis);
    chain.follow(&bundle.entry, bundle.roles.as_deref(), None).unwrap();
    (topic, genesis, roster, chain)
}

fn bent(bundle: &EntryBundle, bend: impl FnOnce(&mut RosterEntry)) -> Signed<RosterEntry> {
    let mut entry = bundle.entry.peek().unwrap();
    bend(&mut entry);
    Signed::sign(&entry, id(0).signing_key())
}

#[test]
fn a_chain_refuses_what_no_operations_could_bring_about() {
    let (_, _, roster, chain) = start();
    let bundle = roster.sign(&[add(3, Role::Reader)], &id(0), 5).unwrap();
    type Bend = fn(&mut RosterEntry);
    let bends: [Bend; 4] = [
        |entry| entry.topic = TopicId([3; 32]),
        |entry| entry.next_member = MemberIndex(2),
        |entry| entry.last_removal_seq = RosterSeq(1),
        |entry| entry.seq = RosterSeq(3),
    ];
    for (n, bend) in bends.into_iter().enumerate() {
        assert!(chain.clone().follow(&bent(&bundle, bend), None, None).is_err(), "bend {n}");
    }
    assert!(chain.clone().follow(&bundle.entry, None, None).is_ok());
}

#[test]
fn a_list_counts_if_the_entry_names_it() {
    let (_, _, roster, chain) = start();
    let bundle = roster.sign(&[add(3, Role::Publisher)], &id(0), 5).unwrap();
    let roles = bundle.roles.clone().unwrap();
    assert!(chain.clone().follow(&bundle.entry, Some(&roles), None).is_ok());
    // A list in which the broker's friend publishes.
    let mut theirs = roles.to_vec();
    theirs[2 * limits::ROLE_BYTES + 4..][..32].copy_from_slice(id(9).public().as_bytes());
    for list in [Some(theirs.as_slice()), None] {
        let refused = chain.clone().follow(&bundle.entry, list, None);
        assert_eq!(refused, Err(RosterError::MissingList("roles list")));
    }
    let policy = Policy { beacon_ms: 200, ..Policy::default() };
    let bundle = roster.sign(&[Op::SetPolicy(policy.clone().into())], &id(0), 5).unwrap();
    let theirs = Policy { max_roster_age_ms: 1, ..policy.clone() }.encode();
    assert!(chain.clone().follow(&bundle.entry, None, Some(&policy.encode())).is_ok());
    assert!(chain.clone().follow(&bundle.entry, None, Some(&theirs)).is_err());
}

/// A member twice in the list: two roles for one index.
#[test]
fn a_list_that_does_not_rise_is_refused() {
    let (_, _, roster, chain) = start();
    let bundle = roster.sign(&[add(3, Role::Publisher)], &id(0), 5).unwrap();
    let roles = bundle.roles.clone().unwrap();
    let (one, two) = roles.split_at(limits::ROLE_BYTES);
    let twice = [one, one, two].concat();
    let entry = bent(&bundle, |entry| entry.roles_hash = hash(HashLabel::Roles, &[&twice]));
    assert_eq!(
        chain.clone().follow(&entry, Some(&twice), None),
        Err(RosterError::Malformed("the roles list"))
    );
}

#[test]
fn a_head_is_an_admins_and_names_the_entry_that_is_begun_at() {
    let (topic, genesis, mut roster, chain) = start();
    let head = |signer: u8, by: u8, hash: Hash| {
        let (seq, signer) = (RosterSeq(1), id(signer).public());
        Signed::sign(&RosterHead { topic, seq, hash, signer, time_ms: 9 }, id(by).signing_key())
    };
    assert!(chain.verify_head(&head(1, 1, chain.hash())).is_ok());
    assert!(matches!(chain.verify_head(&head(1, 2, chain.hash())), Err(RosterError::Object(_))), "forged");
    assert!(matches!(chain.verify_head(&head(2, 2, chain.hash())), Err(RosterError::Signer(_))), "a reader");

    let by_admin = roster.sign(&[add(3, Role::Reader)], &id(1), 5).unwrap();
    roster.apply(&by_admin.entry, &by_admin.ops).unwrap();
    let (roles, policy) = (roster.chain().roles_bytes(), roster.chain().policy().encode());
    let named = head(0, 0, chain.hash());
    let begun = RosterChain::begin_at_head(topic, &genesis, &named, &by_admin.entry, &roles, &policy);
    assert!(begun.is_err(), "the owner named the entry before");
}

#[test]
fn a_removal_names_who_has_the_index() {
    let (_, _, roster, _) = start();
    let (of_one, _) = roster.find(&id(1).public()).unwrap();
    let mixed = Op::Remove { member: of_one, identity: id(2).public() };
    assert!(matches!(roster.sign(&[mixed], &id(0), 5), Err(RosterError::Rule(_))));
}

#[test]
fn a_slot_table_is_checked_as_it_comes() {
    let slot = |member: u32| {
        Slot { member: MemberIndex(member), source: SlotSource::Static, ct: [7; 48] }.encode().to_vec()
    };
    let check = |announced: u32, hash: Hash, table: &[u8]| {
        let mut check = TableCheck::new(announced, hash);
        check.feed(table).and_then(|_| check.finish())
    };
    let table = [slot(1), slot(2)].concat();
    assert_eq!(check(2, table_hash(&table), &table), Ok(()));
    assert_eq!(check(2, Hash([1; 32]), &table), Err(TableError::Hash));
    assert_eq!(check(3, table_hash(&table), &table), Err(TableError::Length));
    assert_eq!(check(1, table_hash(&table), &table), Err(TableError::Length));
    for unordered in [[slot(2), slot(1)].concat(), [slot(1), slot(1)].concat()] {
        assert_eq!(check(2, table_hash(&unordered), &unordered), Err(TableError::Order));
    }
}

#[test]
fn a_batch_has_limits_before_it_is_read() {
    let body = |batch_no: u64| {
        let (first_seq, prev_batch_hash) = (Seq(0), Hash::ZERO);
        let (epoch, batch_no) = (Epoch(1), BatchNo(batch_no));
        Batch { epoch, batch_no, first_seq, count: 1, time_ms: 0, end: false, prev_batch_hash }.encode()
    };
    assert!(Batch::decode(&body(limits::MAX_EPOCH_BATCHES - 1)).is_ok());
    assert!(Batch::decode(&body(limits::MAX_EPOCH_BATCHES)).is_err());
    let record = |ciphertext: usize| {
        let body = body(0);
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        Record::decode([&[3], &len[..], &body, &[0; 64], &vec![0; ciphertext]].concat().into())
    };
    assert!(record(limits::MAX_BATCH_CIPHERTEXT).is_ok());
    assert!(matches!(record(limits::MAX_BATCH_CIPHERTEXT + 1), Err(RecordError::Length(_))));
}
