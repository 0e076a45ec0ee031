//! A publisher: an outbox, the two streams of its connection, and the marks on its disk. What its driver does, step by
//! step, each step when the world says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt as _;
use sealcast_broker::topic::{Input as TopicInput, SessionId};
use sealcast_envelope::Message;
use sealcast_proto::frame::{Code, Context, Refusal, Reply};
use sealcast_proto::{Hash, Identity, RosterSeq};
use sealcast_publisher::internals::{Effect, EpochWork, Input, Marks, Outbox};
use sealcast_publisher::{PublishError, Receipt};

use crate::broker::Keys;
use crate::oracle::{Acked, Invariant, MARK};
use crate::world::World;

/// Frames under way on a publish stream, a count: a batch is what waited meanwhile.
const UNDER_WAY: usize = 2;

/// See the module.
pub(crate) struct Publisher {
    pub(crate) who: Arc<Identity>,
    disk: Option<Vec<u8>>,
    pub(crate) run: Option<Run>,
    tokens: u64,
}

/// A process that publishes.
pub(crate) struct Run {
    pub(crate) outbox: Outbox,
    pub(crate) link: Option<Link>,
    /// No connection before, milliseconds since 1970.
    pub(crate) retry_ms: u64,
    pub(crate) building: Option<EpochWork>,
    pub(crate) upload: Option<(Bytes, u32, Hash)>,
    pub(crate) uploaded: Option<Result<(), Refusal>>,
    pub(crate) saving: Option<Marks>,
    save_next: Option<Marks>,
    /// What was sent and not acknowledged.
    waiting: BTreeMap<u64, Bytes>,
    pub(crate) closing: bool,
}

/// A connection: the publish stream and the watch.
pub(crate) struct Link {
    pub(crate) session: SessionId,
    /// Frames on their way to the broker.
    pub(crate) up: VecDeque<Bytes>,
    /// Answers on their way back; `None`: the stream ended.
    pub(crate) answers: VecDeque<Option<Reply>>,
    /// The watch; `None`: it ended.
    pub(crate) watch: VecDeque<Option<Reply>>,
    /// The newest entry sent on the watch.
    pub(crate) held: RosterSeq,
    /// The watch is not at the head yet, and the publish stream not open.
    pub(crate) opening: bool,
    own: Option<Box<Context>>,
    start_seq: RosterSeq,
    pub(crate) keys: Keys,
}

/// Frames of a connection that its publisher gave up, still on their way.
pub(crate) struct Ghost {
    pub(crate) publisher: usize,
    session: SessionId,
    up: VecDeque<Bytes>,
    keys: Keys,
}

impl Publisher {
    pub(crate) fn new(who: Arc<Identity>) -> Self {
        Self { who, disk: None, run: None, tokens: 0 }
    }

    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.run.as_mut()?.link.as_mut()
    }

    pub(crate) fn may_write(&self, now_ms: u64) -> bool {
        self.run.as_ref().is_some_and(|run| {
            let ready = run.link.as_ref().is_some_and(|link| !link.opening && link.up.len() < UNDER_WAY);
            ready && run.outbox.has_frame(now_ms)
        })
    }

    /// Messages sent and not answered.
    pub(crate) fn unanswered(&self) -> usize {
        self.run.as_ref().map_or(0, |run| run.waiting.len())
    }
}

impl World {
    /// The process starts with the marks on its disk.
    pub(crate) fn publisher_starts(&mut self, p: usize) {
        self.say(|| format!("p{p}        starts"));
        let origin = &self.broker.origin;
        let publisher = &mut self.publishers[p];
        let marks = publisher
            .disk
            .as_ref()
            .map_or_else(Marks::default, |bytes| Marks::decode(bytes).expect("it reads what it wrote"));
        let outbox = Outbox::new(Arc::clone(&publisher.who), origin.id, &origin.genesis, marks);
        publisher.run = Some(Run {
            outbox,
            link: None,
            retry_ms: 0,
            building: None,
            upload: None,
            uploaded: None,
            saving: None,
            save_next: None,
            waiting: BTreeMap::new(),
            closing: false,
        });
    }

    /// The process dies; a save under way is done, or not.
    pub(crate) fn publisher_crashes(&mut self, p: usize) {
        self.tally.publisher_crashes += 1;
        self.say(|| format!("p{p}        crashes"));
        let saved = self.rng.random_bool(0.5);
        self.publisher_cut(p);
        let publisher = &mut self.publishers[p];
        if let Some(run) = publisher.run.take()
            && let Some(marks) = run.saving.filter(|_| saved)
        {
            publisher.disk = Some(marks.encode());
        }
    }

    /// The connection breaks. Frames under way may still arrive.
    pub(crate) fn publisher_cut(&mut self, p: usize) {
        let linger = self.rng.random_bool(0.5);
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        (run.upload, run.uploaded) = (None, None);
        let Some(link) = run.link.take() else { return };
        self.tally.cuts += 1;
        self.say(|| format!("p{p}        loses its connection"));
        if !link.opening {
            if linger {
                let Link { session, up, keys, .. } = link;
                self.ghosts.push(Ghost { publisher: p, session, up, keys });
            } else {
                self.topic(TopicInput::Ended(link.session));
            }
            self.outbox(p, Input::Lost);
        }
    }

    /// One more frame of a connection that is gone, or its end.
    pub(crate) fn ghost_arrives(&mut self, at: usize) {
        let mut ghost = self.ghosts.remove(at);
        let who = self.publishers[ghost.publisher].who.public();
        match ghost.up.pop_front() {
            Some(frame) => {
                self.say(|| format!("broker    gets a frame of p{}'s lost connection", ghost.publisher));
                self.arrives(ghost.session, who, &frame, &mut ghost.keys);
                self.ghosts.push(ghost);
            }
            None => self.topic(TopicInput::Ended(ghost.session)),
        }
    }

    /// The process connects: its watch begins.
    pub(crate) fn publisher_connects(&mut self, p: usize) {
        let who = self.publishers[p].who.public();
        if !self.broker.is_officer(&who) {
            return self.publisher_fails(p, &PublishError::NotAllowed(who));
        }
        let session = self.broker.new_session();
        let Some(run) = self.publishers[p].run.as_ref() else { return };
        let from = run.outbox.roster().chain().seq();
        let (held, said) = self.broker.watch(from);
        let link = Link {
            session,
            up: VecDeque::new(),
            answers: VecDeque::new(),
            watch: VecDeque::new(),
            held,
            opening: true,
            own: None,
            start_seq: RosterSeq(0),
            keys: Keys::default(),
        };
        self.say(|| format!("p{p}        connects (stream {})", session.0));
        if let Some(run) = self.publishers[p].run.as_mut() {
            run.link = Some(link);
        }
        self.tell_watch(p, said.into_iter().map(Some).collect());
    }

    /// The watch says something.
    pub(crate) fn tell_watch(&mut self, p: usize, news: Vec<Option<Reply>>) {
        let news = if self.evil.is_some() { self.tamper_watch(news) } else { news };
        if let Some(link) = self.publishers[p].link() {
            link.watch.extend(news);
        }
    }

    /// The next frame of the watch is read.
    pub(crate) fn watch_read(&mut self, p: usize) {
        let me = self.publishers[p].who.public();
        let Some(link) = self.publishers[p].link() else { return };
        let Some(reply) = link.watch.pop_front() else { return };
        let Some(reply) = reply else { return self.publisher_cut(p) };
        if !link.opening {
            return match reply {
                Reply::Refused(refusal) => self.outbox(p, Input::Refused(refusal)),
                other => self.watched(p, other),
            };
        }
        match reply {
            Reply::Start(start) => link.start_seq = start.roster_seq,
            Reply::Context(context) => {
                if context.epoch.header.peek().is_ok_and(|header| header.publisher == me) {
                    link.own = Some(Box::new(context));
                }
            }
            Reply::AtHead { .. } => {
                let (own, roster_seq) = (link.own.take(), link.start_seq);
                self.publisher_attaches(p);
                self.outbox(p, Input::Connected { own, roster_seq });
            }
            other => self.watched(p, other),
        }
    }

    /// The publish stream opens.
    fn publisher_attaches(&mut self, p: usize) {
        let who = self.publishers[p].who.public();
        let allowed = self.broker.is_officer(&who);
        let lane = self.broker.machine.acceptor().lane(&who);
        let newest = lane.map(|lane| (lane.header().epoch, lane.header_hash(), lane.header().epoch_vk));
        let Some(link) = self.publishers[p].link() else { return };
        link.opening = false;
        if let Some((epoch, hash, vk)) = newest {
            link.keys.add(epoch, hash, vk);
        }
        if !allowed {
            link.answers.push_back(Some(Reply::Refused(Refusal::new(Code::NotAllowed, "no publisher"))));
            link.answers.push_back(None);
        }
    }

    fn watched(&mut self, p: usize, reply: Reply) {
        match reply {
            Reply::Roster(delivery) => {
                let ops = delivery.ops.unwrap_or_default();
                self.outbox(p, Input::Roster { entry: delivery.entry, ops });
            }
            Reply::Head(head) => self.outbox(p, Input::Head(head)),
            Reply::Prekey(prekey) => self.outbox(p, Input::Prekey(prekey)),
            _ => {}
        }
    }

    /// The next answer is read.
    pub(crate) fn answer_read(&mut self, p: usize) {
        let Some(link) = self.publishers[p].link() else { return };
        match link.answers.pop_front() {
            Some(Some(Reply::Ack(ack))) => self.outbox(p, Input::Acked(ack)),
            Some(Some(Reply::Refused(refusal))) => {
                self.say(|| format!("p{p}        is refused {:?}: {:?}", refusal.record, refusal.code));
                self.outbox(p, Input::Refused(refusal));
            }
            Some(Some(_)) | None => {}
            Some(None) => self.publisher_cut(p),
        }
    }

    /// The next frame reaches the broker.
    pub(crate) fn frame_arrives(&mut self, p: usize) {
        let who = self.publishers[p].who.public();
        let Some(link) = self.publishers[p].link() else { return };
        let Some(frame) = link.up.pop_front() else { return };
        let (session, mut keys) = (link.session, std::mem::take(&mut link.keys));
        self.arrives(session, who, &frame, &mut keys);
        if let Some(link) = self.publishers[p].link().filter(|link| link.session == session) {
            link.keys = keys;
        }
    }

    /// The table under way reaches the broker.
    pub(crate) fn table_arrives(&mut self, p: usize) {
        let who = self.publishers[p].who.public();
        let took_ms = self.rng.random_range(0..1500);
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        let Some(table) = run.upload.take() else { return };
        let result = self.uploaded(who, &table, took_ms);
        if let Some(run) = self.publishers[p].run.as_mut() {
            run.uploaded = Some(result);
        }
    }

    /// And its answer the publisher.
    pub(crate) fn table_answered(&mut self, p: usize) {
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        match run.uploaded.take() {
            Some(Ok(())) => self.outbox(p, Input::TableStored),
            Some(Err(refusal)) => self.outbox(p, Input::TableRefused(refusal)),
            None => {}
        }
    }

    /// An epoch was built.
    pub(crate) fn epoch_built(&mut self, p: usize) {
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        let Some(mut work) = run.building.take() else { return };
        if self.flaw == Some(crate::Flaw::WrapsForRemoved) {
            self.oracle.wrap_for_removed(&mut work);
        }
        let built = work.make(&mut self.crypto).expect("a plan of the outbox's");
        self.outbox(p, Input::EpochBuilt(Box::new(built)));
    }

    /// The marks are on the disk.
    pub(crate) fn marks_saved(&mut self, p: usize) {
        let publisher = &mut self.publishers[p];
        let Some(run) = publisher.run.as_mut() else { return };
        let mut header = None;
        if let Some(marks) = run.saving.take() {
            publisher.disk = Some(marks.encode());
            header = marks.coming.map(|(epoch, _)| epoch);
        }
        run.saving = run.save_next.take();
        if let Some(epoch) = header {
            self.outbox(p, Input::Saved(epoch));
        }
    }

    /// The application publishes.
    pub(crate) fn send(&mut self, p: usize) {
        let salt: u64 = self.rng.random();
        let publisher = &mut self.publishers[p];
        let who = publisher.who.public();
        let Some(run) = publisher.run.as_mut().filter(|run| !run.closing) else { return };
        let token = publisher.tokens;
        publisher.tokens += 1;
        let payload = [MARK, format!("p{p} no {token} ({salt:016x})").as_bytes()].concat();
        let payload = Bytes::from(payload);
        run.waiting.insert(token, payload.clone());
        let message = Message::new(payload.clone()).encode().expect("a small message");
        self.tally.sent += 1;
        self.oracle.sends(who, payload.clone());
        if self.flaw == Some(crate::Flaw::Leaks) {
            self.sees(&payload, "a copy");
        }
        self.say(|| format!("p{p}        sends no {token}"));
        self.outbox(p, Input::Send { token, message });
    }

    /// The application is done.
    pub(crate) fn close(&mut self, p: usize) {
        let Some(run) = self.publishers[p].run.as_mut().filter(|run| !run.closing) else { return };
        run.closing = true;
        self.say(|| format!("p{p}        closes"));
        self.outbox(p, Input::Close);
    }

    /// Gives the outbox one input and does what it wants.
    pub(crate) fn outbox(&mut self, p: usize, input: Input) {
        let mut effects = Vec::new();
        let now_ms = self.now;
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        run.outbox.handle(input, now_ms, &mut effects);
        for effect in effects {
            self.outbox_wants(p, effect);
        }
    }

    fn outbox_wants(&mut self, p: usize, effect: Effect) {
        let Some(run) = self.publishers[p].run.as_mut() else { return };
        match effect {
            Effect::BuildEpoch(work) => run.building = Some(work),
            Effect::UploadTable { table, slot_count, slots_hash } => {
                if run.link.is_some() {
                    (run.upload, run.uploaded) = (Some((table, slot_count, slots_hash)), None);
                }
            }
            Effect::Write(frame) => {
                if let Some(link) = &mut run.link {
                    link.up.push_back(frame.clone());
                }
                self.check_written(p, &frame);
            }
            Effect::Resolve { token, receipt } => self.resolved(p, token, receipt),
            Effect::Save(marks) if run.saving.is_none() => run.saving = Some(marks),
            Effect::Save(marks) => run.save_next = Some(marks),
            Effect::Reconnect { after_ms } => {
                run.retry_ms = self.now + after_ms;
                self.publisher_cut(p);
            }
            Effect::Closed => {
                self.tally.ends += 1;
                self.publisher_stops(p);
            }
            Effect::Fail(error) => self.publisher_fails(p, &error),
        }
    }

    fn resolved(&mut self, p: usize, token: u64, receipt: Receipt) {
        let who = self.publishers[p].who.public();
        let Some(payload) = self.publishers[p].run.as_mut().and_then(|run| run.waiting.remove(&token)) else {
            return self.broke(Invariant::NoDuplicate, format!("no {token} of p{p} was acknowledged twice"));
        };
        self.tally.acknowledged += 1;
        self.say(|| {
            format!("p{p}        no {token} is stored as message {} at {}", receipt.seq, receipt.offset)
        });
        let lost = !self.broker.disk.was_written(receipt.offset);
        let acked = Acked { payload: payload.clone(), offset: receipt.offset, epoch: receipt.epoch, lost };
        let other = self.oracle.acked.insert((who, receipt.seq), acked);
        if let Some(other) = other.filter(|_| self.oracle.honest && !self.oracle.memory) {
            let what = format!("p{p} used number {} for {:?} and {payload:?}", receipt.seq, other.payload);
            self.broke(Invariant::Agreement, what);
        }
    }

    /// The process ends as it should: its last save is done.
    fn publisher_stops(&mut self, p: usize) {
        self.say(|| format!("p{p}        stops"));
        while self.publishers[p].run.as_ref().is_some_and(|run| run.saving.is_some()) {
            self.marks_saved(p);
        }
        let publisher = &mut self.publishers[p];
        if let Some(marks) = publisher.run.as_mut().and_then(|run| run.outbox.unsaved_marks()) {
            publisher.disk = Some(marks.encode());
        }
        self.publisher_cut(p);
        self.publishers[p].run = None;
    }

    fn publisher_fails(&mut self, p: usize, error: &PublishError) {
        self.tally.gave_up += 1;
        self.say(|| format!("p{p}        gives up: {error}"));
        self.publisher_stops(p);
        let who = self.publishers[p].who.public();
        let lost_role = matches!(error, PublishError::NotAllowed(_) | PublishError::Removed(_));
        // It held no such role for a moment at least.
        let legitimate = lost_role && (self.lost_role.contains(&who) || !self.broker.is_officer(&who));
        if self.oracle.honest && !legitimate {
            self.broke(Invariant::NoFalseAlarm, format!("p{p} gave up: {error}"));
        }
    }
}
