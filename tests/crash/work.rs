use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealcast::{
    BrokerLink, Epoch, Identity, LinkOptions, Offset, Policy, PublicKey, Role, RosterSeq, State, TopicAdmin,
    TopicLink,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::admins::{Creator, change_roster};
use crate::messages::publish;
use crate::process::PATIENCE;
use crate::watching::Watching;

/// What the trimmed topic keeps, bytes: some dozens of its messages.
const KEPT: u64 = 512 << 10;

/// A message as it was seen: whose, which, where.
pub(crate) type Sight = (PublicKey, u64, Offset);

/// What publishers were told.
pub(crate) type Receipts = HashMap<PublicKey, Vec<(Epoch, Offset)>>;

/// One topic, what publishers were told about it, and what each subscriber saw of it.
#[derive(Clone)]
pub(crate) struct Feed {
    pub(crate) link: TopicLink,
    /// Whether retention takes its beginning away.
    pub(crate) trimmed: bool,
    /// By publisher, by seq: epoch and place of what was acknowledged.
    pub(crate) acknowledged: Arc<Mutex<Receipts>>,
    pub(crate) seen: Vec<Arc<Mutex<Vec<Sight>>>>,
    /// A member that has not looked yet.
    pub(crate) auditor: Arc<Identity>,
}

impl Feed {
    pub(crate) fn new(link: TopicLink, trimmed: bool, auditor: &Arc<Identity>) -> Self {
        let auditor = Arc::clone(auditor);
        Self { link, trimmed, acknowledged: Arc::default(), seen: Vec::new(), auditor }
    }

    pub(crate) fn count(&self) -> u64 {
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged.values().map(|of_one| of_one.len() as u64).sum()
    }
}

/// The roster as it was acknowledged last.
pub(crate) struct Roster {
    pub(crate) seq: RosterSeq,
    pub(crate) guest: bool,
}

/// Everybody who works with the broker, until told to end.
pub(crate) struct Work {
    pub(crate) feeds: Vec<Feed>,
    /// Topics created on the way, with one message each.
    pub(crate) created: Arc<Mutex<Vec<Feed>>>,
    pub(crate) owner: Party,
    pub(crate) guest: PublicKey,
    pub(crate) roster: Arc<Mutex<Roster>>,
    stop: Arc<AtomicBool>,
    publishers: JoinSet<()>,
    subscribers: JoinSet<()>,
    admins: JoinSet<()>,
    watched: Arc<AtomicUsize>,
}

/// An identity and the state it keeps.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) identity: Arc<Identity>,
    pub(crate) state: State,
}

impl Party {
    pub(crate) fn new() -> Self {
        Self { identity: Arc::new(Identity::generate(&mut rand::rng())), state: State::memory() }
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.identity.public()
    }
}

/// Finds a broker's death and return sooner than a client on the internet should.
pub(crate) fn eager() -> LinkOptions {
    LinkOptions {
        keep_alive: Duration::from_millis(100),
        address_timeout: Duration::from_millis(500),
        ..LinkOptions::default()
    }
}

impl Work {
    pub(crate) async fn begin(broker: &BrokerLink, seed: u64, topics: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let parties: Vec<Party> = (0..3).map(|_| Party::new()).collect();
        let (readers, auditor) = ([Party::new(), Party::new(), Party::new()], Party::new());
        let owner = parties[0].clone();
        let mut members: Vec<_> = parties[1..].iter().map(|party| (party.key(), Role::Publisher)).collect();
        members.extend(readers.iter().chain([&auditor]).map(|party| (party.key(), Role::Reader)));
        let create = async |policy| {
            let (identity, state) = (owner.identity.clone(), &owner.state);
            let created = TopicAdmin::create(broker, "feed", identity, state, policy, &members).await;
            created.expect("a topic on a running broker")
        };
        let shared = create(Policy::default()).await;
        let trimmed = create(Policy { retain_bytes: KEPT, ..Policy::default() }).await;
        let roster = Roster { seq: shared.roster().chain().seq(), guest: false };
        let mut work = Self {
            feeds: vec![
                Feed::new(shared.link().clone(), false, &auditor.identity),
                Feed::new(trimmed.link().clone(), true, &auditor.identity),
            ],
            created: Arc::default(),
            owner: owner.clone(),
            guest: Party::new().key(),
            roster: Arc::new(Mutex::new(roster)),
            stop: Arc::default(),
            publishers: JoinSet::new(),
            subscribers: JoinSet::new(),
            admins: JoinSet::new(),
            watched: Arc::default(),
        };
        work.subscribers(&readers, &mut rng);
        // Before the first message: a subscriber that comes later would have less to see.
        let all_there = async {
            while work.watched.load(Ordering::SeqCst) < readers.len() * work.feeds.len() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, all_there).await.expect("everybody has subscribed");
        for (n, feed) in work.feeds.iter().enumerate() {
            // All three on the shared topic, the owner alone on the other.
            for (who, party) in parties.iter().enumerate().take(if n == 0 { 3 } else { 1 }) {
                let publishing =
                    publish(party.clone(), who as u8, feed.clone(), rng.random(), work.stop.clone());
                work.publishers.spawn(publishing);
            }
        }
        work.admins.spawn(work.creator(broker, &auditor).run(topics, rng.random()));
        work.admins.spawn(change_roster(shared, work.guest, work.roster.clone(), work.stop.clone()));
        work
    }

    fn subscribers(&mut self, readers: &[Party], rng: &mut StdRng) {
        for feed in &mut self.feeds {
            for (n, reader) in readers.iter().enumerate() {
                let sights = Arc::<Mutex<Vec<Sight>>>::default();
                feed.seen.push(sights.clone());
                // The last one comes and goes.
                let leaves = (n + 1 == readers.len()).then(|| StdRng::seed_from_u64(rng.random()));
                let (link, trimmed) = (feed.link.clone(), feed.trimmed);
                let watching = Watching { link, trimmed, sights, leaves, watched: self.watched.clone() };
                self.subscribers.spawn(watching.run(reader.clone()));
            }
        }
    }

    fn creator(&self, broker: &BrokerLink, auditor: &Party) -> Creator {
        let (broker, created, stop) = (broker.clone(), self.created.clone(), self.stop.clone());
        Creator { broker, owner: self.owner.clone(), auditor: auditor.clone(), created, stop }
    }

    /// Fails if somebody failed: nobody ends before being told to.
    pub(crate) fn check(&mut self) {
        for set in [&mut self.publishers, &mut self.subscribers, &mut self.admins] {
            while let Some(ended) = set.try_join_next() {
                if let Err(error) = ended {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }

    /// Waits until so many more messages were acknowledged.
    pub(crate) async fn goes_on(&self, more: u64) {
        let enough = self.acknowledged() + more;
        let acknowledged = async {
            while self.acknowledged() < enough {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, acknowledged).await.expect("work goes on once the broker is back");
    }

    /// How many messages, and new topics.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.feeds.iter().map(Feed::count).sum::<u64>() + self.created.lock().unwrap().len() as u64
    }

    /// What came of it so far.
    pub(crate) fn summary(&self) -> String {
        let messages: u64 = self.feeds.iter().map(Feed::count).sum();
        let (topics, roster) = (self.created.lock().unwrap().len(), self.roster.lock().unwrap().seq);
        format!("{messages} messages, {topics} new topics and roster entry {roster} acknowledged")
    }

    /// Publishers send what they have and say that they are done; subscribers see all of it.
    pub(crate) async fn end(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let publishers = std::mem::take(&mut self.publishers).join_all();
        timeout(PATIENCE, publishers).await.expect("everything is acknowledged once the broker stays");
        timeout(PATIENCE * 2, std::mem::take(&mut self.admins).join_all()).await.expect("the admins end");
        let caught_up = async {
            for feed in &self.feeds {
                let newest: HashMap<PublicKey, u64> = {
                    let acknowledged = feed.acknowledged.lock().unwrap();
                    acknowledged.iter().map(|(key, acks)| (*key, acks.len() as u64 - 1)).collect()
                };
                for seen in &feed.seen {
                    for (publisher, last) in &newest {
                        let is_last = |(key, seq, _): &Sight| key == publisher && seq == last;
                        while !seen.lock().unwrap().iter().rev().take(10_000).any(is_last) {
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            }
        };
        timeout(PATIENCE, caught_up).await.expect("every subscriber sees everything");
        self.check();
        self.subscribers.shutdown().await;
    }
}
