//! What can go wrong with state.

use std::io;
use std::path::{Path, PathBuf};

/// State that could not be opened, read or saved.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another holder is at work under the same identity; see [`StateError::hint`].
    #[error("{what} is in use by {}", holder_text(*.holder))]
    Locked {
        /// The file: its path, or its name in memory.
        what: String,
        /// The holder's process id, where it is known.
        holder: Option<u32>,
    },
    /// Other users of the machine can get at the secrets.
    #[error("the state directory {} can be entered by other users (mode {mode:04o})", .path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file whose content is not what was saved.
    #[error("{what} is damaged: {why}")]
    Corrupt {
        /// The file: its path, or its name in memory.
        what: String,
        /// What its reader said.
        why: String,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried: `create`, `read`, `save`, …
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl StateError {
    /// One line about what to do.
    pub fn hint(&self) -> String {
        match self {
            Self::Locked { holder: Some(pid), .. } => {
                format!("stop process {pid}, or give this one a state directory of its own with --state DIR")
            }
            Self::Locked { holder: None, .. } => {
                "stop the other process, or give this one a state directory of its own with --state DIR"
                    .into()
            }
            Self::Exposed { path, .. } => format!("chmod 700 {}", path.display()),
            Self::Corrupt { .. } => {
                "move the file away to go on without it: what its keys opened is then lost".into()
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free some space; what was saved before is intact".into()
            }
            Self::Io { .. } => "another place can be named with --state DIR".into(),
        }
    }

    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

fn holder_text(holder: Option<u32>) -> String {
    match holder {
        Some(pid) if pid == std::process::id() => "this very process".into(),
        Some(pid) => format!("process {pid}"),
        None => "another process".into(),
    }
}
