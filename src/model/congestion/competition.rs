//! Other flows in the same queue: noticing them, taking a place among them, noticing that they are gone.
//!
//! A flow that keeps a short queue gets nothing beside one that fills it. So a queue that stays although we
//! send less is taken for a competitor, unless it stays to the millisecond: then the way has become longer.

use std::time::{Duration, Instant};

use super::{Congestion, Mode, cubic::Cubic, round::Closed};

/// Rounds beside a queue that is not ours until we fill it too.
const CROWDED_ROUNDS: u32 = 6;
/// Pause before the first look whether there is a competitor at all: what looked like one may have been a host
/// that stood still for six rounds.
const FIRST_LOOK_AFTER: Duration = Duration::from_millis(2_500);
/// Pause between two looks whether the competitor is gone, and the longest. It doubles up to the first as looks
/// show one.
pub(super) const LOOK_AFTER: Duration = Duration::from_secs(10);
const LOOK_AFTER_MAX: Duration = Duration::from_secs(40);
/// For this long after a stay among competitors, less than this share of the window means that they are back.
const COMPETITOR_REMEMBERED: Duration = Duration::from_secs(30);
const PUSHED_ASIDE_AGAIN: f64 = 0.75;
/// The same where none was seen: other flows of ours may take more than half without being competitors.
const PUSHED_ASIDE: f64 = 0.35;
/// How much of the window is left during the look at most. In a queue longer than the path less is: as much as
/// the path holds at the rate of now, or the look would see our own queue and take it for a competitor's.
const LOOKING: f64 = 0.5;
/// How long a look sees, in round trips of the path, while it has not seen it without a queue.
const LOOKED_FOR: f64 = 3.0;

/// A pause in which less is sent, to see the path without our queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lull {
    /// What the window is meanwhile.
    pub(super) window: f64,
    /// What is sent from here on shows the path.
    pub(super) shows_from: Instant,
    /// The least round trip of that, in seconds.
    pub(super) low: f64,
}

/// Rounds beside a queue that our own sending does not explain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    pub(super) rounds: u32,
    /// The window when it began.
    pub(super) window: f64,
    /// Least and greatest of the rounds' least round trips after the first.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Congestion {
    /// Follows a queue that is not ours; says whether the mode or the path was changed for it.
    pub(super) fn crowded(&mut self, now: Instant, base: f64, target: f64, closed: Closed) -> bool {
        let again =
            self.competed.filter(|(ended, _)| now.saturating_duration_since(*ended) < COMPETITOR_REMEMBERED);
        let queue = closed.low - base;
        if queue <= target {
            self.pushed = self.window;
        }
        let least = if again.is_some() { PUSHED_ASIDE_AGAIN } else { PUSHED_ASIDE };
        // Whether the way became longer is found out first: there less is carried too.
        let in_question = self.crowd.is_some() && again.is_none();
        if !in_question && self.window < self.pushed * least && queue > target * 1.5 {
            self.compete(now, again.map_or(self.pushed, |(_, before)| before));
            return true;
        }
        if queue <= target + base / 8.0 {
            self.crowd = None;
            return false;
        }
        let Some(crowd) = &mut self.crowd else {
            self.crowd = Some(Crowd { rounds: 1, window: self.window, low: f64::MAX, high: 0.0 });
            return false;
        };
        crowd.rounds += 1;
        crowd.low = crowd.low.min(closed.low);
        crowd.high = crowd.high.max(closed.low);
        if crowd.rounds < CROWDED_ROUNDS {
            return false;
        }
        let crowd = *crowd;
        self.crowd = None;
        // A queue would have become shorter by what we no longer send; a longer way does not.
        let given_up = base * (1.0 - self.window / crowd.window).max(0.0);
        if crowd.high - crowd.low < (given_up * 0.06).max(0.0005) {
            self.base.replace(now, crowd.low);
            self.window = crowd.window * crowd.low / base;
            self.quiet = 0;
            return true;
        }
        self.compete(now, again.map_or(crowd.window, |(_, before)| before.max(crowd.window)));
        true
    }

    /// Fills the queue as others do, from `window` on.
    pub(super) fn compete(&mut self, now: Instant, window: f64) {
        let again = self
            .competed
            .is_some_and(|(ended, _)| now.saturating_duration_since(ended) < COMPETITOR_REMEMBERED);
        self.look_after = if again { (self.look_after * 2).min(LOOK_AFTER_MAX) } else { LOOK_AFTER };
        self.look_at = now + if again { self.look_after } else { FIRST_LOOK_AFTER };
        self.looked_after = self.look_at.saturating_duration_since(now);
        // The first time it takes its place as any new flow would.
        self.kick = !again;
        self.window = window;
        self.cubic = Cubic::at(window);
        self.mode = Mode::Compete;
        self.crowd = None;
        self.quiet = 0;
    }

    pub(super) fn on_compete_round(&mut self, now: Instant, base: f64, closed: Closed) {
        self.forget_losses();
        let target = self.target(base);
        self.quiet = if closed.low - base < target { self.quiet + 1 } else { 0 };
        if self.quiet > CROWDED_ROUNDS {
            self.competed = Some((now, self.window));
            self.pushed = self.window;
            self.mode = Mode::Delay;
            self.quiet = 0;
        } else if now >= self.look_at {
            let settled = now + Duration::from_secs_f64(closed.low);
            let window = (self.round.rate() * base).min(self.window * LOOKING);
            self.lull = Some(Lull { window, shows_from: settled, low: f64::MAX });
        }
    }

    /// Ends a lull once it has shown the path.
    pub(super) fn end_lull(&mut self, now: Instant) {
        let Some(lull) = self.lull else { return };
        let late = now > lull.shows_from + Duration::from_secs(2);
        if lull.low == f64::MAX && !late {
            return;
        }
        let base = self.base.get();
        let alone = base.is_some_and(|base| lull.low - base < (1.5 * self.target(base)).max(base / 16.0));
        let competing = matches!(self.mode, Mode::Compete);
        // Answers of a busy host are late by more than a queue: one in time is enough, and is waited for.
        let until = lull.shows_from + Duration::from_secs_f64(base.unwrap_or(0.0) * LOOKED_FOR);
        if competing && !alone && now < until {
            return;
        }
        self.lull = None;
        self.round = self.round.anew(now);
        if !competing {
            self.base.touch(now);
            return;
        }
        let first_look = self.looked_after == FIRST_LOOK_AFTER;
        self.looked_after = (self.looked_after * 2).min(self.look_after);
        self.look_at = now + self.looked_after;
        if alone {
            // Nobody was there at all: the next alarm is looked into as soon.
            self.competed = (!first_look).then_some((now, self.window));
            self.window = lull.window;
            self.pushed = lull.window;
            self.mode = Mode::Delay;
            self.quiet = 0;
        }
    }
}
