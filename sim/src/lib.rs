//! A seeded world in which everything goes wrong: the real outboxes, topic machine and inboxes, with real cryptography,
//! over a network, disks and a clock that a seed decides.
//!
//! ```text
//!              seed ─► what happens next: an application, a fault, one step of one party
//!                                  │
//!  admins ─ entries ─►┐            ▼             ┌─► inbox ─► application (forgets what it had not saved)
//!  outbox ─ records ─►│ topic machine ─► disk ──►│
//!  outbox ─ records ─►│ (real rules)   (fsync)   └─► inbox ─► application
//!                     └───────────┬──────────────┘
//!                                 ▼
//!                   oracle: what may never be, asked after every step
//! ```
//! A run is a function of its seed alone: no clock, no thread, no global generator. What the broker does between its
//! log and its readers is the broker's own code; only tasks and sockets are modelled. See `docs/architecture.md`.

mod admin;
mod broker;
mod disk;
mod evil;
mod hoard;
mod oracle;
mod plan;
mod publisher;
mod reader;
mod rest;
mod ring;
mod subscriber;
mod sweep;
mod tally;
mod world;

pub use oracle::{Failure, Invariant};
pub use sweep::{Found, Sweep};
pub use tally::Tally;

/// Something broken on purpose, in the world around the machines: the oracle has to name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The broker takes what the fence refuses.
    NoFence,
    /// The broker says that something is on the disk before it is.
    NoFsync,
    /// A message reaches the application once more, after the machine.
    Redelivers,
    /// A message never reaches the application, after the machine.
    Swallows,
    /// Two messages change places, after the machine.
    Reorders,
    /// One subscriber gets another message for the same number.
    Substitutes,
    /// The broker gets a copy of what is published.
    Leaks,
    /// A removed member is still wrapped for.
    WrapsForRemoved,
    /// Acknowledgements never reach the publisher.
    ForgetsAnswers,
}

/// What a run ended with.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What may never be and was.
    pub failure: Option<Failure>,
    /// What happened, a line a step; empty unless it was asked for.
    pub trace: Vec<String>,
    /// How much happened.
    pub tally: Tally,
    /// Changes with everything that happened: two runs of one seed have the same.
    pub digest: u64,
}

/// Runs one seed's world to its end, or to the first thing that may never be.
pub fn run(seed: u64, flaw: Option<Flaw>, trace: bool) -> Report {
    world::World::new(seed, flaw, trace).run()
}
