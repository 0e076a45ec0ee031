//! Restarts at every point.

use proptest::prelude::*;
use sealcast_proto::frame::From as Begin;
use sealcast_proto::roster::Role;

use super::client::*;
use super::world::*;
use crate::cursor::{Cursor, CursorError, SavedKeys};

#[test]
fn what_was_taken_does_not_come_again() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a", "b", "c"]);
    pen.publish(&mut world, &["d"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    for taken in 0..=4 {
        client.inbox.ledger().settle(taken);
        let mut next = client.restarted(&world);
        let rest = ["a", "b", "c", "d"].split_at(taken as usize).1;
        assert_eq!(next.connect(&world).said(), rest, "after {taken}");
        assert_eq!(next.inbox.counters().repeated, 0);
    }
}

#[test]
fn what_was_taken_of_a_record_taken_in_part_twice_does_not_come_again() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["lost"]);
    pen.publish(&mut world, &["a", "b", "c"]);
    world.log.remove(2);
    pen.end(&mut world);
    let all = ["Gap 0..1 Missing", "a", "b", "c", "Ended"];
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    assert_eq!(client.items.iter().map(said).collect::<Vec<_>>(), all);
    for first in 0..=5 {
        let mut client = Client::new(&world, 2, Begin::Earliest);
        client.connect(&world).inbox.ledger().settle(first);
        for second in 0..=5 - first {
            let mut next = client.restarted(&world);
            next.connect(&world);
            assert_eq!(next.items.iter().map(said).collect::<Vec<_>>(), all[first as usize..]);
            next.inbox.ledger().settle(second);
            let mut last = next.restarted(&world);
            assert_eq!(last.connect(&world).said(), all[(first + second) as usize..], "{first}, {second}");
        }
    }
}

#[test]
fn the_keys_of_what_was_taken_are_gone_and_the_others_are_not() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.publish(&mut world, &["b", "c"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    let mut next_batch = |taken| {
        client.inbox.ledger().settle(taken);
        match &client.saved().publishers[&key(OWNER)].keys {
            SavedKeys::Open(_, snapshot) => {
                sealcast_envelope::EpochReceiver::restore(snapshot).unwrap().next_batch_no().0
            }
            _ => panic!(),
        }
    };
    assert_eq!([next_batch(0), next_batch(1), next_batch(2), next_batch(3)], [0, 1, 1, 2]);
}

#[test]
fn a_restart_in_the_middle_of_a_locked_run_tells_it_once() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    let plan = pen.plan(&world);
    pen.begin_as(&mut world, &plan, None, &[2]);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Locked 0.."]);
    let mut client = client.restarted(&world);
    pen.publish(&mut world, &["b"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.connect(&world).said(), ["c"]);
}

#[test]
fn a_saved_cursor_that_is_damaged_says_so() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    let bytes = client.inbox.ledger().cursor().encode();
    let other = sealcast_proto::TopicId([0; 32]);
    let error = |bytes: &[u8], topic| Cursor::decode(bytes, topic).err();
    assert_eq!(error(&bytes, &world.topic), None);
    assert_eq!(error(&bytes, &other), Some(CursorError::Topic));
    assert_eq!(error(&[0xff; 9], &world.topic), Some(CursorError::Malformed));
    let mut later = bytes.to_vec();
    later[1] = 9;
    assert_eq!(error(&later, &world.topic), Some(CursorError::Version(9)));
    for at in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 0x10;
        // Whatever it says, it says it without a panic.
        let _ = Cursor::decode(&damaged, &world.topic)
            .map(|cursor| Client::with(&world, 2, Begin::Latest, cursor, false));
        let _ = Cursor::decode(&bytes[..at], &world.topic);
    }
}

#[test]
fn a_tag_and_the_position_are_one() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    for text in ["a", "b", "c"] {
        pen.publish(&mut world, &[text]);
    }
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    client.inbox.ledger().tag("1".into(), 1);
    client.inbox.ledger().settle(3);
    let saved = client.saved();
    assert_eq!(saved.tag.as_deref(), Some(b"1".as_slice()));
    let mut next = client.restarted(&world);
    assert_eq!(next.connect(&world).said(), ["b", "c"]);
    // A tag from before still holds the position, until the next one.
    next.inbox.ledger().settle(2);
    let mut again = next.restarted(&world);
    assert_eq!(again.connect(&world).said(), ["b", "c"]);
}

/// What was delivered to it.
fn position(client: &Client) -> usize {
    match client.subscribe().from {
        Begin::Offset(offset) => offset.0 as usize,
        _ => 0,
    }
}

#[derive(Debug, Clone)]
enum Step {
    Publish(u8, u8),
    Begin(u8),
    Advance,
    End(u8),
    Take(u8),
    Lose,
    Restart,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..2, 1u8..5).prop_map(|(who, count)| Step::Publish(who, count)),
        1 => (0u8..2).prop_map(Step::Begin),
        1 => Just(Step::Advance),
        1 => (0u8..2).prop_map(Step::End),
        6 => (1u8..6).prop_map(Step::Take),
        1 => Just(Step::Lose),
        2 => Just(Step::Restart),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Restarts at any item of any batch: nothing is lost; after a clean close nothing is repeated; and after a crash
    /// only what was taken and not saved is.
    #[test]
    fn restarts_lose_nothing_and_clean_ones_repeat_nothing(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new(&[2]);
        world.add(3, Role::Publisher);
        let mut pens = [Pen::new(OWNER), Pen::new(3)];
        for pen in &mut pens {
            pen.begin(&mut world);
        }
        let mut client = Client::new(&world, 2, Begin::Earliest);
        client.connect(&world);
        let mut published: [Vec<String>; 2] = Default::default();
        let mut got: [Vec<(u64, String)>; 2] = Default::default();
        let mut seen = world.log.len();
        let mut saved = client.saved();
        let mut saved_counts = [0, 0];
        let mut newcomer = 10;
        let put = |got: &mut [Vec<(u64, String)>; 2], item: &crate::Item| {
            if let Ok(message) = item {
                let who = usize::from(message.publisher != key(OWNER));
                got[who].push((message.seq.0, text(message)));
            }
        };
        for step in steps {
            match step {
                Step::Publish(who, count) => {
                    let who = usize::from(who);
                    let texts: Vec<String> = (0..count).map(|n| format!("{who}:{}", published[who].len() + usize::from(n))).collect();
                    pens[who].publish(&mut world, &texts.iter().map(String::as_str).collect::<Vec<_>>());
                    published[who].extend(texts);
                }
                Step::Begin(who) => pens[usize::from(who)].begin(&mut world),
                Step::Advance => {
                    newcomer += 1;
                    world.add(newcomer, Role::Reader);
                    pens[0].advance(&mut world, &[newcomer]);
                }
                Step::End(who) => pens[usize::from(who)].end(&mut world),
                Step::Take(count) => {
                    client.deliver(&world, seen);
                    let count = usize::from(count).min(client.items.len());
                    for item in client.items.drain(..count) {
                        put(&mut got, &item);
                    }
                    client.returned += count as u64;
                    let returned = client.returned;
                    client.inbox.ledger().settle(returned);
                }
                Step::Lose => {
                    client.put(&world, crate::inbox::Input::Lost);
                    client.connect(&world);
                }
                Step::Restart => {
                    // A crash: back to what was saved last.
                    for (got, count) in got.iter_mut().zip(saved_counts) {
                        got.truncate(count);
                    }
                    client = Client::with(&world, 2, Begin::Latest, saved.clone(), false);
                    client.connect(&world);
                }
                Step::Close => {
                    saved = client.saved();
                    saved_counts = [got[0].len(), got[1].len()];
                    client = Client::with(&world, 2, Begin::Latest, saved.clone(), false);
                    client.connect(&world);
                }
            }
            seen = position(&client);
        }
        client.deliver(&world, seen);
        for item in client.take() {
            if let Err(event) = &item {
                prop_assert!(matches!(event, crate::Event::Ended { .. }), "{event}");
            }
            put(&mut got, &item);
        }
        for who in 0..2 {
            let expected: Vec<_> = (0..).zip(published[who].iter().cloned()).collect();
            prop_assert_eq!(&got[who], &expected);
        }
    }
}
