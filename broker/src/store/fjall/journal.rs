//! A torn tail that the engine does not get over by itself.
//!
//! When power fails during an fsync, the disk may hold the end of the batch being written but not its middle. No
//! acknowledgement depends on that batch. The engine (fjall 3.1) would drop a tail that it cannot parse, and whatever
//! follows it, without a word, or panic over it, or refuse to open; so that batch is cut off here. One that has an intact
//! batch after it was damaged later: that is left as it is, for people to look at.
//!
//! ```text
//! batch = 1 ‖ items u32 ‖ seqno u64 ‖ item… ‖ 3 ‖ xxh3(item…) u64 ‖ "FJL\x03"         little-endian
//! item  = 2 ‖ type u8 ‖ 0 ‖ keyspace u64 ‖ key_len u16 ‖ len u32 ‖ len u32 ‖ key ‖ value,  or  4 ‖ keyspace u64
//! ```

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
/// [`ErrorKind::InvalidData`]: a whole batch stands behind it, so that it is no torn tail, and what was acknowledged is
/// damaged.
pub(super) fn cut_unfinished(dir: &Path) -> std::io::Result<u64> {
    let Some(path) = newest(dir)? else { return Ok(0) };
    let len = std::fs::metadata(&path)?.len();
    let mut journal = Journal { reader: BufReader::new(File::open(&path)?), at: 0, len };
    let mut torn = None;
    loop {
        let begin = journal.at;
        match journal.batch() {
            Some(true) if torn.is_some() => return Err(damaged(torn.unwrap_or(begin))),
            Some(true) => {}
            Some(false) => torn = torn.or(Some(begin)),
            None => break,
        }
    }
    let (begin, whole) = (torn.unwrap_or(journal.at), journal.at);
    let mut file = OpenOptions::new().read(true).write(true).open(&path)?;
    file.seek(SeekFrom::Start(begin))?;
    // At most one journal, 64 MiB; its end is preallocated zeros.
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let Some(last) = rest.iter().rposition(|byte| *byte != 0) else { return Ok(0) };
    for at in ends(&rest) {
        let from = begin.saturating_add(at as u64);
        if from <= whole {
            continue;
        }
        let mut reader = BufReader::new(File::open(&path)?);
        reader.seek(SeekFrom::Start(from))?;
        if (Journal { reader, at: from, len }).batch() == Some(true) {
            return Err(damaged(begin));
        }
    }
    file.set_len(begin)?;
    file.sync_all()?;
    Ok(last as u64 + 1)
}

fn damaged(at: u64) -> std::io::Error {
    let what = format!("the journal is damaged at byte {at}, with whole writes behind it");
    std::io::Error::new(ErrorKind::InvalidData, what)
}

/// Where batches seem to end.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(END.len()).enumerate().filter(|(_, it)| *it == END).map(|(at, _)| at + END.len())
}

fn newest(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut newest: Option<(u64, PathBuf)> = None;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")).and_then(|number| number.parse().ok());
        if let Some(number) = number
            && newest.as_ref().is_none_or(|(highest, _)| *highest < number)
        {
            newest = Some((number, path));
        }
    }
    Ok(newest.map(|(_, path)| path))
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
