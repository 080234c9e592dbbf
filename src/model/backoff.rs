//! When to dial a peer again: exponential with full jitter, and at once when the peer said goodbye (P25).
//!
//! It only names the moment; the dialling, and knowing why a link ended, are `link`'s.

use std::time::{Duration, Instant};

use rand::{Rng, RngExt};

use super::limits::{
    DIAL_BACKOFF_MAX, DIAL_BACKOFF_MIN, DIAL_BACKOFF_RESET_AFTER, DIAL_CLOSE_FOR, DIAL_INTERVAL_MIN,
};

/// The pause before the next dial of one peer.
///
/// Two laws hold whatever is called: two dials are never less than a second apart, so a flapping peer costs
/// little, and the n-th failure in a row waits at most `0.5 s * 2^n`, never over 30 s. In the first minute after a
/// link was lost the pauses do not grow.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
    dialled_at: Option<Instant>,
    connected_at: Option<Instant>,
    lost_at: Option<Instant>,
}

impl Backoff {
    /// A peer that was never dialled: the first dial may go at once.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A dial begins.
    pub fn dialled(&mut self, now: Instant) {
        self.dialled_at = Some(now);
        self.connected_at = None;
    }

    /// The dial, or one of the peer's own, became a link.
    pub fn connected(&mut self, now: Instant) {
        self.connected_at = Some(now);
    }

    /// A link was lost, or is doubted: for a while dials stay close together, so that a path that heals is found.
    pub fn lost(&mut self, now: Instant) {
        self.lost_at = Some(now);
    }

    /// Whether a link was lost so lately that each try should be short.
    #[must_use]
    pub fn lost_lately(&self, now: Instant) -> bool {
        self.lost_at.is_some_and(|at| now.saturating_duration_since(at) < DIAL_CLOSE_FOR)
    }

    /// A dial failed, or a link was lost without a word: when to dial next.
    pub fn failed(&mut self, now: Instant, rng: &mut impl Rng) -> Instant {
        self.settle(now);
        let ceiling = if self.lost_lately(now) { DIAL_BACKOFF_MIN } else { self.ceiling() };
        self.failures = self.failures.saturating_add(1);
        let jittered = ceiling.mul_f64(rng.random_range(0.0..=1.0));
        self.no_sooner(now + jittered)
    }

    /// The peer closed or reset the link, so it is there (again): when to dial next, which is now unless it
    /// was dialled within the last second.
    pub fn immediately(&mut self, now: Instant) -> Instant {
        self.settle(now);
        self.no_sooner(now)
    }

    /// The longest pause the next failure can cause, for status.
    #[must_use]
    pub fn ceiling(&self) -> Duration {
        DIAL_BACKOFF_MIN.saturating_mul(1 << self.failures.min(16)).min(DIAL_BACKOFF_MAX)
    }

    /// Failures since the last link that lasted.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A link that lived long enough pays off the failures before it.
    fn settle(&mut self, now: Instant) {
        let lived = self.connected_at.take().map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if lived >= DIAL_BACKOFF_RESET_AFTER {
            self.failures = 0;
        }
    }

    fn no_sooner(&self, wanted: Instant) -> Instant {
        self.dialled_at.map_or(wanted, |at| wanted.max(at + DIAL_INTERVAL_MIN))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn start() -> Instant {
        crate::model::testing::instant()
    }

    #[test]
    fn the_ceiling_doubles_from_half_a_second_to_thirty() {
        let (mut backoff, mut rng) = (Backoff::new(), StdRng::seed_from_u64(1));
        let mut seen = Vec::new();
        for _ in 0..8 {
            seen.push(backoff.ceiling().as_millis());
            backoff.failed(start(), &mut rng);
        }
        assert_eq!(seen, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
    }

    #[test]
    fn a_link_of_a_minute_starts_anew_and_a_shorter_one_does_not() {
        let mut rng = StdRng::seed_from_u64(2);
        for (lived, failures) in [(59, 6), (60, 1)] {
            let mut backoff = Backoff::new();
            for _ in 0..5 {
                backoff.failed(start(), &mut rng);
            }
            backoff.connected(start());
            backoff.failed(start() + Duration::from_secs(lived), &mut rng);
            assert_eq!(backoff.failures(), failures, "after {lived} s");
        }
    }

    #[test]
    fn a_close_by_the_peer_is_followed_at_once() {
        let mut backoff = Backoff::new();
        backoff.dialled(start());
        backoff.connected(start());
        let closed = start() + Duration::from_secs(5);
        assert_eq!(backoff.immediately(closed), closed);
    }

    #[test]
    fn for_a_minute_after_a_link_was_lost_the_pauses_do_not_grow() {
        let (mut backoff, mut rng) = (Backoff::new(), StdRng::seed_from_u64(4));
        let lost = start();
        backoff.lost(lost);
        let (mut now, mut dials) = (lost, 0);
        while now < lost + DIAL_CLOSE_FOR {
            backoff.dialled(now);
            let next = backoff.failed(now, &mut rng);
            assert!(next <= now + DIAL_INTERVAL_MIN, "a path that heals is found within a second");
            (now, dials) = (next, dials + 1);
        }
        assert_eq!(dials, 60);
        assert!(!backoff.lost_lately(now) && backoff.ceiling() == DIAL_BACKOFF_MAX);
    }

    #[test]
    fn full_jitter_spreads_over_the_whole_pause() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut pauses: Vec<u128> = (0..1_000)
            .map(|_| {
                let mut backoff = Backoff { failures: 10, ..Backoff::new() };
                (backoff.failed(start(), &mut rng) - start()).as_millis()
            })
            .collect();
        pauses.sort_unstable();
        assert!(pauses[50] < 2_500 && pauses[500].abs_diff(15_000) < 2_000 && pauses[950] > 27_500);
    }

    proptest! {
        #[test]
        fn a_flapping_peer_is_never_dialled_twice_in_a_second(
            ends in proptest::collection::vec((any::<bool>(), 0u64..3_000), 1..40),
            seed in any::<u64>(),
        ) {
            let (mut backoff, mut rng) = (Backoff::new(), StdRng::seed_from_u64(seed));
            let mut now = start();
            for (by_peer, lived) in ends {
                backoff.dialled(now);
                backoff.connected(now);
                let ended = now + Duration::from_millis(lived);
                let next = if by_peer { backoff.immediately(ended) } else { backoff.failed(ended, &mut rng) };
                prop_assert!(next >= now + DIAL_INTERVAL_MIN && next >= ended);
                prop_assert!(next <= ended + DIAL_BACKOFF_MAX.max(DIAL_INTERVAL_MIN));
                now = next;
            }
        }
    }
}
