//! What a roster entry does: its operations, as they travel and are hashed.

use bytes::Bytes;
use prost::Message as _;

use super::{Role, RosterError};
use crate::hash::{HashLabel, hash};
use crate::identity::PublicKey;
use crate::ids::MemberIndex;
use crate::object::RosterEntry;
use crate::policy::{CarriedPolicy, Policy};
use crate::{limits, wire};

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
    SetPolicy(CarriedPolicy),
    /// Every publisher starts a fresh epoch.
    Rotate,
}

impl Op {
    /// The policy changes to this one.
    pub fn set_policy(policy: Policy) -> Self {
        Self::SetPolicy(policy.into())
    }
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
            Op::SetPolicy(policy) => W::SetPolicy(SetPolicy { policy: policy.bytes().clone() }),
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
    if count_ops(bytes).ok_or(BAD)? > limits::MAX_OPS {
        return Err(RosterError::TooMany("operations"));
    }
    let raw = wire::Ops::decode(bytes).map_err(|_| BAD)?;
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
                W::SetPolicy(raw) => Op::SetPolicy(CarriedPolicy::decode(&raw.policy)?),
                W::Rotate(_) => Op::Rotate,
            })
        })
        .collect()
}

/// How many operations `bytes` hold, told without holding any: an empty one is two bytes here and fifty in memory.
fn count_ops(mut bytes: &[u8]) -> Option<usize> {
    const OPS: usize = 1;
    let mut count = 0_usize;
    while !bytes.is_empty() {
        // Keys and lengths are varints alike: `field << 3 | wire type`.
        let key = prost::decode_length_delimiter(&mut bytes).ok()?;
        let skip = match key & 7 {
            0 => prost::decode_length_delimiter(&mut bytes).map(|_| 0).ok()?,
            1 => 8,
            2 => prost::decode_length_delimiter(&mut bytes).ok()?,
            5 => 4,
            // Groups: nothing here ever was one.
            _ => return None,
        };
        count = count.saturating_add(usize::from(key >> 3 == OPS));
        bytes = bytes.get(skip..)?;
    }
    Some(count)
}

/// Whether encoded operations, which hash to what `entry` says, remove `identity`.
pub fn removes(entry: &RosterEntry, ops: &[u8], identity: &PublicKey) -> Result<bool, RosterError> {
    if hash(HashLabel::Ops, &[ops]) != entry.ops_hash {
        return Err(RosterError::Derived("ops_hash"));
    }
    Ok(decode_ops(ops)?.iter().any(|op| matches!(op, Op::Remove { identity: gone, .. } if gone == identity)))
}
