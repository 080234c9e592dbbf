//! One round trip's worth of acknowledgements: least delay, bytes, the most that was under way.

use std::time::{Duration, Instant};

/// Acknowledgements whose least round trip is the recent one.
const RECENT: u32 = 16;

/// What arrived within this tells the rate of now.
const STRETCH: Duration = Duration::from_millis(20);

/// The round that runs.
#[derive(Debug, Clone)]
pub(super) struct Round {
    since: Instant,
    over: bool,
    low: f64,
    bytes: f64,
    peak: f64,
    peak_before: f64,
    rate_before: f64,
    /// Least of the acknowledgements being counted, how many those are, and the least of the batch before.
    counting: (f64, u32),
    recent: Option<f64>,
    /// Bytes being counted, since when, and bytes per second of the stretch before.
    stretch: (f64, Instant),
    recent_rate: f64,
}

/// What a round has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closed {
    /// Least round trip, in seconds.
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
            bytes: 0.0,
            peak: 0.0,
            peak_before: 0.0,
            rate_before: 0.0,
            counting: (f64::MAX, 0),
            recent: None,
            stretch: (0.0, now),
            recent_rate: 0.0,
        }
    }

    /// `bytes` are under way.
    pub(super) fn flight(&mut self, bytes: f64) {
        self.peak = self.peak.max(bytes);
    }

    /// Something sent at `sent` took `rtt` seconds.
    pub(super) fn acked(&mut self, now: Instant, sent: Instant, rtt: f64, bytes: f64) {
        let elapsed = now.saturating_duration_since(self.stretch.1);
        if elapsed > STRETCH {
            self.recent_rate = self.stretch.0 / elapsed.as_secs_f64();
            self.stretch = (0.0, now);
        }
        self.stretch.0 += bytes;
        self.low = self.low.min(rtt);
        self.bytes += bytes;
        self.over |= sent >= self.since;
        self.counting = (self.counting.0.min(rtt), self.counting.1 + 1);
        if self.counting.1 >= RECENT {
            self.recent = Some(self.counting.0);
            self.counting = (f64::MAX, 0);
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

    /// Bytes per second of the last stretch.
    pub(super) fn recent_rate(&self) -> f64 {
        self.recent_rate
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
        let closed = Closed { low: self.low, peak: self.peak() };
        let next = Self::new(now);
        *self = Self {
            peak: in_flight,
            peak_before: self.peak,
            rate_before: rate,
            recent: self.recent,
            stretch: self.stretch,
            recent_rate: self.recent_rate,
            counting: self.counting,
            ..next
        };
        Some(closed)
    }
}
