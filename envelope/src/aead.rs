//! AES-256-GCM-SIV (RFC 8452) under keys that are used once.
//!
//! Every key here comes out of a derivation and seals one thing, so the nonce is always zero; no function anywhere
//! takes one. GCM-SIV rather than GCM: should a key ever be used twice, equality leaks and nothing else.

use aes_gcm_siv::aead::array::Array;
use aes_gcm_siv::aes::Aes256Enc;
use aes_gcm_siv::{AeadInOut, AesGcmSiv, KeyInit, Nonce};

/// AES-256-GCM-SIV without the round keys of AES decryption, which neither of its directions uses: they would be half of
/// what a key that is used once costs.
type Aes256GcmSiv = AesGcmSiv<Aes256Enc>;

/// The tag, bytes.
pub(crate) const TAG: usize = 16;

/// The AEAD said no: anyone may have tampered, and nobody learns more.
#[derive(Debug)]
pub(crate) struct Refused;

/// Encrypts `buffer` in place; returns the tag.
pub(crate) fn seal_once(key: &[u8; 32], aad: &[u8], buffer: &mut [u8]) -> Result<[u8; TAG], Refused> {
    let cipher = Aes256GcmSiv::new(<&Array<_, _>>::from(key));
    let tag = cipher.encrypt_inout_detached(&Nonce::default(), aad, buffer.into()).map_err(|_| Refused)?;
    Ok(tag.into())
}

/// Decrypts `buffer` in place; on failure it holds the ciphertext again.
pub(crate) fn open_once(
    key: &[u8; 32],
    aad: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG],
) -> Result<(), Refused> {
    let cipher = Aes256GcmSiv::new(<&Array<_, _>>::from(key));
    let tag = <&Array<_, _>>::from(tag);
    cipher.decrypt_inout_detached(&Nonce::default(), aad, buffer.into(), tag).map_err(|_| Refused)
}
