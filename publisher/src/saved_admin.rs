//! What an admin remembers: the newest entry it verified, and an entry it signed and does not know to be stored.

use bytes::Bytes;
use prost::Message as _;
use sealcast_proto::roster::EntryBundle;
use sealcast_proto::{Hash, RosterSeq};

use crate::fork::Remembered;
use crate::marks::MarksError;

/// What an admin remembers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdminMarks {
    pub mark: Option<Remembered>,
    /// Signed, saved, perhaps sent: it is sent again verbatim, because nothing is signed twice under one number.
    pub pending: Option<EntryBundle>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Saved {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(bytes = "vec", tag = "2")]
    hash: Vec<u8>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    pending: Option<Bytes>,
    #[prost(bytes = "bytes", tag = "4")]
    entry: Bytes,
}

impl AdminMarks {
    pub fn encode(&self) -> Vec<u8> {
        let mut saved = Saved { pending: self.pending.as_ref().map(EntryBundle::encode), ..Saved::default() };
        if let Some(mark) = &self.mark {
            (saved.seq, saved.hash, saved.entry) = (mark.seq.0, mark.hash.0.to_vec(), mark.record.clone());
        }
        saved.encode_to_vec()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, MarksError> {
        let saved = Saved::decode(bytes).map_err(|_| MarksError)?;
        let mark = match saved.hash.as_slice() {
            [] => None,
            hash => Some(Remembered {
                seq: RosterSeq(saved.seq),
                hash: Hash::try_from(hash).map_err(|_| MarksError)?,
                record: saved.entry,
            }),
        };
        let pending = saved.pending.map(EntryBundle::decode).transpose().map_err(|_| MarksError)?;
        Ok(Self { mark, pending })
    }
}
