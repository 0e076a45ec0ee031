//! HPKE base mode, export-only: RFC 9180 with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and no AEAD (0xFFFF).
//!
//! ```text
//! dh ─ Extract "eae_prk" ─ Expand "shared_secret", enc ‖ pkR ─► shared_secret          section 4.1
//! shared_secret ─ Extract "secret" ─ Expand "exp", mode ‖ psk_id_hash ‖ info_hash ─► exporter_secret     5.1
//! exporter_secret ─ Expand "sec", exporter_context ─► export                                             5.3
//! ```
//! Written here because the recipients of one header share `enc` and `info`: what depends on these alone is computed
//! once ([`Schedule`]), and the Diffie–Hellman results come from outside, many at a time.

use zeroize::Zeroizing;

use crate::kdf::{expand, extract};

const VERSION: &[u8] = b"HPKE-v1";
/// "KEM" ‖ I2OSP(0x0020, 2)
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// "HPKE" ‖ I2OSP(0x0020, 2) ‖ I2OSP(0x0001, 2) ‖ I2OSP(0xFFFF, 2)
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\xff\xff";
const MODE_BASE: u8 = 0;

/// `key_schedule_context` of one `info`: the same for every recipient of a header.
pub(crate) struct Schedule([u8; 65]);

impl Schedule {
    pub(crate) fn new(info: &[u8]) -> Self {
        let psk_id_hash = labeled_extract(HPKE_SUITE, b"", b"psk_id_hash", b"");
        let info_hash = labeled_extract(HPKE_SUITE, b"", b"info_hash", info);
        let mut context = [MODE_BASE; 65];
        let (psk_part, info_part) = context.split_at_mut(33);
        psk_part.iter_mut().skip(1).zip(psk_id_hash.iter()).for_each(|(to, from)| *to = *from);
        info_part.copy_from_slice(info_hash.as_ref());
        Self(context)
    }

    /// `exporter_secret` for a shared secret.
    pub(crate) fn exporter(&self, shared: &SharedSecret) -> Exporter {
        let secret = labeled_extract(HPKE_SUITE, shared.0.as_ref(), b"secret", b"");
        Exporter(labeled_expand(HPKE_SUITE, &secret, b"exp", &[&self.0]))
    }
}

/// `shared_secret` of a KEM.
pub(crate) struct SharedSecret(Zeroizing<[u8; 32]>);

impl SharedSecret {
    /// `ExtractAndExpand(dh, enc ‖ pkR)`: the same on both sides.
    pub(crate) fn new(dh: &[u8; 32], enc: &[u8; 32], pk_r: &[u8; 32]) -> Self {
        let eae_prk = labeled_extract(KEM_SUITE, b"", b"eae_prk", dh);
        Self(labeled_expand(KEM_SUITE, &eae_prk, b"shared_secret", &[enc, pk_r]))
    }
}

/// An export-only context.
pub(crate) struct Exporter(Zeroizing<[u8; 32]>);

impl Exporter {
    /// `Context.Export(context₁ ‖ context₂ ‖ …, N)`.
    pub(crate) fn export<const N: usize>(&self, context: &[&[u8]]) -> Zeroizing<[u8; N]> {
        labeled_expand(HPKE_SUITE, &self.0, b"sec", context)
    }
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], ikm: &[u8]) -> Zeroizing<[u8; 32]> {
    extract(salt, &[VERSION, suite, label, ikm])
}

/// `LabeledExpand(prk, label, info₁ ‖ info₂ ‖ …, N)`; `info` has at most four parts.
fn labeled_expand<const N: usize>(
    suite: &[u8],
    prk: &[u8; 32],
    label: &[u8],
    info: &[&[u8]],
) -> Zeroizing<[u8; N]> {
    const { assert!(N <= u16::MAX as usize) };
    let length = (N as u16).to_be_bytes();
    let mut parts: [&[u8]; 8] = [&[]; 8];
    let head: [&[u8]; 4] = [&length, VERSION, suite, label];
    parts.iter_mut().zip(head.iter().chain(info)).for_each(|(to, from)| *to = from);
    debug_assert!(info.len() <= 4);
    expand(prk, &parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Vector, hex};
    use crate::wrap::WrapSecret;

    /// RFC 9180 A.7, base setup, from both sides, through the functions that make a slot.
    #[test]
    fn rfc_9180_export_only() {
        let vector = Vector::rfc_9180();
        let (ephemeral, receiver) = (vector.secret("skEm"), vector.secret("skRm"));
        let (enc, pk_r) = (vector.array("enc"), vector.array("pkRm"));
        assert_eq!(ephemeral.public(), enc);
        assert_eq!(receiver.public(), pk_r);

        let schedule = Schedule::new(&vector.bytes("info"));
        assert_eq!(schedule.0.as_slice(), vector.bytes("key_schedule_context"));
        let sides: [(&WrapSecret, &[u8; 32]); 2] = [(&ephemeral, &pk_r), (&receiver, &enc)];
        for (mine, theirs) in sides {
            let dh = mine.agree(theirs).expect("contributory");
            let shared = SharedSecret::new(dh.as_bytes(), &enc, &pk_r);
            assert_eq!(*shared.0, vector.array("shared_secret"));
            let exporter = schedule.exporter(&shared);
            assert_eq!(*exporter.0, vector.array("exporter_secret"));
            for (context, value) in vector.exports() {
                assert_eq!(exporter.export::<32>(&[&context]).as_slice(), value);
                // Split in parts it is the same context.
                let (left, right) = context.split_at(context.len() / 2);
                assert_eq!(exporter.export::<32>(&[left, right]).as_slice(), value);
            }
        }
    }

    #[test]
    fn the_suite_ids_are_the_rfcs() {
        assert_eq!(KEM_SUITE, hex("4b454d0020"));
        assert_eq!(HPKE_SUITE, hex("48504b4500200001ffff"));
    }
}
