//! What `GET /topics` answers.

use serde::{Deserialize, Serialize};

/// A broker as `GET /topics` shows it, in JSON. Counters never fall while the broker runs: a rate is the difference of two
/// answers over the difference of their `time_ms`. Identities and topic ids are written as everywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// When this was made, by the broker's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// When the broker started, by its clock, milliseconds since 1970. Another one: the counters began anew.
    pub started_ms: u64,
    /// The broker's version.
    pub version: String,
    /// The broker's public key.
    pub key: String,
    /// Whether it takes everything: the answer of `/readyz`.
    pub ready: bool,
    /// Why it does not, if it does not: `starting`, `draining`, `disk full`, `storage failed`.
    pub why_not_ready: Option<String>,
    /// Everybody connected, a count.
    pub connections_total: usize,
    /// Those who are connected, the longest first; at most [`MOST`].
    pub connections: Vec<ConnectionStatus>,
    /// How many topics there are.
    pub topics_total: usize,
    /// Topics by id; at most [`MOST`], those with the most traffic.
    pub topics: Vec<TopicStatus>,
}

/// Entries in one list, a count: what a terminal can show many times over, and an answer of some 200 KB.
pub const MOST: usize = 1_000;

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Whose.
    pub identity: String,
    /// Where it came from: address and port.
    pub from: String,
    /// Its program, as it says itself.
    pub agent: String,
    /// When it connected, milliseconds since 1970.
    pub since_ms: u64,
    /// Streams open now, a count, the control stream included.
    pub streams: u32,
    /// The round trip time as measured, microseconds.
    pub rtt_us: u64,
}

/// One topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicStatus {
    /// Its id.
    pub id: String,
    /// Its name, which its owner chose and the broker may read.
    pub name: String,
    /// Who created it.
    pub owner: String,
    /// The durable head: the offset after the newest record that may be delivered.
    pub head: u64,
    /// The first offset retained.
    pub first: u64,
    /// Bytes of records retained.
    pub bytes: u64,
    /// Records taken since the broker started, a count; a record is a batch of messages, a header or a roster entry.
    pub records_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// Bytes delivered to subscribers since the broker started, frames included.
    pub delivered_bytes_total: u64,
    /// The newest roster entry's number.
    pub roster_seq: u64,
    /// Members, a count.
    pub members: usize,
    /// Who has published, by identity.
    pub publishers: Vec<PublisherStatus>,
    /// Subscriptions, a count.
    pub subscribers_total: usize,
    /// Subscriptions, the greatest lag first; at most [`MOST`].
    pub subscribers: Vec<SubscriberStatus>,
}

/// One publisher of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublisherStatus {
    /// Who.
    pub identity: String,
    /// Its newest epoch's number; `None`: it has a stream open and has begun none yet.
    pub epoch: Option<u64>,
    /// Where that epoch's header stands.
    pub epoch_offset: Option<u64>,
    /// When its publisher says that the epoch began, milliseconds since 1970.
    pub epoch_time_ms: Option<u64>,
    /// Batches of that epoch, a count.
    pub batches: u64,
    /// The offset of its newest batch in that epoch.
    pub last_offset: Option<u64>,
    /// Publish streams it has open, a count.
    pub streams: usize,
}

/// One subscription of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriberStatus {
    /// Whose.
    pub identity: String,
    /// When it began, milliseconds since 1970.
    pub since_ms: u64,
    /// The next offset to be delivered.
    pub position: u64,
    /// `head - position`: offsets still to come.
    pub lag: u64,
    /// Bytes handed to QUIC for it, frames included.
    pub delivered_bytes: u64,
}
