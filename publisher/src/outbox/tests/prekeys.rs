//! Whom an epoch's key is wrapped to.

use super::*;

#[test]
fn prekeys_are_wrapped_to_and_never_rolled_back() {
    let mut world = World::new(1);
    let member = identity(10);
    let (index, _) = world.broker.roster().find(&member.public()).unwrap();
    let mut rng = rand::rng();
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let first = ring.rotate_if_due(&member, week, fortnight, world.now, true, &mut rng).unwrap();
    let second = ring.rotate_if_due(&member, week, fortnight, world.now + 5000, true, &mut rng).unwrap();
    let source = |world: &World| {
        let header = world.headers().last().cloned().unwrap();
        find_slot(&world.tables[&header.slots_hash], index).map(|slot| slot.source)
    };
    world.input(Input::Prekey(second.clone()));
    world.input(Input::Prekey(first));
    world.send(0);
    world.settle();
    let id = second.peek().unwrap().prekey_id;
    assert_eq!(source(&world), Some(SlotSource::Prekey(id)), "the newest, whatever came last");

    // After a restart the broker keeps quiet about it: the static key does not come back.
    world.advance_clock(1000);
    let marks = world.marks.clone();
    world.restart(marks);
    world.send(1);
    world.settle();
    assert_eq!(source(&world), None);
    assert_eq!(world.outbox.unreachable(), [member.public()]);
    world.input(Input::Prekey(second));
    world.advance_clock(crate::outbox::COALESCE_MS);
    world.settle();
    assert_eq!(source(&world), Some(SlotSource::Prekey(id)), "then an advance gives it a slot");
    assert_eq!(world.headers().last().map(|header| header.mode), Some(Mode::Advance));
}

#[test]
fn a_member_that_comes_back_is_wrapped_to_its_prekey_of_before() {
    let mut world = World::new(2);
    let member = identity(10);
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let prekey = ring.rotate_if_due(&member, week, fortnight, world.now, true, &mut rand::rng()).unwrap();
    world.input(Input::Prekey(prekey.clone()));
    world.send(0);
    world.settle();
    world.remove(10);
    world.settle();
    world.add(10);
    world.settle();
    world.advance_clock(crate::outbox::COALESCE_MS);
    world.settle();
    // The broker has no reason to send the prekey again, nor the member.
    let (index, _) = world.broker.roster().find(&member.public()).unwrap();
    let header = world.headers().last().cloned().unwrap();
    let slot = find_slot(&world.tables[&header.slots_hash], index).unwrap();
    assert_eq!(slot.source, SlotSource::Prekey(prekey.peek().unwrap().prekey_id));
    assert!(world.outbox.unreachable().is_empty());
}

#[test]
fn prekeys_of_strangers_are_not_remembered() {
    let mut world = World::new(1);
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    for n in 100..110 {
        let stranger = identity(n);
        let prekey = PrekeyRing::new()
            .rotate_if_due(&stranger, week, fortnight, world.now, true, &mut rand::rng())
            .unwrap();
        world.input(Input::Prekey(prekey));
    }
    world.advance_clock(1000);
    assert!(world.outbox.take_marks().prekeys.is_empty());
    // Unless they become members: a prekey may arrive before the entry that adds its owner.
    world.add(105);
    world.tell();
    world.send(0);
    world.settle();
    assert_eq!(world.outbox.take_marks().prekeys.len(), 1);
    let (index, _) = world.broker.roster().find(&identity(105).public()).unwrap();
    let table = &world.tables[&world.headers()[0].slots_hash];
    assert!(matches!(find_slot(table, index).unwrap().source, SlotSource::Prekey(_)));
}

#[test]
fn a_prekey_that_comes_while_the_epoch_is_made_is_used_soon() {
    let mut world = World::new(1);
    let member = identity(10);
    let mut ring = PrekeyRing::new();
    let (week, fortnight) = (7 * 86_400_000, 14 * 86_400_000);
    let mut make = |at| ring.rotate_if_due(&member, week, fortnight, at, true, &mut rand::rng()).unwrap();
    let first = make(world.now);
    world.input(Input::Prekey(first));
    world.now += week + fortnight;
    world.send(0);
    world.write(); // Its prekey has expired: no slot. The header is on its way.
    let second = make(world.now);
    world.input(Input::Prekey(second));
    world.settle();
    world.advance_clock(crate::outbox::COALESCE_MS);
    world.settle();
    assert!(world.outbox.unreachable().is_empty());
    assert_eq!(
        world.headers().last().map(|header| (header.mode, header.slot_count)),
        Some((Mode::Advance, 1))
    );
}

#[test]
fn a_member_with_an_unusable_prekey_gets_no_slot_and_makes_nobody_rotate_for_ever() {
    let mut world = World::new(2);
    let member = identity(10);
    let not_before_ms = world.now / 1000 * 1000;
    // A point of low order: whatever the publisher's secret is, everybody knows what they agree on.
    let prekey = Prekey {
        owner: member.public(),
        prekey_id: u32::try_from(not_before_ms / 1000).unwrap(),
        x25519: [0; 32],
        not_before_ms,
        not_after_ms: not_before_ms + 86_400_000,
    };
    world.input(Input::Prekey(Signed::sign(&prekey, member.signing_key())));
    world.send(0);
    for _ in 0..5 {
        world.settle();
        world.advance_clock(100);
    }
    assert_eq!(world.outbox.unreachable(), [member.public()]);
    assert_eq!(world.headers().len(), 1);
    assert_eq!(world.reader(11), texts(0..1));
}
