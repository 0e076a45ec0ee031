//! A list of operations out of a fuzzer's bytes.

use arbitrary::Unstructured;

/// Bytes, read as small choices until there are no more.
pub(crate) struct Steps<'a>(Unstructured<'a>);

impl<'a> Steps<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(Unstructured::new(input))
    }

    /// The next operation's first byte; `None` at the end, and after as many operations as a run is worth.
    pub(crate) fn next(&mut self, done: usize, most: usize) -> Option<u8> {
        if done >= most || self.0.is_empty() { None } else { Some(self.byte()) }
    }

    /// A byte; 0 where the input is over.
    pub(crate) fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// A number below `below`.
    pub(crate) fn below(&mut self, below: u8) -> u8 {
        self.byte() % below.max(1)
    }

    /// One of `from`, which is not empty.
    pub(crate) fn pick<'t, T>(&mut self, from: &'t [T]) -> Option<&'t T> {
        from.get(usize::from(self.byte()) % from.len().max(1))
    }

    /// True about once in `of`, and never where the input is over.
    pub(crate) fn rarely(&mut self, of: u8) -> bool {
        self.byte() % of.max(1) == of.max(1) - 1
    }
}
