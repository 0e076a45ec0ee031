//! The pure machine and what it saves, for the simulator and the fuzzer. No part of the library: it changes without notice.

pub use crate::cursor::{Cursor, CursorError, Marks, Partial, SavedKeys, SavedPublisher, Track};
pub use crate::inbox::{Effects, Inbox, Input, Need};
pub use crate::ledger::Ledger;
