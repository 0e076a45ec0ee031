use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sealcast_link::{Link, LinkOptions};
use sealcast_proto::frame::{Code, From, Level, Reply, Request};
use sealcast_proto::roster::Role;
use sealcast_proto::{BatchNo, TopicId};
use tokio::time::timeout;

use crate::hand::{Hand, batch_record, header_record, identity};
use crate::servers::Servers;
use crate::world::{Pipe, World, soon};

/// For one step of a new connection; then another is tried.
const SHORT: Duration = Duration::from_secs(3);
/// For servers and edges to come back, elections included; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers, each killed once while a publisher works. It comes again, to the other edge, where it is refused or cut off,
/// as the publisher crate does.
pub async fn every_acknowledged_batch_stands_once_whichever_server_dies() {
    let mut servers = Servers::start(3, "");
    let worlds = [World::edge(&servers.store(), 3).await, World::edge(&servers.store(), 3).await];
    let (topic, admin, _owner) = worlds[0].topic(&[(2, Role::Publisher)]).await;
    let mut hand = Hand::new(2);
    let client = worlds[0].client(2).await;
    let mut pipe: Pipe = client.publish(topic).await;
    client.begin(&mut pipe, topic, &mut hand, &admin, &[1]).await;
    let header = header_record(hand.newest.as_ref().unwrap());
    let count = 300_u64;
    let batches: Vec<_> = (0..count).map(|n| batch_record(&hand.batch(&n.to_be_bytes()))).collect();
    let mut acked = BTreeMap::new();
    let (mut killed, mut turn, mut _link) = (0, 0, None);
    let mut slowest = Duration::ZERO;
    while (acked.len() as u64) < count {
        let begun = Instant::now();
        let first = acked.len();
        if killed < 3 && first as u64 >= count * (killed + 1) / 4 {
            let n = killed as usize;
            if n > 0 {
                servers.restart(n - 1);
                // Two that are not there are one too many.
                settled(&servers).await;
            }
            servers.kill(n);
            killed += 1;
        }
        // A window of batches; what comes back is an ack for each of them, in order, or the end of this stream.
        let window = &batches[first..batches.len().min(first + 25)];
        let mut fine = true;
        for batch in window {
            fine &= soon(pipe.writer.send(Request::Record(batch.clone()).encode())).await.is_ok();
        }
        for _ in window {
            if !fine {
                break;
            }
            match pipe.maybe().await {
                Ok(Some(Reply::Ack(ack))) => {
                    assert_eq!(ack.level, Level::Replicated);
                    let batch_no = ack.batch_no.unwrap();
                    assert_eq!(batch_no, BatchNo(acked.len() as u64), "in order");
                    acked.insert(batch_no, ack.offset);
                }
                Ok(Some(Reply::Refused(refusal))) => {
                    assert!(
                        matches!(
                            refusal.code,
                            Code::ReadOnly | Code::Busy | Code::OutOfOrder | Code::Draining
                        ),
                        "{refusal:?}"
                    );
                    fine = false;
                }
                _ => fine = false,
            }
        }
        let lost = Instant::now();
        while !fine {
            // At the other edge, from the first batch that was not acknowledged.
            turn += 1;
            match session(&worlds[turn % 2], topic, &header).await {
                Some((link, next)) => (_link, pipe, fine) = (Some(link), next, true),
                None => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            assert!(lost.elapsed() < PATIENCE, "no edge takes anything");
        }
        slowest = slowest.max(begun.elapsed());
    }
    assert_eq!(killed, 3);
    println!("{turn} new connections; the slowest window of 25 batches took {slowest:?}");
    for world in &worlds {
        of_use(world, topic, &header).await;
        let mut found = BTreeMap::new();
        for reply in world.client(1).await.read_all(topic, From::Earliest, None).await {
            if let Reply::Record(offset, record) = reply {
                let batch_no = Reply::batch(record).unwrap().peek().unwrap().batch_no;
                assert_eq!(found.insert(batch_no, offset), None, "twice");
            }
        }
        assert_eq!(found, acked);
    }
}

pub async fn an_edge_without_its_cluster_sends_its_clients_away_and_comes_back() {
    let mut servers = Servers::start(1, "");
    let world = World::edge(&servers.store(), 1).await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[1]).await;
    pipe.batch(&mut hand, b"before").await;
    servers.kill(0);
    let begun = Instant::now();
    pipe.record(batch_record(&hand.batch(b"meanwhile"))).await;
    assert_eq!(pipe.refused().await.code, Code::ReadOnly, "not stored, and said so");
    let notice = soon(owner.connection.noticed()).await;
    assert_eq!(notice.code, Code::Draining);
    soon(owner.connection.closed()).await;
    println!("told to go after {:?}", begun.elapsed());
    let header = header_record(hand.newest.as_ref().unwrap());
    servers.restart(0);
    // It is of use again without anybody's doing.
    of_use(&world, topic, &header).await;
}

/// Waits until an edge takes what a publisher sends again; its connection and stream.
pub async fn of_use(world: &World, topic: TopicId, header: &Bytes) -> (Link, Pipe) {
    let begun = Instant::now();
    loop {
        if let Some(session) = session(world, topic, header).await {
            return session;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A publish stream whose header was taken, and the connection it is on, if the edge is of use now.
async fn session(world: &World, topic: TopicId, header: &Bytes) -> Option<(Link, Pipe)> {
    let broker = world.broker.as_ref().unwrap().link().clone();
    let link = Link::new(broker, Arc::new(identity(2)), LinkOptions::default());
    let connection = timeout(SHORT, link.connect()).await.ok()?.ok()?;
    let (writer, reader) = timeout(SHORT, connection.open()).await.ok()?.ok()?;
    let mut pipe = Pipe { writer, reader };
    for request in [Request::Publish(topic), Request::Record(header.clone())] {
        timeout(SHORT, pipe.writer.send(request.encode())).await.ok()?.ok()?;
    }
    let answer = timeout(SHORT, pipe.reader.reply()).await.ok()?.ok()??;
    matches!(answer, Reply::Ack(_)).then_some((link, pipe))
}

/// Waits until every stream has all its copies.
async fn settled(servers: &Servers) {
    use futures_util::TryStreamExt as _;
    let begun = Instant::now();
    let client = async_nats::connect(servers.urls()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    loop {
        let streams: Result<Vec<_>, _> = context.streams().try_collect().await;
        let whole = |info: &async_nats::jetstream::stream::Info| {
            let cluster = info.cluster.as_ref();
            cluster.is_some_and(|it| {
                it.leader.is_some() && it.replicas.iter().all(|other| other.current && !other.offline)
            })
        };
        if streams.is_ok_and(|streams| streams.len() == 16 && streams.iter().all(whole)) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "the servers do not settle");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
