//! The whole roster: every member, and what an entry's operations make of them. What brokers, publishers and admins hold.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::list::{encode_roles, roles_hash};
use super::{EntryBundle, Officer, Op, Role, RosterChain, RosterError, decode_ops, encode_ops};
use crate::hash::{HashLabel, hash};
use crate::identity::{Identity, PublicKey};
use crate::ids::{MemberIndex, RosterSeq, TopicId};
use crate::limits;
use crate::object::{Genesis, RosterEntry, Signed};
use crate::policy::CarriedPolicy;

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
    policy: Option<CarriedPolicy>,
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
        let entry = RosterEntry {
            topic: self.chain.topic,
            seq,
            prev_hash: self.chain.hash,
            signer: admin.public(),
            ops_hash: hash(HashLabel::Ops, &[&ops]),
            roles_hash: roles_hash(&plan.roles_bytes),
            policy_hash: plan.policy.as_ref().map_or(self.chain.policy_hash, CarriedPolicy::hash),
            last_removal_seq: if plan.fence { seq } else { self.chain.last_removal_seq },
            next_member: plan.next_member,
            // Rising, even when an admin's clock is behind another's.
            time_ms: now_ms.max(self.chain.time_ms),
        };
        let roles = (entry.roles_hash != self.chain.roles_hash).then_some(plan.roles_bytes);
        let policy = plan.policy.filter(|_| entry.policy_hash != self.chain.policy_hash);
        let policy = policy.map(|policy| policy.bytes().clone());
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
        let policy = plan.policy.as_ref();
        if policy.map_or(self.chain.policy_hash, CarriedPolicy::hash) != parsed.policy_hash {
            return Err(RosterError::Derived("policy_hash"));
        }
        let roles_changed = parsed.roles_hash != self.chain.roles_hash;
        let policy_changed = parsed.policy_hash != self.chain.policy_hash;
        let policy = policy.map(|policy| policy.bytes().as_ref());
        let entry = self.chain.follow(entry, Some(&plan.roles_bytes), policy)?;

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
                    policy.policy().check()?;
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
