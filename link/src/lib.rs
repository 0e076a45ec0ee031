//! The authenticated QUIC connection that a broker and its clients share.
//!
//! ```text
//!    Link ── dial: hosts in turn, back-off ──►  Listener ── Handshake::establish
//!      │        TLS 1.3, raw public keys both ways (RFC 7250), ALPN sealcast/1
//!      ▼                                           ▼
//!  Connection ── hello on the control stream ── Connection::accept_hello
//!      │                                           │
//!    open() ──── one bidirectional stream ────► accept()         the client opens every stream
//!  FrameWriter ──── frames, checked lengths ──► FrameReader
//! ```
//!
//! Architecture Invariants: this is the only crate that sets up quinn connections, and the only one that owns
//! back-off. It knows frames, not what a topic is. No session is resumed and no data travels before the handshake has
//! finished, so that every byte comes from a peer whose key was just proven.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod admission;
pub mod backoff;
mod connection;
mod dial;
mod error;
mod framing;
mod hello;
mod link;
mod listener;
mod race;
mod request;
mod text;
mod tls;
mod transport;
mod turns;

pub use connection::Connection;
pub use error::{ConnectError, LinkError, RequestError};
pub use framing::{FrameReader, FrameWriter};
pub use hello::{Control, HELLO_TIMEOUT, STREAMS_AFTER_HELLO};
pub use link::{Link, LinkOptions};
pub use listener::{Handshake, ListenOptions, Listener};
pub use request::Replies;
pub use text::readable;
pub use turns::{Passing, Turns};

#[cfg(test)]
mod tests;
