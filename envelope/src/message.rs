//! What an application publishes: all of it lies inside the ciphertext.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use prost::Message as _;
use sealcast_proto::limits::{MAX_HEADERS_BYTES, MAX_MESSAGE};

/// A content type, bytes: media types are short (RFC 6838 allows 127 either side of the slash).
pub const MAX_CONTENT_TYPE: usize = 256;

/// One message.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// What it says; any bytes.
    pub payload: Bytes,
    /// Names and values, at most 16 KiB together.
    pub headers: BTreeMap<String, String>,
    /// A media type such as `application/json`; empty: not said.
    pub content_type: String,
    /// When the application said it, milliseconds since 1970; 0: not said.
    pub time_ms: u64,
}

/// A message that cannot be encoded, or bytes that are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Larger than 1 MiB with its headers.
    #[error("the message is {0} bytes long; at most 1048576 fit: split it")]
    TooLarge(usize),
    /// Headers larger than 16 KiB.
    #[error("the headers are {0} bytes long; at most 16384 fit: put them in the payload")]
    Headers(usize),
    /// A content type longer than [`MAX_CONTENT_TYPE`].
    #[error("the content type is {0} bytes long; at most 256 fit")]
    ContentType(usize),
    /// Not a message's encoding.
    #[error("not a message: its publisher uses another format")]
    Malformed,
}

impl Message {
    /// A message of `payload` alone.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..Self::default() }
    }

    /// Adds a header, replacing one of the same name.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Sets the content type.
    #[must_use]
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// The bytes that stand in a batch.
    pub fn encode(&self) -> Result<Bytes, MessageError> {
        self.check()?;
        let wire = WireMessage {
            payload: self.payload.clone(),
            headers: self.headers.clone(),
            content_type: self.content_type.clone(),
            time_ms: self.time_ms,
        };
        match wire.encoded_len() {
            len if len > MAX_MESSAGE => Err(MessageError::TooLarge(len)),
            _ => Ok(wire.encode_to_vec().into()),
        }
    }

    /// Reads what [`Message::encode`] made; the payload is a slice of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        let wire = WireMessage::decode(bytes).map_err(|_| MessageError::Malformed)?;
        let WireMessage { payload, headers, content_type, time_ms } = wire;
        let message = Self { payload, headers, content_type, time_ms };
        message.check().map(|()| message)
    }

    fn check(&self) -> Result<(), MessageError> {
        let headers = self.headers.iter().map(|(name, value)| name.len().saturating_add(value.len()));
        let headers = headers.fold(0_usize, usize::saturating_add);
        if headers > MAX_HEADERS_BYTES {
            return Err(MessageError::Headers(headers));
        }
        if self.content_type.len() > MAX_CONTENT_TYPE {
            return Err(MessageError::ContentType(self.content_type.len()));
        }
        Ok(())
    }
}

/// Lengths only: a log line is no place for what was sealed.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes, {} headers)", self.payload.len(), self.headers.len())
    }
}

impl From<Bytes> for Message {
    fn from(payload: Bytes) -> Self {
        Self::new(payload)
    }
}

impl From<Vec<u8>> for Message {
    fn from(payload: Vec<u8>) -> Self {
        Self::new(payload)
    }
}

impl From<&[u8]> for Message {
    fn from(payload: &[u8]) -> Self {
        Self::new(payload.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(payload: &[u8; N]) -> Self {
        Self::new(payload.to_vec())
    }
}

impl From<String> for Message {
    fn from(payload: String) -> Self {
        Self::new(payload.into_bytes())
    }
}

impl From<&str> for Message {
    fn from(payload: &str) -> Self {
        Self::new(payload.as_bytes().to_vec())
    }
}

/// The encoding. A `BTreeMap`: one encoding for one message.
#[derive(Clone, PartialEq, prost::Message)]
struct WireMessage {
    #[prost(bytes = "bytes", tag = "1")]
    payload: Bytes,
    #[prost(btree_map = "string, string", tag = "2")]
    headers: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    content_type: String,
    #[prost(uint64, tag = "4")]
    time_ms: u64,
}
