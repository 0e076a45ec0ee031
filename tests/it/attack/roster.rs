//! The roster in a hostile broker's hands, as subscribers meet it: additions nobody signed, an old state, two histories,
//! a removal that is kept back.

use bytes::Bytes;
use sealcast::{Event, StartAt, State};
use sealcast_proto::Offset;
use sealcast_proto::Signed;
use sealcast_proto::frame::{Code, HoleReason, Refusal, Reply, RosterDelivery};
use sealcast_proto::hash::{HashLabel, hash};
use sealcast_proto::object::RosterEntry;
use sealcast_proto::record::Record;
use sealcast_proto::roster::{Op, Role, encode_ops};

use super::pen::{Pen, resign};
use super::world::{OWNER, Stored, World, identity, key, now_ms};
use super::{Stage, next, until};

fn world() -> (World, Pen) {
    let mut world = World::new(&[2, 3]);
    world.set_policy(|policy| policy.beacon_ms = 100);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// The stranger that attackers would like to have on the roster, and its first words.
const STRANGER: u8 = 66;

/// What follows an addition of the stranger, made by `entry` from the genuine one: nothing is taken, and the genuine
/// history goes on.
async fn is_refused(forge: impl Fn(&World, RosterDelivery) -> RosterDelivery) {
    let (world, mut pen) = world();
    // What a world would be in which the addition holds.
    let (mut false_world, mut stranger) = (world.clone(), Pen::new(STRANGER));
    let at = world.log.len();
    false_world.add(STRANGER, Role::Publisher);
    stranger.begin(&mut false_world);
    stranger.publish(&mut false_world, &["from a stranger"]);
    let replies: Vec<Reply> = (at..false_world.log.len())
        .flat_map(|at| false_world.record(at, &key(2)))
        .map(|reply| match reply {
            Reply::Roster(delivery) => Reply::Roster(forge(&world, delivery)),
            other => other,
        })
        .collect();
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    // It asks again, and is shown the genuine log.
    pen.publish(&mut stage.world(), &["end"]);
    stage.hostile.push(replies);
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    assert_eq!(reader.counters().await.invalid, 1);
}

/// The addition without a signature (what broke group messengers whose server managed the members).
#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_addition_is_refused() {
    is_refused(|_, mut delivery| {
        delivery.entry = Signed::from_parts(delivery.entry.body().clone(), &[0; 64]).unwrap();
        delivery
    })
    .await;
}

/// The addition signed by a stranger, by a reader, or by the stranger who says it is the owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrongly_signed_addition_is_refused() {
    for signer in [STRANGER, 2, 3] {
        for honest in [true, false] {
            is_refused(|_, mut delivery| {
                let mut entry = delivery.entry.peek().unwrap();
                if honest {
                    entry.signer = key(signer);
                }
                delivery.entry = Signed::sign(&entry, identity(signer).signing_key());
                delivery
            })
            .await;
        }
    }
}

/// A genuine entry, with a roles list or a policy that it did not sign.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_the_entry_did_not_sign_is_refused() {
    is_refused(|world, mut delivery| {
        delivery.roles = Some(world.roster.chain().roles_bytes());
        delivery
    })
    .await;
    is_refused(|_, mut delivery| {
        delivery.roles = None;
        delivery
    })
    .await;
}

/// After a restart the broker shows a roster that ends before what was seen: named for every start, and the state stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_roster_is_named_after_a_restart() {
    let (old, mut pen) = world();
    let mut world = old.clone();
    world.remove(3);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    let stage = Stage::new(world.clone());
    let state = State::memory();
    let mut reader = stage.subscribe(2, state.clone(), StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "b").await, ["a"]);
    reader.close().await.unwrap();
    *stage.world() = old.clone();
    let mut reader = stage.subscribe(2, state.clone(), StartAt::Resume).await;
    assert_eq!(until(&mut reader, "").await, ["Rollback"]);
    reader.close().await.unwrap();
    // The honest broker is back.
    pen.publish(&mut world, &["end"]);
    *stage.world() = world;
    let mut reader = stage.subscribe(2, state.clone(), StartAt::Resume).await;
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    reader.close().await.unwrap();
    // The marks hold for every start.
    *stage.world() = old;
    for from in [StartAt::Earliest, StartAt::Latest] {
        let mut reader = stage.subscribe(2, state.clone(), from).await;
        assert_eq!(until(&mut reader, "").await, ["Rollback"]);
        reader.close().await.unwrap();
    }
}

/// The owner's key signs two different entries with one number: terminal, with a proof that anybody can check.
#[tokio::test(flavor = "multi_thread")]
async fn a_fork_is_proven_to_anybody() {
    let (mut world, _) = world();
    let mut other = world.clone();
    world.add(7, Role::Reader);
    other.add(8, Role::Reader);
    let at = world.log.len() - 1;
    let topic = world.topic;
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    stage.hostile.push([other.record(at, &key(2)).unwrap()]);
    let item = next(&mut reader).await;
    let Some(Err(Event::Fork { publisher: None, proof })) = item else { panic!("{item:?}") };
    assert!(next(&mut reader).await.is_none(), "nothing follows");
    let entries = proof.into_iter().map(|part| match Record::decode(part) {
        Ok(Record::Roster(entry)) => (entry.verify(&key(OWNER)).unwrap(), entry.hash()),
        other => panic!("{other:?}"),
    });
    let entries: Vec<_> = entries.collect();
    let [(one, one_hash), (two, two_hash)] = &entries[..] else { panic!() };
    assert_eq!((one.topic, one.seq), (topic, two.seq));
    assert_ne!(one_hash, two_hash);
}

/// A removal is kept from a subscriber: what is sealed for the roster after it is refused, and beacons name it.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_withheld_from_a_subscriber_is_named() {
    let (mut world, mut pen) = world();
    let stage = Stage::new(world.clone());
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    let at = world.log.len();
    world.remove(3);
    world.now = now_ms();
    // The publisher knows, and says so at once, under its old epoch.
    stage.hostile.push([pen.beacon(&world)]);
    assert_eq!(until(&mut reader, "Gap 1.. Withheld").await, [""; 0]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    stage.hostile.push((at + 1..world.log.len()).flat_map(|at| world.record(at, &key(2))));
    assert_eq!(until(&mut reader, "Refused RosterAhead").await, [""; 0]);
}

/// The removal is delivered, but traffic sealed for the removed member follows it: refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn traffic_from_before_a_removal_is_refused_after_it() {
    let (mut world, mut pen) = world();
    let old = pen.plan(&world);
    world.remove(3);
    pen.publish(&mut world, &["for the removed too"]);
    let close = pen.close();
    pen.begin_as(&mut world, &old, close, &[]);
    pen.publish(&mut world, &["and this"]);
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    let said = until(&mut reader, "Stalled").await;
    assert_eq!(said, ["a", "Refused StaleEpoch", "Refused StaleEpoch"]);
}

/// An entry signed by an admin whose consequences do not follow from its operations: indexes used again, a removal that
/// does not move the fence. Whoever holds no operations refuses what goes backwards.
#[tokio::test(flavor = "multi_thread")]
async fn an_admins_false_consequences_are_refused() {
    let bends: [fn(&mut RosterEntry); 2] =
        [|entry| entry.next_member.0 -= 2, |entry| entry.last_removal_seq.0 = entry.seq.0 + 1];
    for bend in bends {
        is_refused(|_, mut delivery| {
            let mut entry = delivery.entry.peek().unwrap();
            bend(&mut entry);
            delivery.entry = Signed::sign(&entry, identity(OWNER).signing_key());
            delivery
        })
        .await;
    }
}

/// An admin signs an entry after which nobody is an admin.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_cannot_be_removed() {
    let (world, _) = world();
    let (member, _) = world.roster.find(&key(OWNER)).unwrap();
    let op = Op::Remove { member, identity: key(OWNER) };
    assert!(world.roster.sign(std::slice::from_ref(&op), &identity(OWNER), world.now).is_err());
    // Signed all the same, with the consequences that follow.
    let ops = encode_ops(&[op]);
    let harmless = world.roster.sign(&[Op::Rotate], &identity(OWNER), world.now).unwrap();
    let mut entry = harmless.entry.peek().unwrap();
    entry.ops_hash = hash(HashLabel::Ops, &[&ops]);
    entry.roles_hash = hash(HashLabel::Roles, &[b""]);
    entry.last_removal_seq = entry.seq;
    let entry = Signed::sign(&entry, identity(OWNER).signing_key());
    assert!(world.roster.clone().apply(&entry, &ops).is_err());
    is_refused(move |_, mut delivery| {
        delivery.entry = entry_after(&delivery, &entry);
        delivery.roles = Some(Bytes::new());
        delivery
    })
    .await;
}

/// `entry`'s consequences on the chain of `delivery`.
fn entry_after(delivery: &RosterDelivery, entry: &Signed<RosterEntry>) -> Signed<RosterEntry> {
    let (genuine, bad) = (delivery.entry.peek().unwrap(), entry.peek().unwrap());
    let entry = RosterEntry {
        ops_hash: bad.ops_hash,
        roles_hash: bad.roles_hash,
        last_removal_seq: genuine.seq,
        ..genuine
    };
    Signed::sign(&entry, identity(OWNER).signing_key())
}

/// A publisher seals for a roster that only it was shown: the entry's hash is another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_on_another_branch_is_a_fork() {
    let (mut world, mut pen) = world();
    let mut other = world.clone();
    world.add(7, Role::Reader);
    other.add(8, Role::Reader);
    pen.begin(&mut other);
    world.log.push(other.log.pop().unwrap());
    let Some(Stored::Epoch { header, .. }) = world.log.last() else { panic!() };
    // Its signature is genuine: that is the point.
    assert!(resign(header, &pen.identity, |_| {}).hash() == header.hash());
    let mut reader = Stage::new(world).reader(2).await;
    assert_eq!(until(&mut reader, "").await, ["a", "Fork"]);
}

/// A removal is hidden in a hole that the broker blames on retention: no entry is skipped, and the broker is given up
/// before anything after it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_hidden_in_a_hole_is_not_passed_over() {
    let (mut world, mut pen) = world();
    let removal = world.log.len() as u64;
    world.remove(3);
    world.add(7, Role::Reader);
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let stage = Stage::twisted(world, move |_, _, replies| {
        let hole = Reply::Hole(Offset(removal), Offset(removal + 1), HoleReason::Retention);
        let hidden = |reply: Reply| match &reply {
            Reply::Roster(delivery) if delivery.offset.0 == removal => hole.clone(),
            _ => reply,
        };
        replies.into_iter().map(hidden).collect()
    });
    let mut reader = stage.reader(2).await;
    // The broker is named, and nothing behind the hole is taken. Whether the feared gap is told before that depends on how
    // long the attempts took: it is told once the publisher has been silent for its beacon's patience.
    let mut said = until(&mut reader, "end").await;
    said.retain(|line| line != "Gap 1.. Retention");
    assert_eq!(said, ["a", "Broker"]);
}

/// The broker says that the reader was removed: in an entry without a signature, in one that a reader signed, in operations
/// that go with another removal, or in a word of its own. None of it is a removal; its bare word is named as such.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_no_admin_signed_is_not_believed() {
    type Forge = fn(RosterDelivery) -> RosterDelivery;
    let forgeries: [Forge; 3] = [
        |delivery| RosterDelivery {
            entry: Signed::from_parts(delivery.entry.body().clone(), &[0; 64]).unwrap(),
            ..delivery
        },
        |delivery| RosterDelivery {
            entry: Signed::sign(&delivery.entry.peek().unwrap(), identity(3).signing_key()),
            ..delivery
        },
        |delivery| {
            let mut entry = delivery.entry.peek().unwrap();
            entry.signer = key(3);
            RosterDelivery { entry: Signed::sign(&entry, identity(3).signing_key()), ..delivery }
        },
    ];
    for forge in forgeries {
        let (world, mut pen) = world();
        let mut false_world = world.clone();
        false_world.remove(2);
        let Some(Reply::Roster(removal)) = false_world.record(world.log.len(), &key(2)) else { panic!() };
        assert!(removal.ops.is_some(), "it names the reader");
        let stage = Stage::new(world);
        let mut reader = stage.reader(2).await;
        assert_eq!(until(&mut reader, "a").await, [""; 0]);
        pen.publish(&mut stage.world(), &["end"]);
        stage.hostile.push([Reply::Roster(forge(removal))]);
        assert_eq!(until(&mut reader, "end").await, [""; 0]);
        assert_eq!(reader.counters().await.invalid, 1);
    }

    // Another member's removal is genuine; what it is said to do is not.
    let (mut world, mut pen) = world();
    let (member, _) = world.roster.find(&key(2)).unwrap();
    world.remove(3);
    pen.begin(&mut world);
    pen.publish(&mut world, &["end"]);
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        for reply in &mut replies {
            if let Reply::Roster(delivery) = reply {
                delivery.ops = Some(encode_ops(&[Op::Remove { member, identity: key(2) }]));
            }
        }
        replies
    });
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "end").await, ["a"]);
    assert_eq!(reader.counters().await.invalid, 3, "each entry with operations that are not its own");

    let (world, _) = self::world();
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    stage.hostile.push([Reply::Refused(Refusal::new(Code::NotAllowed, "you were removed"))]);
    assert_eq!(until(&mut reader, "").await, ["NotAllowed"]);
}
