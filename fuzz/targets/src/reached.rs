//! How far an input came.

use std::collections::BTreeSet;

/// The stages an input reached, in order and each as often as it was reached.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reached(Vec<&'static str>);

impl Reached {
    /// This stage was reached.
    pub fn mark(&mut self, stage: &'static str) {
        self.0.push(stage);
    }

    /// Marks the stage if there is a value; hands the value on.
    pub fn ok<T, E>(&mut self, stage: &'static str, result: Result<T, E>) -> Option<T> {
        let value = result.ok()?;
        self.mark(stage);
        Some(value)
    }

    /// Each stage once.
    pub fn stages(&self) -> BTreeSet<&'static str> {
        self.0.iter().copied().collect()
    }
}
