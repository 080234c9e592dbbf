//! How busy a place is: its latency, and what is under way to it.

use std::time::{Duration, Instant};

use super::{Ledger, lock};
use crate::model::failover::{PeakEwma, Target};

/// One place's figures.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) latency: PeakEwma,
    pub(super) in_flight: u32,
}

impl Load {
    /// Nothing was measured yet: the first connection finds out.
    pub(super) fn new(now: Instant) -> Self {
        Self { latency: PeakEwma::new(Duration::ZERO, now), in_flight: 0 }
    }

    pub(super) fn cost(&self, now: Instant) -> u64 {
        self.latency.cost(self.in_flight, now)
    }
}

/// Counts one connection to a place until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    pub(super) ledger: Ledger,
    pub(super) target: Target,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(load) = lock(&self.ledger.0.loads).get_mut(&self.target) {
            load.in_flight = load.in_flight.saturating_sub(1);
        }
    }
}
