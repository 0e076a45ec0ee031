//! The streams that show a topic: its log, and what officers are shown besides.

use std::time::Duration;

use sealcast_link::{Connection, LinkError, Replies, RequestError};
use sealcast_proto::audit::Auditor;
use sealcast_proto::frame::{Code, From as Begin, Reply, Request, Subscribe};
use sealcast_proto::{PublicKey, RosterSeq, TopicId};
use tokio::time::{Instant, timeout_at};

use super::records::Records;
use crate::cli::failure::{Exit, Failure};
use crate::cli::times::now_ms;

/// Reads the log to its head, and listens on until all were heard, for `listen` at most.
pub(super) async fn log(
    connection: &Connection,
    topic: TopicId,
    me: PublicKey,
    auditor: &mut Auditor,
    listen: Option<Duration>,
    records: &mut Records,
) -> Result<(), Failure> {
    // As if entry 0 were held: so that the roster comes whole, from the genesis on.
    let roster_seq = Some(RosterSeq(0));
    let wish = Subscribe { topic, from: Begin::Earliest, roster_seq, until_head: listen.is_none() };
    let mut replies = connection.fetch(Request::Subscribe(wish)).await?;
    let mut until = None;
    loop {
        let reply = match next(&mut replies, until).await {
            Ok(Some(reply)) => reply,
            Ok(None) => return Ok(()),
            Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                return Err(Failure::new(
                    Exit::NotAllowed,
                    format!("no such topic, or {me} is not a member of it"),
                )
                .hint("name a member's private key with -i"));
            }
            Err(RequestError::Link(LinkError::Frame(error))) => {
                auditor.broken(&error.to_string());
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let at_head = matches!(reply, Reply::AtHead { .. });
        if let Some(sighting) = auditor.take(reply, now_ms()) {
            records.list(&sighting)?;
        }
        match listen {
            Some(span) if at_head => _ = until.get_or_insert_with(|| Instant::now() + span),
            None if at_head => return Ok(()),
            _ => {}
        }
        if until.is_some() && auditor.is_heard(now_ms()) {
            return Ok(());
        }
    }
}

/// The next reply; `None` at the end of the stream or of the time.
async fn next(replies: &mut Replies, until: Option<Instant>) -> Result<Option<Reply>, RequestError> {
    let Some(until) = until else { return replies.next().await };
    loop {
        match timeout_at(until, replies.next()).await {
            Err(_) => return Ok(None),
            // Nobody has to say anything.
            Ok(Err(RequestError::Link(LinkError::Late(_)))) => {}
            Ok(reply) => return reply,
        }
    }
}

/// What publishers and admins are shown besides: the members' prekeys.
pub(super) async fn prekeys(
    connection: &Connection,
    topic: TopicId,
    auditor: &mut Auditor,
) -> Result<(), Failure> {
    if !auditor.is_officer() {
        return Ok(());
    }
    let mut replies = connection.fetch(Request::Watch(topic, auditor.roster_seq())).await?;
    auditor.sees_prekeys();
    loop {
        match replies.next().await {
            Ok(Some(reply @ Reply::Prekey(_))) => _ = auditor.take(reply, now_ms()),
            Ok(Some(Reply::AtHead { .. }) | None) => return Ok(()),
            // Entries and headers of the log come here too, later than there.
            Ok(Some(_)) => {}
            // Its role was taken meanwhile.
            Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
