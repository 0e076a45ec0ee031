//! A subscriber: an inbox, its delivery stream, its application, and the cursor and prekeys on its disk. What its driver
//! does, step by step, each step when the world says so.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt as _;
use sealcast_envelope::WrapSecret;
use sealcast_proto::frame::{EpochDelivery, From as Begin, Reply};
use sealcast_proto::object::Prekey;
use sealcast_proto::{Epoch, Identity, Offset, PublicKey, Signed};
use sealcast_subscriber::internals::{Cursor, Effects, Inbox, Input, Need};
use sealcast_subscriber::{Event, GapReason, Item};

use crate::Flaw;
use crate::oracle::Invariant;
use crate::reader::Reader;
use crate::world::World;

/// How often a subscription looks after its prekeys, milliseconds: as the driver.
const PREKEYS_MS: u64 = 60_000;
/// How long it waits before it connects again at most, milliseconds.
const BACKOFF_MS: u64 = 3_000;

/// See the module.
pub(crate) struct Subscriber {
    pub(crate) who: Arc<Identity>,
    from: Begin,
    /// The cursor on the disk, and how much of `app` was taken as of it.
    disk: Option<(Vec<u8>, usize)>,
    /// What the application has taken, as far as it remembers.
    pub(crate) app: Vec<Item>,
    pub(crate) run: Option<Run>,
    /// Where its first subscription began.
    pub(crate) start: Option<Offset>,
}

/// A process that subscribes.
pub(crate) struct Run {
    pub(crate) inbox: Inbox,
    pub(crate) link: Option<Link>,
    /// No connection before, milliseconds since 1970.
    pub(crate) retry_ms: u64,
    /// Items handed out and not taken.
    pub(crate) items: VecDeque<Item>,
    taken: u64,
    pub(crate) need: Option<Need>,
    /// A save under way: the cursor and how much was taken as of it.
    pub(crate) saving: Option<(Vec<u8>, usize)>,
    pub(crate) prekeys_ms: u64,
    /// A prekey on its way to the broker, and whether it arrived.
    pub(crate) put: Option<(Signed<Prekey>, bool)>,
    pub(crate) tick_ms: u64,
    /// Nothing follows the items.
    pub(crate) ended: bool,
    pub(crate) paused: bool,
    resumed: bool,
    /// The broker took its first subscription.
    begun: bool,
}

/// A delivery stream.
pub(crate) struct Link {
    pub(crate) reader: Reader,
    /// On its way; `None`: the stream ended.
    pub(crate) down: VecDeque<Option<Reply>>,
}

impl Subscriber {
    pub(crate) fn new(who: Arc<Identity>, from: Begin) -> Self {
        Self { who, from, disk: None, app: Vec::new(), run: None, start: None }
    }

    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.run.as_mut()?.link.as_mut()
    }
}

impl World {
    /// The process starts with what is on its disk; its application goes back to what it had by then.
    pub(crate) fn subscriber_starts(&mut self, s: usize) {
        let topic = self.broker.origin.id;
        let subscriber = &mut self.subscribers[s];
        let me = subscriber.who.public();
        let (cursor, had) = match &subscriber.disk {
            Some((bytes, had)) => (Cursor::decode(bytes, &topic).expect("it reads what it wrote"), *had),
            None => (Cursor::new(topic), 0),
        };
        subscriber.app.truncate(had);
        let resumed = subscriber.disk.is_some();
        let file = self.rings.entry(me).or_default();
        let mut ring = file.load();
        if !ring.purge(self.now).is_empty() {
            file.purged = true;
            file.save(&ring, false);
        }
        let secret = WrapSecret::of_identity(&subscriber.who);
        let inbox = Inbox::new(me, secret, ring, cursor, subscriber.from, false);
        subscriber.run = Some(Run {
            inbox,
            link: None,
            retry_ms: 0,
            items: VecDeque::new(),
            taken: 0,
            need: None,
            saving: None,
            prekeys_ms: 0,
            put: None,
            tick_ms: self.now,
            ended: false,
            paused: false,
            resumed,
            begun: false,
        });
        self.say(|| format!("s{s}        starts, {had} items taken"));
    }

    /// The process dies; a save under way is done, or not.
    pub(crate) fn subscriber_crashes(&mut self, s: usize) {
        self.tally.subscriber_crashes += 1;
        let saved = self.rng.random_bool(0.5);
        let subscriber = &mut self.subscribers[s];
        if let Some(run) = subscriber.run.take()
            && let Some(save) = run.saving.filter(|_| saved)
        {
            subscriber.disk = Some(save);
        }
        let had = subscriber.disk.as_ref().map_or(0, |(_, had)| *had);
        subscriber.app.truncate(had);
        self.say(|| format!("s{s}        crashes, {had} items are saved"));
    }

    /// The connection breaks.
    pub(crate) fn subscriber_cut(&mut self, s: usize) {
        let wait = self.rng.random_range(0..BACKOFF_MS);
        let now = self.now;
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        if run.link.take().is_none() {
            return;
        }
        run.retry_ms = now + wait;
        run.need = None;
        let put = run.put.take();
        self.tally.cuts += 1;
        self.say(|| format!("s{s}        loses its stream"));
        self.inbox(s, Input::Lost);
        if put.is_some() {
            // It was made all the same.
            let me = self.subscribers[s].who.public();
            let ring = self.rings.entry(me).or_default().load();
            self.inbox(s, Input::Prekeys(ring));
        }
    }

    pub(crate) fn subscriber_connects(&mut self, s: usize) {
        let me = self.subscribers[s].who.public();
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        let wish = run.inbox.subscribe();
        match Reader::begin(&self.broker, me, &wish) {
            Ok((reader, said)) => {
                self.say(|| {
                    format!("s{s}        subscribes from {:?}, entry {:?}", wish.from, wish.roster_seq)
                });
                if let Some(run) = self.subscribers[s].run.as_mut() {
                    run.begun = true;
                    run.link = Some(Link { reader, down: VecDeque::new() });
                }
                self.deliver(s, said);
            }
            Err(refusal) => {
                let Some(run) = self.subscribers[s].run.as_mut() else { return };
                if !run.begun {
                    // The first word of a subscription that never was: not an item, an error.
                    self.say(|| format!("s{s}        may not subscribe"));
                    self.subscribers[s].run = None;
                    return;
                }
                self.inbox(s, Input::Reply(Reply::Refused(refusal)));
            }
        }
    }

    /// The broker sends something on a delivery stream.
    pub(crate) fn deliver(&mut self, s: usize, replies: Vec<Reply>) {
        let replies = if self.evil.is_some() {
            self.tamper(s, replies)
        } else {
            replies.into_iter().map(Some).collect()
        };
        let Some(link) = self.subscribers[s].link() else { return };
        link.down.extend(replies);
        if link.reader.ended {
            link.down.push_back(None);
        }
    }

    /// The broker sends the next piece of the log.
    pub(crate) fn serve(&mut self, s: usize, most: usize) {
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        let Some(link) = run.link.as_mut() else { return };
        if link.reader.ended {
            return;
        }
        let replies = link.reader.step(&self.broker, most);
        self.deliver(s, replies);
    }

    /// A beacon goes to everybody who is at the head.
    pub(crate) fn relay(&mut self, publisher: PublicKey, beacon: &Signed<sealcast_proto::object::Beacon>) {
        for subscriber in &mut self.subscribers {
            if let Some(link) = subscriber.link() {
                link.reader.beacon(publisher, beacon);
            }
        }
    }

    /// The next frame is read.
    pub(crate) fn frame_read(&mut self, s: usize) {
        let Some(link) = self.subscribers[s].link() else { return };
        match link.down.pop_front() {
            Some(Some(reply)) => {
                self.say(|| format!("s{s}        reads {}", described(&reply)));
                self.inbox(s, Input::Reply(reply));
                let subscriber = &mut self.subscribers[s];
                if let Some(run) = subscriber.run.as_ref().filter(|run| !run.resumed)
                    && run.inbox.policy().is_some()
                {
                    subscriber.start = Some(run.inbox.start_offset());
                }
            }
            Some(None) => {
                self.inbox(s, Input::Finished);
                self.subscriber_cut(s);
            }
            None => {}
        }
    }

    /// What the inbox waits for comes.
    pub(crate) fn need_met(&mut self, s: usize) {
        let me = self.subscribers[s].who.public();
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        match run.need.take() {
            Some(Need::Prekeys) => {
                let ring = self.rings.entry(me).or_default().load();
                self.inbox(s, Input::Prekeys(ring));
            }
            Some(Need::Epochs(publisher, epoch)) => {
                let mut epochs = self.fetch(&me, publisher, epoch);
                self.tamper_epochs(&mut epochs);
                self.inbox(s, Input::Epochs(epochs));
            }
            None => {}
        }
    }

    fn fetch(&self, me: &PublicKey, publisher: PublicKey, epoch: Epoch) -> Vec<EpochDelivery> {
        let Some(standing) = self.broker.machine.standing(me) else { return Vec::new() };
        let (log, id) = (&self.broker.disk.log, self.broker.origin.id);
        let end = standing.removed.map_or(self.broker.machine.visible(), |(_, offset)| offset);
        sealcast_broker::internals::epochs(log, id, &publisher, epoch, end, &standing.indexes)
            .expect("epochs can be read")
    }

    /// The subscription looks after its prekeys.
    pub(crate) fn prekeys(&mut self, s: usize, force: bool) {
        let who = Arc::clone(&self.subscribers[s].who);
        let now = self.now;
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        let (Some(policy), Some(_)) = (run.inbox.policy().cloned(), &run.link) else { return };
        run.prekeys_ms = now + PREKEYS_MS;
        let acknowledged = run.inbox.acknowledged_prekey();
        let file = self.rings.entry(who.public()).or_default();
        let mut ring = file.load();
        let (rotation, offline) = (policy.prekey_rotation_ms, policy.max_offline_ms);
        let made = ring.rotate_if_due(&who, rotation, offline, now, force, &mut self.crypto).is_some();
        let purged = !ring.purge(now).is_empty();
        file.purged |= purged;
        if made || purged {
            file.save(&ring, made);
        }
        let newest = ring.newest().cloned().filter(|signed| {
            let id = signed.peek().map_or(0, |prekey| prekey.prekey_id);
            acknowledged.is_none_or(|known| known < id)
        });
        match newest {
            Some(prekey) => run.put = Some((prekey, false)),
            None => self.inbox(s, Input::Prekeys(ring)),
        }
    }

    /// A prekey reaches the broker.
    pub(crate) fn prekey_arrives(&mut self, s: usize) {
        let me = self.subscribers[s].who.public();
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        let Some((prekey, arrived)) = run.put.as_mut() else { return };
        *arrived = true;
        let prekey = prekey.clone();
        if !self.put_prekey(me, &prekey) {
            if let Some(run) = self.subscribers[s].run.as_mut() {
                run.put = None;
            }
            let ring = self.rings.entry(me).or_default().load();
            self.inbox(s, Input::Prekeys(ring));
        }
    }

    /// The broker stored a prekey.
    pub(crate) fn prekey_stored(&mut self, owner: &PublicKey, stored: &Signed<Prekey>) {
        for s in 0..self.subscribers.len() {
            if self.subscribers[s].who.public() != *owner {
                continue;
            }
            let Some(run) = self.subscribers[s].run.as_mut() else { continue };
            if run.put.take_if(|(prekey, _)| prekey == stored).is_none() {
                continue;
            }
            let id = stored.peek().map_or(0, |prekey| prekey.prekey_id);
            let ring = self.rings.entry(*owner).or_default().load();
            self.inbox(s, Input::Prekeys(ring));
            self.inbox(s, Input::PrekeyStored(id));
        }
    }

    /// The application takes an item.
    pub(crate) fn takes(&mut self, s: usize) {
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        let Some(item) = run.items.pop_front() else { return };
        run.taken += 1;
        let taken = run.taken;
        run.inbox.ledger().settle(taken);
        match &item {
            Ok(_) => self.tally.taken += 1,
            Err(_) => self.tally.told += 1,
        }
        if item.is_ok() && self.flaw.is_some() && self.flaw_due() {
            match self.flaw {
                Some(Flaw::Swallows) => return,
                Some(Flaw::Redelivers) => self.app_gets(s, item.clone()),
                _ => {}
            }
        }
        self.app_gets(s, item);
    }

    fn app_gets(&mut self, s: usize, mut item: Item) {
        if let (Some(Flaw::Substitutes), Ok(received)) = (self.flaw, &mut item)
            && s == 0
            && let Some(other) = self.oracle.another_payload(&received.publisher, &received.message.payload)
        {
            received.message.payload = other;
        }
        self.say(|| format!("s{s}        takes {}", item_text(&item)));
        let subscriber = &mut self.subscribers[s];
        let result = match &item {
            Ok(received) => self.oracle.may_come(&subscriber.app, received),
            Err(_) => Ok(()),
        };
        subscriber.app.push(item.clone());
        if let Err((invariant, what)) = result {
            return self.broke(invariant, format!("s{s}: {what}"));
        }
        if let Err(event) = item {
            self.check_event(s, &event);
        }
    }

    /// What an honest broker gives nobody a reason to say.
    fn check_event(&mut self, s: usize, event: &Event) {
        if event.is_terminal() {
            self.tally.last_words += 1;
        }
        if !self.oracle.honest {
            return;
        }
        let me = self.subscribers[s].who.public();
        let durable = !self.oracle.memory;
        let wrong = match event {
            Event::Fork { .. }
            | Event::Rollback { .. }
            | Event::Broker { .. }
            | Event::State { .. }
            | Event::BadBatch { .. }
            | Event::Refused { .. }
            | Event::IdentityInUse => true,
            Event::Gap { why: GapReason::Corruption, .. } => true,
            // What retention took is told again after a restart, as missing.
            Event::Gap { why: GapReason::Missing, publisher, .. } => durable && !self.told_of(s, publisher),
            Event::Gap { why: GapReason::Retention, .. } => self.tally.trimmed == 0,
            Event::Removed | Event::NotAllowed { .. } => {
                !self.lost_role.contains(&me) && self.broker.role(&me).is_some()
            }
            _ => false,
        };
        if wrong {
            self.broke(Invariant::NoFalseAlarm, format!("s{s} was told: {event}"));
        }
    }

    /// Whether its application was told that retention took messages of this publisher.
    fn told_of(&self, s: usize, of: &PublicKey) -> bool {
        self.subscribers[s].app.iter().any(|item| {
            matches!(item, Err(Event::Gap { publisher, why: GapReason::Retention, .. }) if publisher == of)
        })
    }

    /// A save begins.
    pub(crate) fn save_begins(&mut self, s: usize) {
        let subscriber = &mut self.subscribers[s];
        let Some(run) = subscriber.run.as_mut() else { return };
        if run.saving.is_none() && run.inbox.ledger().take_dirty() {
            let bytes = run.inbox.ledger().cursor().encode().to_vec();
            run.saving = Some((bytes, subscriber.app.len()));
        }
    }

    /// A save is done.
    pub(crate) fn save_ends(&mut self, s: usize) {
        let subscriber = &mut self.subscribers[s];
        if let Some(save) = subscriber.run.as_mut().and_then(|run| run.saving.take()) {
            subscriber.disk = Some(save);
            self.say(|| format!("s{s}        has saved"));
        }
    }

    /// A subscription that ended is closed: what was taken is saved.
    pub(crate) fn subscriber_closes(&mut self, s: usize) {
        self.save_ends(s);
        self.save_begins(s);
        self.save_ends(s);
        self.subscribers[s].run = None;
        self.say(|| format!("s{s}        closes its subscription"));
    }

    pub(crate) fn tick_inbox(&mut self, s: usize) {
        let now = self.now;
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        run.tick_ms = now + run.inbox.tick_ms();
        self.inbox(s, Input::Tick);
    }

    /// The application is slow, or no longer is.
    pub(crate) fn pause(&mut self, s: usize) {
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        run.paused = !run.paused;
        let input = if run.paused { Input::Paused } else { Input::Resumed };
        self.inbox(s, input);
    }

    /// Gives the inbox one input and does what it wants.
    pub(crate) fn inbox(&mut self, s: usize, input: Input) {
        let mut effects = Effects::default();
        let now = self.now;
        let Some(run) = self.subscribers[s].run.as_mut() else { return };
        if run.ended {
            return;
        }
        run.inbox.handle(input, now, &mut effects);
        run.items.extend(effects.items);
        if self.flaw == Some(Flaw::Reorders) && run.items.len() > 1 {
            let last = run.items.len() - 1;
            run.items.swap(last, last - 1);
        }
        if effects.end {
            run.ended = true;
            run.link = None;
            (run.need, run.put) = (None, None);
            return;
        }
        run.need = effects.need.or(run.need);
        if let Some(why) = effects.resubscribe {
            self.say(|| format!("s{s}        begins again: {why}"));
            self.subscriber_cut(s);
        }
    }
}

pub(crate) fn described(reply: &Reply) -> String {
    match reply {
        Reply::Start(start) => format!(
            "start at {}, head {}, roster {}",
            start.start_offset, start.next_offset, start.roster_seq
        ),
        Reply::Roster(delivery) => {
            delivery.entry.peek().map_or("an entry".into(), |entry| format!("entry {}", entry.seq))
        }
        Reply::Epoch(delivery) => delivery.header.peek().map_or("a header".into(), |header| {
            let slot = if delivery.slot.is_some() { "with" } else { "without" };
            format!(
                "epoch {} of {} at {} {slot} a slot",
                header.epoch,
                header.publisher.short(),
                delivery.offset
            )
        }),
        Reply::Context(context) => context.epoch.header.peek().map_or("a context".into(), |header| {
            format!("context: epoch {} of {}", header.epoch, header.publisher.short())
        }),
        Reply::Record(offset, bytes) => match Reply::batch(bytes.clone()).map(|batch| batch.peek()) {
            Ok(Ok(batch)) => format!("batch {} of epoch {} at {offset}", batch.batch_no, batch.epoch),
            _ => format!("no batch at {offset}"),
        },
        Reply::Beacon(publisher, _) => format!("a beacon of {}", publisher.short()),
        Reply::Hole(from, to, why) => format!("a hole {from}..{to} ({why:?})"),
        Reply::AtHead { next_offset, .. } => format!("at head {next_offset}"),
        Reply::Head(_) => "a head".into(),
        Reply::Refused(refusal) => format!("refused: {:?}", refusal.code),
        _ => "something else".into(),
    }
}

pub(crate) fn item_text(item: &Item) -> String {
    match item {
        Ok(received) => format!(
            "message {} of {}: {}",
            received.seq,
            received.publisher.short(),
            crate::oracle::text(&received.message.payload)
        ),
        Err(event) => format!("an event: {event}"),
    }
}
