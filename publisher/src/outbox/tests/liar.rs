//! Answers that cannot be true: left at once for another connection with everything kept, named after a few in a row.

use sealcast_proto::frame::{Ack, Code, Refusal};
use sealcast_proto::record::Record;
use sealcast_proto::{BatchNo, Epoch, Offset};

use super::super::MAX_FAULTS;
use super::world::{Stored, World};
use crate::error::PublishError;
use crate::standstill::Standstill;

type Lie = fn(&mut Vec<Result<Ack, Refusal>>);

fn acks(answers: &mut [Result<Ack, Refusal>], change: impl Fn(&mut Ack)) {
    answers.iter_mut().filter_map(|answer| answer.as_mut().ok()).for_each(change);
}

/// What the newest answers are turned into, so that the newest message is not acknowledged.
const LIES: [Lie; 7] = [
    // The next record's number, the one's before, another epoch's, the header's.
    |answers| acks(answers, |ack| ack.batch_no = ack.batch_no.and_then(BatchNo::next)),
    |answers| acks(answers, |ack| ack.batch_no = ack.batch_no.map(|no| BatchNo(no.0 - 1))),
    |answers| acks(answers, |ack| ack.epoch = Epoch(ack.epoch.0 + 1)),
    |answers| acks(answers, |ack| ack.batch_no = None),
    // A place in the log before, or at, that of the record it follows.
    |answers| acks(answers.last_mut().map(std::slice::from_mut).unwrap(), |ack| ack.offset = Offset(0)),
    |answers| acks(answers.last_mut().map(std::slice::from_mut).unwrap(), |ack| ack.offset = Offset(3)),
    // A refusal of what was never sent.
    |answers| {
        let Ok(ack) = answers[0] else { panic!() };
        let record = Some((ack.epoch, ack.batch_no.map(|no| BatchNo(no.0 + 9))));
        answers.insert(0, Err(Refusal { record, ..Refusal::new(Code::Malformed, "") }));
    },
];

/// A topic with one message published, and two more on their way.
fn two_on_their_way() -> World {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    for n in 1..3 {
        world.send(n);
        world.write();
    }
    let offsets: Vec<_> = world.answers.iter().flatten().map(|ack| ack.offset.0).collect();
    assert_eq!(offsets, [3, 4]);
    world
}

#[test]
fn a_false_answer_is_noticed_at_once_and_costs_nothing() {
    for (n, lie) in LIES.iter().enumerate() {
        let mut world = two_on_their_way();
        lie(&mut world.answers);
        world.answer();
        assert_eq!(world.reconnects, 1, "lie {n}");
        assert!(matches!(world.outbox.standstill(), Some(Standstill::BrokerFault { .. })), "lie {n}");
        world.settle();
        assert!(world.failed.is_none(), "lie {n}: {:?}", world.failed);
        assert_eq!((world.receipts.len(), world.outbox.standstill()), (3, None), "lie {n}");
        let offsets: Vec<_> = world.receipts.values().map(|receipt| receipt.offset).collect();
        assert!(offsets.is_sorted(), "lie {n}");
        world.assert_dense();
    }
}

#[test]
fn a_broker_that_lies_again_and_again_is_named() {
    for (n, lie) in LIES.iter().enumerate() {
        let mut world = two_on_their_way();
        for round in 0..=MAX_FAULTS {
            assert!(world.failed.is_none(), "lie {n}, round {round}");
            if !world.connected {
                world.connect();
                world.write();
            }
            lie(&mut world.answers);
            world.answer();
        }
        assert!(matches!(world.failed, Some(PublishError::Broker(_))), "lie {n}: {:?}", world.failed);
        assert_eq!(world.reconnects, MAX_FAULTS, "lie {n}");
    }
}

#[test]
fn an_answer_given_twice_is_noticed() {
    let mut world = two_on_their_way();
    world.answers.insert(0, world.answers[0].clone());
    world.answer();
    assert_eq!((world.receipts.len(), world.reconnects), (2, 1));
    world.settle();
    assert_eq!(world.receipts.len(), 3);
}

#[test]
fn an_answer_from_a_connection_that_was_left_says_nothing() {
    let mut world = two_on_their_way();
    let late = std::mem::take(&mut world.answers);
    world.disconnect();
    world.answers = late;
    for answer in std::mem::take(&mut world.answers) {
        world.input(super::Input::Acked(answer.unwrap()));
    }
    assert_eq!((world.receipts.len(), world.reconnects), (1, 0));
    world.settle();
    assert_eq!(world.receipts.len(), 3);
}

#[test]
fn a_refusal_without_a_number_is_an_answer_to_nothing() {
    let mut world = two_on_their_way();
    world.answers.insert(0, Err(Refusal::new(Code::Malformed, "what is this?")));
    world.answer();
    assert_eq!(world.reconnects, 1, "the stream is over: what was sent goes on another one");
    world.settle();
    assert_eq!(world.receipts.len(), 3);
}

#[test]
fn a_fork_is_proven_by_two_signed_entries_before_and_after_a_restart() {
    for restart in [false, true] {
        let mut world = World::new(1);
        let early = (world.broker.clone(), world.log.clone());
        world.add(20);
        world.tell();
        world.send(0);
        world.settle();
        world.advance_clock(1000);
        let marks = world.marks.clone();
        let theirs = world.log.iter().rev().find_map(|stored| match stored {
            Stored::Roster(bundle) => Some(bundle.entry.clone()),
            _ => None,
        });
        (world.broker, world.log) = early;
        world.add(21);
        if restart {
            world.restart(marks);
        } else {
            world.tell();
        }
        let Some(PublishError::Fork(fork)) = &world.failed else { panic!("{:?}", world.failed) };
        let [ours, other] = &fork.proof[..] else { panic!("{fork:?}") };
        assert_eq!(Record::decode(ours.clone()), Ok(Record::Roster(theirs.unwrap())));
        let Ok(Record::Roster(other)) = Record::decode(other.clone()) else { panic!("{fork:?}") };
        let other = other.verify(&world.owner.public()).unwrap();
        assert_eq!(other.seq, world.head());
    }
}
