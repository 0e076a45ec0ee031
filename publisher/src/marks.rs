//! What a publisher remembers so that it cannot be rolled back (docs/protocol.md section 6, Marks).

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use sealcast_proto::{Epoch, Hash, PublicKey, RosterSeq, Seq};

use crate::fork::Remembered;

/// Saved marks that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the saved marks are damaged")]
pub struct MarksError;

/// A position in a publisher's own stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The last accepted epoch.
    pub epoch: Epoch,
    /// Its header's hash.
    pub header_hash: Hash,
    /// Batches of it acknowledged.
    pub batches: u64,
    /// The last of them; the header's hash if there was none.
    pub last_hash: Hash,
}

/// What a publisher remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks {
    /// The newest roster entry verified.
    pub roster: Option<Remembered>,
    /// The newest position acknowledged.
    pub position: Option<Position>,
    /// The number the next message gets.
    pub next_seq: Seq,
    /// The newest header sent, and the number after the last message sealed before it. A broker that shows that header
    /// and no batch under it shows no number: this one goes on.
    pub coming: Option<(Epoch, Seq)>,
    /// The highest prekey id seen of each member.
    pub prekeys: HashMap<PublicKey, u32>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Saved {
    #[prost(uint64, tag = "1")]
    roster_seq: u64,
    #[prost(bytes = "vec", tag = "2")]
    roster_hash: Vec<u8>,
    #[prost(uint64, tag = "3")]
    epoch: u64,
    #[prost(bytes = "vec", tag = "4")]
    header_hash: Vec<u8>,
    #[prost(uint64, tag = "5")]
    batches: u64,
    #[prost(bytes = "vec", tag = "6")]
    last_hash: Vec<u8>,
    #[prost(uint64, tag = "7")]
    next_seq: u64,
    #[prost(message, repeated, tag = "8")]
    prekeys: Vec<SavedPrekey>,
    #[prost(bytes = "bytes", tag = "9")]
    roster_entry: Bytes,
    #[prost(uint64, tag = "10")]
    coming_epoch: u64,
    #[prost(uint64, tag = "11")]
    coming_seq: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SavedPrekey {
    #[prost(bytes = "vec", tag = "1")]
    owner: Vec<u8>,
    #[prost(uint32, tag = "2")]
    id: u32,
}

impl Marks {
    /// The bytes kept in the state directory.
    pub fn encode(&self) -> Vec<u8> {
        let mut saved = Saved { next_seq: self.next_seq.0, ..Saved::default() };
        if let Some(roster) = &self.roster {
            saved.roster_seq = roster.seq.0;
            saved.roster_hash = roster.hash.0.to_vec();
            saved.roster_entry = roster.record.clone();
        }
        if let Some(position) = self.position {
            saved.epoch = position.epoch.0;
            saved.header_hash = position.header_hash.0.to_vec();
            saved.batches = position.batches;
            saved.last_hash = position.last_hash.0.to_vec();
        }
        (saved.coming_epoch, saved.coming_seq) = self.coming.map_or((0, 0), |(epoch, seq)| (epoch.0, seq.0));
        saved.prekeys = self
            .prekeys
            .iter()
            .map(|(owner, id)| SavedPrekey { owner: owner.as_bytes().to_vec(), id: *id })
            .collect();
        saved.encode_to_vec()
    }

    /// Reads [`Marks::encode`]'s bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, MarksError> {
        let saved = Saved::decode(bytes).map_err(|_| MarksError)?;
        let hash = |bytes: &[u8]| Hash::try_from(bytes).map_err(|_| MarksError);
        let roster = match saved.roster_hash.as_slice() {
            [] => None,
            bytes => Some(Remembered {
                seq: RosterSeq(saved.roster_seq),
                hash: hash(bytes)?,
                record: saved.roster_entry,
            }),
        };
        let position = match saved.header_hash.as_slice() {
            [] => None,
            bytes => Some(Position {
                epoch: Epoch(saved.epoch),
                header_hash: hash(bytes)?,
                batches: saved.batches,
                last_hash: hash(&saved.last_hash)?,
            }),
        };
        let prekeys = saved
            .prekeys
            .iter()
            .map(|prekey| Ok((PublicKey::from_bytes(&prekey.owner).map_err(|_| MarksError)?, prekey.id)))
            .collect::<Result<_, _>>()?;
        // No epoch has number 0.
        let coming =
            Some((Epoch(saved.coming_epoch), Seq(saved.coming_seq))).filter(|(epoch, _)| epoch.0 > 0);
        Ok(Self { roster, position, next_seq: Seq(saved.next_seq), coming, prekeys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::Identity;

    #[test]
    fn marks_round_trip() {
        let marks = Marks {
            roster: Some(Remembered {
                seq: RosterSeq(7),
                hash: Hash([1; 32]),
                record: Bytes::from_static(b"a record"),
            }),
            position: Some(Position {
                epoch: Epoch(9),
                header_hash: Hash([2; 32]),
                batches: 3,
                last_hash: Hash([3; 32]),
            }),
            next_seq: Seq(44),
            coming: Some((Epoch(10), Seq(45))),
            prekeys: HashMap::from([(Identity::from_seed(&[1; 32]).public(), 5)]),
        };
        assert_eq!(Marks::decode(&marks.encode()), Ok(marks));
        assert_eq!(Marks::decode(&Marks::default().encode()), Ok(Marks::default()));
        assert_eq!(Marks::decode(&[0xff; 3]), Err(MarksError));
    }
}
