use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealcast::{PublishError, Publisher};
use tokio::time::sleep;

use crate::work::{Feed, Party, eager};

/// What a publisher leaves unanswered before it waits, a count.
const IN_FLIGHT: usize = 16;

/// What message `n` of the `who`th publisher says: anybody can tell whether it is whole.
pub(crate) fn text(who: u8, n: u64) -> String {
    let filler = match n % 16 {
        // Now and then one that makes the broker's engine move what it holds in memory to files.
        7 => 200_000,
        _ => usize::try_from((n * 7919 + u64::from(who) * 104_729) % 1_500).unwrap_or_default(),
    };
    format!("{who} {n} {}", "x".repeat(filler))
}

/// Publishes to the feed until told to stop; then says END.
pub(crate) async fn publish(party: Party, who: u8, feed: Feed, seed: u64, stop: Arc<AtomicBool>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let publisher = Publisher::with_options(party.identity.clone(), party.state.clone(), eager());
    let topic = loop {
        match publisher.topic(&feed.link).await {
            Ok(topic) => break topic,
            Err(error) if is_passing(&error) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("publisher {who} cannot begin: {error}"),
        }
    };
    let mut waiting = VecDeque::new();
    let mut n = 0;
    while !stop.load(Ordering::SeqCst) || !waiting.is_empty() {
        while waiting.len() < IN_FLIGHT && !stop.load(Ordering::SeqCst) {
            waiting
                .push_back(topic.send(text(who, n)).await.expect("a broker that comes back is waited for"));
            n += 1;
        }
        let Some(oldest) = waiting.pop_front() else { break };
        let receipt = oldest.await.expect("a broker that comes back answers");
        {
            let mut acknowledged = feed.acknowledged.lock().unwrap();
            let mine = acknowledged.entry(party.key()).or_default();
            assert_eq!(receipt.seq.0, mine.len() as u64, "numbered without a hole");
            mine.push((receipt.epoch, receipt.offset));
        }
        if rng.random_ratio(1, 4) {
            sleep(Duration::from_micros(rng.random_range(0..20_000))).await;
        }
    }
    topic.close().await.expect("an END");
}

/// Whether it is the broker's absence, and nothing that a broker may not do.
fn is_passing(error: &PublishError) -> bool {
    matches!(error, PublishError::Connect(_) | PublishError::Lost(_) | PublishError::Broker(_))
}
