//! How often bytes may be sent again: a share of what was asked lately, so that slow endpoints are not asked twice
//! as much.
//!
//! What it pays for is a second try while the first may still be served, and one after an endpoint failed it. A try
//! that was refused reached nobody, and one whose way died is no more: both go on without it, or the death of a
//! gateway would fail what could be saved. Neither the tries (`open`, the proxy) nor who failed (`outlier`) are
//! its matter. The figures are those of Finagle and Linkerd.

use std::{collections::BTreeMap, time::Instant};

use super::{
    ids::ServiceName,
    limits::{
        RETRY_BUDGETS_MAX, RETRY_FLOOR_PER_SECOND, RETRY_PERCENT, RETRY_SLOT, RETRY_SLOTS,
        RETRY_TOLD_INTERVAL,
    },
};

/// Whether bytes may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// They may, and it is counted.
    Paid,
    /// They may not.
    Refused {
        /// Whether people are to be told; not each time.
        tell: bool,
    },
}

/// What was not sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    /// How often.
    pub times: u64,
    /// When last.
    pub at: Instant,
}

/// What was asked and sent again in one part of the time that is looked back on.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    requests: u32,
    retries: u32,
}

/// The budget of one service.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    since: Instant,
    slots: [Slot; RETRY_SLOTS],
    refused: Option<Refusals>,
    told: Option<Instant>,
}

impl RetryBudget {
    /// Of a service that was not asked yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { since: now, slots: [Slot::default(); RETRY_SLOTS], refused: None, told: None }
    }

    /// A request came, and raises what may be sent again.
    pub fn request(&mut self, now: Instant) {
        self.turn(now);
        self.slots[0].requests = self.slots[0].requests.saturating_add(1);
    }

    /// Whether bytes may be sent again now.
    pub fn retry(&mut self, now: Instant) -> Retry {
        self.turn(now);
        if self.left() > 0 {
            self.slots[0].retries += 1;
            return Retry::Paid;
        }
        let times = self.refused.map_or(0, |refused| refused.times) + 1;
        self.refused = Some(Refusals { times, at: now });
        let tell = self.told.is_none_or(|at| now.saturating_duration_since(at) >= RETRY_TOLD_INTERVAL);
        self.told = if tell { Some(now) } else { self.told };
        Retry::Refused { tell }
    }

    /// Whether nothing happened for as long as is looked back on.
    #[must_use]
    pub fn is_idle(&self, now: Instant) -> bool {
        let mut later = self.clone();
        later.turn(now);
        later.slots.iter().all(|slot| slot.requests == 0 && slot.retries == 0)
    }

    /// How often bytes may be sent again at once.
    fn left(&self) -> u64 {
        let sum = |part: fn(&Slot) -> u32| self.slots.iter().map(|slot| u64::from(part(slot))).sum::<u64>();
        let floor = u64::from(RETRY_FLOOR_PER_SECOND) * RETRY_SLOT.as_secs() * RETRY_SLOTS as u64;
        let share = sum(|slot| slot.requests) * u64::from(RETRY_PERCENT) / 100;
        (floor + share).saturating_sub(sum(|slot| slot.retries))
    }

    /// Forgets what is too long ago.
    fn turn(&mut self, now: Instant) {
        for _ in 0..RETRY_SLOTS {
            if now.saturating_duration_since(self.since) < RETRY_SLOT {
                return;
            }
            self.slots.rotate_right(1);
            self.slots[0] = Slot::default();
            self.since += RETRY_SLOT;
        }
        if now.saturating_duration_since(self.since) >= RETRY_SLOT {
            self.since = now;
        }
    }
}

/// The budgets of all services that were asked lately.
#[derive(Debug, Clone, Default)]
pub struct RetryBudgets {
    services: BTreeMap<ServiceName, RetryBudget>,
}

impl RetryBudgets {
    /// As [`RetryBudget::request`].
    pub fn request(&mut self, service: &ServiceName, now: Instant) {
        if let Some(budget) = self.of(service, now) {
            budget.request(now);
        }
    }

    /// As [`RetryBudget::retry`]; never for a service for which there is no room.
    pub fn retry(&mut self, service: &ServiceName, now: Instant) -> Retry {
        self.of(service, now).map_or(Retry::Refused { tell: false }, |budget| budget.retry(now))
    }

    /// What was not sent again, by service.
    pub fn refused(&self) -> impl Iterator<Item = (&ServiceName, Refusals)> {
        self.services.iter().filter_map(|(service, budget)| Some((service, budget.refused?)))
    }

    /// Forgets a service that is gone.
    pub fn forget(&mut self, service: &ServiceName) {
        self.services.remove(service);
    }

    fn of(&mut self, service: &ServiceName, now: Instant) -> Option<&mut RetryBudget> {
        if !self.services.contains_key(service) {
            if self.services.len() >= RETRY_BUDGETS_MAX {
                self.services.retain(|_, budget| !budget.is_idle(now));
            }
            if self.services.len() >= RETRY_BUDGETS_MAX {
                return None;
            }
            self.services.insert(service.clone(), RetryBudget::new(now));
        }
        self.services.get_mut(service)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::model::testing::instant;

    const FLOOR: u32 = 100;

    #[test]
    fn when_every_endpoint_is_slow_traffic_grows_by_a_fifth_and_not_twofold() {
        let (mut budget, start) = (RetryBudget::new(instant()), instant());
        let mut again = 0;
        // 500 requests a second for 60 s, each of which would be sent again a second later.
        for number in 0..30_000u64 {
            let now = start + Duration::from_millis(number * 2);
            budget.request(now);
            again += u32::from(number >= 500 && budget.retry(now) == Retry::Paid);
        }
        // The look back is to the slot, and the floor is there on top.
        assert!((5_000..6_900).contains(&again), "{again}");
    }

    #[test]
    fn a_burst_after_a_quiet_time_has_the_floor_and_the_share_of_what_was_asked() {
        let (mut budget, now) = (RetryBudget::new(instant()), instant());
        for _ in 0..1_000 {
            budget.request(now);
        }
        let allowed = (0..1_000).filter(|_| budget.retry(now) == Retry::Paid).count();
        assert_eq!(allowed, FLOOR as usize + 200);
        let later = now + RETRY_SLOT * (RETRY_SLOTS as u32 + 1);
        assert!(budget.is_idle(later) && budget.retry(later) == Retry::Paid);
    }

    #[test]
    fn each_service_has_its_own_and_a_forgotten_one_begins_anew() {
        let (mut budgets, now) = (RetryBudgets::default(), instant());
        let [web, db] = ["shop/web", "shop/db"].map(|name| ServiceName::parse(name).expect("a name"));
        while budgets.retry(&web, now) == Retry::Paid {}
        assert_eq!(budgets.retry(&web, now), Retry::Refused { tell: false }, "told just before");
        assert_eq!(budgets.retry(&db, now), Retry::Paid);
        assert_eq!(budgets.refused().collect::<Vec<_>>(), [(&web, Refusals { times: 2, at: now })]);
        budgets.forget(&web);
        assert_eq!(budgets.retry(&web, now), Retry::Paid);
    }

    #[test]
    fn there_are_never_more_of_them_than_the_cap() {
        let (mut budgets, now) = (RetryBudgets::default(), instant());
        for number in 0..RETRY_BUDGETS_MAX + 10 {
            budgets.request(&ServiceName::parse(&format!("shop/web{number}")).expect("a name"), now);
        }
        let late = ServiceName::parse("shop/late").expect("a name");
        assert_eq!(budgets.services.len(), RETRY_BUDGETS_MAX);
        assert_eq!(budgets.retry(&late, now), Retry::Refused { tell: false });
        let later = now + RETRY_SLOT * (RETRY_SLOTS as u32 + 1);
        assert_eq!(budgets.retry(&late, later), Retry::Paid, "idle ones make room");
    }

    proptest! {
        #[test]
        fn what_is_sent_again_never_exceeds_the_share_and_the_floor_of_any_stretch(
            steps in proptest::collection::vec((0u64..3_000, 0u32..200, 0u32..200), 1..60),
        ) {
            let (mut budget, mut now) = (RetryBudget::new(instant()), instant());
            let (mut requests, mut retries, begin) = (0u64, 0u64, now);
            for (pause, asked, tried) in steps {
                now += Duration::from_millis(pause);
                for _ in 0..asked {
                    budget.request(now);
                    requests += 1;
                }
                retries += (0..tried).filter(|_| budget.retry(now) == Retry::Paid).count() as u64;
                // A whole floor for each look back, and one more that was left over.
                let floors = (now - begin).as_secs() / (RETRY_SLOT.as_secs() * RETRY_SLOTS as u64) + 2;
                prop_assert!(retries <= requests / 5 + floors * u64::from(FLOOR));
            }
        }
    }
}
