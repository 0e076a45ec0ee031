//! Nothing gets through, and why is said.

use super::*;
use crate::outbox::flight::ANSWER_MS;

#[test]
fn an_old_roster_stops_the_sealing_where_the_policy_says_so() {
    let policy = Policy { max_roster_age_ms: 60_000, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    world.send(0);
    world.settle();
    world.advance_clock(60_000);
    assert_eq!((world.outbox.standstill(), world.outbox.wake_at()), (None, world.now + 1));
    world.advance_clock(1);
    world.send(1);
    world.settle();
    assert_eq!(world.receipts.len(), 1, "no admin's word for a minute");
    let since_ms = world.now;
    assert_eq!(world.outbox.standstill(), Some(Standstill::RosterStale { since_ms }));
    world.add(30);
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    assert_eq!(world.outbox.standstill(), None);
}

#[test]
fn only_an_admins_word_of_now_lets_an_old_roster_seal_on() {
    let policy = Policy { max_roster_age_ms: 60_000, ..Policy::default() };
    let mut world = World::with_policy(1, policy);
    let head = |world: &World, named: u8, signer: u8| {
        let chain = world.broker.roster().chain();
        let (seq, hash) = (chain.seq(), chain.hash());
        let signed = RosterHead {
            topic: world.topic,
            seq,
            hash,
            signer: identity(named).public(),
            time_ms: world.now,
        };
        Input::Head(Signed::sign(&signed, identity(signer).signing_key()))
    };
    world.send(0);
    world.settle();
    let replayed = [head(&world, 1, 1), head(&world, 1, 1)];
    world.advance_clock(60_001);
    world.send(1);
    // The owner's word of then; a publisher's, a reader's and a stranger's of now.
    let forged = [(2, 2), (10, 10), (99, 99), (1, 2)].map(|(named, signer)| head(&world, named, signer));
    for useless in replayed.into_iter().chain(forged) {
        world.input(useless);
        world.settle();
        assert_eq!(world.receipts.len(), 1);
        assert!(matches!(world.outbox.standstill(), Some(Standstill::RosterStale { .. })));
    }
    let word = head(&world, 1, 1);
    world.input(word);
    world.settle();
    assert_eq!((world.receipts.len(), world.outbox.standstill()), (2, None));
}

#[test]
fn a_broker_that_takes_headers_and_no_batches_is_named() {
    let phantom = RosterSeq(1_000);
    for (code, roster_seq) in
        [(Code::StaleEpoch, RosterSeq(1)), (Code::StaleEpoch, phantom), (Code::OutOfOrder, RosterSeq(0))]
    {
        let mut world = World::new(1);
        world.send(0);
        for _ in 0..1000 {
            if world.failed.is_some() {
                break;
            }
            if !world.connected {
                world.connect();
            }
            let before = (world.broker.clone(), world.log.clone());
            world.write();
            let Some(Ok(ack)) = world.answers.pop() else { break };
            let record = Some((ack.epoch, ack.batch_no));
            if ack.batch_no.is_none() {
                world.input(Input::Acked(ack));
            } else {
                (world.broker, world.log) = before;
                world.input(Input::Refused(Refusal { record, roster_seq, ..Refusal::new(code, "no") }));
                world.advance_clock(crate::outbox::FENCE_PATIENCE_MS);
            }
        }
        assert!(matches!(world.failed, Some(PublishError::Broker(_))), "{code:?}: {:?}", world.failed);
        assert!(world.headers().len() <= crate::outbox::MAX_ATTEMPTS as usize + 1);
    }
}

#[test]
fn a_broker_that_answers_nothing_is_left_for_another_connection() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    world.answers.clear();
    let since_ms = world.now;
    world.advance_clock(ANSWER_MS);
    assert_eq!(world.reconnects, 0, "its bytes may have taken a moment");
    world.advance_clock(1_000);
    assert_eq!(world.reconnects, 1);
    assert_eq!(world.outbox.standstill(), Some(Standstill::Unanswered { since_ms }));
    world.settle();
    assert_eq!(world.receipts.len(), 2);
    assert_eq!(world.outbox.standstill(), None);
    world.assert_dense();
}

#[test]
fn a_slow_uplink_is_no_broker_that_answers_nothing() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    // Three batches that are still on their way when the patience with one would be over.
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    let answers = std::mem::take(&mut world.answers);
    assert_eq!(answers.len(), 3);
    for answer in answers {
        world.advance_clock(ANSWER_MS - 1);
        assert_eq!(world.reconnects, 0);
        world.input(Input::Acked(answer.unwrap()));
    }
    assert_eq!(world.receipts.len(), 4);

    // And one that takes as long by itself.
    world.send_bytes(4, sealcast_proto::limits::MAX_MESSAGE / 2);
    world.write();
    let answer = world.answers.pop().unwrap().unwrap();
    let carried_ms =
        sealcast_proto::limits::MAX_MESSAGE as u64 / 2 * 1000 / sealcast_proto::limits::SLOWEST_UPLINK;
    assert!(carried_ms > ANSWER_MS);
    world.advance_clock(carried_ms);
    assert_eq!((world.reconnects, world.outbox.standstill()), (0, None));
    world.input(Input::Acked(answer));
    assert_eq!(world.receipts.len(), 5);
    world.assert_dense();
}

#[test]
fn a_broker_that_cannot_store_is_named_and_nothing_is_lost() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    let refused = |code| Input::Refused(Refusal { retry_after_ms: 300, ..Refusal::new(code, "") });
    world.send(1);
    world.write();
    world.answers.clear();
    // What passes by itself is no matter for the application.
    world.input(refused(Code::Busy));
    assert_eq!((world.reconnects, world.outbox.standstill()), (1, None));
    let since_ms = world.now;
    for n in 2..5 {
        world.connect();
        world.write();
        world.answers.clear();
        world.input(refused(Code::ReadOnly));
        assert_eq!(world.reconnects, n);
        assert_eq!(
            world.outbox.standstill(),
            Some(Standstill::ReadOnly { since_ms }),
            "since the first time"
        );
        world.now += 1;
    }
    world.settle();
    assert_eq!((world.receipts.len(), world.outbox.standstill()), (2, None));
    world.assert_dense();
}
