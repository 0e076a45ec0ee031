//! A topic's recent records, ready to send: built once, shared by every reader that is not far behind.
//!
//! Batches that became readable together stand in runs of ready frames of up to [`limits::RUN_BYTES`]; a reader sends a
//! run as it is. Headers and roster entries stand alone, because each reader gets its own slot and its own share of an
//! entry. What the log does not hold yet (a `memory` topic's newest batches) is never dropped from here.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::Offset;
use sealcast_proto::frame::{FRAME_HEADER, FrameKind, frame_header};

use crate::limits;
use crate::topic::{HeaderItem, Readable, RosterItem, What};

/// A piece of a topic's log on its way to readers.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Batches.
    Batches(Run),
    /// A header.
    Header(Offset, Arc<HeaderItem>),
    /// A roster entry.
    Roster(Arc<RosterItem>),
}

/// Batches in a row, as the frames that every reader gets.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    first: Offset,
    last: Offset,
    frames: Bytes,
}

/// What a ring has for a reader.
pub(crate) enum Near {
    /// The next items; none: the reader is at the head.
    Items(Vec<Item>),
    /// The reader is behind the ring, which begins here: the log has what it needs.
    Behind(Offset),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Ring {
    inner: RwLock<Inner>,
    budget: usize,
}

#[derive(Debug)]
struct Inner {
    items: VecDeque<(Item, u64)>,
    /// Every readable record from here on is in `items`.
    first: Offset,
    bytes: usize,
}

impl Item {
    fn last(&self) -> Offset {
        match self {
            Self::Batches(run) => run.last,
            Self::Header(offset, _) => *offset,
            Self::Roster(item) => item.offset,
        }
    }

    /// About how many bytes it takes to send.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Batches(run) => run.frames.len(),
            Self::Header(_, item) => item.header.body().len() + 256,
            Self::Roster(item) => item.ops.len() + item.roles.as_ref().map_or(0, Bytes::len) + 512,
        }
    }

    /// The offset after it.
    pub(crate) fn next(&self) -> Offset {
        Offset(self.last().0.saturating_add(1))
    }
}

impl Run {
    /// The frames of the records at or after `from`.
    pub(crate) fn from(&self, from: Offset) -> Bytes {
        let mut rest = self.frames.clone();
        if from <= self.first {
            return rest;
        }
        while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
            let Ok((_, len)) = FrameKind::parse(*header) else { break };
            let offset = after.first_chunk::<8>().map_or(u64::MAX, |offset| u64::from_be_bytes(*offset));
            if Offset(offset) >= from || rest.len() < FRAME_HEADER + len {
                break;
            }
            rest = rest.slice(FRAME_HEADER + len..);
        }
        rest
    }
}

/// Items of readable records in a row.
pub(crate) fn items(readables: impl IntoIterator<Item = Readable>) -> Vec<Item> {
    let mut out = Vec::new();
    let mut run: Option<(Offset, Offset, BytesMut)> = None;
    let close = |run: &mut Option<(Offset, Offset, BytesMut)>, out: &mut Vec<Item>| {
        if let Some((first, last, frames)) = run.take() {
            out.push(Item::Batches(Run { first, last, frames: frames.freeze() }));
        }
    };
    for Readable { offset, what } in readables {
        match what {
            What::Batch { record, .. } => {
                let size = FRAME_HEADER + 8 + record.len();
                if run.as_ref().is_some_and(|(.., frames)| frames.len() + size > limits::RUN_BYTES) {
                    close(&mut run, &mut out);
                }
                let (_, last, frames) =
                    run.get_or_insert_with(|| (offset, offset, BytesMut::with_capacity(size)));
                *last = offset;
                frames.reserve(size);
                frames.put_slice(&frame_header(FrameKind::Record, 8 + record.len()));
                frames.put_u64(offset.0);
                frames.put_slice(&record);
            }
            What::Header(item) => {
                close(&mut run, &mut out);
                out.push(Item::Header(offset, item));
            }
            What::Roster(item) => {
                close(&mut run, &mut out);
                out.push(Item::Roster(item));
            }
        }
    }
    close(&mut run, &mut out);
    out
}

impl Ring {
    /// An empty ring: readers before `first` go to the log.
    pub(crate) fn new(first: Offset, budget: usize) -> Self {
        Self { inner: RwLock::new(Inner { items: VecDeque::new(), first, bytes: 0 }), budget }
    }

    /// Takes what became readable.
    pub(crate) fn push(&self, items: Vec<Item>, now_ms: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            inner.bytes += item.size();
            inner.items.push_back((item, now_ms));
        }
    }

    /// Drops what is too much or too old and stands in the log, which holds everything below `stored`.
    pub(crate) fn evict(&self, stored: Offset, now_ms: u64) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let old = now_ms.saturating_sub(limits::RING_AGE_MS);
        while let Some((item, at_ms)) = inner.items.front() {
            let (size, next, at_ms) = (item.size(), item.next(), *at_ms);
            if next > stored || (inner.bytes <= self.budget && at_ms > old) {
                break;
            }
            inner.items.pop_front();
            inner.bytes = inner.bytes.saturating_sub(size);
            inner.first = next;
        }
    }

    /// Forgets everything: whoever stands before `first` reads the log.
    pub(crate) fn restart(&self, first: Offset) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        *inner = Inner { items: VecDeque::new(), first, bytes: 0 };
    }

    /// Whether it holds nothing that will be too old some day.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).items.is_empty()
    }

    /// Whether a reader at `from` needs the log.
    pub(crate) fn is_behind(&self, from: Offset) -> bool {
        from < self.inner.read().unwrap_or_else(PoisonError::into_inner).first
    }

    /// What a reader at `from` gets next, about `max_bytes` of it.
    pub(crate) fn read(&self, from: Offset, max_bytes: usize) -> Near {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if from < inner.first {
            return Near::Behind(inner.first);
        }
        let at = inner.items.partition_point(|(item, _)| item.last() < from);
        let mut bytes = 0;
        let mut out = Vec::new();
        for (item, _) in inner.items.range(at..) {
            if bytes >= max_bytes {
                break;
            }
            bytes += item.size();
            out.push(item.clone());
        }
        Near::Items(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(offset: u64, len: usize) -> Readable {
        let record = Bytes::from(vec![offset as u8; len]);
        Readable { offset: Offset(offset), what: What::Batch { record, end: None } }
    }

    fn offsets(near: Near, from: u64) -> Option<Vec<u64>> {
        let Near::Items(items) = near else { return None };
        let mut out = vec![];
        for item in items {
            let Item::Batches(run) = item else { panic!() };
            let mut frames = run.from(Offset(from));
            while !frames.is_empty() {
                let (_, len) = FrameKind::parse(*frames.first_chunk().unwrap()).unwrap();
                out.push(u64::from_be_bytes(frames[5..13].try_into().unwrap()));
                frames = frames.slice(5 + len..);
            }
        }
        Some(out)
    }

    #[test]
    fn a_reader_gets_each_record_once_from_wherever_it_stands() {
        let ring = Ring::new(Offset(10), 8 << 20);
        ring.push(items([batch(10, 5), batch(11, 5)]), 0);
        ring.push(items([batch(12, 5), batch(15, 5)]), 0);
        for from in 10..=16 {
            let expected: Vec<u64> = [10, 11, 12, 15].into_iter().filter(|offset| *offset >= from).collect();
            assert_eq!(offsets(ring.read(Offset(from), 1 << 20), from).unwrap(), expected);
        }
        assert!(offsets(ring.read(Offset(9), 1), 9).is_none());
    }

    #[test]
    fn runs_stay_below_their_size_and_large_records_stand_alone() {
        let run = limits::RUN_BYTES;
        let made =
            items([batch(1, run / 2), batch(2, run / 3), batch(3, run / 2), batch(4, 2 * run), batch(5, 1)]);
        let sizes: Vec<_> = made.iter().map(|item| (item.last().0, item.size() <= run)).collect();
        assert_eq!(sizes, [(2, true), (3, true), (4, false), (5, true)]);
    }

    #[test]
    fn what_the_log_does_not_hold_is_not_dropped() {
        let ring = Ring::new(Offset(0), 0);
        ring.push(items([batch(0, 5)]), 0);
        ring.push(items([batch(1, 5)]), 0);
        ring.evict(Offset(1), 0);
        assert!(offsets(ring.read(Offset(0), 1), 0).is_none());
        assert_eq!(offsets(ring.read(Offset(1), 100), 1).unwrap(), [1]);
        ring.evict(Offset(2), 0);
        assert!(matches!(ring.read(Offset(2), 100), Near::Items(items) if items.is_empty()));
    }

    #[test]
    fn an_idle_topic_holds_nothing() {
        let ring = Ring::new(Offset(0), 8 << 20);
        ring.push(items([batch(0, 5)]), 1_000);
        ring.evict(Offset(1), 1_000 + limits::RING_AGE_MS - 1);
        assert!(matches!(ring.read(Offset(0), 100), Near::Items(_)) && !ring.is_empty());
        ring.evict(Offset(1), 1_000 + limits::RING_AGE_MS);
        assert!(ring.is_empty());
        assert!(matches!(ring.read(Offset(0), 100), Near::Behind(_)));
    }
}
