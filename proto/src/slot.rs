//! The slot table: a flat array of 56-byte records sorted by member, each at most once.
//!
//! ```text
//! member u32 ‖ source u32 ‖ ct 48
//! ```
//! The broker cuts it up so that each subscriber downloads its own slot only (G2); it cannot open any.

use crate::hash::{HashLabel, Hasher, hash};
use crate::ids::{Hash, MemberIndex, SlotSource};
use crate::limits::SLOT_BYTES;

/// One member's wrapped key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// Whose.
    pub member: MemberIndex,
    /// Which key of that member's opens it.
    pub source: SlotSource,
    /// The wrapped seed and its tag.
    pub ct: [u8; 48],
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot(member {}, {:?})", self.member, self.source)
    }
}

impl Slot {
    /// The 56 bytes.
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        let (member, rest) = out.split_at_mut(4);
        let (source, ct) = rest.split_at_mut(4);
        member.copy_from_slice(&self.member.0.to_be_bytes());
        source.copy_from_slice(&self.source.to_u32().to_be_bytes());
        ct.copy_from_slice(&self.ct);
        out
    }

    /// Reads 56 bytes; `None` for any other length.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; SLOT_BYTES] = bytes.try_into().ok()?;
        let (member, rest) = bytes.split_first_chunk::<4>()?;
        let (source, ct) = rest.split_first_chunk::<4>()?;
        Some(Self {
            member: MemberIndex(u32::from_be_bytes(*member)),
            source: SlotSource::from_u32(u32::from_be_bytes(*source)),
            ct: ct.try_into().ok()?,
        })
    }
}

/// `H("slots", table)`.
pub fn table_hash(table: &[u8]) -> Hash {
    hash(HashLabel::Slots, &[table])
}

/// A table that is not what its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// More or fewer bytes than announced.
    #[error("the slot table is not as long as announced")]
    Length,
    /// Members do not strictly rise.
    #[error("the slot table's members do not rise")]
    Order,
    /// Its hash is not the announced one.
    #[error("the slot table does not hash to what its header says")]
    Hash,
}

/// Checks a slot table as it streams in, holding none of it: length, order, hash.
pub struct TableCheck {
    hasher: Hasher,
    left: u32,
    last: Option<u32>,
    expected: Hash,
}

impl TableCheck {
    /// Expects `slot_count` slots that hash to `slots_hash`.
    pub fn new(slot_count: u32, slots_hash: Hash) -> Self {
        let mut hasher = Hasher::new(HashLabel::Slots);
        // At most 4 M slots (limits::MAX_SLOTS) of 56 bytes: fits u32.
        hasher.begin_part(slot_count.saturating_mul(SLOT_BYTES as u32));
        Self { hasher, left: slot_count, last: None, expected: slots_hash }
    }

    /// Takes whole slots; returns the first member among them.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Option<MemberIndex>, TableError> {
        if !chunk.len().is_multiple_of(SLOT_BYTES) {
            return Err(TableError::Length);
        }
        let count = u32::try_from(chunk.len() / SLOT_BYTES).map_err(|_| TableError::Length)?;
        self.left = self.left.checked_sub(count).ok_or(TableError::Length)?;
        let mut first = None;
        for slot in chunk.chunks_exact(SLOT_BYTES) {
            let member = slot.first_chunk::<4>().map(|m| u32::from_be_bytes(*m)).ok_or(TableError::Length)?;
            if self.last.is_some_and(|last| last >= member) {
                return Err(TableError::Order);
            }
            self.last = Some(member);
            first = first.or(Some(MemberIndex(member)));
        }
        self.hasher.feed(chunk);
        Ok(first)
    }

    /// After the last chunk.
    pub fn finish(self) -> Result<(), TableError> {
        if self.left != 0 {
            return Err(TableError::Length);
        }
        if self.hasher.finish() != self.expected {
            return Err(TableError::Hash);
        }
        Ok(())
    }
}

/// The slot of `member` in a run of slots sorted by member.
pub fn find_slot(run: &[u8], member: MemberIndex) -> Option<Slot> {
    let slots = run.len() / SLOT_BYTES;
    let at = |i: usize| run.get(i * SLOT_BYTES..(i + 1) * SLOT_BYTES).and_then(Slot::decode);
    let (mut low, mut high) = (0, slots);
    while low < high {
        let mid = low + (high - low) / 2;
        let slot = at(mid)?;
        match slot.member.cmp(&member) {
            std::cmp::Ordering::Equal => return Some(slot),
            std::cmp::Ordering::Less => low = mid + 1,
            std::cmp::Ordering::Greater => high = mid,
        }
    }
    None
}
