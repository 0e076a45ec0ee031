//! A publisher's key-encryption keys (KEKs): what makes a rekey symmetric (docs/protocol.md section 6, *rewrap*).
//!
//! ```text
//! DH slot (fresh, newcomer, new prekey) ──seeds──► kek[g] ──rewrap──► kek[g+1] ──rewrap──► kek[g+2] …
//! ```
//! One a member, all at one generation, in memory only: a publisher that restarts begins with a fresh epoch. A KEK is
//! known to the publisher and that one member, so a rewrap that leaves a member out is one it cannot open, whatever it
//! held, alone or together with others that were left out.

use sealcast_proto::{MemberIndex, SlotSource};
use zeroize::Zeroizing;

use crate::derive::Kek;
use crate::secret::opaque_debug;
use crate::wrap::WrapTarget;

/// How a KEK came to be what it is after an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// The one before, stepped: its member can step it too, whether it saw this epoch or not.
    Stepped,
    /// Seeded by a DH slot of this epoch: worth something once the epoch is accepted.
    New,
}

/// One member's KEK.
pub(crate) struct Entry {
    pub(crate) member: MemberIndex,
    /// The key whose DH slot seeded it.
    pub(crate) source: SlotSource,
    pub(crate) kek: Kek,
    pub(crate) origin: Origin,
}

impl Entry {
    /// A place for the KEK of `target`.
    pub(crate) fn empty(target: &WrapTarget) -> Self {
        let (member, source) = (target.member, target.source);
        Self { member, source, kek: Kek(Zeroizing::new([0; 32])), origin: Origin::New }
    }

    /// For a buffer of another size; the original is wiped where it stands.
    pub(crate) fn copy(&self) -> Self {
        let Self { member, source, origin, .. } = *self;
        Self { member, source, kek: Kek(self.kek.0.clone()), origin }
    }

    /// Whether a KEK slot will do for `target`: it has no newer key than the one that seeded this.
    pub(crate) fn serves(&self, target: &WrapTarget) -> bool {
        (self.member, self.source) == (target.member, target.source)
    }
}

/// Every member's KEK, at one generation; rising by member. Wiped on drop.
pub struct Keks {
    generation: u32,
    entries: Vec<Entry>,
}

opaque_debug!(Keks);

impl Keks {
    pub(crate) fn new(generation: u32, entries: Vec<Entry>) -> Self {
        Self { generation, entries }
    }

    /// The next header's `kek_gen`.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Members with a KEK.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A member was removed: its KEK is wiped at once, whatever becomes of the next epoch.
    pub fn forget(&mut self, member: MemberIndex) {
        if let Ok(at) = self.entries.binary_search_by_key(&member, |entry| entry.member)
            && let Some(entry) = self.entries.get_mut(at)
        {
            // No target has this source; and the others need not move, which would leave copies behind.
            (entry.source, entry.kek) = (SlotSource::Kek, Kek(Zeroizing::new([0; 32])));
        }
    }

    /// Those from the first of `targets` on.
    pub(crate) fn from(&self, targets: &[WrapTarget]) -> &[Entry] {
        let first = targets.first().map(|target| target.member);
        let at = first.map_or(0, |first| self.entries.partition_point(|entry| entry.member < first));
        self.entries.get(at..).unwrap_or_default()
    }

    /// Whether any of `targets` needs a DH slot.
    pub(crate) fn misses_any(&self, targets: &[WrapTarget]) -> bool {
        let mut held = self.from(targets).iter().peekable();
        targets.iter().any(|target| {
            while held.next_if(|entry| entry.member < target.member).is_some() {}
            !held.peek().is_some_and(|entry| entry.serves(target))
        })
    }

    fn put(&mut self, new: Vec<Entry>) {
        let mut all: Vec<Entry> = Vec::with_capacity(self.entries.len() + new.len());
        // Copies, not moves: what is moved out of a vector stays behind in its buffer.
        let (mut old, mut new) = (self.entries.iter().peekable(), new.iter().peekable());
        while let Some(entry) = match (old.peek(), new.peek()) {
            (Some(held), Some(fresh)) if held.member < fresh.member => old.next(),
            (Some(held), Some(fresh)) if held.member == fresh.member => {
                old.next();
                new.next()
            }
            (Some(_), None) => old.next(),
            (_, _) => new.next(),
        } {
            all.push(entry.copy());
        }
        self.entries = all;
    }
}

/// What an epoch makes of the KEKs, once its header is accepted or refused.
pub struct KekChange(pub(crate) Change);

opaque_debug!(KekChange);

pub(crate) enum Change {
    /// A fresh epoch, or a rewrap: everybody's.
    All(Keks),
    /// An advance: those of the newcomers, at the generation of the others.
    Newcomers(Vec<Entry>),
}

impl KekChange {
    /// The header was accepted: what holds from now on. `held` is what was held when the epoch was made.
    pub fn accepted(self, held: Option<Keks>) -> Option<Keks> {
        match self.0 {
            Change::All(keks) => Some(keks),
            Change::Newcomers(new) => held.map(|mut held| {
                held.put(new);
                held
            }),
        }
    }

    /// A header that was signed was refused. It is dead, and so is every KEK that its DH slots seeded; but a rewrap's
    /// KEKs step all the same, so that no generation wraps twice.
    pub fn refused(self, held: Option<Keks>) -> Option<Keks> {
        match self.0 {
            Change::All(keks) => {
                let stepped = keks.entries.iter().filter(|entry| entry.origin == Origin::Stepped);
                let entries: Vec<Entry> = stepped.map(Entry::copy).collect();
                (!entries.is_empty()).then(|| Keks::new(keks.generation, entries))
            }
            Change::Newcomers(_) => held,
        }
    }
}
