//! HKDF-SHA256 (RFC 5869), its two halves, without an error path: every length here is a constant.

use hkdf::HmacImpl;
use hkdf::hmac::Hmac;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// `HKDF-Extract(salt, ikm₁ ‖ ikm₂ ‖ …)`.
pub(crate) fn extract(salt: &[u8], ikm: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    // HKDF-Extract is HMAC keyed with the salt; the `hkdf` crate would also key the HMAC of an expansion here.
    let mut out = Zeroizing::new([0; 32]);
    let mut mac = <Hmac<Sha256> as HmacImpl>::new_from_slice(salt);
    ikm.iter().for_each(|part| HmacImpl::update(&mut mac, part));
    take(mac, &mut out);
    out
}

/// `HKDF-Expand(prk, info₁ ‖ info₂ ‖ …, N)`.
pub(crate) fn expand<const N: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    Expander::new(prk).expand(info)
}

/// HKDF-Expand of one key, several times: what depends on the key alone is computed once.
pub(crate) struct Expander(Hmac<Sha256>);

impl Expander {
    pub(crate) fn new(prk: &[u8; 32]) -> Self {
        Self(<Hmac<Sha256> as HmacImpl>::new_from_slice(prk))
    }

    /// `HKDF-Expand(prk, info₁ ‖ info₂ ‖ …, N)`.
    pub(crate) fn expand<const N: usize>(&self, info: &[&[u8]]) -> Zeroizing<[u8; N]> {
        const { assert!(N <= 255 * 32, "RFC 5869, section 2.3") };
        let mut okm = Zeroizing::new([0; N]);
        let mut previous = Zeroizing::new([0; 32]);
        for (block, counter) in okm.chunks_mut(32).zip(1_u8..=255) {
            let mut mac = self.0.clone();
            if counter > 1 {
                HmacImpl::update(&mut mac, previous.as_ref());
            }
            next_block(mac, info, counter, &mut previous);
            block.iter_mut().zip(previous.iter()).for_each(|(to, from)| *to = *from);
        }
        okm
    }

    /// `HKDF-Expand(prk, info₁ ‖ info₂ ‖ …, 32)`, the last of this key: without a copy of its state to make and to wipe.
    pub(crate) fn expand_last(self, info: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut okm = Zeroizing::new([0; 32]);
        next_block(self.0, info, 1, &mut okm);
        okm
    }
}

fn next_block(mut mac: Hmac<Sha256>, info: &[&[u8]], counter: u8, out: &mut [u8; 32]) {
    info.iter().for_each(|part| HmacImpl::update(&mut mac, part));
    HmacImpl::update(&mut mac, &[counter]);
    take(mac, out);
}

fn take(mac: Hmac<Sha256>, out: &mut [u8; 32]) {
    let mut tag = HmacImpl::finalize(mac);
    out.copy_from_slice(&tag);
    tag.as_mut_slice().zeroize();
}
