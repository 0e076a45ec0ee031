//! An admin: it verifies the roster, signs the next entry, saves it, and sends those bytes until they are answered.

use std::collections::VecDeque;
use std::sync::Arc;

use rand::RngExt as _;
use sealcast_broker::internals::rosters;
use sealcast_broker::topic::Ticket;
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::RosterHead;
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};
use sealcast_proto::{Identity, Offset, PublicKey, RosterSeq, Signed};

use crate::oracle::Invariant;
use crate::world::World;

/// What somebody asks an admin for.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// A member of this role, whatever it was before.
    Add(PublicKey, Role),
    /// No member.
    Remove(PublicKey),
    /// Fresh epochs everywhere.
    Rotate,
    /// Another policy.
    SetPolicy(Policy),
    /// A signed head.
    Head,
}

/// See the module.
pub(crate) struct Admin {
    pub(crate) who: Arc<Identity>,
    roster: Roster,
    /// Signed and saved; perhaps stored.
    pub(crate) pending: Option<EntryBundle>,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) wishes: VecDeque<Wish>,
    pub(crate) retry_ms: u64,
    /// It was shown less than before, or something else: it does nothing more.
    stopped: bool,
}

impl Admin {
    pub(crate) fn new(who: Arc<Identity>, roster: Roster) -> Self {
        Self {
            who,
            roster,
            pending: None,
            ticket: None,
            wishes: VecDeque::new(),
            retry_ms: 0,
            stopped: false,
        }
    }

    pub(crate) fn has_work(&self, now_ms: u64) -> bool {
        let waits = self.ticket.is_none() && (self.pending.is_some() || !self.wishes.is_empty());
        !self.stopped && waits && now_ms >= self.retry_ms
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.stopped || self.pending.is_none() && self.wishes.is_empty()
    }
}

impl World {
    /// One step of an admin.
    pub(crate) fn admin_acts(&mut self, a: usize) {
        if self.admins[a].pending.is_none() {
            self.admin_looks(a);
            self.admin_signs(a);
        }
        let who = self.admins[a].who.public();
        let Some(bundle) = self.admins[a].pending.clone() else { return };
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.admins[a].ticket = Some(ticket);
        if self.put_entry(&who, ticket, &bundle).is_none() {
            let refusal = Refusal::new(Code::NotAllowed, "no admin");
            self.entry_answered(ticket, Err(refusal));
        }
    }

    /// It reads and verifies what it does not hold.
    fn admin_looks(&mut self, a: usize) {
        let (id, log) = (self.broker.origin.id, &self.broker.disk.log);
        let admin = &mut self.admins[a];
        let (held, through) = (admin.roster.chain().seq(), self.broker.index.head());
        if through < held {
            admin.stopped = true;
            return self.broker_accused("an admin", "its roster was rolled back");
        }
        let from = RosterSeq(held.0 + 1);
        for item in rosters(log, id, from, through, 1 << 20).expect("entries can be read") {
            if let Err(error) = admin.roster.apply(&item.entry, &item.ops) {
                admin.stopped = true;
                return self.broker_accused("an admin", &error.to_string());
            }
        }
    }

    fn admin_signs(&mut self, a: usize) {
        let now = self.now;
        let admin = &mut self.admins[a];
        let me = admin.who.public();
        let Some(wish) = admin.wishes.pop_front().filter(|_| !admin.stopped) else { return };
        if admin.roster.chain().role_above_reader(&me) != Some(Role::Admin) {
            return;
        }
        let ops = match &wish {
            Wish::Add(identity, role) => match admin.roster.find(identity) {
                None => vec![Op::Add { identity: *identity, role: *role }],
                Some((_, member)) if member.role == *role => return,
                Some((member, _)) => vec![Op::SetRole { member, identity: *identity, role: *role }],
            },
            Wish::Remove(identity) => match admin.roster.find(identity) {
                None => return,
                Some((member, _)) => vec![Op::Remove { member, identity: *identity }],
            },
            Wish::Rotate => vec![Op::Rotate],
            Wish::SetPolicy(policy) => vec![Op::SetPolicy(policy.clone().into())],
            Wish::Head => {
                let chain = admin.roster.chain();
                let head = RosterHead {
                    topic: chain.topic(),
                    seq: chain.seq(),
                    hash: chain.hash(),
                    signer: me,
                    time_ms: now,
                };
                let head = Signed::sign(&head, admin.who.signing_key());
                self.say(|| format!("a{a}        signs the head"));
                return self.put_head(&me, &head);
            }
        };
        // The last admin cannot go, for one: then it was never asked for.
        if let Ok(bundle) = admin.roster.sign(&ops, &admin.who, now) {
            admin.pending = Some(bundle);
            self.say(|| format!("a{a}        signs {wish:?}"));
            self.noticed(&ops);
        }
    }

    /// An entry was answered.
    pub(crate) fn entry_answered(&mut self, ticket: Ticket, result: Result<Offset, Refusal>) {
        let now = self.now;
        let lost = self.rng.random_bool(0.1);
        let Some(a) = self.admins.iter().position(|admin| admin.ticket == Some(ticket)) else { return };
        let admin = &mut self.admins[a];
        admin.ticket = None;
        if lost && !self.quiet {
            return; // The answer is; it will ask again.
        }
        match result {
            Ok(offset) => {
                admin.pending = None;
                if !self.broker.disk.is_safe(offset) && self.oracle.honest {
                    self.broke(
                        Invariant::Durable,
                        format!("roster entry at {offset} was acknowledged unsafe"),
                    );
                }
            }
            Err(refusal) => match refusal.code {
                Code::Busy | Code::ReadOnly | Code::Draining => {
                    admin.retry_ms = now + refusal.retry_after_ms.max(100);
                }
                _ => {
                    self.say(|| format!("a{a}        is refused: {:?} {}", refusal.code, refusal.detail));
                    self.admins[a].pending = None;
                }
            },
        }
    }

    /// Somebody may lose a role: what it is told then is no false alarm.
    fn noticed(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Remove { identity, .. } | Op::SetRole { identity, .. } => {
                    self.lost_role.insert(*identity);
                }
                Op::Add { .. } | Op::SetPolicy(_) | Op::Rotate => {}
            }
        }
    }

    fn broker_accused(&mut self, by: &str, what: &str) {
        self.say(|| format!("{by} stops: {what}"));
        if self.oracle.honest {
            self.broke(Invariant::NoFalseAlarm, format!("{by} stopped: {what}"));
        }
    }
}
