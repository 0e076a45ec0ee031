//! Padmé: lengths rounded up so that only their leading bits show.
//!
//! Reduces what a ciphertext's length tells to O(log log length) bits for at most 12 % more bytes (Nikitin et al.,
//! "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", PETS 2019, section 4).

/// The padded length of `len` bytes: at least `len`, at most 12 % more.
pub fn padme(len: usize) -> usize {
    let Some(exponent) = len.checked_ilog2() else { return 0 };
    // As many mantissa bits as the exponent needs bits itself.
    let mantissa = exponent.checked_ilog2().map_or(0, |bits| bits + 1);
    let mask = (1_usize << (exponent - mantissa)) - 1;
    // Lengths are bounded by limits::MAX_BATCH_PLAINTEXT long before this could saturate.
    len.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sealcast_proto::limits::{MAX_BATCH_CIPHERTEXT, MAX_BATCH_PLAINTEXT};

    #[test]
    fn known_lengths() {
        // By hand from the paper's algorithm: E = ⌊log₂ L⌋, S = ⌊log₂ E⌋ + 1, the last E − S bits become zero.
        let known =
            [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (8, 8), (9, 10), (17, 18), (100, 104), (1000, 1024)];
        for (len, padded) in known {
            assert_eq!(padme(len), padded, "of {len}");
        }
    }

    #[test]
    fn the_largest_batch_is_the_limit() {
        assert_eq!(padme(4 + MAX_BATCH_PLAINTEXT) + 16, MAX_BATCH_CIPHERTEXT);
    }

    #[test]
    fn never_less_and_at_most_12_percent_more() {
        for len in 1..300_000 {
            let padded = padme(len);
            assert!(padded >= len, "{len} shrank to {padded}");
            assert!((padded - len) * 100 <= len * 12, "{len} grew to {padded}");
        }
    }

    proptest! {
        #[test]
        fn monotonous_and_idempotent(len in 0_usize..(1 << 40), more in 0_usize..4096) {
            prop_assert_eq!(padme(padme(len)), padme(len));
            prop_assert!(padme(len) <= padme(len + more));
            prop_assert!((padme(len) - len) * 100 <= len * 12);
        }
    }
}
