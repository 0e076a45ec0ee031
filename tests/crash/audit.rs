use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sealcast::{
    Event, GapReason, Offset, PublicKey, StartAt, State, SubscribeOptions, Subscriber, TopicAdmin,
};
use sealcast_broker::store::{FjallLog, FjallOptions, Log};
use sealcast_proto::record::Record;
use tokio::time::timeout;

use crate::process::PATIENCE;
use crate::work::{Feed, Sight, Work, eager};

/// The disk of a broker that is dead: everything acknowledged by now stands where its receipt says. Returns how many
/// messages were looked up.
pub(crate) async fn look(data: PathBuf, work: &Work) -> u64 {
    let (log, _) = FjallLog::open(&data, FjallOptions::default()).expect("a killed broker's directory opens");
    let mut found = 0;
    for feed in work.feeds.iter().chain(&*work.created.lock().unwrap()) {
        let topic = feed.link.topic;
        assert!(log.topic(&topic).unwrap().is_some(), "a topic that was created");
        let first = log.bounds(&topic).unwrap().first;
        for of_one in feed.acknowledged.lock().unwrap().values() {
            let mut held = None;
            for (seq, (epoch, offset)) in of_one.iter().enumerate() {
                if *offset < first && feed.trimmed {
                    continue;
                }
                if held.as_ref().is_none_or(|(at, _)| at != offset) {
                    held = Some((*offset, batch_at(&log, feed, *offset)));
                }
                let (_, batch) = held.as_ref().unwrap();
                let seqs = batch.first_seq.0..batch.end_seq().0;
                assert!(seqs.contains(&(seq as u64)) && batch.epoch == *epoch, "seq {seq} at {offset}");
                found += 1;
            }
        }
    }
    found
}

fn batch_at(log: &FjallLog, feed: &Feed, offset: Offset) -> sealcast_proto::object::Batch {
    let stored = log.read(&feed.link.topic, offset, 1).unwrap();
    let stored = stored.into_iter().next().filter(|stored| stored.offset == offset);
    let stored = stored.unwrap_or_else(|| panic!("what was acknowledged at {offset} is not there"));
    match Record::decode(stored.record).unwrap() {
        Record::Batch(batch) => batch.peek().unwrap(),
        other => panic!("at {offset} stands {other:?}"),
    }
}

/// What a member that comes now is given: all of it, once, in order; and it is what everybody else saw and was told.
pub(crate) async fn compare(work: &Work) {
    for feed in &work.feeds {
        let stored = read(feed).await;
        let mut next = HashMap::<PublicKey, u64>::new();
        for (publisher, seq, offset) in &stored {
            let expected = next.entry(*publisher).or_insert(if feed.trimmed { *seq } else { 0 });
            assert_eq!(seq, expected, "no gap and nothing twice");
            *expected += 1;
            let acknowledged = feed.acknowledged.lock().unwrap();
            let (_, told) = acknowledged[publisher][usize::try_from(*seq).unwrap()];
            assert_eq!(told, *offset, "seq {seq} stands where its publisher was told");
        }
        for (publisher, acknowledged) in feed.acknowledged.lock().unwrap().iter() {
            assert_eq!(next[publisher], acknowledged.len() as u64, "everything that was acknowledged");
        }
        for seen in &feed.seen {
            compare_seen(&stored, &seen.lock().unwrap(), feed.trimmed);
        }
    }
    let created = work.created.lock().unwrap().clone();
    for feed in &created {
        assert_eq!(read(feed).await.len() as u64, feed.count(), "a topic of its own");
    }
    roster(work).await;
}

fn compare_seen(stored: &[Sight], seen: &[Sight], trimmed: bool) {
    if !trimmed {
        assert_eq!(stored.len(), seen.len(), "as many as are stored");
        assert!(stored == seen, "the very messages, in the order of the log");
        return;
    }
    // What retention took may or may not have been seen; nothing twice, and nothing that was not there.
    assert!(seen.iter().map(|(_, seq, _)| seq).is_sorted_by(|a, b| a < b));
    let kept = &seen[seen.len().saturating_sub(stored.len())..];
    assert!(kept == stored, "{} kept, {} seen", stored.len(), seen.len());
}

/// Everything a member reads from the beginning to the head.
async fn read(feed: &Feed) -> Vec<Sight> {
    let subscriber = Subscriber::with_options(feed.auditor.clone(), State::memory(), eager());
    let options = SubscribeOptions { until_head: true, ..SubscribeOptions::from(StartAt::Earliest) };
    let mut subscription = subscriber.subscribe(&feed.link, options).await.expect("a running broker");
    let mut stored = Vec::new();
    while let Some(item) = timeout(PATIENCE, subscription.next()).await.expect("it goes on") {
        match item {
            Ok(received) => stored.push((received.publisher, received.seq.0, received.offset)),
            Err(Event::Ended { .. }) => {}
            Err(Event::Gap { why: GapReason::Retention, .. }) if feed.trimmed => {}
            Err(event) => panic!("{event}: {event:?}"),
        }
    }
    stored
}

/// The roster is at least what an admin was told, and whoever was let in or removed is.
async fn roster(work: &Work) {
    let (owner, link) = (&work.owner, &work.feeds[0].link);
    let admin = TopicAdmin::open(link, owner.identity.clone(), &owner.state).await.expect("no rollback");
    let told = work.roster.lock().unwrap();
    let chain = admin.roster().chain();
    assert!(chain.seq() >= told.seq);
    if chain.seq() == told.seq {
        assert_eq!(admin.roster().find(&work.guest).is_some(), told.guest);
    }
}

/// Every signature, hash and chain of the stopped broker's logs, by the rules it took them up by.
pub(crate) fn verify(data: &Path, file: &Path) {
    let counts = sealcast_broker::archive::export(data, &[], file).expect("nothing that breaks a rule");
    eprintln!("{} topics with {} records verified", counts.topics, counts.records);
}
