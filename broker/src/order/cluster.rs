//! The connection to a JetStream cluster, and the streams there.

use std::future::{Future, IntoFuture as _};
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use rand::RngExt as _;
use sealcast_proto::TopicId;
use sealcast_proto::frame::Level;
use tokio::time::{Instant, sleep, timeout};

use super::credentials::{self, Refusals};
use super::proposal::BESIDE;
use super::removal::may_name;
use super::{Body, Kind, PARTITIONS, PATIENCE, Proposal, Proposed, StoreOptions, lead, pieces, place, reach};

/// What a message carries beside its payload, bytes: subject, reply subject, headers.
const AROUND: usize = 4 << 10;
/// Proposals that no server has confirmed yet, a count: what edges send is bounded by their commit budget; this bounds
/// small ones.
const UNCONFIRMED: usize = 16 << 10;
/// For the servers to make a consumer; then another is asked for.
const CONSUMER: Duration = Duration::from_secs(3);
/// Before something is asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the servers recognise a message that is sent again: longer than any retry here.
const SAME_MESSAGE: Duration = Duration::from_secs(120);

/// The cluster does not do what it must.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OrderError {
    /// No server can be reached, or none answers.
    #[error("the cluster {doing}: {error}")]
    Away {
        /// What was being done.
        doing: &'static str,
        /// What the client says.
        error: String,
    },
    /// Its servers do not let this broker in, or not do what it must.
    #[error("the cluster does not let this broker in: {0}")]
    Denied(String),
    /// They are not known to be its servers, or nobody can talk to them unheard.
    #[error("no TLS with the cluster: {0}")]
    Tls(String),
    /// It is not one that can be used.
    #[error("the cluster cannot be used: {0}")]
    Unfit(String),
    /// A file of its credentials cannot be read.
    #[error("cannot read {path}: {error}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        error: String,
    },
    /// It holds something else; it was not sent anywhere.
    #[error("{path} is of no use: {why}")]
    Useless {
        /// Which.
        path: String,
        /// What it should hold.
        why: &'static str,
    },
}

/// See the module.
pub(crate) struct Cluster {
    client: Client,
    context: Context,
    logs: Vec<Stream>,
    parts: Vec<Stream>,
    /// Bytes of a message's payload at most.
    room: usize,
    edge: u64,
    replicas: u32,
    refusals: Refusals,
}

impl Cluster {
    /// Connects; makes the streams, or sees that they are what they must be.
    pub(crate) async fn connect(options: &StoreOptions) -> Result<Self, OrderError> {
        let refusals = Refusals::default();
        let client = credentials::connect(options, &refusals).await?;
        refusals.unless(Self::join(client, options.replicas, refusals.clone())).await
    }

    async fn join(client: Client, replicas: u32, refusals: Refusals) -> Result<Self, OrderError> {
        reach::is_new_enough(&client)?;
        let info = client.server_info();
        let context = jetstream::context::ContextBuilder::new()
            .timeout(PATIENCE)
            .ack_timeout(PATIENCE)
            .max_ack_inflight(UNCONFIRMED)
            .build(client.clone());
        // Who may not listen hears of it while the streams are looked at.
        drop(client.subscribe(place::SIGNS).await.map_err(away("does not deliver"))?);
        let (mut logs, mut parts) = (Vec::new(), Vec::new());
        for partition in 0..PARTITIONS {
            let (log, part) = (place::log_stream(partition), place::part_stream(partition));
            logs.push(stream(&context, log, place::log_subjects(partition), replicas).await?);
            parts.push(stream(&context, part, place::part_subjects(partition), replicas).await?);
        }
        let room = info.max_payload.saturating_sub(AROUND);
        if room < AROUND {
            return Err(OrderError::Unfit(format!("max_payload is {} bytes", info.max_payload)));
        }
        Ok(Self { client, context, logs, parts, room, edge: rand::rng().random(), replicas, refusals })
    }

    /// What its servers refused since they took this broker's connection.
    pub(crate) fn refused(&self) -> Option<OrderError> {
        self.refusals.last()
    }

    pub(crate) fn edge(&self) -> u64 {
        self.edge
    }

    /// What an acknowledgement may name. Several copies: `replicated`. One copy stands on one server that syncs when it
    /// likes (`sync_interval`, which a client cannot ask): no more than memory can be promised.
    pub(crate) fn level(&self) -> Level {
        if self.replicas > 1 { Level::Replicated } else { Level::Memory }
    }

    /// Goes to another server: the one it is connected to may be cut off from the others.
    pub(crate) async fn elsewhere(&self) {
        reach::elsewhere(&self.client).await;
    }

    pub(super) fn log(&self, partition: u16) -> Option<&Stream> {
        self.logs.get(usize::from(partition))
    }

    pub(super) fn part_stream(&self, partition: u16) -> Option<&Stream> {
        self.parts.get(usize::from(partition))
    }

    /// What one part may hold, bytes.
    pub(crate) fn part_bytes(&self) -> usize {
        self.room
    }

    /// The streams' names and birth: a view made of others is of no use.
    pub(crate) fn born(&self) -> String {
        let born = |stream: &Stream| stream.cached_info().created.unix_timestamp_nanos().to_string();
        self.logs.iter().map(born).collect::<Vec<_>>().join(",")
    }

    /// Stores a part; its place.
    pub(crate) async fn put_part(
        &self,
        topic: &TopicId,
        kind: Kind,
        bytes: Bytes,
    ) -> Result<u64, OrderError> {
        let message = PublishMessage::build().payload(bytes);
        let failed = away("does not take a part");
        let stored = self.context.send_publish(place::part_subject(topic, kind), message).await;
        let stored = stored.map_err(failed)?;
        Ok(stored.await.map_err(away("does not take a part"))?.sequence)
    }

    /// A part again, for a message that was stored at `stored_ms`; `None`: it is gone, or may be any time.
    pub(crate) async fn part(
        &self,
        partition: u16,
        at: u64,
        stored_ms: Option<u64>,
    ) -> Result<Option<Bytes>, OrderError> {
        use async_nats::jetstream::stream::LastRawMessageErrorKind::{JetStream, NoMessageFound};
        let Some(stream) = self.parts.get(usize::from(partition)) else { return Ok(None) };
        // From the leader: another server may not have it yet.
        match stream.get_raw_message(at).await {
            Ok(part) => {
                let put_ms = milliseconds(part.time);
                let named = stored_ms.is_none_or(|stored_ms| may_name(put_ms, stored_ms));
                Ok(named.then_some(part.payload))
            }
            Err(error) if matches!(error.kind(), NoMessageFound) => Ok(None),
            Err(error) if matches!(&error.kind(), JetStream(error) if error.code() == 404) => Ok(None),
            Err(error) => Err(away("does not give a part")(error)),
        }
    }

    /// Sends a proposal behind those that were sent before; the future is done when it is stored. What is too large
    /// goes ahead in parts.
    pub(crate) async fn send(
        &self,
        topic: &TopicId,
        mut proposal: Proposal,
    ) -> Result<impl Future<Output = Result<(), OrderError>> + Send + use<>, OrderError> {
        let mut kind = proposal.what.kind();
        let table = if let Proposed::Header(table) = &proposal.what { table.len() * 8 } else { 0 };
        if let Body::Inline(bytes) = &proposal.body
            && BESIDE + table + bytes.len() > self.room
        {
            let mut parts = Vec::new();
            if kind == Kind::Batch {
                kind = Kind::Large;
            }
            for piece in pieces(bytes, self.room) {
                parts.push(self.put_part(topic, kind, piece).await?);
            }
            proposal.body = Body::Parts(parts);
        }
        let mut message = PublishMessage::build()
            .payload(proposal.encode())
            .message_id(format!("{:x}.{}", proposal.by.edge, proposal.by.number));
        let subject = place::log_subject(topic, kind);
        if kind == Kind::Prekey {
            // The newest of its owner is all that is asked for.
            message = message.header(async_nats::header::NATS_ROLLUP, "sub");
        }
        let stored =
            self.context.send_publish(subject, message).await.map_err(away("does not take a record"))?;
        Ok(async move { stored.into_future().await.map(drop).map_err(away("did not confirm a record")) })
    }

    /// Where the next message of a partition will stand, at the least.
    pub(crate) async fn end(&self, partition: u16) -> Result<u64, OrderError> {
        let Some(stream) = self.logs.get(usize::from(partition)) else { return Ok(0) };
        Ok(lead::state(stream).await?.last_sequence.saturating_add(1))
    }

    /// A partition's messages from `from` on.
    pub(super) async fn messages(&self, partition: u16, from: u64) -> Result<pull::Ordered, OrderError> {
        let name = place::log_stream(partition);
        let missing = || OrderError::Unfit(format!("there is no stream {name}"));
        let stream = self.logs.get(usize::from(partition)).ok_or_else(missing)?;
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence: from.max(1) };
        let consumer = pull::OrderedConfig { deliver_policy, ..pull::OrderedConfig::default() };
        // It is put on any server, for some time also on one that is cut off: then it is not answered, and the next may be.
        let made = timeout(CONSUMER, stream.create_consumer(consumer)).await;
        let consumer = made.map_err(away("makes no consumer"))?.map_err(away("makes no consumer"))?;
        consumer.messages().await.map_err(away("does not deliver"))
    }

    /// Tells every edge something that is worth nothing later.
    pub(crate) async fn tell(&self, topic: &TopicId, sign: Bytes) {
        // Lost like any other sign of life; the next one comes soon.
        let _ = self.client.publish(place::sign_subject(topic), sign).await;
    }

    /// What edges tell.
    pub(crate) async fn signs(&self) -> Result<Subscriber, OrderError> {
        self.client.subscribe(place::SIGNS).await.map_err(away("does not deliver"))
    }
}

/// A stream as it must be, made if need be.
async fn stream(
    context: &Context,
    name: String,
    subjects: String,
    replicas: u32,
) -> Result<Stream, OrderError> {
    let wanted = Config {
        name: name.clone(),
        subjects: vec![subjects],
        retention: RetentionPolicy::Limits,
        // Full is full: what is oldest is not for the servers to choose.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: usize::try_from(replicas).unwrap_or(usize::MAX),
        duplicate_window: SAME_MESSAGE,
        allow_rollup: true,
        ..Config::default()
    };
    let begun = Instant::now();
    let mut stream = loop {
        match context.get_or_create_stream(wanted.clone()).await {
            Ok(stream) => break stream,
            // Servers that have just started do not know all of each other yet.
            Err(_) if begun.elapsed() < PATIENCE => sleep(AGAIN).await,
            Err(error) => return Err(away("makes no streams")(error)),
        }
    };
    let info = stream.info().await.map_err(away("does not tell of its streams"))?;
    // What is there may be another's; and a server may take a wish for something else than was meant.
    let is = &info.config;
    let differs = [
        ("subjects", is.subjects != wanted.subjects),
        ("replicas", is.num_replicas != wanted.num_replicas),
        ("storage", is.storage != wanted.storage),
        ("retention", is.retention != wanted.retention),
        ("discard", is.discard != wanted.discard),
        ("max_age", !is.max_age.is_zero()),
        ("max_msgs", is.max_messages > 0),
        ("max_msgs_per_subject", is.max_messages_per_subject > 0),
        ("allow_rollup_hdrs", !is.allow_rollup),
    ];
    match differs.iter().find(|(_, differs)| *differs) {
        Some((what, _)) => Err(OrderError::Unfit(format!("the stream {name} has another {what}"))),
        None => Ok(stream),
    }
}

/// Milliseconds since 1970.
pub(super) fn milliseconds(time: async_nats::datetime::DateTime) -> u64 {
    u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

pub(super) fn away<E: std::fmt::Display>(doing: &'static str) -> impl Fn(E) -> OrderError {
    move |error| OrderError::Away { doing, error: error.to_string() }
}
