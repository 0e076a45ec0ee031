//! Numbers and names that cannot be mixed up.

use std::fmt;

use crate::limits;

/// Refusal of a text or byte string that should have been an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the right number of bytes.
    #[error("{what} is {len} bytes long; {expected} are needed")]
    Length {
        /// What was expected.
        what: &'static str,
        /// Bytes found.
        len: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// Not lower-case hexadecimal.
    #[error("{0} is not hexadecimal")]
    Hex(&'static str),
}

macro_rules! bytes32 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// All zeros: "none" where the protocol says so.
            pub const ZERO: Self = Self([0; 32]);

            /// The 32 bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Whether all bytes are zero.
            pub fn is_zero(&self) -> bool {
                *self == Self::ZERO
            }

            /// The first four bytes in hexadecimal, for logs and people.
            pub fn short(&self) -> String {
                hex(self.0.get(..4).unwrap_or_default())
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                <[u8; 32]>::try_from(bytes)
                    .map(Self)
                    .map_err(|_| IdError::Length { what: $what, len: bytes.len(), expected: 32 })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(unhex(text).ok_or(IdError::Hex($what))?.as_slice())
            }
        }
    };
}

bytes32!(
    /// A SHA-256 hash made by [`crate::hash`].
    Hash,
    "a hash"
);
bytes32!(
    /// The hash of a topic's genesis: whoever has it knows whose signatures to demand (G9).
    TopicId,
    "a topic id"
);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2)
        || !text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase())
    {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next one; `None` at the end of the range, which is an error everywhere.
            pub fn next(self) -> Option<Self> {
                self.plus(1)
            }

            /// `self + n`, checked.
            pub fn plus(self, n: $inner) -> Option<Self> {
                self.0.checked_add(n).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The broker's position of a record in a topic's log. Not signed, not trusted; rises, need not be dense.
    Offset,
    u64
);
number!(
    /// A message's number at its publisher, from 0. Signed; dense.
    Seq,
    u64
);
number!(
    /// Which key of a publisher. Signed; rises, not dense: about the milliseconds since 1970 when it began.
    Epoch,
    u64
);
number!(
    /// A batch's number within its epoch, from 0. Signed; dense.
    BatchNo,
    u64
);
number!(
    /// A roster entry's number, from 1; 0 is the genesis. Signed; dense.
    RosterSeq,
    u64
);
number!(
    /// A member's index on a roster. Rises with every addition, never used again.
    MemberIndex,
    u32
);

/// Where a slot's wrapping key comes from: a prekey, the static wrap key, or the ratcheted KEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotSource {
    /// The member's static wrap key.
    Static,
    /// The prekey with this id.
    Prekey(u32),
    /// The pairwise KEK.
    Kek,
}

impl SlotSource {
    /// As it stands in a slot: 0 static, 0xFFFFFFFF KEK, else the prekey id.
    pub fn to_u32(self) -> u32 {
        match self {
            Self::Static => 0,
            Self::Prekey(id) => id,
            Self::Kek => u32::MAX,
        }
    }

    /// From the number that stands in a slot.
    pub fn from_u32(source: u32) -> Self {
        match source {
            0 => Self::Static,
            u32::MAX => Self::Kek,
            id => Self::Prekey(id),
        }
    }
}

/// Whether `id` can number a prekey: it may be neither [`SlotSource::Static`] nor [`SlotSource::Kek`].
pub fn is_prekey_id(id: u32) -> bool {
    (1..=limits::MAX_PREKEY_ID).contains(&id)
}
