//! Signed objects: an opaque body and a signature over it (docs/protocol.md section 4).
//!
//! What was signed is never re-encoded: [`Signed`] keeps the bytes that travelled, verifies those bytes, and only then
//! parses them. Hashes of objects are over the same bytes.

use std::marker::PhantomData;

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use prost::Message as _;

use crate::hash::{HashLabel, SignLabel, hash, sign, verify};
use crate::identity::PublicKey;
use crate::ids::{BatchNo, Epoch, Hash, MemberIndex, RosterSeq, Seq, TopicId, is_prekey_id};
use crate::{limits, wire};

/// A signed object that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// The signature does not hold under the key it should.
    #[error("the signature on {0} does not hold")]
    Signature(&'static str),
    /// The bytes are not such an object.
    #[error("{kind} is malformed: {what}")]
    Malformed {
        /// Which kind of object.
        kind: &'static str,
        /// What is wrong.
        what: &'static str,
    },
}

/// One kind of signed object.
pub trait Object: Sized {
    /// For error messages: "an epoch header".
    const KIND: &'static str;
    /// The label it is signed under.
    const LABEL: SignLabel;
    /// The canonical encoding, made once, when it is signed.
    fn encode(&self) -> Vec<u8>;
    /// Reads a body whose signature was (or will be) verified.
    fn decode(body: &[u8]) -> Result<Self, ObjectError>;
}

/// A body and the signature on it, as they travelled.
pub struct Signed<T> {
    body: Bytes,
    signature: [u8; 64],
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self { body: self.body.clone(), signature: self.signature, kind: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.body == other.body && self.signature == other.signature
    }
}

impl<T: Object> std::fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signed<{}>({} bytes)", T::KIND, self.body.len())
    }
}

impl<T: Object> Signed<T> {
    /// Encodes and signs `object`.
    pub fn sign(object: &T, key: &SigningKey) -> Self {
        let body = Bytes::from(object.encode());
        let signature = sign(key, T::LABEL, &body);
        Self { body, signature, kind: PhantomData }
    }

    /// Takes a body and a signature as they came; nothing is checked but their lengths.
    pub fn from_parts(body: Bytes, signature: &[u8]) -> Result<Self, ObjectError> {
        if body.len() > limits::MAX_SIGNED_BODY {
            return Err(malformed::<T>("too long"));
        }
        let signature = signature.try_into().map_err(|_| malformed::<T>("a signature is 64 bytes"))?;
        Ok(Self { body, signature, kind: PhantomData })
    }

    /// Verifies the carried bytes under `key`, then parses them.
    pub fn verify(&self, key: &PublicKey) -> Result<T, ObjectError> {
        if !verify(key, T::LABEL, &self.body, &self.signature) {
            return Err(ObjectError::Signature(T::KIND));
        }
        T::decode(&self.body)
    }

    /// Parses without verifying: only to learn whose signature to demand.
    pub fn peek(&self) -> Result<T, ObjectError> {
        T::decode(&self.body)
    }

    /// The signed bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    pub(crate) fn to_wire(&self) -> wire::SignedObject {
        wire::SignedObject { body: self.body.clone(), signature: Bytes::copy_from_slice(&self.signature) }
    }

    pub(crate) fn from_wire(object: Option<wire::SignedObject>) -> Result<Self, ObjectError> {
        let object = object.ok_or(malformed::<T>("missing"))?;
        Self::from_parts(object.body, &object.signature)
    }
}

impl Signed<Genesis> {
    /// The topic id: the hash of the genesis.
    pub fn topic_id(&self) -> TopicId {
        TopicId(hash(HashLabel::Topic, &[&self.body]).0)
    }

    /// Verifies that this is the genesis of `topic`, signed by the owner it names.
    pub fn verify_topic(&self, topic: &TopicId) -> Result<Genesis, ObjectError> {
        if self.topic_id() != *topic {
            return Err(malformed::<Genesis>("its hash is not the topic id"));
        }
        self.verify(&self.peek()?.owner)
    }
}

impl Signed<RosterEntry> {
    /// `H("roster", body)`: what the next entry names as its `prev_hash`.
    pub fn hash(&self) -> Hash {
        hash(HashLabel::Roster, &[&self.body])
    }
}

impl Signed<EpochHeader> {
    /// `H("header", body)`: the epoch's name in batches, beacons and the next header.
    pub fn hash(&self) -> Hash {
        hash(HashLabel::Header, &[&self.body])
    }
}

impl Signed<Prekey> {
    /// Verifies a prekey by the owner it names.
    pub fn verify_own(&self) -> Result<Prekey, ObjectError> {
        self.verify(&self.peek()?.owner)
    }
}

fn malformed<T: Object>(what: &'static str) -> ObjectError {
    ObjectError::Malformed { kind: T::KIND, what }
}

/// Suite 1: X25519, HKDF-SHA256, AES-256-GCM-SIV, Ed25519. 2 is reserved for X-Wing prekeys.
pub const SUITE: u16 = 1;

/// A topic's first word. Its hash is the topic id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    /// Fixed for the topic's life; only [`SUITE`] is known.
    pub suite: u16,
    /// For people, at most 128 bytes.
    pub name: String,
    /// Member 0, an admin.
    pub owner: PublicKey,
    /// Makes two topics of one name and owner different.
    pub nonce: [u8; 32],
}

impl Object for Genesis {
    const KIND: &'static str = "a topic's genesis";
    const LABEL: SignLabel = SignLabel::Genesis;

    fn encode(&self) -> Vec<u8> {
        wire::Genesis {
            suite: self.suite.into(),
            name: self.name.clone(),
            owner: copy(self.owner.as_bytes()),
            nonce: copy(&self.nonce),
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::Genesis::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        if raw.suite != u32::from(SUITE) {
            return Err(malformed::<Self>("an unknown suite; a newer version of sealcast may know it"));
        }
        if raw.name.len() > limits::MAX_TOPIC_NAME {
            return Err(malformed::<Self>("the name is too long"));
        }
        Ok(Self {
            suite: SUITE,
            name: raw.name,
            owner: public::<Self>(&raw.owner)?,
            nonce: array::<Self>(&raw.nonce)?,
        })
    }
}

/// One link of the roster's chain. The operations travel beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterEntry {
    /// Which topic.
    pub topic: TopicId,
    /// From 1.
    pub seq: RosterSeq,
    /// The hash of entry `seq − 1`; of entry 1, the topic id.
    pub prev_hash: Hash,
    /// An admin in the list of entry `seq − 1`.
    pub signer: PublicKey,
    /// `H("ops", bytes)`.
    pub ops_hash: Hash,
    /// `H("roles", bytes)` of the list after this entry.
    pub roles_hash: Hash,
    /// `H("policy", bytes)` of the policy after this entry.
    pub policy_hash: Hash,
    /// The newest entry, this one included, that removes anyone or takes a publisher's role away; 0: none.
    pub last_removal_seq: RosterSeq,
    /// The index the next added member gets.
    pub next_member: MemberIndex,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

impl Object for RosterEntry {
    const KIND: &'static str = "a roster entry";
    const LABEL: SignLabel = SignLabel::RosterEntry;

    fn encode(&self) -> Vec<u8> {
        wire::RosterEntry {
            topic: copy(&self.topic.0),
            seq: self.seq.0,
            prev_hash: copy(&self.prev_hash.0),
            signer: copy(self.signer.as_bytes()),
            ops_hash: copy(&self.ops_hash.0),
            roles_hash: copy(&self.roles_hash.0),
            policy_hash: copy(&self.policy_hash.0),
            last_removal_seq: self.last_removal_seq.0,
            next_member: self.next_member.0,
            time_ms: self.time_ms,
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::RosterEntry::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        Ok(Self {
            topic: TopicId(array::<Self>(&raw.topic)?),
            seq: RosterSeq(raw.seq),
            prev_hash: Hash(array::<Self>(&raw.prev_hash)?),
            signer: public::<Self>(&raw.signer)?,
            ops_hash: Hash(array::<Self>(&raw.ops_hash)?),
            roles_hash: Hash(array::<Self>(&raw.roles_hash)?),
            policy_hash: Hash(array::<Self>(&raw.policy_hash)?),
            last_removal_seq: RosterSeq(raw.last_removal_seq),
            next_member: MemberIndex(raw.next_member),
            time_ms: raw.time_ms,
        })
    }
}

/// An admin's word that `seq` is still the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RosterHead {
    /// Which topic.
    pub topic: TopicId,
    /// The newest entry.
    pub seq: RosterSeq,
    /// Its hash.
    pub hash: Hash,
    /// Whose word.
    pub signer: PublicKey,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

impl Object for RosterHead {
    const KIND: &'static str = "a roster head";
    const LABEL: SignLabel = SignLabel::RosterHead;

    fn encode(&self) -> Vec<u8> {
        wire::RosterHead {
            topic: copy(&self.topic.0),
            seq: self.seq.0,
            hash: copy(&self.hash.0),
            signer: copy(self.signer.as_bytes()),
            time_ms: self.time_ms,
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::RosterHead::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        Ok(Self {
            topic: TopicId(array::<Self>(&raw.topic)?),
            seq: RosterSeq(raw.seq),
            hash: Hash(array::<Self>(&raw.hash)?),
            signer: public::<Self>(&raw.signer)?,
            time_ms: raw.time_ms,
        })
    }
}

/// A member's short-lived wrap target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prekey {
    /// Whose.
    pub owner: PublicKey,
    /// `not_before` in seconds: rises even when the owner's state is lost.
    pub prekey_id: u32,
    /// X25519 public key (RFC 7748).
    pub x25519: [u8; 32],
    /// Valid from, milliseconds since 1970.
    pub not_before_ms: u64,
    /// Its secret is erased then, milliseconds since 1970.
    pub not_after_ms: u64,
}

impl Prekey {
    /// Whether a publisher may wrap to it at `now_ms`: begun (or about to, within a day of clock error) and not over.
    pub fn is_valid_at(&self, now_ms: u64) -> bool {
        self.not_before_ms <= now_ms.saturating_add(limits::MAX_PREKEY_AHEAD_MS) && now_ms < self.not_after_ms
    }
}

impl Object for Prekey {
    const KIND: &'static str = "a prekey";
    const LABEL: SignLabel = SignLabel::Prekey;

    fn encode(&self) -> Vec<u8> {
        wire::Prekey {
            owner: copy(self.owner.as_bytes()),
            prekey_id: self.prekey_id,
            x25519: copy(&self.x25519),
            not_before_ms: self.not_before_ms,
            not_after_ms: self.not_after_ms,
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::Prekey::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        if !is_prekey_id(raw.prekey_id) || raw.not_before_ms / 1000 != u64::from(raw.prekey_id) {
            return Err(malformed::<Self>("its id is not its first second"));
        }
        if raw.not_after_ms <= raw.not_before_ms {
            return Err(malformed::<Self>("it ends before it begins"));
        }
        Ok(Self {
            owner: public::<Self>(&raw.owner)?,
            prekey_id: raw.prekey_id,
            x25519: array::<Self>(&raw.x25519)?,
            not_before_ms: raw.not_before_ms,
            not_after_ms: raw.not_after_ms,
        })
    }
}

/// How an epoch's secret comes to be (docs/protocol.md section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// New randomness, one DH a member.
    Fresh,
    /// Derived from the epoch before; slots for newcomers only.
    Advance,
    /// New randomness, wrapped under ratcheted KEKs. Reserved: this version makes none and opens none.
    Rewrap,
}

impl Mode {
    /// As it stands in a header and in `ctx`.
    pub fn to_u8(self) -> u8 {
        match self {
            Self::Fresh => 1,
            Self::Advance => 2,
            Self::Rewrap => 3,
        }
    }
}

/// What a publisher says of the epoch before: every batch it sealed under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrevClose {
    /// How many.
    pub batches: u64,
    /// The last one's hash; the header's hash if there was none.
    pub last_batch_hash: Hash,
}

/// The beginning of an epoch. Its slot table travels and is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochHeader {
    /// Which topic.
    pub topic: TopicId,
    /// Who seals under it and signed this.
    pub publisher: PublicKey,
    /// Rising.
    pub epoch: Epoch,
    /// The publisher's last accepted header; zeros: none.
    pub prev_header_hash: Hash,
    /// Absent: the publisher lost its marks, or a memory topic lost batches.
    pub prev_close: Option<PrevClose>,
    /// The roster that was sealed for.
    pub roster_seq: RosterSeq,
    /// Its entry's hash; at seq 0 the topic id.
    pub roster_hash: Hash,
    /// How the secret came to be.
    pub mode: Mode,
    /// Which generation of KEKs the slots are under.
    pub kek_gen: u32,
    /// The ephemeral X25519 public key all DH slots share; zeros when there is none.
    pub enc: [u8; 32],
    /// Binds the seed: every member checks it (G6).
    pub commitment: [u8; 32],
    /// The Ed25519 key that signs this epoch's batches and beacons.
    pub epoch_vk: PublicKey,
    /// Slots in the table.
    pub slot_count: u32,
    /// `H("slots", table)`.
    pub slots_hash: Hash,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

impl Object for EpochHeader {
    const KIND: &'static str = "an epoch header";
    const LABEL: SignLabel = SignLabel::EpochHeader;

    fn encode(&self) -> Vec<u8> {
        wire::EpochHeader {
            topic: copy(&self.topic.0),
            publisher: copy(self.publisher.as_bytes()),
            epoch: self.epoch.0,
            prev_header_hash: copy(&self.prev_header_hash.0),
            prev_close: self.prev_close.map(|close| wire::PrevClose {
                batches: close.batches,
                last_batch_hash: copy(&close.last_batch_hash.0),
            }),
            roster_seq: self.roster_seq.0,
            roster_hash: copy(&self.roster_hash.0),
            mode: self.mode.to_u8().into(),
            kek_gen: self.kek_gen,
            enc: copy(&self.enc),
            commitment: copy(&self.commitment),
            epoch_vk: copy(self.epoch_vk.as_bytes()),
            slot_count: self.slot_count,
            slots_hash: copy(&self.slots_hash.0),
            time_ms: self.time_ms,
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::EpochHeader::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        let prev_close = match raw.prev_close {
            None => None,
            Some(close) => Some(PrevClose {
                batches: close.batches,
                last_batch_hash: Hash(array::<Self>(&close.last_batch_hash)?),
            }),
        };
        if raw.slot_count > limits::MAX_SLOTS {
            return Err(malformed::<Self>("too many slots"));
        }
        Ok(Self {
            topic: TopicId(array::<Self>(&raw.topic)?),
            publisher: public::<Self>(&raw.publisher)?,
            epoch: Epoch(raw.epoch),
            prev_header_hash: Hash(array::<Self>(&raw.prev_header_hash)?),
            prev_close,
            roster_seq: RosterSeq(raw.roster_seq),
            roster_hash: Hash(array::<Self>(&raw.roster_hash)?),
            mode: match raw.mode {
                1 => Mode::Fresh,
                2 => Mode::Advance,
                3 => Mode::Rewrap,
                _ => return Err(malformed::<Self>("an unknown mode")),
            },
            kek_gen: raw.kek_gen,
            enc: array::<Self>(&raw.enc)?,
            commitment: array::<Self>(&raw.commitment)?,
            epoch_vk: public::<Self>(&raw.epoch_vk)?,
            slot_count: raw.slot_count,
            slots_hash: Hash(array::<Self>(&raw.slots_hash)?),
            time_ms: raw.time_ms,
        })
    }
}

/// A batch's signed body. It is signed together with its ciphertext: see [`crate::record::BatchRecord`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Under which epoch.
    pub epoch: Epoch,
    /// From 0 in each epoch.
    pub batch_no: BatchNo,
    /// The first message's number.
    pub first_seq: Seq,
    /// Messages inside; 0 only in an END.
    pub count: u32,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Whether the publisher says that it is done.
    pub end: bool,
    /// The batch before; of batch 0, the header.
    pub prev_batch_hash: Hash,
}

const FLAG_END: u32 = 1;
const BATCH_KIND: &str = "a batch";

impl Batch {
    /// The encoding, made once, when it is sealed.
    pub fn encode(&self) -> Vec<u8> {
        wire::Batch {
            epoch: self.epoch.0,
            batch_no: self.batch_no.0,
            first_seq: self.first_seq.0,
            count: self.count,
            time_ms: self.time_ms,
            flags: if self.end { FLAG_END } else { 0 },
            prev_batch_hash: copy(&self.prev_batch_hash.0),
        }
        .encode_to_vec()
    }

    /// Reads a body.
    pub fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let bad = |what| ObjectError::Malformed { kind: BATCH_KIND, what };
        let raw = wire::Batch::decode(body).map_err(|_| bad("not protobuf"))?;
        if raw.flags & !FLAG_END != 0 {
            return Err(bad("an unknown flag"));
        }
        let end = raw.flags & FLAG_END != 0;
        if raw.count > limits::MAX_BATCH_MESSAGES || (raw.count == 0 && !end) {
            return Err(bad("a wrong number of messages"));
        }
        if raw.first_seq.checked_add(raw.count.into()).is_none() || raw.batch_no >= limits::MAX_EPOCH_BATCHES
        {
            return Err(bad("a number out of range"));
        }
        Ok(Self {
            epoch: Epoch(raw.epoch),
            batch_no: BatchNo(raw.batch_no),
            first_seq: Seq(raw.first_seq),
            count: raw.count,
            time_ms: raw.time_ms,
            end,
            prev_batch_hash: Hash(
                raw.prev_batch_hash.as_ref().try_into().map_err(|_| bad("a hash is 32 bytes"))?,
            ),
        })
    }

    /// The number of the message after this batch's last.
    pub fn end_seq(&self) -> Seq {
        Seq(self.first_seq.0.saturating_add(self.count.into()))
    }
}

/// A publisher's sign of life while it has nothing to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beacon {
    /// The newest epoch.
    pub header_hash: Hash,
    /// The number its next batch will have.
    pub next_batch_no: BatchNo,
    /// The last batch's hash; the header's if there was none.
    pub last_batch_hash: Hash,
    /// The newest roster entry the publisher verified: may be ahead of its header's.
    pub roster_seq: RosterSeq,
    /// That entry's hash.
    pub roster_hash: Hash,
    /// Milliseconds since 1970.
    pub time_ms: u64,
}

impl Object for Beacon {
    const KIND: &'static str = "a beacon";
    const LABEL: SignLabel = SignLabel::Beacon;

    fn encode(&self) -> Vec<u8> {
        wire::Beacon {
            header_hash: copy(&self.header_hash.0),
            next_batch_no: self.next_batch_no.0,
            last_batch_hash: copy(&self.last_batch_hash.0),
            roster_seq: self.roster_seq.0,
            roster_hash: copy(&self.roster_hash.0),
            time_ms: self.time_ms,
        }
        .encode_to_vec()
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let raw = wire::Beacon::decode(body).map_err(|_| malformed::<Self>("not protobuf"))?;
        Ok(Self {
            header_hash: Hash(array::<Self>(&raw.header_hash)?),
            next_batch_no: BatchNo(raw.next_batch_no),
            last_batch_hash: Hash(array::<Self>(&raw.last_batch_hash)?),
            roster_seq: RosterSeq(raw.roster_seq),
            roster_hash: Hash(array::<Self>(&raw.roster_hash)?),
            time_ms: raw.time_ms,
        })
    }
}

fn copy(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn array<T: Object>(bytes: &[u8]) -> Result<[u8; 32], ObjectError> {
    bytes.try_into().map_err(|_| malformed::<T>("a field is not 32 bytes"))
}

fn public<T: Object>(bytes: &[u8]) -> Result<PublicKey, ObjectError> {
    PublicKey::from_bytes(bytes).map_err(|_| malformed::<T>("it names an invalid key"))
}
