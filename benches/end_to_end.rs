//! The whole path over loopback: seal, sign, QUIC, store, fsync, fan out, verify, open.
//!
//! `cargo bench --bench end_to_end`. One publisher, 1 and 10 subscribers, all real connections to a real broker with
//! the embedded store in a temporary directory. Throughput is messages delivered to every subscriber a second.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sealcast::{
    Durability, Identity, Policy, Publisher, Role, StartAt, State, Subscriber, Subscription, Topic,
    TopicAdmin,
};
use tokio::runtime::Runtime;

const MESSAGES: u64 = 2_000;

struct Path1toN {
    topic: Topic,
    subscriptions: Vec<Subscription>,
    _broker: sealcast_broker::Broker,
    _dir: tempfile::TempDir,
}

async fn path(subscribers: usize, durability: Durability) -> Path1toN {
    let dir = tempfile::tempdir().expect("a directory");
    let broker = start_broker(dir.path()).await;
    let mut rng = rand::rng();
    let owner = Arc::new(Identity::generate(&mut rng));
    let readers: Vec<_> = (0..subscribers).map(|_| Arc::new(Identity::generate(&mut rng))).collect();
    let members: Vec<_> = readers.iter().map(|reader| (reader.public(), Role::Reader)).collect();
    let policy = Policy { durability, ..Policy::default() };
    let state = State::memory();
    let admin = TopicAdmin::create(broker.link(), "bench", owner.clone(), &state, policy, &members)
        .await
        .expect("a topic");
    let mut subscriptions = Vec::new();
    for reader in readers {
        let subscriber = Subscriber::new(reader, State::memory());
        subscriptions
            .push(subscriber.subscribe(admin.link(), StartAt::Latest).await.expect("a subscription"));
    }
    let topic = Publisher::new(owner, state).topic(admin.link()).await.expect("a publisher");
    Path1toN { topic, subscriptions, _broker: broker, _dir: dir }
}

async fn start_broker(data: &Path) -> sealcast_broker::Broker {
    let config = sealcast_broker::Config {
        listen: "127.0.0.1:0".parse().expect("an address"),
        ..sealcast_broker::Config::new(data)
    };
    sealcast_broker::Broker::start(config).await.expect("a broker")
}

/// Publishes `MESSAGES` messages and waits until every subscriber has them all.
async fn round(path: &mut Path1toN, payload: &[u8]) {
    let Path1toN { topic, subscriptions, .. } = path;
    let publish = async {
        for _ in 0..MESSAGES {
            topic.send(payload).await.expect("a place in the queue");
        }
        topic.flush().await.expect("acknowledged");
    };
    let receive = futures_util::future::join_all(subscriptions.iter_mut().map(|subscription| async move {
        for _ in 0..MESSAGES {
            subscription.next().await.expect("it goes on").expect("a message");
        }
    }));
    tokio::join!(publish, receive);
}

fn end_to_end(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut group = criterion.benchmark_group("end_to_end");
    group.sample_size(10).measurement_time(Duration::from_secs(8)).throughput(Throughput::Elements(MESSAGES));
    for (name, durability) in [("durable", Durability::Durable), ("memory", Durability::Memory)] {
        for subscribers in [1, 10] {
            for size in [100, 1024] {
                let payload = vec![7; size];
                let mut path = runtime.block_on(path(subscribers, durability));
                let id = BenchmarkId::new(name, format!("{subscribers}x{size}B"));
                group.bench_function(id, |bencher| {
                    bencher.iter_custom(|rounds| {
                        runtime.block_on(async {
                            let begin = Instant::now();
                            for _ in 0..rounds {
                                round(&mut path, &payload).await;
                            }
                            begin.elapsed()
                        })
                    });
                });
                runtime.block_on(async move { path.topic.close().await.expect("an end") });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
