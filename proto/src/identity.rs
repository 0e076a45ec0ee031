//! Identities and their text forms.
//!
//! ```text
//! seal1…               an identity's public key          Bech32, 32 bytes
//! SEAL-SECRET-KEY-1…   an identity (its 32-byte seed)    Bech32, upper case
//! ```

use std::fmt;
use std::str::FromStr;

use bech32::Hrp;
use ed25519_dalek::{SigningKey, VerifyingKey};
use rand_core::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

const PUBLIC_HRP: &str = "seal";
const SECRET_HRP: &str = "seal-secret-key-";

/// A key that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not Bech32, or a mistyped character.
    #[error("not a key: the text is damaged or mistyped")]
    Encoding,
    /// Bech32, but of something else.
    #[error("not a {expected} key: it begins with {found:?}")]
    Kind {
        /// `public` or `secret`.
        expected: &'static str,
        /// The prefix found.
        found: String,
    },
    /// Not 32 bytes, or not a point of the curve.
    #[error("not a valid Ed25519 key")]
    Point,
    /// A key whose signatures anyone could make (small order).
    #[error("a weak key (small order), which is never accepted")]
    Weak,
}

/// An identity's public half: it names a member everywhere. 32 bytes of Ed25519 (RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Accepts 32 bytes that are a canonical point of large order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| KeyError::Point)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Point)?;
        if key.is_weak() {
            return Err(KeyError::Weak);
        }
        // dalek decompresses non-canonical encodings too; two names for one member must not exist.
        if key.to_edwards().compress().to_bytes() != bytes {
            return Err(KeyError::Point);
        }
        Ok(Self(bytes))
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// For verification. `None` cannot happen for keys made by [`PublicKey::from_bytes`].
    pub(crate) fn verifying_key(&self) -> Option<VerifyingKey> {
        VerifyingKey::from_bytes(&self.0).ok()
    }

    /// The first twelve characters of the text form, for logs and people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = bech32::encode::<bech32::Bech32>(Hrp::parse_unchecked(PUBLIC_HRP), &self.0);
        f.write_str(&text.map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.short())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&decode(text, PUBLIC_HRP, "public")?)
    }
}

/// A private key that names a member: an Ed25519 seed. Zeroised on drop; `Debug` shows no secret.
///
/// One identity has one state directory; a second device is a second member.
pub struct Identity {
    key: SigningKey,
    public: PublicKey,
}

impl Identity {
    /// A new identity from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut());
        Self::from_seed(&seed)
    }

    /// The identity of a 32-byte seed (RFC 8032's private key; what an OpenSSH ed25519 key holds too).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey(key.verifying_key().to_bytes());
        Self { key, public }
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The signing key: for [`crate::hash::sign`], TLS, and the wrap key that `envelope` makes of it.
    pub fn signing_key(&self) -> &SigningKey {
        &self.key
    }

    /// The text form, `SEAL-SECRET-KEY-1…`.
    pub fn to_text(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(self.key.to_bytes());
        let text = bech32::encode_upper::<bech32::Bech32>(Hrp::parse_unchecked(SECRET_HRP), seed.as_ref());
        Zeroizing::new(text.unwrap_or_default())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.public.short())
    }
}

impl FromStr for Identity {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = Zeroizing::new(decode(text, SECRET_HRP, "secret")?);
        let mut seed = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| KeyError::Point)?;
        let identity = Self::from_seed(&seed);
        seed.zeroize();
        Ok(identity)
    }
}

fn decode(text: &str, hrp: &str, expected: &'static str) -> Result<Vec<u8>, KeyError> {
    let checked = bech32::primitives::decode::CheckedHrpstring::new::<bech32::Bech32>(text)
        .map_err(|_| KeyError::Encoding)?;
    if checked.hrp() != Hrp::parse_unchecked(hrp) {
        return Err(KeyError::Kind { expected, found: checked.hrp().to_string() });
    }
    Ok(checked.byte_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: u8) -> Identity {
        Identity::from_seed(&[n; 32])
    }

    #[test]
    fn text_forms_round_trip() {
        let id = identity(7);
        let public = id.public().to_string();
        assert!(public.starts_with("seal1"), "{public}");
        assert_eq!(public.parse::<PublicKey>().unwrap(), id.public());
        let secret = id.to_text();
        assert!(secret.starts_with("SEAL-SECRET-KEY-1"), "{}", *secret);
        assert_eq!(secret.parse::<Identity>().unwrap().public(), id.public());
    }

    #[test]
    fn one_kind_of_key_is_not_taken_for_the_other() {
        let id = identity(1);
        assert!(matches!(id.to_text().parse::<PublicKey>(), Err(KeyError::Kind { .. })));
        assert!(matches!(id.public().to_string().parse::<Identity>(), Err(KeyError::Kind { .. })));
        let mut typo = id.public().to_string();
        typo.replace_range(9..10, if &typo[9..10] == "q" { "p" } else { "q" });
        assert_eq!(typo.parse::<PublicKey>(), Err(KeyError::Encoding));
    }

    #[test]
    fn weak_and_non_canonical_keys_are_refused() {
        // The neutral element (order 1) and a point of order 2.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert_eq!(PublicKey::from_bytes(&neutral), Err(KeyError::Weak));
        let mut order2 = [0xff; 32];
        order2[0] = 0xec;
        order2[31] = 0x7f;
        assert_eq!(PublicKey::from_bytes(&order2), Err(KeyError::Weak));
        // y = p + 3 encodes the y of a point of large order a second time.
        let mut twice = [0xff; 32];
        twice[0] = 0xf0;
        twice[31] = 0x7f;
        assert!(PublicKey::from_bytes(&twice).is_err());
        assert_eq!(PublicKey::from_bytes(&[0; 31]), Err(KeyError::Point));
    }

    #[test]
    fn debug_shows_no_secret() {
        let id = identity(3);
        assert!(!format!("{id:?}").contains("SECRET"));
    }
}
