//! What the engine does not get over by itself: a torn tail, and damage.
//!
//! When power fails during an fsync, the disk may hold the end of the batch being written but not its middle. No
//! acknowledgement depends on that batch. The engine (fjall 3.1) would drop a tail that it cannot parse, and whatever
//! follows it, without a word, or panic over it, or refuse to open; so that batch is cut off here. One that has an intact
//! batch after it, or stands in an older journal (which was synced before the next one was begun), was damaged later: that
//! is left as it is, for people to look at.
//!
//! ```text
//! batch = 1 ‖ items u32 ‖ seqno u64 ‖ item… ‖ 3 ‖ xxh3(item…) u64 ‖ "FJL\x03"         little-endian
//! item  = 2 ‖ type u8 ‖ 0 ‖ keyspace u64 ‖ key_len u16 ‖ len u32 ‖ len u32 ‖ key ‖ value,  or  4 ‖ keyspace u64
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

/// The end of a batch.
const END: &[u8] = b"FJL\x03";

/// Cuts a last batch that is damaged or not whole off the newest journal in `dir`, before the engine sees it. Returns how
/// many bytes that were.
///
/// # Errors
/// [`ErrorKind::InvalidData`]: a whole batch or a newer journal stands behind it, so that it is no torn tail, and what was
/// acknowledged is damaged.
pub(super) fn cut_unfinished(dir: &Path) -> std::io::Result<u64> {
    let mut journals = journals(dir)?;
    let Some((_, newest)) = journals.pop_last() else { return Ok(0) };
    for sealed in journals.values() {
        let found = Found::read(sealed)?;
        // The next one is begun because it is full.
        if found.end().is_some() || found.begin == 0 {
            return Err(damaged(sealed, found.begin));
        }
    }
    let found = Found::read(&newest)?;
    let Found { begin, whole, len, .. } = found;
    if found.followed {
        return Err(damaged(&newest, begin));
    }
    let Some(torn) = found.end() else { return Ok(0) };
    for at in ends(&found.rest) {
        let from = begin.saturating_add(at as u64);
        if from <= whole {
            continue;
        }
        let mut reader = BufReader::new(File::open(&newest)?);
        reader.seek(SeekFrom::Start(from))?;
        if (Journal { reader, at: from, len }).batch() == Some(true) {
            return Err(damaged(&newest, begin));
        }
    }
    let file = OpenOptions::new().write(true).open(&newest)?;
    file.set_len(begin)?;
    file.sync_all()?;
    Ok(torn)
}

/// A journal as it was found.
struct Found {
    /// Where the first batch begins that is damaged or not whole; without one, where the last one ends.
    begin: u64,
    /// Where the last one ends whose end was found, damaged or not.
    whole: u64,
    /// Whether an intact batch follows a damaged one.
    followed: bool,
    len: u64,
    /// What stands from `begin` on. At most one journal, 64 MiB; its end is preallocated zeros.
    rest: Vec<u8>,
}

impl Found {
    fn read(path: &Path) -> std::io::Result<Self> {
        let len = std::fs::metadata(path)?.len();
        let mut journal = Journal { reader: BufReader::new(File::open(path)?), at: 0, len };
        let (mut torn, mut followed) = (None, false);
        loop {
            let begin = journal.at;
            match journal.batch() {
                Some(true) => followed |= torn.is_some(),
                Some(false) => torn = torn.or(Some(begin)),
                None => break,
            }
        }
        let begin = torn.unwrap_or(journal.at);
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(begin))?;
        let mut rest = Vec::new();
        file.read_to_end(&mut rest)?;
        Ok(Self { begin, whole: journal.at, followed, len, rest })
    }

    /// How many bytes of `rest` were written.
    fn end(&self) -> Option<u64> {
        self.rest.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
    }
}

fn damaged(journal: &Path, at: u64) -> std::io::Error {
    let what =
        format!("{} is damaged at byte {at}, and what stands behind it was acknowledged", journal.display());
    std::io::Error::new(ErrorKind::InvalidData, what)
}

/// Where batches seem to end.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(END.len()).enumerate().filter(|(_, it)| *it == END).map(|(at, _)| at + END.len())
}

/// The journals, the newest last.
fn journals(dir: &Path) -> std::io::Result<BTreeMap<u64, PathBuf>> {
    let mut journals = BTreeMap::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            journals.insert(number, path);
        }
    }
    Ok(journals)
}

struct Journal {
    reader: BufReader<File>,
    at: u64,
    len: u64,
}

impl Journal {
    /// Reads a batch; whether its checksum holds. `None` where no whole batch stands.
    fn batch(&mut self) -> Option<bool> {
        let begin = self.at;
        let intact = self.try_batch();
        if intact.is_none() {
            self.at = begin;
        }
        intact
    }

    fn try_batch(&mut self) -> Option<bool> {
        let [1, ..] = self.take::<13>()? else { return None };
        let mut checksum = Xxh3::new();
        loop {
            let [tag] = self.take()?;
            match tag {
                2 => {
                    let head: [u8; 20] = self.take()?;
                    checksum.update(&[tag]);
                    checksum.update(&head);
                    let (_, lens) = head.split_first_chunk::<10>()?;
                    let (key, lens) = lens.split_first_chunk::<2>()?;
                    let (_, value) = lens.split_first_chunk::<4>()?;
                    let value = u32::from_le_bytes(*value.first_chunk()?);
                    self.skim(u64::from(u16::from_le_bytes(*key)) + u64::from(value), &mut checksum)?;
                }
                4 => {
                    checksum.update(&[tag]);
                    checksum.update(&self.take::<8>()?);
                }
                3 => {
                    let expected = u64::from_le_bytes(self.take()?);
                    let whole = self.take::<4>()? == *END;
                    return whole.then(|| checksum.digest() == expected);
                }
                _ => return None,
            }
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).ok()?;
        self.at += N as u64;
        Some(bytes)
    }

    /// Feeds the next `n` bytes to the checksum, a piece at a time: `n` may be anything where the tail is torn.
    fn skim(&mut self, n: u64, checksum: &mut Xxh3) -> Option<()> {
        if n > self.len.saturating_sub(self.at) {
            return None;
        }
        let mut piece = [0; 4096];
        let mut left = n;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(piece.len()).min(piece.len());
            let piece = piece.get_mut(..now)?;
            self.reader.read_exact(piece).ok()?;
            checksum.update(piece);
            left -= now as u64;
        }
        self.at += n;
        Some(())
    }
}
