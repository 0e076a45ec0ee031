//! What `pub` reads: all of it as one message, or a message a line.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use sealcast_proto::limits::MAX_MESSAGE;
use tokio::sync::mpsc;

use super::failure::{Exit, Failure};
use super::say::grouped;

/// Lines that may wait between the reading thread and the publisher, a count.
const LINES_WAITING: usize = 256;

/// stdin, or this file.
pub(crate) fn source(file: Option<&Path>) -> Result<Box<dyn Read + Send>, Failure> {
    match file {
        None => Ok(Box::new(io::stdin())),
        Some(path) => {
            let file = File::open(path);
            Ok(Box::new(file.map_err(|error| Failure::io(format!("read {}", path.display()), &error))?))
        }
    }
}

/// All of it, as one message.
pub(crate) fn whole(source: impl Read) -> Result<Bytes, Failure> {
    let mut bytes = Vec::new();
    source
        .take(MAX_MESSAGE as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::io("read the input", &error))?;
    check_len(&bytes, "the message")?;
    Ok(bytes.into())
}

/// Refuses what no message can hold; where nothing was sent yet, before anything is.
pub(crate) fn check_len(message: &[u8], what: &str) -> Result<(), Failure> {
    if message.len() > MAX_MESSAGE {
        return Err(Failure::new(
            Exit::Failure,
            format!("{what} is longer than {} bytes, a message's most", grouped(MAX_MESSAGE as u64)),
        )
        .hint("split it, or publish where the rest can be found"));
    }
    Ok(())
}

/// A message a line, read on a thread of its own: a pipe can keep it waiting for ever. The newline is not part of the
/// message; a carriage return is. Ends with the input, or with the first error.
pub(crate) fn lines(source: impl Read + Send + 'static) -> mpsc::Receiver<Result<Bytes, Failure>> {
    let (sender, receiver) = mpsc::channel(LINES_WAITING);
    std::thread::spawn(move || {
        let mut source = BufReader::with_capacity(64 << 10, source);
        for number in 1_u64.. {
            let line = read_line(&mut source, number).transpose();
            let Some(line) = line else { return };
            let last = line.is_err();
            if sender.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receiver
}

fn read_line(source: &mut impl BufRead, number: u64) -> Result<Option<Bytes>, Failure> {
    let mut line = Vec::new();
    // One more than a message and its newline: enough to see that a line is too long, whatever follows.
    let read = source.take(MAX_MESSAGE as u64 + 2).read_until(b'\n', &mut line);
    if read.map_err(|error| Failure::io(format!("read line {number} of the input"), &error))? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    check_len(&line, &format!("line {number}"))?;
    Ok(Some(line.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: Vec<u8>) -> Vec<Result<Bytes, Failure>> {
        let mut lines = lines(io::Cursor::new(input));
        std::iter::from_fn(|| lines.blocking_recv()).collect()
    }

    #[test]
    fn a_line_is_a_message() {
        let lines: Vec<Bytes> = read(b"a\n\nb\r\nlast".to_vec()).into_iter().map(Result::unwrap).collect();
        assert_eq!(lines, ["a", "", "b\r", "last"].map(Bytes::from));
        assert!(read(Vec::new()).is_empty());
    }

    #[test]
    fn a_line_too_long_ends_the_input() {
        let mut input = vec![b'x'; MAX_MESSAGE];
        input.extend(b"\n");
        input.extend(vec![b'y'; MAX_MESSAGE + 1]);
        input.extend(b"\nz\n");
        let lines = read(input);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].as_ref().unwrap().len(), MAX_MESSAGE);
        assert!(lines[1].is_err());
        assert!(whole(io::repeat(0)).is_err());
    }
}
