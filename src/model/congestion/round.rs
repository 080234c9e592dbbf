//! One round trip's worth of acknowledgements: least delay, bytes, the most that was under way.

use std::time::{Duration, Instant};

/// Acknowledgements whose least round trip is the recent one.
const RECENT: u32 = 16;
/// The least time they cover: after a host stood still the first of what had waited are late, the last are not.
const RECENT_COVERS: Duration = Duration::from_millis(5);
/// The least moments at which they arrived: what a host takes together is late together.
const RECENT_ARRIVALS: u32 = 6;
/// Of so many moments of arrival some are in time, whatever the hosts do. If a round has fewer, those before it
/// count too.
const TELLING: u32 = 24;
/// As many rounds before it at most: a queue is noticed no later than in these.
const ROUNDS_BEFORE: usize = 4;
/// What arrived within this tells the rate of now.
const STRETCH: Duration = Duration::from_millis(20);

/// Acknowledgements being counted: their least round trip, how many they are, when they arrived.
#[derive(Debug, Clone, Copy)]
struct Counting {
    low: f64,
    acks: u32,
    arrivals: u32,
    since: Instant,
}

impl Counting {
    fn new(now: Instant) -> Self {
        Self { low: f64::MAX, acks: 0, arrivals: 0, since: now }
    }

    fn acked(&mut self, rtt: f64, arrivals: u32) {
        self.low = self.low.min(rtt);
        self.acks += 1;
        self.arrivals += arrivals;
    }

    /// Whether they are enough to tell a queue from a late host.
    fn tells(&self, now: Instant) -> bool {
        self.acks >= RECENT
            && self.arrivals >= RECENT_ARRIVALS
            && now.saturating_duration_since(self.since) >= RECENT_COVERS
    }
}

/// The round that runs.
#[derive(Debug, Clone)]
pub(super) struct Round {
    since: Instant,
    over: bool,
    low: f64,
    /// Moments of arrival, and the last of them.
    arrivals: u32,
    arrived: Instant,
    /// Least round trip and arrivals of the rounds before, the youngest first.
    before: [(f64, u32); ROUNDS_BEFORE],
    /// By how much the least round trips of neighbouring rounds differ, smoothed.
    jitter: f64,
    /// Whether the round before had less than [`TELLING`] moments of arrival.
    few: bool,
    bytes: f64,
    peak: f64,
    peak_before: f64,
    rate_before: f64,
    counting: Counting,
    /// Least round trip of the last acknowledgements that were counted, and of those before.
    recent: Option<f64>,
    recent_before: Option<f64>,
    /// Bytes being counted, since when, and bytes per second of the two stretches before.
    stretch: (f64, Instant),
    recent_rates: [f64; 2],
}

/// What a round has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    /// Least round trip, in seconds; where few tell it, of this round and those before: a host that was late in
    /// some of them is no queue.
    pub(super) low: f64,
    /// The most bytes under way.
    pub(super) peak: f64,
}

impl Round {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            over: false,
            low: f64::MAX,
            arrivals: 0,
            arrived: now,
            before: [(f64::MAX, 0); ROUNDS_BEFORE],
            jitter: 0.0,
            few: true,
            bytes: 0.0,
            peak: 0.0,
            peak_before: 0.0,
            rate_before: 0.0,
            counting: Counting::new(now),
            recent: None,
            recent_before: None,
            stretch: (0.0, now),
            recent_rates: [0.0; 2],
        }
    }

    /// A new round of the same path.
    pub(super) fn anew(&self, now: Instant) -> Self {
        Self { jitter: self.jitter, few: self.few, ..Self::new(now) }
    }

    /// `bytes` are under way.
    pub(super) fn flight(&mut self, bytes: f64) {
        self.peak = self.peak.max(bytes);
    }

    /// Something sent at `sent` took `rtt` seconds.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, rtt: f64, bytes: f64) {
        let elapsed = now.saturating_duration_since(self.stretch.1);
        if elapsed > STRETCH {
            self.recent_rates = [self.stretch.0 / elapsed.as_secs_f64(), self.recent_rates[0]];
            self.stretch = (0.0, now);
        }
        self.stretch.0 += bytes;
        self.low = self.low.min(rtt);
        self.bytes += bytes;
        let arrivals = u32::from(now != self.arrived);
        self.arrivals += arrivals;
        self.arrived = now;
        self.over |= sent >= self.since;
        self.counting.acked(rtt, arrivals);
        if self.counting.tells(now) {
            self.recent_before = self.recent;
            self.recent = Some(self.counting.low);
            self.counting = Counting::new(now);
        }
    }

    /// When the last acknowledgement arrived.
    pub(super) fn arrived(&self) -> Instant {
        self.arrived
    }

    /// The most that was under way in this round and the one before.
    pub(super) fn peak(&self) -> f64 {
        self.peak.max(self.peak_before)
    }

    /// Least round trip of the last few acknowledgements.
    pub(super) fn recent(&self) -> Option<f64> {
        self.recent
    }

    /// The same of the last two such times: what a host that stood still once does not raise.
    pub(super) fn lately(&self) -> Option<f64> {
        Some(self.recent?.min(self.recent_before?))
    }

    /// By how much the least round trips of neighbouring rounds differ, in seconds, smoothed.
    pub(super) fn jitter(&self) -> f64 {
        self.jitter
    }

    /// Whether the last whole round had so few moments of arrival that a late host is not told from a queue.
    pub(super) fn few(&self) -> bool {
        self.few
    }

    /// Bytes per second of the better of the last two stretches: in one the host may have stood still.
    pub(super) fn recent_rate(&self) -> f64 {
        self.recent_rates[0].max(self.recent_rates[1])
    }

    /// What was carried until now says nothing of what comes.
    pub(super) fn forget_rates(&mut self) {
        self.recent_rates = [f64::MAX; 2];
    }

    /// Bytes per second of the last whole round.
    pub(super) fn rate(&self) -> f64 {
        self.rate_before
    }

    /// Least round trip of this round and as many before it as have enough arrivals together.
    fn telling_low(&self) -> f64 {
        let (mut low, mut arrivals) = (self.low, self.arrivals);
        for (low_before, arrivals_before) in self.before {
            if arrivals >= TELLING {
                break;
            }
            low = low.min(low_before);
            arrivals += arrivals_before;
        }
        low
    }

    /// Ends the round if something that was sent in it has come back.
    pub(super) fn close(&mut self, now: Instant, in_flight: f64) -> Option<Closed> {
        if !self.over {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since).as_secs_f64();
        let rate = self.bytes / lasted.max(1e-6);
        let closed = Closed { low: self.telling_low(), peak: self.peak() };
        let low_before = self.before[0].0;
        let moved = if low_before == f64::MAX { 0.0 } else { (self.low - low_before).abs() };
        let mut before = self.before;
        before.rotate_right(1);
        before[0] = (self.low, self.arrivals);
        let next = Self::new(now);
        *self = Self {
            peak: in_flight,
            peak_before: self.peak,
            before,
            arrived: self.arrived,
            jitter: self.jitter + (moved - self.jitter) / 8.0,
            few: self.arrivals < TELLING,
            rate_before: rate,
            recent: self.recent,
            recent_before: self.recent_before,
            stretch: self.stretch,
            recent_rates: self.recent_rates,
            counting: self.counting,
            ..next
        };
        Some(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    /// A round of 200 acknowledgements that arrive at so many moments, a millisecond apart, each after `rtt` seconds.
    fn low(round: &mut Round, at: Instant, moments: u32, rtt: f64) -> (Instant, f64) {
        let mut now = at;
        for number in 0..200 {
            now = at + Duration::from_millis(u64::from(number * moments / 200 + 1));
            round.acked(now, at, rtt, 1_200.0);
        }
        (now, round.close(now, 0.0).expect("it was sent in this round").low)
    }

    #[test]
    fn what_a_host_takes_together_is_late_together() {
        let mut round = Round::new(instant());
        let (now, first) = low(&mut round, instant(), TELLING, 0.040);
        let (now, late) = low(&mut round, now, 3, 0.055);
        assert_eq!((first, late), (0.040, 0.040), "three moments tell no queue");
        let (_, queue) = low(&mut round, now, TELLING, 0.055);
        assert!((queue - 0.055).abs() < f64::EPSILON, "many do");
    }

    #[test]
    fn a_queue_is_noticed_after_a_few_rounds_however_late_its_host_is() {
        let mut round = Round::new(instant());
        let (mut now, _) = low(&mut round, instant(), TELLING, 0.040);
        for _ in 0..ROUNDS_BEFORE {
            now = low(&mut round, now, 3, 0.055).0;
        }
        let (_, queue) = low(&mut round, now, 3, 0.056);
        assert!((queue - 0.055).abs() < f64::EPSILON);
    }
}
