//! The oracle bites: each thing broken on purpose is named within a few seeds.

use sealcast_sim::{Flaw, Found, Invariant, Sweep};

/// Seeds until the first failure, at most.
const SEEDS: u64 = 400;

fn found(flaw: Flaw) -> Found {
    Sweep { flaw: Some(flaw), ..Sweep::default() }.run(0..SEEDS)
}

fn names(flaw: Flaw, invariants: &[Invariant]) {
    let found = found(flaw);
    let (seed, failure) = found.failures.first().unwrap_or_else(|| panic!("{flaw:?} was not noticed"));
    assert!(invariants.contains(&failure.invariant), "seed {seed} calls {flaw:?} something else: {failure}");
}

#[test]
fn a_broker_without_a_fence_lets_removed_members_read() {
    names(Flaw::NoFence, &[Invariant::MembersOnly]);
}

#[test]
fn a_slot_for_a_removed_member_opens() {
    names(Flaw::WrapsForRemoved, &[Invariant::MembersOnly]);
}

#[test]
fn an_acknowledgement_before_the_fsync() {
    names(Flaw::NoFsync, &[Invariant::Durable]);
}

#[test]
fn a_message_twice() {
    names(Flaw::Redelivers, &[Invariant::NoDuplicate]);
}

#[test]
fn a_message_that_is_lost_after_the_machine() {
    names(Flaw::Swallows, &[Invariant::NoSilentLoss, Invariant::Delivery]);
}

#[test]
fn two_messages_in_the_wrong_order() {
    names(Flaw::Reorders, &[Invariant::Order, Invariant::NoSilentLoss]);
}

#[test]
fn another_message_for_the_same_number() {
    names(Flaw::Substitutes, &[Invariant::Agreement, Invariant::NoDuplicate]);
}

#[test]
fn a_copy_at_the_broker() {
    names(Flaw::Leaks, &[Invariant::NoPlaintext]);
}

#[test]
fn answers_that_never_come() {
    names(Flaw::ForgetsAnswers, &[Invariant::Liveness]);
}
