//! What an admin command that was cut short has signed: said before it takes effect with the next one.

use sealcast_proto::PublicKey;
use sealcast_proto::roster::Op;
use sealcast_publisher::TopicAdmin;

use super::failure::Failure;
use super::say::{grouped, say};

/// Members named before the others are only counted, a count.
const NAMED: usize = 8;

/// Says what the next change sends first.
pub(crate) fn say_left_over(admin: &TopicAdmin) -> Result<(), Failure> {
    let ops = admin.left_over()?;
    if !ops.is_empty() {
        say!("an earlier command was cut short; what it had signed is sent first: {}", described(&ops));
    }
    Ok(())
}

fn described(ops: &[Op]) -> String {
    let mut added = Vec::new();
    let mut removed = Vec::new();
    let mut others = Vec::new();
    for op in ops {
        match op {
            Op::Add { identity, .. } => added.push(*identity),
            Op::Remove { identity, .. } => removed.push(*identity),
            Op::SetRole { identity, role, .. } => others.push(format!("{identity} becomes {role}")),
            Op::SetPolicy(_) => others.push("another policy".to_owned()),
            Op::Rotate => others.push("a fresh key".to_owned()),
        }
    }
    let listed = [("adds", added), ("removes", removed)].into_iter().filter(|(_, keys)| !keys.is_empty());
    let listed = listed.map(|(what, keys)| format!("{what} {}", named(&keys)));
    listed.chain(others).collect::<Vec<_>>().join("; ")
}

fn named(keys: &[PublicKey]) -> String {
    let names = keys.iter().take(NAMED).map(PublicKey::to_string).collect::<Vec<_>>().join(", ");
    match keys.len().checked_sub(NAMED).filter(|more| *more > 0) {
        Some(more) => format!("{names} and {} more", grouped(more as u64)),
        None => names,
    }
}

#[cfg(test)]
mod tests {
    use sealcast_proto::roster::Role;
    use sealcast_proto::{Identity, MemberIndex};

    use super::*;

    #[test]
    fn members_are_named_up_to_some_and_then_counted() {
        let key = |n: u8| Identity::from_seed(&[n; 32]).public();
        let remove = |n: u8| Op::Remove { member: MemberIndex(n.into()), identity: key(n) };
        let said = described(&[Op::Rotate, remove(1), Op::Add { identity: key(2), role: Role::Reader }]);
        assert_eq!(said, format!("adds {}; removes {}; a fresh key", key(2), key(1)));
        let said = described(&(1..12).map(remove).collect::<Vec<_>>());
        assert!(said.starts_with(&format!("removes {}, ", key(1))) && said.ends_with(" and 3 more"));
    }
}
