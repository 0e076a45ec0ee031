//! The task that runs an outbox: it moves bytes between the application, the outbox and the broker, and decides nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sealcast_envelope::NewEpoch;
use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkError, RequestError};
use sealcast_proto::frame::{Reply, Request, TABLE_FRAME_SLOTS};
use sealcast_proto::{Epoch, Hash, Identity, TopicId, limits};
use sealcast_state::{RoleState, State};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::clock::now_ms;
use crate::error::PublishError;
use crate::marks::Marks;
use crate::outbox::{Effect, EpochWork, Input, Outbox, Receipt};
use crate::session::{self, Give, Session, watched};
use crate::standstill::Standstill;

/// Commands taken from the application in one go, a count: what waits is sealed together.
const COMMANDS_AT_ONCE: usize = 4096;
/// How often a running client looks whether a new prekey is due, milliseconds.
const PREKEY_CHECK_MS: u64 = 60_000;

/// A session that lasted this long was a success.
const STABLE: Duration = sealcast_link::backoff::CAP;

/// What the application asks of the driver.
pub(crate) enum Command {
    /// Publish an encoded message.
    Send {
        message: Bytes,
        reply: oneshot::Sender<Result<Receipt, PublishError>>,
        /// Back-pressure: held until the message was answered.
        permit: OwnedSemaphorePermit,
    },
    /// Seal an END and stop.
    Close { reply: oneshot::Sender<Result<(), PublishError>> },
}

/// What the application can see of a topic.
#[derive(Debug, Clone, Default)]
pub struct TopicStatus {
    /// Members on the verified roster.
    pub members: usize,
    /// Members that got no slot in the current epoch: their prekey expired, or their key is not usable.
    pub unreachable: Vec<sealcast_proto::PublicKey>,
    /// Why nothing gets through at present, if nothing does.
    pub standstill: Option<Standstill>,
}

/// Everything a driver needs.
pub(crate) struct Driver {
    pub(crate) link: Link,
    pub(crate) topic: TopicId,
    pub(crate) identity: Arc<Identity>,
    pub(crate) state: State,
    pub(crate) saved: Arc<RoleState>,
    pub(crate) outbox: Outbox,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) failed: Arc<OnceLock<PublishError>>,
    pub(crate) status: watch::Sender<TopicStatus>,
}

type Waiting = (oneshot::Sender<Result<Receipt, PublishError>>, OwnedSemaphorePermit);
type Uploaded = Result<(), RequestError>;
/// Which header the saved marks know of.
type Saved = Result<Option<Epoch>, PublishError>;
type Reopened = Result<(Connection, Session, Input), PublishError>;

/// What is under way besides the streams. At most one of each.
#[derive(Default)]
struct Tasks {
    build: Option<JoinHandle<Result<NewEpoch, String>>>,
    upload: Option<JoinHandle<Uploaded>>,
    save: Option<JoinHandle<Saved>>,
    reopen: Option<JoinHandle<Reopened>>,
    /// What the next session's watch says before it is at the head.
    catching_up: Option<mpsc::Receiver<Input>>,
    save_next: Option<Marks>,
    /// Sessions in a row that ended soon after they began.
    short_sessions: u32,
}

/// A connection's streams while it lasts.
struct Streams {
    connection: Connection,
    answers: FrameReader,
    watch: FrameReader,
    _watch_writer: FrameWriter,
    frames: mpsc::Sender<Bytes>,
    writing: AbortHandle,
    since: Instant,
}

impl Drop for Streams {
    /// A broker that does not read would keep the task, and a frame with it, as long as the connection stands.
    fn drop(&mut self) {
        self.writing.abort();
    }
}

impl Streams {
    fn new(connection: Connection, session: Session) -> Self {
        // One frame waits while another is written: a batch is what waited meanwhile.
        let (frames, mut next) = mpsc::channel::<Bytes>(1);
        let mut writer = session.writer;
        let writing = tokio::spawn(async move {
            while let Some(frame) = next.recv().await {
                if writer.send(frame).await.is_err() {
                    return;
                }
            }
            writer.finish();
        });
        Self {
            connection,
            answers: session.answers,
            watch: session.watch,
            _watch_writer: session.watch_writer,
            frames,
            writing: writing.abort_handle(),
            since: Instant::now(),
        }
    }
}

/// What woke the driver.
enum Woken {
    Command(Option<Command>),
    Answer(Result<Option<Reply>, LinkError>),
    Watch(Result<Option<Reply>, LinkError>),
    Writable(bool),
    Built(Result<NewEpoch, String>),
    Uploaded(Uploaded),
    Saved(Saved),
    CatchingUp(Option<Input>),
    Reopened(Box<Reopened>),
    Tick,
}

enum Outcome {
    Closed,
    Failed(PublishError),
}

impl Driver {
    /// Runs until the topic is closed, dropped, or cannot go on.
    pub(crate) async fn run(mut self, connection: Connection, session: Session) {
        let mut waiting: HashMap<u64, Waiting> = HashMap::new();
        let mut tasks = Tasks::default();
        let mut closing = None;
        let outcome = self.drive(connection, session, &mut waiting, &mut tasks, &mut closing).await;
        let mut saved = match tasks.save.take() {
            Some(save) => {
                save.await.unwrap_or_else(|error| Err(PublishError::Seal(error.to_string()))).map(drop)
            }
            None => Ok(()),
        };
        if let Some(marks) = self.outbox.unsaved_marks().or(tasks.save_next.take()) {
            saved = self.start_save(marks).await;
        }
        let aborted =
            [tasks.reopen.map(|task| task.abort_handle()), tasks.upload.map(|task| task.abort_handle())];
        aborted.into_iter().flatten().for_each(|task| task.abort());
        let answer = match outcome {
            Outcome::Closed => saved,
            Outcome::Failed(error) => Err(error),
        };
        // Whoever gets an answer may open the topic again at once.
        drop(self.saved);
        let error = answer.clone().err().unwrap_or(PublishError::Closed);
        let _ = self.failed.set(error.clone());
        for (_, (reply, _permit)) in waiting.drain() {
            let _ = reply.send(Err(error.clone()));
        }
        if let Some(reply) = closing {
            let _ = reply.send(answer);
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            match command {
                Command::Send { reply, .. } => drop(reply.send(Err(error.clone()))),
                Command::Close { reply } => drop(reply.send(Err(error.clone()))),
            }
        }
    }

    async fn drive(
        &mut self,
        connection: Connection,
        session: Session,
        waiting: &mut HashMap<u64, Waiting>,
        tasks: &mut Tasks,
        closing: &mut Option<oneshot::Sender<Result<(), PublishError>>>,
    ) -> Outcome {
        let mut next_token = 0;
        let mut shown = None;
        let mut streams = Some(Streams::new(connection, session));
        let mut todo = VecDeque::new();
        let mut prekey_checked = now_ms();
        loop {
            let mut effects = Vec::new();
            let mut writes = Vec::new();
            while let Some(input) = todo.pop_front() {
                self.outbox.handle(input, now_ms(), &mut effects);
            }
            // Once a change, not once a message: the unreachable may be many.
            if shown != Some(self.outbox.standing()) {
                shown = Some(self.outbox.standing());
                self.publish_status();
            }
            for effect in effects {
                match effect {
                    Effect::Write(frame) => writes.push(frame),
                    Effect::Resolve { token, receipt } => {
                        if let Some((reply, _permit)) = waiting.remove(&token) {
                            let _ = reply.send(Ok(receipt));
                        }
                    }
                    Effect::BuildEpoch(work) => tasks.build = Some(build(work)),
                    Effect::UploadTable { table, slot_count, slots_hash } => {
                        if let Some(streams) = &streams {
                            let connection = streams.connection.clone();
                            let upload = upload(connection, self.topic, table, slot_count, slots_hash);
                            tasks.upload = Some(tokio::spawn(upload));
                        }
                    }
                    Effect::Save(marks) if tasks.save.is_none() => {
                        tasks.save = Some(self.start_save_task(marks))
                    }
                    Effect::Save(marks) => tasks.save_next = Some(marks),
                    Effect::Reconnect { after_ms } => {
                        self.disconnect(&mut streams, tasks, Duration::from_millis(after_ms));
                        todo.push_back(Input::Lost);
                    }
                    Effect::Closed => return Outcome::Closed,
                    Effect::Fail(error) => return Outcome::Failed(error),
                }
            }
            if let Some(streams) = &streams {
                for frame in writes {
                    // The outbox answers one Writable with one frame, and Writable is said with a place reserved.
                    if let Err(error) = streams.frames.try_send(frame) {
                        tracing::debug!("a frame found no place: {error}");
                    }
                }
            }
            if !todo.is_empty() {
                continue;
            }
            if now_ms().saturating_sub(prekey_checked) >= PREKEY_CHECK_MS
                && let Some(streams) = &streams
            {
                prekey_checked = now_ms();
                self.check_prekey(streams.connection.clone());
            }

            match self.wait(&mut streams, tasks, closing.is_none()).await {
                Woken::Command(None) => return Outcome::Closed,
                Woken::Command(Some(command)) => {
                    for command in and_waiting(command, &mut self.commands, COMMANDS_AT_ONCE) {
                        match command {
                            Command::Send { message, reply, permit } => {
                                waiting.insert(next_token, (reply, permit));
                                todo.push_back(Input::Send { token: next_token, message });
                                next_token += 1;
                            }
                            Command::Close { reply } => {
                                *closing = Some(reply);
                                todo.push_back(Input::Close);
                                break;
                            }
                        }
                    }
                }
                Woken::Answer(Ok(Some(Reply::Ack(ack)))) => todo.push_back(Input::Acked(ack)),
                Woken::Answer(Ok(Some(Reply::Refused(refusal)))) => todo.push_back(Input::Refused(refusal)),
                Woken::Watch(Ok(Some(Reply::Refused(refusal)))) => todo.push_back(Input::Refused(refusal)),
                Woken::Watch(Ok(Some(reply))) => todo.extend(watched(reply)),
                Woken::Answer(end) | Woken::Watch(end) => {
                    if let Err(error) = end {
                        tracing::debug!("the publisher's connection ended: {error}");
                    }
                    self.disconnect(&mut streams, tasks, Duration::ZERO);
                    todo.push_back(Input::Lost);
                }
                Woken::Writable(true) => todo.push_back(Input::Writable),
                Woken::Writable(false) => {
                    self.disconnect(&mut streams, tasks, Duration::ZERO);
                    todo.push_back(Input::Lost);
                }
                Woken::Built(Ok(epoch)) => todo.push_back(Input::EpochBuilt(Box::new(epoch))),
                Woken::Built(Err(why)) => todo.push_back(Input::EpochFailed(why)),
                Woken::Uploaded(Ok(())) => todo.push_back(Input::TableStored),
                Woken::Uploaded(Err(RequestError::Refused(refusal))) => {
                    todo.push_back(Input::TableRefused(refusal))
                }
                Woken::Uploaded(Err(error)) => {
                    tracing::debug!("a slot table could not be uploaded: {error}");
                    self.disconnect(&mut streams, tasks, Duration::ZERO);
                    todo.push_back(Input::Lost);
                }
                Woken::Saved(result) => {
                    match result {
                        Ok(header) => todo.extend(header.map(Input::Saved)),
                        Err(error) => return Outcome::Failed(error),
                    }
                    tasks.save = tasks.save_next.take().map(|marks| self.start_save_task(marks));
                }
                Woken::CatchingUp(Some(input)) => todo.push_back(input),
                Woken::CatchingUp(None) => tasks.catching_up = None,
                Woken::Reopened(reopened) => match *reopened {
                    Ok((connection, session, connected)) => {
                        if let Some(mut rest) = tasks.catching_up.take() {
                            todo.extend(std::iter::from_fn(|| rest.try_recv().ok()));
                        }
                        streams = Some(Streams::new(connection, session));
                        todo.push_back(connected);
                    }
                    Err(error) => return Outcome::Failed(error),
                },
                Woken::Tick => todo.push_back(Input::Tick),
            }
        }
    }

    async fn wait(&mut self, streams: &mut Option<Streams>, tasks: &mut Tasks, open: bool) -> Woken {
        let now = now_ms();
        let sleep = Duration::from_millis(self.outbox.wake_at().saturating_sub(now).min(PREKEY_CHECK_MS));
        let frame_waits = self.outbox.has_frame(now);
        let (answers, watch, frames) = match streams {
            Some(streams) => (Some(&mut streams.answers), Some(&mut streams.watch), Some(&streams.frames)),
            None => (None, None, None),
        };
        tokio::select! {
            // Answers and roster entries first: a removal must be known before anything more is sealed.
            biased;
            reply = next_reply(watch) => Woken::Watch(reply),
            reply = next_reply(answers) => Woken::Answer(reply),
            result = joined(&mut tasks.build) => Woken::Built(result.unwrap_or_else(|error| Err(error.to_string()))),
            result = joined(&mut tasks.upload) => match result {
                Ok(uploaded) => Woken::Uploaded(uploaded),
                Err(_) => Woken::Tick,
            },
            result = joined(&mut tasks.save) => {
                Woken::Saved(result.unwrap_or_else(|error| Err(PublishError::Seal(error.to_string()))))
            }
            input = next_input(tasks.catching_up.as_mut()) => Woken::CatchingUp(input),
            result = joined(&mut tasks.reopen) => match result {
                Ok(reopened) => Woken::Reopened(Box::new(reopened)),
                Err(error) => Woken::Reopened(Box::new(Err(PublishError::Broker(error.to_string())))),
            },
            command = self.commands.recv(), if open => Woken::Command(command),
            writable = writable(frames), if frame_waits => Woken::Writable(writable),
            () = tokio::time::sleep(sleep) => Woken::Tick,
        }
    }

    /// Gives the connection up and starts the next one.
    fn disconnect(&self, streams: &mut Option<Streams>, tasks: &mut Tasks, after: Duration) {
        let lasted = streams.take().map(|streams| streams.since.elapsed());
        let soon = lasted.is_some_and(|lasted| lasted < STABLE);
        // The first time at once; a broker that ends each session must not be asked in a tight loop.
        let backoff = sealcast_link::backoff::delay(tasks.short_sessions, &mut rand::rng());
        tasks.short_sessions = if soon { tasks.short_sessions.saturating_add(1) } else { 0 };
        if let Some(upload) = tasks.upload.take() {
            upload.abort();
        }
        if tasks.reopen.is_none() {
            let from = self.outbox.roster().chain().seq();
            let (link, identity) = (self.link.clone(), Arc::clone(&self.identity));
            let (inputs, catching_up) = mpsc::channel(session::CATCHING_UP);
            tasks.catching_up = Some(catching_up);
            let reopen = session::reopen(link, self.topic, identity, from, after.max(backoff), inputs);
            tasks.reopen = Some(tokio::spawn(reopen));
        }
    }

    fn start_save_task(&self, marks: Marks) -> JoinHandle<Saved> {
        let header = marks.coming.map(|(epoch, _)| epoch);
        let save = self.start_save(marks);
        tokio::spawn(async move { save.await.map(|()| header) })
    }

    fn start_save(&self, marks: Marks) -> impl Future<Output = Result<(), PublishError>> + Send + use<> {
        let saved = Arc::clone(&self.saved);
        async move {
            let save = tokio::task::spawn_blocking(move || saved.save(&marks.encode()));
            save.await.map_err(|error| PublishError::Seal(error.to_string()))?.map_err(PublishError::from)
        }
    }

    fn publish_status(&self) {
        let members = self.outbox.roster().members().len();
        let (unreachable, standstill) = (self.outbox.unreachable(), self.outbox.standstill());
        self.status.send_replace(TopicStatus { members, unreachable, standstill });
    }

    fn check_prekey(&self, connection: Connection) {
        let (topic, identity, state) = (self.topic, Arc::clone(&self.identity), self.state.clone());
        let policy = self.outbox.roster().chain().policy().clone();
        tokio::spawn(async move {
            let result =
                session::publish_prekey(&connection, topic, &identity, &state, &policy, Give::IfDue).await;
            if let Err(error) = result {
                tracing::warn!("no prekey could be published: {error}");
            }
        });
    }
}

/// `first` and what waits behind it, `most` together at most; nothing is taken out that is not handed on.
fn and_waiting<T>(first: T, waiting: &mut mpsc::Receiver<T>, most: usize) -> impl Iterator<Item = T> {
    std::iter::once(first).chain(std::iter::from_fn(|| waiting.try_recv().ok())).take(most)
}

fn build(work: EpochWork) -> JoinHandle<Result<NewEpoch, String>> {
    // Wrapping is work for the processor: not on a thread that answers others.
    tokio::task::spawn_blocking(move || work.make(&mut rand::rng()).map_err(|error| error.to_string()))
}

/// Uploads a slot table on a stream of its own.
async fn upload(
    connection: Connection,
    topic: TopicId,
    table: Bytes,
    slot_count: u32,
    slots_hash: Hash,
) -> Result<(), RequestError> {
    let step = TABLE_FRAME_SLOTS * limits::SLOT_BYTES;
    let chunks =
        (0..table.len()).step_by(step).map(move |start| table.slice(start..table.len().min(start + step)));
    let announce = Request::UploadTable { topic, slot_count, slots_hash };
    connection.request(std::iter::once(announce).chain(chunks.map(Request::Table))).await?;
    Ok(())
}

async fn next_reply(reader: Option<&mut FrameReader>) -> Result<Option<Reply>, LinkError> {
    match reader {
        Some(reader) => reader.reply().await,
        None => std::future::pending().await,
    }
}

async fn next_input(inputs: Option<&mut mpsc::Receiver<Input>>) -> Option<Input> {
    match inputs {
        Some(inputs) => inputs.recv().await,
        None => std::future::pending().await,
    }
}

async fn writable(frames: Option<&mpsc::Sender<Bytes>>) -> bool {
    match frames {
        Some(frames) => frames.reserve().await.is_ok(),
        None => std::future::pending().await,
    }
}

async fn joined<T>(task: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match task {
        Some(handle) => {
            let result = handle.await;
            *task = None;
            result
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_taken_in_order_and_none_is_dropped_at_the_limit() {
        let (sender, mut waiting) = mpsc::channel(16);
        (0..10).for_each(|n| sender.try_send(n).unwrap());
        let mut taken = Vec::new();
        while let Ok(first) = waiting.try_recv() {
            let before = taken.len();
            taken.extend(and_waiting(first, &mut waiting, 4));
            assert!((1..=4).contains(&(taken.len() - before)));
        }
        assert_eq!(taken, (0..10).collect::<Vec<_>>());
    }
}
