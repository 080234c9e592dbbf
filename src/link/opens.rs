//! How fast streams are opened on one lane: what this side takes, and when it has its turn where the other side
//! takes no more.
//!
//! Either is a generic cell rate algorithm (ITU-T I.371): so much at once, then the agreed pace.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::model::limits::{OPEN_TURN_WAIT_MAX, OPEN_TURNS_BURST, OPENS_BURST};

/// The pace at which the other side may open streams.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenPace {
    per_stream: Duration,
    /// When all streams so far are paid for.
    paid_at: Instant,
}

impl OpenPace {
    pub(super) fn new(streams_per_second: u32, now: Instant) -> Self {
        Self { per_stream: Duration::from_secs(1) / streams_per_second.max(1), paid_at: now }
    }

    /// Whether one more may be opened now; it then counts.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let paid_at = self.paid_at.max(now) + self.per_stream;
        let admitted = paid_at <= now + OPENS_BURST;
        if admitted {
            self.paid_at = paid_at;
        }
        admitted
    }
}

/// Turns to open streams for new clients, at the pace that the other side takes. Shards share it without a lock.
#[derive(Debug)]
pub(super) struct OpenTurns {
    since: Instant,
    /// What a turn costs, in nanoseconds; nothing as long as the other side has not said.
    per_stream: AtomicU64,
    /// When all turns so far are paid for, in nanoseconds after `since`.
    paid_at: AtomicU64,
    /// When the last turn was taken for which nobody had to pay before, likewise.
    idle_at: AtomicU64,
}

impl OpenTurns {
    /// There is a turn for everybody.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            per_stream: AtomicU64::new(0),
            paid_at: AtomicU64::new(0),
            idle_at: AtomicU64::new(0),
        }
    }

    /// From now on as many a second; 0 says nothing.
    pub(super) fn agree(&self, streams_per_second: u32) {
        let a_second = nanos(Duration::from_secs(1));
        let per_stream = a_second.checked_div(u64::from(streams_per_second)).unwrap_or(0);
        self.per_stream.store(per_stream, Ordering::Relaxed);
    }

    /// Takes the next turn and returns how long it is until then. Whoever would have to wait for longer than
    /// [`OPEN_TURN_WAIT_MAX`] gets none, and goes at once.
    pub(super) fn take(&self, now: Instant) -> Duration {
        let per_stream = self.per_stream.load(Ordering::Relaxed);
        let now = self.at(now);
        let taken = self.paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_at| {
            (wait(paid_at, now) <= OPEN_TURN_WAIT_MAX).then(|| paid_at.max(now).saturating_add(per_stream))
        });
        let Ok(paid_at) = taken else { return Duration::ZERO };
        if paid_at <= now {
            self.idle_at.store(now, Ordering::Relaxed);
        }
        wait(paid_at, now)
    }

    /// Whether one more has to wait, and others had to for longer than a burst lasts.
    pub(super) fn are_crowded(&self, now: Instant) -> bool {
        let now = self.at(now);
        let busy = now.saturating_sub(self.idle_at.load(Ordering::Relaxed));
        busy > nanos(OPENS_BURST) && wait(self.paid_at.load(Ordering::Relaxed), now) > Duration::ZERO
    }

    fn at(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.since))
    }
}

/// How long it is until a turn, when those before it are paid for at `paid_at`.
fn wait(paid_at: u64, now: u64) -> Duration {
    Duration::from_nanos(paid_at.saturating_sub(now.saturating_add(nanos(OPEN_TURNS_BURST))))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_seconds_worth_may_come_at_once_and_no_more_than_the_pace_afterwards() {
        let now = instant();
        let mut pace = OpenPace::new(100, now);
        let admitted = |pace: &mut OpenPace, at| (0..1_000).filter(|_| pace.admits(at)).count();
        assert_eq!(admitted(&mut pace, now), 100);
        assert_eq!(admitted(&mut pace, now + 50 * MS), 5);
        assert_eq!(admitted(&mut pace, now + Duration::from_secs(60)), 100, "what was not used is not saved");
    }

    #[test]
    fn turns_are_given_in_order_at_the_agreed_pace() {
        let (now, turns) = (instant(), OpenTurns::new(instant()));
        turns.agree(100);
        let waits: Vec<u128> = (0..16).map(|_| turns.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 15, 25]);
        assert_eq!(turns.take(now + 100 * MS), Duration::ZERO, "they were waited for");
    }

    #[test]
    fn whoever_would_wait_for_too_long_goes_at_once_and_counts_for_nothing() {
        let (now, turns) = (instant(), OpenTurns::new(instant()));
        turns.agree(10);
        let waits: Vec<u128> = (0..6).map(|_| turns.take(now).as_millis()).collect();
        assert_eq!(waits, [0, 0, 75, 175, 0, 0]);
        assert_eq!(turns.take(now + 100 * MS).as_millis(), 175);
    }

    #[test]
    fn turns_are_crowded_once_a_queue_outlasts_a_burst_and_as_long_as_it_stands() {
        let (begun, turns) = (instant(), OpenTurns::new(instant()));
        turns.agree(1_000);
        let mut now = begun;
        let mut ask = |millis: u32| {
            (0..millis)
                .map(|_| {
                    now += MS;
                    turns.take(now);
                    turns.take(now);
                    turns.are_crowded(now)
                })
                .filter(|crowded| *crowded)
                .count()
        };
        assert_eq!(ask(900), 0, "a burst");
        assert!(ask(500) > 350, "a flood");
        let later = now + Duration::from_secs(1);
        assert!(!turns.are_crowded(later), "it is over");
        turns.take(later);
        assert!(!turns.are_crowded(later + 10 * MS));
    }

    #[test]
    fn a_first_client_does_not_wait_and_nobody_does_before_a_pace_is_agreed() {
        let (now, turns) = (instant(), OpenTurns::new(instant()));
        assert!((0..10_000).all(|_| turns.take(now).is_zero()));
        turns.agree(1);
        assert!(turns.take(now).is_zero());
        turns.agree(0);
        assert!((0..10_000).all(|_| turns.take(now).is_zero()));
    }

    #[test]
    fn what_takes_turns_is_never_refused_however_late_some_of_it_comes() {
        let (begun, rate) = (instant(), 2_000);
        let (turns, mut pace) = (OpenTurns::new(begun), OpenPace::new(rate, begun));
        turns.agree(rate);
        let (mut now, mut refused) = (begun, 0);
        for _ in 0..20_000 {
            now += turns.take(now);
            // Of every half second the path holds back what comes in the first 300 ms, and then lets it go at once.
            let into = (now - begun).as_nanos() % (500 * MS).as_nanos();
            let held = nanos(300 * MS).saturating_sub(u64::try_from(into).expect("half a second"));
            refused += usize::from(!pace.admits(now + Duration::from_nanos(held)));
        }
        assert_eq!(refused, 0);
        assert!(now - begun > Duration::from_millis(9_800), "{:?}", now - begun);
    }
}
