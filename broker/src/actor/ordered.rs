//! A topic whose order several brokers share: what comes from sessions is proposed, and handled only once it is read back,
//! as what other edges proposed is (crate::order).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::{Beacon, RosterHead};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{EntryBundle, Role};
use sealcast_proto::{BatchNo, Epoch, Offset, PublicKey, Signed};
use tokio::sync::{mpsc, oneshot};

use super::{Actor, Answer, Round, off_the_reactor};
use crate::clock::now_ms;
use crate::handle::{Offered, Read, ReadBack, Sign};
use crate::load;
use crate::lookup;
use crate::order::{Body, By, Order, Proposal, Proposed, unconfirmed};
use crate::store::{Budget, LogError, Write};
use crate::topic::{Incoming, Input, SessionId, Table, Ticket, Trim};

/// What the actor of such a topic holds beside what every actor does.
pub(super) struct Ordered {
    pub(super) order: Arc<Order>,
    lost: mpsc::UnboundedSender<Lost>,
    /// Own proposals that were not read back yet.
    under_way: BTreeSet<u64>,
    /// Signs of life that wait until what was sent before them was read back.
    signs: VecDeque<(u64, PublicKey, Signed<Beacon>)>,
    heads: HashMap<Ticket, oneshot::Sender<Result<(), Refusal>>>,
}

/// An own proposal that is not known to be stored.
pub(super) struct Lost {
    number: u64,
    whose: Whose,
    refusal: Refusal,
}

#[derive(Clone, Copy)]
enum Whose {
    Record(SessionId, (Epoch, Option<BatchNo>)),
    Entry(Ticket),
    Head(Ticket),
}

/// Of sessions and tickets of other edges there is none here.
const FOREIGN: u64 = 1 << 63;
/// Signs of life that wait at most, a count: late ones are worth nothing.
const SIGNS: usize = 64;

impl Ordered {
    pub(super) fn new(order: Arc<Order>) -> (Self, mpsc::UnboundedReceiver<Lost>) {
        let (lost, is_lost) = mpsc::unbounded_channel();
        let (under_way, signs, heads) = (BTreeSet::new(), VecDeque::new(), HashMap::new());
        (Self { order, lost, under_way, signs, heads }, is_lost)
    }

    /// A sender's number here, if this edge made the proposal; else one that nobody here has.
    fn sender(&self, by: By) -> u64 {
        if self.order.is_own(by) { by.sender } else { FOREIGN | (by.edge ^ by.sender.rotate_left(32)) }
    }
}

impl Actor {
    /// A record of a session of this edge.
    pub(super) fn propose_record(
        &mut self,
        session: SessionId,
        identity: PublicKey,
        offered: Offered,
        budget: Budget,
        round: &mut Round,
    ) {
        let (what, bytes, record) = match offered {
            Offered::Batch { claim, record } => {
                let batch = claim.batch();
                (Proposed::Batch, record, (batch.epoch, Some(batch.batch_no)))
            }
            Offered::Header(header) => {
                // Peeked at by its session.
                let Ok(parsed) = header.peek() else { return };
                let table = self.tables.find(&identity, &header);
                let parts = self.tables.parts(&identity, table);
                (Proposed::Header(parts), Record::Header(header).encode(), (parsed.epoch, None))
            }
        };
        if self.machine.has_failed() {
            let refusal = Refusal { record: Some(record), ..lookup::refusal(&LogError::Closed) };
            return round.answers.push((session, Answer::Refused(refusal)));
        }
        self.propose(what, identity, bytes, Whose::Record(session, record), Some(budget));
    }

    /// A roster entry from this edge: the admission is made here, by this edge's clock.
    pub(super) fn propose_entry(
        &mut self,
        ticket: Ticket,
        bundle: &EntryBundle,
        budget: Budget,
        round: &mut Round,
    ) {
        if let Err(refusal) = self.machine.admit_roster(bundle, now_ms()) {
            return round.entries.push((ticket, Err(refusal)));
        }
        // Whose word it is stands in the entry, signed.
        let author = bundle.entry.peek().map(|entry| entry.signer);
        let Ok(author) = author else {
            return round.entries.push((ticket, Err(Refusal::new(Code::Malformed, "no signer"))));
        };
        self.propose(Proposed::Roster, author, bundle.encode(), Whose::Entry(ticket), Some(budget));
    }

    /// A roster head from this edge.
    pub(super) fn propose_head(
        &mut self,
        identity: PublicKey,
        head: &Signed<RosterHead>,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let ticket = Ticket(self.next_ticket);
        if let Some(ordered) = &mut self.ordered {
            ordered.heads.insert(ticket, answer);
        }
        self.propose(Proposed::Head, identity, load::keep(head), Whose::Head(ticket), None);
    }

    fn propose(
        &mut self,
        what: Proposed,
        author: PublicKey,
        bytes: bytes::Bytes,
        whose: Whose,
        budget: Option<Budget>,
    ) {
        let Some(ordered) = &mut self.ordered else { return };
        let sender = match whose {
            Whose::Record(session, _) => session.0,
            Whose::Entry(ticket) | Whose::Head(ticket) => ticket.0,
        };
        let by = ordered.order.by(sender);
        ordered.under_way.insert(by.number);
        let lost = ordered.lost.clone();
        let lost = Box::new(move |error| {
            // Nobody listens once the broker is gone.
            let _ = lost.send(Lost { number: by.number, whose, refusal: unconfirmed(&error) });
        });
        let proposal = Proposal { by, what, author, body: Body::Inline(bytes) };
        ordered.order.propose(self.topic.id(), proposal, budget, lost);
    }

    /// An own proposal is not known to be stored: its sender comes again, and is told then what became of it.
    pub(super) fn lost(&mut self, lost: Lost, round: &mut Round) {
        self.returned(lost.number);
        match lost.whose {
            Whose::Record(session, record) => {
                let refusal = Refusal { record: Some(record), ..lost.refusal };
                round.answers.push((session, Answer::Refused(refusal)));
            }
            Whose::Entry(ticket) => round.entries.push((ticket, Err(lost.refusal))),
            Whose::Head(ticket) => self.head_done(ticket, Err(lost.refusal)),
        }
    }

    fn head_done(&mut self, ticket: Ticket, result: Result<(), Refusal>) {
        if let Some(answer) = self.ordered.as_mut().and_then(|ordered| ordered.heads.remove(&ticket)) {
            // Whoever no longer waits is gone.
            let _ = answer.send(result);
        }
    }

    /// A proposal, this edge's or another's, where it stands in the shared order.
    pub(super) fn read_back(&mut self, read: ReadBack, round: &mut Round) {
        let ReadBack { at, stored_ms, by, author, what, budget } = read;
        round.hold(budget);
        let Some(ordered) = &self.ordered else { return };
        let sender = ordered.sender(by);
        let (own, at) = (ordered.order.is_own(by), Offset(at));
        match what {
            Read::Batch { mut claim, record } => {
                if let Some(lane) = self.machine.acceptor().lane(&author) {
                    claim.verify(&lane.header_hash(), &lane.header().epoch_vk);
                }
                let incoming = Incoming::Batch { claim, record };
                let session = SessionId(sender);
                let input = Input::Publish { session, identity: author, incoming };
                self.handle_at(at, input, stored_ms, round);
            }
            Read::Header { header, table } => {
                // Its table's upload, if it was made here, is of no further use.
                if let Table::Staged(uploaded) = self.tables.find(&author, &header) {
                    self.tables.taken(&author, Some(uploaded));
                }
                let before = round.writes.len();
                let incoming = Incoming::Header { header, table };
                let session = SessionId(sender);
                let input = Input::Publish { session, identity: author, incoming };
                self.handle_at(at, input, stored_ms, round);
                if let (Table::Staged(table), true) = (table, round.writes.len() == before) {
                    self.drop_table(table);
                }
            }
            Read::Roster(bundle) => {
                let input = Input::Roster { ticket: Ticket(sender), bundle };
                off_the_reactor(|| self.handle_at(at, input, stored_ms, round));
            }
            Read::Head(head) => {
                let checked = self.check_head(&author, &head);
                if checked.is_ok() {
                    let write = Write::Head { topic: self.topic.id(), head: load::keep(&head) };
                    round.writes.push(write);
                    self.topic.put_head(head);
                }
                if own {
                    self.head_done(Ticket(sender), checked);
                }
            }
        }
        if own {
            self.returned(by.number);
        }
    }

    /// What the order says was trimmed before this edge read it.
    pub(super) fn missed(&mut self, trim: Trim, budget: Budget, round: &mut Round) {
        round.hold(budget);
        let mut effects = crate::topic::Effects::new();
        self.machine.miss(trim, &mut effects);
        self.follow(effects, round);
    }

    fn handle_at(&mut self, at: Offset, input: Input, stored_ms: u64, round: &mut Round) {
        let mut effects = crate::topic::Effects::new();
        self.machine.handle_at(at, input, stored_ms, &mut effects);
        self.follow(effects, round);
    }

    /// A publisher's sign of life: it may speak of what is under way, so it goes behind that.
    pub(super) fn propose_sign(&mut self, identity: PublicKey, beacon: Signed<Beacon>) {
        let Some(ordered) = &mut self.ordered else { return };
        if ordered.signs.len() >= SIGNS {
            ordered.signs.pop_front();
        }
        let after = ordered.under_way.last().copied().unwrap_or_default();
        ordered.signs.push_back((after, identity, beacon));
        self.tell_signs();
    }

    fn returned(&mut self, number: u64) {
        if let Some(ordered) = &mut self.ordered {
            ordered.under_way.remove(&number);
        }
        self.tell_signs();
    }

    /// Tells every edge of the signs of life that wait for nothing any more.
    fn tell_signs(&mut self) {
        let Some(ordered) = &mut self.ordered else { return };
        let first = ordered.under_way.first().copied().unwrap_or(u64::MAX);
        while ordered.signs.front().is_some_and(|(after, ..)| *after < first) {
            let Some((_, identity, beacon)) = ordered.signs.pop_front() else { return };
            if self.machine.acceptor().check_beacon(&identity, &beacon).is_none() {
                continue;
            }
            let sign = Sign { publisher: identity, beacon, after: self.machine.next_offset() };
            let (cluster, topic) = (ordered.order.cluster().clone(), self.topic.id());
            let bytes = sign.encode();
            tokio::spawn(async move { cluster.tell(&topic, bytes).await });
        }
    }

    /// A sign of life that came to an edge, this one or another.
    pub(super) fn sign(&self, sign: Sign) {
        // The edge that tells of it has what it counts; here that may still come.
        let known = || self.machine.acceptor().verify_beacon(&sign.publisher, &sign.beacon).is_some();
        if self.topic.has_listeners() && known() {
            let after = sign.after.max(self.machine.next_offset());
            self.topic.relay(Sign { after, ..sign });
        }
    }

    /// Whether a roster head may be put now.
    pub(super) fn check_head(&self, identity: &PublicKey, head: &Signed<RosterHead>) -> Result<(), Refusal> {
        let chain = self.machine.acceptor().roster().chain();
        if chain.role_above_reader(identity) != Some(Role::Admin) {
            return Err(Refusal::new(Code::NotAllowed, "only an admin's word counts"));
        }
        match chain.verify_head(head) {
            Ok(parsed) if parsed.seq == chain.seq() => Ok(()),
            Ok(_) => Err(Refusal::new(Code::RosterConflict, "the roster has moved on")),
            Err(error) => Err(Refusal::new(Code::RosterRule, error.to_string())),
        }
    }
}

/// A proposal's bytes, as the actor takes them; `None`: no edge of this version proposes that.
pub(crate) fn read(what: &Proposed, bytes: bytes::Bytes, table: Table) -> Option<Read> {
    Some(match what {
        Proposed::Batch => match Record::decode(bytes.clone()).ok()? {
            Record::Batch(batch) => {
                Read::Batch { claim: Box::new(BatchClaim::read(&batch).ok()?), record: bytes }
            }
            _ => return None,
        },
        Proposed::Header(_) => match Record::decode(bytes).ok()? {
            Record::Header(header) => Read::Header { header, table },
            _ => return None,
        },
        Proposed::Roster => Read::Roster(EntryBundle::decode(bytes).ok()?),
        Proposed::Head => Read::Head(load::kept(&bytes).ok()?),
        Proposed::Topic | Proposed::Prekey | Proposed::Trim => return None,
    })
}
