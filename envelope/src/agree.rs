//! X25519 (RFC 7748), one and many at a time: same inputs, same outputs.

use curve25519_dalek::EdwardsPoint;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::wrap_key::WrapKey;

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
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(*theirs));
    shared.was_contributory().then(|| Agreed(Zeroizing::new(shared.to_bytes())))
}

/// [`agree`] with each of `theirs`, in their order: one secret, many keys.
///
/// By way of the Edwards curve, whose multiplication dalek does with vector instructions, and with one inversion for
/// all on the way back: faster than the ladder (benches/wrap.rs). The secret's time is constant; whether a public key lies on
/// the twist is public.
pub(crate) fn agree_all<'a>(
    secret: &StaticSecret,
    theirs: impl ExactSizeIterator<Item = &'a WrapKey> + Clone,
) -> Vec<Option<Agreed>> {
    // The batch's inversion is made for an empty one too: as much as five KEK slots, in each chunk of a rewrap.
    if theirs.len() == 0 {
        return Vec::new();
    }
    let multiply =
        |key: &WrapKey| key.point().map(|point| point.mul_clamped(*secret.as_bytes())).unwrap_or_default();
    let points: Zeroizing<Vec<EdwardsPoint>> = Zeroizing::new(theirs.clone().map(multiply).collect());
    let shared = Zeroizing::new(EdwardsPoint::to_montgomery_batch(&points));
    let agreed = shared.iter().zip(theirs).map(|(shared, key)| match shared.to_bytes() {
        // Of small order, or not on this curve but on its twist: the ladder decides.
        zeros if zeros == [0; 32] => agree(secret, &key.to_bytes()),
        shared => Some(Agreed(Zeroizing::new(shared))),
    });
    agreed.collect()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::MontgomeryPoint;
    use ed25519_dalek::VerifyingKey;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use sealcast_proto::{Identity, PublicKey};

    use super::*;
    use crate::tests::small_order_keys;

    /// Any 32 bytes are a key: half of them on the curve, half on its twist.
    #[test]
    fn many_at_a_time_agree_as_one_by_one() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut keys: Vec<[u8; 32]> = small_order_keys();
        keys.extend((0..500).map(|_| {
            let mut key = [0; 32];
            rng.fill_bytes(&mut key);
            key
        }));
        // −1, where the map to Edwards has no value, is among those of small order; and keys beyond p.
        keys.extend((0xef..=0xff).map(|low| {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (low, 0x7f);
            key
        }));
        let on_twist = keys.iter().filter(|key| MontgomeryPoint(**key).to_edwards(0).is_none()).count();
        assert!(on_twist > 100 && keys.len() - on_twist > 100);
        let bytes = |agreed: Option<Agreed>| agreed.map(|agreed| *agreed.as_bytes());
        let wrap_keys: Vec<WrapKey> = keys.iter().map(|key| WrapKey::from(*key)).collect();
        // The first time the points are computed, then they are there.
        for seed in 0..4 {
            let secret = StaticSecret::from([seed; 32]);
            let many = agree_all(&secret, wrap_keys.iter());
            assert_eq!(many.len(), keys.len());
            for (key, agreed) in keys.iter().zip(many) {
                assert_eq!(bytes(agreed), bytes(agree(&secret, key)), "{key:02x?}");
            }
        }
        assert!(agree_all(&StaticSecret::from([1; 32]), [].iter()).is_empty());
    }

    /// An identity's key agrees as the X25519 key that it maps to: of either sign, and whatever else it is made of.
    #[test]
    fn an_identity_agrees_as_its_x25519_key() {
        let mut rng = StdRng::seed_from_u64(2);
        let identities: Vec<PublicKey> = (0..50).map(|_| Identity::generate(&mut rng).public()).collect();
        let negative = identities.iter().filter(|identity| identity.as_bytes()[31] & 0x80 != 0).count();
        assert!((10..40).contains(&negative));
        let wrap_keys: Vec<WrapKey> = identities.iter().map(WrapKey::of_identity).collect();
        let secret = StaticSecret::from([7; 32]);
        let many = agree_all(&secret, wrap_keys.iter());
        for ((identity, key), agreed) in identities.iter().zip(&wrap_keys).zip(many) {
            let x25519 =
                VerifyingKey::from_bytes(identity.as_bytes()).expect("a key").to_montgomery().to_bytes();
            assert_eq!(key.to_bytes(), x25519);
            let one = agree(&secret, &x25519).expect("contributory");
            assert_eq!(agreed.expect("contributory").as_bytes(), one.as_bytes());
        }
    }
}
