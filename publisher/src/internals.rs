//! The pure machine and what it saves, for the simulator and the fuzzer. No part of the library: it changes without notice.

pub use crate::fork::Remembered;
pub use crate::marks::{Marks, MarksError, Position};
pub use crate::outbox::{Effect, EpochWork, Input, Outbox};
pub use crate::saved_admin::AdminMarks;
