//! A public key to wrap to, and its point on the Edwards curve: computed once, however many epochs are wrapped to it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::{EdwardsPoint, MontgomeryPoint};
use sealcast_proto::PublicKey;

/// An X25519 public key that a member's slot is wrapped to.
///
/// What multiplication needs of it costs a square root, a third of a Diffie–Hellman. It is computed when it is first used, on the
/// thread that wraps, and kept as long as any clone is: 200 bytes.
#[derive(Clone)]
pub struct WrapKey(Arc<Inner>);

struct Inner {
    given: Given,
    ready: OnceLock<Ready>,
}

enum Given {
    X25519([u8; 32]),
    Identity(PublicKey),
}

struct Ready {
    x25519: [u8; 32],
    /// `None`: it lies on the twist, where the ladder has to go.
    point: Option<EdwardsPoint>,
}

impl WrapKey {
    /// The static wrap key of a member that has no prekey yet: its identity, Edwards → Montgomery (RFC 7748, section 4.1).
    pub fn of_identity(identity: &PublicKey) -> Self {
        Self::of(Given::Identity(*identity))
    }

    fn of(given: Given) -> Self {
        Self(Arc::new(Inner { given, ready: OnceLock::new() }))
    }

    /// As RFC 7748 writes it; zeros, which nobody wraps to, for an identity that is no point of the curve.
    pub fn to_bytes(&self) -> [u8; 32] {
        match &self.0.given {
            Given::X25519(bytes) => *bytes,
            Given::Identity(_) => self.ready().x25519,
        }
    }

    pub(crate) fn point(&self) -> Option<&EdwardsPoint> {
        self.ready().point.as_ref()
    }

    fn ready(&self) -> &Ready {
        self.0.ready.get_or_init(|| match &self.0.given {
            // Either of the two points with this u will do: their multiples have the same u again.
            Given::X25519(bytes) => Ready { x25519: *bytes, point: MontgomeryPoint(*bytes).to_edwards(0) },
            Given::Identity(identity) => {
                let point = CompressedEdwardsY(*identity.as_bytes()).decompress();
                Ready { x25519: point.map_or([0; 32], |point| point.to_montgomery().to_bytes()), point }
            }
        })
    }
}

impl From<[u8; 32]> for WrapKey {
    fn from(x25519: [u8; 32]) -> Self {
        Self::of(Given::X25519(x25519))
    }
}

impl PartialEq for WrapKey {
    fn eq(&self, other: &Self) -> bool {
        self.to_bytes() == other.to_bytes()
    }
}

impl Eq for WrapKey {}

impl fmt::Debug for WrapKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrapKey(")?;
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
