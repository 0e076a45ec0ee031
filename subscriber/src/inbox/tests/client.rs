//! A reader in memory.

use sealcast_envelope::{PrekeyRing, WrapSecret};
use sealcast_proto::frame::{From as Begin, Reply, Subscribe};
use sealcast_proto::{Identity, Seq};

use super::world::{World, identity, key};
use crate::cursor::Cursor;
use crate::event::{Event, Item, Received};
use crate::inbox::{Effects, Inbox, Input, Need};

/// A subscriber: an inbox and what an application does with it.
pub(super) struct Client {
    pub(super) identity: Identity,
    pub(super) inbox: Inbox,
    /// Returned and not looked at yet.
    pub(super) items: Vec<Item>,
    pub(super) returned: u64,
    pub(super) ring: Vec<u8>,
    pub(super) resubscribed: u32,
    pub(super) fetches: u32,
    pub(super) ended: bool,
    /// Whether the broker answers fetches.
    pub(super) answer_fetches: bool,
}

impl Client {
    pub(super) fn new(world: &World, n: u8, from: Begin) -> Self {
        Self::with(world, n, from, Cursor::new(world.topic), false)
    }

    pub(super) fn with(_world: &World, n: u8, from: Begin, cursor: Cursor, until_head: bool) -> Self {
        Self::with_ring(n, from, cursor, until_head, PrekeyRing::new().encode().to_vec())
    }

    pub(super) fn with_ring(n: u8, from: Begin, cursor: Cursor, until_head: bool, ring: Vec<u8>) -> Self {
        let identity = identity(n);
        let secret = WrapSecret::of_identity(&identity);
        let prekeys = PrekeyRing::decode(&ring).unwrap();
        let inbox = Inbox::new(identity.public(), secret, prekeys, cursor, from, until_head);
        Self {
            identity,
            inbox,
            items: Vec::new(),
            returned: 0,
            ring,
            resubscribed: 0,
            fetches: 0,
            ended: false,
            answer_fetches: true,
        }
    }

    pub(super) fn subscribe(&self) -> Subscribe {
        self.inbox.subscribe()
    }

    /// Connects and is served everything up to the head.
    pub(super) fn connect(&mut self, world: &World) -> &mut Self {
        let replies = world.serve(&self.subscribe(), &self.identity.public());
        self.feed(world, replies)
    }

    pub(super) fn feed(&mut self, world: &World, replies: impl IntoIterator<Item = Reply>) -> &mut Self {
        for reply in replies {
            self.put(world, Input::Reply(reply));
        }
        self
    }

    /// What was stored since `from`.
    pub(super) fn deliver(&mut self, world: &World, from: usize) -> &mut Self {
        let me = self.identity.public();
        let replies: Vec<_> = (from..world.log.len()).filter_map(|at| world.record(at, &me)).collect();
        self.feed(world, replies)
    }

    pub(super) fn put(&mut self, world: &World, input: Input) {
        let mut effects = Effects::default();
        self.inbox.handle(input, world.now, &mut effects);
        self.items.append(&mut effects.items);
        self.ended |= effects.end;
        self.resubscribed += u32::from(effects.resubscribe.is_some());
        match effects.need {
            None => {}
            Some(Need::Prekeys) => {
                let ring = PrekeyRing::decode(&self.ring).unwrap();
                self.put(world, Input::Prekeys(ring));
            }
            Some(Need::Epochs(publisher, epoch)) => {
                self.fetches += 1;
                let epochs = match self.answer_fetches {
                    true => world.fetch_epochs(&publisher, epoch, &self.identity.public()),
                    false => Vec::new(),
                };
                self.put(world, Input::Epochs(epochs));
            }
        }
    }

    pub(super) fn tick(&mut self, world: &World) -> &mut Self {
        self.put(world, Input::Tick);
        self
    }

    /// Everything that came, taken.
    pub(super) fn take(&mut self) -> Vec<Item> {
        let items = std::mem::take(&mut self.items);
        self.returned += items.len() as u64;
        self.inbox.ledger().settle(self.returned);
        items
    }

    /// The same for people: texts of messages, and events.
    pub(super) fn said(&mut self) -> Vec<String> {
        self.take().iter().map(said).collect()
    }

    /// Through the bytes that a state directory keeps.
    pub(super) fn saved(&mut self) -> Cursor {
        let topic = self.inbox.topic();
        Cursor::decode(&self.inbox.ledger().cursor().encode(), &topic).unwrap()
    }

    /// A crash and a restart.
    pub(super) fn restarted(&mut self, world: &World) -> Self {
        let cursor = self.saved();
        let n = (1..=255).find(|n| key(*n) == self.identity.public()).unwrap();
        let _ = world;
        Self::with_ring(n, Begin::Latest, cursor, false, self.ring.clone())
    }
}

pub(super) fn text(received: &Received) -> String {
    String::from_utf8(received.message.payload.to_vec()).unwrap()
}

pub(super) fn said(item: &Item) -> String {
    match item {
        Ok(received) => text(received),
        Err(event) => short(event),
    }
}

fn short(event: &Event) -> String {
    let range =
        |from: &Seq, to: &Option<Seq>| format!("{}..{}", from.0, to.map_or("".into(), |to| to.0.to_string()));
    match event {
        Event::Gap { from, to, why, .. } => format!("Gap {} {why:?}", range(from, to)),
        Event::Locked { from, to, .. } => format!("Locked {}", range(from, to)),
        Event::BadBatch { from, to, .. } => format!("BadBatch {}", range(from, &Some(*to))),
        Event::Refused { why, .. } => format!("Refused {why:?}"),
        Event::Fork { publisher, .. } => {
            format!("Fork {}", if publisher.is_some() { "publisher" } else { "roster" })
        }
        Event::Rollback { .. } => "Rollback".into(),
        Event::NotAllowed { .. } => "NotAllowed".into(),
        Event::Broker { .. } => "Broker".into(),
        Event::State { .. } => "State".into(),
        other => format!("{other:?}").split(' ').next().unwrap_or_default().into(),
    }
}
