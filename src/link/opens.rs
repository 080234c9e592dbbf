//! How fast the other side may open streams on one lane: a second's worth at once, then at the agreed pace.

use std::time::{Duration, Instant};

/// What may be opened at once, as the time it would take at the agreed pace.
const BURST: Duration = Duration::from_secs(1);

/// The pace of one lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenPace {
    per_stream: Duration,
    /// When all streams so far are paid for.
    paid_at: Instant,
}

impl OpenPace {
    pub(super) fn new(streams_per_second: u32, now: Instant) -> Self {
        Self { per_stream: BURST / streams_per_second.max(1), paid_at: now }
    }

    /// Whether one more may be opened now; it then counts.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let paid_at = self.paid_at.max(now) + self.per_stream;
        let admitted = paid_at <= now + BURST;
        if admitted {
            self.paid_at = paid_at;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    #[test]
    fn a_seconds_worth_may_come_at_once_and_no_more_than_the_pace_afterwards() {
        let now = instant();
        let mut pace = OpenPace::new(100, now);
        let admitted = |pace: &mut OpenPace, at| (0..1_000).filter(|_| pace.admits(at)).count();
        assert_eq!(admitted(&mut pace, now), 100);
        assert_eq!(admitted(&mut pace, now + Duration::from_millis(50)), 5);
        assert_eq!(admitted(&mut pace, now + Duration::from_secs(60)), 100, "what was not used is not saved");
    }
}
