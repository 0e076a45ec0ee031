//! The saved cursor's encoding. Every value passes [`crate::cursor`]'s checks on its way in.

use bytes::Bytes;

/// [`Publisher::state`]: `keys` is empty.
pub(crate) const LOCKED: u32 = 0;
/// [`Publisher::state`]: `keys` is the own slot, or empty.
pub(crate) const PENDING: u32 = 1;
/// [`Publisher::state`]: `keys` is an epoch receiver's snapshot.
pub(crate) const OPEN: u32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Cursor {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) topic: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(crate) mark_seq: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) mark_hash: Vec<u8>,
    #[prost(uint64, tag = "5")]
    pub(crate) mark_offset: u64,
    #[prost(bool, tag = "6")]
    pub(crate) mark_durable: bool,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) next_offset: Option<u64>,
    #[prost(message, optional, tag = "8")]
    pub(crate) partial: Option<Partial>,
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) chain: Vec<u8>,
    #[prost(message, repeated, tag = "10")]
    pub(crate) publishers: Vec<Publisher>,
    #[prost(bytes = "vec", optional, tag = "11")]
    pub(crate) tag: Option<Vec<u8>>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) acknowledged: Vec<Acknowledged>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Partial {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) record: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) events: u32,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) upto: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Acknowledged {
    #[prost(uint32, tag = "1")]
    pub(crate) id: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(crate) struct Publisher {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) header: Bytes,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) signature: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(crate) older: Vec<Vec<u8>>,
    #[prost(uint64, tag = "5")]
    pub(crate) next_batch_no: u64,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(crate) last_hash: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "7")]
    pub(crate) next_seq: Option<u64>,
    #[prost(bool, tag = "8")]
    pub(crate) unbroken: bool,
    #[prost(uint32, tag = "9")]
    pub(crate) suspect: u32,
    #[prost(bool, tag = "10")]
    pub(crate) gap_due: bool,
    #[prost(uint64, optional, tag = "11")]
    pub(crate) locked_from: Option<u64>,
    #[prost(bool, tag = "12")]
    pub(crate) locked_told: bool,
    #[prost(bool, tag = "13")]
    pub(crate) ended: bool,
    #[prost(bool, tag = "14")]
    pub(crate) stale_told: bool,
    #[prost(uint32, tag = "15")]
    pub(crate) state: u32,
    #[prost(bytes = "vec", tag = "16")]
    pub(crate) keys: Vec<u8>,
}

/// It holds secrets.
impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Publisher(..)")
    }
}
