//! What every back end keeps in memory of a topic's log, and the rules a write must keep.

use std::collections::HashMap;

use sealcast_proto::{Offset, TopicId};

use super::{Bounds, LogError, Write};

/// Where a topic's log begins and ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// Everything below was trimmed.
    pub(super) first: Offset,
    /// The lowest offset the next append may take.
    pub(super) next: Offset,
    /// Bytes of records trimmed so far.
    pub(super) start: u64,
    /// Bytes of records ever stored.
    pub(super) end: u64,
}

impl Tail {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { first: self.first, next: self.next, bytes: self.end.saturating_sub(self.start) }
    }

    /// Takes a record of `len` bytes; returns its `start`.
    fn append(&mut self, offset: Offset, len: usize) -> Option<u64> {
        let start = self.end;
        self.next = offset.next()?;
        self.end = start.checked_add(u64::try_from(len).ok()?)?;
        Some(start)
    }
}

pub(super) type Tails = HashMap<TopicId, Tail>;

/// What a write does to the tails.
#[derive(Default)]
pub(super) struct Plan {
    /// The tails of the topics it touches, as they are afterwards.
    pub(super) tails: Tails,
    /// The `start` of each append, in order.
    pub(super) starts: Vec<u64>,
}

/// Checks the rules of [`Write`], before anything is written.
pub(super) fn plan(writes: &[Write], tails: &Tails) -> Result<Plan, LogError> {
    let mut plan = Plan::default();
    for write in writes {
        match write {
            Write::CreateTopic { topic, .. } => {
                let known = tails.get(topic).copied().unwrap_or_default();
                plan.tails.entry(*topic).or_insert(known);
            }
            Write::Append { topic, offset, record, .. } => {
                let tail = match plan.tails.entry(*topic) {
                    std::collections::hash_map::Entry::Occupied(tail) => tail.into_mut(),
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(*tails.get(topic).ok_or_else(|| {
                            LogError::Misuse(format!("append to the unknown topic {}", topic.short()))
                        })?)
                    }
                };
                if *offset < tail.next {
                    return Err(LogError::Misuse(format!("append at {offset}, below the end {}", tail.next)));
                }
                let start = tail.append(*offset, record.len());
                plan.starts.push(start.ok_or_else(|| LogError::Misuse(format!("append at {offset}")))?);
            }
            _ => {}
        }
    }
    Ok(plan)
}

/// The lowest `x` in `low..=high` for which `holds(x)`; `high` if there is none. `holds` is false up to some place and
/// true from there on.
pub(super) fn lowest(
    mut low: u64,
    mut high: u64,
    mut holds: impl FnMut(u64) -> Result<bool, LogError>,
) -> Result<u64, LogError> {
    while low < high {
        let mid = low + (high - low) / 2;
        if holds(mid)? {
            high = mid;
        } else {
            low = mid + 1;
        }
    }
    Ok(low)
}
