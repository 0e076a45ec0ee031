use std::collections::HashMap;

use sealcast_broker::Limits;
use sealcast_proto::frame::{Code, From, Reply};
use sealcast_proto::roster::Role;
use sealcast_proto::{Epoch, Offset, RosterSeq};
use tokio::task::JoinSet;

use crate::hand::{Admin, Hand, batch_record, genesis, identity};
use crate::servers::Servers;
use crate::world::World;

/// Races at once, a count.
const AT_ONCE: u64 = 16;

/// A publisher at one edge sends batch after batch; an admin at the other removes a member somewhere among them. Whatever the
/// timing: behind the removal stands no batch of the older epoch, and none is acknowledged there.
pub async fn no_edge_takes_an_older_epoch_behind_a_removal() {
    let tries = std::env::var("SEALCAST_RACE_TRIES").map_or(300, |tries| tries.parse().expect("a number"));
    let servers = Servers::start(1, "");
    let edge = async || {
        // A topic for each try: an owner must not remove twice a second in one.
        let limits = Limits { topics_per_owner: usize::MAX, ..Limits::default() };
        let store = Some((sealcast_broker::Servers::read(&servers.store()).unwrap(), 1));
        let mut world = World { limits, store, ..World::not_started() };
        world.start().await;
        world
    };
    let worlds = std::sync::Arc::new([edge().await, edge().await]);
    let mut running = JoinSet::new();
    let (mut stored, mut refused) = (0, 0);
    for n in 0..tries {
        let worlds = worlds.clone();
        running.spawn(async move { race(&worlds, n).await });
        while running.len() as u64 >= AT_ONCE || (n + 1 == tries && !running.is_empty()) {
            let (before, after) = running.join_next().await.unwrap().unwrap();
            (stored, refused) = (stored + before, refused + after);
        }
    }
    println!("{tries} races: {stored} batches before a removal, {refused} refused behind it");
    assert!(stored > 0 && refused > 0, "they did race");
}

/// How many batches were stored, and how many refused.
async fn race(worlds: &[World; 2], n: u64) -> (usize, usize) {
    let (here, there) = (&worlds[(n % 2) as usize], &worlds[((n + 1) % 2) as usize]);
    let mut nonce = [0; 32];
    nonce[..8].copy_from_slice(&n.to_be_bytes());
    let born = sealcast_proto::object::Genesis { nonce, ..genesis(0).1 };
    let signed = sealcast_proto::Signed::sign(&born, identity(1).signing_key());
    let topic = signed.topic_id();
    let owner = there.client(1).await;
    owner.create(&signed).await.unwrap();
    let mut admin = Admin::new(topic, &born);
    owner.append(topic, &admin.add(&[(2, Role::Publisher), (3, Role::Reader)])).await.unwrap();
    let client = here.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[]).await;
    let removal = admin.remove(3);
    let none = hand.last;
    // As many as fit in before it, and some behind.
    let batch = |hand: &mut Hand| (batch_record(&hand.batch(&[7; 200])), hand.last);
    let (batches, hashes): (Vec<_>, Vec<_>) = (0..60).map(|_| batch(&mut hand)).unzip();
    let publish = async {
        for (sent, batch) in batches.iter().enumerate() {
            if n.is_multiple_of(3) && sent % 10 == 9 {
                // In some tries the removal comes early among them, in others late.
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            pipe.record(batch.clone()).await;
        }
        let (mut acks, mut refusals) = (HashMap::new(), 0);
        for _ in &batches {
            match pipe.next().await {
                Reply::Ack(ack) => drop(acks.insert(ack.batch_no.unwrap(), ack.offset)),
                Reply::Refused(refusal) => {
                    assert!(matches!(refusal.code, Code::StaleEpoch | Code::OutOfOrder), "{refusal:?}");
                    refusals += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        (acks, refusals)
    };
    let remove = async {
        // Somewhere in the middle: as far in as the machine makes it.
        for _ in 0..n % 40 {
            tokio::task::yield_now().await;
        }
        owner.append(topic, &removal).await.unwrap()
    };
    let ((acks, refusals), removed) = tokio::join!(publish, remove);
    assert!(acks.values().all(|offset| *offset < removed), "acknowledged behind the removal");
    // And an epoch on the newer roster, from the other edge.
    let newer = there.client(2).await;
    let mut second = newer.publish(topic).await;
    let older: Epoch = hand.newest.as_ref().unwrap().peek().unwrap().epoch;
    // It closes the older one with what was taken of it.
    hand.next = acks.len() as u64;
    hand.last = acks.len().checked_sub(1).map_or(none, |last| hashes[last]);
    newer.begin(&mut second, topic, &mut hand, &admin, &[]).await;
    second.batch(&mut hand, b"newer").await;
    for world in worlds {
        let replies = world.client(1).await.read_all(topic, From::Earliest, None).await;
        let mut removal_at = None;
        let mut before = 0;
        for reply in &replies {
            match reply {
                Reply::Roster(entry) if entry.entry.peek().unwrap().seq == RosterSeq(2) => {
                    removal_at = Some(entry.offset)
                }
                Reply::Record(offset, record) => {
                    let epoch = Reply::batch(record.clone()).unwrap().peek().unwrap().epoch;
                    assert!(epoch > older || *offset < removed, "delivered behind the removal");
                    before += usize::from(epoch == older);
                }
                _ => {}
            }
        }
        assert_eq!(removal_at.unwrap_or(Offset(0)), removed);
        assert_eq!(before, acks.len(), "what was acknowledged is there, once");
    }
    (acks.len(), refusals)
}
