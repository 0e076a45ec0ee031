//! Messages in order, starts, several publishers.

use sealcast_proto::frame::From as Begin;
use sealcast_proto::roster::Role;

use super::client::*;
use super::world::*;

#[test]
fn messages_come_in_order_with_their_numbers() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a", "b"]);
    pen.publish(&mut world, &["c"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    let items = client.take();
    let messages: Vec<_> = items.iter().map(|item| item.as_ref().unwrap()).collect();
    assert_eq!(
        messages.iter().map(|m| (text(m), m.seq.0)).collect::<Vec<_>>(),
        [("a".into(), 0), ("b".into(), 1), ("c".into(), 2)]
    );
    assert!(messages.iter().all(|m| m.publisher == key(OWNER) && m.topic == world.topic));
}

#[test]
fn latest_begins_with_what_comes_next() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["old"]);
    let mut client = Client::new(&world, 2, Begin::Latest);
    client.connect(&world);
    assert_eq!(client.said(), [""; 0]);
    let from = world.log.len();
    pen.publish(&mut world, &["new"]);
    assert_eq!(client.deliver(&world, from).said(), ["new"]);
}

#[test]
fn an_offset_in_the_middle_of_an_epoch_begins_there() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    for text in ["a", "b", "c"] {
        pen.publish(&mut world, &[text]);
    }
    let mut client = Client::new(&world, 2, Begin::Offset(sealcast_proto::Offset(3)));
    assert_eq!(client.connect(&world).said(), ["b", "c"]);
}

#[test]
fn publishers_are_followed_one_by_one() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Publisher);
    let (mut one, mut two) = (Pen::new(OWNER), Pen::new(3));
    one.begin(&mut world);
    two.begin(&mut world);
    // One number for two epochs: the signature decides whose a batch is.
    assert_eq!(one.sender().epoch(), two.sender().epoch());
    one.publish(&mut world, &["1a"]);
    two.publish(&mut world, &["2a"]);
    one.publish(&mut world, &["1b"]);
    two.end(&mut world);
    one.publish(&mut world, &["1c"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["1a", "2a", "1b", "Ended", "1c"]);
}

#[test]
fn epochs_follow_one_another() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    world.add(3, Role::Reader);
    pen.advance(&mut world, &[3]);
    pen.publish(&mut world, &["c"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "b", "c"]);
    assert_eq!(client.fetches, 0);
}

#[test]
fn a_start_after_an_advance_fetches_the_epochs_it_needs() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    for newcomer in [3, 4] {
        world.add(newcomer, Role::Reader);
        pen.advance(&mut world, &[newcomer]);
    }
    let mut client = Client::new(&world, 2, Begin::Latest);
    client.connect(&world);
    assert_eq!(client.fetches, 0, "only when there is something to open");
    let from = world.log.len();
    pen.publish(&mut world, &["b"]);
    assert_eq!(client.deliver(&world, from).said(), ["b"]);
    assert_eq!(client.fetches, 1);
}
