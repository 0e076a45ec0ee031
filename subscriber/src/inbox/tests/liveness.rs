//! Signs of life and their absence.

use sealcast_proto::frame::{From as Begin, Reply};
use sealcast_proto::roster::Role;

use super::client::*;
use super::world::*;
use crate::inbox::Input;

/// A reader at the head of a topic with one message.
fn at_head() -> (World, Pen, Client) {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a"]);
    world.now += 1;
    (world, pen, client)
}

fn after(world: &mut World, client: &mut Client, ms: u64) -> Vec<String> {
    world.now += ms;
    client.tick(world).said()
}

#[test]
fn three_intervals_of_silence_are_said_once() {
    let (mut world, mut pen, mut client) = at_head();
    assert_eq!(after(&mut world, &mut client, 2900), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 100), ["Stalled"]);
    assert_eq!(after(&mut world, &mut client, 10_000), [""; 0]);
    // It recovers, and falls silent again.
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(after(&mut world, &mut client, 2999), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 1), ["Stalled"]);
    pen.publish(&mut world, &["b"]);
    assert_eq!(client.deliver(&world, 3).said(), ["b"]);
    assert_eq!(after(&mut world, &mut client, 3000), ["Stalled"]);
}

#[test]
fn beacons_keep_a_publisher_alive() {
    let (mut world, pen, mut client) = at_head();
    for _ in 0..10 {
        client.feed(&world, [pen.beacon(&world)]);
        assert_eq!(after(&mut world, &mut client, 2000), [""; 0]);
    }
}

#[test]
fn an_old_beacon_is_no_sign_of_life() {
    let (mut world, pen, mut client) = at_head();
    let beacon = pen.beacon(&world);
    for _ in 0..2 {
        client.feed(&world, [beacon.clone()]);
        assert_eq!(after(&mut world, &mut client, 1000), [""; 0]);
    }
    client.feed(&world, [beacon]);
    assert_eq!(after(&mut world, &mut client, 1000), ["Stalled"]);
}

#[test]
fn a_beacon_from_another_time_is_no_sign_of_life() {
    let (mut world, pen, mut client) = at_head();
    let ahead_by = |world: &mut World, ms: u64| {
        world.now += ms;
        let beacon = pen.beacon(world);
        world.now -= ms;
        beacon
    };
    assert_eq!(after(&mut world, &mut client, 2000), [""; 0]);
    let future = ahead_by(&mut world, 30_001);
    client.feed(&world, [future]);
    assert_eq!(after(&mut world, &mut client, 1000), ["Stalled"]);
    // A clock that is off by less counts.
    let near = ahead_by(&mut world, 29_000);
    client.feed(&world, [near]);
    assert_eq!(after(&mut world, &mut client, 2999), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 1), ["Stalled"]);
}

#[test]
fn a_forged_beacon_is_no_sign_of_life() {
    let (mut world, pen, mut client) = at_head();
    let Reply::Beacon(publisher, beacon) = pen.beacon(&world) else { panic!() };
    let mut signature = *beacon.signature();
    signature[0] ^= 1;
    let forged = sealcast_proto::Signed::from_parts(beacon.body().clone(), &signature).unwrap();
    client.feed(&world, [Reply::Beacon(publisher, forged)]);
    assert_eq!(client.inbox.counters().invalid, 1);
    assert_eq!(after(&mut world, &mut client, 3000), ["Stalled"]);
}

#[test]
fn after_its_end_a_publisher_may_be_silent() {
    let (mut world, mut pen, mut client) = at_head();
    pen.end(&mut world);
    assert_eq!(client.deliver(&world, 3).said(), ["Ended"]);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
    // Unless it begins again.
    pen.begin(&mut world);
    assert_eq!(client.deliver(&world, 4).said(), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 3000), ["Stalled"]);
}

#[test]
fn a_removed_publisher_may_be_silent() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Publisher);
    let mut pen = Pen::new(3);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a"]);
    world.remove(3);
    client.deliver(&world, world.log.len() - 1);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
}

#[test]
fn while_catching_up_only_no_record_at_all_is_silence() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Publisher);
    let (mut one, mut two) = (Pen::new(OWNER), Pen::new(3));
    one.begin(&mut world);
    two.begin(&mut world);
    one.publish(&mut world, &["a"]);
    let mut replies = world.serve(&Client::new(&world, 2, Begin::Earliest).subscribe(), &key(2));
    replies.pop();
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.feed(&world, replies).said(), ["a"]);
    for at in 5..8 {
        world.now += 2500;
        one.publish(&mut world, &["b"]);
        assert_eq!(client.deliver(&world, at).tick(&world).said(), ["b"]);
    }
    assert_eq!(after(&mut world, &mut client, 3000), ["Stalled", "Stalled"]);
}

#[test]
fn no_connection_is_silence_too() {
    let (mut world, _, mut client) = at_head();
    client.put(&world, Input::Lost);
    assert_eq!(after(&mut world, &mut client, 2000), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 1000), ["Stalled"]);
    assert_eq!(client.connect(&world).said(), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0], "said once, until it lives");
}

#[test]
fn a_broker_that_begins_again_and_again_buys_no_time() {
    let (mut world, _, mut client) = at_head();
    for _ in 0..2 {
        world.now += 1400;
        client.feed(&world, [Reply::AtHead { next_offset: world.next_offset(), end_of_stream: false }]);
        client.put(&world, Input::Lost);
        assert_eq!(client.connect(&world).tick(&world).said(), [""; 0]);
    }
    assert_eq!(after(&mut world, &mut client, 200), ["Stalled"]);
}

#[test]
fn while_the_application_is_slow_nobody_is_silent() {
    let (mut world, _, mut client) = at_head();
    world.now += 1000;
    client.put(&world, Input::Paused);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
    client.put(&world, Input::Resumed);
    assert_eq!(after(&mut world, &mut client, 1900), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 200), ["Stalled"]);
}

#[test]
fn a_batch_that_a_beacon_spoke_of_and_does_not_come_is_withheld() {
    let (mut world, mut pen, mut client) = at_head();
    pen.publish(&mut world, &["b"]);
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(after(&mut world, &mut client, 2900), [""; 0]);
    world.now += 100;
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(client.tick(&world).said(), ["Gap 1.. Withheld"]);
    // Said once.
    for _ in 0..5 {
        world.now += 1000;
        client.feed(&world, [pen.beacon(&world)]);
        assert_eq!(client.tick(&world).said(), [""; 0]);
    }
    // It comes after all.
    assert_eq!(client.deliver(&world, 3).said(), ["b"]);
}

#[test]
fn a_batch_that_comes_in_time_is_no_gap() {
    let (mut world, mut pen, mut client) = at_head();
    pen.publish(&mut world, &["b"]);
    client.feed(&world, [pen.beacon(&world)]);
    world.now += 1000;
    assert_eq!(client.deliver(&world, 3).said(), ["b"]);
    world.now += 1000;
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(after(&mut world, &mut client, 1500), [""; 0]);
}

#[test]
fn a_header_or_an_entry_that_a_beacon_spoke_of_and_does_not_come_is_withheld() {
    let (mut world, mut pen, mut client) = at_head();
    let older = pen.beacon(&world);
    pen.begin(&mut world);
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(after(&mut world, &mut client, 3000), ["Gap 1.. Withheld"]);
    assert_eq!(client.deliver(&world, 3).said(), [""; 0]);
    // One of the epoch before is behind.
    client.feed(&world, [older]);
    assert_eq!(client.tick(&world).said(), [""; 0]);

    let (mut world, pen, mut client) = at_head();
    world.add(4, Role::Reader);
    client.feed(&world, [pen.beacon(&world)]);
    world.now += 2000;
    client.feed(&world, [pen.beacon(&world)]);
    assert_eq!(after(&mut world, &mut client, 1000), ["Gap 1.. Withheld"]);
}

#[test]
fn a_beacon_behind_is_ignored() {
    let (mut world, mut pen, mut client) = at_head();
    let behind = pen.beacon(&world);
    pen.publish(&mut world, &["b"]);
    client.deliver(&world, 3).take();
    client.feed(&world, [behind]);
    assert_eq!(after(&mut world, &mut client, 1000), [""; 0]);
}

#[test]
fn a_beacon_with_another_last_batch_is_a_fork() {
    let (world, _, mut client) = at_head();
    let (mut other_world, mut other) = (World::new(&[2]), Pen::new(OWNER));
    other.begin(&mut other_world);
    other.publish(&mut other_world, &["A"]);
    other_world.now += 1;
    client.feed(&world, [other.beacon(&other_world)]);
    assert_eq!(client.said(), ["Fork publisher"]);
}

#[test]
fn a_beacon_with_another_roster_is_a_fork() {
    let (mut world, pen, mut client) = at_head();
    let beacon = pen.sender().beacon(world.roster.chain().seq(), sealcast_proto::Hash([9; 32]), world.now);
    client.feed(&world, [Reply::Beacon(pen.public(), beacon)]);
    assert_eq!(client.said(), ["Fork publisher"]);
    world.now += 1;
    assert!(client.tick(&world).ended);
}

#[test]
fn a_roster_that_nobody_confirms_is_stale() {
    let mut world = World::new(&[2]);
    world.set_policy(|policy| policy.max_roster_age_ms = 60_000);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 1), ["RosterStale"]);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
    let head = sealcast_proto::object::RosterHead {
        topic: world.topic,
        seq: world.roster.chain().seq(),
        hash: world.roster.chain().hash(),
        signer: key(OWNER),
        time_ms: world.now,
    };
    let head = sealcast_proto::Signed::sign(&head, identity(OWNER).signing_key());
    client.feed(&world, [Reply::Head(head)]);
    assert_eq!(after(&mut world, &mut client, 60_000), [""; 0]);
    assert_eq!(after(&mut world, &mut client, 1), ["RosterStale"]);
}
