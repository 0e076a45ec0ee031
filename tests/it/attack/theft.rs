//! A state directory in a thief's hands.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sealcast::{Role, StartAt, State, renew_prekey};
use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret};
use sealcast_proto::frame::{EpochDelivery, Reply};
use sealcast_proto::policy::Policy;
use sealcast_proto::{MemberIndex, SlotSource};

use super::pen::Pen;
use super::real::{Real, copy};
use super::until;
use super::world::{OWNER, World, identity, key};
use crate::hostile::Answer;

const DAY: u64 = 24 * 3_600_000;

/// Whether a thief with these prekeys, and with the identity's fixed key or not, opens what was delivered.
fn opens(delivery: &EpochDelivery, ring: &PrekeyRing, fixed: Option<&WrapSecret>) -> bool {
    let (header, hash) = (delivery.header.peek().unwrap(), delivery.header.hash());
    let Some(slot) = &delivery.slot else { return false };
    let prekey = match slot.source {
        SlotSource::Prekey(id) => ring.secret(id),
        _ => None,
    };
    [prekey, fixed]
        .into_iter()
        .flatten()
        .any(|secret| EpochReceiver::open_slot(&header, &hash, slot, &key(2), secret).is_ok())
}

/// A member's directory and identity are stolen after nine weeks. What was sealed for prekeys that are erased stays shut;
/// what was sealed for those still held, three weeks' worth, and for the fixed key before the first prekey, opens: so the
/// README says.
#[test]
fn a_stolen_state_opens_nothing_sealed_before_its_last_erased_prekey() {
    let dir = tempfile::tempdir().unwrap();
    let policy = Policy::default();
    let (rotation, offline) = (policy.prekey_rotation_ms, policy.max_offline_ms);
    let mut world = World::new(&[2]);
    let start = world.now;
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let prekeys = State::dir(dir.path().join("state")).unwrap().prekeys(&key(2));
    for day in 0..63 {
        world.now = start + day * DAY;
        let newest = prekeys
            .update(|ring| {
                ring.rotate_if_due(&identity(2), rotation, offline, world.now, false, &mut rand::rng());
                ring.purge(world.now);
                (ring.newest().unwrap().peek().unwrap(), true)
            })
            .unwrap();
        world.prekeys.insert(key(2), (newest.prekey_id, newest.x25519));
        pen.begin(&mut world);
    }
    copy(&dir.path().join("state"), &dir.path().join("stolen"));
    let stolen = State::dir(dir.path().join("stolen")).unwrap().prekeys(&key(2));
    let fixed = WrapSecret::of_identity(&identity(2));
    let opened: Vec<bool> = stolen
        .update(|ring| {
            let epochs = (1..world.log.len()).map(|at| match world.record(at, &key(2)) {
                Some(Reply::Epoch(delivery)) => opens(&delivery, ring, Some(&fixed)),
                _ => panic!("an epoch a day"),
            });
            (epochs.collect(), false)
        })
        .unwrap();
    assert_eq!(opened.len(), 64);
    assert!(opened[0], "sealed for the fixed key, before the first prekey was seen");
    let window = (rotation + offline) / DAY;
    let first = opened[1..].iter().position(|open| *open).unwrap();
    assert!(opened[1 + first..].iter().all(|open| *open), "{opened:?}");
    assert!(first as u64 >= 62 - window, "sealed on day {first}, stolen on day 62");
    assert!(first as u64 <= 62 - offline / DAY, "the test would see more");
}

/// Prekeys are stolen, the identity is not. A new prekey and a new epoch, and the thief reads nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_prekey_and_a_fresh_epoch_lock_the_thief_out() {
    let mut real = Real::new(&[(2, Role::Reader)]).await;
    let seen: Arc<Mutex<Vec<EpochDelivery>>> = Arc::default();
    let notes = seen.clone();
    real.hostile.turn(move |_, _| {
        let notes = notes.clone();
        Answer::Relay(Box::new(move |reply| {
            if let Reply::Epoch(delivery) = &reply
                && delivery.slot.is_some_and(|slot| slot.member == MemberIndex(1))
            {
                notes.lock().unwrap().push(delivery.clone());
            }
            vec![reply]
        }))
    });
    let me = Arc::new(identity(2));
    renew_prekey(&real.link(), me.clone(), &real.state("reader")).await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Latest).await;
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    topic.publish("before").await.unwrap();
    assert_eq!(until(&mut reader, "before").await, [""; 0]);
    reader.commit().await.unwrap();
    real.copy_state("reader", "stolen");

    renew_prekey(&real.link(), me, &real.state("reader")).await.unwrap();
    let soon = Duration::from_secs(30);
    let confirmed = real.admin.rotate(soon).await.unwrap();
    assert_eq!(confirmed.unheard, []);
    topic.publish("after").await.unwrap();
    assert_eq!(until(&mut reader, "after").await, [""; 0]);

    let seen = seen.lock().unwrap();
    let (before, after) = (seen.first().unwrap(), seen.last().unwrap());
    let stolen = real.state("stolen").prekeys(&key(2));
    let (could, can) =
        stolen.update(|ring| ((opens(before, ring, None), opens(after, ring, None)), false)).unwrap();
    assert!(could, "the theft was one");
    assert!(!can, "and it is over");
}

/// A publisher's directory holds no key of what it sealed: only its own prekeys, as any member's.
#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_state_holds_no_epochs_keys() {
    let real = Real::new(&[(2, Role::Reader), (4, Role::Publisher)]).await;
    let topic = real.publisher(4, "publisher").await.unwrap();
    for text in ["a", "b", "c"] {
        topic.publish(text).await.unwrap();
    }
    real.copy_state("publisher", "stolen");
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    let mut files = Vec::new();
    let mut dirs = vec![real.dir.path().join("stolen")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => files.push((entry.path(), std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    assert!(files.iter().any(|(_, content)| !content.is_empty()));
    // A receiver's saved keys are recognised as such; nothing in a publisher's files restores to one.
    for (path, content) in files {
        for at in 0..content.len() {
            assert!(EpochReceiver::restore(&content[at..]).is_err(), "{}", path.display());
        }
    }
}
