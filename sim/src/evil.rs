//! A malicious broker: what it does to what it delivers. It has no keys but its own; everything else it may do.

use bytes::{Bytes, BytesMut};
use rand::RngExt as _;
use rand::rngs::StdRng;
use sealcast_proto::frame::{Ack, Code, EpochDelivery, HoleReason, Level, Refusal, Reply};
use sealcast_proto::{BatchNo, Epoch, Offset, RosterSeq};

use crate::subscriber::described;
use crate::world::World;

/// What it has sent to anybody, to be sent again, a count.
const MEMORY: usize = 96;

/// How it is malicious.
pub(crate) struct Evil {
    /// How often it tampers with something, of a thousand.
    per_mille: u32,
    /// What it can do, each or not.
    kinds: Vec<Kind>,
    said: Vec<Reply>,
    /// Subscribers that it keeps in the dark.
    pub(crate) dark: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Drop,
    Repeat,
    Replay,
    Swap,
    Flip,
    EndStream,
    FalseHead,
    FalseStart,
    FalseHole,
    StripLists,
    OthersSlot,
    OldContext,
    FalseAnswer,
    LoseAnswer,
    Refuse,
}

const KINDS: [Kind; 15] = [
    Kind::Drop,
    Kind::Repeat,
    Kind::Replay,
    Kind::Swap,
    Kind::Flip,
    Kind::EndStream,
    Kind::FalseHead,
    Kind::FalseStart,
    Kind::FalseHole,
    Kind::StripLists,
    Kind::OthersSlot,
    Kind::OldContext,
    Kind::FalseAnswer,
    Kind::LoseAnswer,
    Kind::Refuse,
];

impl Evil {
    /// One that can do some of it.
    pub(crate) fn drawn(rng: &mut StdRng) -> Self {
        let share = rng.random_range(0.15..1.0);
        let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| rng.random_bool(share)).collect();
        Self {
            per_mille: [10, 30, 100, 250][rng.random_range(0..4)],
            kinds,
            said: Vec::new(),
            dark: Vec::new(),
        }
    }
}

impl World {
    /// What it does now, if anything.
    fn mischief(&mut self) -> Option<Kind> {
        let evil = self.evil.as_ref()?;
        if evil.kinds.is_empty() || self.rng.random_range(0..1000) >= evil.per_mille {
            return None;
        }
        let kind = evil.kinds[self.rng.random_range(0..evil.kinds.len())];
        self.tally.tampered += 1;
        Some(kind)
    }

    fn remember(&mut self, reply: &Reply) {
        let Some(evil) = &mut self.evil else { return };
        if evil.said.len() >= MEMORY {
            evil.said.remove(0);
        }
        evil.said.push(reply.clone());
    }

    fn remembered(&mut self) -> Option<Reply> {
        let said = &self.evil.as_ref()?.said;
        (!said.is_empty()).then(|| said[self.rng.random_range(0..said.len())].clone())
    }

    /// What a subscriber is sent instead of what it should be.
    pub(crate) fn tamper(&mut self, s: usize, replies: Vec<Reply>) -> Vec<Option<Reply>> {
        if self.evil.as_ref().is_some_and(|evil| evil.dark.contains(&s)) {
            return Vec::new();
        }
        let mut out: Vec<Option<Reply>> = Vec::new();
        for reply in replies {
            self.remember(&reply);
            let Some(kind) = self.mischief() else {
                out.push(Some(reply));
                continue;
            };
            self.say(|| format!("broker    does {kind:?} to s{s}'s {}", described(&reply)));
            match kind {
                Kind::Drop => {}
                Kind::Repeat => out.extend([Some(reply.clone()), Some(reply)]),
                Kind::Replay => {
                    let other = self.remembered();
                    out.extend(other.map(Some));
                    out.push(Some(reply));
                }
                Kind::Swap => {
                    let at = out.len().saturating_sub(1);
                    out.insert(at, Some(reply));
                }
                Kind::EndStream => {
                    out.extend([Some(reply), None]);
                    return out;
                }
                Kind::FalseHead => {
                    let next_offset = Offset(self.rng.random_range(0..60));
                    let end_of_stream = self.rng.random_bool(0.2);
                    out.extend([Some(reply), Some(Reply::AtHead { next_offset, end_of_stream })]);
                }
                Kind::FalseHole => {
                    let (from, to) = (self.rng.random_range(0..60), self.rng.random_range(0..60));
                    let why = [HoleReason::Retention, HoleReason::Corruption][self.rng.random_range(0..2)];
                    out.extend([Some(Reply::Hole(Offset(from), Offset(to), why)), Some(reply)]);
                }
                _ => out.push(Some(self.spoil(kind, reply))),
            }
        }
        out
    }

    /// Changes one frame.
    fn spoil(&mut self, kind: Kind, reply: Reply) -> Reply {
        match (kind, reply) {
            (Kind::Flip, Reply::Record(offset, bytes)) => Reply::Record(offset, self.flipped(&bytes)),
            (Kind::Flip, Reply::Epoch(mut delivery)) => {
                if let Some(slot) = &mut delivery.slot {
                    slot.ct[self.rng.random_range(0..48)] ^= 1;
                }
                Reply::Epoch(delivery)
            }
            (Kind::FalseStart, Reply::Start(mut start)) => {
                let moved = |rng: &mut StdRng, n: u64| (n + rng.random_range(0..9)).saturating_sub(4);
                start.start_offset = Offset(moved(&mut self.rng, start.start_offset.0));
                start.next_offset = Offset(moved(&mut self.rng, start.next_offset.0));
                start.roster_seq = RosterSeq(moved(&mut self.rng, start.roster_seq.0));
                Reply::Start(start)
            }
            (Kind::StripLists, Reply::Roster(mut delivery)) => {
                match self.rng.random_range(0..3) {
                    0 => delivery.roles = None,
                    1 => delivery.policy = None,
                    _ => delivery.ops = None,
                }
                Reply::Roster(delivery)
            }
            (Kind::OthersSlot, Reply::Epoch(mut delivery)) => {
                if let Some(Reply::Epoch(other)) = self.remembered() {
                    delivery.slot = other.slot;
                }
                Reply::Epoch(delivery)
            }
            (Kind::OldContext, Reply::Context(context)) => match self.remembered() {
                Some(Reply::Context(other)) => Reply::Context(other),
                _ => Reply::Context(context),
            },
            (_, reply) => reply,
        }
    }

    fn flipped(&mut self, bytes: &Bytes) -> Bytes {
        let mut bytes = BytesMut::from(&bytes[..]);
        let at = self.rng.random_range(0..bytes.len().max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1 << self.rng.random_range(0..8);
        }
        bytes.freeze()
    }

    /// What a publisher's watch says instead.
    pub(crate) fn tamper_watch(&mut self, news: Vec<Option<Reply>>) -> Vec<Option<Reply>> {
        let mut out = Vec::new();
        for reply in news {
            let kind = self.mischief();
            if let Some(reply) = &reply {
                self.remember(reply);
            }
            match (kind, reply) {
                (Some(Kind::Drop), _) => {}
                (Some(Kind::Repeat), Some(reply)) => out.extend([Some(reply.clone()), Some(reply)]),
                (Some(Kind::Replay | Kind::OldContext), Some(reply)) => {
                    out.extend(self.remembered().map(Some));
                    out.push(Some(reply));
                }
                (Some(Kind::EndStream), reply) => {
                    out.extend([reply, None]);
                    return out;
                }
                (Some(kind), Some(reply)) => out.push(Some(self.spoil(kind, reply))),
                (_, reply) => out.push(reply),
            }
        }
        out
    }

    /// What a publisher is answered instead.
    pub(crate) fn tamper_answer(&mut self, reply: Reply) -> Option<Reply> {
        let record = match &reply {
            Reply::Ack(ack) => Some((ack.epoch, ack.batch_no)),
            Reply::Refused(refusal) => refusal.record,
            _ => None,
        };
        Some(match self.mischief() {
            Some(Kind::LoseAnswer | Kind::Drop) => return None,
            Some(Kind::FalseAnswer) => {
                let (epoch, batch_no) = record.unwrap_or((Epoch(1), Some(BatchNo(0))));
                let offset = Offset(self.rng.random_range(0..60));
                Reply::Ack(Ack { epoch, batch_no, offset, level: Level::Durable })
            }
            Some(Kind::Refuse) => {
                let codes = [
                    Code::StaleEpoch,
                    Code::Conflict,
                    Code::OutOfOrder,
                    Code::RosterConflict,
                    Code::NoTable,
                    Code::Busy,
                    Code::Malformed,
                ];
                let code = codes[self.rng.random_range(0..codes.len())];
                let roster_seq = RosterSeq(self.rng.random_range(0..12));
                Reply::Refused(Refusal { record, roster_seq, ..Refusal::new(code, "a lie") })
            }
            _ => reply,
        })
    }

    /// What a subscriber that asks for epochs gets instead.
    pub(crate) fn tamper_epochs(&mut self, epochs: &mut Vec<EpochDelivery>) {
        match self.mischief() {
            Some(Kind::Drop) if !epochs.is_empty() => {
                let at = self.rng.random_range(0..epochs.len());
                epochs.remove(at);
            }
            Some(Kind::Swap) => epochs.reverse(),
            Some(Kind::LoseAnswer) => epochs.clear(),
            Some(Kind::Flip) => {
                if let Some(slot) = epochs.first_mut().and_then(|epoch| epoch.slot.as_mut()) {
                    slot.ct[0] ^= 1;
                }
            }
            _ => {}
        }
    }
}
