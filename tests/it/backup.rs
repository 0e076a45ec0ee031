use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealcast::{
    Event, Identity, Offset, Policy, Publisher, Role, StartAt, State, Subscriber, Subscription, TopicAdmin,
    TopicLink,
};
use sealcast_broker::archive::{export, import};
use sealcast_broker::{Broker, Config};

async fn broker(data: &Path) -> Broker {
    Broker::start(Config { listen: "127.0.0.1:0".parse().unwrap(), ..Config::new(data) }).await.unwrap()
}

/// The next messages, and where they stand.
async fn take(subscription: &mut Subscription, count: usize) -> Vec<(String, Offset)> {
    let mut out = Vec::new();
    while out.len() < count {
        match subscription.next().await.unwrap() {
            Ok(received) => {
                out.push((String::from_utf8(received.message.payload.to_vec()).unwrap(), received.offset));
            }
            Err(Event::Ended { .. }) => {}
            Err(event) => panic!("{event}: {event:?}"),
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn members_follow_a_topic_to_another_broker_and_miss_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let party = |name: &str| {
        let identity = Arc::new(Identity::generate(&mut rand::rng()));
        (identity, State::dir(dir.path().join(name)).unwrap())
    };
    let ((owner, owners), (reader, readers), (gone, _)) = (party("owner"), party("reader"), party("gone"));
    let first = broker(&dir.path().join("first")).await;
    let members = [(reader.public(), Role::Reader), (gone.public(), Role::Reader)];
    let policy = Policy::default();
    let mut admin =
        TopicAdmin::create(first.link(), "feed", owner.clone(), &owners, policy, &members).await.unwrap();
    let link = admin.link().clone();
    let publisher = Publisher::new(owner.clone(), owners.clone());
    let subscriber = Subscriber::new(reader.clone(), readers.clone());
    let mut subscription = subscriber.subscribe(&link, StartAt::Earliest).await.unwrap();
    let topic = publisher.topic(&link).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..5 {
        receipts.push(topic.publish(format!("{n}")).await.unwrap());
    }
    let seen = take(&mut subscription, 5).await;
    subscription.close().await.unwrap();
    admin.remove(&[gone.public()], Duration::from_secs(30)).await.unwrap();
    for n in 5..10 {
        receipts.push(topic.publish(format!("{n}")).await.unwrap());
    }
    topic.close().await.unwrap();
    let roster = admin.roster().chain().seq();
    admin.close().await;
    first.shutdown().await;

    let file = dir.path().join("topic.export");
    export(&dir.path().join("first"), &[link.topic], &file).unwrap();
    import(&file, &dir.path().join("second")).unwrap();
    let second = broker(&dir.path().join("second")).await;
    let moved = TopicLink { broker: second.link().clone(), topic: link.topic };
    assert_ne!(moved, link);

    // All marks hold: the reader's place, the publisher's chain of batches, the admin's roster.
    let mut subscription = subscriber.subscribe(&moved, StartAt::Resume).await.unwrap();
    assert!(subscription.resumed());
    let mut seen: Vec<_> = [seen, take(&mut subscription, 5).await].concat();
    let topic = publisher.topic(&moved).await.unwrap();
    for n in 10..15 {
        receipts.push(topic.publish(format!("{n}")).await.unwrap());
    }
    seen.extend(take(&mut subscription, 5).await);
    let told: Vec<_> = receipts.iter().map(|receipt| (receipt.seq.0.to_string(), receipt.offset)).collect();
    assert_eq!(seen, told, "every message, once, and where its publisher was told");
    let mut admin = TopicAdmin::open(&moved, owner.clone(), &owners).await.unwrap();
    assert_eq!(admin.roster().chain().seq(), roster);
    admin.add(&[gone.public()], Role::Reader, Duration::from_secs(30)).await.unwrap();
    topic.close().await.unwrap();
    second.shutdown().await;
}
