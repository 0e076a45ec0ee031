//! What is fuzzed: a function a target, and for each a list of valid inputs to begin from.
//!
//! ```text
//! fuzz/fuzz_targets/NAME.rs ── libFuzzer's bytes ──┐
//!                                                  ├──► NAME::TARGET.check(bytes)
//! tests/replay.rs ── fuzz/corpus/NAME/* ───────────┘
//! ```
//! A target may not panic, whatever the bytes; what it asserts beside that stands at its head. Every target says how far
//! an input came ([`Reached`]), so that a corpus that no longer reaches anything fails the ordinary tests; and none may
//! hold more of the heap than its input explains ([`Target::heap`]).

mod entries;
mod log;
mod pen;
mod reached;
mod steps;
mod target;
mod valid;

pub mod inbox;
pub mod objects;
pub mod outbox;
pub mod roster;
pub mod saved;
pub mod sealed;
pub mod text;
pub mod topic;
pub mod wire;

pub use reached::Reached;
pub use target::{Target, heap_of};

/// All targets.
pub const TARGETS: &[Target] = &[
    wire::TARGET,
    objects::TARGET,
    text::TARGET,
    saved::TARGET,
    sealed::TARGET,
    roster::TARGET,
    topic::TARGET,
    inbox::TARGET,
    outbox::TARGET,
];
