//! Round-trip time of a lane, smoothed as RFC 9002 section 5.3 says, and the probe timeout made of it.
//!
//! Fed by echoes of probes, or set from the congestion controller's own figures.

use std::time::Duration;

/// Round trip assumed before the first sample (RFC 9002 section 6.2.2).
pub const RTT_INITIAL: Duration = Duration::from_millis(333);
/// Smallest variation a timeout counts with (RFC 9002 section 6.1.2).
const GRANULARITY: Duration = Duration::from_millis(1);
/// How long a peer may hold an acknowledgement back (RFC 9000 section 18.2).
const ACK_DELAY_MAX: Duration = Duration::from_millis(25);

/// The smoothed round trip of a lane and its variation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundTrip {
    /// Smoothed round-trip time.
    pub srtt: Duration,
    /// Its mean variation.
    pub rttvar: Duration,
    sampled: bool,
}

impl RoundTrip {
    /// Begins with the handshake's round trip, or with the RFC's guess.
    #[must_use]
    pub fn new(handshake: Option<Duration>) -> Self {
        let srtt = handshake.unwrap_or(RTT_INITIAL);
        Self { srtt, rttvar: srtt / 2, sampled: handshake.is_some() }
    }

    /// Takes figures that were smoothed elsewhere.
    #[must_use]
    pub fn given(srtt: Duration, rttvar: Duration) -> Self {
        Self { srtt, rttvar, sampled: true }
    }

    /// Takes one sample.
    pub fn sample(&mut self, rtt: Duration) {
        if self.sampled {
            self.rttvar = self.rttvar.mul_f64(0.75) + self.srtt.abs_diff(rtt).mul_f64(0.25);
            self.srtt = self.srtt.mul_f64(0.875) + rtt.mul_f64(0.125);
        } else {
            *self = Self { srtt: rtt, rttvar: rtt / 2, sampled: true };
        }
    }

    /// The probe timeout: srtt + max(4 rttvar, 1 ms) + 25 ms.
    #[must_use]
    pub fn pto(&self) -> Duration {
        self.srtt + (self.rttvar * 4).max(GRANULARITY) + ACK_DELAY_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_probe_timeout_is_that_of_the_rfc() {
        assert_eq!(RoundTrip::given(50 * MS, 5 * MS).pto(), 95 * MS);
        assert_eq!(RoundTrip::given(50 * MS, Duration::ZERO).pto(), 76 * MS);
        assert_eq!(RoundTrip::new(Some(40 * MS)).pto(), 145 * MS);
    }

    #[test]
    fn the_first_sample_replaces_the_guess_and_later_ones_are_smoothed() {
        let mut rtt = RoundTrip::new(None);
        rtt.sample(40 * MS);
        assert_eq!((rtt.srtt, rtt.rttvar), (40 * MS, 20 * MS));
        rtt.sample(80 * MS);
        assert_eq!((rtt.srtt, rtt.rttvar), (45 * MS, 25 * MS));
    }
}
