use std::collections::BTreeSet;

use sealcast_broker::ops::{BrokerStatus, METRICS};
use sealcast_broker::{Broker, Config, StartError};
use sealcast_proto::frame::From;
use sealcast_proto::roster::Role;

use crate::hand::key;
use crate::world::{World, soon};

async fn world(topic_labels: bool) -> World {
    let mut world = World::new().await;
    world.broker.take().unwrap().shutdown().await;
    world.ops = Some(topic_labels);
    world.start().await;
    world
}

async fn status(world: &World) -> BrokerStatus {
    let (code, body) = world.ask("/topics").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the broker shows what is waited for.
async fn until(world: &World, is: impl Fn(&BrokerStatus) -> bool) -> BrokerStatus {
    soon(async {
        loop {
            let status = status(world).await;
            if is(&status) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_readiness_are_told() {
    let world = world(false).await;
    assert_eq!(world.ask("/healthz").await, (200, "ok\n".into()));
    assert_eq!(world.ask("/readyz").await, (200, "ready\n".into()));
    assert_eq!(world.ask("/").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_publishes_and_who_reads_how_far_is_shown() {
    let world = world(false).await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    for n in 0..5 {
        pipe.batch(&mut hand, &[n; 100]).await;
    }
    let reader = world.client(3).await;
    let mut feed = reader.subscribe(topic, From::Earliest, None).await;
    feed.until_head().await;

    let status = until(&world, |status| status.topics[0].subscribers.iter().any(|at| at.lag == 0)).await;
    assert!(status.ready && status.why_not_ready.is_none());
    assert_eq!((status.topics_total, status.connections_total), (1, 3));
    let shown = &status.topics[0];
    assert_eq!((shown.id.clone(), shown.name.as_str()), (topic.to_string(), "test"));
    assert_eq!((shown.head, shown.first, shown.records_total), (7, 0, 7), "an entry, a header, five batches");
    assert!(shown.bytes_total > 500 && shown.delivered_bytes_total > 500 && shown.bytes > 500);
    assert_eq!((shown.members, shown.subscribers_total), (3, 1));
    let publisher = &shown.publishers[0];
    assert_eq!(publisher.identity, key(2).to_string());
    assert_eq!((publisher.epoch, publisher.epoch_offset), (Some(hand.epoch), Some(1)));
    assert_eq!((publisher.batches, publisher.last_offset, publisher.streams), (5, Some(6), 1));
    let subscriber = &shown.subscribers[0];
    assert_eq!((subscriber.identity.clone(), subscriber.position), (key(3).to_string(), 7));
    let identities: BTreeSet<_> = status.connections.iter().map(|at| at.identity.clone()).collect();
    assert_eq!(identities, [1, 2, 3].map(|n| key(n).to_string()).into());

    drop((feed, reader, pipe));
    let left = until(&world, |status| status.topics[0].publishers[0].streams == 0);
    let left = soon(left).await;
    assert_eq!(left.topics[0].publishers[0].epoch, Some(hand.epoch), "it may come back");
    until(&world, |status| status.topics[0].subscribers_total == 0 && status.connections_total == 2).await;
    drop((owner, client));
}

/// The names and label values that a text in Prometheus' format has samples of.
fn samples(text: &str) -> BTreeSet<(String, Option<(String, String)>)> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, _value) = line.rsplit_once(' ').unwrap();
            match name.split_once('{') {
                None => (name.to_owned(), None),
                Some((name, labels)) => {
                    let (label, value) = labels.trim_end_matches('}').split_once('=').unwrap();
                    (name.to_owned(), Some((label.to_owned(), value.trim_matches('"').to_owned())))
                }
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_there_and_topics_are_named_only_where_wanted() {
    for topic_labels in [false, true] {
        let world = world(topic_labels).await;
        let (topic, ..) = world.topic(&[(2, Role::Publisher)]).await;
        let (code, text) = world.ask("/metrics").await;
        assert_eq!(code, 200);
        let mut expected = BTreeSet::new();
        for metric in METRICS {
            let kind = if metric.is_counter { "counter" } else { "gauge" };
            let by_topic = matches!(metric.label, Some(("topic", _)));
            if by_topic && !topic_labels {
                continue;
            }
            assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{}", metric.name);
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
            let name = metric.name.to_owned();
            match metric.label {
                None => drop(expected.insert((name, None))),
                Some((label, _)) if by_topic => {
                    expected.insert((name, Some((label.to_owned(), topic.to_string()))));
                }
                Some((label, values)) => expected.extend(
                    values.iter().map(|value| (name.clone(), Some((label.to_owned(), (*value).to_owned())))),
                ),
            }
        }
        assert_eq!(samples(&text), expected);
        assert_eq!(text.contains(&topic.to_string()), topic_labels);
        assert!(!text.contains(&key(1).to_string()) && !text.contains("127.0.0.1"), "nor anybody else");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_everybody_could_see_is_asked_for_twice() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        ops: Some("0.0.0.0:0".parse().unwrap()),
        ..Config::new(dir.path())
    };
    let refused = Broker::start(config.clone()).await.err().unwrap();
    assert!(matches!(refused, StartError::OpsPublic { .. }), "{refused}");
    assert!(refused.hint().unwrap().contains("--ops-public") && refused.exit_code() == 2);
    let broker = Broker::start(Config { ops_public: true, ..config }).await.unwrap();
    broker.shutdown().await;
}
