//! The round trip of a path without a queue: about the least of the last half minute.
//!
//! Not the very least: a host that is interrupted between its look at the clock and its look at the socket takes what
//! came meanwhile for early, by milliseconds. All of that has the same time of arrival. A base that is too small makes
//! a queue of a path that has none, which never goes, as only a competitor's would.

use std::time::{Duration, Instant};

/// How much time one part of the memory covers.
const PART: Duration = Duration::from_secs(10);
/// Parts remembered.
const PARTS: usize = 3;
/// So many arrivals at different times have to have taken no longer.
const WITNESSES: usize = 3;
/// About as empty as it was ever seen, in seconds.
const ABOUT: f64 = 0.0002;

/// The least round trip of what arrived at one time, in seconds.
#[derive(Debug, Clone, Copy)]
struct Witness {
    rtt: f64,
    at: Instant,
}

/// The least round trips of the last parts.
#[derive(Debug, Clone)]
pub(super) struct BaseRtt {
    /// Of each part the least ones, in order.
    parts: [[Option<Witness>; WITNESSES]; PARTS],
    since: Instant,
    /// What all of them say, in seconds.
    base: Option<f64>,
    /// When the path was last seen about empty.
    seen: Instant,
}

impl BaseRtt {
    pub(super) fn new(now: Instant) -> Self {
        Self { parts: [[None; WITNESSES]; PARTS], since: now, base: None, seen: now }
    }

    /// The least that has its witnesses, in seconds; as long as there are fewer of them, the least that all had.
    pub(super) fn get(&self) -> Option<f64> {
        self.base
    }

    /// A round trip of `rtt` seconds was measured.
    pub(super) fn sample(&mut self, now: Instant, rtt: f64) {
        if now.saturating_duration_since(self.since) >= PART {
            self.parts.rotate_right(1);
            self.parts[0] = [None; WITNESSES];
            self.since = now;
            self.base = self.judged();
        }
        if self.parts[0][WITNESSES - 1].is_none_or(|last| rtt < last.rtt) {
            self.witness(Witness { rtt, at: now });
            self.base = self.judged();
        }
        if self.base.is_none_or(|base| rtt < base + ABOUT) {
            self.seen = now;
        }
    }

    /// When the path was last seen about empty.
    pub(super) fn seen(&self) -> Instant {
        self.seen
    }

    /// An attempt to see it empty was made.
    pub(super) fn touch(&mut self, now: Instant) {
        self.seen = now;
    }

    /// The path became another one.
    pub(super) fn replace(&mut self, now: Instant, rtt: f64) {
        *self = Self::new(now);
        self.parts[0] = [Some(Witness { rtt, at: now }); WITNESSES];
        self.base = Some(rtt);
    }

    /// Takes its place among the least; of what arrived at one time only one does.
    fn witness(&mut self, new: Witness) {
        let part = &mut self.parts[0];
        let place = part.iter().position(|known| known.is_some_and(|known| known.at == new.at));
        let place = place.unwrap_or(WITNESSES - 1);
        if part[place].is_none_or(|known| new.rtt < known.rtt) {
            part[place] = Some(new);
        }
        part.sort_by(|one, other| {
            let rtt = |witness: &Option<Witness>| witness.map_or(f64::INFINITY, |witness| witness.rtt);
            rtt(one).total_cmp(&rtt(other))
        });
    }

    fn judged(&self) -> Option<f64> {
        let mut all: Vec<f64> = self.parts.iter().flatten().flatten().map(|witness| witness.rtt).collect();
        all.sort_by(f64::total_cmp);
        all.get(WITNESSES - 1).or_else(|| all.last()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    fn later(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn what_arrived_at_one_time_is_one_witness() {
        let start = instant();
        let mut base = BaseRtt::new(start);
        for ms in 0..20 {
            base.sample(later(start, ms), 0.0403);
        }
        for rtt in [0.0399, 0.0396, 0.0357, 0.0356, 0.0355] {
            base.sample(later(start, 20), rtt);
        }
        assert_eq!(base.get(), Some(0.0403), "its host was late to look");
        base.sample(later(start, 21), 0.0356);
        assert_eq!(base.get(), Some(0.0403));
        base.sample(later(start, 22), 0.0356);
        assert_eq!(base.get(), Some(0.0356), "the path became shorter");
    }

    #[test]
    fn the_first_ones_are_believed_and_the_oldest_forgotten() {
        let start = instant();
        let mut base = BaseRtt::new(start);
        assert_eq!(base.get(), None);
        base.sample(start, 0.02);
        assert_eq!(base.get(), Some(0.02));
        base.sample(later(start, 1), 0.03);
        base.sample(later(start, 2), 0.01);
        assert_eq!(base.get(), Some(0.03), "until there are enough");
        for ms in 3..10 {
            base.sample(later(start, ms), 0.02);
        }
        assert_eq!(base.get(), Some(0.02));
        for second in 1..40 {
            base.sample(later(start, second * 1_000), 0.05);
        }
        assert_eq!(base.get(), Some(0.05));
    }

    #[test]
    fn a_path_that_was_replaced_is_known_at_once() {
        let start = instant();
        let mut base = BaseRtt::new(start);
        for ms in 0..10 {
            base.sample(later(start, ms), 0.02);
        }
        base.replace(later(start, 10), 0.06);
        assert_eq!((base.get(), base.seen()), (Some(0.06), later(start, 10)));
        for ms in 11..15 {
            base.sample(later(start, ms), 0.055);
        }
        assert_eq!(base.get(), Some(0.055));
    }
}
