//! What was sent and not answered: the same bytes again, stored once.

use super::*;

#[test]
fn what_is_in_flight_is_sent_again_verbatim_and_stored_once() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.frames.clear();
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    let sent = world.frames.clone();
    world.disconnect(); // The broker stored all three; its answers are lost.
    world.frames.clear();
    world.settle();
    assert_eq!(world.frames, sent, "the same bytes");
    assert_eq!(world.batches().len(), 4);
    assert_eq!(world.receipts.len(), 4);
    world.assert_dense();
}

#[test]
fn answers_to_what_came_again_may_come_in_any_order() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    for n in 1..4 {
        world.send(n);
        world.write();
    }
    world.disconnect();
    world.connect();
    world.write();
    // A restarted broker knows the newest batch at once and looks the older ones up in its log.
    world.answers.reverse();
    world.answer();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    let offsets: Vec<_> = world.receipts.values().map(|receipt| receipt.offset).collect();
    assert!(offsets.len() == 4 && offsets.is_sorted(), "{offsets:?}");
    world.assert_dense();
}

#[test]
fn a_refusal_may_overtake_the_answers_to_earlier_batches() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    for n in 1..3 {
        world.send(n);
        world.write();
    }
    world.remove(10);
    world.send(3);
    world.write();
    world.answers.rotate_left(1);
    assert!(world.answers[1].is_err(), "{:?}", world.answers);
    world.settle();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    assert_eq!(world.receipts.len(), 4);
    assert_eq!(world.reader(11), texts(0..4));
    world.assert_dense();
}

#[test]
fn a_header_whose_answer_was_lost_is_sent_again_with_its_table() {
    let mut world = World::new(1);
    world.send(0);
    world.write();
    world.disconnect();
    world.tables.clear();
    world.settle();
    assert_eq!(world.headers().len(), 1);
    assert_eq!(world.reader(10), texts(0..1));
    assert_eq!(world.receipts.len(), 1);

    // The other way round: the header never arrived, and the table went with the connection.
    let mut world = World::new(1);
    world.send(0);
    world.connected = false;
    world.input(Input::Lost);
    world.tables.clear();
    world.settle();
    assert_eq!(world.reader(10), texts(0..1));
}

#[test]
fn a_busy_broker_is_asked_again_with_the_same_bytes() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    let frame = world.frames.last().cloned();
    world.answers.clear();
    world.input(Input::Refused(Refusal { retry_after_ms: 300, ..Refusal::new(Code::Busy, "") }));
    assert_eq!(world.reconnects, 1);
    world.settle();
    assert_eq!(world.frames.last().cloned(), frame);
    assert_eq!(world.receipts.len(), 2);
    world.assert_dense();
}

#[test]
fn a_broker_that_asks_for_a_long_wait_is_not_obeyed_for_ever() {
    let mut world = World::new(1);
    let mut effects = Vec::new();
    let busy = Refusal { retry_after_ms: u64::MAX, ..Refusal::new(Code::Busy, "") };
    world.outbox.handle(Input::Refused(busy), world.now, &mut effects);
    assert!(effects.iter().any(
        |effect| matches!(effect, crate::outbox::Effect::Reconnect { after_ms } if *after_ms <= crate::outbox::MAX_RETRY_MS)
    ));
}

#[test]
fn nothing_that_waits_for_an_answer_wakes_the_driver_again_and_again() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.add(20);
    world.tell();
    world.disconnect();
    // An hour later everything is due: an epoch for the newcomer, one for the age, a beacon, the marks.
    world.advance_clock(Policy::default().max_epoch_age_ms);
    assert!(world.outbox.wake_at() > world.now, "without a connection there is nothing to do");
    world.connect();
    world.write_one(); // The header goes out; its answer is awaited.
    world.advance_clock(5_000);
    while world.outbox.has_frame(world.now) {
        world.write_one();
    }
    assert!(world.outbox.wake_at() > world.now);
    world.settle();
    assert_eq!(world.headers().len(), 2);
}
