//! Which topics there are, and where their logs begin and end; damage to one keeps nobody from the others.

use std::collections::{BTreeSet, HashMap};

use ::fjall::Keyspace;
use sealcast_proto::TopicId;

use super::engine::{Engine, above};
use crate::damage;
use crate::store::tail::{Tail, Tails};
use crate::store::{LogError, keys};

/// Topics whose log cannot be taken up, and why.
pub(super) type Lost = HashMap<TopicId, LogError>;

/// Every topic. Where the index of geneses is damaged: those, too, of which anything else is there.
pub(super) fn all(
    engine: &Engine,
    doing: impl Fn(::fjall::Error) -> LogError,
) -> Result<Vec<TopicId>, LogError> {
    let mut topics = BTreeSet::new();
    let Err(error) = indexed(engine, &doing, &mut topics) else { return Ok(topics.into_iter().collect()) };
    if !error.is_damage() {
        return Err(error);
    }
    damage::say(&format!("the index of topics: {error}"));
    for keyspace in [&engine.rosters, &engine.log] {
        let mut from = Some(Vec::new());
        while let Some(start) = from.take() {
            let Some(topic) = next(keyspace, start, &doing)? else { break };
            // Of an import that was cut short no genesis was ever written.
            match engine.index.get(keys::of_topic(keys::GENESIS, &topic)).map_err(&doing) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    topics.insert(topic);
                }
                Err(error) if error.is_damage() => {
                    topics.insert(topic);
                }
                Err(error) => return Err(error),
            }
            from = above(topic.as_bytes());
        }
    }
    Ok(topics.into_iter().collect())
}

fn indexed(
    engine: &Engine,
    doing: impl Fn(::fjall::Error) -> LogError,
    topics: &mut BTreeSet<TopicId>,
) -> Result<(), LogError> {
    for entry in engine.index.prefix([keys::GENESIS]) {
        topics.insert(keys::parse_topic(&entry.key().map_err(&doing)?)?);
    }
    Ok(())
}

/// The first topic at or after `from` of which `keyspace` holds something; damage there hides what comes after it.
fn next(
    keyspace: &Keyspace,
    from: Vec<u8>,
    doing: impl Fn(::fjall::Error) -> LogError,
) -> Result<Option<TopicId>, LogError> {
    let Some(entry) = keyspace.range(from..).next() else { return Ok(None) };
    match entry.key().map_err(doing) {
        Ok(key) => Ok(key.get(..32).and_then(|id| TopicId::try_from(id).ok())),
        Err(error) if error.is_damage() => {
            damage::say(&format!("while looking for topics: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Where each topic's log begins and ends: two seeks a topic.
pub(super) fn tails(
    engine: &Engine,
    doing: impl Fn(::fjall::Error) -> LogError,
) -> Result<(Tails, Lost), LogError> {
    let (mut tails, mut lost) = (Tails::new(), Lost::new());
    for topic in all(engine, &doing)? {
        match tail(engine, &topic, &doing) {
            Ok(tail) => {
                tails.insert(topic, tail);
            }
            Err(error) if error.is_damage() => {
                lost.insert(topic, error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok((tails, lost))
}

fn tail(
    engine: &Engine,
    topic: &TopicId,
    doing: impl Fn(::fjall::Error) -> LogError,
) -> Result<Tail, LogError> {
    let mut tail = Tail::default();
    if let Some(mark) = engine.index.get(keys::of_topic(keys::TRIM, topic)).map_err(&doing)? {
        (tail.first, tail.start) = keys::parse_trim(&mark)?;
        (tail.next, tail.end) = (tail.first, tail.start);
    }
    if let Some(last) = engine.log.prefix(topic.as_bytes()).next_back() {
        let key = last.key().map_err(&doing)?;
        let place = keys::parse_log(&key)?;
        let size = engine.log.size_of(&key).map_err(&doing)?.unwrap_or_default();
        let next = place.offset.next().ok_or_else(|| LogError::Corrupt("the last offset is taken".into()))?;
        (tail.next, tail.end) = (next, place.start.saturating_add(u64::from(size)));
    }
    Ok(tail)
}
