//! A batch's plaintext: what lies under one AEAD.
//!
//! ```text
//! u32 n ‖ n bytes (count × LP(message)) ‖ zeros up to Padmé(4 + n)          n ≤ 1 MiB + 64 KiB, a message ≤ 1 MiB
//! ```

use bytes::Bytes;
use sealcast_proto::Hash;
use sealcast_proto::limits::{MAX_BATCH_CIPHERTEXT, MAX_BATCH_MESSAGES, MAX_BATCH_PLAINTEXT, MAX_MESSAGE};
use sealcast_proto::record::Sealed;

use crate::aead::{self, TAG};
use crate::padme::padme;

/// What a message takes in a batch beside its own bytes.
pub const MESSAGE_OVERHEAD: usize = 4;

/// What a message of `len` bytes takes of a batch's [`MAX_BATCH_PLAINTEXT`].
pub const fn message_cost(len: usize) -> usize {
    len.saturating_add(MESSAGE_OVERHEAD)
}

/// Whether a message of `next_message_len` bytes still fits a batch whose messages cost `current_plaintext_len` so far
/// (the sum of their [`message_cost`]s). The number of messages has its own limit, [`MAX_BATCH_MESSAGES`].
pub const fn batch_fits(current_plaintext_len: usize, next_message_len: usize) -> bool {
    next_message_len <= MAX_MESSAGE
        && current_plaintext_len.saturating_add(message_cost(next_message_len)) <= MAX_BATCH_PLAINTEXT
}

/// A batch that cannot be sealed. Nothing was sealed and the ratchet did not step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// No message, and not an END.
    #[error("a batch needs a message, unless it ends the epoch")]
    Empty,
    /// One message is larger than [`MAX_MESSAGE`].
    #[error("a message is {0} bytes long; at most 1048576 fit: split it")]
    MessageTooLarge(usize),
    /// Together they are larger than [`MAX_BATCH_PLAINTEXT`], or more than [`MAX_BATCH_MESSAGES`].
    #[error("the messages do not fit one batch: seal them in several")]
    BatchTooLarge,
    /// The numbers of the messages exceed 64 bits.
    #[error("the sequence numbers are used up: use a new topic")]
    SeqOverflow,
    /// The epoch's last batch was sealed.
    #[error("the epoch has sealed its 65536 batches: start a new one")]
    EpochFull,
}

/// Checks the limits; returns `(count, n)`.
pub(crate) fn measure(messages: &[Bytes], end: bool) -> Result<(u32, u32), SealError> {
    if messages.is_empty() && !end {
        return Err(SealError::Empty);
    }
    let count = u32::try_from(messages.len()).map_err(|_| SealError::BatchTooLarge)?;
    let mut n = 0_usize;
    for message in messages {
        if message.len() > MAX_MESSAGE {
            return Err(SealError::MessageTooLarge(message.len()));
        }
        // Cannot wrap: at most 2³² messages of 2²⁰ bytes are fewer than 2⁶⁴; on 32 bits the check below comes first.
        n = n.saturating_add(message_cost(message.len()));
        if n > MAX_BATCH_PLAINTEXT {
            return Err(SealError::BatchTooLarge);
        }
    }
    if count > MAX_BATCH_MESSAGES {
        return Err(SealError::BatchTooLarge);
    }
    Ok((count, u32::try_from(n).map_err(|_| SealError::BatchTooLarge)?))
}

/// Frames, pads and seals in one buffer: each payload is copied once, into the place where it is encrypted.
pub(crate) fn seal(messages: &[Bytes], n: u32, key: &[u8; 32], aad: &Hash) -> Result<Sealed, SealError> {
    let padded = padme(4 + n as usize);
    let mut buffer = Vec::with_capacity(padded + TAG);
    buffer.extend_from_slice(&n.to_be_bytes());
    for message in messages {
        let len = u32::try_from(message.len()).map_err(|_| SealError::BatchTooLarge)?;
        buffer.extend_from_slice(&len.to_be_bytes());
        buffer.extend_from_slice(message);
    }
    buffer.resize(padded, 0);
    let tag = aead::seal_once(key, aad.as_bytes(), &mut buffer).map_err(|_| SealError::BatchTooLarge)?;
    buffer.extend_from_slice(&tag);
    Ok(Sealed(Bytes::from(buffer)))
}

/// The batch did not open, or what it held is not a batch. Deliberately says no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bad;

/// Opens; returns the messages as slices of one plaintext buffer.
pub(crate) fn open(sealed: &Sealed, count: u32, key: &[u8; 32], aad: &Hash) -> Result<Vec<Bytes>, Bad> {
    if sealed.0.len() > MAX_BATCH_CIPHERTEXT {
        return Err(Bad);
    }
    let (ciphertext, tag) = sealed.0.split_last_chunk::<TAG>().ok_or(Bad)?;
    let mut plaintext = ciphertext.to_vec();
    aead::open_once(key, aad.as_bytes(), &mut plaintext, tag).map_err(|_| Bad)?;
    unframe(Bytes::from(plaintext), count)
}

fn unframe(plaintext: Bytes, count: u32) -> Result<Vec<Bytes>, Bad> {
    let (n, rest) = plaintext.split_first_chunk::<4>().ok_or(Bad)?;
    let n = usize::try_from(u32::from_be_bytes(*n)).map_err(|_| Bad)?;
    // One length for one content: a signer cannot hide a second message in the padding, or choose how much there is.
    if n > MAX_BATCH_PLAINTEXT || plaintext.len() != padme(4 + n) {
        return Err(Bad);
    }
    let (framed, padding) = rest.split_at_checked(n).ok_or(Bad)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Bad);
    }
    // `count` is bounded by the signed body's own check, and by the bytes that are here.
    let mut messages = Vec::with_capacity((count as usize).min(n / MESSAGE_OVERHEAD));
    let mut left = framed;
    for _ in 0..count {
        let (len, rest) = left.split_first_chunk::<4>().ok_or(Bad)?;
        let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| Bad)?;
        if len > MAX_MESSAGE {
            return Err(Bad);
        }
        let (message, rest) = rest.split_at_checked(len).ok_or(Bad)?;
        messages.push(plaintext.slice_ref(message));
        left = rest;
    }
    if left.is_empty() { Ok(messages) } else { Err(Bad) }
}
