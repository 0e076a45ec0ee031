//! Topics in a file: to keep as a copy, or to take to another broker.
//!
//! ```text
//! file   = "sealcast export 1\n" ‖ topic… ‖ end                                     integers big-endian
//! item   = kind u8 ‖ length u32 ‖ payload
//! topic  = 1: first offset u64 ‖ next offset u64 ‖ signed genesis
//!          what retention left of the time before `first`:
//!            2: offset u64 ‖ roster bundle            every entry, in order
//!            3: offset u64 ‖ header's record          each publisher's, in order, followed by its slots
//!            5: offset u64 ‖ batch digest             the batches of that header
//!          the log, in its order:
//!            6: offset u64 ‖ stored at u64 ‖ record   a roster entry's follows its bundle (2), a header's
//!                                                     is followed by its slots
//!            4: slots                                 as many items as it takes
//!          7: signed roster head, if there is one
//!          8: signed prekey                           of each member that has one
//!          9: nothing: the topic is whole
//! end    = 0: SHA-256 of everything before this item
//! ```
//! A signed object is `signature 64 ‖ body`. Slots, records and bundles are the bytes that travelled.
//!
//! Both ways every object passes the rules by which a broker accepts it (`check`): an export of a damaged directory
//! fails and says where; an import takes nothing that a broker would not have stored. A file holds no key and no
//! plaintext, but it tells who the members are.

mod check;
mod command;
mod export;
mod format;
mod import;

use std::path::PathBuf;
use std::sync::Arc;

use sealcast_proto::{Offset, TopicId};

pub use self::command::{Export, Import};
pub use self::export::export;
pub use self::import::import;
use crate::store::LogError;

/// What went through an export or an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Topics.
    pub topics: u64,
    /// Topics that were there already, whole and the same: nothing was done.
    pub known: u64,
    /// Records of their logs.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why an export or an import came to nothing. The directory holds then what it held before, and no file was written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// No broker ever kept its data there.
    #[error("{} is no broker's data directory", .0.display())]
    NoData(PathBuf),
    /// No such topic.
    #[error("there is no topic {0}")]
    NoTopic(TopicId),
    /// The file is there already.
    #[error("{} exists", .0.display())]
    Exists(PathBuf),
    /// The file cannot be read or written.
    #[error("cannot {doing} {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was to be done with it.
        doing: &'static str,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// Not an export that this program reads.
    #[error("the file is not an export, or of a later version")]
    Format,
    /// It ends too early, or was changed.
    #[error("the file is damaged: {0}")]
    DamagedFile(String),
    /// What is exported, or imported, breaks a rule that the broker that stored it kept.
    #[error("topic {topic} is damaged at offset {at}: {why}")]
    Damaged {
        /// Which topic, in short.
        topic: String,
        /// Where.
        at: Offset,
        /// What is wrong.
        why: String,
    },
    /// The broker has another history of this topic.
    #[error("topic {topic} is here already, with another history from offset {at} on")]
    Fork {
        /// Which topic.
        topic: TopicId,
        /// Where they part.
        at: Offset,
    },
    /// The broker has the beginning of what is imported.
    #[error("topic {topic} is here already, but ends at offset {here}; the file goes on to {file}")]
    Behind {
        /// Which topic.
        topic: TopicId,
        /// Where the broker's log ends.
        here: Offset,
        /// Where the file's does.
        file: Offset,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] LogError),
}

impl ArchiveError {
    /// What to do about it, one line.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoData(_) => "give the directory that the broker was started with, --data DIR",
            Self::NoTopic(_) => "without a topic all are exported",
            Self::Exists(_) => "choose another file, or remove that one",
            Self::File { .. } => "is there space, and may this account write there?",
            Self::Format => "it was made by `sealcast-broker export` of this version?",
            Self::DamagedFile(_) => "copy it again from where it was made, or use an older one",
            Self::Damaged { .. } => "import an older export, or restore the data directory from a copy",
            Self::Fork { .. } => {
                "one of the two brokers was restored from an old copy, or lies: keep both, and ask the topic's owner"
            }
            Self::Behind { .. } => "import into an empty data directory, and let the broker run on that one",
            Self::Store(LogError::Busy { .. }) => "the broker is running: stop it first",
            Self::Store(_) => return None,
        })
    }
}

fn file_error<'a>(
    path: &'a std::path::Path,
    doing: &'static str,
) -> impl Fn(std::io::Error) -> ArchiveError + 'a {
    move |error| ArchiveError::File { path: path.into(), doing, error: Arc::new(error) }
}
