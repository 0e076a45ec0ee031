//! Members that forge, former members and newcomers that read on: alone, and together with the broker.

use sealcast_proto::frame::Reply;
use sealcast_proto::roster::Role;
use sealcast_proto::slot::Slot;

use super::pen::{Pen, forged, record};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// A member that holds the epoch's key seals a message and signs it with its own key: dropped and counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_the_epoch_key_forges_nothing() {
    let (mut world, mut pen) = world();
    let hash = pen.sender().header_hash();
    let genuine = pen.seal(&world, &["genuine"], false);
    // The member's identity, and the key that it would have the others take for the epoch's.
    let forgeries = [3, 9].map(|n| record(3, forged(&genuine, &hash, &identity(n))));
    world.log.push(Stored::Batch { publisher: pen.public(), batch: genuine });
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        let at = replies.len() - 2;
        replies.splice(at..at, forgeries.clone());
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "genuine").await, ["a"]);
    assert_eq!(reader.counters().await.invalid, 2);
}

/// A reader's own epoch, properly signed by itself, is refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_publishes_is_refused() {
    let (mut world, mut pen) = world();
    let mut reader = Pen::new(3);
    reader.begin(&mut world);
    reader.publish(&mut world, &["from a reader"]);
    pen.publish(&mut world, &["b"]);
    let mut subscription = Stage::new(world).reader(2).await;
    assert_eq!(until(&mut subscription, "b").await, ["a", "Refused NotPublisher"]);
}

/// A removed member goes on with what it holds, on a broker that keeps its removal from it and gives it everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_together_with_the_broker_reads_no_further() {
    reads_no_further(|pen, world| pen.begin(world)).await;
}

/// The same where the removal cost no Diffie-Hellman: of what is under the others' KEKs it opens nothing with its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_together_with_the_broker_opens_no_rewrap() {
    reads_no_further(|pen, world| pen.rewrap(world, &[])).await;
}

async fn reads_no_further(rotate: fn(&mut Pen, &mut World)) {
    let (mut world, mut pen) = world();
    world.remove(2);
    rotate(&mut pen, &mut world);
    pen.publish(&mut world, &["without"]);
    world.add(4, Role::Reader);
    pen.advance(&mut world, &[4]);
    pen.publish(&mut world, &["with another"]);
    pen.end(&mut world);
    // Each slot of each table in turn, the one that was its own among them.
    let slots: Vec<Option<Slot>> = world
        .log
        .iter()
        .filter_map(
            |stored| if let Stored::Epoch { table, .. } = stored { Some(table.clone()) } else { None },
        )
        .flat_map(|table| table.chunks_exact(56).map(Slot::decode).collect::<Vec<_>>())
        .chain([None])
        .collect();
    assert_eq!(slots.len(), 3 + 2 + 1 + 1);
    for slot in slots {
        let given = slot;
        let stage = Stage::twisted(world.clone(), move |_, _, mut replies| {
            for reply in &mut replies {
                match reply {
                    Reply::Roster(delivery) => delivery.ops = None,
                    Reply::Epoch(delivery) if delivery.slot.is_none() => delivery.slot = given,
                    _ => {}
                }
            }
            replies
        });
        let mut removed = stage.reader(2).await;
        assert_eq!(until(&mut removed, "Ended").await, ["a", "Locked 1..3"], "{slot:?}");
    }
}

/// What a former member recorded and what it is told of its removal: everything before, nothing after.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_alone_is_told_and_reads_no_further() {
    let (mut world, mut pen) = world();
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["without"]);
    let mut removed = Stage::new(world).reader(2).await;
    assert_eq!(until(&mut removed, "").await, ["a", "Removed"]);
}

/// A removed member's own epoch, made for the roster of before its removal or for the newest: refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_publisher_that_goes_on_is_refused() {
    let (mut world, mut pen) = world();
    world.add(4, Role::Publisher);
    let mut gone = Pen::new(4);
    gone.begin(&mut world);
    gone.publish(&mut world, &["while it may"]);
    let old = gone.plan(&world);
    world.remove(4);
    gone.publish(&mut world, &["under its old epoch"]);
    let close = gone.close();
    gone.begin_as(&mut world, &old, close, &[]);
    gone.publish(&mut world, &["for the old roster"]);
    gone.begin(&mut world);
    gone.publish(&mut world, &["for the new roster"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let mut reader = Stage::new(world).reader(2).await;
    let said = until(&mut reader, "end").await;
    let refused = ["Refused NotPublisher"; 3];
    assert_eq!(said, [&["a", "while it may"][..], &refused].concat());
}

/// A newcomer is given the whole log from before it joined, with everybody's slots: it opens nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_reads_nothing_of_recorded_traffic() {
    let (mut world, mut pen) = world();
    world.add(4, Role::Reader);
    pen.advance(&mut world, &[4]);
    pen.publish(&mut world, &["b"]);
    let Stored::Epoch { table, .. } = world.log[1].clone() else { panic!() };
    for slot in table.chunks_exact(56).map(Slot::decode) {
        let stage = Stage::twisted(world.clone(), move |_, _, mut replies| {
            for reply in &mut replies {
                if let Reply::Epoch(delivery) = reply
                    && delivery.slot.is_none()
                {
                    delivery.slot = slot;
                }
            }
            replies
        });
        let mut newcomer = stage.reader(4).await;
        assert_eq!(until(&mut newcomer, "b").await, ["Locked 0..1"]);
    }
}

/// A member is removed and comes back: of the time between it reads nothing, whatever slot it is shown there.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_rejoined_reads_nothing_of_the_time_between() {
    let (mut world, mut pen) = world();
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["between"]);
    world.add(2, Role::Reader);
    pen.advance(&mut world, &[2]);
    pen.publish(&mut world, &["again"]);
    let slots: Vec<Slot> = world
        .log
        .iter()
        .filter_map(
            |stored| if let Stored::Epoch { table, .. } = stored { Some(table.clone()) } else { None },
        )
        .flat_map(|table| table.chunks_exact(56).filter_map(Slot::decode).collect::<Vec<_>>())
        .collect();
    let between = world
        .log
        .iter()
        .filter_map(
            |stored| if let Stored::Epoch { header, .. } = stored { Some(header.hash()) } else { None },
        )
        .nth(1)
        .unwrap();
    for slot in slots {
        let stage = Stage::twisted(world.clone(), move |_, _, mut replies| {
            for reply in &mut replies {
                if let Reply::Epoch(delivery) = reply
                    && delivery.header.hash() == between
                {
                    delivery.slot = Some(slot);
                }
            }
            replies
        });
        let mut back = stage.reader(2).await;
        // Its first membership's slot is not served any more: its index is another one now.
        assert_eq!(until(&mut back, "again").await, ["Locked 0..2"]);
    }
    assert_eq!(world.roster.find(&key(2)).unwrap().0.0, 3, "an index is never used again");
}
