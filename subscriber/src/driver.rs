//! The task that runs an inbox: it moves frames in and items out, saves, connects again, and decides nothing.

mod saving;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sealcast_envelope::PrekeyRing;
use sealcast_link::{Link, LinkError, Passing, RequestError};
use sealcast_proto::frame::{EpochDelivery, Reply};
use sealcast_proto::{Identity, Offset};
use sealcast_state::{PrekeyStore, RoleState, StateError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use self::saving::joined;
use crate::clock::now_ms;
use crate::error::SubscribeError;
use crate::event::{Event, Item};
use crate::inbox::{Counters, Effects, Inbox, Input, Need, PublisherHead};
use crate::outage;
use crate::prekeys::{self, Maintained};
use crate::stream::{self, Stream};
use crate::taken::Taken;

/// What was taken is saved at most this much later: what a crash repeats.
const SAVE_EVERY: Duration = Duration::from_millis(200);
/// Records handed out and not taken, a count: bounds the key states that a save may have to go back to.
const MAX_PENDING: usize = 1024;
/// Bytes of messages handed out and not taken; one batch may exceed it.
const MAX_PENDING_BYTES: usize = 4 << 20;
/// Answers in a row that made no sense when epochs were asked for, a count: then they are taken as locked. A broker that cannot
/// answer just now, or a connection that does not carry it, is asked for as long as it takes.
const MAX_FETCH_FAILURES: u32 = 3;

/// What the application asks of the driver.
pub(crate) enum Command {
    /// Save as of what was taken.
    Commit { reply: oneshot::Sender<Saved> },
    /// The same, and end.
    Close { reply: oneshot::Sender<Saved> },
    /// How things stand.
    Status { reply: oneshot::Sender<(Vec<PublisherHead>, Counters)> },
}

/// The position that was saved.
pub(crate) type Saved = Result<Offset, SubscribeError>;

/// Everything a driver needs.
pub(crate) struct Driver {
    pub(crate) link: Link,
    pub(crate) identity: Arc<Identity>,
    pub(crate) prekeys: PrekeyStore,
    pub(crate) state: Arc<RoleState>,
    pub(crate) inbox: Inbox,
    pub(crate) taken: Arc<Taken>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// `None`: the last item was handed out. Bounded by [`MAX_PENDING`] and [`MAX_PENDING_BYTES`].
    pub(crate) items: Option<mpsc::UnboundedSender<Vec<Item>>>,
    pub(crate) outage: outage::Watch,
}

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum Answer {
    Prekeys(Result<PrekeyRing, StateError>),
    Epochs(Result<Vec<EpochDelivery>, RequestError>),
}

/// What is under way. At most one of each.
#[derive(Default)]
struct Tasks {
    stream: Option<Stream>,
    reopen: Option<Work<Stream>>,
    need: Option<Work<Answer>>,
    prekeys: Option<Work<Result<Maintained, StateError>>>,
    /// Whether our prekeys were looked after since this subscription began.
    looked_after: bool,
    save: Option<JoinHandle<Result<(), StateError>>>,
    /// Who waits for the save under way, and for the next one.
    saving: Vec<oneshot::Sender<Saved>>,
    /// The position being saved.
    position: Offset,
    waiting: Vec<oneshot::Sender<Saved>>,
    save_at: Option<Instant>,
    paused: bool,
    failures: u32,
    fetch_failures: u32,
}

#[expect(clippy::large_enum_variant, reason = "it is moved once and kept nowhere")]
enum Woken {
    Command(Option<Command>),
    Taken,
    Saved(Result<(), StateError>),
    SaveDue,
    Frame(Result<Option<Reply>, LinkError>),
    Opened(Box<Stream>),
    Answer(Answer),
    Maintained(Result<Maintained, StateError>),
    PrekeysDue,
    Tick,
}

impl Driver {
    /// Runs until the application closes or drops the subscription. `first` is a stream that stands.
    pub(crate) async fn run(mut self, first: Stream) {
        let mut tasks = Tasks { stream: Some(first), ..Tasks::default() };
        let mut tick_at = Instant::now();
        let mut prekeys_at = Instant::now();
        loop {
            self.settle(&mut tasks);
            let tick_ms = Duration::from_millis(self.inbox.tick_ms());
            // Under a constant flow of frames time passes too.
            let woken = if self.items.is_some() && !tasks.paused && Instant::now() > tick_at + tick_ms {
                Woken::Tick
            } else {
                let ready = self.inbox.policy().is_some() && tasks.stream.is_some();
                self.wait(&mut tasks, tick_at, ready.then_some(prekeys_at)).await
            };
            match woken {
                Woken::Command(None) => return self.last_save(tasks).await,
                Woken::Command(Some(command)) => {
                    if self.on_command(command, &mut tasks) {
                        return self.last_save(tasks).await;
                    }
                }
                Woken::Taken => {}
                Woken::Saved(result) => self.on_saved(result, &mut tasks),
                Woken::SaveDue => self.start_save(&mut tasks),
                Woken::Frame(frame) => self.on_frame(frame, &mut tasks),
                Woken::Opened(stream) => {
                    tasks.reopen = None;
                    tasks.stream = Some(*stream);
                }
                Woken::Answer(answer) => self.on_answer(answer, &mut tasks),
                Woken::PrekeysDue => {
                    prekeys_at = Instant::now() + Duration::from_millis(prekeys::CHECK_MS);
                    self.start_prekeys(&mut tasks);
                }
                Woken::Maintained(result) => {
                    (tasks.prekeys, tasks.looked_after) = (None, true);
                    match result {
                        // The last item was handed out.
                        _ if self.items.is_none() => {}
                        Ok(Maintained { ring, stored }) => {
                            self.put(Input::Prekeys(ring), &mut tasks);
                            if let Some(id) = stored {
                                self.put(Input::PrekeyStored(id), &mut tasks);
                            }
                        }
                        Err(error) => self.fail(&error, &mut tasks),
                    }
                }
                Woken::Tick => {
                    tick_at = Instant::now() + tick_ms;
                    self.put(Input::Tick, &mut tasks);
                    let link = &self.link;
                    self.outage.tick(|| link.last_error().map(|error| error.to_string()));
                }
            }
        }
    }

    /// Takes note of what was taken, and of whether there is room for more.
    fn settle(&mut self, tasks: &mut Tasks) {
        self.watch(tasks);
        let (records, bytes) = self.inbox.ledger().pending();
        let full = match tasks.paused {
            false => records >= MAX_PENDING || bytes >= MAX_PENDING_BYTES,
            true => records > MAX_PENDING / 2 || bytes > MAX_PENDING_BYTES / 2,
        };
        if full != tasks.paused {
            tasks.paused = full;
            self.put(if full { Input::Paused } else { Input::Resumed }, tasks);
            self.watch(tasks);
        }
    }

    /// Asks to be woken when the application took enough to matter, and looks at what it took until now.
    fn watch(&mut self, tasks: &mut Tasks) {
        let next = match (tasks.save_at, tasks.paused) {
            // The next item taken is to be saved soon.
            (None, _) => self.taken.count().saturating_add(1),
            // It will be; but there may be room.
            (Some(_), true) => self.inbox.ledger().halfway(),
            (Some(_), false) => u64::MAX,
        };
        self.taken.wake_when(next);
        self.take();
        if tasks.save_at.is_none() && self.inbox.ledger().is_dirty() {
            let soon = if tasks.waiting.is_empty() { SAVE_EVERY } else { Duration::ZERO };
            tasks.save_at = Some(Instant::now() + soon);
        }
    }

    /// Tells the ledger what was taken.
    fn take(&mut self) {
        let (taken, tag) = self.taken.read();
        if let Some((tag, covered)) = tag {
            self.inbox.ledger().tag(tag, covered);
        }
        self.inbox.ledger().settle(taken);
    }

    async fn wait(&mut self, tasks: &mut Tasks, tick_at: Instant, prekeys_at: Option<Instant>) -> Woken {
        let live = self.items.is_some();
        // A broker that does not answer a question is silent too: time goes on meanwhile.
        let tick = live && !tasks.paused;
        let read = tick && tasks.need.is_none();
        tokio::select! {
            biased;
            command = self.commands.recv() => Woken::Command(command),
            () = self.taken.woken() => Woken::Taken,
            saved = joined(&mut tasks.save) => Woken::Saved(saved),
            () = until(tasks.save_at), if tasks.save.is_none() => Woken::SaveDue,
            answer = ready(&mut tasks.need), if live => Woken::Answer(answer),
            maintained = ready(&mut tasks.prekeys) => Woken::Maintained(maintained),
            stream = ready(&mut tasks.reopen), if live => Woken::Opened(Box::new(stream)),
            frame = frame(&mut tasks.stream), if read => Woken::Frame(frame),
            () = until(prekeys_at), if live && tasks.prekeys.is_none() => Woken::PrekeysDue,
            () = sleep_until(tick_at), if tick => Woken::Tick,
        }
    }

    /// Puts one input into the inbox and does what follows from it.
    fn put(&mut self, input: Input, tasks: &mut Tasks) {
        let mut effects = Effects::default();
        self.inbox.handle(input, now_ms(), &mut effects);
        self.carry_out(effects, tasks);
    }

    fn carry_out(&mut self, effects: Effects, tasks: &mut Tasks) {
        if !effects.items.is_empty()
            && let Some(items) = &self.items
        {
            // Nobody listens any more: the commands say so too.
            let _ = items.send(effects.items);
        }
        if effects.end {
            self.items = None;
            self.see_to_prekeys(tasks);
            let save_at = if tasks.waiting.is_empty() { tasks.save_at } else { Some(Instant::now()) };
            *tasks = Tasks {
                prekeys: tasks.prekeys.take(),
                looked_after: tasks.looked_after,
                save: tasks.save.take(),
                saving: std::mem::take(&mut tasks.saving),
                waiting: std::mem::take(&mut tasks.waiting),
                save_at,
                ..Tasks::default()
            };
            return;
        }
        if let Some(need) = effects.need {
            self.start_need(need, tasks);
        }
        if let Some(why) = effects.resubscribe {
            tracing::warn!("beginning the subscription again: {why}");
            self.outage.lost(Some(why));
            self.lost(tasks, effects.retry_after_ms);
        }
    }

    fn on_frame(&mut self, frame: Result<Option<Reply>, LinkError>, tasks: &mut Tasks) {
        match frame {
            Ok(Some(reply)) => {
                if !matches!(reply, Reply::Refused(_)) {
                    self.outage.carried();
                }
                self.put(Input::Reply(reply), tasks);
                if self.inbox.is_at_head() {
                    tasks.failures = 0;
                }
            }
            Ok(None) => {
                tracing::debug!("the broker ended the stream");
                self.put(Input::Finished, tasks);
                if self.items.is_some() {
                    self.lost(tasks, 0);
                }
            }
            // A link that breaks may mend; a broker that speaks nonsense will not for ever be asked again.
            Err(error @ (LinkError::Frame(_) | LinkError::Protocol(_))) => {
                self.put(Input::Garbage(error.to_string()), tasks);
            }
            Err(error) => {
                tracing::debug!(%error, "the delivery stream broke");
                self.lost(tasks, 0);
            }
        }
    }

    /// The stream is of no use any more: another one, from where the inbox stands, no sooner than the broker asked for.
    fn lost(&mut self, tasks: &mut Tasks, retry_after_ms: u64) {
        tasks.stream = None;
        tasks.need = None;
        self.outage.lost(None);
        self.put(Input::Lost, tasks);
        if self.items.is_some() {
            let work =
                stream::reopen(self.link.clone(), self.inbox.subscribe(), tasks.failures, retry_after_ms);
            tasks.reopen = Some(Box::pin(work));
            tasks.failures = tasks.failures.saturating_add(1);
        }
    }

    fn start_need(&mut self, need: Need, tasks: &mut Tasks) {
        let Some(stream) = &tasks.stream else { return };
        tasks.need = Some(match need {
            Need::Prekeys => {
                let store = self.prekeys.clone();
                Box::pin(async move { Answer::Prekeys(prekeys::reload(store).await) })
            }
            Need::Epochs(publisher, epoch) => {
                let fetch =
                    stream::fetch_epochs(stream.connection.clone(), self.inbox.topic(), publisher, epoch);
                Box::pin(async move { Answer::Epochs(fetch.await) })
            }
        });
    }

    fn on_answer(&mut self, answer: Answer, tasks: &mut Tasks) {
        tasks.need = None;
        match answer {
            Answer::Prekeys(Ok(ring)) => self.put(Input::Prekeys(ring), tasks),
            Answer::Prekeys(Err(error)) => self.fail(&error, tasks),
            Answer::Epochs(Ok(epochs)) => {
                tasks.fetch_failures = 0;
                self.put(Input::Epochs(epochs), tasks);
            }
            Answer::Epochs(Err(error)) => {
                tracing::warn!(%error, "epochs could not be fetched");
                let again = again(&error);
                tasks.fetch_failures += u32::from(again.is_none());
                if tasks.fetch_failures >= MAX_FETCH_FAILURES {
                    tasks.fetch_failures = 0;
                    self.put(Input::Epochs(Vec::new()), tasks);
                } else {
                    // The batch that needs them comes again.
                    self.lost(tasks, again.unwrap_or_default());
                }
            }
        }
    }

    fn start_prekeys(&mut self, tasks: &mut Tasks) {
        if let (Some(policy), Some(stream)) = (self.inbox.policy().cloned(), &tasks.stream) {
            let (store, identity) = (self.prekeys.clone(), Arc::clone(&self.identity));
            let acknowledged = self.inbox.acknowledged_prekey();
            let connection = stream.connection.clone();
            let topic = self.inbox.topic();
            let work = prekeys::maintain(store, identity, topic, policy, acknowledged, connection);
            tasks.prekeys = Some(Box::pin(work));
        }
    }

    /// Before a subscription ends. However short it was, its member leaves a prekey: to who never did, publishers wrap
    /// under its identity for ever (docs/protocol.md, G7).
    fn see_to_prekeys(&mut self, tasks: &mut Tasks) {
        if tasks.prekeys.is_none() && !tasks.looked_after {
            self.start_prekeys(tasks);
        }
    }

    /// Returns whether that was the last one.
    fn on_command(&mut self, command: Command, tasks: &mut Tasks) -> bool {
        match command {
            Command::Commit { reply } => {
                tasks.waiting.push(reply);
                tasks.save_at = Some(Instant::now());
                false
            }
            Command::Close { reply } => {
                tasks.waiting.push(reply);
                true
            }
            Command::Status { reply } => {
                // Who asked may be gone.
                let _ = reply.send((self.inbox.heads(), self.inbox.counters()));
                false
            }
        }
    }

    fn fail(&mut self, error: &StateError, tasks: &mut Tasks) {
        let mut effects = Effects::default();
        self.inbox.fail(Event::State { what: error.to_string(), hint: error.hint() }, &mut effects);
        self.carry_out(effects, tasks);
    }
}

/// When to ask for epochs again, milliseconds from now; `None` where the broker would say the same.
fn again(error: &RequestError) -> Option<u64> {
    match Passing::failed(error) {
        Some(Passing::Turn(ms) | Passing::Trouble(ms)) => Some(ms),
        // A slow connection is no fault of the answer.
        None => matches!(error, RequestError::Link(LinkError::Late(_))).then_some(0),
    }
}

/// The next frame of the stream, if there is one.
async fn frame(stream: &mut Option<Stream>) -> Result<Option<Reply>, LinkError> {
    match stream {
        Some(stream) => stream.reader.reply().await,
        None => std::future::pending().await,
    }
}

/// Completes with the work, if there is some. The caller removes it.
async fn ready<T>(work: &mut Option<Work<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Until then; for ever where there is no then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => sleep_until(then).await,
        None => std::future::pending().await,
    }
}
