//! The inbox against a topic in memory, in virtual time.

/// A reader, and what its application does.
mod client;
/// The topic, its publishers, a broker.
mod world;

/// Messages in order, starts, several publishers.
mod delivery;
/// Checks that another one usually covers.
mod distrust;
/// What is missing, repeated or contradictory.
mod gaps;
/// Signs of life and their absence.
mod liveness;
/// Own prekeys: stale, foreign, erased.
mod prekeys;
/// Restarts at every point.
mod resume;
/// Epochs under the KEK: followed, fetched, closed to who was removed.
mod rewrap;
/// Members come and go; the roster forks or is rolled back.
mod roster;
/// Each check, against one who breaks it.
mod tamper;
