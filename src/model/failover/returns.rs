//! Fail-back: when a place became able to serve again, and how much of its share it has since.
//!
//! Keeps a flapping cluster from swinging the traffic. It does not know what "able" means: its owner says.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::super::limits::FAILBACK_STEPS;

/// What a place that came back may have of its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// 0 while it is held back, 100 when it is wholly back.
    pub percent: u8,
    /// When it changes next.
    pub next: Option<Instant>,
}

/// How far a place is back: nothing in the first half of `hold`, then 20, 40, 60, 80 percent of its share, and
/// all of it at its end.
#[must_use]
pub fn ramp(returned: Option<Instant>, hold: Duration, now: Instant) -> Ramp {
    const WHOLE: Ramp = Ramp { percent: 100, next: None };
    let Some(returned) = returned else {
        return WHOLE;
    };
    let step = hold / 2 / FAILBACK_STEPS;
    let begins = returned + hold / 2;
    if now < begins {
        return Ramp { percent: 0, next: Some(begins) };
    }
    for done in 0..FAILBACK_STEPS {
        let until = begins + step * (done + 1);
        if now < until {
            let percent = u8::try_from((done + 1) * 100 / (FAILBACK_STEPS + 1)).expect("below 100");
            return Ramp { percent, next: Some(until) };
        }
    }
    WHOLE
}

/// When places became able to serve again. A place that was able when first seen never returned.
#[derive(Debug, Clone)]
pub struct Returns<K> {
    seen: BTreeMap<K, Seen>,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    Always,
    Away,
    Back(Instant),
}

impl<K> Default for Returns<K> {
    fn default() -> Self {
        Self { seen: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Returns<K> {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether a place is able to serve now: endpoints ready, link up.
    pub fn observe(&mut self, key: &K, able: bool, now: Instant) {
        let seen = match (self.seen.get(key), able) {
            (_, false) => Seen::Away,
            (Some(Seen::Away), true) => Seen::Back(now),
            (Some(seen), true) => *seen,
            (None, true) => Seen::Always,
        };
        self.seen.insert(key.clone(), seen);
    }

    /// When it came back, for [`ramp`].
    #[must_use]
    pub fn returned(&self, key: &K) -> Option<Instant> {
        match self.seen.get(key) {
            Some(Seen::Back(at)) => Some(*at),
            Some(Seen::Always | Seen::Away) | None => None,
        }
    }

    /// Forgets the places that `keep` refuses.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.seen.retain(|key, _| keep(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::instant;

    const HOLD: Duration = Duration::from_secs(5);

    #[test]
    fn a_place_comes_back_in_steps_and_wholly_after_the_hold() {
        let now = instant();
        let at = |ms| ramp(Some(now), HOLD, now + Duration::from_millis(ms)).percent;
        assert_eq!([0, 2_499, 2_500, 3_200, 4_000, 4_999, 5_000].map(at), [0, 0, 20, 40, 60, 80, 100]);
        assert_eq!(ramp(None, HOLD, now), Ramp { percent: 100, next: None });
        assert_eq!(ramp(Some(now), Duration::ZERO, now).percent, 100);
    }

    #[test]
    fn every_step_names_the_next() {
        let now = instant();
        let (mut at, mut seen) = (now, Vec::new());
        while let Ramp { percent, next: Some(next) } = ramp(Some(now), HOLD, at) {
            seen.push(percent);
            at = next;
        }
        assert_eq!((seen, at), (vec![0, 20, 40, 60, 80], now + HOLD));
    }

    #[test]
    fn only_a_place_that_was_away_returns() {
        let (now, mut returns) = (instant(), Returns::new());
        returns.observe(&"always", true, now);
        returns.observe(&"late", false, now);
        let back = now + HOLD;
        returns.observe(&"late", true, back);
        returns.observe(&"late", true, back + HOLD);
        assert_eq!(["always", "late", "never"].map(|key| returns.returned(&key)), [None, Some(back), None]);
        returns.observe(&"late", false, back);
        assert_eq!(returns.returned(&"late"), None);
    }
}
