//! A topic's task: feeds the machine, does what it says. The only place that writes to a topic's log.

pub(crate) mod ordered;
mod reload;
mod tables;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sealcast_proto::frame::{Ack, Refusal};
use sealcast_proto::object::{Beacon, Prekey, RosterHead};
use sealcast_proto::roster::{EntryBundle, Role};
use sealcast_proto::{MemberIndex, Offset, PublicKey, Signed};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};

use self::ordered::{Lost, Ordered};
use self::tables::{Staged, Tables};
use crate::clock::now_ms;
use crate::handle::{Answer, Attached, Message, Offered, Opened, Origin, Sign, Topic, WatchEvent};
use crate::limits;
use crate::load::{self, Loaded};
use crate::lookup;
use crate::ops::report::{Insight, Standpoint};
use crate::retention::Keep;
use crate::ring;
use crate::storage::Storage;
use crate::store::{Budget, LogError, TableId, When, Write, Writer};
use crate::topic::{
    Append, Effect, Effects, Incoming, Index, Input, Readable, SessionId, Ticket, TopicMachine, What,
};

/// How often the actor looks after what nobody asks for (the ring's age, a `memory` topic's sync, a reload) while there is
/// any of it. A topic without sleeps.
const TICK: Duration = limits::SYNC_EVERY;
/// Inputs worked off in one go: their records go to the commit thread as one submission.
const AT_ONCE: usize = 256;

/// What the actor holds.
pub(crate) struct Actor {
    topic: Arc<Topic>,
    storage: Storage,
    machine: TopicMachine,
    writer: Writer,
    sessions: HashMap<SessionId, mpsc::UnboundedSender<Answer>>,
    tickets: HashMap<Ticket, oneshot::Sender<Result<Offset, Refusal>>>,
    next_ticket: u64,
    tables: Tables,
    visible: watch::Sender<Offset>,
    stored: watch::Sender<Offset>,
    done: mpsc::UnboundedSender<(Offset, Result<(), LogError>)>,
    /// Submissions that are not done.
    outstanding: usize,
    /// Whether something was written without a sync.
    unsynced: bool,
    /// When to make the machine anew after a failed write.
    reload_at: Option<Instant>,
    reload_pause: Duration,
    /// For a topic whose order several brokers share.
    ordered: Option<Ordered>,
}

/// What one round of inputs brings about.
#[derive(Default)]
struct Round {
    writes: Vec<Write>,
    sync: bool,
    budget: Option<Budget>,
    readable: Vec<Readable>,
    visible: Option<Offset>,
    /// Said last: whoever hears that something is stored must find it when it looks.
    answers: Vec<(SessionId, Answer)>,
    entries: Vec<(Ticket, Result<Offset, Refusal>)>,
    /// Answered once what came before was submitted.
    barriers: Vec<oneshot::Sender<()>>,
}

impl Actor {
    /// Starts a topic's task.
    pub(crate) fn start(
        storage: Storage,
        origin: Origin,
        loaded: Loaded,
        writer: Writer,
        stop: watch::Receiver<bool>,
    ) -> Arc<Topic> {
        let Loaded { machine, index, head } = loaded;
        let keep = keep(&machine);
        let (visible, visible_rx) = watch::channel(machine.visible());
        let (stored, stored_rx) = watch::channel(machine.visible());
        let (inbox, messages) = mpsc::channel(limits::TOPIC_INBOX);
        let topic = Arc::new(Topic::new(
            origin,
            index,
            head,
            keep,
            inbox,
            [visible_rx, stored_rx],
            storage.ring_bytes,
        ));
        let (done, done_rx) = mpsc::unbounded_channel();
        let (ordered, lost) = storage.order.clone().map(Ordered::new).unzip();
        // Where nothing is proposed nothing is lost: a channel whose sender is gone.
        let lost = lost.unwrap_or_else(|| mpsc::unbounded_channel().1);
        let actor = Self {
            topic: topic.clone(),
            storage,
            machine,
            writer,
            sessions: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            tables: Tables::default(),
            visible,
            stored,
            done,
            outstanding: 0,
            unsynced: false,
            reload_at: None,
            reload_pause: Duration::from_millis(limits::READ_ONLY_RETRY_MS),
            ordered,
        };
        tokio::spawn(actor.run(messages, done_rx, lost, stop));
        topic
    }

    async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut done: mpsc::UnboundedReceiver<(Offset, Result<(), LogError>)>,
        mut lost: mpsc::UnboundedReceiver<Lost>,
        mut stop: watch::Receiver<bool>,
    ) {
        let tick = sleep(TICK);
        tokio::pin!(tick);
        let mut ticking = false;
        let mut batch = Vec::new();
        loop {
            let mut round = Round::default();
            tokio::select! {
                biased;
                // First, for it is rare: else a topic that always has messages would never get to it.
                () = &mut tick, if ticking => {
                    ticking = false;
                    self.tick().await;
                }
                Some((upto, result)) = done.recv() => {
                    self.finished(upto, result, &mut round);
                    while let Ok((upto, result)) = done.try_recv() {
                        self.finished(upto, result, &mut round);
                    }
                }
                Some(lost) = lost.recv() => self.lost(lost, &mut round),
                count = messages.recv_many(&mut batch, AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    for message in batch.drain(..) {
                        self.message(message, &mut round);
                    }
                }
                // Or the broker was dropped.
                _ = stop.changed() => return,
            }
            self.close_round(round);
            if !ticking && self.has_chores() {
                ticking = true;
                tick.as_mut().reset(Instant::now() + TICK);
            }
        }
    }

    /// A submission is stored, or is not.
    fn finished(&mut self, upto: Offset, result: Result<(), LogError>, round: &mut Round) {
        self.outstanding = self.outstanding.saturating_sub(1);
        match result {
            Ok(()) => {
                self.stored.send_if_modified(|stored| {
                    let rises = upto > *stored;
                    *stored = upto.max(*stored);
                    rises
                });
                self.handle(Input::Committed(upto), round);
            }
            Err(error) => {
                if !self.machine.has_failed() {
                    tracing::error!(topic = %self.topic.id().short(), %error, "read-only");
                }
                self.handle(Input::Failed, round);
                if let Some(ordered) = &self.ordered {
                    // What was read back is missing here, and is read again only after a restart.
                    ordered.order.fail();
                } else if self.storage.commit.failure().is_none() && !matches!(error, LogError::Closed) {
                    self.reload_at.get_or_insert_with(|| Instant::now() + self.reload_pause);
                }
            }
        }
    }

    fn message(&mut self, message: Message, round: &mut Round) {
        match message {
            Message::Publish { session, identity, offered, budget } if self.ordered.is_some() => {
                self.propose_record(session, identity, offered, budget, round);
            }
            Message::Publish { session, identity, offered, budget } => {
                round.hold(budget);
                let incoming = self.incoming(&identity, offered);
                self.handle(Input::Publish { session, identity, incoming }, round);
            }
            Message::Roster { bundle, budget, answer } => self.roster(bundle, budget, answer, round),
            Message::Head { identity, head, answer } if self.ordered.is_some() => {
                self.propose_head(identity, &head, answer);
            }
            Message::Head { identity, head, answer } => self.head(&identity, head, answer),
            Message::ReadBack(read) => self.read_back(read, round),
            Message::Missed { trim, budget } => self.missed((*trim).clone(), budget, round),
            Message::Sign(sign) => self.sign(sign),
            Message::Barrier { reply } => round.barriers.push(reply),
            Message::Prekey { prekey } => self.prekey(prekey),
            Message::Beacon { identity, beacon } if self.ordered.is_some() => {
                self.propose_sign(identity, beacon);
            }
            Message::Beacon { identity, beacon } => self.beacon(identity, beacon),
            Message::Table { identity, slot_count, slots_hash, table, parts, took_ms } => {
                self.table(identity, Staged { slot_count, slots_hash, table, parts }, took_ms, round);
            }
            Message::Attach { session, identity, answers, reply } => {
                let attached = self.attach(session, &identity, answers);
                // Whoever no longer waits is gone.
                let _ = reply.send(attached);
            }
            Message::Detach { session } => {
                self.sessions.remove(&session);
                self.handle(Input::Ended(session), round);
            }
            Message::Open { identity, reply } => {
                let standing = self.machine.standing(&identity);
                let (level, end) = (self.machine.level(), self.machine.next_offset());
                let _ = reply.send(standing.map(|standing| Opened { standing, level, end }));
            }
            Message::Members { after, reply } => {
                let _ = reply.send(self.members(after));
            }
            Message::Insight { reply } => {
                let _ = reply.send(self.insight());
            }
            Message::KnownEntry { bundle, reply } => {
                let _ = reply.send(self.machine.acceptor().known_entry(&bundle.entry));
            }
        }
    }

    fn incoming(&mut self, identity: &PublicKey, offered: Offered) -> Incoming {
        match offered {
            Offered::Batch { claim, record } => Incoming::Batch { claim, record },
            Offered::Header(header) => {
                let table = self.tables.find(identity, &header);
                Incoming::Header { header, table }
            }
        }
    }

    fn roster(
        &mut self,
        bundle: EntryBundle,
        budget: Budget,
        answer: oneshot::Sender<Result<Offset, Refusal>>,
        round: &mut Round,
    ) {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, answer);
        if self.ordered.is_some() {
            return self.propose_entry(ticket, &bundle, budget, round);
        }
        round.hold(budget);
        // Thousands of operations, a key each: some hundred milliseconds that must not hold up other tasks here.
        let input = Input::Roster { ticket, bundle };
        off_the_reactor(|| self.handle(input, round));
    }

    fn head(
        &mut self,
        identity: &PublicKey,
        head: Signed<RosterHead>,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        if let Err(refusal) = self.check_head(identity, &head) {
            let _ = answer.send(Err(refusal));
            return;
        }
        let (topic, storage) = (self.topic.clone(), self.storage.clone());
        tokio::spawn(async move {
            let write = Write::Head { topic: topic.id(), head: load::keep(&head) };
            let result = storage.commit.write(vec![write]).await.map_err(|error| lookup::refusal(&error));
            if result.is_ok() {
                topic.put_head(head);
            }
            let _ = answer.send(result);
        });
    }

    fn prekey(&self, prekey: Signed<Prekey>) {
        let owner = prekey.peek().map(|prekey| prekey.owner);
        if owner.is_ok_and(|owner| self.machine.acceptor().roster().find(&owner).is_some()) {
            self.topic.tell(WatchEvent::Prekey(Arc::new(prekey)));
        }
    }

    fn beacon(&self, identity: PublicKey, beacon: Signed<Beacon>) {
        if self.topic.has_listeners() && self.machine.acceptor().check_beacon(&identity, &beacon).is_some() {
            let after = self.machine.next_offset();
            self.topic.relay(Sign { publisher: identity, beacon, after });
        }
    }

    fn table(&mut self, identity: PublicKey, staged: Staged, took_ms: u64, round: &mut Round) {
        self.handle(Input::TableUploaded(took_ms), round);
        if let Some(oldest) = self.tables.stage(identity, staged) {
            self.drop_table(oldest);
        }
    }

    fn drop_table(&self, table: TableId) {
        let commit = self.storage.commit.clone();
        // A table that cannot be dropped now is dropped when the log is opened.
        tokio::spawn(async move { commit.write(vec![Write::DropTable { table }]).await });
    }

    fn attach(
        &mut self,
        session: SessionId,
        identity: &PublicKey,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> Option<Attached> {
        let standing = self.machine.standing(identity)?;
        standing.role.filter(|role| *role >= Role::Publisher)?;
        self.sessions.insert(session, answers);
        let lane = self.machine.acceptor().lane(identity);
        let newest = lane.map(|lane| (lane.header().epoch, lane.header_hash(), lane.header().epoch_vk));
        Some(Attached { newest })
    }

    fn members(&self, after: Option<MemberIndex>) -> Vec<(MemberIndex, PublicKey)> {
        let members = self.machine.acceptor().roster().members();
        let rest = members.filter(|(index, _)| after.is_none_or(|after| *index > after));
        rest.take(limits::MEMBERS_PAGE).map(|(index, member)| (index, member.identity)).collect()
    }

    fn insight(&self) -> Insight {
        let acceptor = self.machine.acceptor();
        let publishers = acceptor.lanes().map(|(publisher, lane)| Standpoint {
            publisher: *publisher,
            epoch: lane.header().epoch.0,
            header_offset: lane.header_offset(),
            time_ms: lane.header().time_ms,
            next_batch_no: lane.next_batch_no(),
            last: lane.last().map(|last| last.offset),
        });
        Insight { members: acceptor.roster().members().count(), publishers: publishers.collect() }
    }

    fn handle(&mut self, input: Input, round: &mut Round) {
        let mut effects = Effects::new();
        self.machine.handle(input, now_ms(), &mut effects);
        self.follow(effects, round);
    }

    fn follow(&mut self, effects: Effects, round: &mut Round) {
        for effect in effects {
            match effect {
                Effect::Append(append) => self.append(append, round),
                Effect::Index(offset, index) => self.index(offset, index, round),
                Effect::Gone { before, stored_ms } => {
                    // Nothing that could be read: it is trimmed before anybody looks.
                    let (topic, offset) = (self.topic.id(), Offset(before.0.saturating_sub(1)));
                    let record = bytes::Bytes::from_static(&[0]);
                    round.writes.push(Write::Append { topic, offset, stored_ms, record });
                }
                Effect::Ack(session, ack) => round.answers.push((session, Answer::Ack(ack))),
                Effect::Refuse(session, refusal) => round.answers.push((session, Answer::Refused(refusal))),
                Effect::Superseded(session) => round.answers.push((session, Answer::Superseded)),
                Effect::Roster(ticket, result) => round.entries.push((ticket, result)),
                Effect::Compare { session, identity, epoch, batch_no, fingerprint } => {
                    let number = (epoch, batch_no);
                    self.compare(session, lookup::Wanted { publisher: identity, number, fingerprint });
                }
                Effect::Readable(readable) => round.readable.push(readable),
                Effect::Visible(offset) => round.visible = Some(offset),
            }
        }
    }

    fn append(&mut self, append: Append, round: &mut Round) {
        let topic = self.topic.id();
        let Append { offset, stored_ms, record, index, sync, reserve } = append;
        // What was read back from the cluster is safe there: here it need not be.
        round.sync |= sync && self.ordered.is_none();
        round.writes.push(Write::Append { topic, offset, stored_ms, record: record.clone() });
        round.writes.extend(reserve.map(|below| Write::Reserve { topic, below }));
        match index {
            Index::Roster { seq, bundle } => {
                round.writes.push(Write::Roster { topic, seq, offset, bundle });
            }
            Index::Epoch { publisher, epoch, table } => {
                self.tables.taken(&publisher, table);
                round.writes.push(Write::Epoch { topic, publisher, epoch, offset, header: record, table });
                // The snapshot only says that this publisher exists: the rest follows from its index.
                round.writes.push(Write::Publisher { topic, publisher, state: bytes::Bytes::new() });
            }
            Index::Batch { publisher, epoch, batch_no, digest } => {
                round.writes.push(Write::Batch { topic, publisher, epoch, batch_no, offset, digest });
            }
        }
    }

    /// What the index holds beside no record.
    fn index(&self, offset: Offset, index: Index, round: &mut Round) {
        if let Index::Batch { publisher, epoch, batch_no, digest } = index {
            let topic = self.topic.id();
            round.writes.push(Write::Batch { topic, publisher, epoch, batch_no, offset, digest });
        }
    }

    /// Answers from the log what is too old to be remembered.
    fn compare(&self, session: SessionId, wanted: lookup::Wanted) {
        let Some(answers) = self.sessions.get(&session).cloned() else { return };
        let (topic, reads, level) = (self.topic.id(), self.storage.reads.clone(), self.machine.level());
        tokio::spawn(async move {
            let (epoch, batch_no) = wanted.number;
            let found = reads.run(move |log| lookup::compare(log, topic, &wanted)).await;
            let answer = match found.map_err(|error| lookup::refusal(&error)).flatten() {
                Ok(offset) => Answer::Ack(Ack { epoch, batch_no, offset, level }),
                Err(refusal) => Answer::Refused(Refusal { record: Some((epoch, batch_no)), ..refusal }),
            };
            let _ = answers.send(answer);
        });
    }

    /// Submits what a round appended, and shows what it made readable.
    fn close_round(&mut self, round: Round) {
        if !round.writes.is_empty() {
            self.submit(round.writes, self.when(round.sync), round.budget);
        }
        if let Some(visible) = round.visible {
            let events = self.note(&round.readable);
            let batches = round.readable.iter().filter_map(|readable| match &readable.what {
                What::Batch { record, .. } => Some(record.len() as u64),
                What::Roster(_) | What::Header(_) => None,
            });
            self.topic.take(round.readable.len() as u64, batches.sum());
            self.topic.ring().push(ring::items(round.readable), now_ms());
            self.topic.ring().evict(*self.stored.borrow(), now_ms());
            // First the head, then the events: a watch that reads the head after it began to listen misses none.
            self.visible.send_replace(visible);
            for event in events {
                self.topic.tell(event);
            }
        }
        for (session, answer) in round.answers {
            if let Some(answers) = self.sessions.get(&session) {
                // A session that ended needs no answer.
                let _ = answers.send(answer);
            }
        }
        for (ticket, result) in round.entries {
            if let Some(answer) = self.tickets.remove(&ticket) {
                let _ = answer.send(result);
            }
        }
        for barrier in round.barriers {
            // Whoever no longer waits is gone.
            let _ = barrier.send(());
        }
    }

    /// When what a round appended is to be stored.
    fn when(&self, sync: bool) -> When {
        match sync {
            true => When::Synced,
            // All of it can be read already: nobody waits for it.
            false if self.machine.visible() == self.machine.next_offset() => When::Later,
            false => When::Written,
        }
    }

    fn submit(&mut self, writes: Vec<Write>, when: When, budget: Option<Budget>) {
        let (done, upto) = (self.done.clone(), self.machine.next_offset());
        self.outstanding += 1;
        let Some(budget) = budget else {
            // Cannot be: every input that appends brought its share. If it is, nothing was stored, and that is said.
            let _ = done.send((upto, Err(LogError::Misuse("an append without a budget".into()))));
            return;
        };
        self.unsynced = when != When::Synced;
        self.writer.submit(budget, writes, when, move |result| {
            // Nobody listens once the broker is gone.
            let _ = done.send((upto, result));
        });
    }

    /// Notes readable roster entries in the index; returns what watches are told.
    fn note(&self, readable: &[Readable]) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for Readable { offset, what } in readable {
            match what {
                What::Roster(item) => {
                    self.topic.index_entry(item);
                    events.push(WatchEvent::Roster(item.clone()));
                }
                What::Header(item) => events.push(WatchEvent::Epoch(*offset, item.clone())),
                What::Batch { end: Some(context), .. } => {
                    events.push(WatchEvent::End(*offset, context.clone()))
                }
                What::Batch { end: None, .. } => {}
            }
        }
        events
    }

    /// Whether [`Actor::tick`] has something to do, now or later.
    fn has_chores(&self) -> bool {
        self.unsynced || self.reload_at.is_some() || !self.topic.ring().is_empty()
    }

    async fn tick(&mut self) {
        self.topic.ring().evict(*self.stored.borrow(), now_ms());
        if self.unsynced
            && !self.machine.has_failed()
            && let Some(budget) = self.storage.commit.try_reserve(0)
        {
            self.submit(Vec::new(), When::Synced, Some(budget));
        }
        if self.reload_at.is_some_and(|at| Instant::now() >= at) && self.outstanding == 0 {
            self.reload().await;
        }
    }
}

impl Round {
    fn hold(&mut self, budget: Budget) {
        match &mut self.budget {
            Some(held) => held.merge(budget),
            None => self.budget = Some(budget),
        }
    }
}

/// How much the topic keeps.
fn keep(machine: &TopicMachine) -> Keep {
    Keep::of(machine.acceptor().roster().chain().policy())
}

/// Runs something that takes long without holding up the tasks that share this thread.
fn off_the_reactor<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
