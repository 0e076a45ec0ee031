//! What a trimmed log must still say, where several brokers share its order: who reads that order from its beginning meets
//! a hole, and must then decide as those do who read what stood there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sealcast_proto::record::BatchDigest;
use sealcast_proto::{BatchNo, Epoch, Offset, PublicKey};

use super::Index;

/// A topic's log without its batches below a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// What stands below is gone, but for roster entries and the headers named here. A record stood right below.
    pub before: Offset,
    /// Every publisher with a header below.
    pub left: Vec<Left>,
}

/// Where a publisher stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Whose.
    pub publisher: PublicKey,
    /// Its headers that stay, of those below: their places, rising. Whatever else stands there was refused, or is no longer
    /// needed.
    pub headers: Vec<Offset>,
    /// The last batches below, of the newest of these headers: their places, rising, and [`BatchDigest::encode`]. The last one
    /// says where the publisher goes on, all of them that it is known when it sends them again.
    pub batches: Vec<(Offset, Bytes)>,
}

/// Batches named of each publisher, a count: what one has under way at most.
pub(crate) const REPEATS: u64 = 64;

impl Trim {
    /// `before 8 ‖ (publisher 32 ‖ headers 4 ‖ (place 8)… ‖ batches 4 ‖ (place 8 ‖ length 4 ‖ digest)…)…`
    pub(crate) fn encode(&self) -> Bytes {
        // Lists are far below 4 Gi.
        let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut out = BytesMut::new();
        out.put_u64(self.before.0);
        for left in &self.left {
            out.put_slice(left.publisher.as_bytes());
            out.put_u32(count(left.headers.len()));
            left.headers.iter().for_each(|place| out.put_u64(place.0));
            out.put_u32(count(left.batches.len()));
            for (place, digest) in &left.batches {
                out.put_u64(place.0);
                out.put_u32(count(digest.len()));
                out.put_slice(digest);
            }
        }
        out.freeze()
    }

    /// `None`: no broker of this version wrote it.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let before = Offset(bytes.try_get_u64().ok()?);
        let mut left = Vec::new();
        while !bytes.is_empty() {
            let publisher = PublicKey::from_bytes(&take(&mut bytes, 32)?).ok()?;
            let mut headers = Vec::new();
            for _ in 0..bytes.try_get_u32().ok()? {
                headers.push(Offset(bytes.try_get_u64().ok()?));
            }
            let mut batches = Vec::new();
            for _ in 0..bytes.try_get_u32().ok()? {
                let place = Offset(bytes.try_get_u64().ok()?);
                let len = usize::try_from(bytes.try_get_u32().ok()?).ok()?;
                batches.push((place, take(&mut bytes, len)?));
            }
            left.push(Left { publisher, headers, batches });
        }
        Some(Self { before, left })
    }

    /// Whether a publisher's header at `at` stays.
    pub(super) fn keeps(&self, publisher: &PublicKey, at: Offset) -> Option<&Left> {
        self.left.iter().find(|left| left.publisher == *publisher && left.headers.binary_search(&at).is_ok())
    }

    /// Whether anybody's does.
    pub(crate) fn keeps_any(&self, at: Offset) -> bool {
        self.left.iter().any(|left| left.headers.binary_search(&at).is_ok())
    }
}

impl Left {
    /// The last batch: what a lane is restored with.
    pub(super) fn last(&self) -> Option<(BatchDigest, Offset)> {
        let (place, digest) = self.batches.last()?;
        Some((BatchDigest::decode(digest)?, *place))
    }

    /// What goes into the index of batches whose records are gone.
    pub(super) fn indexes(&self) -> impl Iterator<Item = (Offset, Index)> + '_ {
        self.batches.iter().filter_map(|(place, digest)| {
            let (epoch, batch_no): (Epoch, BatchNo) =
                BatchDigest::decode(digest)?.peek().ok().map(|batch| (batch.epoch, batch.batch_no))?;
            let publisher = self.publisher;
            Some((*place, Index::Batch { publisher, epoch, batch_no, digest: digest.clone() }))
        })
    }
}

fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (bytes.len() >= len).then(|| bytes.split_to(len))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hand::key;

    fn left() -> impl Strategy<Value = Left> {
        let batch = (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9));
        let lists = (prop::collection::vec(any::<u64>(), 0..4), prop::collection::vec(batch, 0..4));
        (1u8..9, lists).prop_map(|(n, (headers, batches))| Left {
            publisher: key(n),
            headers: headers.into_iter().map(Offset).collect(),
            batches: batches.into_iter().map(|(place, digest)| (Offset(place), digest.into())).collect(),
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(before: u64, left in prop::collection::vec(left(), 0..4)) {
            let trim = Trim { before: Offset(before), left };
            prop_assert_eq!(Trim::decode(trim.encode()), Some(trim));
        }

        #[test]
        fn nonsense_is_nothing(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1_usize..40) {
            let _ = Trim::decode(bytes.into());
            let left = Left { publisher: key(3), headers: vec![Offset(1)], batches: vec![(Offset(2), Bytes::from_static(b"x"))] };
            let whole = Trim { before: Offset(3), left: vec![left] }.encode();
            prop_assert_eq!(Trim::decode(whole.slice(8..whole.len() - cut)), None);
        }
    }
}
