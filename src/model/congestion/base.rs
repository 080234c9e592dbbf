//! The round trip of a path without a queue: the least of the last half minute.

use std::time::{Duration, Instant};

/// How much time one part of the memory covers.
const PART: Duration = Duration::from_secs(10);
/// Parts remembered.
const PARTS: usize = 3;

/// The least round trips of the last parts, in seconds.
#[derive(Debug, Clone)]
pub(super) struct BaseRtt {
    parts: [Option<f64>; PARTS],
    since: Instant,
    /// When the path was last seen about empty, and the round trip of then.
    seen: (Instant, f64),
}

impl BaseRtt {
    pub(super) fn new(now: Instant) -> Self {
        Self { parts: [None; PARTS], since: now, seen: (now, f64::MAX) }
    }

    /// The least known.
    pub(super) fn get(&self) -> Option<f64> {
        self.parts.iter().flatten().copied().reduce(f64::min)
    }

    /// A round trip of `rtt` seconds was measured.
    pub(super) fn sample(&mut self, now: Instant, rtt: f64) {
        if now.saturating_duration_since(self.since) >= PART {
            self.parts.rotate_right(1);
            self.parts[0] = None;
            self.since = now;
        }
        self.parts[0] = Some(self.parts[0].map_or(rtt, |least| least.min(rtt)));
        if rtt < self.seen.1 + 0.0002 {
            self.seen = (now, rtt.min(self.seen.1));
        }
    }

    /// When the path was last seen about empty.
    pub(super) fn seen(&self) -> Instant {
        self.seen.0
    }

    /// An attempt to see it empty was made.
    pub(super) fn touch(&mut self, now: Instant) {
        self.seen = (now, self.get().unwrap_or(f64::MAX));
    }

    /// The path became another one.
    pub(super) fn replace(&mut self, now: Instant, rtt: f64) {
        self.parts = [Some(rtt), None, None];
        self.since = now;
        self.seen = (now, rtt);
    }
}
