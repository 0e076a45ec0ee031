//! A connection: its hello, its place among the others, and a task for each of its streams.

mod publish;
mod requests;
mod subscribe;
mod upload;
mod watch;

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sealcast_link::{Connection, FrameReader, FrameWriter, LinkError};
use sealcast_proto::PublicKey;
use sealcast_proto::frame::{Code, Refusal, Reply, Request};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::clock::now_ms;
use crate::damage;
use crate::limits;
use crate::lookup;
use crate::ops::report::Client;
use crate::registry::Counted;
use crate::shared::{Shared, going_away};
use crate::store::LogError;

/// The broker's name in its hello.
pub(crate) const AGENT: &str = concat!("sealcast-broker/", env!("CARGO_PKG_VERSION"));

/// Why a stream came to its end.
#[derive(Debug)]
pub(crate) enum End {
    /// Told so.
    Refused(Refusal),
    /// The stream or the connection failed: nobody is left to be told.
    Link(LinkError),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<LogError> for End {
    fn from(error: LogError) -> Self {
        if error.is_damage() {
            damage::say(&format!("a read failed: {error}"));
        } else if !matches!(error, LogError::Closed) {
            tracing::error!(%error, "a read failed");
        }
        Self::Refused(lookup::refusal(&error))
    }
}

/// One stream and what its task needs.
pub(crate) struct Stream {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: PublicKey,
    pub(crate) writer: FrameWriter,
    pub(crate) reader: FrameReader,
    /// One for all of the connection.
    pub(crate) holding: Arc<Holding>,
}

/// Places for the streams of a connection that hold much for their reader: without bound, a connection with a thousand
/// subscriptions that nobody reads would cost a thousand times what one costs.
pub(crate) struct Holding {
    live: Semaphore,
    replays: Semaphore,
}

impl Holding {
    fn new() -> Arc<Self> {
        Arc::new(Self { live: Semaphore::new(limits::HOLDING), replays: Semaphore::new(limits::HOLDING) })
    }

    /// A place, until it is dropped; those who are behind have their own, so that they hold up none who are not.
    pub(crate) async fn place(&self, behind: bool) -> Option<SemaphorePermit<'_>> {
        // They are never closed.
        if behind { &self.replays } else { &self.live }.acquire().await.ok()
    }
}

impl Stream {
    /// Sends one reply; a client that does not read it loses the stream.
    pub(crate) async fn reply(&mut self, reply: &Reply) -> Result<(), LinkError> {
        self.writer.send_all_within(&mut [reply.encode()], self.shared.limits().stall).await
    }

    /// The next frame of a sequence that the client owes.
    pub(crate) async fn owed(&mut self) -> Result<Request, End> {
        match timeout(self.shared.limits().next_frame, self.reader.request()).await {
            Ok(Ok(Some(request))) => Ok(request),
            Ok(Ok(None)) => Err(malformed("the stream ended before its time")),
            Ok(Err(error)) => Err(self.unreadable(error)),
            Err(_) => Err(malformed("the next frame did not come in time")),
        }
    }

    /// A frame that is none is told so; a broken stream is not.
    pub(crate) fn unreadable(&self, error: LinkError) -> End {
        match error {
            LinkError::Frame(error) => malformed(error.to_string()),
            error => End::Link(error),
        }
    }
}

/// The next frame, however long the client takes to begin it; once it is begun it must make progress
/// ([`Limits::next_frame`](limits::Limits::next_frame)).
async fn next_request(reader: &mut FrameReader, limit: Duration) -> Result<Option<Request>, End> {
    let mut had = 0_usize;
    loop {
        match timeout(limit, reader.request()).await {
            Ok(Err(LinkError::Frame(error))) => return Err(malformed(error.to_string())),
            Ok(request) => return Ok(request?),
            Err(_) => {
                let has = reader.begun();
                if had > 0 && has < had.saturating_add(limits::PROGRESS_BYTES) {
                    return Err(malformed("the frame that was begun does not go on"));
                }
                had = has;
            }
        }
    }
}

pub(crate) fn malformed(detail: impl Into<String>) -> End {
    End::Refused(Refusal::new(Code::Malformed, detail))
}

/// Serves a connection until it is closed.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: Connection,
    stranger: Arc<()>,
) -> Result<(), LinkError> {
    let peer = connection.peer();
    let limits = shared.limits();
    let streams = Streams::new(limits.streams, limits.max_streams);
    let client = Client { connection: connection.clone(), since_ms: now_ms(), streams: streams.clone() };
    let most = limits.connections_per_identity;
    let place = shared.registry.take(Counted::Connections, peer, most);
    let seen = shared.clients.enter_if_room(client, limits.connections);
    let (Some(_place), Some(_seen)) = (&place, &seen) else {
        shared.metrics.refused(Code::Busy);
        shared.metrics.attempt("turned_away");
        let whose = if place.is_none() { "this identity" } else { "this broker" };
        let detail = format!("{whose} has as many connections as it may have");
        drop((place, seen));
        connection.turn_away(lookup::busy(&detail), limits.hello).await;
        return Ok(());
    };
    let control = connection.accept_hello(AGENT, limits.hello, limits.streams).await;
    let mut control = control.inspect_err(|_| shared.metrics.attempt("no_hello"))?;
    shared.metrics.attempt("established");
    drop(stranger);
    tracing::debug!(peer = %peer.short(), agent = control.hello.agent, "connected");
    let holding = Holding::new();
    let mut told = false;
    let mut asked = false;
    let patience = sleep(limits.first_request);
    tokio::pin!(patience);
    loop {
        tokio::select! {
            () = &mut patience, if !asked => {
                connection.close("no request came in time");
                return Err(LinkError::Late("ask for anything"));
            }
            accepted = connection.accept() => {
                asked = true;
                let (writer, reader) = match accepted {
                    Ok(halves) => halves,
                    Err(_) => return Ok(()),
                };
                let held = streams.clone().one_more(&connection);
                let (shared, holding) = (shared.clone(), holding.clone());
                let stream = Box::new(Stream { shared, peer, writer, reader, holding });
                tokio::spawn(run(stream, held));
            }
            () = shared.drained(), if !told => {
                told = true;
                let notice = Reply::Refused(going_away(retry_ms(&shared))).encode();
                // A connection that does not take the notice is closed soon anyway.
                let _ = control.writer.send_all_within(&mut [notice], shared.limits().drain).await;
            }
            () = shared.until_cut_off() => {
                // What it is shown here may be old: another broker of the cluster may do better.
                let notice = Reply::Refused(going_away(retry_ms(&shared))).encode();
                let _ = control.writer.send_all_within(&mut [notice], limits.hello).await;
                // It goes by itself once it has read that.
                let _ = timeout(limits.hello, control.reader.next()).await;
                connection.close("the broker is cut off from its cluster");
                return Ok(());
            }
            frame = control.reader.next() => {
                // The client says nothing here after its hello: whatever comes is the end, or a mistake.
                if let Ok(Some(_)) = frame {
                    connection.refuse("the control stream carries nothing after the hello");
                }
                return Ok(());
            }
        }
    }
}

fn retry_ms(shared: &Shared) -> u64 {
    u64::try_from(shared.limits().drain.as_millis()).unwrap_or(u64::MAX)
}

/// How many streams a connection has, and how many it may have: more are permitted as they are used, because each permitted
/// one costs memory, used or not.
pub(crate) struct Streams {
    open: AtomicU32,
    permitted: AtomicU32,
    most: u32,
}

struct Held(Arc<Streams>);

impl Streams {
    fn new(permitted: u32, most: u32) -> Arc<Self> {
        Arc::new(Self { open: AtomicU32::new(1), permitted: AtomicU32::new(permitted), most })
    }

    /// Open now, the control stream counted.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    fn one_more(self: Arc<Self>, connection: &Connection) -> Held {
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        let permitted = self.permitted.load(Ordering::Relaxed);
        if open.saturating_mul(2) > permitted && permitted < self.most {
            let more = permitted.saturating_mul(2).min(self.most);
            self.permitted.store(more, Ordering::Relaxed);
            connection.set_max_streams(more);
        }
        Held(self)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One stream: what its first frame asks for. Boxed, as the request is: an idle subscriber's task holds what its own
/// request needs, once, and not what the largest one would.
async fn run(mut stream: Box<Stream>, _held: Held) {
    let (ended, owing) = match first(&mut stream).await {
        Ok(request) => {
            let endless = matches!(request, Request::Subscribe(_) | Request::Watch(..));
            let owing = (!endless).then(|| stream.shared.owing.one_more());
            (dispatch(&mut stream, request).await, owing)
        }
        Err(end) => (Err(end), None),
    };
    end(&mut stream, ended).await;
    if owing.is_some() && stream.shared.is_draining() {
        // The connection is closed once nobody is owed anything: the answer must have arrived by then.
        let _ = timeout(stream.shared.limits().drain, stream.writer.stopped()).await;
    }
}

async fn end(stream: &mut Stream, ended: Result<(), End>) {
    match ended {
        Ok(()) => stream.writer.finish(),
        Err(End::Refused(refusal)) => {
            stream.shared.metrics.refused(refusal.code);
            tracing::debug!(peer = %stream.peer.short(), code = ?refusal.code, "refused");
            if stream.reply(&Reply::Refused(refusal)).await.is_ok() {
                stream.writer.finish();
            }
        }
        Err(End::Link(error)) => {
            if matches!(error, LinkError::Stalled) {
                stream.shared.metrics.stalled();
                let stall = stream.shared.limits().stall;
                tracing::info!(peer = %stream.peer.short(), ?stall, "a reader took nothing and was cut off");
            }
            tracing::debug!(peer = %stream.peer.short(), %error, "stream ended");
            stream.writer.reset();
        }
    }
}

async fn first(stream: &mut Stream) -> Result<Request, End> {
    match timeout(stream.shared.limits().first_frame, stream.reader.request()).await {
        Ok(Ok(Some(request))) => Ok(request),
        Ok(Ok(None)) => Err(malformed("a stream begins with a request")),
        Ok(Err(error)) => Err(stream.unreadable(error)),
        Err(_) => Err(malformed("no request came in time")),
    }
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<(), End>> + Send + 'a>>;

fn dispatch(stream: &mut Stream, request: Request) -> Answering<'_> {
    if stream.shared.is_draining() {
        return Box::pin(ready(Err(going_away(retry_ms(&stream.shared)).into())));
    }
    stream.shared.metrics.stream(match request {
        Request::Publish(_) => "publish",
        Request::Subscribe(_) => "subscribe",
        Request::Watch(..) => "watch",
        Request::UploadTable { .. } => "upload",
        _ => "request",
    });
    match request {
        Request::Publish(topic) => Box::pin(publish::run(stream, topic)),
        Request::Subscribe(wish) => Box::pin(subscribe::run(stream, wish)),
        Request::Watch(topic, seq) => Box::pin(watch::run(stream, topic, seq)),
        Request::UploadTable { topic, slot_count, slots_hash } => {
            Box::pin(upload::run(stream, topic, slot_count, slots_hash))
        }
        Request::CreateTopic(genesis) => Box::pin(requests::create_topic(stream, genesis)),
        Request::FetchTopic(topic) => Box::pin(requests::fetch_topic(stream, topic)),
        Request::AppendRoster(topic) => Box::pin(requests::append_roster(stream, topic)),
        Request::PutHead(topic, head) => Box::pin(requests::put_head(stream, topic, head)),
        Request::FetchRoster(topic, from) => Box::pin(requests::fetch_roster(stream, topic, from)),
        Request::PutPrekey(topic, prekey) => Box::pin(requests::put_prekey(stream, topic, prekey)),
        Request::FetchEpochs { topic, publisher, epoch } => {
            Box::pin(requests::fetch_epochs(stream, topic, publisher, epoch))
        }
        Request::Hello(_)
        | Request::Bundle(_)
        | Request::Table(_)
        | Request::Record(_)
        | Request::Beacon(_) => Box::pin(ready(Err(malformed("a stream does not begin with this")))),
    }
}
