//! What the demo verifies at its end.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use super::reader::Got;
use crate::cli::failure::Failure;

/// Lines shorter than this say nothing when they are found: `fn` stands in many files. Bytes.
const TELLING: usize = 12;

/// Whether exactly these messages came, in this order, and no trouble.
pub(crate) fn is_exactly(got: &Got, expected: &[Bytes]) -> bool {
    got.trouble.is_empty() && got.messages.iter().map(|(_, payload)| payload).eq(expected)
}

/// What stands in the clear on a broker's disk.
#[derive(Debug, Default)]
pub(crate) struct OnDisk {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Lines that were searched for.
    pub(crate) searched: usize,
    /// Those that were found.
    pub(crate) found: Vec<String>,
    /// Whether the control was found: a search that finds nothing at all proves nothing.
    pub(crate) control: bool,
}

/// Searches every file below `dir` for every telling line, and for the control, which must be there.
pub(crate) fn search(dir: &Path, lines: &[Bytes], control: &[u8]) -> Result<OnDisk, Failure> {
    let telling = |line: &&[u8]| line.len() >= TELLING;
    let wanted: BTreeSet<&[u8]> = lines.iter().map(|line| line.trim_ascii()).filter(telling).collect();
    let mut on_disk = OnDisk { searched: wanted.len(), ..OnDisk::default() };
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    let reading = |error: std::io::Error| Failure::io("read the broker's data", &error);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).map_err(reading)? {
            let path = entry.map_err(reading)?.path();
            if path.is_dir() {
                todo.push(path);
                continue;
            }
            let content = fs::read(&path).map_err(reading)?;
            on_disk.files += 1;
            on_disk.bytes += content.len() as u64;
            on_disk.control |= holds(&content, control);
            found.extend(wanted.iter().copied().filter(|line| holds(&content, line)));
        }
    }
    on_disk.found = found.into_iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    Ok(on_disk)
}

/// Skips to where the first byte stands: preallocated files are mostly zeros.
fn holds(content: &[u8], wanted: &[u8]) -> bool {
    let Some(first) = wanted.first() else { return true };
    let mut rest = content;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let (_, from) = rest.split_at(at);
        if from.starts_with(wanted) {
            return true;
        }
        rest = from.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_the_clear_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/log"), b"\0\0sseal1key ttthe secret line\0").unwrap();
        let lines = ["  the secret line ", "another secret line", "short"].map(Bytes::from);
        let on_disk = search(dir.path(), &lines, b"seal1key").unwrap();
        assert_eq!((on_disk.files, on_disk.searched, on_disk.control), (1, 2, true));
        assert_eq!(on_disk.found, ["the secret line"]);
    }
}
