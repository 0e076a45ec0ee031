//! Random histories: whatever happens, every message handed over stands in the log once and in order.

use proptest::prelude::*;

use super::world::{World, identity};

#[derive(Debug, Clone)]
enum Step {
    Send,
    WriteOne,
    Write,
    Answer,
    /// Answers overtake each other.
    Reverse,
    Tell,
    Disconnect,
    Connect,
    Add,
    Remove,
    Clock(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Send),
        3 => Just(Step::WriteOne),
        2 => Just(Step::Write),
        3 => Just(Step::Answer),
        1 => Just(Step::Reverse),
        2 => Just(Step::Tell),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::Add),
        1 => Just(Step::Remove),
        1 => (1u64..200).prop_map(Step::Clock),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_stored_once_in_order(steps in steps()) {
        let mut world = World::new(2);
        let mut sent = 0;
        let mut newcomer = 30;
        // Where each removed reader's part must end.
        let mut gone = Vec::new();
        for step in steps {
            match step {
                Step::Send => {
                    world.send(sent);
                    sent += 1;
                }
                Step::WriteOne => world.write_one(),
                Step::Write => world.write(),
                Step::Answer => world.answer(),
                Step::Reverse => world.answers.reverse(),
                Step::Tell if world.connected => world.tell(),
                Step::Tell => {}
                Step::Disconnect if world.connected => world.disconnect(),
                Step::Connect if !world.connected => world.connect(),
                Step::Disconnect | Step::Connect => {}
                Step::Add if newcomer < 60 => {
                    world.add(newcomer);
                    newcomer += 1;
                }
                Step::Add => {}
                Step::Remove => {
                    let reader = (11..60).find(|n| world.members().contains(&identity(*n).public()));
                    if let Some(n) = reader {
                        world.remove(n);
                        gone.push((n, world.log.len()));
                    }
                }
                Step::Clock(ms) => world.advance_clock(ms),
            }
            prop_assert!(world.failed.is_none(), "{:?}", world.failed);
        }
        for _ in 0..3 {
            world.settle();
            world.advance_clock(100);
        }
        world.settle();
        prop_assert!(world.failed.is_none(), "{:?}", world.failed);
        world.assert_dense();
        prop_assert_eq!(world.receipts.len() as u64, sent);
        let all: Vec<String> = (0..sent).map(|n| format!("message {n}")).collect();
        prop_assert_eq!(world.reader(10), all);
        for (n, at) in gone {
            // With everything it ever held and the whole log, a removed member opens nothing stored after its removal.
            let after = world.log.split_off(at);
            let before = world.reader(n);
            world.log.extend(after);
            prop_assert_eq!(world.reader(n), before);
        }
        prop_assert_eq!(world.outbox.roster().chain().seq(), world.head());
    }
}
