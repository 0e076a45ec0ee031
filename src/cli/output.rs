//! stdout: data only.

use std::io::{self, Write as _};

use super::failure::Failure;

/// Writes all of it and flushes. A reader that went away (`| head -1`) has what it wanted: no error.
pub(crate) fn to_stdout(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("write to stdout", &error))
        }
        _ => Ok(()),
    }
}
