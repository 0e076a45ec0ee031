//! `sealcast top` against a real broker with its operations listener.

use std::process::Command;
use std::sync::Arc;

use sealcast::{Identity, Policy, Publisher, Role, StartAt, State, Subscriber, TopicAdmin};
use sealcast_broker::{Broker, Config};
use serde_json::Value;

use crate::program::{Ran, World};

/// A broker with a topic of one publisher and one reader, who has read all of it.
struct Stage {
    world: World,
    broker: Broker,
    topic: sealcast::Topic,
    subscription: sealcast::Subscription,
    reader: Arc<Identity>,
}

impl Stage {
    async fn new() -> Self {
        let world = World::new();
        let mut config = Config::new(world.path("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.ops = Some("127.0.0.1:0".parse().unwrap());
        let broker = Broker::start(config).await.unwrap();
        let owner = Arc::new(Identity::generate(&mut rand::rng()));
        let reader = Arc::new(Identity::generate(&mut rand::rng()));
        let (state, members) = (State::memory(), [(reader.public(), Role::Reader)]);
        let admin =
            TopicAdmin::create(broker.link(), "prices", owner.clone(), &state, Policy::default(), &members)
                .await
                .unwrap();
        let subscriber = Subscriber::new(reader.clone(), State::memory());
        let mut subscription = subscriber.subscribe(admin.link(), StartAt::Earliest).await.unwrap();
        let topic = Publisher::new(owner, state).topic(admin.link()).await.unwrap();
        topic.publish("not for operators").await.unwrap();
        subscription.next().await.unwrap().unwrap();
        Self { world, broker, topic, subscription, reader }
    }

    fn command(&self, more: &[&str]) -> Command {
        let ops = format!("http://{}", self.broker.ops_addr().unwrap());
        self.world.command([&["top", "--ops", ops.as_str()], more].concat())
    }

    fn top(&self, more: &[&str]) -> Ran {
        Ran::new(self.command(more).output().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_readers_and_rates_are_shown() {
    let mut stage = Stage::new().await;
    let ran = stage.top(&["--json", "--every", "10ms"]);
    let json: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert!(!ran.ok().contains("not for operators") && ran.stderr.is_empty(), "{}", ran.stderr);
    let topic = &json["topics"][0];
    assert_eq!((&topic["name"], &topic["members"]), (&"prices".into(), &2.into()));
    assert_eq!(topic["subscribers"][0]["identity"], stage.reader.public().to_string());
    // An entry, a header and a batch.
    assert_eq!(json["rates"][0]["records"], 3);
    assert_eq!(json["rates"][0]["publishing"], 1);

    // With traffic, until it shows: one batch after another while it looks.
    loop {
        let mut command = stage.command(&["--json", "--every", "300ms"]);
        let looking = tokio::task::spawn_blocking(move || Ran::new(command.output().unwrap()));
        let traffic = async {
            loop {
                stage.topic.publish("more").await.unwrap();
            }
        };
        let reading = async { while stage.subscription.next().await.is_some() {} };
        let ran = tokio::select! {
            ran = looking => ran.unwrap(),
            () = traffic => unreachable!("it does not end"),
            () = reading => panic!("the subscription ended"),
        };
        let json: Value = serde_json::from_str(&ran.ok()).unwrap();
        let rates = &json["rates"][0];
        if ["records_per_s", "in_bytes_per_s", "out_bytes_per_s"]
            .iter()
            .all(|key| rates[key].as_f64().unwrap() > 0.0)
        {
            break;
        }
    }

    let table = stage.top(&["--once", "--every", "10ms"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("sealcast ") && lines[0].contains(", ready, up "), "{table}");
    assert!(lines[0].ends_with(" connections, 1 topic"), "{table}");
    assert!(lines[1].ends_with("/s out"), "{table}");
    assert!(lines[3].starts_with("topic ") && lines[3].ends_with("max lag"), "{table}");
    assert!(lines[4].contains("prices") && lines.len() == 5, "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_with_what_to_do() {
    let stage = Stage::new().await;
    stage.top(&[]).fails(2, "no terminal", "--once");
    stage.top(&["--every", "soon"]).fails(2, "soon", "");
    stage.world.run(["top", "--once", "--ops", "nonsense"]).fails(2, "http://HOST:PORT", "");
    let gone = stage.broker.ops_addr().unwrap().to_string();
    stage.broker.shutdown().await;
    stage.world.run(["top", "--once", "--ops", &gone]).fails(3, "cannot ask", "--ops");
}
