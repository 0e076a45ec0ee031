//! Prekeys that are not what they seem: substituted, old, useless, or somebody else's.

use std::sync::{Arc, Mutex};

use sealcast::{Role, StartAt, renew_prekey};
use sealcast_envelope::WrapKey;
use sealcast_proto::frame::{EpochDelivery, Reply, Request};
use sealcast_proto::object::Prekey;
use sealcast_proto::{Signed, SlotSource};

use super::pen::Pen;
use super::real::Real;
use super::world::{OWNER, World, identity, key, now_ms};
use super::{Stage, until};
use crate::hostile::Answer;

/// A prekey that `signer` signed in `owner`'s name.
fn prekey(owner: u8, signer: u8, from_ms: u64, to_ms: u64, x25519: [u8; 32]) -> Signed<Prekey> {
    let id = u32::try_from(from_ms / 1000).unwrap();
    let prekey =
        Prekey { owner: key(owner), prekey_id: id, x25519, not_before_ms: from_ms, not_after_ms: to_ms };
    Signed::sign(&prekey, identity(signer).signing_key())
}

type Seen = Arc<Mutex<Vec<EpochDelivery>>>;

/// Before the owner: each prekey changed as told. Before everybody: headers and slots are noted.
fn twist(
    real: &Real,
    change: impl Fn(Signed<Prekey>) -> Vec<Signed<Prekey>> + Send + Sync + 'static,
) -> Seen {
    let (seen, change) = (Seen::default(), Arc::new(change));
    let notes = seen.clone();
    real.hostile.turn(move |who, request| {
        let watch = who == key(OWNER) && matches!(request, Request::Watch(..));
        let (notes, change) = (notes.clone(), change.clone());
        Answer::Relay(Box::new(move |reply| match reply {
            Reply::Prekey(prekey) if watch => change(prekey).into_iter().map(Reply::Prekey).collect(),
            Reply::Epoch(epoch) => {
                notes.lock().unwrap().push(epoch.clone());
                vec![Reply::Epoch(epoch)]
            }
            other => vec![other],
        }))
    });
    seen
}

/// Member 2 has subscribed once: its prekey is at the broker.
async fn with_a_reader() -> Real {
    let real = Real::new(&[(2, Role::Reader), (3, Role::Reader)]).await;
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    let topic = real.publisher(OWNER, "first").await.unwrap();
    // Its prekey is stored before long; a header that uses it says so.
    loop {
        let receipt = topic.publish("first").await.unwrap();
        assert_eq!(until(&mut reader, "first").await, [""; 0]);
        if receipt.seq.0 > 0 {
            break;
        }
    }
    topic.close().await.unwrap();
    reader.close().await.unwrap();
    let me = Arc::new(identity(2));
    renew_prekey(&real.link(), me, &real.state("reader")).await.unwrap();
    real
}

/// The broker puts a prekey of its own in place of a member's: under the member's name, under its own, or with the
/// member's signature. The publisher wraps to none of them, and the member reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_substituted_prekey_is_not_wrapped_to() {
    let real = with_a_reader().await;
    let seen = twist(&real, |genuine| {
        let parsed = genuine.peek().unwrap();
        let mut bent = parsed.clone();
        bent.x25519 = [9; 32];
        let (from, to) = (parsed.not_before_ms, parsed.not_after_ms);
        vec![
            prekey(2, 66, from, to, [9; 32]),
            prekey(66, 66, from, to, [9; 32]),
            Signed::from_parts(sealcast_proto::object::Object::encode(&bent).into(), genuine.signature())
                .unwrap(),
        ]
    });
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Latest).await;
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    // Headers go to the owner too, without slots.
    let slot = seen.lock().unwrap().iter().filter_map(|epoch| epoch.slot).next_back().unwrap();
    assert_eq!(slot.source, SlotSource::Static, "no prekey was seen that holds");
}

/// After a restart the broker shows a member's older prekey, none, one that is newer and has expired, or one that begins in
/// two days: no slot under any of them, and it is reported. A newer one that is valid is taken.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_or_expired_prekey_is_never_wrapped_to() {
    const HOUR: u64 = 3_600_000;
    let real = with_a_reader().await;
    let now = now_ms() / 1000 * 1000;
    let between = |from: u64, to: u64| prekey(2, 2, from, to, WrapKey::of_identity(&key(7)).to_bytes());
    let unreachable = async |shown: Vec<Signed<Prekey>>| {
        twist(&real, move |genuine| match genuine.peek().unwrap().owner == key(2) {
            true => shown.clone(),
            false => vec![genuine],
        });
        let topic = real.publisher(OWNER, "owner").await.unwrap();
        topic.publish("a message").await.unwrap();
        let unreachable = topic.status().unreachable;
        topic.close().await.unwrap();
        unreachable
    };
    assert_eq!(unreachable(vec![between(now - 24 * HOUR, now + 24 * HOUR)]).await, [], "it was seen");
    let none = vec![];
    let older = vec![between(now - 48 * HOUR, now + 24 * HOUR)];
    let expired = vec![between(now - 2 * HOUR, now - HOUR)];
    let of_the_future = vec![between(now + 48 * HOUR, now + 72 * HOUR)];
    for shown in [none, older, expired, of_the_future] {
        let what = format!("{:?}", shown.iter().map(Signed::peek).collect::<Vec<_>>());
        assert_eq!(unreachable(shown).await, [key(2)], "{what}");
    }
    assert_eq!(unreachable(vec![between(now - 2 * HOUR, now + HOUR)]).await, [], "newer and valid");
}

/// A member registers a prekey of small order: it gets no slot and is reported; the others read on.
#[tokio::test(flavor = "multi_thread")]
async fn a_prekey_of_small_order_locks_out_its_owner_alone() {
    let real = with_a_reader().await;
    twist(&real, |genuine| {
        let now = now_ms() / 1000 * 1000;
        vec![genuine, prekey(3, 3, now, now + 1_000_000, [0; 32])]
    });
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Latest).await;
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    assert_eq!(topic.status().unreachable, [key(3)]);
}

/// A member registers another's key as its own, as it is or so written that X25519 takes it for the same: the other's slot
/// stays its own, and the copy opens for neither.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_registered_by_another_member_opens_nothing() {
    let same = WrapKey::of_identity(&key(2)).to_bytes();
    let mut related = same;
    related[31] |= 0x80;
    for registered in [same, related] {
        let mut world = World::new(&[2, 3]);
        let id = u32::try_from(world.now / 1000).unwrap();
        world.prekeys.insert(key(3), (id, registered));
        let mut pen = Pen::new(OWNER);
        let plan = pen.plan(&world);
        pen.begin_as(&mut world, &plan, None, &[2]);
        pen.publish(&mut world, &["for neither"]);
        pen.begin(&mut world);
        pen.publish(&mut world, &["end"]);
        let copied = world.record(1, &key(3)).unwrap();
        let stage = Stage::twisted(world, move |_, who, mut replies| {
            let at = replies.iter().position(|reply| matches!(reply, Reply::Epoch(_))).unwrap();
            let Reply::Epoch(mut delivery) = copied.clone() else { panic!() };
            if who == key(2)
                && let Some(slot) = &mut delivery.slot
            {
                slot.source = SlotSource::Static;
            }
            replies[at] = Reply::Epoch(delivery);
            replies
        });
        assert_eq!(until(&mut stage.reader(2).await, "end").await, ["Locked 0..1"]);
    }
}

/// A publisher that is kept in the dark about a member's prekey, and one that wraps for a prekey that the member never
/// made: the member says so.
#[tokio::test(flavor = "multi_thread")]
async fn slots_for_other_keys_than_the_newest_are_named() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let stage = Stage::new(world);
    let mut reader = stage.reader(2).await;
    let mut seal = |stage: &Stage, ahead_ms: u64, foreign: bool| {
        let mut world = stage.world();
        let at = world.log.len();
        let id = u32::try_from(now_ms() / 1000).unwrap() + 1000;
        world.prekeys = foreign.then_some((key(2), (id, [9; 32]))).into_iter().collect();
        world.now = now_ms() + ahead_ms;
        pen.begin(&mut world);
        pen.publish(&mut world, &["m"]);
        pen.begin(&mut world);
        drop(world);
        stage.deliver(at, 2);
    };
    // How soon its own prekey is acknowledged is not seen from here: epochs, until it is.
    loop {
        seal(&stage, 2 * 3_600_000, false);
        if until(&mut reader, "m").await.contains(&"StalePrekey".into()) {
            break;
        }
    }
    seal(&stage, 2 * 3_600_000, true);
    let said = until(&mut reader, "IdentityInUse").await;
    assert!(said.iter().all(|line| line.starts_with("Locked")), "{said:?}");
}
