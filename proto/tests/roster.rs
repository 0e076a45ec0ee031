//! The roster's rules: the full roster and the chain that subscribers follow agree on everything, whatever happens.

use proptest::prelude::*;
use sealcast_proto::object::{Genesis, RosterEntry, RosterHead, SUITE};
use sealcast_proto::policy::{CarriedPolicy, Policy, policy_hash};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster, RosterChain, RosterError, RosterMatch, removes};
use sealcast_proto::{Hash, Identity, MemberIndex, RosterSeq, Signed, TopicId};

fn id(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn start() -> (TopicId, Genesis, Roster) {
    let genesis = Genesis { suite: SUITE, name: "t".into(), owner: id(0).public(), nonce: [0; 32] };
    let topic = Signed::sign(&genesis, id(0).signing_key()).topic_id();
    let roster = Roster::new(topic, &genesis);
    (topic, genesis, roster)
}

fn add(n: u8, role: Role) -> Op {
    Op::Add { identity: id(n).public(), role }
}

fn remove(roster: &Roster, n: u8) -> Op {
    let (member, _) = roster.find(&id(n).public()).unwrap();
    Op::Remove { member, identity: id(n).public() }
}

fn apply(roster: &mut Roster, ops: &[Op]) -> EntryBundle {
    let bundle = roster.sign(ops, &id(0), 1000).unwrap();
    roster.apply(&bundle.entry, &bundle.ops).unwrap();
    bundle
}

/// The bundle with its entry changed and signed again by `signer`: what a hostile admin could make.
fn bent(bundle: &EntryBundle, signer: &Identity, bend: impl Fn(&mut RosterEntry)) -> EntryBundle {
    let mut entry = bundle.entry.peek().unwrap();
    bend(&mut entry);
    EntryBundle { entry: Signed::sign(&entry, signer.signing_key()), ..bundle.clone() }
}

#[test]
fn consequences_that_do_not_follow_from_the_operations_are_refused() {
    let (_, _, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Publisher), add(2, Role::Reader)]);
    let bundle = roster.sign(&[add(3, Role::Admin), remove(&roster, 2)], &id(0), 5).unwrap();
    type Bend = fn(&mut RosterEntry);
    let bends: [Bend; 8] = [
        |entry| entry.ops_hash = Hash([1; 32]),
        |entry| entry.roles_hash = Hash([1; 32]),
        |entry| entry.policy_hash = Hash([1; 32]),
        |entry| entry.next_member = MemberIndex(9),
        |entry| entry.last_removal_seq = RosterSeq(0),
        |entry| entry.last_removal_seq = RosterSeq(1),
        |entry| entry.topic = TopicId([3; 32]),
        |entry| entry.prev_hash = Hash([2; 32]),
    ];
    for (i, bend) in bends.iter().enumerate() {
        let before = roster.chain().clone();
        let bent = bent(&bundle, &id(0), bend);
        assert!(roster.apply(&bent.entry, &bent.ops).is_err(), "bend {i}");
        assert_eq!(*roster.chain(), before, "a refusal changes nothing");
    }
    roster.apply(&bundle.entry, &bundle.ops).unwrap();
}

/// An admin that adds another, or changes the policy, and signs that list and policy are as before: subscribers, who do not
/// hold the operations, would follow that.
#[test]
fn an_entry_cannot_leave_out_what_its_operations_change() {
    let (_, _, mut roster) = start();
    let before = apply(&mut roster, &[add(1, Role::Publisher), add(2, Role::Reader)]).entry.peek().unwrap();
    let policy = Policy { retain_ms: 5_000_000, ..Policy::default() };
    let bundle = roster.sign(&[add(3, Role::Admin), Op::set_policy(policy)], &id(0), 5).unwrap();
    let without_roles = bent(&bundle, &id(0), |entry| entry.roles_hash = before.roles_hash);
    let without_policy = bent(&bundle, &id(0), |entry| entry.policy_hash = before.policy_hash);
    for (what, bundle) in [("roles_hash", without_roles), ("policy_hash", without_policy)] {
        assert_eq!(roster.apply(&bundle.entry, &bundle.ops), Err(RosterError::Derived(what)));
    }
    roster.apply(&bundle.entry, &bundle.ops).unwrap();
}

#[test]
fn only_an_admin_of_the_entry_before_signs() {
    let (_, _, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Publisher), add(2, Role::Reader)]);
    let bundle = roster.sign(&[add(3, Role::Reader)], &id(0), 5).unwrap();
    for stranger in [1, 2, 3, 9] {
        let forged = bent(&bundle, &id(stranger), |entry| entry.signer = id(stranger).public());
        assert!(matches!(roster.apply(&forged.entry, &forged.ops), Err(RosterError::Signer(_))));
        let lying = bent(&bundle, &id(stranger), |_| {});
        assert!(matches!(roster.apply(&lying.entry, &lying.ops), Err(RosterError::Object(_))));
    }
    // An admin that an entry appoints cannot sign that very entry.
    let appoint = roster.sign(&[add(4, Role::Admin)], &id(0), 5).unwrap();
    let early = bent(&appoint, &id(4), |entry| entry.signer = id(4).public());
    assert!(matches!(roster.apply(&early.entry, &early.ops), Err(RosterError::Signer(_))));
    roster.apply(&appoint.entry, &appoint.ops).unwrap();
    assert!(roster.sign(&[Op::Rotate], &id(4), 6).is_ok());
}

#[test]
fn the_last_admin_cannot_go_and_an_index_is_never_used_again() {
    let (_, _, mut roster) = start();
    let owner = roster.find(&id(0).public()).unwrap().0;
    let go = Op::Remove { member: owner, identity: id(0).public() };
    assert!(matches!(roster.sign(std::slice::from_ref(&go), &id(0), 5), Err(RosterError::Rule(_))));
    let demote = Op::SetRole { member: owner, identity: id(0).public(), role: Role::Reader };
    assert!(matches!(roster.sign(&[demote], &id(0), 5), Err(RosterError::Rule(_))));
    // Handing over within one entry is fine.
    assert!(roster.sign(&[add(7, Role::Admin), go], &id(0), 5).is_ok());

    apply(&mut roster, &[add(1, Role::Reader)]);
    let first = roster.find(&id(1).public()).unwrap().0;
    let gone = remove(&roster, 1);
    apply(&mut roster, &[gone]);
    apply(&mut roster, &[add(1, Role::Reader)]);
    let second = roster.find(&id(1).public()).unwrap().0;
    assert!(second > first);
    // An old index does not remove the new membership.
    let stale = Op::Remove { member: first, identity: id(1).public() };
    assert!(matches!(roster.sign(&[stale], &id(0), 5), Err(RosterError::Rule(_))));
}

#[test]
fn an_identity_is_a_member_once_and_named_once_an_entry() {
    let (_, _, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Reader)]);
    assert!(roster.sign(&[add(1, Role::Reader)], &id(0), 5).is_err());
    assert!(roster.sign(&[add(2, Role::Reader), add(2, Role::Publisher)], &id(0), 5).is_err());
    assert!(roster.sign(&[remove(&roster, 1), add(1, Role::Reader)], &id(0), 5).is_err());
}

#[test]
fn the_fence_moves_with_removals_and_lost_publisher_roles_only() {
    let (_, _, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Publisher), add(2, Role::Reader)]);
    assert_eq!(roster.chain().last_removal_seq(), RosterSeq(0));
    let set = |roster: &Roster, n, role| {
        let (member, _) = roster.find(&id(n).public()).unwrap();
        Op::SetRole { member, identity: id(n).public(), role }
    };
    let promote = set(&roster, 2, Role::Publisher);
    apply(&mut roster, &[promote]);
    assert_eq!(roster.chain().last_removal_seq(), RosterSeq(0));
    let demote = set(&roster, 1, Role::Reader);
    apply(&mut roster, &[demote]);
    assert_eq!(roster.chain().last_removal_seq(), RosterSeq(3));
    let gone = remove(&roster, 1);
    apply(&mut roster, &[gone]);
    assert_eq!(roster.chain().last_removal_seq(), RosterSeq(4));
}

#[test]
fn forks_gaps_and_repeats_are_told_apart() {
    let (_, _, mut roster) = start();
    let first = apply(&mut roster, &[add(1, Role::Reader)]);
    let mut other = start().2;
    let fork = apply(&mut other, &[add(2, Role::Reader)]);
    let fork_next = apply(&mut other, &[add(3, Role::Reader)]);
    let next = roster.sign(&[add(4, Role::Reader)], &id(0), 5).unwrap();
    let mut later = roster.clone();
    later.apply(&next.entry, &next.ops).unwrap();
    let after = later.sign(&[Op::Rotate], &id(0), 6).unwrap();

    assert_eq!(roster.apply(&first.entry, &first.ops), Err(RosterError::Known(RosterSeq(1))));
    assert_eq!(roster.apply(&fork.entry, &fork.ops), Err(RosterError::Fork(RosterSeq(1))));
    assert_eq!(roster.apply(&fork_next.entry, &fork_next.ops), Err(RosterError::Fork(RosterSeq(1))));
    assert!(matches!(roster.apply(&after.entry, &after.ops), Err(RosterError::Missing { .. })));
}

/// One policy in bytes that our own encoder would not choose: with a field that nobody knows, in another order, with a
/// number written long, with a zero written out.
fn other_encodings(policy: &Policy) -> Vec<Vec<u8>> {
    let own = policy.encode();
    // retain_ms, the second field, comes first: its tag and a varint.
    assert_eq!(own[0], 0x10);
    let end = 1 + own[1..].iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let (head, rest) = own.split_at(end);
    let mut long = head.to_vec();
    *long.last_mut().unwrap() |= 0x80;
    vec![
        [&own[..], &[0xf8, 0x07, 1]].concat(),
        [rest, head].concat(),
        [&long, &[0][..], rest].concat(),
        [&[0x08, 0], &own[..]].concat(),
    ]
}

#[test]
fn a_policy_is_hashed_as_it_was_signed_by_those_who_hold_the_operations_and_by_those_who_do_not() {
    let (topic, genesis, roster) = start();
    let policy = Policy { retain_ms: 5_000_000, ..Policy::default() };
    for bytes in other_encodings(&policy) {
        let carried = CarriedPolicy::decode(&bytes).unwrap();
        assert_eq!(carried.policy(), &policy);
        assert_ne!(policy_hash(&bytes), policy_hash(&policy.encode()));
        let bundle = roster.sign(&[Op::SetPolicy(carried)], &id(0), 5).unwrap();
        assert_eq!(bundle.policy.as_deref(), Some(&bytes[..]));
        assert_eq!(bundle.entry.peek().unwrap().policy_hash, policy_hash(&bytes));

        let mut held = roster.clone();
        held.apply(&bundle.entry, &bundle.ops).unwrap();
        let mut chain = RosterChain::new(topic, &genesis);
        // The same policy in other bytes is not what was signed.
        let own = policy.encode();
        assert!(chain.follow(&bundle.entry, None, Some(&own)).is_err());
        chain.follow(&bundle.entry, None, Some(held.chain().policy_bytes())).unwrap();
        assert_eq!(&chain, held.chain());
        assert_eq!(
            RosterChain::decode(&chain.encode()).unwrap(),
            chain,
            "nor is it encoded anew for the disk"
        );
        // And an entry that names the hash of our own encoding does not follow from these operations.
        let own = bent(&bundle, &id(0), |entry| entry.policy_hash = policy_hash(&policy.encode()));
        assert!(matches!(
            roster.clone().apply(&own.entry, &own.ops),
            Err(RosterError::Derived("policy_hash"))
        ));
        // Whoever joins the chain later is given the carried bytes as well.
        let next = held.sign(&[Op::Rotate], &id(0), 6).unwrap();
        held.apply(&next.entry, &next.ops).unwrap();
        let (roles, policy) = (held.chain().roles_bytes(), held.chain().policy_bytes().clone());
        RosterChain::begin_at(topic, &genesis, &next.entry, &roles, &policy).unwrap();
    }
}

#[test]
fn a_chain_may_begin_where_the_owner_signed_and_nowhere_else() {
    let (topic, genesis, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Admin)]);
    let by_owner = apply(&mut roster, &[add(2, Role::Reader)]);
    let (roles, policy) = (roster.chain().roles_bytes(), roster.chain().policy_bytes().clone());
    let begun = RosterChain::begin_at(topic, &genesis, &by_owner.entry, &roles, &policy).unwrap();
    assert_eq!(begun.hash(), roster.chain().hash());
    assert!(RosterChain::begin_at(topic, &genesis, &by_owner.entry, &roles[..37], &policy).is_err());
    assert!(RosterChain::begin_at(TopicId([1; 32]), &genesis, &by_owner.entry, &roles, &policy).is_err());

    let by_admin = roster.sign(&[add(3, Role::Reader)], &id(1), 5).unwrap();
    roster.apply(&by_admin.entry, &by_admin.ops).unwrap();
    assert!(RosterChain::begin_at(topic, &genesis, &by_admin.entry, &roles, &policy).is_err());
    let head = RosterHead {
        topic,
        seq: roster.chain().seq(),
        hash: roster.chain().hash(),
        signer: id(0).public(),
        time_ms: 9,
    };
    let named = Signed::sign(&head, id(0).signing_key());
    assert!(RosterChain::begin_at_head(topic, &genesis, &named, &by_admin.entry, &roles, &policy).is_ok());
    let named = Signed::sign(&head, id(1).signing_key());
    assert!(RosterChain::begin_at_head(topic, &genesis, &named, &by_admin.entry, &roles, &policy).is_err());
    assert!(begun.clone().follow(&by_admin.entry, None, None).is_ok());
}

#[test]
fn a_head_counts_for_the_newest_entry_only() {
    let (topic, _, mut roster) = start();
    let head = |roster: &Roster| {
        let chain = roster.chain();
        let head =
            RosterHead { topic, seq: chain.seq(), hash: chain.hash(), signer: id(0).public(), time_ms: 9 };
        Signed::sign(&head, id(0).signing_key())
    };
    apply(&mut roster, &[add(1, Role::Reader), add(2, Role::Reader)]);
    let old = head(&roster);
    assert!(roster.chain().verify_head(&old).is_ok());
    apply(&mut roster, &[add(3, Role::Reader)]);
    assert_eq!(roster.chain().verify_head(&old), Err(RosterError::Known(RosterSeq(1))));
    let gone = remove(&roster, 1);
    apply(&mut roster, &[gone]);
    assert_eq!(
        roster.chain().verify_head(&old),
        Err(RosterError::Known(RosterSeq(1))),
        "below the removal too"
    );
    assert!(roster.chain().verify_head(&head(&roster)).is_ok());
}

#[test]
fn a_removed_member_recognises_itself() {
    let (_, _, mut roster) = start();
    apply(&mut roster, &[add(1, Role::Reader), add(2, Role::Reader)]);
    let gone = remove(&roster, 1);
    let bundle = apply(&mut roster, &[gone]);
    let entry = bundle.entry.peek().unwrap();
    assert_eq!(removes(&entry, &bundle.ops, &id(1).public()), Ok(true));
    assert_eq!(removes(&entry, &bundle.ops, &id(2).public()), Ok(false));
    assert!(removes(&entry, b"other", &id(1).public()).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Role),
    Remove(u8),
    SetRole(u8, Role),
    Policy(u64),
    Rotate,
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Reader), Just(Role::Publisher), Just(Role::Admin)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..12, role()).prop_map(|(n, role)| Step::Add(n, role)),
        3 => (1u8..12).prop_map(Step::Remove),
        2 => (0u8..12, role()).prop_map(|(n, role)| Step::SetRole(n, role)),
        1 => (0u64..1 << 30).prop_map(Step::Policy),
        1 => Just(Step::Rotate),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn roster_and_chain_agree(entries in proptest::collection::vec(proptest::collection::vec(step(), 1..5), 1..12)) {
        let (topic, genesis, mut roster) = start();
        let mut chain = RosterChain::new(topic, &genesis);
        let mut seen = vec![(RosterSeq(0), Hash(topic.0))];
        let mut indexes = std::collections::BTreeSet::from([MemberIndex(0)]);
        for steps in entries {
            let ops: Vec<Op> = steps
                .iter()
                .filter_map(|step| Some(match step {
                    Step::Add(n, role) => add(*n, *role),
                    Step::Remove(n) => {
                        let (member, _) = roster.find(&id(*n).public())?;
                        Op::Remove { member, identity: id(*n).public() }
                    }
                    Step::SetRole(n, role) => {
                        let (member, _) = roster.find(&id(*n).public())?;
                        Op::SetRole { member, identity: id(*n).public(), role: *role }
                    }
                    Step::Policy(ms) => Op::set_policy(Policy { retain_ms: *ms, ..Policy::default() }),
                    Step::Rotate => Op::Rotate,
                }))
                .collect();
            let before = roster.chain().clone();
            let Ok(bundle) = roster.sign(&ops, &id(0), 1) else {
                prop_assert_eq!(roster.chain(), &before);
                continue;
            };
            let change = roster.apply(&bundle.entry, &bundle.ops).unwrap();
            for (index, _, _) in &change.added {
                prop_assert!(indexes.insert(*index), "an index is never used again");
            }
            chain.follow(&bundle.entry, bundle.roles.as_deref(), bundle.policy.as_deref()).unwrap();
            prop_assert_eq!(&chain, roster.chain());
            let saved = RosterChain::decode(&chain.encode()).unwrap();
            prop_assert_eq!(&saved, &chain);
            seen.push((chain.seq(), chain.hash()));
            for (seq, hash) in &seen {
                let expected =
                    if *seq < chain.last_removal_seq() { RosterMatch::Stale } else { RosterMatch::Holds };
                prop_assert_eq!(chain.compare(*seq, hash), expected);
                if expected == RosterMatch::Holds {
                    prop_assert_eq!(chain.compare(*seq, &Hash([0xee; 32])), RosterMatch::Fork);
                }
            }
            for (index, member) in roster.members() {
                prop_assert_eq!(roster.find(&member.identity).map(|(found, _)| found), Some(index));
                let above = (member.role > Role::Reader).then_some(member.role);
                prop_assert_eq!(chain.role_above_reader(&member.identity), above);
            }
        }
    }

    #[test]
    fn random_operations_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = sealcast_proto::roster::decode_ops(&bytes);
        let _ = RosterChain::decode(&bytes);
        let _ = Policy::decode(&bytes);
    }
}
