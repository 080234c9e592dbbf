//! How busy a place is: peak EWMA of its latency, times what is under way.
//!
//! Only the figure; what is under way is counted by whoever carries the connections.

use std::time::{Duration, Instant};

/// Time in which an old latency loses 63 % of its say (Linkerd's default).
const DECAY: Duration = Duration::from_secs(10);

/// A latency that rises at once and falls slowly, so that one slow answer counts.
///
/// Without samples it falls towards zero: a place that was slow once is tried again.
#[derive(Debug, Clone, Copy)]
pub struct PeakEwma {
    nanos: f64,
    at: Instant,
}

impl PeakEwma {
    /// Begins with a guess: the link's round trip.
    #[must_use]
    pub fn new(guess: Duration, now: Instant) -> Self {
        Self { nanos: guess.as_nanos() as f64, at: now }
    }

    /// Takes one latency: open sent to connected.
    pub fn observe(&mut self, latency: Duration, now: Instant) {
        let latency = latency.as_nanos() as f64;
        let keep = self.kept(now);
        self.nanos = if latency > self.nanos { latency } else { self.nanos * keep + latency * (1.0 - keep) };
        self.at = self.at.max(now);
    }

    /// The cost of one more connection, for [`super::Loads`].
    #[must_use]
    pub fn cost(&self, in_flight: u32, now: Instant) -> u64 {
        // Float to integer saturates; a cost of 0 would forget what is under way.
        ((self.nanos * self.kept(now)).max(1.0) as u64).saturating_mul(u64::from(in_flight) + 1)
    }

    fn kept(&self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64();
        (-age / DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_rises_at_once_and_falls_slowly() {
        let now = instant();
        let mut load = PeakEwma::new(10 * MS, now);
        load.observe(500 * MS, now);
        assert_eq!(load.cost(0, now), 500_000_000);
        load.observe(10 * MS, now + 100 * MS);
        assert!(load.cost(0, now + 100 * MS) > 490_000_000);
        load.observe(10 * MS, now + 60_000 * MS);
        assert!(load.cost(0, now + 60_000 * MS) < 12_000_000);
    }

    #[test]
    fn what_is_under_way_multiplies_it() {
        let now = instant();
        let load = PeakEwma::new(10 * MS, now);
        assert_eq!(load.cost(4, now), 50_000_000);
    }

    #[test]
    fn a_place_never_asked_is_tried_again() {
        let now = instant();
        let load = PeakEwma::new(10_000 * MS, now);
        assert!(load.cost(0, now + 600_000 * MS) < 1_000);
    }
}
