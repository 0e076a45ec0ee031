//! The broker over real QUIC on loopback, its clients by hand: raw frames, and ciphertexts that are noise.

#![allow(unreachable_pub)]

/// What is promised to clients, whatever the log: these tests run a second time in tests/cluster, where the broker is an edge.
use tokio::test as wire;

/// A file system small enough to fill up.
mod disk;
/// A publisher and an admin by hand.
mod hand;
/// A broker in a temporary directory, and connections to it.
mod world;

/// Topics taken into a file and out of it.
mod archive;
/// Going away: what was sent is answered, and everybody is told.
mod drain;
/// A disk that fills up under load, and has space again.
mod full_disk;
/// Roster heads on subscriptions.
mod heads;
/// Bytes that are no frames, and requests that are not allowed.
mod hostile;
/// Limits: who is over one is told, held back or cut off; the others go on.
mod limits;
/// Health, metrics, topics: what operators see.
mod ops;
/// What the page for operators says of settings and metrics.
mod page;
/// The program: its link, its signals, its errors.
mod process;
/// Records in, answers out: order, repeats, the fence, tables.
mod publish;
/// Subscribers that are behind, and take turns.
mod replay;
/// One question, one answer.
mod requests;
/// A restart on the same directory, and what cannot start.
mod restart;
/// Where settings come from, what SIGHUP changes, what systemd is told.
mod settings;
/// What a subscriber gets: its own slots, its share of the roster, everything once and in order.
mod subscribe;
/// What publishers and admins follow.
mod watch;
