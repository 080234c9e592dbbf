//! One round trip's worth of acknowledgements: least delay, bytes, the most that was under way.

use std::time::{Duration, Instant};

/// Acknowledgements whose least round trip is the recent one.
const RECENT: u32 = 16;
/// The least time they cover: after a host stood still the first of what had waited are late, the last are not.
const RECENT_COVERS: Duration = Duration::from_millis(5);
/// With so many acknowledgements some of a round are in time, whatever the hosts do.
const TELLING: u32 = 128;
/// What arrived within this tells the rate of now.
const STRETCH: Duration = Duration::from_millis(20);

/// The round that runs.
#[derive(Debug, Clone)]
pub(super) struct Round {
    since: Instant,
    over: bool,
    low: f64,
    low_before: f64,
    acks: u32,
    /// By how much the least round trips of neighbouring rounds differ, smoothed.
    jitter: f64,
    /// Whether the round before had less than [`TELLING`] acknowledgements.
    few: bool,
    bytes: f64,
    peak: f64,
    peak_before: f64,
    rate_before: f64,
    /// Least of the acknowledgements being counted, how many those are, since when, and the least of the batch
    /// before.
    counting: (f64, u32, Instant),
    recent: Option<f64>,
    recent_before: Option<f64>,
    /// Bytes being counted, since when, and bytes per second of the two stretches before.
    stretch: (f64, Instant),
    recent_rates: [f64; 2],
}

/// What a round has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    /// Least round trip, in seconds; where few tell it, of this round and the one before: a host that was late in
    /// one of them is no queue.
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
            low_before: f64::MAX,
            acks: 0,
            jitter: 0.0,
            few: true,
            bytes: 0.0,
            peak: 0.0,
            peak_before: 0.0,
            rate_before: 0.0,
            counting: (f64::MAX, 0, now),
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
        self.acks += 1;
        self.over |= sent >= self.since;
        let (least, count, since) = self.counting;
        self.counting = (least.min(rtt), count + 1, since);
        if count + 1 >= RECENT && now.saturating_duration_since(since) >= RECENT_COVERS {
            self.recent_before = self.recent;
            self.recent = Some(self.counting.0);
            self.counting = (f64::MAX, 0, now);
        }
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

    /// Whether the last whole round had so few acknowledgements that a late host is not told from a queue.
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

    /// Ends the round if something that was sent in it has come back.
    pub(super) fn close(&mut self, now: Instant, in_flight: f64) -> Option<Closed> {
        if !self.over {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since).as_secs_f64();
        let rate = self.bytes / lasted.max(1e-6);
        let few = self.acks < TELLING;
        let low = if few { self.low.min(self.low_before) } else { self.low };
        let closed = Closed { low, peak: self.peak() };
        let moved = if self.low_before == f64::MAX { 0.0 } else { (self.low - self.low_before).abs() };
        let next = Self::new(now);
        *self = Self {
            peak: in_flight,
            peak_before: self.peak,
            low_before: self.low,
            jitter: self.jitter + (moved - self.jitter) / 8.0,
            few,
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
