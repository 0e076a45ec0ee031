//! How long to wait before the next attempt: exponential, capped, with full jitter. Pure.
//!
//! Full jitter (a uniform draw from nothing to the ceiling) because after a broker's restart all of its clients fail
//! at the same moment: waits with a common part would bring them back together, again and again.

use std::time::Duration;

use rand::{Rng, RngExt as _};

/// The ceiling before the first retry: a restart on the same machine takes about this long.
pub const BASE: Duration = Duration::from_millis(100);
/// The highest ceiling: what a person accepts to wait after the broker came back.
pub const CAP: Duration = Duration::from_secs(5);

/// The longest wait after `failures` failures in a row; none after none.
pub fn ceiling(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        // 2^16 base waits are far above the cap already; a higher shift would overflow.
        n => BASE.saturating_mul(1 << (n - 1).min(16)).min(CAP),
    }
}

/// A wait after `failures` failures in a row: uniform from zero to [`ceiling`].
pub fn delay(failures: u32, rng: &mut impl Rng) -> Duration {
    ceiling(failures).mul_f64(rng.random::<f64>())
}

/// A wait before trying again where a broker is at a limit and said how long it takes: that, within reason, and not all
/// at once.
pub fn turn(retry_after_ms: u64, refusals: u32, rng: &mut impl Rng) -> Duration {
    Duration::from_millis(retry_after_ms).min(CAP) + delay(refusals, rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    proptest! {
        #[test]
        fn a_wait_is_never_above_its_ceiling_nor_the_cap(failures: u32, seed: u64) {
            let wait = delay(failures, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait <= ceiling(failures));
            prop_assert!(ceiling(failures) <= CAP);
            prop_assert!(ceiling(failures) <= ceiling(failures.saturating_add(1)));
        }
    }

    #[test]
    fn ceilings_double_up_to_the_cap() {
        let ms: Vec<_> = (0..9).map(|n| ceiling(n).as_millis()).collect();
        assert_eq!(ms, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(ceiling(u32::MAX), CAP);
    }

    #[test]
    fn waits_spread_over_the_whole_range() {
        let mut rng = StdRng::seed_from_u64(1);
        let waits: Vec<_> = (0..1000).map(|_| delay(10, &mut rng)).collect();
        for tenth in 0..10 {
            let range = CAP * tenth / 10..CAP * (tenth + 1) / 10;
            let inside = waits.iter().filter(|wait| range.contains(wait)).count();
            assert!(inside > 50, "{inside} of 1000 waits in {range:?}");
        }
    }
}
