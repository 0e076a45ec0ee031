//! X25519 (RFC 7748), one and many at a time. The place where a batch backend goes: same inputs, same outputs.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// A Diffie–Hellman result, before any derivation.
pub(crate) struct Agreed(Zeroizing<[u8; 32]>);

impl Agreed {
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// X25519; `None` where the result is all zeros, whatever the secret: such a key (small order) would give the slot to
/// everybody (RFC 7748, section 6.1).
pub(crate) fn agree(secret: &StaticSecret, theirs: &[u8; 32]) -> Option<Agreed> {
    let shared = secret.diffie_hellman(&PublicKey::from(*theirs));
    shared.was_contributory().then(|| Agreed(Zeroizing::new(shared.to_bytes())))
}

/// [`agree`] with each of `theirs`, in their order: one secret, many keys.
pub(crate) fn agree_all<'a>(
    secret: &StaticSecret,
    theirs: impl ExactSizeIterator<Item = &'a [u8; 32]>,
) -> Vec<Option<Agreed>> {
    theirs.map(|key| agree(secret, key)).collect()
}
