use sealcast_broker::Limits;
use sealcast_broker::settings::Size;
use sealcast_proto::frame::{Code, From, Reply};
use sealcast_proto::roster::Role;
use sealcast_proto::{Offset, TopicId};
use tokio::time::{Duration, sleep};

use crate::disk::Disk;
use crate::hand::{Hand, batch_record};
use crate::world::{Client, Pipe, World, ciphertexts, soon};

const BATCH: usize = 64 << 10;

/// Publishes until told that the disk is full. Returns how many batches were acknowledged; the refused one comes next.
async fn publish_until_full(pipe: &mut Pipe, hand: &mut Hand) -> u64 {
    for n in 0.. {
        let mut before = copy(hand);
        let batch = hand.batch(&noise(hand.next));
        pipe.record(batch_record(&batch)).await;
        match pipe.next().await {
            Reply::Ack(_) => {}
            Reply::Refused(refusal) => {
                assert_eq!((refusal.code, refusal.retry_after_ms > 0), (Code::ReadOnly, true), "{refusal}");
                std::mem::swap(hand, &mut before);
                return n;
            }
            other => panic!("{other:?}"),
        }
    }
    unreachable!()
}

fn copy(hand: &Hand) -> Hand {
    Hand {
        newest: hand.newest.clone(),
        key: hand.key.clone(),
        epoch: hand.epoch,
        next: hand.next,
        seq: hand.seq,
        last: hand.last,
        ..Hand::new(2)
    }
}

/// Says which batch it is, and cannot be made smaller.
fn noise(n: u64) -> Vec<u8> {
    use rand::{RngExt as _, SeedableRng as _};
    let mut noise = vec![0; BATCH];
    rand::rngs::StdRng::seed_from_u64(n).fill(&mut noise[..]);
    noise[..8].copy_from_slice(&n.to_be_bytes());
    noise
}

async fn read(client: &Client, topic: TopicId) -> Vec<u64> {
    let replies = client.read_all(topic, From::Earliest, None).await;
    let number = |it: &bytes::Bytes| u64::from_be_bytes(it[..8].try_into().unwrap());
    ciphertexts(&replies).iter().map(number).collect()
}

/// The disk fills up while a publisher works, and has space again; `reserve`: what the broker keeps free.
async fn fills_up_and_has_space_again(reserve: u64) {
    let mut world = World::not_started();
    let Some(disk) = Disk::over(world.dir.path(), 192 << 20) else { return };
    world.ops = Some(false);
    world.limits = Limits { disk_reserve: Size(reserve), ..Limits::default() };
    world.start().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    let reader = world.client(3).await;
    for round in 1..=2 {
        // Less than the engine moves to files at a time: where little is kept free, it fails half way.
        disk.fill(reserve + (20 << 20));
        let held = hand.next;
        let stored = held + publish_until_full(&mut pipe, &mut hand).await;
        assert!(stored > held, "round {round}");
        assert_eq!(read(&reader, topic).await, (0..stored).collect::<Vec<_>>(), "readers go on");
        assert_eq!(world.ask("/readyz").await, (503, "disk full\n".into()));
        // It stays so, however often it is asked and tried.
        pipe.record(batch_record(&copy(&hand).batch(&noise(hand.next)))).await;
        assert!(matches!(pipe.next().await, Reply::Refused(refusal) if refusal.code == Code::ReadOnly));
        assert_eq!(read(&reader, topic).await, (0..stored).collect::<Vec<_>>());
        disk.make_space();
        // Without anybody writing: whoever sends publishers only to brokers that are ready waits for it.
        let ready = async {
            while world.ask("/readyz").await.0 != 200 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        soon(ready).await;
        // The same bytes, as a publisher would send them; sooner or later they are taken, once.
        let batch = hand.batch(&noise(hand.next));
        let taken = async {
            loop {
                pipe.record(batch_record(&batch)).await;
                match pipe.next().await {
                    Reply::Ack(ack) => break ack,
                    Reply::Refused(refusal) => assert_eq!(refusal.code, Code::ReadOnly, "{refusal}"),
                    other => panic!("{other:?}"),
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        let ack = soon(taken).await;
        assert_eq!(ack.batch_no.unwrap().0, stored);
        assert!(ack.offset > Offset(stored), "{}", ack.offset);
        assert_eq!(read(&reader, topic).await, (0..=stored).collect::<Vec<_>>());
    }
    let stored = hand.next;
    drop((owner, client, reader, pipe));
    world.restart().await;
    assert_eq!(read(&world.client(3).await, topic).await, (0..stored).collect::<Vec<_>>(), "after a restart");
    world.broker.take().unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_is_read_only_until_there_is_space() {
    fills_up_and_has_space_again(64 << 20).await;
}

/// Somebody else took what the broker meant to keep free.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_to_the_last_byte_stops_nothing_for_good() {
    fills_up_and_has_space_again(0).await;
}
