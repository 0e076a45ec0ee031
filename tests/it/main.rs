//! Integration tests, in one binary so that they link once: a commented `mod` line a file.

// The real binary in a directory of its own.
mod program;

// The command line: keys and the files they are in.
mod cli_keys;
