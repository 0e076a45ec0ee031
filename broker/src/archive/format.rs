//! Items in a file: written one after the other, read one at a time.

use std::io::{Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::{Offset, limits};
use sha2::{Digest as _, Sha256};

use super::ArchiveError;

const MAGIC: &[u8] = b"sealcast export 1\n";
/// An item's payload, bytes: the largest record or bundle, and what stands before it.
const MAX_ITEM: usize = limits::MAX_ROSTER_FRAME + limits::MAX_RECORD_FRAME;

const END: u8 = 0;
const TOPIC: u8 = 1;
const ENTRY: u8 = 2;
const HEADER: u8 = 3;
const SLOTS: u8 = 4;
const DIGEST: u8 = 5;
const RECORD: u8 = 6;
const HEAD: u8 = 7;
const PREKEY: u8 = 8;
const DONE: u8 = 9;

/// One item; see [`crate::archive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Topic { first: Offset, next: Offset, genesis: Bytes },
    Entry { offset: Offset, bundle: Bytes },
    Header { offset: Offset, record: Bytes },
    Slots(Bytes),
    Digest { offset: Offset, digest: Bytes },
    Record { offset: Offset, stored_ms: u64, record: Bytes },
    Head(Bytes),
    Prekey(Bytes),
    Done,
}

impl Item {
    fn encode(&self) -> (u8, BytesMut) {
        let mut out = BytesMut::new();
        let kind = match self {
            Self::Topic { first, next, genesis } => {
                out.put_u64(first.0);
                out.put_u64(next.0);
                out.put_slice(genesis);
                TOPIC
            }
            Self::Entry { offset, bundle: bytes } | Self::Header { offset, record: bytes } => {
                out.put_u64(offset.0);
                out.put_slice(bytes);
                if matches!(self, Self::Entry { .. }) { ENTRY } else { HEADER }
            }
            Self::Digest { offset, digest } => {
                out.put_u64(offset.0);
                out.put_slice(digest);
                DIGEST
            }
            Self::Record { offset, stored_ms, record } => {
                out.put_u64(offset.0);
                out.put_u64(*stored_ms);
                out.put_slice(record);
                RECORD
            }
            Self::Slots(slots) => {
                out.put_slice(slots);
                SLOTS
            }
            Self::Head(kept) => {
                out.put_slice(kept);
                HEAD
            }
            Self::Prekey(kept) => {
                out.put_slice(kept);
                PREKEY
            }
            Self::Done => DONE,
        };
        (kind, out)
    }

    fn decode(kind: u8, mut payload: Bytes) -> Option<Self> {
        let mut number = || Some(u64::from_be_bytes(payload.split_to_checked(8)?.as_ref().try_into().ok()?));
        Some(match kind {
            TOPIC => {
                let (first, next) = (Offset(number()?), Offset(number()?));
                Self::Topic { first, next, genesis: payload }
            }
            ENTRY => Self::Entry { offset: Offset(number()?), bundle: payload },
            HEADER => Self::Header { offset: Offset(number()?), record: payload },
            SLOTS => Self::Slots(payload),
            DIGEST => Self::Digest { offset: Offset(number()?), digest: payload },
            RECORD => {
                let (offset, stored_ms) = (Offset(number()?), number()?);
                Self::Record { offset, stored_ms, record: payload }
            }
            HEAD => Self::Head(payload),
            PREKEY => Self::Prekey(payload),
            DONE if payload.is_empty() => Self::Done,
            _ => return None,
        })
    }
}

trait SplitChecked: Sized {
    fn split_to_checked(&mut self, n: usize) -> Option<Self>;
}

impl SplitChecked for Bytes {
    fn split_to_checked(&mut self, n: usize) -> Option<Self> {
        (self.len() >= n).then(|| self.split_to(n))
    }
}

/// Writes items, and keeps the checksum.
pub(super) struct Writer<W> {
    to: W,
    sum: Sha256,
    bytes: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(to: W) -> std::io::Result<Self> {
        let mut writer = Self { to, sum: Sha256::new(), bytes: 0 };
        writer.raw(MAGIC)?;
        Ok(writer)
    }

    fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.sum.update(bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        self.to.write_all(bytes)
    }

    pub(super) fn item(&mut self, item: &Item) -> std::io::Result<()> {
        let (kind, payload) = item.encode();
        self.raw(&[kind])?;
        let length = u32::try_from(payload.len()).map_err(std::io::Error::other)?;
        self.raw(&length.to_be_bytes())?;
        self.raw(&payload)
    }

    /// The end item; returns what was written to, and how much that was.
    pub(super) fn end(mut self) -> std::io::Result<(W, u64)> {
        let sum: [u8; 32] = std::mem::take(&mut self.sum).finalize().into();
        self.raw(&[END])?;
        self.raw(&32_u32.to_be_bytes())?;
        self.raw(&sum)?;
        self.to.flush()?;
        Ok((self.to, self.bytes))
    }
}

/// Reads items, and checks the checksum at the end.
pub(super) struct Reader<R> {
    from: R,
    sum: Sha256,
    pub(super) bytes: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(from: R) -> Result<Self, ArchiveError> {
        let mut reader = Self { from, sum: Sha256::new(), bytes: 0 };
        let mut magic = [0; MAGIC.len()];
        match reader.raw(&mut magic) {
            Ok(()) if magic == MAGIC => Ok(reader),
            _ => Err(ArchiveError::Format),
        }
    }

    fn raw(&mut self, bytes: &mut [u8]) -> Result<(), ArchiveError> {
        self.from
            .read_exact(bytes)
            .map_err(|error| ArchiveError::DamagedFile(format!("it cannot be read to its end: {error}")))?;
        self.sum.update(&*bytes);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// The next item; `None` at an end whose checksum holds.
    pub(super) fn item(&mut self) -> Result<Option<Item>, ArchiveError> {
        let damaged = |what: &str| ArchiveError::DamagedFile(what.into());
        let sum: [u8; 32] = self.sum.clone().finalize().into();
        let mut head = [0; 5];
        self.raw(&mut head)?;
        let [kind, length @ ..] = head;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_ITEM {
            return Err(damaged("an item is longer than any can be"));
        }
        let mut payload = vec![0; length];
        self.raw(&mut payload)?;
        if kind == END {
            let whole = payload == sum && self.from.read(&mut [0; 1]).is_ok_and(|read| read == 0);
            return if whole { Ok(None) } else { Err(damaged("its checksum does not hold")) };
        }
        Item::decode(kind, payload.into()).map(Some).ok_or_else(|| damaged("an item is malformed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let bytes = |n: u8| Bytes::from(vec![n; 70]);
        vec![
            Item::Topic { first: Offset(1), next: Offset(9), genesis: bytes(1) },
            Item::Entry { offset: Offset(2), bundle: bytes(2) },
            Item::Header { offset: Offset(3), record: bytes(3) },
            Item::Slots(bytes(4)),
            Item::Digest { offset: Offset(4), digest: bytes(5) },
            Item::Record { offset: Offset(5), stored_ms: 6, record: bytes(6) },
            Item::Head(bytes(7)),
            Item::Prekey(bytes(8)),
            Item::Done,
        ]
    }

    fn read(mut file: &[u8]) -> Result<Vec<Item>, ArchiveError> {
        let mut reader = Reader::new(&mut file)?;
        let mut out = Vec::new();
        while let Some(item) = reader.item()? {
            out.push(item);
        }
        Ok(out)
    }

    #[test]
    fn what_is_written_is_read_and_every_changed_or_missing_byte_is_noticed() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        for item in items() {
            writer.item(&item).unwrap();
        }
        let (file, bytes) = writer.end().unwrap();
        assert_eq!(file.len() as u64, bytes);
        assert_eq!(read(&file).unwrap(), items());
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            read(&changed).unwrap_err();
            read(&file[..at]).unwrap_err();
        }
        read(&[&file[..], b"more"].concat()).unwrap_err();
    }
}
