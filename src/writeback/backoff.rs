//! When to try again: exponential backoff with full jitter.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);
/// A `Retry-After` longer than this is not believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The wait before the next attempt. `failures` counts those so far, from 1; `random` is in 0..1. A `Retry-After` of the
/// remote is the least that is waited.
pub fn delay(failures: u32, retry_after: Option<Duration>, random: f64) -> Duration {
    let ceiling = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(LONGEST);
    let jittered = ceiling.mul_f64(random.clamp(0.0, 1.0));
    match retry_after {
        Some(at_least) => at_least.min(RETRY_AFTER_MAX) + jittered.min(Duration::from_secs(1)),
        // A tenth of the ceiling keeps a remote in trouble from being asked again at once.
        None => jittered.max(ceiling / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_delay_stays_between_its_bounds(failures in 0u32..1000, random in 0.0f64..1.0) {
            let d = delay(failures, None, random);
            prop_assert!(d >= FIRST / 10 && d <= LONGEST);
        }

        #[test]
        fn retry_after_is_honoured(failures in 0u32..10, secs in 0u64..3600, random in 0.0f64..1.0) {
            prop_assert!(delay(failures, Some(Duration::from_secs(secs)), random) >= Duration::from_secs(secs));
        }
    }
}
