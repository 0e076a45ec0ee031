//! What happens: events that the world brings about (an application, an admin, a fault), and the single steps of parties.

use rand::RngExt as _;
use rand::rngs::StdRng;
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::Role;
use sealcast_publisher::internals::Input as OutboxInput;

use crate::admin::Wish;
use crate::world::World;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// What one seed's world is like. Not every world has every fault: some are only found without others.
#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) publishers: usize,
    pub(crate) readers: usize,
    pub(crate) two_admins: bool,
    pub(crate) officers_read: bool,
    pub(crate) evil: bool,
    pub(crate) policy: Policy,
    pub(crate) events: u32,
    /// Steps between two events, at most.
    pub(crate) steps: u32,
    weights: Vec<(Event, u32)>,
}

/// What the world brings about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Send,
    Wait,
    WaitLong,
    Days,
    CutPublisher,
    CutSubscriber,
    CrashPublisher,
    CrashSubscriber,
    CrashBroker,
    StartPublisher,
    StartSubscriber,
    Add,
    Remove,
    SetRole,
    Rotate,
    SetPolicy,
    Head,
    Retention,
    NewPrekey,
    Close,
    Pause,
    Darkness,
    Rollback,
}

/// Each event, its weight, and whether a world may be without it.
const EVENTS: [(Event, u32, bool); 23] = [
    (Event::Send, 30, false),
    (Event::Wait, 12, false),
    (Event::WaitLong, 6, true),
    (Event::Days, 2, true),
    (Event::CutPublisher, 5, true),
    (Event::CutSubscriber, 5, true),
    (Event::CrashPublisher, 4, true),
    (Event::CrashSubscriber, 4, true),
    (Event::CrashBroker, 3, true),
    (Event::StartPublisher, 8, false),
    (Event::StartSubscriber, 8, false),
    (Event::Add, 6, true),
    (Event::Remove, 5, true),
    (Event::SetRole, 2, true),
    (Event::Rotate, 2, true),
    (Event::SetPolicy, 1, true),
    (Event::Head, 2, true),
    (Event::Retention, 4, true),
    (Event::NewPrekey, 4, true),
    (Event::Close, 3, true),
    (Event::Pause, 2, true),
    (Event::Darkness, 2, true),
    (Event::Rollback, 2, true),
];

impl Profile {
    pub(crate) fn drawn(rng: &mut StdRng, honest: bool) -> Self {
        let max_offline_ms = pick(rng, &[14 * DAY, HOUR]);
        // Nothing is kept longer than members' keys live.
        let retain_ms = pick(rng, &[7 * DAY, 7 * DAY, HOUR, 5_000]).min(max_offline_ms);
        let policy = Policy {
            durability: if rng.random_bool(0.2) { Durability::Memory } else { Durability::Durable },
            retain_ms,
            retain_bytes: pick(rng, &[0, 0, 0, 2_000]),
            max_epoch_age_ms: pick(rng, &[HOUR, HOUR, 2_000]),
            max_epoch_batches: pick(rng, &[65_536, 65_536, 3]),
            beacon_ms: pick(rng, &[1_000, 60_000, 60_000, 200]),
            prekey_rotation_ms: pick(rng, &[7 * DAY, HOUR, 60_000]),
            max_offline_ms,
            max_roster_age_ms: pick(rng, &[0, 0, 0, 30 * DAY]),
            ..Policy::default()
        };
        let calm = rng.random_range(0.2..0.8);
        let evil = !honest && rng.random_bool(0.3);
        let weights = EVENTS.into_iter().filter(|(event, _, optional)| {
            let malice = matches!(event, Event::Darkness | Event::Rollback);
            (!malice || evil) && (!*optional || !rng.random_bool(calm))
        });
        let weights = weights.map(|(event, weight, _)| (event, weight)).collect();
        Self {
            publishers: pick(rng, &[1, 1, 2, 3]),
            readers: pick(rng, &[1, 2, 3, 4]),
            two_admins: rng.random_bool(0.3),
            officers_read: rng.random_bool(0.3),
            evil,
            policy,
            events: rng.random_range(8..45),
            steps: pick(rng, &[6, 20, 60]),
            weights,
        }
    }
}

fn pick<T: Copy>(rng: &mut StdRng, of: &[T]) -> T {
    of[rng.random_range(0..of.len())]
}

/// One step of one party.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Connect(usize),
    Frame(usize),
    Answer(usize),
    Watch(usize),
    Write(usize),
    Built(usize),
    Table(usize),
    TableAnswer(usize),
    Saved(usize),
    Tick(usize),
    Ghost(usize),
    Subscribe(usize),
    Serve(usize),
    Read(usize),
    Need(usize),
    Prekeys(usize),
    Prekey(usize),
    InboxTick(usize),
    Take(usize),
    SaveBegin(usize),
    SaveEnd(usize),
    Close(usize),
    Admin(usize),
    Disk,
    SyncDisk,
}

impl World {
    /// The world brings something about.
    pub(crate) fn event(&mut self) {
        let total: u32 = self.profile.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.rng.random_range(0..total);
        let mut event = Event::Send;
        for (candidate, weight) in &self.profile.weights {
            if at < *weight {
                event = *candidate;
                break;
            }
            at -= weight;
        }
        let p = self.rng.random_range(0..self.publishers.len());
        let s = self.rng.random_range(0..self.subscribers.len());
        let a = self.rng.random_range(0..self.admins.len());
        self.fold(u64::from(event as u8));
        self.bring_about(event, p, s, a);
    }

    fn bring_about(&mut self, event: Event, p: usize, s: usize, a: usize) {
        match event {
            Event::Send => {
                for _ in 0..self.rng.random_range(1..4) {
                    self.send(p);
                }
            }
            Event::Wait => self.wait(1..600),
            Event::WaitLong => self.wait(600..20_000),
            Event::Days => self.wait(HOUR / 2..10 * DAY),
            Event::CutPublisher => self.publisher_cut(p),
            Event::CutSubscriber => self.subscriber_cut(s),
            Event::CrashPublisher if self.publishers[p].run.is_some() => self.publisher_crashes(p),
            Event::CrashSubscriber if self.subscribers[s].run.is_some() => self.subscriber_crashes(s),
            Event::StartPublisher if self.publishers[p].run.is_none() => self.publisher_starts(p),
            Event::StartSubscriber if self.subscribers[s].run.is_none() => self.subscriber_starts(s),
            Event::CrashPublisher
            | Event::CrashSubscriber
            | Event::StartPublisher
            | Event::StartSubscriber => {}
            Event::CrashBroker => {
                let (safe, all) = (self.broker.disk.synced(), self.broker.disk.len());
                let keep = self.rng.random_range(safe..=all);
                self.broker_crashes(keep);
            }
            Event::Rollback => {
                let keep = self.rng.random_range(2..=self.broker.disk.len());
                self.broker_crashes(keep);
            }
            Event::Darkness => {
                if let Some(evil) = &mut self.evil {
                    match evil.dark.iter().position(|dark| *dark == s) {
                        Some(at) => drop(evil.dark.remove(at)),
                        None => evil.dark.push(s),
                    }
                }
            }
            Event::Add | Event::Remove | Event::SetRole | Event::Rotate | Event::SetPolicy | Event::Head => {
                self.wish(event, a);
            }
            Event::Retention => self.retention(),
            Event::NewPrekey => self.prekeys(s, true),
            Event::Close => self.close(p),
            Event::Pause => self.pause(s),
        }
    }

    fn wish(&mut self, event: Event, a: usize) {
        let reader = self.rng.random_bool(0.75);
        let who = if reader {
            let s = self.rng.random_range(0..self.subscribers.len());
            self.subscribers[s].who.public()
        } else {
            let p = self.rng.random_range(0..self.publishers.len());
            self.publishers[p].who.public()
        };
        let publishes = self.publishers.iter().any(|publisher| publisher.who.public() == who);
        let role = if publishes { Role::Publisher } else { Role::Reader };
        let wish = match event {
            Event::Add => Wish::Add(who, role),
            Event::Remove => Wish::Remove(who),
            Event::SetRole => {
                let roles = [Role::Reader, Role::Publisher, Role::Admin];
                Wish::Add(who, pick(&mut self.rng, &roles))
            }
            Event::Rotate => Wish::Rotate,
            Event::SetPolicy => {
                let beacon_ms = pick(&mut self.rng, &[500, 5_000]);
                Wish::SetPolicy(Policy { beacon_ms, ..self.profile.policy.clone() })
            }
            _ => Wish::Head,
        };
        self.admins[a].wishes.push_back(wish);
    }

    /// Time passes.
    pub(crate) fn wait(&mut self, range: std::ops::Range<u64>) {
        let ms = self.rng.random_range(range);
        self.now += ms;
        self.say(|| format!("          {ms} ms pass"));
    }

    /// One step of one party, drawn from all that could be done now. Says whether there was one.
    pub(crate) fn step(&mut self) -> bool {
        let steps = self.possible();
        if steps.is_empty() || self.has_failed() {
            return false;
        }
        let at = self.rng.random_range(0..steps.len());
        self.fold(at as u64);
        self.tally.steps += 1;
        self.take_step(steps[at]);
        true
    }

    fn fold(&mut self, value: u64) {
        self.digest = (self.digest ^ value ^ self.now).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn possible(&mut self) -> Vec<Step> {
        let now = self.now;
        let mut steps = Vec::new();
        let mut add = |is: bool, step: Step| {
            if is {
                steps.push(step);
            }
        };
        for (p, publisher) in self.publishers.iter().enumerate() {
            let Some(run) = &publisher.run else { continue };
            match &run.link {
                None => add(now >= run.retry_ms, Step::Connect(p)),
                Some(link) => {
                    add(!link.up.is_empty(), Step::Frame(p));
                    add(!link.answers.is_empty(), Step::Answer(p));
                    add(!link.watch.is_empty(), Step::Watch(p));
                    add(publisher.may_write(now), Step::Write(p));
                    add(run.upload.is_some(), Step::Table(p));
                    add(run.uploaded.is_some(), Step::TableAnswer(p));
                }
            }
            add(run.building.is_some(), Step::Built(p));
            add(run.saving.is_some(), Step::Saved(p));
            add(run.outbox.wake_at() <= now, Step::Tick(p));
        }
        (0..self.ghosts.len()).for_each(|at| add(true, Step::Ghost(at)));
        let broker = &self.broker;
        for (s, subscriber) in self.subscribers.iter_mut().enumerate() {
            let Some(run) = &mut subscriber.run else { continue };
            add(!run.items.is_empty(), Step::Take(s));
            let saving = run.saving.is_some();
            add(saving, Step::SaveEnd(s));
            add(!saving && run.inbox.ledger().is_dirty(), Step::SaveBegin(s));
            if run.ended {
                add(run.items.is_empty(), Step::Close(s));
                continue;
            }
            add(!run.paused && now >= run.tick_ms, Step::InboxTick(s));
            match &run.link {
                None => add(now >= run.retry_ms, Step::Subscribe(s)),
                Some(link) => {
                    add(link.reader.has_work(broker), Step::Serve(s));
                    let reads = run.need.is_none() && !run.paused;
                    add(reads && !link.down.is_empty(), Step::Read(s));
                    add(run.need.is_some(), Step::Need(s));
                    match &run.put {
                        Some((_, arrived)) => add(!arrived, Step::Prekey(s)),
                        None => add(now >= run.prekeys_ms && run.inbox.policy().is_some(), Step::Prekeys(s)),
                    }
                }
            }
        }
        for (a, admin) in self.admins.iter().enumerate() {
            add(admin.has_work(now), Step::Admin(a));
        }
        add(!self.broker.queue.is_empty(), Step::Disk);
        let behind = self.disk_is_behind();
        if behind {
            steps.push(Step::SyncDisk);
        }
        steps
    }

    fn take_step(&mut self, step: Step) {
        match step {
            Step::Connect(p) => self.publisher_connects(p),
            Step::Frame(p) => self.frame_arrives(p),
            Step::Answer(p) => self.answer_read(p),
            Step::Watch(p) => self.watch_read(p),
            Step::Write(p) => self.outbox(p, OutboxInput::Writable),
            Step::Built(p) => self.epoch_built(p),
            Step::Table(p) => self.table_arrives(p),
            Step::TableAnswer(p) => self.table_answered(p),
            Step::Saved(p) => self.marks_saved(p),
            Step::Tick(p) => self.outbox(p, OutboxInput::Tick),
            Step::Ghost(at) => self.ghost_arrives(at),
            Step::Subscribe(s) => self.subscriber_connects(s),
            Step::Serve(s) => {
                let most = self.rng.random_range(1..8);
                self.serve(s, most);
            }
            Step::Read(s) => self.frame_read(s),
            Step::Need(s) => self.need_met(s),
            Step::Prekeys(s) => self.prekeys(s, false),
            Step::Prekey(s) => self.prekey_arrives(s),
            Step::InboxTick(s) => self.tick_inbox(s),
            Step::Take(s) => self.takes(s),
            Step::SaveBegin(s) => self.save_begins(s),
            Step::SaveEnd(s) => self.save_ends(s),
            Step::Close(s) => self.subscriber_closes(s),
            Step::Admin(a) => self.admin_acts(a),
            Step::Disk => {
                let count = self.rng.random_range(1..=self.broker.queue.len());
                self.disk_did(count);
            }
            Step::SyncDisk => self.sync_disk(),
        }
    }
}
