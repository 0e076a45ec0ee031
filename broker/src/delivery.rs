//! What one reader gets of what a topic holds: everybody's batches, its own slots, its share of roster entries.

use sealcast_proto::frame::{EpochDelivery, HoleReason, Reply};
use sealcast_proto::record::Record;
use sealcast_proto::roster::Role;
use sealcast_proto::{MemberIndex, Offset, RosterSeq, TopicId};

use crate::damage;
use crate::limits;
use crate::lookup;
use crate::outgoing::Outgoing;
use crate::ring::{self, Item};
use crate::store::{Log, LogError};
use crate::topic::{HeaderItem, Readable, Standing, What};

/// Who reads, as far as it decides what is read.
#[derive(Debug, Clone)]
pub struct Viewer {
    indexes: Vec<MemberIndex>,
    officer: bool,
    /// The entry that removes it: the last thing it gets.
    last: Option<RosterSeq>,
    as_of: RosterSeq,
}

/// Where a delivery came to a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// There was no more.
    Through,
    /// An entry changes what the viewer may see: ask again what it is, then go on.
    Ask,
    /// The entry that removed the viewer was delivered: nothing follows.
    Removed,
}

impl Viewer {
    pub fn new(standing: Standing) -> Self {
        Self {
            officer: standing.role.is_some_and(|role| role > Role::Reader),
            indexes: standing.indexes,
            last: standing.removed.map(|(seq, _)| seq),
            as_of: standing.as_of,
        }
    }

    pub fn indexes(&self) -> &[MemberIndex] {
        &self.indexes
    }

    /// Whether it gets the operations of entry `seq`.
    pub fn gets_ops(&self, seq: RosterSeq) -> bool {
        self.officer || self.last == Some(seq)
    }

    /// Whether nothing after entry `seq` is for it.
    pub fn ends_with(&self, seq: RosterSeq) -> bool {
        self.last == Some(seq)
    }
}

/// Adds `items` from `cursor` on to `out`; moves the cursor. Headers with slots make it read the log.
pub(crate) fn deliver(
    log: &dyn Log,
    items: &[Item],
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    for item in items {
        match item {
            Item::Batches(run) => out.push(run.from(*cursor)),
            Item::Header(offset, item) => {
                let slot = lookup::own_slot(log, item.table, &viewer.indexes)?;
                out.reply(&Reply::Epoch(EpochDelivery {
                    offset: *offset,
                    header: item.header.clone(),
                    slot,
                }));
            }
            Item::Roster(item) => {
                if item.seq > viewer.as_of && item.touches_access() {
                    return Ok(Stop::Ask);
                }
                out.reply(&Reply::Roster(item.delivery(viewer.gets_ops(item.seq))));
                if viewer.ends_with(item.seq) {
                    return Ok(Stop::Removed);
                }
            }
        }
        *cursor = item.next();
    }
    Ok(Stop::Through)
}

/// Whether [`deliver`] reads the log for one of these.
pub(crate) fn needs_log(items: &[Item]) -> bool {
    items.iter().any(|item| matches!(item, Item::Header(_, header) if header.table.is_some()))
}

/// What a reader behind the ring gets next: from the log, up to `end`. If retention has overtaken it, or the disk lost
/// something: the hole, the roster entries that stood in it, and where every publisher stands after it.
pub fn deliver_from_log(
    log: &dyn Log,
    topic: TopicId,
    end: Offset,
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    let stored = log.read(&topic, *cursor, limits::READ_BYTES);
    // After the read: what is trimmed in between is missing from it, and the bounds say so by now.
    let first = log.bounds(&topic)?.first.min(end);
    if *cursor < first {
        return hole(log, topic, (first, HoleReason::Retention), viewer, cursor, out);
    }
    let stored = match stored {
        Err(error) if error.is_damage() => return damaged(log, topic, end, &error, viewer, cursor, out),
        stored => stored?,
    };
    let mut readables = Vec::with_capacity(stored.len());
    let mut next = end;
    for stored in stored {
        if stored.offset >= end {
            next = end;
            break;
        }
        match readable(log, topic, stored.offset, stored.record) {
            Ok(readable) => readables.push(readable),
            Err(error) if !error.is_damage() => return Err(error),
            Err(error) if readables.is_empty() => {
                return damaged(log, topic, end, &error, viewer, cursor, out);
            }
            // First what stands before it.
            Err(_) => break,
        }
        next = Offset(stored.offset.0.saturating_add(1));
    }
    let stop = deliver(log, &ring::items(readables), viewer, cursor, out)?;
    if stop == Stop::Through {
        *cursor = next;
    }
    Ok(stop)
}

/// A damaged record at the cursor: on behind it, where the log can be read again.
fn damaged(
    log: &dyn Log,
    topic: TopicId,
    end: Offset,
    error: &LogError,
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    let to = next_whole(log, topic, *cursor, end)?;
    damage::say(&format!("topic {}: records {cursor}..{to} are lost: {error}", topic.short()));
    hole(log, topic, (to, HoleReason::Corruption), viewer, cursor, out)
}

/// The first whole record after the damaged one at `at`; `end` if none stands before that. One by one at first, then in
/// longer and longer steps and from there back: some hundred reads at most, however much is lost.
fn next_whole(log: &dyn Log, topic: TopicId, at: Offset, end: Offset) -> Result<Offset, LogError> {
    /// Records looked at one by one, a count.
    const NEAR: u32 = 16;
    let (mut bad, mut step, mut looked) = (at.0, 1_u64, 0);
    let (mut good, mut found) = loop {
        let probe = bad.saturating_add(step).min(end.0);
        if probe == end.0 {
            break (probe, end);
        }
        if let Some(found) = whole(log, topic, Offset(probe), end)? {
            break (probe, found);
        }
        bad = probe;
        looked += 1;
        if looked >= NEAR {
            step = step.saturating_mul(2);
        }
    };
    while good.saturating_sub(bad) > 1 {
        let middle = bad + (good - bad) / 2;
        match whole(log, topic, Offset(middle), end)? {
            Some(nearer) => (good, found) = (middle, nearer),
            None => bad = middle,
        }
    }
    Ok(found)
}

/// The first record at or after `from`, unless it is damaged.
fn whole(log: &dyn Log, topic: TopicId, from: Offset, end: Offset) -> Result<Option<Offset>, LogError> {
    let read = log.read(&topic, from, 1).and_then(|stored| match stored.into_iter().next() {
        Some(stored) => Ok(readable(log, topic, stored.offset, stored.record)?.offset.min(end)),
        None => Ok(end),
    });
    match read {
        Err(error) if error.is_damage() => Ok(None),
        read => read.map(Some),
    }
}

fn hole(
    log: &dyn Log,
    topic: TopicId,
    (first, why): (Offset, HoleReason),
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    let before = |offset: Offset| log.roster_before(&topic, offset).map(|seq| seq.unwrap_or_default());
    let (mut held, through) = (before(*cursor)?, before(first)?);
    out.reply(&Reply::Hole(*cursor, first, why));
    while held < through {
        let from = RosterSeq(held.0.saturating_add(1));
        let entries = lookup::rosters(log, topic, from, through, limits::ROSTER_READ_BYTES)?;
        if entries.is_empty() {
            break;
        }
        for item in entries {
            if item.seq > viewer.as_of && item.touches_access() {
                // The hole is told of again from here; nobody minds a hole in two pieces.
                *cursor = item.offset;
                return Ok(Stop::Ask);
            }
            out.reply(&Reply::Roster(item.delivery(viewer.gets_ops(item.seq))));
            if viewer.ends_with(item.seq) {
                return Ok(Stop::Removed);
            }
            held = item.seq;
        }
    }
    for context in lookup::contexts(log, topic, first, &viewer.indexes)? {
        out.reply(&Reply::Context(context));
    }
    *cursor = first;
    Ok(Stop::Through)
}

/// A record read back, as the ring would hold it.
fn readable(
    log: &dyn Log,
    topic: TopicId,
    offset: Offset,
    bytes: bytes::Bytes,
) -> Result<Readable, LogError> {
    let corrupt = |error: &dyn std::fmt::Display| LogError::Corrupt(format!("record {offset}: {error}"));
    let what = match Record::decode(bytes.clone()).map_err(|error| corrupt(&error))? {
        Record::Batch(_) => What::Batch { record: bytes, end: None },
        Record::Header(header) => {
            let parsed = header.peek().map_err(|error| corrupt(&error))?;
            let found = log.epoch(&topic, &parsed.publisher, parsed.epoch)?;
            let table = found.and_then(|found| found.table);
            What::Header(
                HeaderItem { publisher: parsed.publisher, epoch: parsed.epoch, header, table }.into(),
            )
        }
        Record::Roster(entry) => {
            let seq = entry.peek().map_err(|error| corrupt(&error))?.seq;
            let item = lookup::roster_entry(log, topic, seq)?;
            What::Roster(item.ok_or_else(|| corrupt(&"its operations are missing"))?.into())
        }
    };
    Ok(Readable { offset, what })
}
