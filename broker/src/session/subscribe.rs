//! A subscription: a cursor over the ring and, behind it, the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use sealcast_proto::frame::{Context, From as Begin, HoleReason, Reply, Start, Subscribe};
use sealcast_proto::object::RosterHead;
use sealcast_proto::{Offset, PublicKey, RosterSeq, Signed};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use super::{End, Stream};
use crate::delivery::{self, Stop, Viewer};
use crate::handle::{Opened, Sign, Topic};
use crate::limits;
use crate::lookup;
use crate::ops::report::Follower;
use crate::outgoing::Outgoing;
use crate::present::Here;
use crate::reads::Turn;
use crate::registry::Counted;
use crate::ring::Near;
use crate::roster_index::Opening;
use crate::shared::{going_away, not_allowed};
use crate::store::{Log, LogError};

pub(super) async fn run(stream: &mut Stream, wish: Subscribe) -> Result<(), End> {
    let most = stream.shared.limits().subscriptions_per_identity;
    // First, whether there is such a topic or not: a refusal says nothing about it.
    let Some(_place) = stream.shared.registry.take(Counted::Subscriptions, stream.peer, most) else {
        return Err(lookup::busy("this identity has as many subscriptions as one may have").into());
    };
    let (topic, opened) = stream.shared.enter(stream.peer, &wish.topic).await?;
    let mut reader = Reader::begin(stream, topic, opened, &wish).await?;
    reader.open(wish.roster_seq).await?;
    reader.follow().await
}

struct Reader<'a> {
    stream: &'a mut Stream,
    topic: Arc<Topic>,
    opened: Opened,
    viewer: Viewer,
    /// The next record to deliver.
    cursor: Offset,
    /// Where the subscriber would have begun had retention not removed it.
    missed_from: Option<Offset>,
    /// For `until_head`: the head when it began.
    until: Option<Offset>,
    /// Whether it has fallen behind the ring, or has only begun: said once it is at the head.
    behind: bool,
    /// The roster head sent last, for its time.
    told: Option<Signed<RosterHead>>,
    /// Signs of life that speak of what was not delivered yet, the newest of each publisher.
    signs: BTreeMap<PublicKey, Sign>,
    out: Outgoing,
    following: Here<Follower>,
}

impl<'a> Reader<'a> {
    async fn begin(
        stream: &'a mut Stream,
        topic: Arc<Topic>,
        opened: Opened,
        wish: &Subscribe,
    ) -> Result<Self, End> {
        let head = topic.head();
        // Who was removed reads up to its removal, wherever it begins.
        let end = opened.standing.removed.map_or(head, |(_, offset)| offset.min(head));
        let (id, from) = (topic.id(), wish.from);
        let read = move |log: &dyn Log| {
            let first = log.bounds(&id)?.first;
            let start = match from {
                Begin::Earliest => first,
                Begin::Latest => end,
                Begin::Offset(offset) => offset,
                Begin::Time(ms) => log.seek_time(&id, ms)?,
            };
            Ok((first.min(end), start.min(end)))
        };
        let (first, start) = stream.shared.storage.reads.run(read).await?;
        let cursor = start.max(first);
        Ok(Self {
            following: topic.followers.enter(Follower::new(stream.peer, cursor)),
            viewer: Viewer::new(opened.standing.clone()),
            stream,
            topic,
            opened,
            cursor,
            missed_from: (start < first).then_some(start),
            until: wish.until_head.then_some(head),
            behind: true,
            told: None,
            signs: BTreeMap::new(),
            out: Outgoing::default(),
        })
    }

    /// Start, roster entries, head, contexts.
    async fn open(&mut self, held: Option<RosterSeq>) -> Result<(), End> {
        let holding = self.stream.holding.clone();
        let _place = holding.place(true).await;
        // In a `memory` topic the head is ahead of the log: what is read from the log must be there first.
        self.topic.stored_up_to(self.cursor, self.stream.shared.limits().next_frame).await;
        let start = Start {
            genesis: self.topic.origin().signed.clone(),
            start_offset: self.cursor,
            next_offset: self.topic.head(),
            roster_seq: self.topic.roster_head(),
            level: self.opened.level,
        };
        self.out.reply(&Reply::Start(start));
        let (opening, head) = self.topic.opening(self.cursor, held);
        if let Some(head) = head {
            self.out.reply(&Reply::Head(head));
        }
        self.rosters(opening).await?;
        self.head();
        for context in self.contexts().await? {
            self.out.reply(&Reply::Context(context));
        }
        if let Some(from) = self.missed_from {
            self.out.reply(&Reply::Hole(from, self.cursor, HoleReason::Retention));
        }
        self.flush().await
    }

    async fn rosters(&mut self, opening: Opening) -> Result<(), End> {
        let origin = self.topic.origin().clone();
        let reads = self.stream.shared.storage.reads.clone();
        let mut from = opening.from;
        if from > opening.through {
            return Ok(());
        }
        let ops = self.viewer.gets_ops(from);
        let (id, of) = (origin.id, opening);
        if let Some(first) = reads.run(move |log| lookup::first_entry(log, &origin, of, ops)).await? {
            self.out.reply(&Reply::Roster(first));
            from = RosterSeq(from.0.saturating_add(1));
        }
        loop {
            let (next, through) = (from, opening.through);
            let read =
                move |log: &dyn Log| lookup::rosters(log, id, next, through, limits::ROSTER_READ_BYTES);
            let entries = reads.run(read).await?;
            let Some(last) = entries.last().map(|last| last.seq) else { return Ok(()) };
            for item in entries {
                self.out.reply(&Reply::Roster(item.delivery(self.viewer.gets_ops(item.seq))));
            }
            self.flush().await?;
            from = RosterSeq(last.0.saturating_add(1));
        }
    }

    /// The roster head put last, as soon as the entry it names is the newest one delivered: before, it could not be
    /// checked; after a newer entry it says nothing.
    fn head(&mut self) {
        if let Some(head) = self.topic.newest_head().as_ref().filter(|head| self.told.as_ref() != Some(head))
            && head.peek().is_ok_and(|named| self.topic.roster_before(self.cursor) == named.seq)
        {
            self.out.reply(&Reply::Head(head.clone()));
            self.told = Some(head.clone());
        }
    }

    async fn contexts(&self) -> Result<Vec<Context>, End> {
        let (id, at, indexes) = (self.topic.id(), self.cursor, self.viewer.indexes().to_vec());
        let read = move |log: &dyn Log| lookup::contexts(log, id, at, &indexes);
        Ok(self.stream.shared.storage.reads.run(read).await?)
    }

    /// Delivers until the end, or for ever.
    async fn follow(&mut self) -> Result<(), End> {
        let mut visible = self.topic.visible();
        let mut beacons = self.topic.beacons();
        let mut heads = self.topic.signed_head();
        let stopped = self.stream.writer.stopped();
        tokio::pin!(stopped);
        loop {
            heads.mark_unchanged();
            self.head();
            let head = *visible.borrow_and_update();
            if self.cursor < head {
                if self.step(head).await? == Stop::Removed {
                    return Ok(());
                }
                continue;
            }
            if let Some(until) = self.until.filter(|until| self.cursor >= *until) {
                let next_offset = self.cursor.max(until);
                self.out.reply(&Reply::AtHead { next_offset, end_of_stream: true });
                return self.flush().await;
            }
            if self.behind {
                self.behind = false;
                self.stream.writer.set_priority(0);
                self.out.reply(&Reply::AtHead { next_offset: self.cursor, end_of_stream: false });
                self.flush().await?;
                // Those that came meanwhile are old.
                beacons = beacons.resubscribe();
            }
            self.tell_signs();
            self.flush().await?;
            tokio::select! {
                changed = visible.changed() => {
                    if changed.is_err() {
                        return Err(going_away(limits::READ_ONLY_RETRY_MS).into());
                    }
                }
                changed = heads.changed() => {
                    if changed.is_err() {
                        return Err(going_away(limits::READ_ONLY_RETRY_MS).into());
                    }
                }
                sign = next_sign(&mut beacons) => {
                    let sign = sign?;
                    self.signs.insert(sign.publisher, sign);
                }
                ended = &mut stopped => {
                    ended?;
                    return Ok(());
                }
            }
        }
    }

    /// Signs of life, once everything that they can speak of was delivered.
    fn tell_signs(&mut self) {
        let Self { signs, out, cursor, .. } = self;
        signs.retain(|publisher, sign| {
            let early = sign.after > *cursor;
            if !early {
                out.reply(&Reply::Beacon(*publisher, sign.beacon.clone()));
            }
            early
        });
    }

    /// One piece of what lies before the head, and whatever access it changes.
    async fn step(&mut self, head: Offset) -> Result<Stop, End> {
        let behind = self.topic.ring().is_behind(self.cursor);
        let holding = self.stream.holding.clone();
        // Before anything is read: who waits here holds nothing.
        let _place = holding.place(behind).await;
        let reads = &self.stream.shared.storage.reads;
        let turn = if behind { reads.replay().await } else { None };
        if !self.behind {
            reads.note_live();
        }
        let stop = match self.topic.ring().read(self.cursor, limits::RUN_BYTES) {
            Near::Items(items) if items.is_empty() => {
                self.cursor = head;
                Stop::Through
            }
            Near::Items(items) if !delivery::needs_log(&items) => {
                let log = self.stream.shared.storage.reads.log();
                delivery::deliver(&**log, &items, &self.viewer, &mut self.cursor, &mut self.out)?
            }
            Near::Items(items) => {
                let deliver =
                    move |log: &dyn Log, viewer: &Viewer, cursor: &mut Offset, out: &mut Outgoing| {
                        delivery::deliver(log, &items, viewer, cursor, out)
                    };
                self.read(deliver).await?
            }
            // Since it looked.
            Near::Behind(_) if !behind => Stop::Through,
            Near::Behind(end) => {
                self.behind = true;
                self.stream.writer.set_priority(limits::REPLAY_PRIORITY);
                let (id, end) = (self.topic.id(), end.min(head));
                let deliver =
                    move |log: &dyn Log, viewer: &Viewer, cursor: &mut Offset, out: &mut Outgoing| {
                        delivery::deliver_from_log(log, id, end, viewer, cursor, out)
                    };
                self.read(deliver).await?
            }
        };
        self.flush_in(turn).await?;
        if stop == Stop::Ask {
            let opened = self.topic.open(self.stream.peer).await?.ok_or_else(not_allowed)?;
            self.viewer = Viewer::new(opened.standing);
        }
        Ok(stop)
    }

    /// Delivers where it may wait for the disk.
    async fn read(
        &mut self,
        deliver: impl FnOnce(&dyn Log, &Viewer, &mut Offset, &mut Outgoing) -> Result<Stop, LogError>
        + Send
        + 'static,
    ) -> Result<Stop, End> {
        let (viewer, mut cursor, mut out) = (self.viewer.clone(), self.cursor, std::mem::take(&mut self.out));
        let work = move |log: &dyn Log| {
            let stop = deliver(log, &viewer, &mut cursor, &mut out)?;
            Ok((stop, cursor, out))
        };
        let (stop, cursor, out) = self.stream.shared.storage.reads.run(work).await?;
        self.cursor = cursor;
        self.out = out;
        Ok(stop)
    }

    /// Writes what was read in `turn`, which goes to the next one if the reader takes long. Where others are live, a little
    /// at a time, with room for them in between.
    async fn flush_in(&mut self, mut turn: Turn) -> Result<(), End> {
        let reads = self.stream.shared.storage.reads.clone();
        while turn.is_some() && !self.out.is_empty() {
            let live = reads.are_live();
            let flush = self.flush_first(if live { limits::REPLAY_PIECE } else { usize::MAX });
            tokio::pin!(flush);
            tokio::select! {
                biased;
                flushed = &mut flush => flushed?,
                () = sleep(limits::REPLAY_TURN) => {
                    turn = None;
                    flush.await?;
                }
            }
            if live {
                sleep(limits::REPLAY_PAUSE).await;
            }
        }
        drop(turn);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), End> {
        self.flush_first(usize::MAX).await
    }

    async fn flush_first(&mut self, most: usize) -> Result<(), End> {
        if self.out.is_empty() {
            // It may have passed what is not for it.
            self.topic.went(&self.following, self.cursor, 0);
            return Ok(());
        }
        let stall = self.stream.shared.limits().stall;
        let mut frames = self.out.take_first(most);
        let bytes = frames.iter().map(bytes::Bytes::len).sum();
        self.stream.writer.send_all_within(&mut frames, stall).await?;
        self.topic.went(&self.following, self.cursor, bytes);
        Ok(())
    }
}

/// The next sign of life; those missed are not missed by anyone.
async fn next_sign(beacons: &mut broadcast::Receiver<Sign>) -> Result<Sign, End> {
    loop {
        match beacons.recv().await {
            Ok(sign) => return Ok(sign),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => {
                return Err(going_away(limits::READ_ONLY_RETRY_MS).into());
            }
        }
    }
}
