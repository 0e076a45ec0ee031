//! Beginning a subscription.

use std::sync::{Arc, Mutex, PoisonError};

use sealcast_envelope::WrapSecret;
use sealcast_link::{Connection, Link, LinkError, LinkOptions, Turns};
use sealcast_proto::frame::{Code, From as Begin, Reply};
use sealcast_proto::{BrokerLink, Identity, Offset, PublicKey, TopicLink};
use sealcast_state::{PrekeyStore, RoleState, State, StateError, StateRole};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::now_ms;
use crate::cursor::Cursor;
use crate::driver::Driver;
use crate::error::SubscribeError;
use crate::inbox::{Effects, Inbox, Input};
use crate::outage;
use crate::prekeys;
use crate::stream::{self, PATIENCE, Stream};
use crate::subscription::Subscription;
use crate::taken::Taken;

/// Where a subscription begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StartAt {
    /// Where the last one of this identity and state ended; where there is none, as [`StartAt::Latest`].
    #[default]
    Resume,
    /// With the oldest message that the broker keeps.
    Earliest,
    /// With what is published from now on.
    Latest,
    /// With the first record at or after this offset.
    Offset(Offset),
    /// With the first record that the broker stored at or after this time, milliseconds since 1970.
    Time(u64),
}

/// How a subscription goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeOptions {
    /// Where it begins.
    pub from: StartAt,
    /// Whether it ends when everything that the broker holds was read. Publishers that have not ended are then reported
    /// as [`Truncated`](crate::Event::Truncated): nobody knows whether that was all.
    pub until_head: bool,
}

impl From<StartAt> for SubscribeOptions {
    fn from(from: StartAt) -> Self {
        Self { from, until_head: false }
    }
}

/// A member that reads: an identity and its state. Subscriptions to topics of one broker share a connection.
pub struct Subscriber {
    identity: Arc<Identity>,
    state: State,
    options: LinkOptions,
    links: Mutex<Vec<(BrokerLink, Link)>>,
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscriber({:?})", self.identity)
    }
}

impl Subscriber {
    /// One identity has one state: a second device is a second member.
    pub fn new(identity: Arc<Identity>, state: State) -> Self {
        Self::with_options(identity, state, LinkOptions::default())
    }

    /// The same, with other settings for its connections.
    pub fn with_options(identity: Arc<Identity>, state: State, options: LinkOptions) -> Self {
        Self { identity, state, options, links: Mutex::default() }
    }

    /// Connects and subscribes; waits for its turn where the broker is at one of its limits. The subscription then connects
    /// again by itself, for ever, until it is closed.
    ///
    /// # Errors
    /// What went wrong with this first connection, or with the state directory. Later trouble is an item.
    pub async fn subscribe(
        &self,
        link: &TopicLink,
        options: impl Into<SubscribeOptions>,
    ) -> Result<Subscription, SubscribeError> {
        let options = options.into();
        let me = self.identity.public();
        let store = self.state.prekeys(&me);
        let state = self.state.clone();
        let (topic, ring_store) = (link.topic, store.clone());
        let loaded = tokio::task::spawn_blocking(move || load(&state, &me, &topic, &ring_store)).await;
        let (role_state, saved, ring) = loaded.map_err(|_| SubscribeError::Closed)??;

        let (from, cursor) = match options.from {
            StartAt::Resume => (Begin::Latest, saved),
            StartAt::Earliest => (Begin::Earliest, saved.restarted()),
            StartAt::Latest => (Begin::Latest, saved.restarted()),
            StartAt::Offset(offset) => (Begin::Offset(offset), saved.restarted()),
            StartAt::Time(ms) => (Begin::Time(ms), saved.restarted()),
        };
        let resumed = cursor.next_offset.is_some();
        let tag = cursor.tag.clone();
        let secret = WrapSecret::of_identity(&self.identity);
        let mut inbox = Inbox::new(me, secret, ring, cursor, from, options.until_head);

        let link = self.link(&link.broker);
        let mut turns = Turns::new(&link);
        let (stream, start) = loop {
            let connection = turns.connect().await?;
            match begin(connection, &mut inbox, me).await {
                Ok(begun) => break begun,
                Err(error) if turns.again(error.passing()) => tracing::debug!("not now: {error}"),
                Err(error) => return Err(error),
            }
        };
        let mut effects = Effects::default();
        inbox.handle(Input::Reply(start), now_ms(), &mut effects);
        let (items, received) = mpsc::unbounded_channel();
        if !effects.items.is_empty() {
            // The receiver is right here.
            let _ = items.send(effects.items);
        }
        let (commands, asked) = mpsc::unbounded_channel();
        let taken = Arc::new(Taken::new());
        let start_offset = inbox.start_offset();
        let (outage, outages) = outage::Watch::new();
        let driver = Driver {
            link,
            identity: Arc::clone(&self.identity),
            prekeys: store,
            state: Arc::new(role_state),
            inbox,
            taken: Arc::clone(&taken),
            commands: asked,
            items: (!effects.end).then_some(items),
            outage,
        };
        tokio::spawn(driver.run(stream));
        Ok(Subscription {
            topic,
            items: received,
            current: Vec::new().into_iter(),
            returned: 0,
            taken,
            commands,
            start_offset,
            resumed,
            tag,
            outages: Some(outages),
        })
    }

    /// Closes its connections and tells the brokers, which otherwise keep their places until the idle time-out: for a
    /// program that ends. Its subscriptions end with them. Close those first: what they took is saved then. Takes a second at most for each broker.
    pub async fn close(&self) {
        let links = std::mem::take(&mut *self.links.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, link) in links {
            link.close().await;
        }
    }

    fn link(&self, broker: &BrokerLink) -> Link {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, link)) = links.iter().find(|(held, _)| held == broker) {
            return link.clone();
        }
        let link = Link::new(broker.clone(), Arc::clone(&self.identity), self.options.clone());
        links.push((broker.clone(), link.clone()));
        link
    }
}

/// A subscription's stream, and the start it began with.
async fn begin(
    connection: Connection,
    inbox: &mut Inbox,
    me: PublicKey,
) -> Result<(Stream, Reply), SubscribeError> {
    let mut stream = stream::open(connection, inbox.subscribe()).await?;
    let first = timeout(PATIENCE, stream.reader.reply()).await;
    match first.map_err(|_| LinkError::Late("answer"))?? {
        Some(start @ Reply::Start(_)) => Ok((stream, start)),
        Some(Reply::Refused(refusal)) if refusal.code == Code::NotAllowed => {
            Err(SubscribeError::NotAllowed(me))
        }
        Some(Reply::Refused(refusal)) => Err(SubscribeError::Refused(refusal)),
        _ => Err(SubscribeError::Broker("it answers something else".into())),
    }
}

type Loaded = (RoleState, Cursor, sealcast_envelope::PrekeyRing);

fn load(
    state: &State,
    me: &PublicKey,
    topic: &sealcast_proto::TopicId,
    prekeys: &PrekeyStore,
) -> Result<Loaded, StateError> {
    let role_state = state.open(me, topic, StateRole::Subscribe)?;
    let cursor = match role_state.load()? {
        None => Cursor::new(*topic),
        Some(bytes) => Cursor::decode(&bytes, topic).map_err(|error| role_state.corrupt(error))?,
    };
    Ok((role_state, cursor, prekeys::load(prekeys)?))
}
