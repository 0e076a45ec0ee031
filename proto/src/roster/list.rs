//! The roles list: every member above reader, which every subscriber holds.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Role, RosterError};
use crate::hash::{HashLabel, hash};
use crate::identity::PublicKey;
use crate::ids::{Hash, MemberIndex};
use crate::limits;

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
pub(super) fn encode_roles<'a>(officers: impl Iterator<Item = &'a Officer>) -> Bytes {
    let mut out = BytesMut::new();
    for officer in officers {
        out.put_u32(officer.member.0);
        out.put_slice(officer.identity.as_bytes());
        out.put_u8(officer.role.to_u8());
    }
    out.freeze()
}

pub(super) fn decode_roles(bytes: &[u8]) -> Result<Vec<Officer>, RosterError> {
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

pub(crate) fn roles_hash(bytes: &[u8]) -> Hash {
    hash(HashLabel::Roles, &[bytes])
}
