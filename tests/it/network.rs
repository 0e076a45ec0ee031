//! Bad networks between clients and broker: whatever happens on the way, every message arrives once and in order, and the
//! application does nothing for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sealcast::{
    BrokerLink, ConnectError, Event, Identity, Policy, PublishError, Publisher, Role, StartAt, State,
    SubscribeError, Subscriber, Subscription, Topic, TopicAdmin, TopicLink,
};

use crate::parties::Broker;
use crate::program::World;
use crate::relay::{Relay, Weather};

/// Messages in a part of a test, a count.
const PART: u64 = 100;

/// A broker process, a publisher and two subscribers, each behind bad weather of its own.
struct Scene {
    world: World,
    broker: Broker,
    relays: Vec<Relay>,
    topic: Topic,
    /// Each with what it has: every message below this.
    subscriptions: Vec<(Subscription, u64)>,
    sent: u64,
}

impl Scene {
    async fn new(weather: Weather, seed: u64) -> Self {
        let world = World::new();
        let broker = Broker::start(&world);
        let link: BrokerLink = broker.link.parse().unwrap();
        let (host, port) = link.hosts()[0].clone();
        let addr: SocketAddr = format!("{host}:{port}").parse().unwrap();

        let mut rng = rand::rng();
        let owner = Arc::new(Identity::generate(&mut rng));
        let readers = [0, 1].map(|_| Arc::new(Identity::generate(&mut rng)));
        let members: Vec<_> = readers.iter().map(|reader| (reader.public(), Role::Reader)).collect();
        let state = State::memory();
        let policy = Policy::default();
        let admin = TopicAdmin::create(&link, "feed", owner.clone(), &state, policy, &members).await.unwrap();
        let id = admin.link().topic;
        admin.close().await;

        let mut relays = Vec::new();
        let mut behind = async |n: u64| {
            let relay = Relay::start(addr, weather.clone(), seed * 10 + n).await;
            let hosts = vec![(relay.addr().ip().to_string(), relay.addr().port())];
            relays.push(relay);
            TopicLink { broker: BrokerLink::new(hosts, link.keys().to_vec()).unwrap(), topic: id }
        };
        // A first connection is tried once; in such weather one asks again.
        let (publisher, link) = (Publisher::new(owner, state), behind(0).await);
        let topic = loop {
            match publisher.topic(&link).await {
                Ok(topic) => break topic,
                Err(PublishError::Connect(error)) if matches!(*error, ConnectError::Unreachable { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let mut subscriptions = Vec::new();
        for (reader, n) in readers.into_iter().zip(1..) {
            let (subscriber, link) = (Subscriber::new(reader, State::memory()), behind(n).await);
            let subscription = loop {
                match subscriber.subscribe(&link, StartAt::Latest).await {
                    Ok(subscription) => break subscription,
                    Err(SubscribeError::Connect(error))
                        if matches!(*error, ConnectError::Unreachable { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            subscriptions.push((subscription, 0));
        }
        Self { world, broker, relays, topic, subscriptions, sent: 0 }
    }

    /// Sends a part; it is on its way, no more.
    async fn send(&mut self) {
        for n in self.sent..self.sent + PART {
            self.topic.send(message(n)).await.unwrap();
        }
        self.sent += PART;
    }

    /// Every subscriber gets exactly the messages up to `to` that it does not have yet.
    async fn receive(&mut self, to: u64) {
        let received = self.subscriptions.iter_mut().map(|(subscription, next)| async move {
            while *next < to {
                match subscription.next().await {
                    Some(Ok(received)) => {
                        assert_eq!(received.seq.0, *next);
                        assert_eq!(received.message.payload, message(*next));
                        *next += 1;
                    }
                    // Silence that lasts is told, truly; nothing else may be.
                    Some(Err(Event::Stalled { .. })) => {}
                    other => panic!("{other:?} instead of {next}"),
                }
            }
        });
        futures_util::future::join_all(received).await;
    }

    /// Ends it all: what was sent is acknowledged, everybody has it and nobody anything else.
    async fn end(mut self) {
        self.receive(self.sent).await;
        self.topic.close().await.unwrap();
        for (subscription, _) in &mut self.subscriptions {
            loop {
                match subscription.next().await {
                    Some(Err(Event::Stalled { .. })) => {}
                    Some(Err(Event::Ended { .. })) => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(subscription.counters().await.repeated, 0);
        }
        for relay in &self.relays {
            let counts = relay.counts();
            let happened = [&counts.lost, &counts.duplicated, &counts.overtaken];
            assert!(happened.iter().all(|count| count.load(Ordering::Relaxed) > 0), "{counts:?}");
        }
    }
}

/// Message `n`: its number, and a length that makes batches of one packet and of many.
fn message(n: u64) -> Vec<u8> {
    let len = if n % PART == 7 { 20_000 } else { 8 + (n * 7_919 % 500) as usize };
    let mut bytes = vec![n as u8; len];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_delay_reordering_and_new_source_ports_lose_and_repeat_nothing() {
    let mut scene = Scene::new(Weather::storm(), 1).await;
    for _ in 0..3 {
        scene.send().await;
        scene.receive(scene.sent - PART / 2).await;
        // The rest is on its way.
        scene.relays.iter().for_each(Relay::rebind);
        scene.receive(scene.sent).await;
    }
    for relay in &scene.relays {
        assert!(relay.counts().ports.load(Ordering::Relaxed) > 3, "the broker saw other ports");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_path_is_waited_for() {
    let mut scene = Scene::new(Weather::storm(), 2).await;
    scene.send().await;
    scene.receive(scene.sent - PART / 2).await;
    scene.relays.iter().for_each(Relay::cut);
    scene.send().await;
    // The publisher tries and tries again.
    scene.relays[0].swallowed(10).await;
    scene.relays.iter().for_each(Relay::mend);
    scene.receive(scene.sent).await;
    scene.send().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_behind_a_bad_path_is_found_again() {
    let mut scene = Scene::new(Weather::storm(), 3).await;
    for _ in 0..2 {
        scene.send().await;
        scene.receive(scene.sent - PART / 2).await;
        scene.broker.kill();
        scene.send().await;
        scene.broker.restart(&scene.world);
        scene.receive(scene.sent).await;
    }
    scene.end().await;
}
