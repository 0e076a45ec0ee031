//! The end of a run: no more faults, everything comes to rest, and then it is counted.

use sealcast_proto::SlotSource;
use sealcast_proto::roster::Role;
use sealcast_subscriber::{Event, GapReason};

use crate::oracle::{Invariant, text, uncovered};
use crate::world::World;

/// Rounds after which a world that does not come to rest never will, a count: two minutes of its time.
const ROUNDS: u32 = 48;
/// Steps within one round, a count: no time passes meanwhile, so that they must come to an end.
const STEPS: u32 = 20_000;

impl World {
    /// Whoever died comes back; nothing breaks any more.
    pub(crate) fn come_to_rest(&mut self) {
        self.quiet = true;
        self.say(|| "          no more faults".into());
        for p in 0..self.publishers.len() {
            if self.publishers[p].run.is_none() {
                self.publisher_starts(p);
            }
        }
        for s in 0..self.subscribers.len() {
            match &self.subscribers[s].run {
                None => self.subscriber_starts(s),
                Some(run) if run.paused => self.pause(s),
                Some(_) => {}
            }
        }
        let rounds = if self.oracle.honest { ROUNDS } else { 6 };
        for round in 0..rounds {
            let mut steps = 0;
            while self.step() {
                steps += 1;
                if steps > STEPS {
                    return self.broke(Invariant::Liveness, "steps without end".into());
                }
            }
            if self.has_failed() || self.oracle.honest && round > 2 && self.unrest().is_none() {
                return;
            }
            let ms = (50 << round.min(6)).min(3_000);
            self.wait(ms..ms + 1);
        }
        if let Some(what) = self.unrest().filter(|_| self.oracle.honest) {
            self.broke(Invariant::Liveness, what);
        }
    }

    /// What has yet to be done.
    fn unrest(&self) -> Option<String> {
        for (p, publisher) in self.publishers.iter().enumerate() {
            let Some(run) = &publisher.run else { continue };
            if publisher.unanswered() > 0 {
                return Some(format!("{} messages of p{p} are not answered", publisher.unanswered()));
            }
            if run.link.is_none() || run.closing {
                return Some(format!("p{p} does not connect, or does not close"));
            }
        }
        for (a, admin) in self.admins.iter().enumerate() {
            if !admin.is_idle() {
                return Some(format!("a{a} has entries that nobody takes"));
            }
        }
        for (s, subscriber) in self.subscribers.iter().enumerate() {
            let Some(run) = &subscriber.run else { continue };
            if !run.ended && (run.link.is_none() || !run.inbox.is_at_head()) {
                return Some(format!("s{s} does not come to the head"));
            }
        }
        None
    }

    /// What was acknowledged reached every member entitled to it, once.
    pub(crate) fn check_delivery(&mut self) {
        let mut wrong = None;
        let mut expected = 0;
        for (s, subscriber) in self.subscribers.iter().enumerate() {
            let me = subscriber.who.public();
            let Some(run) = subscriber.run.as_ref().filter(|run| !run.ended) else { continue };
            let Some(start) = subscriber.start.filter(|_| run.inbox.is_at_head()) else { continue };
            if self.broker.role(&me) < Some(Role::Reader) {
                continue;
            }
            let ring = self.rings.get(&me).map(|ring| ring.load()).unwrap_or_default();
            let holds = |source| match source {
                SlotSource::Static => true,
                SlotSource::Prekey(id) => ring.secret(id).is_some(),
                SlotSource::Kek => false,
            };
            for ((publisher, seq), acked) in &self.oracle.acked {
                if acked.offset < start || self.oracle.memory && acked.lost {
                    continue;
                }
                let headers = self.oracle.by_epoch.get(&(*publisher, acked.epoch));
                let Some(hash) = headers.and_then(|all| all.last()) else { continue };
                let Some(taken) = self.oracle.headers.get(hash) else { continue };
                if !self.oracle.was_member(&me, &taken.header.roster_hash) {
                    continue;
                }
                expected += 1;
                let mine = subscriber.app.iter().flatten().filter(|got| got.message.payload == acked.payload);
                let count = mine.count();
                // What a `memory` topic's broker lost comes again after its publisher was told so; each time was judged.
                if count == 1 || count > 1 && self.oracle.memory {
                    continue;
                }
                let said: Vec<&Event> =
                    subscriber.app.iter().filter_map(|item| item.as_ref().err()).collect();
                let excused = |event: &&&Event| match event {
                    Event::Gap { publisher: of, why: GapReason::Retention, .. } => {
                        of == publisher && self.tally.trimmed > 0
                    }
                    Event::Locked { publisher: of, .. } => {
                        of == publisher && !self.oracle.can_open(&me, hash, &holds)
                    }
                    _ => false,
                };
                let said: Vec<&Event> = said.iter().filter(excused).copied().collect();
                if count > 1 || uncovered(&said, seq.0, seq.0 + 1).is_some() {
                    let what = format!(
                        "s{s} got {} ({}, message {seq} at {}) {count} times",
                        text(&acked.payload),
                        publisher.short(),
                        acked.offset
                    );
                    let invariant = if count > 1 { Invariant::NoDuplicate } else { Invariant::Delivery };
                    wrong = Some((invariant, what));
                }
            }
        }
        self.tally.expected += expected;
        if let Some((invariant, what)) = wrong {
            self.broke(invariant, what);
        }
    }
}
