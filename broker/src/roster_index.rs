//! What a topic's readable roster entries are like, some 16 bytes an entry: enough to know which to send to whom; the
//! entries themselves stand in the log.

use sealcast_proto::{Offset, RosterSeq};

use crate::topic::RosterItem;

/// One entry per readable roster entry, from 1.
#[derive(Debug, Default)]
pub struct RosterIndex(Vec<Meta>);

#[derive(Debug, Clone, Copy)]
struct Meta {
    offset: Offset,
    by_owner: bool,
    roles: bool,
    policy: bool,
}

/// The roster entries that stand at the beginning of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// From this one
    pub from: RosterSeq,
    /// through this one; none if it is lower.
    pub through: RosterSeq,
    /// If set, the first one comes with its whole roles list and policy, which stand in these entries (0: as in the genesis).
    pub lists: Option<(RosterSeq, RosterSeq)>,
    /// Whether the first one is taken on the owner's head that names it: that head comes before it.
    pub by_head: bool,
}

impl RosterIndex {
    pub fn push(&mut self, item: &RosterItem, by_owner: bool) {
        let (roles, policy) = (item.roles.is_some(), item.policy.is_some());
        self.0.push(Meta { offset: item.offset, by_owner, roles, policy });
    }

    /// The newest readable entry; 0: none.
    pub fn head(&self) -> RosterSeq {
        seq(self.0.len())
    }

    /// The newest entry standing before `before`; 0: none.
    pub fn before(&self, before: Offset) -> RosterSeq {
        seq(self.0.partition_point(|meta| meta.offset < before))
    }

    /// What a subscription that starts at `start` and holds the entries up to `held` must be sent first. Who holds none
    /// can begin at the newest entry that the owner signed or, in a head that is stored, `named`; if there is none, at
    /// entry 1.
    pub fn opening(&self, start: Offset, held: Option<RosterSeq>, named: Option<RosterSeq>) -> Opening {
        let through = self.before(start);
        if let Some(held) = held {
            let from = RosterSeq(held.0.saturating_add(1));
            return Opening { from, through, lists: None, by_head: false };
        }
        let standing = self.0.get(..self.0.partition_point(|meta| meta.offset < start)).unwrap_or_default();
        let signed = standing.iter().rposition(|meta| meta.by_owner);
        let named = named.filter(|named| *named <= through).and_then(|named| named.0.checked_sub(1));
        let named = named.and_then(|at| usize::try_from(at).ok());
        match signed.max(named) {
            None => Opening { from: RosterSeq(1), through, lists: None, by_head: false },
            Some(at) => {
                let upto = standing.get(..=at).unwrap_or_default();
                let newest =
                    |changed: fn(&Meta) -> bool| seq(upto.iter().rposition(changed).map_or(0, |at| at + 1));
                Opening {
                    from: seq(at + 1),
                    through,
                    lists: Some((newest(|m| m.roles), newest(|m| m.policy))),
                    by_head: named > signed,
                }
            }
        }
    }
}

fn seq(count: usize) -> RosterSeq {
    RosterSeq(u64::try_from(count).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(metas: &[(u64, bool, bool, bool)]) -> RosterIndex {
        let meta =
            |&(offset, by_owner, roles, policy)| Meta { offset: Offset(offset), by_owner, roles, policy };
        RosterIndex(metas.iter().map(meta).collect())
    }

    fn opening(from: u64, through: u64, lists: Option<(u64, u64)>) -> Opening {
        let lists = lists.map(|(roles, policy)| (RosterSeq(roles), RosterSeq(policy)));
        Opening { from: RosterSeq(from), through: RosterSeq(through), lists, by_head: false }
    }

    #[test]
    fn a_subscription_begins_at_the_newest_entry_of_the_owner() {
        let index = index(&[
            (0, true, true, false),
            (4, true, false, false),
            (5, false, true, true),
            (9, true, false, false),
        ]);
        assert_eq!(index.opening(Offset(9), None, None), opening(2, 3, Some((1, 0))));
        assert_eq!(index.opening(Offset(10), None, None), opening(4, 4, Some((3, 3))));
        assert_eq!(index.opening(Offset(10), Some(RosterSeq(1)), None), opening(2, 4, None));
        assert_eq!(index.opening(Offset(10), Some(RosterSeq(4)), None), opening(5, 4, None));
        assert_eq!(index.opening(Offset(0), None, None), opening(1, 0, None));
    }

    #[test]
    fn or_at_the_one_that_the_owner_named() {
        let index = index(&[(0, true, true, true), (4, false, false, false), (5, false, true, false)]);
        let named = |start, seq| index.opening(Offset(start), None, Some(RosterSeq(seq)));
        assert_eq!(named(9, 3), Opening { by_head: true, ..opening(3, 3, Some((3, 1))) });
        assert_eq!(named(9, 2), Opening { by_head: true, ..opening(2, 3, Some((1, 1))) });
        assert_eq!(named(9, 1), opening(1, 3, Some((1, 1))), "signed as well as named");
        assert_eq!(named(5, 3), opening(1, 2, Some((1, 1))), "not before the start");
        assert_eq!(named(0, 3), opening(1, 0, None));
        assert_eq!(index.opening(Offset(9), Some(RosterSeq(1)), Some(RosterSeq(3))), opening(2, 3, None));
    }

    #[test]
    fn without_an_entry_of_the_owner_it_begins_at_the_first() {
        let index = index(&[(0, false, true, false), (3, false, false, false)]);
        assert_eq!(index.opening(Offset(7), None, None), opening(1, 2, None));
        assert_eq!(index.head(), RosterSeq(2));
    }
}
