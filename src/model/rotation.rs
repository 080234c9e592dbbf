//! Rotation of a cluster's root: publish a new one, wait until every peer has stored it, issue under it, retire
//! the old one (P22).
//!
//! The set of roots says by itself how far a rotation is, so that one that was cut off goes on where it was.
//! Making roots, writing them and telling peers are for others.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    ids::Timestamp,
    state::{Peer, State},
};

/// Which roots a cluster has, by number; oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSet {
    /// Of the bundle; grows with each change.
    pub sequence: u64,
    /// The roots that others are told.
    pub published: Vec<u32>,
    /// The root that issues.
    pub issuing: u32,
    /// The highest number that was ever given to a root: none is given twice, so that two gateways of the
    /// cluster never write the same files.
    pub made: u32,
    /// Since when it is so.
    pub since: Timestamp,
}

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// There is none.
    Settled,
    /// The new root is told to every peer, the old one issues.
    Publishing,
    /// The new root issues, the old one is still believed.
    Retiring,
}

impl Phase {
    /// The word for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Publishing => "publishing",
            Self::Retiring => "retiring",
        }
    }
}

impl RootSet {
    /// One root, the first.
    #[must_use]
    pub fn first(since: Timestamp) -> Self {
        Self { sequence: 1, published: vec![1], issuing: 1, made: 1, since }
    }

    /// How far a rotation is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.published.last() {
            Some(newest) if self.published.len() > 1 && *newest != self.issuing => Phase::Publishing,
            Some(_) if self.published.len() > 1 => Phase::Retiring,
            _ => Phase::Settled,
        }
    }

    /// With a number given to a root that is about to be made. Others are told nothing new.
    #[must_use]
    pub fn with_number(&self) -> Self {
        Self { made: self.made + 1, ..self.clone() }
    }

    /// With the root that was made last told to others.
    #[must_use]
    pub fn with_made(&self, now: Timestamp) -> Self {
        let published = [self.published.as_slice(), &[self.made]].concat();
        Self { sequence: self.sequence + 1, published, since: now, ..self.clone() }
    }

    /// With the newest root issuing. Others are told nothing new.
    #[must_use]
    pub fn with_newest_issuing(&self, now: Timestamp) -> Self {
        let issuing = self.published.last().copied().unwrap_or(self.issuing);
        Self { issuing, since: now, ..self.clone() }
    }

    /// With the issuing root alone.
    #[must_use]
    pub fn with_issuing_only(&self, now: Timestamp) -> Self {
        let published = vec![self.issuing];
        Self { sequence: self.sequence + 1, published, since: now, ..self.clone() }
    }
}

/// What is done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Make a root and tell it.
    Publish,
    /// Issue under the newest root.
    Issue,
    /// Stop telling the old ones.
    Retire,
}

/// What the decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Peers that have not stored the set.
    pub waited_for: usize,
    /// When the newest root was made, and when it ends.
    pub life: (Timestamp, Timestamp),
    /// How long peers are waited for.
    pub patience: Duration,
    /// How long the old root is believed after the new one issues.
    pub retire_after: Duration,
    /// Now.
    pub now: Timestamp,
}

/// Decides. A root is replaced at two thirds of its life without anybody asking.
#[must_use]
pub fn next(set: &RootSet, facts: &Facts) -> Step {
    let age = facts.now.since(set.since);
    match set.phase() {
        Phase::Settled if facts.now >= renewal_due(facts.life) => Step::Publish,
        Phase::Publishing if facts.waited_for == 0 || age >= facts.patience => Step::Issue,
        Phase::Retiring if age >= facts.retire_after => Step::Retire,
        _ => Step::Wait,
    }
}

/// When a rotation goes on although nobody does anything: peers are not waited for any more, or the old root is
/// told no more. Nothing when there is no rotation.
#[must_use]
pub fn goes_on_at(set: &RootSet, patience: Duration, retire_after: Duration) -> Option<Timestamp> {
    match set.phase() {
        Phase::Settled => None,
        Phase::Publishing => Some(set.since.after(patience)),
        Phase::Retiring => Some(set.since.after(retire_after)),
    }
}

/// When something that lives from `life.0` to `life.1` is replaced: at two thirds.
#[must_use]
pub fn renewal_due(life: (Timestamp, Timestamp)) -> Timestamp {
    life.0.after(life.1.since(life.0) * 2 / 3)
}

/// The peers that have to store a set before it is used: those that are trusted and have not.
pub fn waited_for(state: &State, sequence: u64) -> impl Iterator<Item = &Peer> {
    let peers = state.peers.values().map(AsRef::as_ref);
    peers.filter(move |peer| peer.is_trusted() && peer.ruling.acked < sequence)
}

/// The share of a life that is left, when it is little: 50, 25 or 10 percent, and 0 after its end.
#[must_use]
pub fn little_left(life: (Timestamp, Timestamp), now: Timestamp) -> Option<u8> {
    let (whole, left) = (life.1.since(life.0).as_millis(), life.1.since(now).as_millis());
    [0_u8, 10, 25, 50].into_iter().find(|percent| left * 100 <= whole * u128::from(*percent))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const MADE: Timestamp = Timestamp(1_800_000_000_000);

    fn facts(now: Timestamp, waited_for: usize) -> Facts {
        let life = (MADE, MADE.after(300 * DAY));
        Facts { waited_for, life, patience: DAY, retire_after: DAY / 24, now }
    }

    #[test]
    fn a_rotation_goes_from_publishing_over_issuing_to_one_root() {
        let set = RootSet::first(MADE);
        assert_eq!((set.phase(), next(&set, &facts(MADE, 0))), (Phase::Settled, Step::Wait));
        let set = set.with_number().with_made(MADE);
        assert_eq!(
            (set.phase(), set.sequence, set.published.as_slice()),
            (Phase::Publishing, 2, &[1, 2][..])
        );
        assert_eq!(set.issuing, 1, "the old root issues until every peer can verify the new one");
        assert_eq!(next(&set, &facts(MADE, 1)), Step::Wait);
        assert_eq!(next(&set, &facts(MADE, 0)), Step::Issue);
        let set = set.with_newest_issuing(MADE);
        assert_eq!((set.phase(), set.sequence, set.issuing), (Phase::Retiring, 2, 2));
        assert_eq!(next(&set, &facts(MADE, 0)), Step::Wait);
        assert_eq!(next(&set, &facts(MADE.after(DAY / 24), 0)), Step::Retire);
        let set = set.with_issuing_only(MADE);
        assert_eq!((set.phase(), set.sequence, set.published.as_slice()), (Phase::Settled, 3, &[2][..]));
    }

    #[test]
    fn a_peer_that_is_away_is_waited_for_as_long_as_patience_lasts() {
        let set = RootSet::first(MADE).with_number().with_made(MADE);
        assert_eq!(next(&set, &facts(MADE.after(DAY - Duration::from_secs(1)), 1)), Step::Wait);
        assert_eq!(next(&set, &facts(MADE.after(DAY), 1)), Step::Issue);
        let until = |set: &RootSet| goes_on_at(set, DAY, DAY / 24);
        assert_eq!(until(&RootSet::first(MADE)), None);
        assert_eq!(until(&set), Some(MADE.after(DAY)));
        assert_eq!(until(&set.with_newest_issuing(MADE)), Some(MADE.after(DAY / 24)));
    }

    #[test]
    fn a_root_is_replaced_at_two_thirds_of_its_life() {
        let set = RootSet::first(MADE);
        assert_eq!(next(&set, &facts(MADE.after(199 * DAY), 0)), Step::Wait);
        assert_eq!(next(&set, &facts(MADE.after(200 * DAY), 0)), Step::Publish);
    }

    #[test]
    fn warnings_come_at_a_half_a_quarter_and_a_tenth() {
        let life = (MADE, MADE.after(100 * DAY));
        let after = |days: u32| little_left(life, MADE.after(days * DAY));
        assert_eq!(
            [after(0), after(49), after(50), after(74), after(75)],
            [None, None, Some(50), Some(50), Some(25)]
        );
        assert_eq!([after(89), after(90), after(100), after(200)], [Some(25), Some(10), Some(0), Some(0)]);
    }

    proptest! {
        /// The law behind "no stream is cut": what issues is published, and what is published has been so for
        /// as long as anybody was waited for.
        #[test]
        fn the_issuing_root_is_always_published(steps in prop::collection::vec((0..3u8, 0..3usize), 0..40)) {
            let (mut set, mut now) = (RootSet::first(MADE), MADE);
            for (days, waited_for) in steps {
                now = now.after(u32::from(days) * DAY / 2);
                let before = set.clone();
                set = match next(&set, &Facts { life: (now, now.after(DAY)), ..facts(now, waited_for) }) {
                    Step::Wait => if set.phase() == Phase::Settled { set.with_number().with_made(now) } else { set },
                    Step::Publish => set.with_number().with_made(now),
                    Step::Issue => set.with_newest_issuing(now),
                    Step::Retire => set.with_issuing_only(now),
                };
                prop_assert!(set.published.contains(&set.issuing));
                prop_assert!(set.published.len() <= 2);
                prop_assert!(set.sequence >= before.sequence);
                prop_assert!(set.published == before.published || set.sequence > before.sequence);
            }
        }
    }
}
