mod missed;

use proptest::prelude::*;
use sealcast_proto::policy::Policy;
use sealcast_proto::record::BatchRecord;
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::{BatchNo, Epoch};

use super::*;
use crate::hand::{Admin, Hand, batch_record, genesis, key};

const ALICE: SessionId = SessionId(1);

struct Bench {
    machine: TopicMachine,
    admin: Admin,
    now_ms: u64,
    next_ticket: u64,
}

impl Bench {
    /// Owner 1, publisher 2, readers 3 and 4; the first entry is stored.
    fn new() -> Self {
        Self::with_policy(None)
    }

    fn with_policy(policy: Option<Policy>) -> Self {
        let (topic, genesis, _) = genesis(0);
        let machine = TopicMachine::new(Acceptor::new(topic, &genesis), Offset(0), 0, Level::Durable);
        let mut bench = Self { machine, admin: Admin::new(topic, &genesis), now_ms: 10_000, next_ticket: 0 };
        let mut ops: Vec<_> = [(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader)]
            .map(|(n, role)| Op::Add { identity: key(n), role })
            .into();
        ops.extend(policy.map(Op::set_policy));
        let bundle = bench.admin.entry(&ops);
        bench.roster(bundle);
        bench.commit();
        bench
    }

    fn handle(&mut self, input: Input) -> Effects {
        let mut effects = Effects::new();
        self.machine.handle(input, self.now_ms, &mut effects);
        effects
    }

    fn roster(&mut self, bundle: EntryBundle) -> Effects {
        self.next_ticket += 1;
        self.handle(Input::Roster { ticket: Ticket(self.next_ticket), bundle })
    }

    fn header(&mut self, session: SessionId, hand: &Hand) -> Effects {
        let header = hand.newest.clone().unwrap();
        let incoming = Incoming::Header { header, table: Table::Empty };
        self.handle(Input::Publish { session, identity: hand.id.public(), incoming })
    }

    fn batch(&mut self, session: SessionId, hand: &Hand, batch: &BatchRecord) -> Effects {
        let header = hand.newest.as_ref().unwrap();
        let mut claim = Box::new(BatchClaim::read(batch).unwrap());
        claim.verify(&header.hash(), &header.peek().unwrap().epoch_vk);
        let incoming = Incoming::Batch { claim, record: batch_record(batch) };
        self.handle(Input::Publish { session, identity: hand.id.public(), incoming })
    }

    /// Everything appended so far is stored.
    fn commit(&mut self) -> Effects {
        self.handle(Input::Committed(self.machine.next_offset()))
    }

    fn started(&mut self, n: u8, session: SessionId) -> Hand {
        let mut hand = Hand::new(n);
        hand.begin(&self.admin.roster, &[]);
        assert_eq!(appends(&self.header(session, &hand)), 1);
        self.commit();
        hand
    }
}

fn appends(effects: &Effects) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Append(_))).count()
}

/// The effects in short, without appends.
fn told(effects: &Effects) -> Vec<String> {
    let show = |effect: &Effect| match effect {
        Effect::Append(_) | Effect::Index(..) | Effect::Gone { .. } => None,
        Effect::Ack(session, ack) => Some(format!("ack {} @{} {:?}", session.0, ack.offset, ack.level)),
        Effect::Refuse(session, refusal) => Some(format!("refuse {} {:?}", session.0, refusal.code)),
        Effect::Superseded(session) => Some(format!("superseded {}", session.0)),
        Effect::Roster(_, Ok(offset)) => Some(format!("done @{offset}")),
        Effect::Roster(_, Err(refusal)) => Some(format!("roster {:?}", refusal.code)),
        Effect::Compare { session, .. } => Some(format!("compare {}", session.0)),
        Effect::Readable(readable) => Some(format!("readable {}", readable.offset)),
        Effect::Visible(offset) => Some(format!("visible {offset}")),
    };
    effects.iter().filter_map(show).collect()
}

#[test]
fn nothing_is_acknowledged_or_readable_before_it_is_stored() {
    let mut bench = Bench::new();
    let mut hand = Hand::new(2);
    hand.begin(&bench.admin.roster, &[]);
    let header = bench.header(ALICE, &hand);
    assert_eq!((appends(&header), told(&header)), (1, vec![]));
    let (first, second) = (hand.batch(b"one"), hand.batch(b"two"));
    assert!(told(&bench.batch(ALICE, &hand, &first)).is_empty());
    assert!(told(&bench.batch(ALICE, &hand, &second)).is_empty());
    assert_eq!(bench.machine.visible(), Offset(1));
    let half = bench.handle(Input::Committed(Offset(3)));
    assert_eq!(
        told(&half),
        ["readable 1", "ack 1 @1 Durable", "readable 2", "ack 1 @2 Durable", "visible 3"]
    );
    assert_eq!(told(&bench.commit()), ["readable 3", "ack 1 @3 Durable", "visible 4"]);
}

#[test]
fn a_repeat_is_acknowledged_once_the_first_is_stored() {
    let mut bench = Bench::new();
    let mut hand = bench.started(2, ALICE);
    let batch = hand.batch(b"one");
    bench.batch(ALICE, &hand, &batch);
    let again = bench.batch(SessionId(2), &hand, &batch);
    assert_eq!((appends(&again), told(&again)), (0, vec![]));
    assert_eq!(told(&bench.commit()), ["readable 2", "ack 1 @2 Durable", "ack 2 @2 Durable", "visible 3"]);
    assert_eq!(told(&bench.batch(ALICE, &hand, &batch)), ["ack 1 @2 Durable"]);
}

#[test]
fn memory_topics_do_not_wait_for_the_disk_but_keep_the_order() {
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let mut bench = Bench::with_policy(Some(policy));
    let mut hand = Hand::new(2);
    hand.begin(&bench.admin.roster, &[]);
    let early = hand.batch(b"one");
    bench.header(ALICE, &hand);
    // The header is not on disk yet: what builds on it waits with it.
    let effects = bench.batch(ALICE, &hand, &early);
    assert!(told(&effects).is_empty());
    assert!(matches!(&effects[..], [Effect::Append(append)] if !append.sync));
    let all = bench.handle(Input::Committed(Offset(2)));
    assert_eq!(told(&all), ["readable 1", "ack 1 @1 Durable", "readable 2", "ack 1 @2 Memory", "visible 3"]);
    let late = hand.batch(b"two");
    assert_eq!(told(&bench.batch(ALICE, &hand, &late)), ["readable 3", "ack 1 @3 Memory", "visible 4"]);
}

#[test]
fn no_offset_of_a_memory_topic_is_used_before_its_reservation_is_stored() {
    let policy = Policy { durability: Durability::Memory, ..Policy::default() };
    let mut bench = Bench::with_policy(Some(policy));
    let mut hand = Hand::new(2);
    hand.begin(&bench.admin.roster, &[]);
    bench.header(ALICE, &hand);
    bench.commit();
    // As after a restart that finds all of the reservation used.
    let offset = bench.machine.next_offset();
    bench.machine.reserved = offset;
    let first = hand.batch(b"one");
    let effects = bench.batch(ALICE, &hand, &first);
    let reserved = Offset(offset.0 + limits::OFFSETS_RESERVED);
    assert!(
        matches!(&effects[..], [Effect::Append(append)] if append.sync && append.reserve == Some(reserved))
    );
    let second = hand.batch(b"two");
    let effects = bench.batch(ALICE, &hand, &second);
    assert!(matches!(&effects[..], [Effect::Append(append)] if !append.sync && append.reserve.is_none()));
    let all = told(&bench.commit());
    assert_eq!(all, ["readable 2", "ack 1 @2 Memory", "readable 3", "ack 1 @3 Memory", "visible 4"]);
    let third = hand.batch(b"three");
    assert_eq!(told(&bench.batch(ALICE, &hand, &third)), ["readable 4", "ack 1 @4 Memory", "visible 5"]);
}

#[test]
fn removals_come_at_most_one_a_second() {
    let mut bench = Bench::new();
    let first = bench.admin.remove(3);
    assert_eq!(appends(&bench.roster(first)), 1);
    let second = bench.admin.remove(4);
    bench.now_ms += 400;
    let effects = bench.roster(second.clone());
    assert!(matches!(&effects[..], [Effect::Roster(_, Err(refusal))]
        if refusal.code == Code::Busy && refusal.retry_after_ms == 600));
    bench.now_ms += 600;
    assert_eq!(appends(&bench.roster(second.clone())), 1);
    // Large tables take longer: so do removals. A retry of what is stored is no removal.
    bench.handle(Input::TableUploaded(4_000));
    bench.commit();
    assert_eq!(told(&bench.roster(second)), ["done @2"]);
    let third = bench.admin.add(&[(9, Role::Reader)]);
    assert_eq!(appends(&bench.roster(third)), 1);
    let fourth = bench.admin.remove(9);
    bench.now_ms += 7_000;
    assert_eq!(told(&bench.roster(fourth.clone())), ["roster Busy"]);
    bench.now_ms += 1_000;
    assert_eq!(appends(&bench.roster(fourth)), 1);
}

#[test]
fn the_fence_acts_before_the_removal_is_on_disk() {
    let mut bench = Bench::new();
    let mut hand = bench.started(2, ALICE);
    let removal = bench.admin.remove(3);
    bench.roster(removal);
    let batch = hand.batch(b"late");
    let effects = bench.batch(ALICE, &hand, &batch);
    assert!(matches!(&effects[..], [Effect::Refuse(ALICE, refusal)]
        if refusal.code == Code::StaleEpoch && refusal.roster_seq == RosterSeq(2)));
}

#[test]
fn a_newer_epoch_from_another_session_ends_the_older_one() {
    let mut bench = Bench::new();
    let mut hand = bench.started(2, ALICE);
    let repeat = bench.header(SessionId(7), &hand);
    assert_eq!(told(&repeat), ["ack 7 @1 Durable"], "a reconnect is no rival");
    hand.begin(&bench.admin.roster, &[]);
    assert_eq!(told(&bench.header(SessionId(8), &hand)), ["superseded 7"]);
    bench.handle(Input::Ended(SessionId(8)));
    hand.begin(&bench.admin.roster, &[]);
    assert!(told(&bench.header(SessionId(9), &hand)).is_empty());
}

#[test]
fn a_failed_write_refuses_all_that_waits_and_all_that_comes() {
    let mut bench = Bench::new();
    let mut hand = bench.started(2, ALICE);
    let (first, second) = (hand.batch(b"one"), hand.batch(b"two"));
    bench.batch(ALICE, &hand, &first);
    let entry = bench.admin.add(&[(9, Role::Reader)]);
    bench.roster(entry);
    assert_eq!(told(&bench.handle(Input::Failed)), ["refuse 1 ReadOnly", "roster ReadOnly"]);
    let effects = bench.batch(ALICE, &hand, &second);
    assert!(matches!(&effects[..], [Effect::Refuse(ALICE, refusal)]
        if refusal.code == Code::ReadOnly && refusal.record == Some((Epoch(101), Some(BatchNo(1))))));
    assert_eq!(bench.machine.visible(), Offset(2), "nothing became readable");
}

#[test]
fn what_is_no_longer_remembered_is_compared_with_the_log_once_all_of_it_is_there() {
    let (topic, genesis, _) = genesis(0);
    let mut bench = Bench::new();
    let mut acceptor = Acceptor::with_window(topic, &genesis, 1);
    acceptor.accept_roster(&Admin::new(topic, &genesis).add(&[(2, Role::Publisher)]), Offset(0)).unwrap();
    bench.machine = TopicMachine::new(acceptor, Offset(1), 0, Level::Durable);
    bench.admin = Admin::new(topic, &genesis);
    bench.admin.add(&[(2, Role::Publisher)]);
    let mut hand = bench.started(2, ALICE);
    let (first, second) = (hand.batch(b"one"), hand.batch(b"two"));
    bench.batch(ALICE, &hand, &first);
    bench.batch(ALICE, &hand, &second);
    assert!(
        told(&bench.batch(ALICE, &hand, &first)).is_empty(),
        "the first may still be on its way to the log"
    );
    let all = ["readable 2", "ack 1 @2 Durable", "readable 3", "ack 1 @3 Durable", "compare 1", "visible 4"];
    assert_eq!(told(&bench.commit()), all);
}

#[test]
fn standing_follows_the_roster() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.standing(&key(9)), None);
    let reader = bench.machine.standing(&key(3)).unwrap();
    assert_eq!((reader.role, reader.removed, reader.as_of), (Some(Role::Reader), None, RosterSeq(1)));
    let removal = bench.admin.remove(3);
    bench.roster(removal);
    let gone = bench.machine.standing(&key(3)).unwrap();
    assert_eq!((gone.role, gone.removed), (None, Some((RosterSeq(2), Offset(1)))));
    let again = bench.admin.add(&[(3, Role::Publisher)]);
    bench.roster(again);
    let back = bench.machine.standing(&key(3)).unwrap();
    assert_eq!((back.role, back.removed), (Some(Role::Publisher), None));
    assert_eq!(back.indexes, [bench.admin.index(3), reader.indexes[0]]);
}

/// What may happen to a topic, in any order.
#[derive(Debug, Clone)]
enum Step {
    Batch(SessionId),
    Repeat(SessionId, prop::sample::Index),
    Epoch(SessionId),
    Add,
    Commit(prop::sample::Index),
    Ended(SessionId),
}

fn step() -> impl Strategy<Value = Step> {
    let session = || (1u64..4).prop_map(SessionId);
    let any_of = any::<prop::sample::Index>;
    prop_oneof![
        6 => session().prop_map(Step::Batch),
        3 => (session(), any_of()).prop_map(|(session, which)| Step::Repeat(session, which)),
        1 => session().prop_map(Step::Epoch),
        1 => Just(Step::Add),
        4 => any_of().prop_map(Step::Commit),
        1 => session().prop_map(Step::Ended),
    ]
}

proptest! {
    /// In whatever order things happen: a record is acknowledged and readable only once it is stored, in the order of the
    /// log, each once; and every record that was sent is answered exactly once.
    #[test]
    fn nothing_is_said_too_early_and_nothing_twice(
        steps in prop::collection::vec(step(), 1..80),
        memory in any::<bool>(),
    ) {
        let durability = if memory { Durability::Memory } else { Durability::Durable };
        let mut bench = Bench::with_policy(Some(Policy { durability, ..Policy::default() }));
        let mut hand = bench.started(2, ALICE);
        let (mut committed, mut readable, mut sent, mut answered) = (bench.machine.next_offset(), 1, 0, 0);
        let (mut held, mut unsynced, mut added) = (vec![], std::collections::HashSet::new(), 0u8);
        for step in steps {
            let effects = match step {
                Step::Batch(session) => {
                    let batch = hand.batch(b"noise");
                    sent += 1;
                    held.push((hand.newest.clone().unwrap(), batch.clone()));
                    bench.batch(session, &hand, &batch)
                }
                Step::Repeat(session, which) => {
                    if held.is_empty() { continue; }
                    let (header, batch) = which.get(&held).clone();
                    let mut then = Hand::new(2);
                    then.newest = Some(header);
                    sent += 1;
                    bench.batch(session, &then, &batch)
                }
                Step::Epoch(session) => {
                    hand.begin(&bench.admin.roster, &[]);
                    sent += 1;
                    bench.header(session, &hand)
                }
                Step::Add => {
                    added += 1;
                    let entry = bench.admin.add(&[(50 + added, Role::Reader)]);
                    bench.roster(entry)
                }
                Step::Commit(upto) => {
                    let ahead = bench.machine.next_offset().0 - committed.0;
                    committed = Offset(committed.0 + upto.index(ahead as usize + 1) as u64);
                    bench.handle(Input::Committed(committed))
                }
                Step::Ended(session) => bench.handle(Input::Ended(session)),
            };
            for effect in &effects {
                match effect {
                    Effect::Append(append) => {
                        prop_assert_eq!(append.sync, !(memory && matches!(append.index, Index::Batch { .. })));
                        if !append.sync { unsynced.insert(append.offset); }
                    }
                    Effect::Readable(item) => {
                        readable += 1;
                        prop_assert_eq!(item.offset.0, readable);
                        prop_assert!(item.offset < committed || unsynced.contains(&item.offset));
                    }
                    Effect::Visible(offset) => prop_assert_eq!(offset.0, readable + 1),
                    Effect::Ack(_, ack) => {
                        answered += 1;
                        prop_assert!(ack.offset.0 <= readable, "acknowledged before it can be read");
                    }
                    Effect::Refuse(..) | Effect::Compare { .. } => answered += 1,
                    Effect::Roster(_, result) => {
                        prop_assert!(result.as_ref().is_ok_and(|offset| offset.0 <= readable));
                    }
                    Effect::Superseded(_) | Effect::Index(..) | Effect::Gone { .. } => {}
                }
            }
        }
        let last = bench.commit();
        let count = |effect: &Effect| matches!(effect, Effect::Ack(..) | Effect::Refuse(..) | Effect::Compare { .. });
        answered += last.iter().filter(|effect| count(effect)).count();
        prop_assert_eq!(answered, sent);
        prop_assert_eq!(bench.machine.visible(), bench.machine.next_offset());
    }
}
