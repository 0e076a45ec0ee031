//! Streams of one question and one answer.

use sealcast_proto::frame::{Code, Refusal, Reply, Request, TopicInfo};
use sealcast_proto::object::{Genesis, Prekey, RosterHead};
use sealcast_proto::roster::Role;
use sealcast_proto::{Epoch, Offset, PublicKey, RosterSeq, Signed, TopicId};

use super::{End, Stream, malformed};
use crate::clock::now_ms;
use crate::handle::{Message, Opened};
use crate::limits;
use crate::load;
use crate::lookup;
use crate::order::{Proposed, prekeys_of, unconfirmed};
use crate::outgoing::Outgoing;
use crate::shared::not_allowed;
use crate::store::{Log, Write};

fn is_member(opened: &Opened) -> bool {
    opened.standing.role.is_some()
}

fn is_admin(opened: &Opened) -> bool {
    opened.standing.role == Some(Role::Admin)
}

pub(super) async fn create_topic(stream: &mut Stream, genesis: Signed<Genesis>) -> Result<(), End> {
    stream.shared.clone().create(stream.peer, genesis).await?;
    Ok(stream.reply(&Reply::Done(Offset(0))).await?)
}

pub(super) async fn fetch_topic(stream: &mut Stream, id: TopicId) -> Result<(), End> {
    let (topic, opened) = stream.shared.enter_if(stream.peer, &id, is_member).await?;
    let bounds = stream.shared.storage.reads.run(move |log| log.bounds(&id)).await?;
    let next_offset = topic.head();
    let info = TopicInfo {
        genesis: topic.origin().signed.clone(),
        roster_seq: topic.roster_head(),
        first_offset: bounds.first.min(next_offset),
        next_offset,
        level: opened.level,
    };
    Ok(stream.reply(&Reply::Topic(info)).await?)
}

/// An admin's entry. A retry of a stored one is answered even if that entry removed its sender.
pub(super) async fn append_roster(stream: &mut Stream, id: TopicId) -> Result<(), End> {
    let (topic, opened) = stream.shared.enter(stream.peer, &id).await?;
    let Request::Bundle(bundle) = stream.owed().await? else {
        return Err(malformed("a roster entry comes as a bundle"));
    };
    let signer = bundle.entry.peek().map_err(|error| malformed(error.to_string()))?.signer;
    if !is_admin(&opened) {
        let repeat = bundle.clone();
        let known = topic.ask(|reply| Message::KnownEntry { bundle: repeat, reply }).await?;
        if known.is_none() || signer != stream.peer {
            return Err(not_allowed().into());
        }
    }
    let size = bundle.ops.len() + limits::ROSTER_BESIDE;
    let budget = stream.shared.storage.commit.reserve(size).await?;
    let offset = topic.ask(|answer| Message::Roster { bundle, budget, answer }).await??;
    Ok(stream.reply(&Reply::Done(offset)).await?)
}

pub(super) async fn put_head(stream: &mut Stream, id: TopicId, head: Signed<RosterHead>) -> Result<(), End> {
    let (topic, _) = stream.shared.enter_if(stream.peer, &id, is_admin).await?;
    let identity = stream.peer;
    topic.ask(|answer| Message::Head { identity, head, answer }).await??;
    Ok(stream.reply(&Reply::Done(topic.head())).await?)
}

pub(super) async fn put_prekey(stream: &mut Stream, id: TopicId, prekey: Signed<Prekey>) -> Result<(), End> {
    stream.shared.enter_if(stream.peer, &id, is_member).await?;
    let parsed = prekey.verify_own().map_err(|error| malformed(error.to_string()))?;
    if parsed.owner != stream.peer {
        return Err(Refusal::new(Code::NotAllowed, "a prekey is put by its owner").into());
    }
    if !parsed.is_valid_at(now_ms()) {
        return Err(malformed("the prekey is over, or begins too far ahead: is the clock right?"));
    }
    let storage = &stream.shared.storage;
    let held = storage.reads.run(move |log| log.prekey(&parsed.owner)).await?;
    let held = held.map(|held| load::kept::<Prekey>(&held)).transpose()?;
    if held.as_ref() != Some(&prekey) {
        let newest = held.and_then(|held| held.peek().ok()).map_or(0, |held| held.prekey_id);
        if parsed.prekey_id <= newest {
            return Err(Refusal::new(
                Code::Conflict,
                "a newer prekey, or another with this number, is known",
            )
            .into());
        }
        if let Some(order) = &storage.order {
            let at = prekeys_of(&parsed.owner);
            let proposed = order.settle(at, Proposed::Prekey, parsed.owner, load::keep(&prekey)).await;
            proposed.map_err(|error| unconfirmed(&error))?;
            return Ok(stream.reply(&Reply::Done(Offset(0))).await?);
        }
        storage
            .commit
            .write(vec![Write::Prekey { owner: parsed.owner, prekey: load::keep(&prekey) }])
            .await?;
        for topic in stream.shared.registry.topics().into_iter().filter(|topic| topic.has_watches()) {
            topic.send(Message::Prekey { prekey: prekey.clone() }).await?;
        }
    }
    Ok(stream.reply(&Reply::Done(Offset(0))).await?)
}

pub(super) async fn fetch_roster(stream: &mut Stream, id: TopicId, from: RosterSeq) -> Result<(), End> {
    let (topic, opened) = stream.shared.enter_if(stream.peer, &id, is_member).await?;
    // Readers are not told who the others are.
    let ops = opened.standing.role > Some(Role::Reader);
    let (next_offset, through) = (topic.head(), topic.roster_head());
    let mut from = from.max(RosterSeq(1));
    loop {
        let read = move |log: &dyn Log| lookup::rosters(log, id, from, through, limits::ROSTER_READ_BYTES);
        let entries = stream.shared.storage.reads.run(read).await?;
        let Some(last) = entries.last().map(|last| last.seq) else { break };
        let mut out = Outgoing::default();
        for item in entries {
            out.reply(&Reply::Roster(item.delivery(ops)));
        }
        stream.writer.send_all_within(&mut out.take(), stream.shared.limits().stall).await?;
        from = RosterSeq(last.0.saturating_add(1));
    }
    Ok(stream.reply(&Reply::AtHead { next_offset, end_of_stream: true }).await?)
}

pub(super) async fn fetch_epochs(
    stream: &mut Stream,
    id: TopicId,
    publisher: PublicKey,
    epoch: Epoch,
) -> Result<(), End> {
    let (topic, opened) = stream.shared.enter(stream.peer, &id).await?;
    // Who was removed gets what stood before that.
    let next_offset = topic.head();
    let end = opened.standing.removed.map_or(next_offset, |(_, offset)| offset);
    let indexes = opened.standing.indexes;
    let read = move |log: &dyn Log| lookup::epochs(log, id, &publisher, epoch, end, &indexes);
    let mut out = Outgoing::default();
    for epoch in stream.shared.storage.reads.run(read).await? {
        out.reply(&Reply::Epoch(epoch));
    }
    out.reply(&Reply::AtHead { next_offset, end_of_stream: true });
    Ok(stream.writer.send_all_within(&mut out.take(), stream.shared.limits().stall).await?)
}
