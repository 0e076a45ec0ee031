//! Every limit of the protocol, each with its unit and its reason. All are checked before allocation.

/// One message's plaintext, bytes: large enough for a configuration or a picture, small enough to hold in memory many times.
pub const MAX_MESSAGE: usize = 1 << 20;
/// The framed plaintext of a batch (`n` of docs/protocol.md section 7), bytes: one largest message and its wrapping.
pub const MAX_BATCH_PLAINTEXT: usize = (1 << 20) + (64 << 10);
/// A batch's ciphertext, bytes: what [`MAX_BATCH_PLAINTEXT`] plus its length prefix pads to (Padmé), plus the 16-byte tag.
pub const MAX_BATCH_CIPHERTEXT: usize = 1_146_896;
/// A batch's body, bytes: its largest encoding is 102.
pub const MAX_BATCH_BODY: usize = 256;
/// Messages in a batch, a count: bounds the work one signature check lets through.
pub const MAX_BATCH_MESSAGES: u32 = 65_536;
/// A header's or roster entry's body, bytes: the largest is about 330.
pub const MAX_SIGNED_BODY: usize = 1024;
/// A control frame, bytes: any request, acknowledgement or refusal.
pub const MAX_CONTROL_FRAME: usize = 16 << 10;
/// A record frame, bytes: the largest batch and what surrounds it.
pub const MAX_RECORD_FRAME: usize = MAX_BATCH_CIPHERTEXT + 1024;
/// The slowest uplink whose bytes are waited for, bytes a second: 64 kbit/s. Nothing slower carries a largest record within two
/// minutes and a half.
pub const SLOWEST_UPLINK: u64 = 8_000;
/// Operations in one roster entry, a count: larger changes take several entries.
pub const MAX_OPS: usize = 16_384;
/// The encoded operations of one entry, bytes: 16,384 of at most 52 bytes and one policy.
pub const MAX_OPS_BYTES: usize = 1 << 20;
/// Members above reader, a count: every subscriber holds this list.
pub const MAX_ROLES: usize = 1024;
/// One entry of the roles list, bytes: member u32, identity 32, role u8.
pub const ROLE_BYTES: usize = 37;
/// The roles list, bytes.
pub const MAX_ROLES_BYTES: usize = MAX_ROLES * ROLE_BYTES;
/// An encoded policy, bytes.
pub const MAX_POLICY_BYTES: usize = 256;
/// A roster bundle's frame, bytes: entry, operations, roles and policy.
pub const MAX_ROSTER_FRAME: usize =
    MAX_OPS_BYTES + MAX_ROLES_BYTES + MAX_POLICY_BYTES + MAX_SIGNED_BODY + 256;
/// One slot, bytes: member u32, source u32, ciphertext 48.
pub const SLOT_BYTES: usize = 56;
/// Slots in a table, a count: members of one topic. 10⁶ members are a table of 56 MB.
pub const MAX_SLOTS: u32 = 4_000_000;
/// A topic's name, bytes of UTF-8.
pub const MAX_TOPIC_NAME: usize = 128;
/// A prekey's number, which is its `not_before` in seconds.
pub const MAX_PREKEY_ID: u32 = u32::MAX - 1;
/// How far ahead of the verifier's clock a prekey may begin, milliseconds: a day, for clocks that are off.
pub const MAX_PREKEY_AHEAD_MS: u64 = 24 * 3600 * 1000;
/// Advances in a row, a count: then a fresh epoch, so that a stolen advance secret reaches only so far.
pub const MAX_ADVANCES: u32 = 256;
/// Rewraps after a fresh epoch, a count, refused ones included: bounds the hashing that one header can ask for.
pub const MAX_KEK_STEPS: u32 = 4096;
/// Headers in an answer to FetchEpochs, a count: one with a DH slot for the asker, and those that follow from it. So a
/// publisher begins a fresh epoch before there are more.
pub const MAX_EPOCHS_FETCHED: usize = 4096;
/// Batches a receiver fast-forwards over, and an epoch's most, a count: bounds the hashing that one batch can ask for.
pub const MAX_EPOCH_BATCHES: u64 = 65_536;
/// How far a sign of life may be from the subscriber's clock, milliseconds.
pub const MAX_CLOCK_SKEW_MS: u64 = 30_000;
/// Bytes of headers (names and values) in one message.
pub const MAX_HEADERS_BYTES: usize = 16 << 10;
/// The version of the protocol in ALPN and hello.
pub const PROTOCOL_VERSION: u32 = 1;
/// ALPN, RFC 7301.
pub const ALPN: &[u8] = b"sealcast/1";
/// The port a broker listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7443;
