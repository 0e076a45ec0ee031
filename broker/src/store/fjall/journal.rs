//! A torn tail that the engine does not get over by itself.
//!
//! When power fails during an fsync, the disk may hold the end of the batch being written but not its middle. No
//! acknowledgement depends on that batch. The engine (fjall 3.1) drops a tail it cannot parse, but refuses to open over
//! one that parses and has a wrong checksum; so that batch is cut off here. One that has an intact batch after it
//! was damaged later: that is left as it is, for people to look at.
//!
//! ```text
//! batch = 1 ‖ items u32 ‖ seqno u64 ‖ item… ‖ 3 ‖ xxh3(item…) u64 ‖ "FJL\x03"         little-endian
//! item  = 2 ‖ type u8 ‖ 0 ‖ keyspace u64 ‖ key_len u16 ‖ len u32 ‖ len u32 ‖ key ‖ value,  or  4 ‖ keyspace u64
//! ```

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

/// Cuts a damaged last batch off the newest journal in `dir`; returns how many bytes that were, `None` if the journal's
/// tail is not the trouble.
pub(super) fn cut_torn_tail(dir: &Path) -> std::io::Result<Option<u64>> {
    let Some(path) = newest(dir)? else { return Ok(None) };
    let len = std::fs::metadata(&path)?.len();
    let mut journal = Journal { reader: BufReader::new(File::open(&path)?), at: 0, len };
    let mut torn = None;
    loop {
        let begin = journal.at;
        match journal.batch() {
            Some(true) if torn.is_some() => return Ok(None),
            Some(true) => {}
            Some(false) => torn = torn.or(Some(begin)),
            // The end; or what the engine drops by itself.
            None => break,
        }
    }
    let Some(begin) = torn else { return Ok(None) };
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(begin)?;
    file.sync_all()?;
    Ok(Some(journal.at.saturating_sub(begin)))
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
                    let whole = &self.take::<4>()? == b"FJL\x03";
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
