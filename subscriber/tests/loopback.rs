//! Subscriptions over loopback: a real broker, a real publisher, real files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealcast_broker::{Broker, Config};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::Role;
use sealcast_proto::{BrokerLink, Identity, TopicLink};
use sealcast_publisher::{Publisher, Topic, TopicAdmin};
use sealcast_state::State;
use sealcast_subscriber::{Event, Item, StartAt, SubscribeError, SubscribeOptions, Subscriber, Subscription};
use tempfile::TempDir;

/// Nothing here takes nearly as long; a test that hangs is to end.
const LIMIT: Duration = Duration::from_secs(120);

struct World {
    dir: TempDir,
    broker: Option<Broker>,
    owner: Arc<Identity>,
    reader: Arc<Identity>,
    link: TopicLink,
}

async fn start(data: &Path, port: u16) -> Broker {
    let mut config = Config::new(data);
    config.listen.set_port(port);
    Broker::start(config).await.unwrap()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(&dir.path().join("broker"), 0).await;
        let mut rng = rand::rng();
        let (owner, reader) =
            (Arc::new(Identity::generate(&mut rng)), Arc::new(Identity::generate(&mut rng)));
        let state = State::dir(dir.path().join("owner")).unwrap();
        let policy = Policy { beacon_ms: 200, ..Policy::default() };
        let members = [(reader.public(), Role::Reader)];
        let admin =
            TopicAdmin::create(broker.link(), "t", owner.clone(), &state, policy, &members).await.unwrap();
        let link = admin.link().clone();
        Self { dir, broker: Some(broker), owner, reader, link }
    }

    fn state(&self, name: &str) -> State {
        State::dir(self.dir.path().join(name)).unwrap()
    }

    async fn topic(&self) -> Topic {
        Publisher::new(self.owner.clone(), self.state("owner")).topic(&self.link).await.unwrap()
    }

    fn subscriber(&self) -> Subscriber {
        Subscriber::new(self.reader.clone(), self.state("reader"))
    }

    async fn subscribe(&self, options: impl Into<SubscribeOptions>) -> Subscription {
        self.subscriber().subscribe(&self.link, options).await.unwrap()
    }

    async fn restart_broker(&mut self) {
        let broker = self.broker.take().unwrap();
        let port = broker.local_addr().port();
        broker.shutdown().await;
        self.broker = Some(start(&self.dir.path().join("broker"), port).await);
    }
}

async fn next(subscription: &mut Subscription) -> Option<Item> {
    tokio::time::timeout(LIMIT, subscription.next()).await.expect("an item comes")
}

/// The next message; silence while something restarts is none.
async fn text(subscription: &mut Subscription) -> String {
    loop {
        match next(subscription).await {
            Some(Ok(received)) => return String::from_utf8(received.message.payload.to_vec()).unwrap(),
            Some(Err(Event::Stalled { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn texts(subscription: &mut Subscription, count: usize) -> Vec<String> {
    let mut out = Vec::new();
    while out.len() < count {
        out.push(text(subscription).await);
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_repeats_nothing_and_loses_nothing() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Resume).await;
    assert!(!subscription.resumed());
    let topic = world.topic().await;
    for text in ["a", "b", "c", "d"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(texts(&mut subscription, 2).await, ["a", "b"]);
    subscription.close().await.unwrap();
    topic.publish("e").await.unwrap();
    let mut subscription = world.subscribe(StartAt::Resume).await;
    assert!(subscription.resumed());
    assert_eq!(texts(&mut subscription, 3).await, ["c", "d", "e"]);
    let head = subscription.head().await;
    assert_eq!((head.len(), head[0].publisher), (1, world.owner.public()));
    assert_eq!(subscription.counters().await.repeated, 0);
    topic.close().await.unwrap();
    assert!(matches!(next(&mut subscription).await, Some(Err(Event::Ended { .. }))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_says_what_was_taken() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let topic = world.topic().await;
    for text in ["a", "b", "c"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(text(&mut subscription).await, "a");
    subscription.set_tag("1").unwrap();
    assert_eq!(texts(&mut subscription, 2).await, ["b", "c"]);
    // Taken, but the tag does not say so.
    subscription.commit().await.unwrap();
    assert!(matches!(subscription.set_tag(vec![0; 1025]), Err(SubscribeError::Tag(1025))));
    subscription.close().await.unwrap();
    let mut subscription = world.subscribe(StartAt::Resume).await;
    assert_eq!(subscription.tag().as_deref(), Some(b"1".as_slice()));
    assert_eq!(texts(&mut subscription, 2).await, ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_subscription_saves_what_was_taken_and_lets_go() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let error = world.subscriber().subscribe(&world.link, StartAt::Resume).await.unwrap_err();
    assert!(matches!(&error, SubscribeError::State(_)), "{error}");
    let topic = world.topic().await;
    for text in ["a", "b"] {
        topic.publish(text).await.unwrap();
    }
    assert_eq!(texts(&mut subscription, 2).await, ["a", "b"]);
    drop(subscription);
    // It ends by itself; until then the state is held.
    let mut subscription = loop {
        match world.subscriber().subscribe(&world.link, StartAt::Resume).await {
            Ok(subscription) => break subscription,
            Err(SubscribeError::State(_)) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(text(&mut subscription).await, "b", "`a` was taken when `b` was asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_broker_is_found_again() {
    let mut world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let topic = world.topic().await;
    topic.publish("a").await.unwrap();
    assert_eq!(text(&mut subscription).await, "a");
    for round in 0..3 {
        world.restart_broker().await;
        topic.publish(format!("{round}")).await.unwrap();
        assert_eq!(text(&mut subscription).await, round.to_string());
    }
    assert_eq!(subscription.counters().await.repeated, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_application_gets_everything_in_its_own_time() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let topic = world.topic().await;
    // Far more than is held for an application that does not read.
    let count = 64_u32;
    for n in 0..count {
        let mut payload = vec![0; 512 << 10];
        payload[..4].copy_from_slice(&n.to_be_bytes());
        topic.publish(payload).await.unwrap();
    }
    for n in 0..count {
        let Some(Ok(received)) = next(&mut subscription).await else { panic!("no message") };
        assert_eq!(received.message.payload[..4], n.to_be_bytes());
    }
    subscription.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_messages_survive_ends_at_any_of_them() {
    let world = World::new().await;
    let topic = world.topic().await;
    let mut pending = Vec::new();
    for n in 0..5000 {
        pending.push(topic.send(format!("{n}")).await.unwrap());
    }
    for pending in pending {
        pending.await.unwrap();
    }
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let mut expected = 0;
    for step in [1, 7, 500, 1, 1200, 64, 3000] {
        for _ in 0..step.min(5000 - expected) {
            assert_eq!(text(&mut subscription).await, expected.to_string());
            expected += 1;
        }
        subscription.close().await.unwrap();
        subscription = world.subscribe(StartAt::Resume).await;
    }
    while expected < 5000 {
        assert_eq!(text(&mut subscription).await, expected.to_string());
        expected += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_member_reads_to_its_removal() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    let topic = world.topic().await;
    topic.publish("a").await.unwrap();
    assert_eq!(text(&mut subscription).await, "a");
    let mut admin = TopicAdmin::open(&world.link, world.owner.clone(), &world.state("owner")).await.unwrap();
    admin.remove(&[world.reader.public()], Duration::from_secs(5)).await.unwrap();
    topic.publish("b").await.unwrap();
    loop {
        match next(&mut subscription).await {
            Some(Err(Event::Removed)) => break,
            Some(Err(Event::Stalled { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(next(&mut subscription).await.is_none());
    subscription.close().await.unwrap();
    // Whatever it asks for later, it gets no further.
    match world.subscriber().subscribe(&world.link, StartAt::Resume).await {
        Err(SubscribeError::NotAllowed(_)) => {}
        Err(error) => panic!("{error}"),
        Ok(mut subscription) => loop {
            match next(&mut subscription).await {
                Some(Err(Event::Removed | Event::NotAllowed { .. })) => break,
                Some(Ok(received)) => assert_eq!(received.seq.0, 0),
                Some(Err(Event::Stalled { .. })) => {}
                other => panic!("{other:?}"),
            }
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_member_is_told_so() {
    let world = World::new().await;
    let stranger = Arc::new(Identity::generate(&mut rand::rng()));
    let subscriber = Subscriber::new(stranger, State::memory());
    let error = subscriber.subscribe(&world.link, StartAt::Latest).await.unwrap_err();
    assert!(matches!(error, SubscribeError::NotAllowed(_)), "{error}");
    // And who finds no broker.
    let nowhere: BrokerLink =
        format!("sealcast://127.0.0.1:1?broker={}", world.owner.public()).parse().unwrap();
    let link = TopicLink { broker: nowhere, topic: world.link.topic };
    let subscriber = Subscriber::new(world.reader.clone(), State::memory());
    let error = subscriber.subscribe(&link, StartAt::Latest).await.unwrap_err();
    assert!(matches!(error, SubscribeError::Connect(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_to_the_head_is_an_end() {
    let world = World::new().await;
    let topic = world.topic().await;
    topic.publish("a").await.unwrap();
    let options = SubscribeOptions { from: StartAt::Earliest, until_head: true };
    let mut subscription = world.subscribe(options).await;
    assert_eq!(text(&mut subscription).await, "a");
    assert!(matches!(next(&mut subscription).await, Some(Err(Event::Truncated { .. }))));
    assert!(next(&mut subscription).await.is_none());
    subscription.close().await.unwrap();
    topic.publish("b").await.unwrap();
    topic.close().await.unwrap();
    let mut subscription =
        world.subscribe(SubscribeOptions { from: StartAt::Resume, until_head: true }).await;
    assert_eq!(text(&mut subscription).await, "b");
    assert!(matches!(next(&mut subscription).await, Some(Err(Event::Ended { .. }))));
    assert!(next(&mut subscription).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_dies_is_missed_and_one_that_lives_is_not() {
    let world = World::new().await;
    let topic = world.topic().await;
    topic.publish("a").await.unwrap();
    let mut subscription = world.subscribe(StartAt::Earliest).await;
    assert_eq!(text(&mut subscription).await, "a");
    drop(topic);
    assert!(matches!(next(&mut subscription).await, Some(Err(Event::Stalled { .. }))));
    let topic = world.topic().await;
    topic.publish("b").await.unwrap();
    loop {
        match next(&mut subscription).await {
            Some(Ok(received)) => break assert_eq!(received.seq.0, 1),
            // A publisher killed in its first second has not saved where it was.
            Some(Err(Event::Truncated { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_begins_with_the_epoch_that_is_for_it() {
    let world = World::new().await;
    let topic = world.topic().await;
    topic.publish("before").await.unwrap();
    let newcomer = Arc::new(Identity::generate(&mut rand::rng()));
    let mut admin = TopicAdmin::open(&world.link, world.owner.clone(), &world.state("owner")).await.unwrap();
    admin.add(&[newcomer.public()], Role::Reader, Duration::from_secs(5)).await.unwrap();
    topic.publish("after").await.unwrap();
    let subscriber = Subscriber::new(newcomer, State::memory());
    let mut subscription = subscriber.subscribe(&world.link, StartAt::Earliest).await.unwrap();
    let Some(Err(Event::Locked { from, to, .. })) = next(&mut subscription).await else {
        panic!("not locked")
    };
    assert_eq!((from.0, to.map(|to| to.0)), (0, Some(1)));
    assert_eq!(text(&mut subscription).await, "after");
    // And in the middle of an epoch that was advanced.
    drop(subscription);
    let mut subscription = world.subscribe(StartAt::Latest).await;
    topic.publish("now").await.unwrap();
    assert_eq!(text(&mut subscription).await, "now");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_before_anything_came_is_the_place_to_resume_at() {
    let world = World::new().await;
    let mut subscription = world.subscribe(StartAt::Latest).await;
    subscription.commit().await.unwrap();
    // As after a kill: what is on the disk now, and nothing of what an orderly end adds.
    let (from, to) = (world.dir.path().join("reader"), world.dir.path().join("copy"));
    let copied = std::process::Command::new("cp").arg("-a").args([&from, &to]).status().unwrap();
    assert!(copied.success());
    world.topic().await.publish("between").await.unwrap();
    let again = Subscriber::new(world.reader.clone(), world.state("copy"));
    let mut again = again.subscribe(&world.link, StartAt::Resume).await.unwrap();
    assert!(again.resumed());
    loop {
        match tokio::time::timeout(LIMIT, again.next()).await.unwrap().unwrap() {
            Ok(received) => break assert_eq!(received.message.payload, "between"),
            Err(event) => assert!(!event.is_terminal(), "{event}"),
        }
    }
}
