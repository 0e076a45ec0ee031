//! What may never be. The oracle sees everything: what was published, what every member was entitled to, what the disk
//! holds and what every application took.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use sealcast_envelope::WrapTarget;
use sealcast_proto::object::{EpochHeader, Mode};
use sealcast_proto::roster::{Role, Roster};
use sealcast_proto::slot::Slot;
use sealcast_proto::{Epoch, Hash, MemberIndex, Offset, PublicKey, Seq, SlotSource};
use sealcast_publisher::internals::EpochWork;
use sealcast_subscriber::{Event, Item, Received};

use crate::hoard::Hoard;

/// What every payload begins with: nothing that the broker holds may contain it.
pub(crate) const MARK: &[u8] = b"plaintext of ";

/// A rule that every run keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Only members on the roster a message was sealed for can read it; with an honest broker, nobody who was removed
    /// before the broker took it.
    MembersOnly,
    /// After a verified removal its publisher seals nothing for an older roster.
    NothingSealedPastRemoval,
    /// Nothing that the broker holds contains what was published.
    NoPlaintext,
    /// No application gets a message twice.
    NoDuplicate,
    /// A message that does not come is announced to the application.
    NoSilentLoss,
    /// A publisher's messages come in the order of their numbers.
    Order,
    /// What was acknowledged is as safe as the topic's policy says.
    Durable,
    /// With an honest broker: an offset that was shown is that record's for good, even if a crash loses the record.
    OffsetsOnce,
    /// Whoever takes message n of a publisher takes the same one, and its publisher sent it.
    Agreement,
    /// With an honest broker: what was acknowledged reaches every member entitled to it once.
    Delivery,
    /// With an honest broker: nobody accuses it, and nobody gives up without a reason.
    NoFalseAlarm,
    /// With an honest broker and a quiet network: everything comes to rest, and what was sent is answered.
    Liveness,
    /// Nothing panics.
    NoPanic,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MembersOnly => "only members read",
            Self::NothingSealedPastRemoval => "nothing is sealed past a verified removal",
            Self::NoPlaintext => "no plaintext at the broker",
            Self::NoDuplicate => "no duplicate",
            Self::NoSilentLoss => "no silent loss",
            Self::Order => "per-publisher order",
            Self::Durable => "acknowledged is durable",
            Self::OffsetsOnce => "an offset is one record's",
            Self::Agreement => "everyone takes the same message n",
            Self::Delivery => "what was acknowledged reaches every member entitled to it",
            Self::NoFalseAlarm => "an honest broker is not accused",
            Self::Liveness => "everything comes to rest",
            Self::NoPanic => "nothing panics",
        })
    }
}

/// What may never be and was.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which rule.
    pub invariant: Invariant,
    /// How it was broken.
    pub what: String,
    /// In which step of the run.
    pub step: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] does not hold at step {}: {}", self.invariant, self.step, self.what)
    }
}

pub(crate) type Broken = (Invariant, String);

/// A header that the broker took.
pub(crate) struct TakenHeader {
    pub(crate) header: EpochHeader,
    pub(crate) hash: Hash,
    pub(crate) table: Bytes,
}

/// An acknowledged message.
pub(crate) struct Acked {
    pub(crate) payload: Bytes,
    pub(crate) offset: Offset,
    pub(crate) epoch: Epoch,
    /// A crash of a `memory` topic's broker lost it.
    pub(crate) lost: bool,
}

/// Who was a member as of a roster entry, by the entry's hash.
type Members = BTreeMap<PublicKey, (MemberIndex, Role)>;

/// See the module.
#[derive(Default)]
pub(crate) struct Oracle {
    /// Whose payload it is.
    sent: HashMap<Bytes, PublicKey>,
    members: HashMap<Hash, Members>,
    /// Every index that an identity ever had.
    pub(crate) indexes: BTreeMap<PublicKey, Vec<MemberIndex>>,
    pub(crate) headers: HashMap<Hash, TakenHeader>,
    /// A publisher's headers by epoch.
    pub(crate) by_epoch: BTreeMap<(PublicKey, Epoch), Vec<Hash>>,
    pub(crate) acked: BTreeMap<(PublicKey, Seq), Acked>,
    accepted: HashMap<(PublicKey, Epoch, Seq), Bytes>,
    by_seq: HashMap<(PublicKey, Seq), Bytes>,
    pub(crate) hoards: BTreeMap<PublicKey, Hoard>,
    /// Where a record was shown.
    shown: HashSet<Offset>,
    /// Whether the broker keeps what it acknowledged and shows it as it is.
    pub(crate) honest: bool,
    /// Whether the topic's policy lets it lose what was acknowledged.
    pub(crate) memory: bool,
}

impl Oracle {
    pub(crate) fn new(honest: bool, memory: bool) -> Self {
        Self { honest, memory, ..Self::default() }
    }

    pub(crate) fn sends(&mut self, publisher: PublicKey, payload: Bytes) {
        self.sent.insert(payload, publisher);
    }

    /// A record becomes readable at `offset`.
    pub(crate) fn shows(&mut self, offset: Offset) -> Result<(), Broken> {
        if self.honest && !self.shown.insert(offset) {
            return Err((
                Invariant::OffsetsOnce,
                format!("offset {offset} was shown as another record before"),
            ));
        }
        Ok(())
    }

    /// Something else that this publisher sent.
    pub(crate) fn another_payload(&self, publisher: &PublicKey, than: &Bytes) -> Option<Bytes> {
        let others = self.sent.iter().filter(|(payload, by)| *by == publisher && *payload != than);
        others.map(|(payload, _)| payload).min().cloned()
    }

    /// Adds a slot for somebody who had an index and has none as of the plan's roster.
    pub(crate) fn wrap_for_removed(&self, work: &mut EpochWork) {
        let removed = self.indexes.iter().find(|(who, _)| !self.was_member(who, &work.plan.roster_hash));
        let Some((who, indexes)) = removed else { return };
        if let Some(index) = indexes.first() {
            let x25519 = sealcast_envelope::WrapKey::of_identity(who);
            let target = WrapTarget { member: *index, identity: *who, source: SlotSource::Static, x25519 };
            work.targets.push(target);
            work.targets.sort_by_key(|target| target.member);
        }
    }

    /// The roster as it is after an entry, or at the beginning.
    pub(crate) fn roster_is(&mut self, roster: &Roster) {
        let members: Members =
            roster.members().map(|(index, member)| (member.identity, (index, member.role))).collect();
        for (identity, (index, _)) in &members {
            let held = self.indexes.entry(*identity).or_default();
            if !held.contains(index) {
                held.push(*index);
            }
        }
        self.members.insert(roster.chain().hash(), members);
    }

    pub(crate) fn was_member(&self, who: &PublicKey, roster: &Hash) -> bool {
        self.members.get(roster).is_some_and(|members| members.contains_key(who))
    }

    pub(crate) fn index_at(&self, who: &PublicKey, roster: &Hash) -> Option<MemberIndex> {
        Some(self.members.get(roster)?.get(who)?.0)
    }

    /// Whether an honest publisher gave `who` a way into this epoch for which `who` still holds the secret.
    pub(crate) fn can_open(&self, who: &PublicKey, hash: &Hash, holds: &dyn Fn(SlotSource) -> bool) -> bool {
        let Some(taken) = self.headers.get(hash) else { return false };
        let slot = self.slot(taken, who);
        if slot.is_some_and(|slot| holds(slot.source)) {
            return true;
        }
        let follows = match taken.header.mode {
            Mode::Fresh => false,
            Mode::Advance => self.was_member(who, &taken.header.roster_hash),
            Mode::Rewrap => slot.is_some_and(|slot| slot.source == SlotSource::Kek),
        };
        follows && self.can_open(who, &taken.header.prev_header_hash, holds)
    }

    fn slot(&self, taken: &TakenHeader, who: &PublicKey) -> Option<Slot> {
        let index = self.index_at(who, &taken.header.roster_hash)?;
        sealcast_proto::slot::find_slot(&taken.table, index)
    }

    /// Whether a message that arrives may come now, after what the application took before.
    pub(crate) fn may_come(&mut self, app: &[Item], new: &Received) -> Result<(), Broken> {
        let strict = self.honest && !self.memory;
        let payload = &new.message.payload;
        if self.sent.get(payload) != Some(&new.publisher) {
            return Err((Invariant::Agreement, format!("{} was never sent", text(payload))));
        }
        let number = (new.publisher, new.epoch, new.seq);
        let other = self.accepted.entry(number).or_insert_with(|| payload.clone());
        let mut same = *other == *payload;
        if strict {
            same &= self.by_seq.entry((new.publisher, new.seq)).or_insert_with(|| payload.clone()) == payload;
        }
        if !same {
            let what = format!("message {} is {} here and another elsewhere", new.seq, text(payload));
            return Err((Invariant::Agreement, what));
        }
        let mut broken = false;
        let mut last: Option<&Received> = None;
        let mut since: Vec<&Event> = Vec::new();
        for item in app.iter().rev() {
            match item {
                Ok(message) if message.publisher == new.publisher => {
                    last.get_or_insert(message);
                    let twice = (message.epoch, message.seq) == (new.epoch, new.seq)
                        || (strict || !broken) && message.message.payload == *payload;
                    if twice {
                        return Err((Invariant::NoDuplicate, format!("{} came twice", text(payload))));
                    }
                }
                Err(event) if event.publisher() == Some(new.publisher) => {
                    broken |= matches!(event, Event::Gap { .. } | Event::Truncated { .. });
                    if last.is_none() {
                        since.push(event);
                    }
                }
                _ => {}
            }
        }
        let Some(last) = last else { return Ok(()) };
        let again = !since.iter().any(|event| matches!(event, Event::Gap { .. } | Event::Truncated { .. }));
        if new.epoch < last.epoch || new.seq <= last.seq && (strict || again) {
            let what = format!("{} came after message {}", text(payload), last.seq);
            return Err((Invariant::Order, what));
        }
        if let Some(hole) = uncovered(&since, last.seq.0 + 1, new.seq.0) {
            let what =
                format!("message {hole} of {} did not come and nothing was said", new.publisher.short());
            return Err((Invariant::NoSilentLoss, what));
        }
        Ok(())
    }
}

/// The first number in `from .. to` that no event speaks of.
pub(crate) fn uncovered(events: &[&Event], mut from: u64, to: u64) -> Option<u64> {
    while from < to {
        let covered = |event: &&&Event| match event {
            Event::Gap { from: first, to, .. } | Event::Locked { from: first, to, .. } => {
                first.0 <= from && to.is_none_or(|to| from < to.0)
            }
            Event::BadBatch { from: first, to, .. } => first.0 <= from && from < to.0,
            Event::Refused { .. } | Event::Truncated { .. } => true,
            _ => false,
        };
        let event = events.iter().find(covered);
        from = match event {
            None => return Some(from),
            Some(Event::Gap { to: Some(to), .. } | Event::Locked { to: Some(to), .. }) => to.0,
            Some(Event::BadBatch { to, .. }) => to.0,
            Some(_) => to,
        };
    }
    None
}

pub(crate) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).into_owned()
}

/// Whether bytes that the broker got contain something that was published.
pub(crate) fn has_plaintext(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}
