//! What an application holds: a publisher, and the topics it publishes to.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use sealcast_envelope::Message;
use sealcast_link::{Link, LinkOptions};
use sealcast_proto::{BrokerLink, Identity, RosterSeq, TopicLink};
use sealcast_state::{State, StateRole};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::clock::now_ms;
use crate::driver::{Command, Driver, TopicStatus};
use crate::error::PublishError;
use crate::marks::Marks;
use crate::outbox::{Effect, Outbox, Receipt};
use crate::session::{self, SessionError};

/// What an application may have waiting for acknowledgement, KiB: bounds memory, and slows the application down to what
/// the broker and its disk can take.
const WAITING_KIB: u32 = 32 << 10;

/// Publishes to topics with one identity. Cheap to clone; topics of one broker share a connection.
#[derive(Clone)]
pub struct Publisher {
    identity: Arc<Identity>,
    state: State,
    options: LinkOptions,
    links: Arc<Mutex<Vec<(BrokerLink, Link)>>>,
}

impl Publisher {
    /// A publisher that keeps its marks and prekeys in `state`.
    pub fn new(identity: Arc<Identity>, state: State) -> Self {
        Self::with_options(identity, state, LinkOptions::default())
    }

    /// The same with settings for the connection.
    pub fn with_options(identity: Arc<Identity>, state: State, options: LinkOptions) -> Self {
        Self { identity, state, options, links: Arc::default() }
    }

    /// Connects and follows the topic's roster to its head. Nothing is sealed before the first message.
    ///
    /// # Errors
    /// [`PublishError::Connect`] if no broker of the link can be reached, [`PublishError::NotAllowed`] if this identity
    /// may not publish, [`PublishError::State`] if another process publishes with this identity and state,
    /// [`PublishError::Rollback`] and [`PublishError::Fork`] if the broker shows less, or other, than was seen before.
    pub async fn topic(&self, link: &TopicLink) -> Result<Topic, PublishError> {
        let me = self.identity.public();
        let saved = Arc::new(self.state.open(&me, &link.topic, StateRole::Publish)?);
        let marks = match saved.load()? {
            Some(bytes) => Marks::decode(&bytes)
                .map_err(|error| PublishError::Rollback(format!("{error}; remove them to begin anew")))?,
            None => Marks::default(),
        };
        let to_broker = self.link(&link.broker);
        let connection = to_broker.connect().await?;
        let genesis = session::fetch_genesis(&connection, link.topic, &self.identity).await?;
        let mut session = match session::open(&connection, link.topic, &self.identity, RosterSeq(0)).await {
            Ok(session) => session,
            Err(SessionError::Fatal(error)) => return Err(error),
            Err(SessionError::Retry(why)) => return Err(PublishError::Broker(why)),
        };
        let mut outbox = Outbox::new(Arc::clone(&self.identity), link.topic, &genesis, marks);
        let mut effects = Vec::new();
        for input in std::mem::take(&mut session.inputs) {
            outbox.handle(input, now_ms(), &mut effects);
        }
        for effect in effects {
            // Nothing waits to be sealed yet, so an outbox only saves, or refuses what the broker showed.
            match effect {
                Effect::Save(marks) => saved.save(&marks.encode())?,
                Effect::Fail(error) => return Err(error),
                _ => {}
            }
        }
        let policy = outbox.roster().chain().policy().clone();
        session::publish_prekey(&connection, link.topic, &self.identity, &self.state, &policy, false).await?;

        let (commands, received) = mpsc::channel(1024);
        let failed = Arc::new(OnceLock::new());
        let (status, seen) =
            watch::channel(TopicStatus { members: outbox.roster().members().len(), unreachable: Vec::new() });
        let driver = Driver {
            link: to_broker,
            topic: link.topic,
            identity: Arc::clone(&self.identity),
            state: self.state.clone(),
            saved,
            outbox,
            commands: received,
            failed: Arc::clone(&failed),
            status,
        };
        tokio::spawn(driver.run(connection, session));
        Ok(Topic {
            link: link.clone(),
            commands,
            permits: Arc::new(Semaphore::new(WAITING_KIB as usize)),
            failed,
            status: seen,
        })
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

/// A topic to publish to. Close it when done: members then learn that nothing more will come.
pub struct Topic {
    link: TopicLink,
    commands: mpsc::Sender<Command>,
    permits: Arc<Semaphore>,
    failed: Arc<OnceLock<PublishError>>,
    status: watch::Receiver<TopicStatus>,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Topic {
    /// Publishes one message and waits until the broker acknowledged it.
    ///
    /// # Errors
    /// [`PublishError::Message`] if it is too large (1 MiB); any other error means that nothing more can be published.
    pub async fn publish(&self, message: impl Into<Message>) -> Result<Receipt, PublishError> {
        self.send(message).await?.await
    }

    /// Hands a message over and returns at once, unless too much waits already. What waits while the broker is busy is
    /// sealed together. Messages keep the order of these calls.
    pub async fn send(&self, message: impl Into<Message>) -> Result<Pending, PublishError> {
        let mut message = message.into();
        if message.time_ms == 0 {
            message.time_ms = now_ms();
        }
        let message = message.encode()?;
        let kib = u32::try_from(message.len().div_ceil(1024)).unwrap_or(WAITING_KIB).clamp(1, WAITING_KIB);
        let permit =
            Arc::clone(&self.permits).acquire_many_owned(kib).await.map_err(|_| PublishError::Closed)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Send { message, reply, permit };
        self.commands.send(command).await.map_err(|_| self.failure())?;
        Ok(Pending { answer, failed: Arc::clone(&self.failed) })
    }

    /// Waits until everything handed over was answered.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let all = self.permits.acquire_many(WAITING_KIB).await.map_err(|_| PublishError::Closed)?;
        drop(all);
        self.failed.get().cloned().map_or(Ok(()), Err)
    }

    /// Publishes what waits, says END, and waits for the acknowledgement.
    pub async fn close(self) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Close { reply }).await.map_err(|_| self.failure())?;
        answer.await.map_err(|_| self.failure())?
    }

    /// The link this topic was opened with.
    pub fn link(&self) -> &TopicLink {
        &self.link
    }

    /// Members and who of them cannot be reached.
    pub fn status(&self) -> TopicStatus {
        self.status.borrow().clone()
    }

    fn failure(&self) -> PublishError {
        self.failed.get().cloned().unwrap_or(PublishError::Closed)
    }
}

/// A message on its way. Resolves when the broker acknowledged it.
pub struct Pending {
    answer: oneshot::Receiver<Result<Receipt, PublishError>>,
    failed: Arc<OnceLock<PublishError>>,
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            answer.unwrap_or_else(|_| Err(self.failed.get().cloned().unwrap_or(PublishError::Closed)))
        })
    }
}
