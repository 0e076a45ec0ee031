//! A watch: what publishers and admins follow. Everything on it stands on disk already.

use std::sync::Arc;

use sealcast_proto::frame::{Reply, Start};
use sealcast_proto::object::Prekey;
use sealcast_proto::roster::{Op, Role, decode_ops};
use sealcast_proto::{MemberIndex, Offset, PublicKey, RosterSeq, Signed, TopicId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::{End, Stream};
use crate::handle::{Message, Opened, Topic, WatchEvent};
use crate::limits;
use crate::load;
use crate::lookup;
use crate::outgoing::Outgoing;
use crate::shared::going_away;
use crate::store::{Log, LogError};
use crate::topic::RosterItem;

pub(super) async fn run(stream: &mut Stream, id: TopicId, held: RosterSeq) -> Result<(), End> {
    let (topic, opened) = stream.shared.enter_if(stream.peer, &id, is_officer).await?;
    let start = Start {
        genesis: topic.origin().signed.clone(),
        start_offset: topic.head(),
        next_offset: topic.head(),
        roster_seq: topic.roster_head(),
        level: opened.level,
    };
    stream.reply(&Reply::Start(start)).await?;
    let mut watch = Watch { stream, topic, held, from: Offset(0) };
    loop {
        // First it listens, then it reads: what happens in between comes twice, and is told by its offset.
        let events = watch.topic.events();
        watch.from = watch.topic.head();
        watch.catch_up().await?;
        match watch.follow(events).await? {
            Next::Removed => return Ok(()),
            Next::Again => {}
        }
    }
}

fn is_officer(opened: &Opened) -> bool {
    opened.standing.role.is_some_and(|role| role >= Role::Publisher)
}

enum Next {
    /// It is no officer any more.
    Removed,
    /// It fell behind, or was not told everything: what it missed is read from the log.
    Again,
}

struct Watch<'a> {
    stream: &'a mut Stream,
    topic: Arc<Topic>,
    /// The newest entry sent.
    held: RosterSeq,
    /// What stands below was sent from the log.
    from: Offset,
}

impl Watch<'_> {
    /// Everything as of now: entries, head, prekeys, where every publisher stands.
    async fn catch_up(&mut self) -> Result<(), End> {
        let from = self.from;
        let holding = self.stream.holding.clone();
        let _place = holding.place(true).await;
        self.topic.stored_up_to(from, self.stream.shared.limits().next_frame).await;
        self.rosters().await?;
        let id = self.topic.id();
        // What was told before this listened: an edge's view has it only a moment after the cluster.
        let head = self.topic.newest_head().clone();
        if let Some(head) = head {
            self.send(&Reply::Head(head)).await?;
        }
        self.prekeys().await?;
        let contexts = self.read(move |log| lookup::contexts(log, id, from, &[])).await?;
        let mut out = Outgoing::default();
        for context in contexts {
            out.reply(&Reply::Context(context));
        }
        out.reply(&Reply::AtHead { next_offset: from, end_of_stream: false });
        self.write(&mut out).await
    }

    async fn rosters(&mut self) -> Result<(), End> {
        let (id, through) = (self.topic.id(), self.topic.roster_before(self.from));
        loop {
            let from = RosterSeq(self.held.0.saturating_add(1));
            let entries = self
                .read(move |log| lookup::rosters(log, id, from, through, limits::ROSTER_READ_BYTES))
                .await?;
            if entries.is_empty() {
                return Ok(());
            }
            let mut out = Outgoing::default();
            for item in entries {
                self.held = item.seq;
                out.reply(&Reply::Roster(item.delivery(true)));
            }
            self.write(&mut out).await?;
        }
    }

    async fn prekeys(&mut self) -> Result<(), End> {
        let mut after: Option<MemberIndex> = None;
        loop {
            let members = self.topic.ask(|reply| Message::Members { after, reply }).await?;
            let Some((last, _)) = members.last() else { return Ok(()) };
            after = Some(*last);
            self.prekeys_of(members.into_iter().map(|(_, identity)| identity).collect()).await?;
        }
    }

    async fn prekeys_of(&mut self, owners: Vec<PublicKey>) -> Result<(), End> {
        let prekeys = self.read(move |log| {
            let kept = owners.iter().map(|owner| log.prekey(owner));
            kept.filter_map(Result::transpose)
                .map(|kept| load::kept(&kept?))
                .collect::<Result<Vec<Signed<Prekey>>, _>>()
        });
        let mut out = Outgoing::default();
        for prekey in prekeys.await? {
            out.reply(&Reply::Prekey(prekey));
        }
        self.write(&mut out).await
    }

    /// Everything as it comes.
    async fn follow(&mut self, mut events: broadcast::Receiver<WatchEvent>) -> Result<Next, End> {
        let mut beacons = self.topic.beacons();
        let stopped = self.stream.writer.stopped();
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => {
                        if let Some(next) = self.event(event).await? {
                            return Ok(next);
                        }
                    }
                    Err(RecvError::Lagged(_)) => return Ok(Next::Again),
                    Err(RecvError::Closed) => return Err(going_away(limits::READ_ONLY_RETRY_MS).into()),
                },
                beacon = beacons.recv() => {
                    // Those missed are not missed by anyone.
                    if let Ok(sign) = beacon {
                        self.send(&Reply::Beacon(sign.publisher, sign.beacon)).await?;
                    }
                }
                ended = &mut stopped => {
                    ended?;
                    return Ok(Next::Removed);
                }
            }
        }
    }

    async fn event(&mut self, event: WatchEvent) -> Result<Option<Next>, End> {
        match event {
            WatchEvent::Roster(item) => return self.entry(&item).await,
            WatchEvent::Again => return Ok(Some(Next::Again)),
            WatchEvent::Epoch(offset, item) if offset >= self.from => {
                self.send(&Reply::Epoch(item.delivery(offset))).await?;
            }
            WatchEvent::End(offset, context) if offset >= self.from => {
                self.send(&Reply::Context(*context)).await?;
            }
            WatchEvent::Epoch(..) | WatchEvent::End(..) => {}
            WatchEvent::Head(head) => self.send(&Reply::Head((*head).clone())).await?,
            WatchEvent::Prekey(prekey) => self.send(&Reply::Prekey((*prekey).clone())).await?,
        }
        Ok(None)
    }

    async fn entry(&mut self, item: &RosterItem) -> Result<Option<Next>, End> {
        if item.seq <= self.held {
            return Ok(None);
        }
        self.held = item.seq;
        self.send(&Reply::Roster(item.delivery(true))).await?;
        // A newcomer may have a prekey already: of another topic, or of its time here before.
        let ops = decode_ops(&item.ops).unwrap_or_default();
        let added: Vec<PublicKey> = ops
            .iter()
            .filter_map(|op| if let Op::Add { identity, .. } = op { Some(*identity) } else { None })
            .collect();
        if !added.is_empty() {
            self.prekeys_of(added).await?;
        }
        if item.touches_access() {
            let opened = self.topic.open(self.stream.peer).await?;
            if !opened.is_some_and(|opened| is_officer(&opened)) {
                return Ok(Some(Next::Removed));
            }
        }
        Ok(None)
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Log) -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, End> {
        Ok(self.stream.shared.storage.reads.run(read).await?)
    }

    async fn send(&mut self, reply: &Reply) -> Result<(), End> {
        Ok(self.stream.reply(reply).await?)
    }

    async fn write(&mut self, out: &mut Outgoing) -> Result<(), End> {
        if out.is_empty() {
            return Ok(());
        }
        let stall = self.stream.shared.limits().stall;
        Ok(self.stream.writer.send_all_within(&mut out.take(), stall).await?)
    }
}
