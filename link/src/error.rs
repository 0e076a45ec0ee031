//! What can go wrong on a connection, one error enum an operation.

use std::io;

use quinn::{ConnectionError, ReadError, TransportErrorCode, WriteError};
use sealcast_proto::frame::{FrameError, Refusal};

use crate::text::readable;

/// Application close code: nothing is wrong, the peer may come back.
pub(crate) const CLOSE_DONE: u32 = 0;
/// Application close code: coming back without a change is useless.
pub(crate) const CLOSE_REFUSED: u32 = 1;
/// Application code of a stream that was given up before its end.
pub(crate) const STREAM_ABANDONED: u32 = 0;
/// Application code of a stream that was given up because its reader took nothing.
pub(crate) const STREAM_STALLED: u32 = 1;

/// A connection or one of its streams failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed the connection and said why.
    #[error("the peer closed the connection: {reason}")]
    Closed {
        /// Its reason, control characters removed; never empty.
        reason: String,
        /// It said that coming back unchanged is useless.
        refused: bool,
    },
    /// This side closed the connection.
    #[error("the connection was closed here")]
    ClosedHere,
    /// Nothing was heard for the idle timeout.
    #[error("the peer went silent")]
    TimedOut,
    /// The peer does not know the connection: it was restarted.
    #[error("the peer was restarted and does not know the connection any more")]
    Reset,
    /// The peer's QUIC or TLS gave up, or broke its rules.
    #[error("the connection failed: {0}")]
    Transport(String),
    /// The peer does not speak this version of the protocol.
    #[error("the peer does not speak this version of the protocol: update the older of the two")]
    Version,
    /// The handshake or the hello did not come in time.
    #[error("the peer did not {0} in time")]
    Late(&'static str),
    /// The peer's first words were others.
    #[error("the peer broke the protocol: {0}")]
    Protocol(&'static str),
    /// The peer presented no usable key.
    #[error("the peer presented no valid Ed25519 key")]
    NoKey,
    /// The peer abandoned its half of the stream before the end.
    #[error("the peer gave up the stream")]
    StreamReset,
    /// The peer gave its half of the stream up because this side did not read.
    #[error("the peer cut the stream off: nothing was read here for too long")]
    CutOff,
    /// The peer does not read this stream any more.
    #[error("the peer no longer reads the stream")]
    StreamStopped,
    /// The stream was finished, reset or stopped on this side.
    #[error("the stream was already closed here")]
    StreamClosed,
    /// The stream ended in the middle of a frame.
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    /// A write made no progress; the stream was reset.
    #[error("the peer stopped reading: a write made no progress in time")]
    Stalled,
    /// Bytes that are no frame.
    #[error("the peer sent {0}")]
    Frame(#[from] FrameError),
}

impl LinkError {
    /// Whether a new connection to the same peer may work without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Closed { refused, .. } => !refused,
            Self::ClosedHere
            | Self::TimedOut
            | Self::Reset
            | Self::Transport(_)
            | Self::Late(_)
            | Self::StreamReset
            | Self::CutOff
            | Self::StreamStopped
            | Self::StreamClosed
            | Self::Truncated
            | Self::Stalled => true,
            Self::Version | Self::Protocol(_) | Self::NoKey | Self::Frame(_) => false,
        }
    }
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let reason = match close.reason.is_empty() {
                    true => "no reason given".to_owned(),
                    false => readable(&close.reason),
                };
                let refused = close.error_code.into_inner() == u64::from(CLOSE_REFUSED);
                Self::Closed { reason, refused }
            }
            ConnectionError::ConnectionClosed(close) if is_no_alpn(close.error_code) => Self::Version,
            ConnectionError::ConnectionClosed(close) => Self::Transport(
                format!("{} {}", close.error_code, readable(&close.reason)).trim_end().to_owned(),
            ),
            ConnectionError::TransportError(error) if is_no_alpn(error.code) => Self::Version,
            ConnectionError::TransportError(error) => Self::Transport(
                format!("{} {}", error.code, readable(error.reason.as_bytes())).trim_end().to_owned(),
            ),
            ConnectionError::VersionMismatch => Self::Version,
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::CidsExhausted => Self::Transport("no connection ids left".into()),
        }
    }
}

/// TLS alert `no_application_protocol` (RFC 7301 section 3.2).
fn is_no_alpn(code: TransportErrorCode) -> bool {
    code == TransportErrorCode::crypto(120)
}

impl From<ReadError> for LinkError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) if code.into_inner() == u64::from(STREAM_STALLED) => Self::CutOff,
            ReadError::Reset(_) => Self::StreamReset,
            ReadError::ConnectionLost(error) => error.into(),
            ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
                Self::StreamClosed
            }
        }
    }
}

impl From<WriteError> for LinkError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(_) => Self::StreamStopped,
            WriteError::ConnectionLost(error) => error.into(),
            WriteError::ClosedStream | WriteError::ZeroRttRejected => Self::StreamClosed,
        }
    }
}

/// Undoes what quinn's `AsyncRead` did to its own error.
pub(crate) fn from_read(error: io::Error) -> LinkError {
    match error.downcast::<ReadError>() {
        Ok(error) => error.into(),
        Err(error) => LinkError::Transport(error.to_string()),
    }
}

/// No broker of a link could be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// A host's name has no address.
    #[error("cannot find the host {host}: {why}")]
    Resolve {
        /// `host:port`.
        host: String,
        /// What the resolver said.
        why: String,
    },
    /// Nothing answered, or what answered was no broker.
    #[error("cannot reach a broker at {host}: {why}")]
    Unreachable {
        /// `host:port`.
        host: String,
        /// What happened.
        why: String,
    },
    /// Something answers there, but it cannot prove one of the link's keys. Never connect elsewhere on its word.
    #[error("the broker at {host} does not hold a key of this link")]
    WrongKey {
        /// `host:port`.
        host: String,
    },
    /// The broker refused; [`Code::Version`](sealcast_proto::frame::Code::Version) where the versions differ.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// No socket could be opened here.
    #[error("cannot open a UDP socket here: {0}")]
    Socket(String),
    /// [`Link::close`](crate::Link::close) was called.
    #[error("the link was closed here")]
    Closed,
}

impl ConnectError {
    /// Whether trying again later may work without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        use sealcast_proto::frame::Code;
        match self {
            Self::Resolve { .. } | Self::Unreachable { .. } | Self::Socket(_) => true,
            Self::Refused(refusal) => matches!(refusal.code, Code::Busy | Code::Draining | Code::ReadOnly),
            Self::WrongKey { .. } | Self::Closed => false,
        }
    }
}

/// A one-shot request was not answered as hoped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The broker said no. Its detail is safe to print.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The connection or the stream failed; whether the request was carried out is unknown.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The broker finished the stream without an answer.
    #[error("the broker ended the stream without an answer")]
    NoAnswer,
}

impl RequestError {
    /// Whether the same request may work later or on a new connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Refused(refusal) => refusal.retry_after_ms > 0,
            Self::Link(error) => error.is_retryable(),
            Self::NoAnswer => true,
        }
    }
}
