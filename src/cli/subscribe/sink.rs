//! Where messages go: stdout, or a file whose length is saved with the cursor.
//!
//! ```text
//! take messages → write → [flush, fsync] → tag = length → saved in one file replace with the cursor
//!                                                              │
//! resume: truncate the file to the tag's length ◄──────────────┘
//! ```
//! So whatever was killed, and when: the file holds every message exactly once.

use std::fs::File;
use std::io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::cli::failure::{Exit, Failure};

/// Bytes gathered before they are written, when messages come faster than that.
const BUFFER: usize = 64 << 10;
/// The longest path in a tag, bytes: a tag holds 1 KiB at most.
const MAX_PATH: usize = 1000;

/// Where messages go.
#[derive(Debug)]
pub(crate) struct Sink {
    to: To,
    buffer: Vec<u8>,
    terminal: bool,
}

#[derive(Debug)]
enum To {
    Stdout,
    File {
        file: File,
        path: PathBuf,
        len: u64,
    },
    /// A device or a pipe: it has no length to go back to.
    Stream {
        file: File,
        path: PathBuf,
    },
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is out of this process.
    Yes,
    /// Nobody reads stdout any more.
    ReaderGone,
}

impl Sink {
    pub(crate) fn stdout() -> Self {
        Self { to: To::Stdout, buffer: Vec::new(), terminal: io::stdout().is_terminal() }
    }

    /// Opens the file at the length that the last run's tag says. Where there is no such tag (the first run, or
    /// `anew`), only an empty file is taken over, unless it is to be written `anew`.
    pub(crate) fn file(path: &Path, tag: Option<&[u8]>, anew: bool) -> Result<Self, Failure> {
        let io = |doing: &str, error: &io::Error| Failure::io(format!("{doing} {}", path.display()), error);
        let mut file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|error| io("open", &error))?;
        let path = std::fs::canonicalize(path).map_err(|error| io("open", &error))?;
        let found = file.metadata().map_err(|error| io("open", &error))?;
        if !found.is_file() {
            let terminal = file.is_terminal();
            return Ok(Self { to: To::Stream { file, path }, buffer: Vec::new(), terminal });
        }
        if path.as_os_str().len() > MAX_PATH {
            return Err(Failure::usage(format!(
                "the path of {} is longer than {MAX_PATH} bytes",
                path.display()
            ))
            .hint("give it a shorter one"));
        }
        let found = found.len();
        let committed = tag.and_then(|tag| committed_len(tag, &path)).filter(|_| !anew);
        let len = match committed {
            Some(len) if len > found => {
                return Err(Failure::new(
                    Exit::Failure,
                    format!(
                        "{} is shorter than what was written there: somebody else changed it",
                        path.display()
                    ),
                )
                .hint("write to another file from the beginning: --from earliest -o OTHER"));
            }
            Some(len) => len,
            None if anew || found == 0 => 0,
            None => {
                return Err(Failure::new(
                    Exit::Failure,
                    format!("{} holds something that the last run did not write", path.display()),
                )
                .hint("name another file, or say where to begin anew (--from), which overwrites it"));
            }
        };
        let at_end = file.set_len(len).and_then(|()| file.seek(SeekFrom::Start(len)));
        at_end.map_err(|error| io("truncate", &error))?;
        // The name too must be on the disk before a cursor counts on it.
        sync_parent(&path).map_err(|error| io("save", &error))?;
        Ok(Self { to: To::File { file, path, len }, buffer: Vec::new(), terminal: false })
    }

    /// Whether a person looks at it.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Where to append what is to be written.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether something waits to be written.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether so much waits that it should be written now.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER
    }

    /// Writes what waits.
    pub(crate) fn flush(&mut self) -> Result<Written, Failure> {
        if self.buffer.is_empty() {
            return Ok(Written::Yes);
        }
        match &mut self.to {
            To::Stdout => {
                let mut stdout = io::stdout().lock();
                match stdout.write_all(&self.buffer).and_then(|()| stdout.flush()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                        return Ok(Written::ReaderGone);
                    }
                    Err(error) => return Err(Failure::io("write to stdout", &error)),
                }
            }
            To::File { file, path, len } => {
                file.write_all(&self.buffer)
                    .map_err(|error| Failure::io(format!("write {}", path.display()), &error))?;
                *len += self.buffer.len() as u64;
            }
            To::Stream { file, path } => match file.write_all(&self.buffer) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Written::ReaderGone),
                Err(error) => return Err(Failure::io(format!("write {}", path.display()), &error)),
            },
        }
        self.buffer.clear();
        Ok(Written::Yes)
    }

    /// The tag for what was flushed; a file's data is on the disk when it returns.
    pub(crate) fn tag(&mut self) -> Result<Vec<u8>, Failure> {
        match &mut self.to {
            To::Stdout | To::Stream { .. } => Ok(Vec::new()),
            To::File { file, path, len } => {
                // A cursor that survives a power cut must not be ahead of the file.
                file.sync_data().map_err(|error| Failure::io(format!("save {}", path.display()), &error))?;
                let mut tag = len.to_be_bytes().to_vec();
                tag.extend_from_slice(path.as_os_str().as_encoded_bytes());
                Ok(tag)
            }
        }
    }
}

#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(not(unix))]
fn sync_parent(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// The length in a tag, if it is of this file.
fn committed_len(tag: &[u8], path: &Path) -> Option<u64> {
    let (len, name) = tag.split_first_chunk::<8>()?;
    (name == path.as_os_str().as_encoded_bytes()).then(|| u64::from_be_bytes(*len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_no_length() {
        let mut sink = Sink::file(Path::new("/dev/null"), Some(b"12345678/dev/null"), false).unwrap();
        assert!(write(&mut sink, "gone").is_empty());
    }

    fn write(sink: &mut Sink, text: &str) -> Vec<u8> {
        sink.buffer().extend_from_slice(text.as_bytes());
        assert_eq!(sink.flush().unwrap(), Written::Yes);
        sink.tag().unwrap()
    }

    #[test]
    fn what_the_tag_does_not_cover_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let mut sink = Sink::file(&path, None, false).unwrap();
        let tag = write(&mut sink, "one\ntwo\n");
        write(&mut sink, "three\nfo");
        drop(sink);
        let mut sink = Sink::file(&path, Some(&tag), false).unwrap();
        write(&mut sink, "three\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[test]
    fn another_content_is_not_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("out"), dir.path().join("other"));
        let tag = write(&mut Sink::file(&path, None, false).unwrap(), "one\n");
        std::fs::write(&other, "mine").unwrap();
        assert!(Sink::file(&other, Some(&tag), false).is_err());
        assert!(Sink::file(&other, None, false).is_err());
        assert!(Sink::file(&other, Some(b"short"), false).is_err());
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "mine");
        write(&mut Sink::file(&other, Some(&tag), true).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "new");
        std::fs::write(&path, "o").unwrap();
        assert!(Sink::file(&path, Some(&tag), false).is_err());
    }
}
