//! Reading the shared order back, a partition at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use sealcast_proto::TopicId;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::cluster::milliseconds;
use super::seldom::Seldom;
use super::{Body, Cluster, OrderError, Proposal, place};

/// Before reading is tried again.
const PAUSE: Duration = Duration::from_millis(200);
/// After a silence this long it is asked whether there is something to read.
const QUIET: Duration = Duration::from_secs(1);
/// Bytes of one proposal's parts, at most: a roster entry with all the operations it may have is far below.
const LARGEST: usize = 64 << 20;

/// A proposal where it stands.
pub(crate) struct Placed {
    /// Its place in the partition: its offset, if it is accepted.
    pub(crate) at: u64,
    /// When the servers stored it, milliseconds since 1970.
    pub(crate) stored_ms: u64,
    /// Whose log it is for.
    pub(crate) topic: TopicId,
    /// Whether something before it was taken out of the stream, perhaps just now.
    pub(crate) gap: bool,
    /// What; its body is here. `None`: nothing that this broker understands, or its parts are gone.
    pub(crate) proposal: Option<(Proposal, Bytes)>,
}

/// Reads a partition from `from` on, for ever: in order, nothing twice, nothing left out that the streams still hold.
pub(crate) async fn follow(cluster: Arc<Cluster>, partition: u16, mut from: u64, to: mpsc::Sender<Placed>) {
    let seldom = Seldom::default();
    while !to.is_closed() {
        if let Err(error) = run(&cluster, partition, &mut from, &to).await
            && seldom.now()
        {
            tracing::warn!(partition, %error, "the cluster's order cannot be read: trying again");
        }
        sleep(PAUSE).await;
    }
}

async fn run(
    cluster: &Cluster,
    partition: u16,
    from: &mut u64,
    to: &mpsc::Sender<Placed>,
) -> Result<(), OrderError> {
    let away = |error: String| OrderError::Away { doing: "stopped delivering", error };
    let mut messages = cluster.messages(partition, *from).await?;
    let mut behind = false;
    loop {
        let message = match timeout(QUIET, messages.next()).await {
            Ok(message) => message,
            // A consumer goes with its server, and its client notices late: whoever waits for what stands there does not.
            Err(_) => tokio::select! {
                biased;
                // An answer may take long, and this one need not be worse off for that.
                message = messages.next() => message,
                end = cluster.end(partition) => {
                    // While nobody leads nothing can be told: this consumer may be as good as the next.
                    let is_behind = end.as_ref().map_or(true, |end| *end > *from);
                    if std::mem::replace(&mut behind, is_behind) && end.is_ok() && is_behind {
                        return Err(away("nothing comes though something is there".into()));
                    }
                    continue;
                }
            },
        };
        let message = message.ok_or_else(|| away("the consumer ended".into()))?;
        behind = false;
        let message = message.map_err(|error| away(error.to_string()))?;
        let info = message.info().map_err(|error| away(error.to_string()))?;
        let at = info.stream_sequence;
        if at < *from {
            continue;
        }
        let (stored_ms, gap) = (milliseconds(info.published), at > *from);
        if let Some(topic) = place::topic_of(&message.subject) {
            let proposal = match Proposal::decode(&message.payload) {
                Some(proposal) => {
                    body(cluster, partition, &proposal, Some(stored_ms)).await?.map(|body| (proposal, body))
                }
                None => None,
            };
            if proposal.is_none() {
                tracing::warn!(partition, at, "what stands there is no proposal that can be read: left out");
            }
            if to.send(Placed { at, stored_ms, topic, gap, proposal }).await.is_err() {
                return Ok(());
            }
        }
        *from = at.saturating_add(1);
    }
}

/// A proposal's bytes. Without `stored_ms`, whatever its parts' age.
pub(super) async fn body(
    cluster: &Cluster,
    partition: u16,
    proposal: &Proposal,
    stored_ms: Option<u64>,
) -> Result<Option<Bytes>, OrderError> {
    let parts = match &proposal.body {
        Body::Inline(bytes) => return Ok(Some(bytes.clone())),
        Body::Parts(parts) => parts,
    };
    let mut whole = BytesMut::new();
    for part in parts {
        match cluster.part(partition, *part, stored_ms).await? {
            Some(part) if whole.len() + part.len() <= LARGEST => whole.extend_from_slice(&part),
            _ => return Ok(None),
        }
    }
    Ok(Some(whole.freeze()))
}
