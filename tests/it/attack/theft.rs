//! A state directory in a thief's hands.

use std::sync::Arc;
use std::time::Duration;

use sealcast::{Role, StartAt, State, renew_prekey};
use sealcast_envelope::{EpochReceiver, PrekeyRing, WrapSecret};
use sealcast_proto::frame::{EpochDelivery, Reply};
use sealcast_proto::policy::Policy;
use sealcast_proto::record::BatchRecord;
use sealcast_proto::{BatchNo, SlotSource};

use super::pen::Pen;
use super::real::{Real, copy, files, noted, opened};
use super::world::{OWNER, Stored, World, identity, key};
use super::{Stage, until};

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
    let seen = noted(&real);
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

/// A publisher's directory holds no key of what it sealed or will seal: only its own prekeys, as any member's. The same
/// search finds the keys that a subscriber's directory holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_publishers_state_holds_no_epochs_keys() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let seen = noted(&real);
    let topic = real.publisher(OWNER, "publisher").await.unwrap();
    topic.publish("a").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    for text in ["b", "c"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(until(&mut reader, "c").await, ["a", "b"]);
    reader.commit().await.unwrap();
    topic.close().await.unwrap();
    let mut receiver = opened(seen.lock().unwrap().first().unwrap(), 2);
    let mut secrets = vec![receiver.snapshot()[93..125].to_vec()];
    for n in 0..=4 {
        receiver.fast_forward(BatchNo(n)).unwrap();
        secrets.push(receiver.snapshot()[61..93].to_vec());
    }
    let holds = |dir: &str| -> Vec<bool> {
        let files = files(&real.dir.path().join(dir));
        assert!(files.iter().any(|(_, content)| !content.is_empty()));
        let is_in =
            |secret: &Vec<u8>| files.iter().any(|(_, file)| file.windows(32).any(|part| part == secret));
        secrets.iter().map(is_in).collect()
    };
    assert_eq!(holds("publisher"), [false; 6]);
    // The secret of an advance, and the key of the batch that comes next: three were read.
    assert_eq!(holds("reader"), [true, false, false, false, true, false]);
}

/// A subscriber's cursor is stolen, without its prekeys and its identity: it opens what comes next in that epoch and what
/// is derived from it; nothing that was read before, and nothing of the next fresh epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_cursor_opens_nothing_from_before_it_and_no_fresh_epoch() {
    const SNAPSHOT: usize = 157;
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["an epoch that is over"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["read"]);
    pen.publish(&mut world, &["read too"]);
    let stage = Stage::new(world);
    let state = State::dir(dir.path().join("reader")).unwrap();
    let mut reader = stage.subscribe(2, state, StartAt::Earliest).await;
    assert_eq!(until(&mut reader, "read too").await.len(), 2);
    reader.commit().await.unwrap();
    copy(&dir.path().join("reader"), &dir.path().join("stolen"));
    reader.close().await.unwrap();

    let mut world = stage.world().clone();
    pen.publish(&mut world, &["the next"]);
    pen.advance(&mut world, &[]);
    pen.publish(&mut world, &["derived"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["fresh"]);
    let headers = world.log.iter().filter_map(|stored| match stored {
        Stored::Epoch { header, .. } => Some((header.peek().unwrap(), header.hash())),
        _ => None,
    });
    let headers: Vec<_> = headers.collect();
    let ours = |held: &EpochReceiver| headers.iter().any(|(_, hash)| *hash == held.header_hash());
    let saved: Vec<Vec<u8>> = files(&dir.path().join("stolen"))
        .iter()
        .flat_map(|(_, content)| content.windows(SNAPSHOT))
        .filter(|bytes| EpochReceiver::restore(bytes).is_ok_and(|held| ours(&held)))
        .map(<[u8]>::to_vec)
        .collect();
    let [saved] = &saved[..] else { panic!("one epoch's keys are saved, not {}", saved.len()) };
    // Whatever the thief writes into it about where it stands.
    let opens = |batch: &BatchRecord| {
        let epoch = batch.peek().unwrap().epoch;
        let (header, hash) = headers.iter().find(|(header, _)| header.epoch == epoch).unwrap();
        let verified = || batch.clone().verify(hash, &header.epoch_vk).unwrap();
        (0..4_u64).any(|at| {
            let mut bytes = saved.clone();
            bytes[53..61].copy_from_slice(&at.to_be_bytes());
            let Ok(held) = EpochReceiver::restore(&bytes) else { return false };
            let derived = held.advance(header, hash).ok();
            [Some(held), derived].into_iter().flatten().any(|mut held| held.open(&verified()).is_ok())
        })
    };
    let batches = world.log.iter().filter_map(|stored| match stored {
        Stored::Batch { batch, .. } => Some(opens(batch)),
        _ => None,
    });
    assert_eq!(batches.collect::<Vec<_>>(), [false, false, false, true, true, false]);
}
