//! Following a roster's chain without its members: what a subscriber holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::list::{decode_roles, encode_roles, roles_hash};
use super::{Officer, Role, RosterError};
use crate::identity::PublicKey;
use crate::ids::{Hash, MemberIndex, RosterSeq, TopicId};
use crate::object::{Genesis, RosterEntry, RosterHead, Signed};
use crate::policy::{CarriedPolicy, Policy, policy_hash};
use crate::wire;

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
    pub(super) topic: TopicId,
    pub(super) owner: PublicKey,
    pub(super) seq: RosterSeq,
    pub(super) hash: Hash,
    /// Hashes of the entries from the last removal (or the chain's beginning) on: what headers may name.
    pub(super) known: BTreeMap<RosterSeq, Hash>,
    pub(super) officers: Vec<Officer>,
    pub(super) roles_hash: Hash,
    pub(super) policy: CarriedPolicy,
    pub(crate) policy_hash: Hash,
    pub(super) last_removal_seq: RosterSeq,
    pub(crate) next_member: MemberIndex,
    pub(super) time_ms: u64,
}

impl RosterChain {
    /// Before entry 1 the roster is the owner alone: member 0, admin, default policy.
    pub fn new(topic: TopicId, genesis: &Genesis) -> Self {
        let officers = vec![Officer { member: MemberIndex(0), identity: genesis.owner, role: Role::Admin }];
        let policy = CarriedPolicy::from(Policy::default());
        Self {
            topic,
            owner: genesis.owner,
            seq: RosterSeq(0),
            hash: Hash(topic.0),
            known: BTreeMap::from([(RosterSeq(0), Hash(topic.0))]),
            roles_hash: roles_hash(&encode_roles(officers.iter())),
            officers,
            policy_hash: policy.hash(),
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
            policy: CarriedPolicy::decode(policy)?,
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
            Some(CarriedPolicy::decode(bytes.ok_or(RosterError::MissingList("policy"))?)?)
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
    pub(super) fn check_link(&self, entry: &Signed<RosterEntry>) -> Result<RosterEntry, RosterError> {
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
        self.policy.policy()
    }

    /// The policy in force, in the bytes whose hash the entries name.
    pub fn policy_bytes(&self) -> &Bytes {
        self.policy.bytes()
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
            policy: self.policy.bytes().clone(),
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
            policy: CarriedPolicy::decode(&raw.policy)?,
            policy_hash: Hash::try_from(raw.policy_hash.as_ref()).map_err(|_| BAD)?,
            last_removal_seq: RosterSeq(raw.last_removal_seq),
            next_member: MemberIndex(raw.next_member),
            time_ms: raw.time_ms,
        })
    }
}
