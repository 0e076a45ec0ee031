//! Everybody who takes part: a broker, a topic, publishers and subscribers, connected.

use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::Role;
use sealcast_proto::{BrokerLink, Identity, PublicKey};
use sealcast_publisher::{Publisher, Topic, TopicAdmin};
use sealcast_state::State;
use sealcast_subscriber::{StartAt, Subscriber, Subscription};
use tempfile::TempDir;

use super::load::Plan;
use super::progress::Progress;
use crate::cli::failure::{Exit, Failure};
use crate::cli::own_broker::OwnBroker;

/// Handshakes under way at once, a count: what a broker takes from one source without asking for more.
const AT_ONCE: usize = 32;
/// The one limit of a broker that a single identity meets here.
const SETTINGS: &[&str] = &["--publish-rate", "0"];
/// How long a broker that is not ours keeps the messages, milliseconds.
const RETAIN_MS: u64 = 600_000;

/// See the module.
pub(super) struct Stage {
    pub(super) topics: Vec<(PublicKey, Arc<Topic>)>,
    pub(super) subscriptions: Vec<Subscription>,
    /// The broker's process, where it is known.
    pub(super) broker_pid: Option<u32>,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    admin: TopicAdmin,
    own: Option<(OwnBroker, TempDir)>,
}

impl Stage {
    /// Sets it: with a broker of our own in `dir`, or with `theirs`.
    pub(super) async fn set(
        plan: &Plan,
        theirs: Option<BrokerLink>,
        their_pid: Option<u32>,
        owner: Option<Identity>,
        dir: Option<&Path>,
        progress: &Progress,
    ) -> Result<Self, Failure> {
        progress.begin("starting", 1);
        let (link, own, broker_pid) = match theirs {
            Some(link) => (link, None, their_pid),
            None => {
                let dir = own_dir(dir)?;
                let broker = OwnBroker::start(dir.path(), SETTINGS).await?;
                (broker.link().clone(), Some((broker, dir)), None)
            }
        };
        let broker_pid = broker_pid.or_else(|| own.as_ref().map(|(broker, _)| broker.pid()));
        let generate = || Arc::new(Identity::generate(&mut rand::rng()));
        let senders: Vec<_> = std::iter::repeat_with(generate).take(plan.publishers).collect();
        let readers: Vec<_> = std::iter::repeat_with(generate).take(plan.subscribers).collect();
        let owner = owner.map_or_else(generate, Arc::new);
        progress.begin("members' keys", 1);
        let mut members: Vec<_> = senders.iter().map(|sender| (sender.public(), Role::Publisher)).collect();
        members.extend(readers.iter().map(|reader| (reader.public(), Role::Reader)));
        let absent = plan.members.saturating_sub(members.len() + 1);
        members.extend((0..absent).map(|_| (generate().public(), Role::Reader)));
        progress.begin("creating the topic", 1);
        let retain_ms = if own.is_some() { Policy::default().retain_ms } else { RETAIN_MS };
        let policy = Policy { durability: plan.durability, retain_ms, ..Policy::default() };
        let admin =
            TopicAdmin::create(&link, "sealcast bench", owner, &State::memory(), policy, &members).await?;

        progress.begin("subscribing", readers.len());
        let subscribe = |reader| {
            let subscriber = Subscriber::new(reader, State::memory());
            let link = admin.link();
            async move {
                let subscription = subscriber.subscribe(link, StartAt::Latest).await?;
                progress.step();
                Ok::<_, Failure>((subscriber, subscription))
            }
        };
        let subscribed =
            stream::iter(readers).map(subscribe).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let (subscribers, subscriptions) = subscribed.into_iter().unzip();
        progress.begin("publishers", senders.len());
        let open = |sender: Arc<Identity>| {
            let (key, publisher) = (sender.public(), Publisher::new(sender, State::memory()));
            let link = admin.link();
            async move {
                let topic = publisher.topic(link).await?;
                progress.step();
                Ok::<_, Failure>((publisher, (key, Arc::new(topic))))
            }
        };
        let opened = stream::iter(senders).map(open).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let (publishers, topics) = opened.into_iter().unzip();
        Ok(Self { topics, subscriptions, broker_pid, publishers, subscribers, admin, own })
    }

    /// Everybody goes. A broker of our own goes first: nobody needs to be told.
    pub(super) async fn strike(self) {
        if let Some((mut broker, _dir)) = self.own {
            let _ = broker.kill().await;
            return;
        }
        drop((self.topics, self.subscriptions));
        let subscribers = future::join_all(self.subscribers.iter().map(Subscriber::close));
        let publishers = future::join_all(self.publishers.iter().map(Publisher::close));
        future::join3(subscribers, publishers, self.admin.close()).await;
    }
}

fn own_dir(dir: Option<&Path>) -> Result<TempDir, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("sealcast-bench-");
    let made = match dir {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    made.map_err(|error| {
        let place = dir.map_or_else(std::env::temp_dir, Path::to_path_buf);
        Failure::new(Exit::Failure, format!("cannot make a directory in {}: {error}", place.display()))
            .hint("--dir names one that exists and that you may write to")
    })
}

/// What the level of acknowledgement is called.
pub(super) fn name(durability: Durability) -> &'static str {
    match durability {
        Durability::Durable => "durable",
        Durability::Memory => "memory",
    }
}
