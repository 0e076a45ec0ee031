//! Opening a publisher's two streams: what it follows (the watch) and what it says (the publish stream).

use std::sync::Arc;
use std::time::Duration;

use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkError, RequestError};
use sealcast_proto::frame::{Code, Reply, Request};
use sealcast_proto::object::Genesis;
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{RosterChain, RosterError};
use sealcast_proto::{Identity, RosterSeq, TopicId};
use sealcast_state::State;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::clock::now_ms;
use crate::error::PublishError;
use crate::fork::Entries;
use crate::outbox::Input;

/// Inputs on their way from a watch that is not at the head yet, a count.
pub(crate) const CATCHING_UP: usize = 64;
/// How long a broker may take for the next frame of a watch that is not at the head, as long as any answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Streams that stand; the watch is at the head.
pub(crate) struct Session {
    pub(crate) writer: FrameWriter,
    pub(crate) answers: FrameReader,
    pub(crate) watch: FrameReader,
    /// Kept open: a stream whose writing half is dropped would be reset.
    pub(crate) watch_writer: FrameWriter,
}

/// Asks a broker what a topic is and verifies that the answer is that topic's genesis.
pub(crate) async fn fetch_genesis(
    connection: &Connection,
    topic: TopicId,
    identity: &Identity,
) -> Result<Genesis, PublishError> {
    match connection.request([Request::FetchTopic(topic)]).await {
        Ok(Reply::Topic(info)) => {
            info.genesis.verify_topic(&topic).map_err(|error| PublishError::Broker(error.to_string()))
        }
        Ok(_) => Err(PublishError::Broker("it answered something else".into())),
        Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
            Err(PublishError::NotAllowed(identity.public()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Which prekey is given to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Give {
    /// A new one, whether one is due or not: after a theft.
    New,
    /// The newest: the broker may have lost it, or never had it.
    Newest,
    /// Only one that was just made: the broker has the newest already.
    IfDue,
}

/// A topic's policy as any member can verify it: by following the roster's chain.
pub(crate) async fn fetch_policy(
    connection: &Connection,
    topic: TopicId,
    genesis: &Genesis,
) -> Result<Policy, PublishError> {
    let (mut chain, mut entries) = (RosterChain::new(topic, genesis), Entries::default());
    let mut replies = connection.fetch(Request::FetchRoster(topic, RosterSeq(1))).await?;
    loop {
        match replies.next().await? {
            Some(Reply::Roster(delivery)) => {
                let (roles, policy) = (delivery.roles.as_deref(), delivery.policy.as_deref());
                match chain.follow(&delivery.entry, roles, policy) {
                    Ok(_) => entries.keep(&delivery.entry),
                    Err(RosterError::Fork(seq)) => {
                        return Err(PublishError::Fork(entries.fork(seq, &delivery.entry, None)));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Some(Reply::AtHead { .. }) => return Ok(chain.policy().clone()),
            _ => return Err(PublishError::Broker("it ended the roster early".into())),
        }
    }
}

/// Makes a prekey if one is due and gives it to the broker. A member without a prekey can be wrapped to all the same
/// (its static key, or an older prekey), so a broker that will not take it is no reason to stop.
pub(crate) async fn publish_prekey(
    connection: &Connection,
    topic: TopicId,
    identity: &Arc<Identity>,
    state: &State,
    policy: &Policy,
    give: Give,
) -> Result<(), PublishError> {
    let (rotation, offline) = (policy.prekey_rotation_ms, policy.max_offline_ms);
    let (prekeys, identity) = (state.prekeys(&identity.public()), Arc::clone(identity));
    // Another process may hold the file, and the disk takes its time.
    let newest = tokio::task::spawn_blocking(move || {
        prekeys.update(|ring| {
            let force = give == Give::New;
            let made = ring.rotate_if_due(&identity, rotation, offline, now_ms(), force, &mut rand::rng());
            let purged = ring.purge(now_ms());
            let changed = made.is_some() || !purged.is_empty();
            let newest = || ring.newest().cloned().filter(|_| give != Give::IfDue);
            (made.or_else(newest), changed)
        })
    });
    let newest = newest.await.map_err(|error| PublishError::Seal(error.to_string()))??;
    if let Some(prekey) = newest
        && let Err(error) = connection.request([Request::PutPrekey(topic, prekey)]).await
    {
        if give == Give::New {
            return Err(error.into());
        }
        tracing::debug!("the broker did not take a prekey: {error}");
    }
    Ok(())
}

/// Opens both streams and follows the watch to the head: roster, heads and prekeys go to `inputs` as they come, in order,
/// so that a broker that never comes to the head costs no memory. Then [`Input::Connected`] is due.
pub(crate) async fn open(
    connection: &Connection,
    topic: TopicId,
    identity: &Identity,
    from: RosterSeq,
    inputs: &mpsc::Sender<Input>,
) -> Result<(Session, Input), PublishError> {
    let (mut watch_writer, mut watch) = connection.open().await?;
    watch_writer.send(Request::Watch(topic, from).encode()).await?;
    let mut own = None;
    let mut start = None;
    loop {
        let reply = timeout(PATIENCE, watch.reply()).await;
        let Some(reply) = reply.map_err(|_| LinkError::Late("go on with the watch"))?? else {
            return Err(PublishError::Broker("it ended the watch".into()));
        };
        match reply {
            Reply::Start(found) => start = Some(found),
            Reply::Context(context) => {
                let publisher = context.epoch.header.peek().map(|header| header.publisher);
                if publisher == Ok(identity.public()) {
                    own = Some(Box::new(context));
                }
            }
            Reply::AtHead { .. } => break,
            Reply::Refused(refusal) => {
                return Err(match refusal.code {
                    Code::NotAllowed => PublishError::NotAllowed(identity.public()),
                    _ => PublishError::Refused(refusal),
                });
            }
            other => {
                if let Some(input) = watched(other) {
                    inputs.send(input).await.map_err(|_| PublishError::Closed)?;
                }
            }
        }
    }
    let start = start.ok_or_else(|| PublishError::Broker("it began a watch without a start".into()))?;
    let (mut writer, answers) = connection.open().await?;
    writer.send(Request::Publish(topic).encode()).await?;
    let connected = Input::Connected { own, roster_seq: start.roster_seq };
    Ok((Session { writer, answers, watch, watch_writer }, connected))
}

/// What the outbox has to know of a watch's frame.
pub(crate) fn watched(reply: Reply) -> Option<Input> {
    match reply {
        Reply::Roster(delivery) => {
            Some(Input::Roster { entry: delivery.entry, ops: delivery.ops.unwrap_or_default() })
        }
        Reply::Head(head) => Some(Input::Head(head)),
        Reply::Prekey(prekey) => Some(Input::Prekey(prekey)),
        _ => None,
    }
}

/// Connects again, for as long as it takes.
pub(crate) async fn reopen(
    link: Link,
    topic: TopicId,
    identity: Arc<Identity>,
    from: RosterSeq,
    after: Duration,
    inputs: mpsc::Sender<Input>,
) -> Result<(Connection, Session, Input), PublishError> {
    let mut failures = 0;
    tokio::time::sleep(after).await;
    loop {
        let connection = link.connected().await;
        match open(&connection, topic, &identity, from, &inputs).await {
            Ok((session, connected)) => return Ok((connection, session, connected)),
            Err(error @ PublishError::NotAllowed(_)) => return Err(error),
            Err(why) => {
                tracing::debug!("could not resume publishing: {why}");
                let delay = sealcast_link::backoff::delay(failures, &mut rand::rng());
                failures = failures.saturating_add(1);
                tokio::time::sleep(delay).await;
            }
        }
    }
}
