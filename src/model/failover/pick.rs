//! The candidates of one connection, drawn from a plan without allocating, but for a client that is kept.

use std::ops::Range;

use rand::{Rng, RngExt};

use super::{
    super::{
        affinity::{rank, weighted},
        ids::ClusterId,
        limits::CANDIDATES_TRIED_MAX,
    },
    planning::{Level, Plan, Slot},
    reason::{Fitness, Reason},
};

/// Where a connection can go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// An endpoint of this cluster.
    Local,
    /// A gateway of this peer.
    Peer(ClusterId),
}

/// One place a new connection may go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The place.
    pub target: &'a Target,
    /// Its priority, from 0.
    pub priority: u8,
    /// Why.
    pub reason: Reason,
}

impl Candidate<'_> {
    /// Whether admission has to be asked for before opening (`outlier`): one request at a time decides. When
    /// it is refused, go on to the next candidate.
    #[must_use]
    pub fn on_probation(&self) -> bool {
        self.reason.fitness == Fitness::Probation
    }
}

/// The load of places, live.
pub trait Loads {
    /// What one more connection there costs; any unit, the lower the better ([`super::PeakEwma::cost`]).
    fn cost(&self, target: &Target) -> u64;
}

/// No load is known: shares are by capacity alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLoads;

impl Loads for NoLoads {
    fn cost(&self, _: &Target) -> u64 {
        0
    }
}

/// The candidates of one connection, the best first, each place once; at most [`CANDIDATES_TRIED_MAX`].
#[derive(Debug, Clone)]
pub struct Pick<'a> {
    slots: &'a [Slot],
    order: [usize; CANDIDATES_TRIED_MAX],
    len: usize,
    next: usize,
}

impl Plan {
    /// Draws the candidates of one connection: a priority by its load, in it by share and load, then the rest
    /// of that priority, the other priorities in order, and the last resorts.
    pub fn pick(&self, loads: &(impl Loads + ?Sized), rng: &mut impl Rng) -> Pick<'_> {
        let mut pick = Pick { slots: self.slots(), order: [0; CANDIDATES_TRIED_MAX], len: 0, next: 0 };
        if let Some(first) = self.draw_level(rng) {
            let levels = self.levels();
            pick.take_level(&levels[first], loads, rng);
            for (_, level) in levels.iter().enumerate().filter(|(index, _)| *index != first) {
                pick.take_level(level, loads, rng);
            }
        }
        for slot in self.last_resorts() {
            pick.push(slot);
        }
        pick
    }

    /// The candidates of a connection whose client is to be kept: the same for an equal key as long as the plan is
    /// the same. A change of the plan moves the clients of whom it takes something away, and as few others as give
    /// it their share. Load figures bend nothing here.
    pub fn pick_for(&self, client: &[u8]) -> Pick<'_> {
        let mut pick = Pick { slots: self.slots(), order: [0; CANDIDATES_TRIED_MAX], len: 0, next: 0 };
        let levels = self.levels();
        let sum: u64 = levels.iter().map(|level| level.load).sum();
        // The part of a whole that this client stands at, the same in every plan.
        let at = (u128::from(rank(client, b"")) * u128::from(sum)) >> 64;
        if let Some(first) = self.level_at(u64::try_from(at).unwrap_or(0)) {
            pick.keep_level(&levels[first], client);
            for (_, level) in levels.iter().enumerate().filter(|(index, _)| *index != first) {
                pick.keep_level(level, client);
            }
        }
        for slot in self.last_resorts() {
            pick.push(slot);
        }
        pick
    }

    /// A level by its load; none when nothing fit is there.
    fn draw_level(&self, rng: &mut impl Rng) -> Option<usize> {
        let levels = self.levels();
        let sum: u64 = levels.iter().map(|level| level.load).sum();
        if sum == 0 {
            return None;
        }
        self.level_at(rng.random_range(0..sum))
    }

    /// The level in whose load the number falls.
    fn level_at(&self, mut drawn: u64) -> Option<usize> {
        self.levels().iter().position(|level| {
            let here = drawn < level.load;
            drawn = drawn.saturating_sub(level.load);
            here
        })
    }
}

impl<'a> Pick<'a> {
    fn is_taken(&self, slot: usize) -> bool {
        let place = self.slots[slot].place;
        self.order[..self.len].iter().any(|taken| self.slots[*taken].place == place)
    }

    fn push(&mut self, slot: usize) {
        if self.len < CANDIDATES_TRIED_MAX && !self.is_taken(slot) {
            self.order[self.len] = slot;
            self.len += 1;
        }
    }

    /// Takes all of a level, in an order drawn by weight; of two draws the less loaded one goes first.
    fn take_level(&mut self, level: &Level, loads: &(impl Loads + ?Sized), rng: &mut impl Rng) {
        let free = level.fit.clone().filter(|slot| !self.is_taken(*slot));
        let (mut left, mut sum) =
            free.fold((0, 0), |(left, sum), slot| (left + 1, sum + self.slots[slot].weight));
        while left > 0 && self.len < CANDIDATES_TRIED_MAX {
            let mut drawn = |below: u64| {
                let at = if below > 1 { rng.random_range(0..below) } else { 0 };
                self.slot_at(level.fit.clone(), at)
            };
            // One that is left needs no choice.
            let below = if left == 1 { 1 } else { sum };
            let Some(mut chosen) = drawn(below) else {
                return;
            };
            if level.by_load && left > 1 {
                let other = drawn(below).unwrap_or(chosen);
                let cost = |slot: usize| loads.cost(&self.slots[slot].target);
                // A tie keeps the first draw, so that equal loads leave the shares as they are.
                if other != chosen && cost(other) < cost(chosen) {
                    chosen = other;
                }
            }
            self.push(chosen);
            left -= 1;
            sum -= self.slots[chosen].weight;
        }
    }

    /// Takes all of a level, in the order that one client meets it.
    fn keep_level(&mut self, level: &Level, client: &[u8]) {
        let score = |slot: usize| {
            let place = match &self.slots[slot].target {
                Target::Local => "",
                Target::Peer(cluster) => cluster.as_str(),
            };
            weighted(client, place.as_bytes(), self.slots[slot].weight)
        };
        let mut order: Vec<(f64, usize)> = level.fit.clone().map(|slot| (score(slot), slot)).collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0));
        order.into_iter().for_each(|(_, slot)| self.push(slot));
    }

    /// The slot of a level in whose weight the number `at` falls, those taken left out.
    fn slot_at(&self, level: Range<usize>, mut at: u64) -> Option<usize> {
        level.filter(|slot| !self.is_taken(*slot)).find(|slot| {
            let weight = self.slots[*slot].weight;
            let here = at < weight;
            at = at.saturating_sub(weight);
            here
        })
    }
}

impl<'a> Iterator for Pick<'a> {
    type Item = Candidate<'a>;

    fn next(&mut self) -> Option<Candidate<'a>> {
        let slot = *self.order[..self.len].get(self.next)?;
        self.next += 1;
        let slot = &self.slots[slot];
        Some(Candidate { target: &slot.target, priority: slot.priority, reason: slot.reason })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len - self.next, Some(self.len - self.next))
    }
}

impl ExactSizeIterator for Pick<'_> {}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::{
        super::tests::{World, cluster, worlds},
        *,
    };
    use crate::model::{failover::Verdict, liveness::LinkState};

    fn kept(plan: &Plan, client: u32) -> Vec<Target> {
        plan.pick_for(&client.to_le_bytes()).map(|one| one.target.clone()).collect()
    }

    #[test]
    fn a_cluster_that_goes_moves_its_own_clients_and_nobody_else() {
        let names = ["u", "v", "x", "y"];
        let mut world = World::of(&names.map(|name| cluster(name, &[("us/a", 2, 2)])));
        let before = world.plan();
        world.link("x", LinkState::Down);
        let (after, gone) = (world.plan(), Target::Peer(ClusterId::parse("x").expect("a label")));
        let mut shares: BTreeMap<Target, u32> = BTreeMap::new();
        for client in 0..2_000 {
            let order = kept(&before, client);
            *shares.entry(order[0].clone()).or_default() += 1;
            let left: Vec<_> = order.into_iter().filter(|target| *target != gone).collect();
            assert_eq!(kept(&after, client), left);
        }
        assert!(shares.len() == 4 && shares.values().all(|share| (400..600).contains(share)), "{shares:?}");
    }

    proptest! {
        #[test]
        fn a_kept_client_is_offered_what_others_are_and_the_same_each_time(
            world in worlds(),
            client in any::<u32>(),
            seed in any::<u64>(),
        ) {
            let plan = world.plan();
            let picked = kept(&plan, client);
            prop_assert_eq!(&picked, &kept(&world.clone().turned().plan(), client));
            let verdicts: Vec<_> =
                plan.pick_for(&client.to_le_bytes()).map(|one| one.reason.fitness.verdict()).collect();
            prop_assert!(verdicts.is_sorted_by_key(|verdict| *verdict == Verdict::LastResort), "{verdicts:?}");
            let others: Vec<_> = plan.pick(&NoLoads, &mut StdRng::seed_from_u64(seed)).collect();
            if others.len() < CANDIDATES_TRIED_MAX {
                let others: BTreeSet<Target> = others.into_iter().map(|one| one.target.clone()).collect();
                prop_assert_eq!(picked.into_iter().collect::<BTreeSet<_>>(), others);
            }
        }
    }
}
