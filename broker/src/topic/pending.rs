//! What waits for the disk.

use super::{Effect, Readable};
use sealcast_proto::Offset;

/// One thing that waits, in the order of the log.
#[derive(Debug)]
pub(super) struct Pending {
    /// Everything below must be stored first.
    pub(super) needs: Offset,
    pub(super) outcome: Outcome,
}

#[derive(Debug)]
pub(super) enum Outcome {
    /// A record becomes readable, and then its sender is told.
    Record(Readable, Option<Box<Effect>>),
    /// Somebody is told something that must not come before what was said or stored earlier.
    Answer(Effect),
}
