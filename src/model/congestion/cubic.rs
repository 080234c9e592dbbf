//! CUBIC (RFC 9438), as arithmetic over `now`: the law on short links and beside flows that fill queues.
//!
//! Bytes and seconds in `f64`. It knows no round trips but those it is told, and decides nothing about modes.

use std::time::Instant;

/// What is left of the window after a loss (RFC 9438 section 4.6).
const BETA: f64 = 0.7;
/// Steepness of the curve, in segments per cubic second (RFC 9438 section 5.1).
const STEEPNESS: f64 = 0.4;

/// The curve since the last loss.
#[derive(Debug, Clone)]
pub(super) struct Cubic {
    /// The window at which the last loss came.
    plateau: f64,
    /// Seconds from the loss until the curve is back there.
    climb: f64,
    /// When the curve began; without one the next acknowledgement begins it.
    began: Option<Instant>,
    /// What was sent up to here belongs to the last loss.
    recovery: Option<Instant>,
    /// Growth that is not a whole segment yet.
    pending: f64,
}

impl Cubic {
    /// A curve whose plateau is `window`: it probes upwards from there.
    pub(super) fn at(window: f64) -> Self {
        Self { plateau: window, climb: 0.0, began: None, recovery: None, pending: 0.0 }
    }

    /// Whether what was sent at `sent` was under way when the last loss was answered.
    pub(super) fn recovers(&self, sent: Instant) -> bool {
        self.recovery.is_some_and(|recovery| sent <= recovery)
    }

    /// The window after `bytes` were acknowledged, while it was in use. `rtt` in seconds.
    pub(super) fn grown(&mut self, now: Instant, window: f64, bytes: f64, rtt: f64, mtu: f64) -> f64 {
        let began = *self.began.get_or_insert(now);
        let elapsed = now.saturating_duration_since(began).as_secs_f64();
        let curve = (STEEPNESS * (elapsed + rtt - self.climb).powi(3)).mul_add(mtu, self.plateau);
        // RFC 9438 section 4.3: never slower than Reno would be.
        let reno =
            (3.0 * (1.0 - BETA) / (1.0 + BETA) * elapsed / rtt.max(1e-4)).mul_add(mtu, self.plateau * BETA);
        let goal = curve.max(reno).clamp(window, window * 1.5);
        self.pending += (goal - window) * bytes / window;
        let whole = self.pending.min(bytes);
        if whole < mtu {
            return window;
        }
        self.pending = 0.0;
        window + whole
    }

    /// The window after a loss of something sent at `sent`; a loss of the same flight changes nothing.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant, window: f64, mtu: f64) -> f64 {
        if self.recovers(sent) {
            return window;
        }
        self.recovery = Some(now);
        self.began = Some(now);
        self.pending = 0.0;
        // RFC 9438 section 4.7: one that lost below its plateau leaves room for others.
        self.plateau = if window < self.plateau { window * (1.0 + BETA) / 2.0 } else { window };
        self.climb = ((self.plateau - window * BETA).max(0.0) / mtu / STEEPNESS).cbrt();
        window * BETA
    }
}
