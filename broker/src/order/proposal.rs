//! What edges propose, and how it is written in the stream: `form 1 ‖ kind 1 ‖ edge 8 ‖ sender 8 ‖ number 8 ‖ author 32 ‖
//! table parts 4 ‖ (part 8)… ‖ body`, numbers big-endian; the body is `0` and its bytes, or `1` and its parts' places.

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::PublicKey;

/// The form written here.
const FORM: u8 = 1;

/// Something that is to stand in a topic's log, if it is accepted where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proposal {
    /// Whose it is.
    pub(crate) by: By,
    /// What.
    pub(crate) what: Proposed,
    /// Whose session or word it is: the key that was proven to the edge.
    pub(crate) author: PublicKey,
    /// Its bytes.
    pub(crate) body: Body,
}

/// Who waits for a proposal: the edge that made it finds its sender by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct By {
    /// Which edge; another number at each start.
    pub(crate) edge: u64,
    /// Which publish stream or ticket there.
    pub(crate) sender: u64,
    /// Which of the edge's proposals.
    pub(crate) number: u64,
}

/// What is proposed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proposed {
    /// A topic: its genesis as the store keeps it.
    Topic,
    /// A roster entry: `EntryBundle::encode()`.
    Roster,
    /// A header's record, and where the parts of its slot table stand.
    Header(Vec<u64>),
    /// A batch's record.
    Batch,
    /// A roster head as the store keeps it.
    Head,
    /// A prekey as the store keeps it.
    Prekey,
    /// What is gone of the topic's log: `Trim::encode()`.
    Trim,
}

/// A proposal's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// Here.
    Inline(Bytes),
    /// In these parts, in this order.
    Parts(Vec<u64>),
}

/// How long something is kept in the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Batches: by the topic's retention.
    Batch,
    /// Those that are in parts.
    Large,
    /// Headers: as long as a batch that is kept needs them.
    Header,
    /// Topics, roster entries and heads: for ever.
    Kept,
    /// The highest of its topic.
    Trim,
    /// The newest of its owner.
    Prekey,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Batch, Self::Large, Self::Header, Self::Kept, Self::Trim, Self::Prekey];

    pub(super) fn token(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Large => "large",
            Self::Header => "header",
            Self::Trim => "trim",
            Self::Kept => "kept",
            Self::Prekey => "prekey",
        }
    }
}

impl Proposed {
    fn number(&self) -> u8 {
        match self {
            Self::Topic => 1,
            Self::Roster => 2,
            Self::Header(_) => 3,
            Self::Batch => 4,
            Self::Head => 5,
            Self::Prekey => 6,
            Self::Trim => 7,
        }
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Batch => Kind::Batch,
            Self::Prekey => Kind::Prekey,
            Self::Header(_) => Kind::Header,
            Self::Trim => Kind::Trim,
            Self::Topic | Self::Roster | Self::Head => Kind::Kept,
        }
    }
}

impl Body {
    /// Bytes here.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Inline(bytes) => bytes.len(),
            Self::Parts(parts) => parts.len() * 8,
        }
    }
}

/// Bytes of a proposal beside its body and its table's parts.
pub(super) const BESIDE: usize = 1 + 1 + 3 * 8 + 32 + 4 + 1;

impl Proposal {
    pub(super) fn encode(&self) -> Bytes {
        let table: &[u64] = if let Proposed::Header(table) = &self.what { table } else { &[] };
        let mut out = BytesMut::with_capacity(BESIDE + table.len() * 8 + self.body.len());
        out.put_u8(FORM);
        out.put_u8(self.what.number());
        for number in [self.by.edge, self.by.sender, self.by.number] {
            out.put_u64(number);
        }
        out.put_slice(self.author.as_bytes());
        // A message, and with it this list, is far below 4 GiB.
        out.put_u32(u32::try_from(table.len()).unwrap_or(u32::MAX));
        table.iter().for_each(|part| out.put_u64(*part));
        match &self.body {
            Body::Inline(bytes) => {
                out.put_u8(0);
                out.put_slice(bytes);
            }
            Body::Parts(parts) => {
                out.put_u8(1);
                parts.iter().for_each(|part| out.put_u64(*part));
            }
        }
        out.freeze()
    }

    /// `None`: no broker of this version wrote it.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let ([FORM, kind], rest) = bytes.split_first_chunk::<2>()? else { return None };
        let (edge, rest) = number(rest)?;
        let (sender, rest) = number(rest)?;
        let (name, rest) = number(rest)?;
        let (author, rest) = rest.split_first_chunk::<32>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let table = usize::try_from(u32::from_be_bytes(*count)).ok()?.checked_mul(8)?;
        let (table, rest) = rest.split_at_checked(table)?;
        let table = places(table)?;
        let (form, body) = rest.split_first()?;
        let what = match kind {
            1 => Proposed::Topic,
            2 => Proposed::Roster,
            3 => Proposed::Header(table),
            4 => Proposed::Batch,
            5 => Proposed::Head,
            6 => Proposed::Prekey,
            7 => Proposed::Trim,
            _ => return None,
        };
        let body = match form {
            0 => Body::Inline(bytes.slice_ref(body)),
            1 => Body::Parts(places(body)?),
            _ => return None,
        };
        let by = By { edge, sender, number: name };
        Some(Self { by, what, author: PublicKey::from_bytes(author).ok()?, body })
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*number), rest))
}

fn places(bytes: &[u8]) -> Option<Vec<u64>> {
    let (places, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| places.iter().map(|place| u64::from_be_bytes(*place)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hand::key;

    fn what() -> impl Strategy<Value = Proposed> {
        prop_oneof![
            Just(Proposed::Topic),
            Just(Proposed::Roster),
            prop::collection::vec(any::<u64>(), 0..5).prop_map(Proposed::Header),
            Just(Proposed::Batch),
            Just(Proposed::Head),
            Just(Proposed::Prekey),
            Just(Proposed::Trim),
        ]
    }

    fn body() -> impl Strategy<Value = Body> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..99).prop_map(|bytes| Body::Inline(bytes.into())),
            prop::collection::vec(any::<u64>(), 0..5).prop_map(Body::Parts),
        ]
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(what in what(), body in body(), by: (u64, u64, u64)) {
            let by = By { edge: by.0, sender: by.1, number: by.2 };
            let proposal = Proposal { by, what, author: key(3), body };
            prop_assert_eq!(Proposal::decode(&proposal.encode()), Some(proposal));
        }

        #[test]
        fn nonsense_is_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..80) {
            let _ = Proposal::decode(&bytes.into());
            let by = By { edge: 1, sender: 2, number: 3 };
            let body = Body::Parts(vec![4]);
            let whole = Proposal { by, what: Proposed::Header(vec![5]), author: key(3), body }.encode();
            let short = whole.slice(..whole.len().saturating_sub(cut + 1));
            // Cut behind the table's parts it may be a proposal without a body, never this one.
            prop_assert_ne!(Proposal::decode(&short), Proposal::decode(&whole));
        }
    }
}
