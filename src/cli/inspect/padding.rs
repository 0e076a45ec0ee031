//! What a ciphertext's length tells, and what padding hides of it.

use sealcast_envelope::padme::padme;

/// The tag of AES-256-GCM-SIV, bytes.
const TAG: u64 = 16;
/// The length in front of the messages, bytes.
const PREFIX: u64 = 4;

/// The fewest and the most bytes of messages that a ciphertext of `len` bytes can hold, as
/// docs/protocol.md section 7 pads; `None` for a length that no padding makes.
pub(super) fn hidden(len: u64) -> Option<(u64, u64)> {
    let padded = usize::try_from(len.checked_sub(TAG)?).ok()?;
    let framed = u64::try_from(padded).is_ok_and(|padded| padded >= PREFIX);
    if !framed || padme(padded) != padded {
        return None;
    }
    // The first length that pads to it: padded lengths rise with the length.
    let (mut low, mut high) = (0, padded);
    while low < high {
        let middle = low + (high - low) / 2;
        match padme(middle) < padded {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    let bytes = |len: usize| u64::try_from(len).unwrap_or(u64::MAX).saturating_sub(PREFIX);
    Some((bytes(low), bytes(padded)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_lies_where_padding_puts_it() {
        for n in (0..200_000).step_by(97) {
            let len = padme(PREFIX as usize + n) as u64 + TAG;
            let (fewest, most) = hidden(len).unwrap();
            assert!(fewest <= n as u64 && n as u64 <= most, "{n} in {fewest}–{most}");
            assert_eq!(padme((fewest + PREFIX) as usize), padme((most + PREFIX) as usize), "{n}");
            assert_ne!(hidden(len - 1), Some((fewest, most)));
        }
        // No tag, or no length in front.
        assert_eq!((hidden(15), hidden(19)), (None, None));
        // Padmé of 17 is 18: no padding makes 17.
        assert_eq!(hidden(17 + TAG), None);
        assert_eq!(hidden(18 + TAG), Some((13, 14)));
    }
}
