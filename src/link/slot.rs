//! One gateway of a peer and the lanes to it: which one takes new streams, and which of two dials lives.
//!
//! Lanes to one gateway are numbered. The side that dials says a number higher than any it knows of, so a
//! later dial takes the place of an older lane even where the older one still looks alive (B3), and of two
//! dials at once with the same number that of the smaller trust domain lives (B1). Pure: it closes nothing.

use crate::model::ids::Instance;

/// What this side thinks of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// It takes new streams.
    Trusted,
    /// It is suspect: another one may take its place.
    Doubted,
    /// It has ended.
    Over,
}

/// A lane as far as a slot needs to know it.
pub(super) trait Known: Clone + PartialEq {
    fn life(&self) -> Life;
}

/// A lane that is in use, with the run of the process at the other end.
#[derive(Debug, Clone)]
struct Settled<L> {
    lane: L,
    instance: Instance,
    number: u32,
}

/// The lanes to one gateway.
#[derive(Debug, Clone)]
pub(super) struct Slot<L> {
    up: Option<Settled<L>>,
    /// This side dialled, and says `Hello` with this number.
    saying: Option<(L, u32)>,
    /// The highest number said or heard.
    highest: Option<u32>,
}

impl<L> Default for Slot<L> {
    fn default() -> Self {
        Self { up: None, saying: None, highest: None }
    }
}

/// What becomes of a lane whose `Hello` was heard, and of the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Settling<L> {
    /// It is in use now, and is the first.
    Accepted,
    /// It is in use now; this one serves what it carries and nothing new.
    Retires(L),
    /// It is in use now; this one led to a former life of the gateway.
    Supersedes(L),
    /// Another one lives.
    Duplicate,
}

impl<L: Known> Slot<L> {
    /// The lane in use.
    pub(super) fn up(&self) -> Option<&L> {
        self.up.as_ref().map(|settled| &settled.lane)
    }

    /// Every lane here that has not ended.
    pub(super) fn living(&self) -> impl Iterator<Item = &L> {
        let saying = self.saying.as_ref().map(|(lane, _)| lane);
        self.up().into_iter().chain(saying).filter(|lane| lane.life() != Life::Over)
    }

    /// Whether a dial is of use: nothing lives here, or only what is doubted.
    pub(super) fn wants_dial(&self) -> bool {
        let said = self.saying.as_ref().is_some_and(|(lane, _)| lane.life() != Life::Over);
        !said && self.up().is_none_or(|lane| lane.life() != Life::Trusted)
    }

    /// Claims the slot for a lane this side dialled; the number to say. None: another one has it.
    pub(super) fn claim(&mut self, lane: &L) -> Option<u32> {
        if !self.wants_dial() {
            return None;
        }
        let number = self.highest.map_or(0, |highest| highest.saturating_add(1));
        self.highest = Some(number);
        self.saying = Some((lane.clone(), number));
        Some(number)
    }

    /// Settles a lane whose answer to our `Hello` arrived.
    pub(super) fn settle(&mut self, lane: &L, instance: Instance) -> Settling<L> {
        match (&self.up, &self.saying) {
            // Its control call was opened anew: it is the lane that lives.
            (Some(settled), _) if settled.lane == *lane && settled.instance == instance => Settling::Accepted,
            (_, Some((claimed, number))) if claimed == lane => self.accept(lane, instance, *number),
            _ => Settling::Duplicate,
        }
    }

    /// Settles a lane on which the other side said `Hello` with `number`.
    pub(super) fn hear(
        &mut self,
        lane: &L,
        instance: Instance,
        number: u32,
        smaller_dials: bool,
    ) -> Settling<L> {
        if self.up() == Some(lane) {
            return Settling::Accepted;
        }
        let lives = self.up.as_ref().filter(|settled| settled.lane.life() != Life::Over);
        if lives.is_some_and(|settled| settled.instance == instance && number <= settled.number) {
            return Settling::Duplicate;
        }
        if let Some((_, ours)) = self.saying.as_ref().filter(|(lane, _)| lane.life() != Life::Over)
            && (number < *ours || number == *ours && !smaller_dials)
        {
            return Settling::Duplicate;
        }
        self.accept(lane, instance, number)
    }

    fn accept(&mut self, lane: &L, instance: Instance, number: u32) -> Settling<L> {
        // A dial of ours that loses finds out when its answer comes.
        self.saying = None;
        self.highest = self.highest.max(Some(number));
        let old = self.up.replace(Settled { lane: lane.clone(), instance, number });
        match old.filter(|old| old.lane.life() != Life::Over) {
            None => Settling::Accepted,
            Some(old) if old.instance == instance => Settling::Retires(old.lane),
            Some(old) => Settling::Supersedes(old.lane),
        }
    }

    /// Forgets a lane that ended. Its number stays known.
    pub(super) fn remove(&mut self, lane: &L) {
        if self.up() == Some(lane) {
            self.up = None;
        }
        if self.saying.as_ref().is_some_and(|(claimed, _)| claimed == lane) {
            self.saying = None;
        }
    }

    /// Whether nothing but a number is known here.
    pub(super) fn is_empty(&self) -> bool {
        self.up.is_none() && self.saying.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    const RUN: Instance = Instance([1; 16]);
    const NEXT_RUN: Instance = Instance([2; 16]);

    #[derive(Debug, Clone)]
    struct Wire(Rc<Cell<Life>>);

    impl Wire {
        fn new() -> Self {
            Self(Rc::new(Cell::new(Life::Trusted)))
        }
    }

    impl PartialEq for Wire {
        fn eq(&self, other: &Self) -> bool {
            Rc::ptr_eq(&self.0, &other.0)
        }
    }

    impl Known for Wire {
        fn life(&self) -> Life {
            self.0.get()
        }
    }

    /// A slot with a lane that was dialled and settled.
    fn linked() -> (Slot<Wire>, Wire) {
        let (mut slot, lane) = (Slot::default(), Wire::new());
        assert_eq!(slot.claim(&lane), Some(0));
        assert_eq!(slot.settle(&lane, RUN), Settling::Accepted);
        (slot, lane)
    }

    #[test]
    fn a_lane_in_use_is_not_dialled_again_until_it_is_doubted() {
        let (mut slot, old) = linked();
        let new = Wire::new();
        assert_eq!(slot.claim(&new), None);
        old.0.set(Life::Doubted);
        assert_eq!(slot.claim(&new), Some(1));
        assert_eq!(slot.claim(&Wire::new()), None, "one dial at a time");
        assert_eq!(slot.up(), Some(&old), "make before break");
        assert_eq!(slot.settle(&new, RUN), Settling::Retires(old));
        assert_eq!(slot.up(), Some(&new));
    }

    #[test]
    fn the_other_side_takes_the_new_lane_although_it_doubts_nothing() {
        let (mut slot, old) = linked();
        let again = Wire::new();
        assert_eq!(slot.hear(&again, RUN, 0, true), Settling::Duplicate, "both dialled at the start");
        assert_eq!(slot.hear(&again, RUN, 1, false), Settling::Retires(old.clone()));
        assert_eq!(slot.settle(&old, RUN), Settling::Duplicate);
        assert_eq!(slot.hear(&old, RUN, 0, true), Settling::Duplicate, "an old lane does not come back");
    }

    #[test]
    fn a_gateway_that_started_anew_supersedes_its_former_life() {
        let (mut slot, old) = linked();
        assert_eq!(slot.hear(&Wire::new(), NEXT_RUN, 0, false), Settling::Supersedes(old));
    }

    #[test]
    fn a_lane_that_ended_leaves_its_number() {
        let (mut slot, lane) = linked();
        lane.0.set(Life::Over);
        slot.remove(&lane);
        assert!(slot.is_empty());
        assert_eq!(slot.claim(&Wire::new()), Some(1), "the other side may not have seen it end");
    }

    /// Both sides of one pair, dialling at the same time, in every order of what is heard first.
    #[test]
    fn of_two_dials_at_once_both_sides_keep_the_same_one() {
        for doubted in [false, true] {
            for east_hears_first in [false, true] {
                let (mut east, mut west) = (Slot::default(), Slot::default());
                if doubted {
                    let lane = Wire::new();
                    lane.0.set(Life::Doubted);
                    assert_eq!(east.claim(&lane), Some(0));
                    assert_eq!(west.hear(&lane, RUN, 0, true), Settling::Accepted);
                    assert_eq!(east.settle(&lane, RUN), Settling::Accepted);
                }
                let (by_east, by_west) = (Wire::new(), Wire::new());
                let number = u32::from(doubted);
                assert_eq!(east.claim(&by_east), Some(number));
                assert_eq!(west.claim(&by_west), Some(number));
                // East is the smaller domain.
                let mut east_hears = || east.hear(&by_west, RUN, number, false);
                if east_hears_first {
                    assert_eq!(east_hears(), Settling::Duplicate);
                }
                assert_ne!(west.hear(&by_east, RUN, number, true), Settling::Duplicate);
                if !east_hears_first {
                    assert_eq!(east_hears(), Settling::Duplicate);
                }
                assert_ne!(east.settle(&by_east, RUN), Settling::Duplicate);
                assert_eq!(west.settle(&by_west, RUN), Settling::Duplicate);
                assert_eq!((east.up(), west.up()), (Some(&by_east), Some(&by_east)));
            }
        }
    }

    #[test]
    fn the_later_dial_wins_on_both_sides_whoever_is_smaller() {
        let (mut east, mut west) = (linked().0, Slot::default());
        east.up().expect("linked").0.set(Life::Doubted);
        let (by_east, by_west) = (Wire::new(), Wire::new());
        // West has started anew and knows of nothing.
        assert_eq!((east.claim(&by_east), west.claim(&by_west)), (Some(1), Some(0)));
        assert_eq!(east.hear(&by_west, NEXT_RUN, 0, false), Settling::Duplicate);
        assert_eq!(west.hear(&by_east, RUN, 1, false), Settling::Accepted);
        assert!(matches!(east.settle(&by_east, NEXT_RUN), Settling::Supersedes(_)));
    }
}
