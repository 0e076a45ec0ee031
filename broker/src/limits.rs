//! Every limit of the broker, each with its unit and its reason. What the protocol fixes stands in
//! `sealcast_proto::limits`; what waits for the disk, in `store::commit`; QUIC's other settings, in `sealcast_link`.

use std::time::Duration;

use crate::settings::Size;

/// Between two entries that remove someone, milliseconds: a publisher must get past the fence in between
/// (docs/protocol.md section 6). Or twice the last table upload, whichever is longer,
pub const REMOVAL_SPACING_MS: u64 = 1_000;
/// up to this, milliseconds.
pub const REMOVAL_SPACING_MAX_MS: u64 = 30_000;
/// When to try again after a write failed, milliseconds: a full disk is seldom empty sooner.
pub const READ_ONLY_RETRY_MS: u64 = 1_000;

/// Offsets that a `memory` topic reserves at a time, a count. Batches there are delivered before they are on disk, so a crash
/// can lose some that a subscriber has seen; if their offsets were given out again, its cursor would stand past records it
/// never saw. So none is used before a reservation that covers it is on disk, and a restart begins behind the last one.
/// One fsync in half a million batches costs nothing, and of 2⁶⁴ offsets every restart may leave out a million.
pub const OFFSETS_RESERVED: u64 = 1 << 20;
/// How often a `memory` topic's batches are synced.
pub const SYNC_EVERY: Duration = Duration::from_secs(1);

/// How long a record stays in a topic's ring: readers at the head have it by then; an idle topic holds nothing.
pub const RING_AGE_MS: u64 = 10_000;
/// Bytes of one run of records, ready to send, and of one write to QUIC: large enough that per-write cost vanishes,
/// small enough that a reader is never served for long at a time.
pub const RUN_BYTES: usize = 64 << 10;
/// Bytes read from the log for a subscriber at a time: several runs a disk access.
pub const READ_BYTES: usize = 256 << 10;
/// Readers of the log at work at once, a count: more would only queue at the disk, and they hold [`READ_BYTES`] each.
pub const READERS: usize = 32;
/// Of these, for subscribers that are behind, a count: two keep the disk and a core busy, two more cover their pauses; each
/// more would only stand before live readers.
pub const REPLAYS: usize = 4;
/// How long a piece that was read for a subscriber may take to be written before its turn goes to the next one: one that
/// reads fast keeps it, one that a network or a program slows down holds nobody up.
pub const REPLAY_TURN: Duration = Duration::from_millis(5);
/// Where others are live, so many bytes are written to a subscriber that is behind, then nothing for [`REPLAY_PAUSE`]: what
/// is live waits for the processor no longer than it takes to encrypt and send them.
pub const REPLAY_PIECE: usize = 64 << 10;
/// See [`REPLAY_PIECE`]. The shortest that a timer gives, in fact two: some 25 MiB/s for each of [`REPLAYS`].
pub const REPLAY_PAUSE: Duration = Duration::from_millis(1);
/// How long after a subscriber that was not behind was served others are held to count as live, milliseconds: longer than
/// what comes now and then stays away.
pub const LIVE_MS: u64 = 1_000;
/// Priority of the stream of a subscriber that is behind; others have 0, and what has more is written first.
pub const REPLAY_PRIORITY: i32 = -1;
/// Streams of one connection that may hold data for a reader that does not take it, a count, of those that are behind and of
/// those that are not: some [`READ_BYTES`] and a largest record each, beside QUIC's own windows, which as many streams use
/// up. Further ones wait for these.
pub const HOLDING: usize = 4;

/// Inputs that wait for a topic's actor, a count: what it works off in some milliseconds. Payloads among them are
/// counted by the commit budget.
pub const TOPIC_INBOX: usize = 1_024;
/// Events a watch may be behind before it starts over from the log, a count.
pub const WATCH_EVENTS: usize = 1_024;
/// Beacons a reader may be behind, a count: late ones are worth nothing.
pub const BEACONS: usize = 64;
/// Records on a publish stream that are not answered yet, a count: bounds the answers a client does not read.
pub const UNANSWERED: usize = 4_096;
/// Slot tables that wait for their header, a publisher and topic, a count: one in use, one being uploaded.
pub const STAGED_TABLES: usize = 2;
/// Bytes of roster entries read at a time: one with all its operations and some small ones.
pub const ROSTER_READ_BYTES: usize = 1 << 20;
/// Bytes by which a frame that was begun must grow within [`Limits::next_frame`]: 500 a second. A link that is slower
/// carries no QUIC.
pub const PROGRESS_BYTES: usize = 16 << 10;
/// When somebody who met a limit may try again, milliseconds: limits are counted anew every moment.
pub const BUSY_RETRY_MS: u64 = 1_000;
/// The least that [`Limits::publish_rate`] may be, bytes a second: what a publisher has in flight (8 MB) must be answered
/// before it takes the broker for dead (30 s).
pub const MIN_PUBLISH_RATE: u64 = 512 << 10;
/// What a roster entry needs beside its operations while it waits for the disk, bytes: lists, record, keys.
pub const ROSTER_BESIDE: usize = 64 << 10;
/// Members named at a time to a watch that wants their prekeys, a count: 128 KiB.
pub const MEMBERS_PAGE: usize = 4_096;

/// How the broker treats its clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From a connection's first packet to its proven key. A client that lost two packets needs 3 s.
    pub handshake: Duration,
    /// Handshakes begun a second, a count; further ones are refused without any work, and 0 is no limit. Each costs a
    /// signature and an ML-KEM exchange, some 0.2 ms: this many leave most of a core to those who are connected.
    pub handshakes_per_second: u32,
    /// Handshakes under way at once, a count; further ones are refused.
    pub handshakes: usize,
    /// Of these from one source (an IPv4 address or an IPv6 /64), so that one host cannot take all of them.
    pub handshakes_per_source: usize,
    /// Handshakes under way from which on a client must first prove its address (QUIC Retry, one more round trip).
    pub retry_above: usize,
    /// Connections that have not said hello yet, handshakes included, a count: anybody who makes a key gets that far.
    pub unauthenticated: usize,
    /// From a connection to its hello: a client that lost two packets needs no more.
    pub hello: Duration,
    /// From the hello to the first stream: a connection that asks for nothing is for nothing.
    pub first_request: Duration,
    /// From a stream's opening to its first whole frame: one round trip, and time for a loss.
    pub first_frame: Duration,
    /// Progress deadline of a writer: within this time a frame that was begun must be whole or [`PROGRESS_BYTES`] longer,
    /// and the next frame of a sequence that is owed (a bundle, a table) must be there.
    pub next_frame: Duration,
    /// A write that makes no progress for this long ends its stream: the reader stopped reading, and holds its windows'
    /// memory for nothing. As long as QUIC's own idle time-out; the reader may resume.
    pub stall: Duration,
    /// How long "not allowed" takes to be said: always the same, so that "no such topic" and "not a member" cannot be told
    /// apart. Longer than either takes.
    pub refusal: Duration,
    /// Streams a connection may have open at first, a count: a permitted one costs 85 bytes, used or not. Once half of them
    /// are used, twice as many are permitted, up to [`Limits::max_streams`].
    pub streams: u32,
    /// Streams a connection may have open at most, a count.
    pub max_streams: u32,
    /// Connections, a count: some 48 kB each.
    pub connections: usize,
    /// Connections of one identity, a count: an application on several machines uses an identity each.
    pub connections_per_identity: usize,
    /// Subscriptions of one identity, over all its connections, a count: each is a task and may read from the disk.
    pub subscriptions_per_identity: usize,
    /// Topics one owner may create, a count: each costs a task and a roster.
    pub topics_per_owner: usize,
    /// Bytes a second that one identity may publish, slot tables included; beyond, the broker reads no faster, and nothing
    /// is lost. Half of what a disk that writes 256 MB/s takes. 0: no limit.
    pub publish_rate: Size,
    /// Slot tables one identity may be uploading, a count: one, and what broken connections still hold.
    pub uploads_per_identity: usize,
    /// Slots in a table, a count: 56 bytes each.
    pub table_slots: u32,
    /// How long the upload of a table may take: a million slots at 100 KB/s.
    pub upload: Duration,
    /// Bytes in flight toward the broker on one connection: what a client can make it hold unread.
    pub receive_window: Size,
    /// Bytes written and not acknowledged, a connection: what a reader that stopped can pin. 40 MB/s at 100 ms of round trip.
    pub send_window: Size,
    /// Bytes of the largest UDP payload tried on a path. What fits Ethernet; more on a jumbo network only.
    pub max_udp_payload: Size,
    /// What may wait to be synced, bytes: 64 largest records, or a quarter of a second of a disk that writes 256 MB/s; more
    /// would only add latency.
    pub commit_bytes: Size,
    /// Bytes of recent records a topic holds ready for delivery: what live readers may be behind before they read from the
    /// log. Half a second at 16 MB/s.
    pub ring_bytes: Size,
    /// Cap on the time that topics keep records, over their own policies; 0: none.
    pub retain_time: Duration,
    /// Cap on the bytes of records that a topic keeps, over its own policy; 0: none.
    pub retain_bytes: Size,
    /// How often retention is applied.
    pub retention_every: Duration,
    /// How long a part stands in a cluster's streams though no record names it: twice as long as one may still be named.
    pub parts_wait: Duration,
    /// Bytes of the disk that stay free: below, nothing is taken any more. Room for what was acknowledged to move from the
    /// journals (256 MiB) to its files, and for retention to do its work, which needs space to make space.
    pub disk_reserve: Size,
    /// How long a shutdown may take: one slow fsync, and round trips for the answers.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            handshakes_per_second: 2_000,
            handshakes: 1_024,
            handshakes_per_source: 64,
            retry_above: 64,
            unauthenticated: 2_048,
            first_request: Duration::from_secs(10),
            hello: Duration::from_secs(3),
            first_frame: Duration::from_secs(10),
            next_frame: Duration::from_secs(30),
            stall: Duration::from_secs(30),
            refusal: Duration::from_millis(20),
            streams: 8,
            max_streams: 1_024,
            connections: 100_000,
            connections_per_identity: 64,
            subscriptions_per_identity: 1_024,
            topics_per_owner: 10_000,
            publish_rate: Size(128 << 20),
            uploads_per_identity: 4,
            table_slots: sealcast_proto::limits::MAX_SLOTS,
            upload: Duration::from_secs(600),
            receive_window: Size(4 << 20),
            send_window: Size(4 << 20),
            max_udp_payload: Size(1_452),
            commit_bytes: Size(64 << 20),
            ring_bytes: Size(8 << 20),
            retain_time: Duration::ZERO,
            retain_bytes: Size(0),
            retention_every: Duration::from_secs(10),
            parts_wait: Duration::from_secs(3_600),
            disk_reserve: Size(384 << 20),
            drain: Duration::from_secs(5),
        }
    }
}
