//! Up to where an edge's view of the shared order stands on its disk: a small file beside the view.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::store::LogError;

/// The file's name in the data directory.
const FILE: &str = "view.marks";

/// See the module.
pub(crate) struct Marks {
    path: PathBuf,
    /// Which streams they are places in.
    born: String,
    kept: Mutex<Vec<u64>>,
}

/// Marks that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MarksError {
    /// They cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<io::Error>,
    },
    /// The view was made of another cluster's streams.
    #[error("the view in {} is of another cluster, or of streams that were made anew since", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

impl Marks {
    /// Reads them from the data directory `dir`; without a file every partition begins at 0.
    pub(crate) fn open(dir: &Path, born: String) -> Result<Self, MarksError> {
        let path = dir.join(FILE);
        let kept = match fs::read_to_string(&path) {
            Ok(text) => {
                let (of, places) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
                if of != born {
                    return Err(MarksError::Foreign { path });
                }
                // What cannot be read begins at 0: it is read again.
                places.split(' ').map(|place| place.parse().unwrap_or_default()).collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Before the view holds anything: it is of these streams from now on.
                let marks = Self { path: path.clone(), born, kept: Mutex::default() };
                let made = marks.write(&[]).map_err(|error| MarksError::Io { path, error: Arc::new(error) });
                return made.map(|()| marks);
            }
            Err(error) => return Err(MarksError::Io { path, error: Arc::new(error) }),
        };
        Ok(Self { path, born, kept: Mutex::new(kept) })
    }

    /// The place kept of each partition.
    pub(crate) fn places(&self) -> Vec<u64> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_kept(&self, places: &[u64]) -> bool {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) == places
    }

    /// Keeps them: whole, or as they were.
    pub(super) fn keep(&self, places: &[u64]) -> Result<(), LogError> {
        let failed = |error| LogError::Io { doing: "keeping the view's place", error: Arc::new(error) };
        self.write(places).map_err(failed)?;
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = places.to_vec();
        Ok(())
    }

    fn write(&self, places: &[u64]) -> io::Result<()> {
        let shown: Vec<_> = places.iter().map(ToString::to_string).collect();
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        writeln!(file, "{}\n{}", self.born, shown.join(" "))?;
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_kept_for_the_streams_they_were_made_of() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(dir.path(), "1,2".into()).unwrap();
        assert!(marks.places().is_empty());
        assert!(Marks::open(dir.path(), "3".into()).is_err(), "from the first moment on");
        marks.keep(&[7, 0, 9]).unwrap();
        assert!(marks.is_kept(&[7, 0, 9]) && !marks.is_kept(&[7, 0, 8]));
        assert_eq!(Marks::open(dir.path(), "1,2".into()).unwrap().places(), [7, 0, 9]);
        assert!(matches!(Marks::open(dir.path(), "1,3".into()), Err(MarksError::Foreign { .. })));
    }
}
