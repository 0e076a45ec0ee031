use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use sealcast::{Event, GapReason, Received, StartAt, SubscribeError, Subscriber, TopicLink};
use tokio::time::sleep;

use crate::messages::text;
use crate::work::{Party, Sight, eager};

/// A subscriber at work.
pub(crate) struct Watching {
    pub(crate) link: TopicLink,
    pub(crate) trimmed: bool,
    pub(crate) sights: Arc<Mutex<Vec<Sight>>>,
    /// How it leaves and comes back, if it does.
    pub(crate) leaves: Option<StdRng>,
    /// How many have subscribed.
    pub(crate) watched: Arc<AtomicUsize>,
}

impl Watching {
    pub(crate) async fn run(mut self, reader: Party) {
        let subscriber = Subscriber::with_options(reader.identity, reader.state, eager());
        let mut start = StartAt::Earliest;
        loop {
            let mut subscription = match subscriber.subscribe(&self.link, start).await {
                Ok(subscription) => subscription,
                Err(SubscribeError::Connect(_) | SubscribeError::Lost(_)) => {
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
                Err(error) => panic!("cannot subscribe: {error}"),
            };
            if start == StartAt::Earliest {
                self.watched.fetch_add(1, Ordering::SeqCst);
            }
            start = StartAt::Resume;
            let mut stays = self.leaves.as_mut().map(|rng| rng.random_range(1..400_u32));
            while stays != Some(0) {
                let item = subscription.next().await.expect("a subscription does not end by itself");
                self.take(item);
                stays = stays.map(|stays| stays - 1);
            }
            subscription.close().await.expect("its position is saved");
        }
    }

    fn take(&self, item: Result<Received, Event>) {
        match item {
            Ok(received) => {
                let said = String::from_utf8(received.message.payload.to_vec()).expect("text");
                let mut words = said.split(' ');
                let mut word = || words.next().and_then(|word| word.parse::<u64>().ok()).expect("a number");
                let (who, n) = (word(), word());
                assert_eq!(n, received.seq.0, "the message that its number says");
                assert_eq!(said, text(u8::try_from(who).expect("a publisher"), n));
                self.sights.lock().unwrap().push((received.publisher, n, received.offset));
            }
            // A broker that is away, and publishers that cannot reach it.
            Err(Event::Stalled { .. } | Event::Ended { .. }) => {}
            Err(Event::Gap { why: GapReason::Retention, .. }) if self.trimmed => {}
            Err(event) => panic!("{event}: {event:?}"),
        }
    }
}
