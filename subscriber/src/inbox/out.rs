//! What the machine hands out, and what it leaves in the ledger with it.

use sealcast_proto::{Hash, PublicKey};

use super::publisher::Publisher;
use super::{Effects, Inbox};
use crate::event::{Event, Item, Received};
use crate::ledger::{Change, Layout};

/// What one record hands out.
#[derive(Default)]
pub(super) struct RecordItems {
    pub(super) before: Vec<Event>,
    pub(super) messages: Vec<Received>,
    pub(super) after: Vec<Event>,
}

impl Inbox {
    /// What is saved once `key`'s last record was taken.
    pub(super) fn change_of(&self, key: &PublicKey) -> Change {
        let saved = self.publishers.get(key).map(Publisher::saved);
        Change { publishers: vec![(*key, saved)], next_offset: self.next_offset, ..Change::default() }
    }

    /// Nothing to hand out, but the position moved.
    pub(super) fn progress(&mut self) {
        self.ledger.push(Layout::default(), Change { next_offset: self.next_offset, ..Change::default() });
    }

    /// Hands out a record's items, without those that were taken before a restart.
    pub(super) fn hand_out(
        &mut self,
        record: Option<Hash>,
        items: RecordItems,
        change: Change,
        fx: &mut Effects,
    ) {
        let RecordItems { mut before, mut messages, mut after } = items;
        let mut skipped = 0;
        if let Some(partial) = self.partial.take_if(|partial| record == Some(partial.record)) {
            let events = usize::try_from(partial.events).unwrap_or(usize::MAX);
            let from_before = events.min(before.len());
            let from_after = (events - from_before).min(after.len());
            before.drain(..from_before);
            after.drain(..from_after);
            skipped = partial.events;
            if let Some(upto) = partial.upto {
                messages.retain(|message| message.seq >= upto);
            }
        }
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let layout = Layout {
            record,
            events_skipped: skipped,
            events_before: count(before.len()),
            first_seq: messages.first().map(|message| message.seq),
            messages: count(messages.len()),
            events_after: count(after.len()),
            bytes: messages.iter().map(weight).sum(),
        };
        self.ledger.push(layout, change);
        fx.items.extend(before.into_iter().map(Err));
        fx.items.extend(messages.into_iter().map(Ok));
        fx.items.extend(after.into_iter().map(Err));
    }

    /// Hands out one event about `key`, whose state it changed.
    pub(super) fn tell(&mut self, key: &PublicKey, event: Event, fx: &mut Effects) {
        let items = RecordItems { before: vec![event], ..RecordItems::default() };
        self.hand_out(None, items, self.change_of(key), fx);
    }

    /// Hands out an event about no publisher.
    pub(super) fn tell_all(&mut self, event: Event, fx: &mut Effects) {
        let items = RecordItems { before: vec![event], ..RecordItems::default() };
        self.hand_out(None, items, Change::default(), fx);
    }

    /// The last item.
    pub(super) fn terminal(&mut self, event: Event, fx: &mut Effects) {
        self.tell_all(event, fx);
        self.ended = true;
        fx.end = true;
    }
}

/// A message's weight in memory, bytes.
fn weight(received: &Received) -> usize {
    let message = &received.message;
    let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 96).sum();
    message.payload.len() + message.content_type.len() + headers + size_of::<Item>()
}
