//! The roster as the broker shows it: every entry checked, its history kept.

use std::collections::HashSet;

use super::finding::{Finding, Kind};
use super::report::{Changed, Entry, How, MAX_ENTRIES, MAX_NAMED};
use crate::frame::RosterDelivery;
use crate::identity::PublicKey;
use crate::ids::{Hash, MemberIndex, RosterSeq, TopicId};
use crate::object::{Genesis, RosterEntry, RosterHead, Signed};
use crate::policy::policy_hash;
use crate::roster::{Officer, Op, Role, Roster, RosterChain, RosterError, decode_ops, removes, roles_hash};

/// What is known of the roster: with the operations every member, without them the chain.
#[derive(Debug)]
enum Known {
    Members(Box<Roster>),
    Officers(Box<RosterChain>),
}

/// The roster, followed from the genesis.
#[derive(Debug)]
pub(super) struct Book {
    me: PublicKey,
    known: Known,
    /// Of every entry from 1: headers from before the stream's start name old ones.
    hashes: Vec<Hash>,
    ever_officers: HashSet<PublicKey>,
    pub(super) history: Vec<Entry>,
    pub(super) head: Option<RosterHead>,
    /// The entry that removed the identity that looks; nothing follows it.
    pub(super) removed: Option<RosterSeq>,
}

impl Book {
    pub(super) fn new(topic: TopicId, genesis: &Genesis, me: PublicKey) -> Self {
        Self {
            me,
            known: Known::Members(Box::new(Roster::new(topic, genesis))),
            hashes: Vec::new(),
            ever_officers: HashSet::from([genesis.owner]),
            history: Vec::new(),
            head: None,
            removed: None,
        }
    }

    pub(super) fn chain(&self) -> &RosterChain {
        match &self.known {
            Known::Members(roster) => roster.chain(),
            Known::Officers(chain) => chain,
        }
    }

    /// Every member, if the broker showed the operations.
    pub(super) fn roster(&self) -> Option<&Roster> {
        match &self.known {
            Known::Members(roster) => Some(roster),
            Known::Officers(_) => None,
        }
    }

    /// The hash of entry `seq`; of 0, the topic id.
    pub(super) fn hash(&self, seq: RosterSeq) -> Option<Hash> {
        match seq.0.checked_sub(1) {
            None => Some(Hash(self.chain().topic().0)),
            Some(at) => self.hashes.get(usize::try_from(at).ok()?).copied(),
        }
    }

    /// Whether an entry so far gave this identity a role above reader.
    pub(super) fn was_officer(&self, identity: &PublicKey) -> bool {
        self.ever_officers.contains(identity)
    }

    /// Takes the next entry, or says what is wrong with it; then nothing is changed.
    pub(super) fn entry(&mut self, delivery: &RosterDelivery) -> Result<(), Finding> {
        let lists = check_lists(delivery);
        if delivery.ops.is_none()
            && let Known::Members(roster) = &self.known
        {
            self.known = Known::Officers(Box::new(roster.chain().clone()));
        }
        let before = Before::of(self.chain());
        let roles = delivery.roles.as_deref();
        let applied = match (&mut self.known, &delivery.ops) {
            (Known::Members(roster), Some(ops)) => {
                roster.apply(&delivery.entry, ops).map(|change| change.entry)
            }
            (Known::Officers(chain), _) => chain.follow(&delivery.entry, roles, delivery.policy.as_deref()),
            (Known::Members(_), None) => Err(RosterError::MissingList("operations")),
        };
        let entry = applied.map_err(|error| finding(&error).at(delivery.offset))?;
        self.hashes.push(delivery.entry.hash());
        let officers: Vec<_> = self.chain().officers().iter().map(|officer| officer.identity).collect();
        self.ever_officers.extend(officers);
        let noted = self.note(&entry, delivery, &before);
        if self.history.len() < MAX_ENTRIES {
            self.history.push(noted);
        }
        lists.map_err(|finding| finding.at(delivery.offset))
    }

    fn note(&mut self, entry: &RosterEntry, delivery: &RosterDelivery, before: &Before) -> Entry {
        let mut noted = Entry {
            seq: entry.seq,
            offset: delivery.offset,
            time_ms: entry.time_ms,
            signer: entry.signer,
            added: u64::from(entry.next_member.0.saturating_sub(before.next_member.0)),
            removed: None,
            fence: entry.last_removal_seq == entry.seq,
            rotate: None,
            policy: entry.policy_hash != before.policy_hash,
            changed: Vec::new(),
        };
        // Operations that were checked: by the roster, or by their hash.
        let ops = delivery.ops.as_ref().filter(|ops| removes(entry, ops, &self.me).is_ok());
        match ops.and_then(|ops| decode_ops(ops).ok()) {
            Some(ops) => self.note_ops(&ops, entry, before, &mut noted),
            None => note_officers(&before.officers, self.chain().officers(), before.next_member, &mut noted),
        }
        noted
    }

    fn note_ops(&mut self, ops: &[Op], entry: &RosterEntry, before: &Before, noted: &mut Entry) {
        let (mut removed, mut next) = (0, before.next_member);
        noted.rotate = Some(ops.contains(&Op::Rotate));
        for op in ops {
            let changed = match op {
                Op::Add { identity, role } => {
                    let member = next;
                    next = next.next().unwrap_or(next);
                    if *identity == self.me {
                        self.removed = None;
                    }
                    Changed { how: How::Added, member, identity: *identity, role: Some(*role) }
                }
                Op::Remove { member, identity } => {
                    removed += 1;
                    if *identity == self.me {
                        self.removed = Some(entry.seq);
                    }
                    Changed { how: How::Removed, member: *member, identity: *identity, role: None }
                }
                Op::SetRole { member, identity, role } => {
                    Changed { how: How::Role, member: *member, identity: *identity, role: Some(*role) }
                }
                Op::SetPolicy(_) | Op::Rotate => continue,
            };
            if noted.changed.len() < MAX_NAMED {
                noted.changed.push(changed);
            }
        }
        noted.removed = Some(removed);
    }

    /// The role of `identity` at the head: of readers only where every member is shown.
    pub(super) fn role_of(&self, identity: &PublicKey) -> Option<Role> {
        let officer = self.chain().role_above_reader(identity);
        officer.or_else(|| Some(self.roster()?.find(identity)?.1.role))
    }

    /// Takes an admin's word for the head. One that names an older entry says nothing.
    pub(super) fn head(&mut self, head: &Signed<RosterHead>) -> Result<(), Finding> {
        match self.chain().verify_head(head) {
            Ok(head) => {
                self.head = Some(head);
                Ok(())
            }
            Err(RosterError::Known(_)) => Ok(()),
            Err(error) => Err(finding(&error)),
        }
    }
}

/// What an entry is compared with.
struct Before {
    next_member: MemberIndex,
    officers: Vec<Officer>,
    policy_hash: Hash,
}

impl Before {
    fn of(chain: &RosterChain) -> Self {
        Self {
            next_member: chain.next_member,
            officers: chain.officers().to_vec(),
            policy_hash: chain.policy_hash,
        }
    }
}

/// Without operations: what the roles list shows.
fn note_officers(before: &[Officer], after: &[Officer], next_member: MemberIndex, noted: &mut Entry) {
    let changed = |how, officer: &Officer, role| Changed {
        how,
        member: officer.member,
        identity: officer.identity,
        role,
    };
    for officer in after {
        let held = before.iter().find(|held| held.member == officer.member);
        if held.is_some_and(|held| held.role == officer.role) {
            continue;
        }
        let how = if officer.member >= next_member { How::Added } else { How::Role };
        noted.changed.push(changed(how, officer, Some(officer.role)));
    }
    let gone = before.iter().filter(|held| !after.iter().any(|officer| officer.member == held.member));
    noted.changed.extend(gone.map(|held| changed(How::NotOfficer, held, None)));
    noted.changed.truncate(MAX_NAMED);
}

/// Lists travel beside an entry, unsigned: those that came must be the ones it names.
fn check_lists(delivery: &RosterDelivery) -> Result<(), Finding> {
    let Ok(entry) = delivery.entry.peek() else { return Ok(()) };
    let other = |what: &str| {
        Err(Finding::new(Kind::Rule, format!("entry {} came with another {what} than it names", entry.seq)))
    };
    if delivery.roles.as_ref().is_some_and(|roles| roles_hash(roles) != entry.roles_hash) {
        return other("roles list");
    }
    if delivery.policy.as_ref().is_some_and(|policy| policy_hash(policy) != entry.policy_hash) {
        return other("policy");
    }
    Ok(())
}

fn finding(error: &RosterError) -> Finding {
    let kind = match error {
        RosterError::Malformed(_) | RosterError::TooMany(_) | RosterError::Policy(_) => Kind::Malformed,
        RosterError::Object(crate::object::ObjectError::Signature(_)) => Kind::Signature,
        RosterError::Object(_) => Kind::Malformed,
        RosterError::Topic => Kind::OutOfPlace,
        RosterError::Signer(_) => Kind::Role,
        RosterError::Missing { .. } | RosterError::MissingList(_) => Kind::Missing,
        RosterError::Fork(_) => Kind::Fork,
        RosterError::Known(_) => Kind::Replayed,
        RosterError::Derived(_) | RosterError::Rule(_) => Kind::Rule,
    };
    Finding::new(kind, format!("the roster: {error}"))
}
