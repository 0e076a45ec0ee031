//! The inbox against a topic in memory, in virtual time.

/// The topic, its publishers, a broker, a reader.
mod world;

/// Messages in order, starts, several publishers.
mod delivery;
