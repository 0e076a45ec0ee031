//! What was handed out, what of it was taken, and therefore what may be saved.
//!
//! ```text
//!         cursor ◄──────── untagged ◄──────── queue ◄──────── inbox
//!   may be saved      taken, but the      not (wholly)      one entry a record
//!                     tag is older        taken yet
//! ```
//! The inbox is ahead of the application; the cursor must not be. So each record leaves here what it changed, and the
//! cursor gets it once the record's last item was taken. Where the application keeps a tag (how long its output file
//! is, say), taken is not enough: the cursor moves with the tag, never before it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sealcast_proto::roster::RosterChain;
use sealcast_proto::{Hash, Offset, PublicKey, Seq};

use crate::cursor::{Cursor, Marks, Partial, SavedPublisher};

/// What a record changed in the state.
#[derive(Default)]
pub(crate) struct Change {
    /// `None`: the publisher was forgotten.
    pub(crate) publishers: Vec<(PublicKey, Option<SavedPublisher>)>,
    pub(crate) chain: Option<Arc<RosterChain>>,
    pub(crate) next_offset: Option<Offset>,
    /// `None`: as it was.
    pub(crate) partial: Option<Option<Partial>>,
}

impl Change {
    fn merge(&mut self, later: Self) {
        for (key, saved) in later.publishers {
            match self.publishers.iter_mut().find(|(known, _)| *known == key) {
                Some((_, earlier)) => *earlier = saved,
                None => self.publishers.push((key, saved)),
            }
        }
        self.chain = later.chain.or(self.chain.take());
        self.next_offset = later.next_offset.or(self.next_offset);
        self.partial = later.partial.or(self.partial.take());
    }

    fn apply(self, cursor: &mut Cursor) {
        for (key, saved) in self.publishers {
            match saved {
                Some(saved) => cursor.publishers.insert(key, saved),
                None => cursor.publishers.remove(&key),
            };
        }
        if let Some(chain) = self.chain {
            cursor.chain = Some(chain);
        }
        if let Some(offset) = self.next_offset {
            cursor.next_offset = Some(offset);
        }
        if let Some(partial) = self.partial {
            cursor.partial = partial;
        }
    }

    fn erase(&mut self, held: &dyn Fn(u32) -> bool) {
        let saved = self.publishers.iter_mut().filter_map(|(_, saved)| saved.as_mut());
        saved.for_each(|saved| {
            saved.erase(held);
        });
    }
}

/// The items of one record, in the order in which they are handed out: events, messages, events.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layout {
    /// The record's own hash, where it has one that comes again.
    pub(crate) record: Option<Hash>,
    /// Events that were left out, because they were taken before a restart.
    pub(crate) events_skipped: u32,
    /// Events before the messages.
    pub(crate) events_before: u32,
    /// The first message's number; the others follow without holes.
    pub(crate) first_seq: Option<Seq>,
    /// Messages.
    pub(crate) messages: u32,
    /// Events after them.
    pub(crate) events_after: u32,
    /// What they weigh in memory.
    pub(crate) bytes: usize,
}

impl Layout {
    fn items(&self) -> u64 {
        u64::from(self.events_before) + u64::from(self.messages) + u64::from(self.events_after)
    }

    /// How far a reader is that took the first `taken` items.
    fn partial(&self, taken: u64) -> Option<Partial> {
        let record = self.record?;
        let before = taken.min(self.events_before.into());
        let messages = (taken - before).min(self.messages.into());
        let after = taken - before - messages;
        let events = u64::from(self.events_skipped) + before + after;
        Some(Partial {
            record,
            events: u32::try_from(events).unwrap_or(u32::MAX),
            upto: self.first_seq.and_then(|seq| seq.plus(messages)),
        })
    }
}

struct Entry {
    /// Items handed out when its last one was.
    end: u64,
    layout: Layout,
    change: Change,
}

/// See the module's page.
pub struct Ledger {
    cursor: Cursor,
    untagged: Change,
    /// Items were taken that the tag does not cover.
    behind_tag: bool,
    queue: VecDeque<Entry>,
    queued_bytes: usize,
    handed_out: u64,
    taken: u64,
    dirty: bool,
}

impl Ledger {
    pub fn new(cursor: Cursor) -> Self {
        Self {
            cursor,
            untagged: Change::default(),
            behind_tag: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            handed_out: 0,
            taken: 0,
            dirty: false,
        }
    }

    /// What may be saved now.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Whether [`Ledger::cursor`] changed since this was last asked.
    pub fn take_dirty(&mut self) -> bool {
        self.is_dirty() && std::mem::take(&mut self.dirty)
    }

    /// Whether it did; does not reset that.
    pub fn is_dirty(&self) -> bool {
        // Without a position there is nothing to resume at: a start that came to nothing (a broker that was rolled back,
        // say) must not replace the position that an earlier run saved.
        self.dirty && self.cursor.next_offset.is_some()
    }

    /// The next save must not be skipped: the last one failed or was for nothing.
    pub fn set_dirty(&mut self) {
        self.dirty = true;
    }

    /// Records handed out and not wholly taken, and the bytes they weigh.
    pub fn pending(&self) -> (usize, usize) {
        (self.queue.len(), self.queued_bytes)
    }

    /// A record's items were handed out.
    pub(crate) fn push(&mut self, layout: Layout, mut change: Change) {
        let items = layout.items();
        if items > 0 {
            if layout.record.is_some() {
                // Once it was wholly taken, it is no longer partly taken.
                change.partial = Some(None);
            }
            self.handed_out += items;
            self.queued_bytes += layout.bytes;
            self.queue.push_back(Entry { end: self.handed_out, layout, change });
        } else if let Some(last) = self.queue.back_mut() {
            // Nobody takes it: it is taken with what was handed out before it.
            last.change.merge(change);
        } else {
            self.settled(change);
        }
    }

    /// The application took this many items in all.
    pub fn settle(&mut self, taken: u64) {
        let taken = taken.min(self.handed_out);
        if taken <= self.taken {
            return;
        }
        self.taken = taken;
        // From here on, until the tag follows, the cursor must stay.
        self.behind_tag = self.cursor.tag.is_some();
        while self.queue.front().is_some_and(|entry| entry.end <= taken) {
            let Some(entry) = self.queue.pop_front() else { break };
            self.queued_bytes = self.queued_bytes.saturating_sub(entry.layout.bytes);
            self.settled(entry.change);
        }
        let partly = self.queue.front().and_then(|entry| {
            let begin = entry.end - entry.layout.items();
            entry.layout.partial(taken.checked_sub(begin).filter(|items| *items > 0)?)
        });
        if partly.is_some() {
            self.settled(Change { partial: Some(partly), ..Change::default() });
        }
    }

    /// The application's note for everything up to the first `taken` items.
    pub fn tag(&mut self, tag: Bytes, taken: u64) {
        self.settle(taken);
        std::mem::take(&mut self.untagged).apply(&mut self.cursor);
        self.behind_tag = false;
        self.cursor.tag = Some(tag);
        self.dirty = true;
    }

    fn settled(&mut self, change: Change) {
        if self.behind_tag {
            self.untagged.merge(change);
        } else {
            change.apply(&mut self.cursor);
            self.dirty = true;
        }
    }

    /// Marks do not wait for the application: what was seen was seen.
    pub(crate) fn set_marks(&mut self, marks: Marks) {
        if self.cursor.marks != marks {
            self.cursor.marks = marks;
            self.dirty = true;
        }
    }

    /// The broker acknowledged our prekey `id`.
    pub(crate) fn acknowledged(&mut self, id: u32, at_ms: u64) {
        let list = &mut self.cursor.acknowledged;
        if list.iter().all(|(known, _)| *known < id) {
            list.push((id, at_ms));
            // Only the newest few can matter: older slots are stale by any of them.
            let excess = list.len().saturating_sub(MAX_ACKNOWLEDGED);
            list.drain(..excess);
            self.dirty = true;
        }
    }

    /// Forgets every key, saved or waiting to be, that came from a prekey that is not held any more.
    pub(crate) fn erase(&mut self, held: &dyn Fn(u32) -> bool) {
        self.dirty |= self.cursor.erase(held);
        self.untagged.erase(held);
        self.queue.iter_mut().for_each(|entry| entry.change.erase(held));
    }

    /// How many items must have been taken for half of what is queued to be gone.
    pub fn halfway(&self) -> u64 {
        self.queue.get(self.queue.len() / 2).map_or(self.taken, |entry| entry.end)
    }
}

/// Own prekeys whose acknowledgement is remembered, a count.
const MAX_ACKNOWLEDGED: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::TopicId;

    fn ledger() -> Ledger {
        Ledger::new(Cursor::new(TopicId([1; 32])))
    }

    fn record(n: u8, first_seq: u64, messages: u32) -> (Layout, Change) {
        let layout = Layout {
            record: Some(Hash([n; 32])),
            first_seq: Some(Seq(first_seq)),
            messages,
            ..Layout::default()
        };
        (layout, Change { next_offset: Some(Offset(n.into())), ..Change::default() })
    }

    fn push(ledger: &mut Ledger, (layout, change): (Layout, Change)) {
        ledger.push(layout, change);
    }

    #[test]
    fn the_cursor_moves_when_the_last_item_of_a_record_was_taken() {
        let mut ledger = ledger();
        push(&mut ledger, record(1, 0, 2));
        push(&mut ledger, record(2, 2, 1));
        assert_eq!(ledger.cursor().next_offset, None);
        ledger.settle(1);
        assert_eq!(ledger.cursor().next_offset, None);
        assert_eq!(ledger.cursor().partial.unwrap().upto, Some(Seq(1)));
        ledger.settle(2);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(1)));
        assert_eq!(ledger.cursor().partial, None);
        ledger.settle(3);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(2)));
        assert_eq!(ledger.pending(), (0, 0));
    }

    #[test]
    fn a_record_without_items_is_taken_with_the_one_before_it() {
        let mut ledger = ledger();
        push(&mut ledger, record(1, 0, 0));
        assert_eq!(ledger.cursor().next_offset, Some(Offset(1)));
        push(&mut ledger, record(2, 0, 1));
        push(&mut ledger, record(3, 1, 0));
        assert_eq!(ledger.cursor().next_offset, Some(Offset(1)));
        ledger.settle(1);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(3)));
    }

    #[test]
    fn events_and_messages_of_one_record_are_counted_apart() {
        let mut ledger = ledger();
        let layout = Layout { events_before: 2, events_after: 1, ..record(1, 10, 2).0 };
        ledger.push(layout, Change::default());
        let partial = |ledger: &Ledger| ledger.cursor().partial.map(|p| (p.events, p.upto.unwrap().0));
        let seen = (1..=5).map(|taken| {
            ledger.settle(taken);
            partial(&ledger)
        });
        let seen: Vec<_> = seen.collect();
        assert_eq!(seen, [Some((1, 10)), Some((2, 10)), Some((2, 11)), Some((2, 12)), None]);
    }

    #[test]
    fn with_a_tag_the_cursor_moves_with_the_tag_only() {
        let mut ledger = ledger();
        for n in 1..=4 {
            push(&mut ledger, record(n, n.into(), 1));
        }
        ledger.tag(Bytes::from_static(b"one"), 1);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(1)));
        ledger.settle(3);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(1)), "the tag does not cover 2 and 3");
        assert_eq!(ledger.pending().0, 1);
        ledger.tag(Bytes::from_static(b"three"), 3);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(3)));
        assert_eq!(ledger.cursor().tag.as_deref(), Some(b"three".as_slice()));
        ledger.settle(4);
        assert_eq!(ledger.cursor().next_offset, Some(Offset(3)));
    }

    #[test]
    fn nothing_is_saved_before_there_is_a_position() {
        let mut ledger = ledger();
        ledger.acknowledged(7, 1);
        assert!(!ledger.is_dirty() && !ledger.take_dirty());
        push(&mut ledger, record(1, 0, 0));
        assert!(ledger.take_dirty());
        assert!(!ledger.take_dirty());
    }

    #[test]
    fn what_was_never_handed_out_cannot_be_taken() {
        let mut ledger = ledger();
        ledger.settle(7);
        push(&mut ledger, record(1, 0, 1));
        assert_eq!(ledger.cursor().next_offset, None);
    }
}
