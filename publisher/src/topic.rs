//! What an application holds: a publisher, and the topics it publishes to.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use sealcast_envelope::Message;
use sealcast_link::{Connection, Link, LinkOptions, Turns};
use sealcast_proto::{BrokerLink, Identity, RosterSeq, TopicId, TopicLink};
use sealcast_state::{RoleState, State, StateError, StateRole};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::clock::now_ms;
use crate::driver::{Command, Driver, TopicStatus};
use crate::error::PublishError;
use crate::marks::Marks;
use crate::outbox::{Effect, Input, Outbox, Receipt};
use crate::session::{self, Give, Session};
use crate::standstill::Standstill;

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
    /// [`PublishError::Connect`] if no broker of the link can be reached, [`PublishError::Refused`] or
    /// [`PublishError::Lost`] if none could serve for a minute, [`PublishError::NotAllowed`] if this identity
    /// may not publish, [`PublishError::State`] if another process publishes with this identity and state,
    /// [`PublishError::Rollback`] and [`PublishError::Fork`] if the broker shows less, or other, than was seen before.
    pub async fn topic(&self, link: &TopicLink) -> Result<Topic, PublishError> {
        let me = self.identity.public();
        let (state, topic) = (self.state.clone(), link.topic);
        let saved = blocking(move || state.open(&me, &topic, StateRole::Publish).map(Arc::new)).await?;
        let to_broker = self.link(&link.broker);
        let mut turns = Turns::new(&to_broker);
        let (connection, mut outbox, (session, connected)) = loop {
            let connection = turns.connect().await?;
            match self.begin(&connection, topic, &saved).await {
                Ok((outbox, begun)) => break (connection, outbox, begun),
                Err(error) if turns.again(error.passing()) => tracing::debug!("not now: {error}"),
                Err(error) => return Err(error),
            }
        };
        take(&mut outbox, connected, &saved).await?;
        let policy = outbox.roster().chain().policy().clone();
        session::publish_prekey(&connection, link.topic, &self.identity, &self.state, &policy, Give::Newest)
            .await?;

        let (commands, received) = mpsc::channel(1024);
        let failed = Arc::new(OnceLock::new());
        let (status, seen) = watch::channel(TopicStatus {
            members: outbox.roster().members().len(),
            ..TopicStatus::default()
        });
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

    /// An outbox as it was saved, at the roster's head, and its streams.
    async fn begin(
        &self,
        connection: &Connection,
        topic: TopicId,
        saved: &Arc<RoleState>,
    ) -> Result<(Outbox, (Session, Input)), PublishError> {
        let genesis = session::fetch_genesis(connection, topic, &self.identity).await?;
        // Anew with each attempt: the last one may have saved what it was shown.
        let role = Arc::clone(saved);
        let marks = match blocking(move || role.load()).await? {
            Some(bytes) => Marks::decode(&bytes).map_err(|error| saved.corrupt(error))?,
            None => Marks::default(),
        };
        let mut outbox = Outbox::new(Arc::clone(&self.identity), topic, &genesis, marks);
        let (inputs, mut catching_up) = mpsc::channel(session::CATCHING_UP);
        let opening = async {
            // Moved in, so that it ends with this.
            let inputs = inputs;
            session::open(connection, topic, &self.identity, RosterSeq(0), &inputs).await
        };
        let taking = async {
            while let Some(input) = catching_up.recv().await {
                take(&mut outbox, input, saved).await?;
            }
            Ok(())
        };
        let (begun, ()) = tokio::try_join!(opening, taking)?;
        Ok((outbox, begun))
    }

    /// Closes its connections and tells the brokers, which otherwise keep their places until the idle time-out: for a
    /// program that ends. Its topics end with them. Close those first: what waits is published then. Takes a second at most for each broker.
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

/// What an outbox hears before there is a driver. Nothing waits to be sealed yet, so it only saves, or refuses what the
/// broker showed.
async fn take(outbox: &mut Outbox, input: Input, saved: &Arc<RoleState>) -> Result<(), PublishError> {
    let mut effects = Vec::new();
    outbox.handle(input, now_ms(), &mut effects);
    let mut outcome = Ok(());
    for effect in effects {
        match effect {
            Effect::Save(marks) => {
                let saved = Arc::clone(saved);
                blocking(move || saved.save(&marks.encode())).await?;
            }
            Effect::Fail(error) => outcome = Err(error),
            _ => {}
        }
    }
    outcome
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, PublishError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| PublishError::Seal(error.to_string()))??)
}

/// A topic to publish to. Close it when done: members then learn that nothing more will come. Dropped without, what was
/// not acknowledged may be lost, and members are told that the publisher went silent.
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
    /// sealed together. Messages keep the order of these calls. Cancel-safe: dropped before it returns, nothing was handed
    /// over; dropping the [`Pending`] takes nothing back.
    ///
    /// # Errors
    /// As [`Topic::publish`].
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
    ///
    /// # Errors
    /// Why nothing more can be published; what was not acknowledged got the same answer.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let all = self.permits.acquire_many(WAITING_KIB).await.map_err(|_| PublishError::Closed)?;
        drop(all);
        self.failed.get().cloned().map_or(Ok(()), Err)
    }

    /// Publishes what waits, says END, and waits for the acknowledgement; then the topic may be opened again at once.
    ///
    /// # Errors
    /// If the END was not acknowledged, or the marks could not be saved.
    pub async fn close(self) -> Result<(), PublishError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Close { reply }).await.map_err(|_| self.failure())?;
        answer.await.map_err(|_| self.failure())?
    }

    /// The link this topic was opened with.
    pub fn link(&self) -> &TopicLink {
        &self.link
    }

    /// Members, who of them cannot be reached, and whether anything is in the way.
    pub fn status(&self) -> TopicStatus {
        self.status.borrow().clone()
    }

    /// Resolves when nothing gets through, with the reason; at once if that is so now, never if the topic ends before.
    pub async fn standstill(&self) -> Standstill {
        let mut status = self.status.clone();
        match status.wait_for(|status| status.standstill.is_some()).await.map(|status| status.standstill) {
            Ok(Some(standstill)) => standstill,
            _ => std::future::pending().await,
        }
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
