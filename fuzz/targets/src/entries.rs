//! Roster entries out of a fuzzer's bytes: of admins and of others, honest and not.

use bytes::Bytes;
use sealcast_proto::MemberIndex;
use sealcast_proto::Signed;
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};

use crate::steps::Steps;
use crate::valid;

/// Who can be a member here: identities 1 (the owner) to this.
pub(crate) const PEOPLE: u8 = 6;

pub(crate) fn person(steps: &mut Steps<'_>) -> u8 {
    1 + steps.below(PEOPLE)
}

fn role(steps: &mut Steps<'_>) -> Role {
    [Role::Reader, Role::Publisher, Role::Admin][usize::from(steps.below(3))]
}

fn op(on: &Roster, steps: &mut Steps<'_>) -> Op {
    let kind = steps.byte();
    let identity = valid::identity(person(steps)).public();
    let held = on.find(&identity).map(|(index, _)| index);
    let member = match steps.rarely(8) {
        true => MemberIndex(steps.byte().into()),
        false => held.unwrap_or_default(),
    };
    match kind % 8 {
        0..3 => Op::Add { identity, role: role(steps) },
        3..5 => Op::Remove { member, identity },
        5 => Op::SetRole { member, identity, role: role(steps) },
        6 => {
            let durability = if steps.rarely(2) { Durability::Memory } else { Durability::Durable };
            Op::set_policy(Policy { durability, retain_ms: steps.byte().into(), ..Policy::default() })
        }
        _ => Op::Rotate,
    }
}

/// The next entry, signed by somebody who may not be allowed to; `None` where the rules let nobody sign it.
///
/// A dishonest one has a field changed and is signed again: whoever checks it has only the rules.
pub(crate) fn entry(on: &Roster, now_ms: u64, steps: &mut Steps<'_>) -> Option<EntryBundle> {
    let admin = if steps.rarely(8) { person(steps) } else { 1 };
    let ops: Vec<Op> = (0..=steps.below(3)).map(|_| op(on, steps)).collect();
    let admin = valid::identity(admin);
    let mut bundle = on.sign(&ops, &admin, now_ms).ok()?;
    let change = steps.byte();
    if change > 0 && change < 14 {
        let mut entry = bundle.entry.peek().ok()?;
        match change {
            1 => entry.seq.0 = steps.byte().into(),
            2 => entry.prev_hash.0[0] ^= steps.byte(),
            3 => entry.ops_hash.0[0] ^= steps.byte(),
            4 => entry.roles_hash.0[0] ^= steps.byte(),
            5 => entry.policy_hash.0[0] ^= steps.byte(),
            6 => entry.last_removal_seq.0 = steps.byte().into(),
            7 => entry.next_member.0 = steps.byte().into(),
            8 => entry.signer = valid::identity(person(steps)).public(),
            9 => entry.topic.0[0] ^= steps.byte(),
            10 => entry.time_ms ^= u64::from(steps.byte()),
            11 => bundle.ops = Bytes::from_static(&[0x0a, 0]),
            12 => bundle.roles = None,
            _ => bundle.policy = None,
        }
        bundle.entry = Signed::sign(&entry, admin.signing_key());
    }
    Some(bundle)
}
