//! Which key each member's slot is wrapped to.

use std::collections::HashMap;

use sealcast_envelope::{WrapKey, WrapTarget};
use sealcast_proto::object::Prekey;
use sealcast_proto::roster::Member;
use sealcast_proto::{MemberIndex, PublicKey, Signed, SlotSource};

/// Members' newest prekeys, and the highest id ever seen of each, which outlives the process (in the marks): so that a
/// broker cannot bring an old prekey, or the static key, back.
///
/// Both outlive a removal: a member that comes back does not publish its prekey again, and without it got no slot.
#[derive(Default)]
pub(crate) struct PrekeyDirectory {
    newest: HashMap<PublicKey, Held>,
    highest: HashMap<PublicKey, u32>,
    /// Static keys in use: kept for what a [`WrapKey`] computes once.
    fixed: HashMap<PublicKey, WrapKey>,
}

struct Held {
    prekey: Prekey,
    key: WrapKey,
}

impl PrekeyDirectory {
    /// Begins with the highest ids remembered.
    pub(crate) fn new(highest: HashMap<PublicKey, u32>) -> Self {
        Self { highest, ..Self::default() }
    }

    /// The highest ids seen, to be remembered.
    pub(crate) fn highest(&self) -> &HashMap<PublicKey, u32> {
        &self.highest
    }

    /// Takes a prekey if it verifies, is valid and is not older than one already seen. Says whether it is new.
    pub(crate) fn offer(&mut self, signed: &Signed<Prekey>, now_ms: u64) -> bool {
        let Some(prekey) = signed.verify_own().ok().filter(|prekey| prekey.is_valid_at(now_ms)) else {
            return false;
        };
        let highest = self.highest.get(&prekey.owner).copied().unwrap_or(0);
        let known =
            self.newest.get(&prekey.owner).is_some_and(|held| held.prekey.prekey_id >= prekey.prekey_id);
        if prekey.prekey_id < highest || known {
            return false;
        }
        self.highest.insert(prekey.owner, prekey.prekey_id);
        self.fixed.remove(&prekey.owner);
        self.newest.insert(prekey.owner, Held { key: prekey.x25519.into(), prekey });
        true
    }

    /// The key to wrap to for `member`; `None` if it has none that is valid (it gets no slot and is reported).
    ///
    /// The static key serves only until a member's first prekey was seen.
    pub(crate) fn target(&mut self, index: MemberIndex, member: &Member, now_ms: u64) -> Option<WrapTarget> {
        let identity = member.identity;
        let (source, x25519) = match self.highest.get(&identity) {
            None => {
                let key = self.fixed.entry(identity).or_insert_with(|| WrapKey::of_identity(&identity));
                (SlotSource::Static, key.clone())
            }
            Some(highest) => {
                let Held { prekey, key } = self.newest.get(&identity)?;
                if prekey.prekey_id < *highest || !prekey.is_valid_at(now_ms) {
                    return None;
                }
                (SlotSource::Prekey(prekey.prekey_id), key.clone())
            }
        };
        Some(WrapTarget { member: index, identity, source, x25519 })
    }
}
