//! A subscription at the broker: the broker's own reading of the log, in the order in which its session does it.

use std::collections::VecDeque;

use sealcast_broker::internals::{Outgoing, Stop, Viewer, contexts, deliver_from_log, first_entry, rosters};
use sealcast_broker::store::Log;
use sealcast_proto::frame::{
    Code, FRAME_HEADER, FrameKind, From as Begin, HoleReason, Refusal, Reply, Start, Subscribe,
};
use sealcast_proto::object::{Beacon, RosterHead};
use sealcast_proto::{Offset, PublicKey, RosterSeq, Signed};

use crate::broker::Broker;

/// Bytes of roster entries read at once.
const ROSTER_BYTES: usize = 1 << 20;
/// Beacons that wait for a reader to be at the head, a count.
const BEACONS: usize = 8;

/// See the module.
pub(crate) struct Reader {
    peer: PublicKey,
    viewer: Viewer,
    pub(crate) cursor: Offset,
    until: Option<Offset>,
    behind: bool,
    told: Option<Signed<RosterHead>>,
    pub(crate) beacons: VecDeque<(PublicKey, Signed<Beacon>)>,
    pub(crate) ended: bool,
}

impl Reader {
    /// Begins one; what is sent at once.
    pub(crate) fn begin(
        broker: &Broker,
        peer: PublicKey,
        wish: &Subscribe,
    ) -> Result<(Self, Vec<Reply>), Refusal> {
        let standing = broker.machine.standing(&peer);
        let standing =
            standing.ok_or_else(|| Refusal::new(Code::NotAllowed, "no such topic, or no member"))?;
        let (head, id, log) = (broker.machine.visible(), broker.origin.id, &broker.disk.log);
        let end = standing.removed.map_or(head, |(_, offset)| offset.min(head));
        let first = log.bounds(&id).expect("bounds").first;
        let start = match wish.from {
            Begin::Earliest => first,
            Begin::Latest => end,
            Begin::Offset(offset) => offset,
            Begin::Time(ms) => log.seek_time(&id, ms).expect("seek"),
        };
        let (first, start) = (first.min(end), start.min(end));
        let mut reader = Self {
            peer,
            viewer: Viewer::new(standing),
            cursor: start.max(first),
            until: wish.until_head.then_some(head),
            behind: true,
            told: None,
            beacons: VecDeque::new(),
            ended: false,
        };
        let mut out = vec![Reply::Start(Start {
            genesis: broker.origin.signed.clone(),
            start_offset: reader.cursor,
            next_offset: head,
            roster_seq: broker.index.head(),
            level: broker.machine.level(),
        })];
        reader.opening(broker, wish.roster_seq, &mut out);
        reader.head(broker, &mut out);
        let shown = contexts(log, id, reader.cursor, reader.viewer.indexes()).expect("contexts");
        out.extend(shown.into_iter().map(Reply::Context));
        if start < first {
            out.push(Reply::Hole(start, reader.cursor, HoleReason::Retention));
        }
        Ok((reader, out))
    }

    fn opening(&self, broker: &Broker, held: Option<RosterSeq>, out: &mut Vec<Reply>) {
        let (log, origin) = (&broker.disk.log, &broker.origin);
        let by_owner = broker.head.as_ref().and_then(|head| head.peek().ok());
        let by_owner = by_owner.filter(|head| head.signer == origin.genesis.owner).map(|head| head.seq);
        let opening = broker.index.opening(self.cursor, held, by_owner);
        if opening.by_head {
            out.extend(broker.head.clone().map(Reply::Head));
        }
        let mut from = opening.from;
        if from > opening.through {
            return;
        }
        let ops = self.viewer.gets_ops(from);
        if let Some(first) = first_entry(log, origin, opening, ops).expect("the first entry") {
            out.push(Reply::Roster(first));
            from = RosterSeq(from.0 + 1);
        }
        let entries = rosters(log, origin.id, from, opening.through, ROSTER_BYTES).expect("entries");
        out.extend(entries.iter().map(|item| Reply::Roster(item.delivery(self.viewer.gets_ops(item.seq)))));
    }

    /// The head that is to be told now: not told yet, and of the newest entry delivered.
    fn news<'a>(&self, broker: &'a Broker) -> Option<&'a Signed<RosterHead>> {
        let head = broker.head.as_ref().filter(|head| self.told.as_ref() != Some(head))?;
        let named = head.peek().ok()?;
        (broker.index.before(self.cursor) == named.seq).then_some(head)
    }

    fn head(&mut self, broker: &Broker, out: &mut Vec<Reply>) {
        if let Some(head) = self.news(broker).cloned() {
            out.push(Reply::Head(head.clone()));
            self.told = Some(head);
        }
    }

    /// A beacon that is to be relayed once the reader is at the head.
    pub(crate) fn beacon(&mut self, publisher: PublicKey, beacon: &Signed<Beacon>) {
        if !self.behind {
            self.beacons.push_back((publisher, beacon.clone()));
            if self.beacons.len() > BEACONS {
                self.beacons.pop_front();
            }
        }
    }

    /// Whether [`Reader::step`] has something to send.
    pub(crate) fn has_work(&self, broker: &Broker) -> bool {
        !self.ended
            && (self.cursor < broker.machine.visible()
                || self.behind
                || !self.beacons.is_empty()
                || self.news(broker).is_some())
    }

    /// What is sent next, up to `most` records.
    pub(crate) fn step(&mut self, broker: &Broker, most: usize) -> Vec<Reply> {
        let mut out = Vec::new();
        self.head(broker, &mut out);
        let head = broker.machine.visible();
        if self.cursor < head {
            // Offsets may be far apart: after a restart of a `memory` topic's broker.
            let stored = broker.disk.log.read(&broker.origin.id, self.cursor, usize::MAX).expect("records");
            let last = stored.get(most).map_or(head, |stored| stored.offset);
            let end = last.min(head);
            out.extend(self.records(broker, end));
            return out;
        }
        if let Some(until) = self.until.filter(|until| self.cursor >= *until) {
            out.push(Reply::AtHead { next_offset: self.cursor.max(until), end_of_stream: true });
            self.ended = true;
            return out;
        }
        if self.behind {
            self.behind = false;
            out.push(Reply::AtHead { next_offset: self.cursor, end_of_stream: false });
            self.beacons.clear();
        }
        out.extend(self.beacons.drain(..).map(|(publisher, beacon)| Reply::Beacon(publisher, beacon)));
        out
    }

    fn records(&mut self, broker: &Broker, end: Offset) -> Vec<Reply> {
        let mut out = Outgoing::default();
        let (log, id) = (&broker.disk.log, broker.origin.id);
        let stop = deliver_from_log(log, id, end, &self.viewer, &mut self.cursor, &mut out);
        let replies = decoded(&mut out);
        match stop.expect("the log is whole") {
            Stop::Through => {}
            Stop::Removed => self.ended = true,
            Stop::Ask => match broker.machine.standing(&self.peer) {
                Some(standing) => self.viewer = Viewer::new(standing),
                None => self.ended = true,
            },
        }
        replies
    }
}

/// Frames as a subscriber reads them off the wire.
fn decoded(out: &mut Outgoing) -> Vec<Reply> {
    let mut replies = Vec::new();
    for mut piece in out.take() {
        while !piece.is_empty() {
            let header = *piece.first_chunk::<FRAME_HEADER>().expect("whole frames");
            let (kind, len) = FrameKind::parse(header).expect("a frame's header");
            let mut frame = piece.split_to(FRAME_HEADER + len);
            let payload = frame.split_off(FRAME_HEADER);
            replies.push(Reply::decode(kind, payload).expect("the broker's own frames"));
        }
    }
    replies
}
