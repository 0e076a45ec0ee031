//! The subscriber's machine behind a broker that does what the fuzzer wants with an honest log.
//!
//! The broker may leave out, repeat, reorder and change whatever it delivers, answer fetches falsely, break off, and begin
//! again; it cannot sign. The reader takes, saves and restarts. What must hold: every message is one that its publisher
//! sealed under that number; nobody is accused of a fork; numbers rise; between two of a publisher's messages nothing is missing without an event of
//! that publisher; what was taken and saved does not come again; after the end nothing comes; a saved cursor can be read.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealcast_envelope::{PrekeyRing, WrapSecret};
use sealcast_proto::frame::{EpochDelivery, From as Begin, HoleReason, Reply};
use sealcast_proto::object::EpochHeader;
use sealcast_proto::slot::Slot;
use sealcast_proto::{Offset, PublicKey, Seq, Signed};
use sealcast_subscriber::internals::{Cursor, Effects, Inbox, Input, Need};
use sealcast_subscriber::{Event, Item};

use crate::log::{LOG, READER};
use crate::steps::Steps;
use crate::{Reached, Target, valid};

/// See the module's page. A byte can be a whole subscription, served from the beginning.
pub const TARGET: Target = Target { name: "inbox", run, stages: STAGES, heap: (4 << 20, 64 << 10), seeds };

const STAGES: &[&str] = &[
    "message",
    "gap",
    "locked",
    "stalled",
    "ended",
    "truncated",
    "broken off",
    "end",
    "rollback",
    "restarted",
    "fetch",
    "at head",
    "broker",
];

/// Operations in a run.
const MOST: usize = 96;

struct World {
    inbox: Inbox,
    now: u64,
    /// What the broker has yet to deliver of its present stream.
    stream: Vec<Reply>,
    head: usize,
    /// Handed out by this inbox, and how many of it were taken.
    handed: u64,
    taken: u64,
    /// Each message handed out by this inbox: when, and its name.
    given: Vec<(u64, PublicKey, Seq)>,
    /// A message of this number or a later one is due; and whether a hole was named since the last.
    due: BTreeMap<PublicKey, Seq>,
    named: BTreeMap<PublicKey, bool>,
    ended: bool,
    tags: bool,
}

fn run(input: &[u8], reached: &mut Reached) {
    let mut steps = Steps::new(input);
    let setting = steps.byte();
    let from = [Begin::Earliest, Begin::Latest, Begin::Offset(Offset(9))][usize::from(setting % 3)];
    let mut world = World {
        inbox: inbox(Cursor::new(valid::genesis().2), from, setting & 8 != 0),
        now: valid::NOW + 100,
        stream: Vec::new(),
        head: LOG.len(),
        handed: 0,
        taken: 0,
        given: Vec::new(),
        due: BTreeMap::new(),
        named: BTreeMap::new(),
        ended: false,
        tags: setting & 16 != 0,
    };
    let mut done = 0;
    while let Some(step) = steps.next(done, MOST) {
        world.step(step, from, setting & 8 != 0, &mut steps, reached);
        done += 1;
    }
}

fn inbox(cursor: Cursor, from: Begin, until_head: bool) -> Inbox {
    let member = valid::identity(READER);
    let secret = WrapSecret::of_identity(&member);
    let ring = PrekeyRing::decode(&LOG.ring).expect("its own ring");
    Inbox::new(member.public(), secret, ring, cursor, from, until_head)
}

impl World {
    fn step(
        &mut self,
        step: u8,
        from: Begin,
        until_head: bool,
        steps: &mut Steps<'_>,
        reached: &mut Reached,
    ) {
        match step % 24 {
            // The broker as it should be.
            0..2 => self.connect(reached),
            2..6 => self.deliver(1 + usize::from(steps.below(8)), steps, reached),
            6 => self.deliver(usize::MAX, steps, reached),
            // And as it should not.
            7 => {
                let at = usize::from(steps.byte()) % self.stream.len().max(1);
                if at < self.stream.len() {
                    self.stream.remove(at);
                }
            }
            8 => {
                let at = usize::from(steps.byte()) % LOG.len();
                if let Some(reply) = LOG.record(at, steps.rarely(2)) {
                    self.reply(reply, steps, reached);
                }
            }
            9 => {
                let (at, to) = (usize::from(steps.byte()), usize::from(steps.byte()));
                let len = self.stream.len();
                if len > 0 {
                    self.stream.swap(at % len, to % len);
                }
            }
            10..12 => {
                if let Some(reply) = self.stream.first().and_then(|reply| changed(reply, steps)) {
                    self.reply(reply, steps, reached);
                }
            }
            12 => self.head = usize::from(steps.byte()) % (LOG.len() + 1),
            13 => {
                let offset = |byte: u8| Offset(u64::from(byte) % 40);
                let why = if steps.rarely(2) { HoleReason::Corruption } else { HoleReason::Retention };
                let hole = Reply::Hole(offset(steps.byte()), offset(steps.byte()), why);
                self.reply(hole, steps, reached);
            }
            14 => {
                let next_offset = Offset(steps.byte().into());
                self.reply(Reply::AtHead { next_offset, end_of_stream: steps.rarely(4) }, steps, reached);
            }
            15..17 => {
                let Some((publisher, beacon)) = steps.pick(&LOG.beacons) else { return };
                self.reply(Reply::Beacon(*publisher, beacon.clone()), steps, reached);
            }
            17 => self.put(Input::Lost, steps, reached),
            18 => {
                let input = [Input::Finished, Input::Garbage("x".into()), Input::Paused, Input::Resumed];
                let at = usize::from(steps.below(4));
                let input = input.into_iter().nth(at).unwrap_or(Input::Lost);
                self.put(input, steps, reached);
            }
            // Time, and the reader.
            19..21 => {
                self.now += 1 << steps.below(16);
                self.put(Input::Tick, steps, reached);
            }
            21 => self.take(u64::from(steps.byte())),
            22 => {
                self.take(u64::from(steps.below(4)));
                self.restart(from, until_head, reached);
            }
            _ => {
                let ring = if steps.rarely(2) { PrekeyRing::new() } else { ring() };
                self.put(Input::Prekeys(ring), steps, reached);
            }
        }
    }

    fn connect(&mut self, reached: &mut Reached) {
        if !self.stream.is_empty() {
            reached.mark("broken off");
        }
        let mut effects = Effects::default();
        self.inbox.handle(Input::Lost, self.now, &mut effects);
        self.effects(effects, reached);
        self.stream = LOG.serve(&self.inbox.subscribe(), self.head);
    }

    fn deliver(&mut self, most: usize, steps: &mut Steps<'_>, reached: &mut Reached) {
        for reply in self.stream.drain(..most.min(self.stream.len())).collect::<Vec<_>>() {
            self.reply(reply, steps, reached);
        }
        if self.inbox.is_at_head() {
            reached.mark("at head");
        }
    }

    fn reply(&mut self, reply: Reply, steps: &mut Steps<'_>, reached: &mut Reached) {
        self.put(Input::Reply(reply), steps, reached);
    }

    fn put(&mut self, input: Input, steps: &mut Steps<'_>, reached: &mut Reached) {
        let mut input = Some(input);
        // A machine that asks again and again would never go on.
        for _ in 0..64 {
            let Some(next) = input.take() else { return };
            let mut effects = Effects::default();
            self.inbox.handle(next, self.now, &mut effects);
            input = match effects.need {
                None => None,
                Some(Need::Prekeys) => Some(Input::Prekeys(ring())),
                Some(Need::Epochs(publisher, epoch)) => {
                    reached.mark("fetch");
                    let mut epochs = LOG.epochs(&publisher, epoch);
                    match steps.byte() {
                        1 => epochs.clear(),
                        2 => drop(epochs.pop()),
                        3 => epochs.reverse(),
                        4 => epochs.iter_mut().for_each(|epoch| epoch.slot = None),
                        5 => epochs.iter_mut().for_each(|epoch| *epoch = other(epoch, steps)),
                        _ => {}
                    }
                    Some(Input::Epochs(epochs))
                }
            };
            self.effects(effects, reached);
        }
        panic!("it never has enough");
    }

    fn effects(&mut self, effects: Effects, reached: &mut Reached) {
        assert!(!self.ended || effects.items.is_empty(), "something after the end");
        let count = effects.items.len();
        for (n, item) in effects.items.into_iter().enumerate() {
            self.handed += 1;
            let last = n + 1 == count;
            self.item(item, last && effects.end, reached);
        }
        if effects.end {
            self.ended = true;
            reached.mark("end");
        }
    }

    fn item(&mut self, item: Item, last: bool, reached: &mut Reached) {
        let received = match item {
            Ok(received) => received,
            Err(event) => return self.event(&event, last, reached),
        };
        reached.mark("message");
        let (publisher, seq) = (received.publisher, received.seq);
        assert_eq!(LOG.said.get(&(publisher, seq)), Some(&received.message), "not what was sealed");
        if let Some(due) = self.due.get(&publisher) {
            assert!(seq >= *due, "{seq} came where {due} was due");
            let named = self.named.get(&publisher).copied().unwrap_or_default();
            assert!(seq == *due || named, "{due} to {seq} are missing without a word");
        }
        self.due.insert(publisher, Seq(seq.0 + 1));
        self.named.insert(publisher, false);
        self.given.push((self.handed, publisher, seq));
    }

    fn event(&mut self, event: &Event, last: bool, reached: &mut Reached) {
        assert!(!event.to_string().is_empty());
        assert!(!event.is_terminal() || last, "{event} is terminal, and more came");
        match event {
            Event::Gap { publisher, from, to, .. } => {
                reached.mark("gap");
                assert!(to.is_none_or(|to| to >= *from));
                self.named.insert(*publisher, true);
            }
            Event::Locked { publisher, from, to } => {
                reached.mark("locked");
                assert!(to.is_none_or(|to| to >= *from));
                self.named.insert(*publisher, true);
            }
            // Nothing of this log is badly sealed, and nobody else uses the identity.
            Event::BadBatch { .. } => panic!("{event}"),
            Event::Stalled { .. } => reached.mark("stalled"),
            Event::Ended { .. } => reached.mark("ended"),
            Event::Truncated { .. } => reached.mark("truncated"),
            Event::Fork { proof, .. } => panic!("nobody signed twice, but {event}: {proof:?}"),
            Event::Rollback { .. } => reached.mark("rollback"),
            Event::Broker { .. } => reached.mark("broker"),
            Event::Removed => panic!("the reader is a member"),
            _ => {}
        }
    }

    fn take(&mut self, items: u64) {
        self.taken = (self.taken + items).min(self.handed);
        self.inbox.ledger().settle(self.taken);
        if self.tags {
            self.inbox.ledger().tag(Bytes::from_static(b"tag"), self.taken);
        }
    }

    /// The process ends and begins anew with what it saved.
    fn restart(&mut self, from: Begin, until_head: bool, reached: &mut Reached) {
        let saved = self.inbox.ledger().cursor().encode();
        let cursor = Cursor::decode(&saved, &valid::genesis().2).expect("its own bytes");
        let resumed = cursor.next_offset.is_some();
        self.inbox = inbox(cursor, from, until_head);
        self.stream.clear();
        self.due.clear();
        self.named.clear();
        for (at, publisher, seq) in std::mem::take(&mut self.given) {
            if resumed && at <= self.taken {
                self.due.insert(publisher, Seq(seq.0 + 1));
                // Between what was taken and what comes next there may have been events that were taken too.
                self.named.insert(publisher, true);
            }
        }
        (self.handed, self.taken, self.ended) = (0, 0, false);
        reached.mark("restarted");
    }
}

fn ring() -> PrekeyRing {
    PrekeyRing::decode(&LOG.ring).expect("its own ring")
}

/// The same with one byte changed, as it travels; `None` where nothing can be read then.
fn changed(reply: &Reply, steps: &mut Steps<'_>) -> Option<Reply> {
    use sealcast_proto::frame::{FRAME_HEADER, FrameKind};
    let mut frame = reply.encode().to_vec();
    let (kind, _) = FrameKind::parse(*frame.first_chunk::<FRAME_HEADER>()?).ok()?;
    let place = usize::from(u16::from_be_bytes([steps.byte(), steps.byte()]));
    let len = frame.len() - FRAME_HEADER;
    let byte = frame.get_mut(FRAME_HEADER + place % len.max(1))?;
    *byte ^= 1 << steps.below(8);
    Reply::decode(kind, Bytes::from(frame).slice(FRAME_HEADER..)).ok()
}

/// Another slot, or a header that is not signed.
fn other(epoch: &EpochDelivery, steps: &mut Steps<'_>) -> EpochDelivery {
    let mut epoch = epoch.clone();
    if steps.rarely(2) {
        let body = epoch.header.body().clone();
        let header: Signed<EpochHeader> = Signed::from_parts(body, &[7; 64]).expect("as long as before");
        epoch.header = header;
    } else if let Some(slot) = &mut epoch.slot {
        *slot = Slot { ct: [steps.byte(); 48], ..*slot };
    }
    epoch
}

fn seeds() -> Vec<Vec<u8>> {
    let all = [0, 6];
    vec![
        [&[0][..], &all, &[15, 20, 19, 15, 19, 15, 19, 15]].concat(),
        [&[8][..], &all].concat(),
        [&[16][..], &[0, 5, 7, 21, 200, 22, 0], &all, &[21, 255, 22, 3], &all].concat(),
        // A middle left out.
        [&[0][..], &[0, 7, 5, 7, 5, 7, 5, 6]].concat(),
        [&[0][..], &[0, 5, 7, 8, 20, 10, 0, 40, 1, 10, 1, 3, 2, 0, 6]].concat(),
        [&[1][..], &all, &[16, 30, 16, 31, 19, 15, 8, 3, 8, 30]].concat(),
        [&[2][..], &all, &[12, 5], &all].concat(),
        [&[0][..], &[2, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 8, 0, 18, 1, 18, 1]].concat(),
    ]
}
