//! 32 secret bytes that are wiped when they go, and that nothing prints or copies.

use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// A 32-byte secret. Boxed, so that moving it leaves no copy on a stack that nobody wipes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret(Box<[u8; 32]>);

impl Secret {
    /// All zeros, to be filled in place.
    fn empty() -> Self {
        Self(Box::new([0; 32]))
    }

    /// 32 random bytes.
    pub(crate) fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self::empty();
        rng.fill_bytes(secret.0.as_mut());
        secret
    }

    /// A boxed copy; the caller wipes what it copied from.
    pub(crate) fn copy_from(bytes: &[u8; 32]) -> Self {
        let mut secret = Self::empty();
        secret.0.copy_from_slice(bytes);
        secret
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<Zeroizing<[u8; 32]>> for Secret {
    fn from(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self::copy_from(&bytes)
    }
}

/// `Debug` that prints the type's name and nothing of its content.
macro_rules! opaque_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($name))
            }
        }
    )+};
}
pub(crate) use opaque_debug;

opaque_debug!(Secret);
