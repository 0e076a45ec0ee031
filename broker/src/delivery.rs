//! What one reader gets of what a topic holds: everybody's batches, its own slots, its share of roster entries.

use sealcast_proto::frame::{EpochDelivery, HoleReason, Reply};
use sealcast_proto::record::Record;
use sealcast_proto::roster::Role;
use sealcast_proto::{MemberIndex, Offset, RosterSeq, TopicId};

use crate::limits;
use crate::lookup;
use crate::outgoing::Outgoing;
use crate::ring::{self, Item};
use crate::store::{Log, LogError};
use crate::topic::{HeaderItem, Readable, Standing, What};

/// Who reads, as far as it decides what is read.
#[derive(Debug, Clone)]
pub(crate) struct Viewer {
    indexes: Vec<MemberIndex>,
    officer: bool,
    /// The entry that removes it: the last thing it gets.
    last: Option<RosterSeq>,
    as_of: RosterSeq,
}

/// Where a delivery came to a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// There was no more.
    Through,
    /// An entry changes what the viewer may see: ask again what it is, then go on.
    Ask,
    /// The entry that removed the viewer was delivered: nothing follows.
    Removed,
}

impl Viewer {
    pub(crate) fn new(standing: Standing) -> Self {
        Self {
            officer: standing.role.is_some_and(|role| role > Role::Reader),
            indexes: standing.indexes,
            last: standing.removed.map(|(seq, _)| seq),
            as_of: standing.as_of,
        }
    }

    pub(crate) fn indexes(&self) -> &[MemberIndex] {
        &self.indexes
    }

    /// Whether it gets the operations of entry `seq`.
    pub(crate) fn gets_ops(&self, seq: RosterSeq) -> bool {
        self.officer || self.last == Some(seq)
    }

    /// Whether nothing after entry `seq` is for it.
    pub(crate) fn ends_with(&self, seq: RosterSeq) -> bool {
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

/// What a reader behind the ring gets next: from the log, up to `end`. If retention has overtaken it: the hole, the roster
/// entries that stood in it, and where every publisher stands after it.
pub(crate) fn deliver_from_log(
    log: &dyn Log,
    topic: TopicId,
    end: Offset,
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    let stored = log.read(&topic, *cursor, limits::READ_BYTES)?;
    // After the read: what is trimmed in between is missing from it, and the bounds say so by now.
    let first = log.bounds(&topic)?.first.min(end);
    if *cursor < first {
        return hole(log, topic, first, viewer, cursor, out);
    }
    let mut readables = Vec::with_capacity(stored.len());
    let mut next = end;
    for stored in stored {
        if stored.offset >= end {
            next = end;
            break;
        }
        next = Offset(stored.offset.0.saturating_add(1));
        readables.push(readable(log, topic, stored.offset, stored.record)?);
    }
    let stop = deliver(log, &ring::items(readables), viewer, cursor, out)?;
    if stop == Stop::Through {
        *cursor = next;
    }
    Ok(stop)
}

fn hole(
    log: &dyn Log,
    topic: TopicId,
    first: Offset,
    viewer: &Viewer,
    cursor: &mut Offset,
    out: &mut Outgoing,
) -> Result<Stop, LogError> {
    let before = |offset: Offset| log.roster_before(&topic, offset).map(|seq| seq.unwrap_or_default());
    let (mut held, through) = (before(*cursor)?, before(first)?);
    out.reply(&Reply::Hole(*cursor, first, HoleReason::Retention));
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
