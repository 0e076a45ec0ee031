//! Integration tests, in one binary so that they link once: a commented `mod` line a file.

// The real binary in a directory of its own.
mod program;

// Which crate may never link which.
mod arrows;
// The command line: keys and the files they are in.
mod cli_keys;
// The command line: what people get wrong before anything is sent.
mod cli_mistakes;
