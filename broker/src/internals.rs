//! What stands between a topic's log and its readers, without the tasks around it, for the simulator and the fuzzer: the
//! topic machine itself is in [`crate::topic`]. No part of the library: it changes without notice.

pub use crate::delivery::{Stop, Viewer, deliver_from_log};
pub use crate::handle::Origin;
pub use crate::load::{Loaded, keep, kept, load};
pub use crate::lookup::{Wanted, compare, contexts, epochs, first_entry, own_slot, rosters};
pub use crate::outgoing::Outgoing;
pub use crate::retention::{Keep, apply as retain};
pub use crate::roster_index::{Opening, RosterIndex};
