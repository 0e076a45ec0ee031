//! The roster: who may read and publish. A signed, hash-chained log (docs/protocol.md section 4).
//!
//! [`RosterChain`] follows the chain in about 300 bytes an entry: what a subscriber holds. [`Roster`] also holds every
//! member and derives each entry's consequences itself: what brokers, publishers and admins hold. One implementation of
//! the rules serves them all.

use std::collections::{BTreeMap, HashMap};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::hash::{HashLabel, hash};
use crate::identity::{Identity, PublicKey};
use crate::ids::{Hash, MemberIndex, RosterSeq, TopicId};
use crate::object::{Genesis, ObjectError, RosterEntry, RosterHead, Signed};
use crate::policy::{Policy, PolicyError, policy_hash};
use crate::{limits, wire};

/// What a member may do. Roles nest: admin ⊃ publisher ⊃ reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads.
    Reader,
    /// Reads and publishes.
    Publisher,
    /// Reads, publishes and signs roster entries.
    Admin,
}

impl Role {
    fn to_u8(self) -> u8 {
        match self {
            Self::Reader => 0,
            Self::Publisher => 1,
            Self::Admin => 2,
        }
    }

    fn from_u32(role: u32) -> Option<Self> {
        match role {
            0 => Some(Self::Reader),
            1 => Some(Self::Publisher),
            2 => Some(Self::Admin),
            _ => None,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Reader => "reader",
            Self::Publisher => "publisher",
            Self::Admin => "admin",
        })
    }
}

/// One change to a roster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// A new member; it gets the next index.
    Add {
        /// Who.
        identity: PublicKey,
        /// As what.
        role: Role,
    },
    /// A member goes.
    Remove {
        /// Its index.
        member: MemberIndex,
        /// Its identity, so that the removed one recognises itself.
        identity: PublicKey,
    },
    /// A member's role changes.
    SetRole {
        /// Its index.
        member: MemberIndex,
        /// Its identity.
        identity: PublicKey,
        /// Its new role.
        role: Role,
    },
    /// The policy changes.
    SetPolicy(Policy),
    /// Every publisher starts a fresh epoch.
    Rotate,
}

/// Encodes operations, as they travel and are hashed.
pub fn encode_ops(ops: &[Op]) -> Bytes {
    use wire::op::{Add, Op as W, Remove, Rotate, SetPolicy, SetRole};
    let copy = |key: &PublicKey| Bytes::copy_from_slice(key.as_bytes());
    let ops = ops.iter().map(|op| {
        let op = match op {
            Op::Add { identity, role } => W::Add(Add { identity: copy(identity), role: role.to_u8().into() }),
            Op::Remove { member, identity } => {
                W::Remove(Remove { member: member.0, identity: copy(identity) })
            }
            Op::SetRole { member, identity, role } => {
                W::SetRole(SetRole { member: member.0, identity: copy(identity), role: role.to_u8().into() })
            }
            Op::SetPolicy(policy) => W::SetPolicy(SetPolicy { policy: policy.encode() }),
            Op::Rotate => W::Rotate(Rotate {}),
        };
        wire::Op { op: Some(op) }
    });
    wire::Ops { ops: ops.collect() }.encode_to_vec().into()
}

/// Reads operations.
pub fn decode_ops(bytes: &[u8]) -> Result<Vec<Op>, RosterError> {
    use wire::op::Op as W;
    const BAD: RosterError = RosterError::Malformed("operations");
    if bytes.len() > limits::MAX_OPS_BYTES {
        return Err(RosterError::TooMany("operations"));
    }
    let raw = wire::Ops::decode(bytes).map_err(|_| BAD)?;
    if raw.ops.len() > limits::MAX_OPS {
        return Err(RosterError::TooMany("operations"));
    }
    let key =
        |bytes: &[u8]| PublicKey::from_bytes(bytes).map_err(|_| RosterError::Malformed("a member's key"));
    let role = |role| Role::from_u32(role).ok_or(RosterError::Malformed("a role"));
    raw.ops
        .into_iter()
        .map(|op| {
            Ok(match op.op.ok_or(BAD)? {
                W::Add(add) => Op::Add { identity: key(&add.identity)?, role: role(add.role)? },
                W::Remove(raw) => {
                    Op::Remove { member: MemberIndex(raw.member), identity: key(&raw.identity)? }
                }
                W::SetRole(raw) => Op::SetRole {
                    member: MemberIndex(raw.member),
                    identity: key(&raw.identity)?,
                    role: role(raw.role)?,
                },
                W::SetPolicy(raw) => Op::SetPolicy(Policy::decode(&raw.policy)?),
                W::Rotate(_) => Op::Rotate,
            })
        })
        .collect()
}

/// A roster entry or list that was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Bytes that are not what they should be.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// More than the limit.
    #[error("too many {0}")]
    TooMany(&'static str),
    /// An object inside.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A policy inside.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// For another topic.
    #[error("the entry belongs to another topic")]
    Topic,
    /// The signer is no admin.
    #[error("the entry is signed by {0}, who is no admin")]
    Signer(PublicKey),
    /// Not the next entry: something in between is missing.
    #[error("entry {found} came where entry {expected} was due")]
    Missing {
        /// Its number.
        found: RosterSeq,
        /// The number due.
        expected: RosterSeq,
    },
    /// Two entries with one number, both properly signed.
    #[error("two signed entries have number {0}: the roster was forked")]
    Fork(RosterSeq),
    /// Already held, byte for byte.
    #[error("entry {0} is already known")]
    Known(RosterSeq),
    /// The roles list or policy did not come with the entry that changes it.
    #[error("the {0} did not come with the entry that changes it")]
    MissingList(&'static str),
    /// A field does not follow from the operations.
    #[error("the entry's {0} does not follow from its operations")]
    Derived(&'static str),
    /// A rule about members.
    #[error("{0}")]
    Rule(String),
}

/// A member above reader, as in the roles list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Officer {
    /// Its index.
    pub member: MemberIndex,
    /// Its identity.
    pub identity: PublicKey,
    /// Publisher or admin.
    pub role: Role,
}

/// The roles list: `member u32 ‖ identity 32 ‖ role u8`, rising, at most 1,024.
fn encode_roles<'a>(officers: impl Iterator<Item = &'a Officer>) -> Bytes {
    let mut out = BytesMut::new();
    for officer in officers {
        out.put_u32(officer.member.0);
        out.put_slice(officer.identity.as_bytes());
        out.put_u8(officer.role.to_u8());
    }
    out.freeze()
}

fn decode_roles(bytes: &[u8]) -> Result<Vec<Officer>, RosterError> {
    const BAD: RosterError = RosterError::Malformed("the roles list");
    if bytes.len() > limits::MAX_ROLES_BYTES {
        return Err(RosterError::TooMany("members above reader"));
    }
    let (entries, rest) = bytes.as_chunks::<{ limits::ROLE_BYTES }>();
    if !rest.is_empty() {
        return Err(BAD);
    }
    let mut officers: Vec<Officer> = Vec::with_capacity(entries.len());
    for entry in entries {
        let (member, rest) = entry.split_first_chunk::<4>().ok_or(BAD)?;
        let (role, identity) = rest.split_last().ok_or(BAD)?;
        let member = MemberIndex(u32::from_be_bytes(*member));
        let role = Role::from_u32(u32::from(*role)).filter(|role| *role > Role::Reader).ok_or(BAD)?;
        let identity = PublicKey::from_bytes(identity).map_err(|_| BAD)?;
        if officers.last().is_some_and(|last| last.member >= member) {
            return Err(BAD);
        }
        officers.push(Officer { member, identity, role });
    }
    if !officers.iter().any(|officer| officer.role == Role::Admin) {
        return Err(RosterError::Malformed("a roles list without an admin"));
    }
    Ok(officers)
}

fn roles_hash(bytes: &[u8]) -> Hash {
    hash(HashLabel::Roles, &[bytes])
}

/// A roster entry and what travels beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct EntryBundle {
    /// The signed entry.
    pub entry: Signed<RosterEntry>,
    /// Its operations, encoded.
    pub ops: Bytes,
    /// The roles list after it, if it changed.
    pub roles: Option<Bytes>,
    /// The policy after it, if it changed.
    pub policy: Option<Bytes>,
}

impl EntryBundle {
    pub(crate) fn to_wire(&self) -> wire::RosterBundle {
        wire::RosterBundle {
            entry: Some(self.entry.to_wire()),
            ops: self.ops.clone(),
            roles: self.roles.clone(),
            policy: self.policy.clone(),
        }
    }

    pub(crate) fn from_wire(raw: wire::RosterBundle) -> Result<Self, ObjectError> {
        Ok(Self { entry: Signed::from_wire(raw.entry)?, ops: raw.ops, roles: raw.roles, policy: raw.policy })
    }

    /// The bytes in which a store or a state directory keeps a bundle.
    pub fn encode(&self) -> Bytes {
        self.to_wire().encode_to_vec().into()
    }

    /// Reads [`EntryBundle::encode`]'s bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, ObjectError> {
        let malformed = ObjectError::Malformed { kind: "a roster bundle", what: "not protobuf" };
        Self::from_wire(wire::RosterBundle::decode(bytes).map_err(|_| malformed)?)
    }
}

/// How a header's roster relates to the verified chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RosterMatch {
    /// It is an entry of the chain.
    Holds,
    /// Older than where this chain begins: cannot be compared.
    Unknown,
    /// Older than the last removal: the fence.
    Stale,
    /// Newer than the chain's head.
    Ahead,
    /// Another entry with the same number.
    Fork,
}

/// Follows a roster's chain without its members: what a subscriber holds.
#[derive(Debug, Clone, PartialEq)]
pub struct RosterChain {
    topic: TopicId,
    owner: PublicKey,
    seq: RosterSeq,
    hash: Hash,
    /// Hashes of the entries from the last removal (or the chain's beginning) on: what headers may name.
    known: BTreeMap<RosterSeq, Hash>,
    officers: Vec<Officer>,
    roles_hash: Hash,
    policy: Policy,
    policy_hash: Hash,
    last_removal_seq: RosterSeq,
    next_member: MemberIndex,
    time_ms: u64,
}

impl RosterChain {
    /// Before entry 1 the roster is the owner alone: member 0, admin, default policy.
    pub fn new(topic: TopicId, genesis: &Genesis) -> Self {
        let officers = vec![Officer { member: MemberIndex(0), identity: genesis.owner, role: Role::Admin }];
        let policy = Policy::default();
        Self {
            topic,
            owner: genesis.owner,
            seq: RosterSeq(0),
            hash: Hash(topic.0),
            known: BTreeMap::from([(RosterSeq(0), Hash(topic.0))]),
            roles_hash: roles_hash(&encode_roles(officers.iter())),
            officers,
            policy_hash: policy_hash(&policy.encode()),
            policy,
            last_removal_seq: RosterSeq(0),
            next_member: MemberIndex(1),
            time_ms: 0,
        }
    }

    /// Begins at an entry that the owner signed, taken on that signature alone; list and policy are checked by hash.
    pub fn begin_at(
        topic: TopicId,
        genesis: &Genesis,
        entry: &Signed<RosterEntry>,
        roles: &[u8],
        policy: &[u8],
    ) -> Result<Self, RosterError> {
        let parsed = entry.verify(&genesis.owner)?;
        Self::begin(topic, genesis, entry, parsed, roles, policy)
    }

    /// Begins at an entry that the owner named in a signed [`RosterHead`].
    pub fn begin_at_head(
        topic: TopicId,
        genesis: &Genesis,
        head: &Signed<RosterHead>,
        entry: &Signed<RosterEntry>,
        roles: &[u8],
        policy: &[u8],
    ) -> Result<Self, RosterError> {
        let head = head.verify(&genesis.owner)?;
        let parsed = entry.peek()?;
        if head.topic != topic || head.seq != parsed.seq || head.hash != entry.hash() {
            return Err(RosterError::Malformed("a roster head that names another entry"));
        }
        Self::begin(topic, genesis, entry, parsed, roles, policy)
    }

    fn begin(
        topic: TopicId,
        genesis: &Genesis,
        entry: &Signed<RosterEntry>,
        parsed: RosterEntry,
        roles: &[u8],
        policy: &[u8],
    ) -> Result<Self, RosterError> {
        if parsed.topic != topic {
            return Err(RosterError::Topic);
        }
        if roles_hash(roles) != parsed.roles_hash {
            return Err(RosterError::MissingList("roles list"));
        }
        if policy_hash(policy) != parsed.policy_hash {
            return Err(RosterError::MissingList("policy"));
        }
        let hash = entry.hash();
        Ok(Self {
            topic,
            owner: genesis.owner,
            seq: parsed.seq,
            hash,
            known: BTreeMap::from([(parsed.seq, hash)]),
            officers: decode_roles(roles)?,
            roles_hash: parsed.roles_hash,
            policy: Policy::decode(policy)?,
            policy_hash: parsed.policy_hash,
            last_removal_seq: parsed.last_removal_seq,
            next_member: parsed.next_member,
            time_ms: parsed.time_ms,
        })
    }

    /// Accepts the next entry, or says why not and changes nothing.
    ///
    /// `roles` and `policy` must be there when the entry changes them, and are ignored when it does not.
    pub fn follow(
        &mut self,
        entry: &Signed<RosterEntry>,
        roles: Option<&[u8]>,
        policy: Option<&[u8]>,
    ) -> Result<RosterEntry, RosterError> {
        let parsed = self.check_link(entry)?;
        let new_roles = if parsed.roles_hash == self.roles_hash {
            None
        } else {
            let bytes = roles.filter(|bytes| roles_hash(bytes) == parsed.roles_hash);
            Some(decode_roles(bytes.ok_or(RosterError::MissingList("roles list"))?)?)
        };
        let new_policy = if parsed.policy_hash == self.policy_hash {
            None
        } else {
            let bytes = policy.filter(|bytes| policy_hash(bytes) == parsed.policy_hash);
            Some(Policy::decode(bytes.ok_or(RosterError::MissingList("policy"))?)?)
        };

        self.seq = parsed.seq;
        self.hash = entry.hash();
        if parsed.last_removal_seq == parsed.seq {
            self.known.clear();
        }
        self.known.insert(self.seq, self.hash);
        if let Some(officers) = new_roles {
            self.officers = officers;
        }
        if let Some(policy) = new_policy {
            self.policy = policy;
        }
        self.roles_hash = parsed.roles_hash;
        self.policy_hash = parsed.policy_hash;
        self.last_removal_seq = parsed.last_removal_seq;
        self.next_member = parsed.next_member;
        self.time_ms = parsed.time_ms;
        Ok(parsed)
    }

    /// Everything about the next entry but its lists: number, chain, signer, signature, monotone fields.
    fn check_link(&self, entry: &Signed<RosterEntry>) -> Result<RosterEntry, RosterError> {
        let parsed = entry.peek()?;
        if parsed.topic != self.topic {
            return Err(RosterError::Topic);
        }
        let expected = self.seq.next().ok_or(RosterError::TooMany("entries"))?;
        if parsed.seq <= self.seq {
            let known = self.known.get(&parsed.seq).is_none_or(|hash| *hash == entry.hash());
            if known {
                return Err(RosterError::Known(parsed.seq));
            }
            self.verify_officer(entry, &parsed)?;
            return Err(RosterError::Fork(parsed.seq));
        }
        if parsed.seq != expected {
            return Err(RosterError::Missing { found: parsed.seq, expected });
        }
        self.verify_officer(entry, &parsed)?;
        if parsed.prev_hash != self.hash {
            return Err(RosterError::Fork(self.seq));
        }
        if parsed.last_removal_seq != self.last_removal_seq && parsed.last_removal_seq != parsed.seq {
            return Err(RosterError::Derived("last_removal_seq"));
        }
        if parsed.next_member < self.next_member {
            return Err(RosterError::Derived("next_member"));
        }
        Ok(parsed)
    }

    fn verify_officer(&self, entry: &Signed<RosterEntry>, parsed: &RosterEntry) -> Result<(), RosterError> {
        if self.role_above_reader(&parsed.signer) != Some(Role::Admin) {
            return Err(RosterError::Signer(parsed.signer));
        }
        entry.verify(&parsed.signer)?;
        Ok(())
    }

    /// Verifies a re-asserted head: an admin's word that this chain's newest entry is the newest.
    pub fn verify_head(&self, head: &Signed<RosterHead>) -> Result<RosterHead, RosterError> {
        let parsed = head.peek()?;
        if parsed.topic != self.topic {
            return Err(RosterError::Topic);
        }
        if self.role_above_reader(&parsed.signer) != Some(Role::Admin) {
            return Err(RosterError::Signer(parsed.signer));
        }
        let parsed = head.verify(&parsed.signer)?;
        match self.compare(parsed.seq, &parsed.hash) {
            RosterMatch::Fork => Err(RosterError::Fork(parsed.seq)),
            RosterMatch::Ahead => Err(RosterError::Missing { found: parsed.seq, expected: self.seq }),
            // An admin kept on an old roster goes on asserting that one: its word says nothing about this head.
            _ if parsed.seq < self.seq => Err(RosterError::Known(parsed.seq)),
            _ => Ok(parsed),
        }
    }

    /// How `(seq, hash)`, named by a header or a beacon, relates to this chain.
    pub fn compare(&self, seq: RosterSeq, hash: &Hash) -> RosterMatch {
        if seq > self.seq {
            return RosterMatch::Ahead;
        }
        if seq < self.last_removal_seq {
            return RosterMatch::Stale;
        }
        match self.known.get(&seq) {
            Some(known) if known == hash => RosterMatch::Holds,
            Some(_) => RosterMatch::Fork,
            None => RosterMatch::Unknown,
        }
    }

    /// Which topic.
    pub fn topic(&self) -> TopicId {
        self.topic
    }

    /// Who signed the genesis.
    pub fn owner(&self) -> PublicKey {
        self.owner
    }

    /// The newest entry's number; 0: none.
    pub fn seq(&self) -> RosterSeq {
        self.seq
    }

    /// The newest entry's hash; with no entry, the topic id.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The newest entry that removed someone; 0: none.
    pub fn last_removal_seq(&self) -> RosterSeq {
        self.last_removal_seq
    }

    /// The newest entry's time, milliseconds since 1970; 0 with no entry.
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Members above reader, by rising index.
    pub fn officers(&self) -> &[Officer] {
        &self.officers
    }

    /// The roles list, encoded.
    pub fn roles_bytes(&self) -> Bytes {
        encode_roles(self.officers.iter())
    }

    /// The role of `identity` if it is above reader.
    pub fn role_above_reader(&self, identity: &PublicKey) -> Option<Role> {
        self.officers.iter().find(|officer| officer.identity == *identity).map(|officer| officer.role)
    }

    /// Whether `identity` may publish now.
    pub fn may_publish(&self, identity: &PublicKey) -> bool {
        self.role_above_reader(identity).is_some()
    }

    /// The bytes a state directory keeps: trusted when read back, because only their owner could write them.
    pub fn encode(&self) -> Vec<u8> {
        wire::ChainState {
            topic: Bytes::copy_from_slice(&self.topic.0),
            owner: Bytes::copy_from_slice(self.owner.as_bytes()),
            seq: self.seq.0,
            known: self
                .known
                .iter()
                .map(|(seq, hash)| wire::KnownEntry { seq: seq.0, hash: Bytes::copy_from_slice(&hash.0) })
                .collect(),
            roles: self.roles_bytes(),
            policy: self.policy.encode(),
            policy_hash: Bytes::copy_from_slice(&self.policy_hash.0),
            last_removal_seq: self.last_removal_seq.0,
            next_member: self.next_member.0,
            time_ms: self.time_ms,
        }
        .encode_to_vec()
    }

    /// Reads [`RosterChain::encode`]'s bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RosterError> {
        const BAD: RosterError = RosterError::Malformed("a saved roster chain");
        let raw = wire::ChainState::decode(bytes).map_err(|_| BAD)?;
        let known = raw
            .known
            .iter()
            .map(|entry| Ok((RosterSeq(entry.seq), Hash::try_from(entry.hash.as_ref()).map_err(|_| BAD)?)))
            .collect::<Result<BTreeMap<_, _>, RosterError>>()?;
        let seq = RosterSeq(raw.seq);
        Ok(Self {
            topic: TopicId::try_from(raw.topic.as_ref()).map_err(|_| BAD)?,
            owner: PublicKey::from_bytes(&raw.owner).map_err(|_| BAD)?,
            seq,
            hash: *known.get(&seq).ok_or(BAD)?,
            known,
            officers: decode_roles(&raw.roles)?,
            roles_hash: roles_hash(&raw.roles),
            policy: Policy::decode(&raw.policy)?,
            policy_hash: Hash::try_from(raw.policy_hash.as_ref()).map_err(|_| BAD)?,
            last_removal_seq: RosterSeq(raw.last_removal_seq),
            next_member: MemberIndex(raw.next_member),
            time_ms: raw.time_ms,
        })
    }
}

/// One member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its identity.
    pub identity: PublicKey,
    /// Its role.
    pub role: Role,
    /// The entry that added it; 0: the owner.
    pub since: RosterSeq,
}

/// What an accepted entry changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The entry.
    pub entry: RosterEntry,
    /// Who joined, at which index.
    pub added: Vec<(MemberIndex, PublicKey, Role)>,
    /// Who left.
    pub removed: Vec<(MemberIndex, PublicKey)>,
    /// Whether the fence moved to this entry.
    pub fence: bool,
    /// Whether a fresh epoch was asked for.
    pub rotate: bool,
    /// Whether the roles list is another one now.
    pub roles: bool,
    /// Whether the policy is another one now.
    pub policy: bool,
}

/// The whole roster: what brokers, publishers and admins hold.
#[derive(Debug, Clone)]
pub struct Roster {
    chain: RosterChain,
    members: BTreeMap<MemberIndex, Member>,
    by_identity: HashMap<PublicKey, MemberIndex>,
}

/// What operations would do, worked out before anything is changed.
struct Plan {
    added: Vec<(MemberIndex, PublicKey, Role)>,
    removed: Vec<(MemberIndex, PublicKey)>,
    roles: BTreeMap<MemberIndex, Role>,
    policy: Option<Policy>,
    next_member: MemberIndex,
    fence: bool,
    rotate: bool,
    roles_bytes: Bytes,
}

impl Roster {
    /// Before entry 1: the owner alone.
    pub fn new(topic: TopicId, genesis: &Genesis) -> Self {
        let owner = Member { identity: genesis.owner, role: Role::Admin, since: RosterSeq(0) };
        Self {
            chain: RosterChain::new(topic, genesis),
            members: BTreeMap::from([(MemberIndex(0), owner)]),
            by_identity: HashMap::from([(genesis.owner, MemberIndex(0))]),
        }
    }

    /// The chain inside.
    pub fn chain(&self) -> &RosterChain {
        &self.chain
    }

    /// All members by rising index.
    pub fn members(&self) -> impl ExactSizeIterator<Item = (MemberIndex, &Member)> {
        self.members.iter().map(|(index, member)| (*index, member))
    }

    /// The member at `index`.
    pub fn member(&self, index: MemberIndex) -> Option<&Member> {
        self.members.get(&index)
    }

    /// The index and the member an identity is, if it is one.
    pub fn find(&self, identity: &PublicKey) -> Option<(MemberIndex, &Member)> {
        let index = *self.by_identity.get(identity)?;
        Some((index, self.members.get(&index)?))
    }

    /// Signs the next entry. Save it before sending it, and send those bytes again on a retry: nothing is signed twice.
    pub fn sign(&self, ops: &[Op], admin: &Identity, now_ms: u64) -> Result<EntryBundle, RosterError> {
        if self.chain.role_above_reader(&admin.public()) != Some(Role::Admin) {
            return Err(RosterError::Signer(admin.public()));
        }
        let seq = self.chain.seq.next().ok_or(RosterError::TooMany("entries"))?;
        let plan = self.plan(ops)?;
        let ops = encode_ops(ops);
        let policy = plan.policy.as_ref().map(Policy::encode);
        let entry = RosterEntry {
            topic: self.chain.topic,
            seq,
            prev_hash: self.chain.hash,
            signer: admin.public(),
            ops_hash: hash(HashLabel::Ops, &[&ops]),
            roles_hash: roles_hash(&plan.roles_bytes),
            policy_hash: policy.as_ref().map_or(self.chain.policy_hash, |bytes| policy_hash(bytes)),
            last_removal_seq: if plan.fence { seq } else { self.chain.last_removal_seq },
            next_member: plan.next_member,
            // Rising, even when an admin's clock is behind another's.
            time_ms: now_ms.max(self.chain.time_ms),
        };
        let roles = (entry.roles_hash != self.chain.roles_hash).then_some(plan.roles_bytes);
        let policy = policy.filter(|_| entry.policy_hash != self.chain.policy_hash);
        Ok(EntryBundle { entry: Signed::sign(&entry, admin.signing_key()), ops, roles, policy })
    }

    /// Accepts the next entry, or says why not and changes nothing. Lists are derived here, not taken on faith.
    pub fn apply(&mut self, entry: &Signed<RosterEntry>, ops: &[u8]) -> Result<Change, RosterError> {
        let parsed = self.chain.check_link(entry)?;
        if hash(HashLabel::Ops, &[ops]) != parsed.ops_hash {
            return Err(RosterError::Derived("ops_hash"));
        }
        let plan = self.plan(&decode_ops(ops)?)?;
        if plan.next_member != parsed.next_member {
            return Err(RosterError::Derived("next_member"));
        }
        if plan.fence != (parsed.last_removal_seq == parsed.seq) {
            return Err(RosterError::Derived("last_removal_seq"));
        }
        if roles_hash(&plan.roles_bytes) != parsed.roles_hash {
            return Err(RosterError::Derived("roles_hash"));
        }
        let policy = plan.policy.as_ref().map(Policy::encode);
        if policy.as_ref().map_or(self.chain.policy_hash, |bytes| policy_hash(bytes)) != parsed.policy_hash {
            return Err(RosterError::Derived("policy_hash"));
        }
        let roles_changed = parsed.roles_hash != self.chain.roles_hash;
        let policy_changed = parsed.policy_hash != self.chain.policy_hash;
        let entry = self.chain.follow(entry, Some(&plan.roles_bytes), policy.as_deref())?;

        for (index, identity) in &plan.removed {
            self.members.remove(index);
            self.by_identity.remove(identity);
        }
        for (index, identity, role) in &plan.added {
            self.members.insert(*index, Member { identity: *identity, role: *role, since: entry.seq });
            self.by_identity.insert(*identity, *index);
        }
        for (index, role) in plan.roles {
            if let Some(member) = self.members.get_mut(&index) {
                member.role = role;
            }
        }
        Ok(Change {
            entry,
            added: plan.added,
            removed: plan.removed,
            fence: plan.fence,
            rotate: plan.rotate,
            roles: roles_changed,
            policy: policy_changed,
        })
    }

    /// Works out what `ops` would do, or why they may not.
    fn plan(&self, ops: &[Op]) -> Result<Plan, RosterError> {
        if ops.len() > limits::MAX_OPS {
            return Err(RosterError::TooMany("operations"));
        }
        let mut plan = Plan {
            added: Vec::new(),
            removed: Vec::new(),
            roles: BTreeMap::new(),
            policy: None,
            next_member: self.chain.next_member,
            fence: false,
            rotate: false,
            roles_bytes: Bytes::new(),
        };
        // One entry touches one identity once: so that what it means does not depend on how it is read.
        let mut touched = HashMap::new();
        let mut touch = |identity: &PublicKey| match touched.insert(*identity, ()) {
            None => Ok(()),
            Some(()) => Err(RosterError::Rule(format!("{identity} is named twice in one entry"))),
        };
        let mut officers: BTreeMap<MemberIndex, Officer> =
            self.chain.officers.iter().map(|officer| (officer.member, *officer)).collect();
        for op in ops {
            match op {
                Op::Add { identity, role } => {
                    touch(identity)?;
                    if self.by_identity.contains_key(identity) {
                        return Err(RosterError::Rule(format!("{identity} is a member already")));
                    }
                    let index = plan.next_member;
                    plan.next_member = index.next().ok_or(RosterError::TooMany("members"))?;
                    plan.added.push((index, *identity, *role));
                    if *role > Role::Reader {
                        officers.insert(index, Officer { member: index, identity: *identity, role: *role });
                    }
                }
                Op::Remove { member, identity } => {
                    touch(identity)?;
                    self.expect_member(*member, identity)?;
                    plan.removed.push((*member, *identity));
                    plan.fence = true;
                    officers.remove(member);
                }
                Op::SetRole { member, identity, role } => {
                    touch(identity)?;
                    let held = self.expect_member(*member, identity)?;
                    plan.fence |= held.role > Role::Reader && *role == Role::Reader;
                    plan.roles.insert(*member, *role);
                    if *role > Role::Reader {
                        officers
                            .insert(*member, Officer { member: *member, identity: *identity, role: *role });
                    } else {
                        officers.remove(member);
                    }
                }
                Op::SetPolicy(policy) => {
                    policy.check()?;
                    plan.policy = Some(policy.clone());
                }
                Op::Rotate => plan.rotate = true,
            }
        }
        let members = self.members.len() + plan.added.len();
        if u32::try_from(members).map_or(true, |members| members > limits::MAX_SLOTS) {
            return Err(RosterError::TooMany("members"));
        }
        if officers.len() > limits::MAX_ROLES {
            return Err(RosterError::TooMany("members above reader"));
        }
        if !officers.values().any(|officer| officer.role == Role::Admin) {
            return Err(RosterError::Rule("the last admin cannot go".into()));
        }
        plan.roles_bytes = encode_roles(officers.values());
        Ok(plan)
    }

    fn expect_member(&self, index: MemberIndex, identity: &PublicKey) -> Result<&Member, RosterError> {
        let member = self.members.get(&index).filter(|member| member.identity == *identity);
        member.ok_or_else(|| RosterError::Rule(format!("{identity} is not member {index}")))
    }
}

/// Whether encoded operations, which hash to what `entry` says, remove `identity`.
pub fn removes(entry: &RosterEntry, ops: &[u8], identity: &PublicKey) -> Result<bool, RosterError> {
    if hash(HashLabel::Ops, &[ops]) != entry.ops_hash {
        return Err(RosterError::Derived("ops_hash"));
    }
    Ok(decode_ops(ops)?.iter().any(|op| matches!(op, Op::Remove { identity: gone, .. } if gone == identity)))
}
