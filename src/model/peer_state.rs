//! The ten states of a peer, derived from facts each time they are asked for: no state without its cause and
//! the time it began. Nothing here decides what follows from a state; it is for status and for policy to read.

use std::{fmt, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    ids::{ClusterId, Timestamp},
    limits,
    session::{Direction, Holding, SessionState},
};

/// What a peer is to this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Trust is exchanged, its catalog has never been here.
    Joining,
    /// It was introduced and waits for approval.
    Pending,
    /// Heartbeats come, and what is held is what it exports.
    Active,
    /// Its catalog does not move, or its session is gone for less than 60 s.
    Stalled,
    /// Its session is gone; its exports are the last choice.
    Stale,
    /// Its session is gone for long; its exports are in no answer.
    Withdrawn,
    /// Somebody paused it: trust is kept, no names, no streams.
    Paused,
    /// Its bundle has no usable root.
    Distrusted,
    /// One side ended the peering.
    Terminated,
    /// Somebody revoked it; its trust domain and keys are blocked.
    Revoked,
}

impl PeerState {
    /// Whether its exports may be in answers at all.
    #[must_use]
    pub fn serves(self) -> bool {
        matches!(self, Self::Active | Self::Stalled | Self::Stale)
    }

    /// Whether a connection with it may be.
    #[must_use]
    pub fn trusted(self) -> bool {
        !matches!(self, Self::Distrusted | Self::Terminated | Self::Revoked)
    }

    /// The word in tables, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Stalled => "stalled",
            Self::Stale => "stale",
            Self::Withdrawn => "withdrawn",
            Self::Paused => "paused",
            Self::Distrusted => "distrusted",
            Self::Terminated => "terminated",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of a peer. Each `Option` of a time says since when it is so.
#[derive(Debug, Clone, Copy)]
pub struct PeerFacts<'a> {
    /// When its record was made here.
    pub joined: Timestamp,
    /// Who introduced it; nobody when it joined by token.
    pub introduced_by: Option<&'a ClusterId>,
    /// It joined by token, or its introduction was approved.
    pub approved: bool,
    /// Paused by somebody.
    pub paused: Option<Timestamp>,
    /// Revoked by somebody.
    pub revoked: Option<Timestamp>,
    /// Ended, and the reason given.
    pub terminated: Option<(Timestamp, &'a str)>,
    /// Its bundle became unusable, and why.
    pub distrusted: Option<(Timestamp, &'a str)>,
    /// The session with it, if there is one.
    pub session: Option<SessionState>,
    /// Why it neither serves us nor takes our exports, as it says, and since when.
    pub holding: Option<(Holding, Timestamp)>,
    /// Since when this session's catalog is whole.
    pub synced: Option<Timestamp>,
    /// When the catalog that is held was last known to be current; nothing when none ever was.
    pub catalog: Option<Timestamp>,
}

/// A state with its beginning and its cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The state.
    pub state: PeerState,
    /// When it began.
    pub since: Timestamp,
    /// Why it is so, for people.
    pub cause: String,
}

impl PeerStatus {
    fn new(state: PeerState, since: Timestamp, cause: impl Into<String>) -> Self {
        Self { state, since, cause: cause.into() }
    }
}

/// Derives a peer's state. What somebody decided comes first, then trust, then what can be believed.
#[must_use]
pub fn derive(facts: &PeerFacts<'_>, wall: Timestamp, now: Instant) -> PeerStatus {
    if let Some(since) = facts.revoked {
        return PeerStatus::new(PeerState::Revoked, since, "revoked here; its keys are blocked until forget");
    }
    if let Some((since, reason)) = facts.terminated {
        return PeerStatus::new(PeerState::Terminated, since, format!("the peering ended: {reason}"));
    }
    if let Some((since, cause)) = facts.distrusted {
        return PeerStatus::new(PeerState::Distrusted, since, format!("its bundle is unusable: {cause}"));
    }
    if let Some(since) = facts.paused {
        return PeerStatus::new(PeerState::Paused, since, "paused here");
    }
    if !facts.approved {
        let by = facts.introduced_by.map_or_else(String::new, |peer| format!("introduced by {peer}, "));
        return PeerStatus::new(PeerState::Pending, facts.joined, format!("{by}waits for approval"));
    }
    match facts.holding.filter(|_| matches!(facts.session, Some(SessionState::Live))) {
        Some((Holding::Paused, since)) => {
            return PeerStatus::new(PeerState::Paused, since, "paused by the peer");
        }
        Some((Holding::Pending, since)) => {
            return PeerStatus::new(PeerState::Pending, since, "waits for approval by the peer's operator");
        }
        None => {}
    }
    let began = |since: Instant| earlier(wall, now.saturating_duration_since(since));
    match (facts.session, facts.synced, facts.catalog) {
        (Some(SessionState::Live), Some(since), _) => {
            PeerStatus::new(PeerState::Active, since, "heartbeats come and its catalog is current")
        }
        (Some(SessionState::Stalled { direction, since, behind }), _, Some(_)) => {
            let cause = match direction {
                Direction::Inbound => format!("its catalog is {behind} changes ahead of what arrived here"),
                Direction::Outbound => format!("it is {behind} changes behind our catalog"),
            };
            PeerStatus::new(PeerState::Stalled, began(since), cause)
        }
        (session, _, None) => {
            PeerStatus::new(PeerState::Joining, facts.joined, format!("no catalog yet: {}", told(session)))
        }
        (session, _, Some(current)) => aging(current, session, wall),
    }
}

/// A catalog that nothing confirms any more (P15).
fn aging(current: Timestamp, session: Option<SessionState>, wall: Timestamp) -> PeerStatus {
    let age = wall.since(current);
    let why = told(session);
    if age < limits::CATALOG_STALE_AFTER {
        return PeerStatus::new(
            PeerState::Stalled,
            current,
            format!("{why}; its catalog is believed for now"),
        );
    }
    if age < limits::CATALOG_WITHDRAWN_AFTER {
        let since = current.after(limits::CATALOG_STALE_AFTER);
        return PeerStatus::new(PeerState::Stale, since, format!("{why}; its exports are the last choice"));
    }
    let since = current.after(limits::CATALOG_WITHDRAWN_AFTER);
    let rows = if age < limits::CATALOG_FORGOTTEN_AFTER { "left all answers" } else { "are deleted" };
    PeerStatus::new(PeerState::Withdrawn, since, format!("{why}; its exports {rows}"))
}

fn told(session: Option<SessionState>) -> &'static str {
    match session {
        None => "there is no session with it",
        Some(SessionState::Opening) => "the session is being opened",
        Some(SessionState::Live) => "the session is open and its catalog is on the way",
        Some(SessionState::Stalled { .. }) => "the session is open and its catalog does not move",
        Some(SessionState::Lost { .. }) => "its heartbeats have stopped",
    }
}

fn earlier(wall: Timestamp, by: std::time::Duration) -> Timestamp {
    Timestamp(wall.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn start() -> Instant {
        crate::model::testing::instant()
    }

    const WALL: Timestamp = Timestamp(1_000_000_000);

    /// A peer that is joined, approved, live and whole.
    fn active() -> PeerFacts<'static> {
        PeerFacts {
            joined: Timestamp(1),
            introduced_by: None,
            approved: true,
            paused: None,
            revoked: None,
            terminated: None,
            distrusted: None,
            session: Some(SessionState::Live),
            holding: None,
            synced: Some(Timestamp(7)),
            catalog: Some(WALL),
        }
    }

    fn state(facts: PeerFacts<'_>) -> (PeerState, Timestamp) {
        let status = derive(&facts, WALL, start());
        assert!(!status.cause.is_empty());
        (status.state, status.since)
    }

    #[test]
    fn what_somebody_decided_hides_what_the_network_says() {
        let at = Timestamp(5);
        let mut facts = active();
        assert_eq!(state(facts), (PeerState::Active, Timestamp(7)));
        facts.approved = false;
        assert_eq!(state(facts), (PeerState::Pending, Timestamp(1)));
        facts.paused = Some(at);
        assert_eq!(state(facts), (PeerState::Paused, at));
        facts.distrusted = Some((at, "no usable root"));
        assert_eq!(state(facts), (PeerState::Distrusted, at));
        facts.terminated = Some((at, "removed"));
        assert_eq!(state(facts), (PeerState::Terminated, at));
        facts.revoked = Some(at);
        assert_eq!(state(facts), (PeerState::Revoked, at));
    }

    #[test]
    fn what_the_peer_holds_back_is_said_while_it_says_so() {
        let at = Timestamp(6);
        let held = |holding| PeerFacts { holding: Some((holding, at)), ..active() };
        assert_eq!(state(held(Holding::Paused)), (PeerState::Paused, at));
        assert_eq!(state(held(Holding::Pending)), (PeerState::Pending, at));
        let gone = PeerFacts { session: None, ..held(Holding::Paused) };
        assert_eq!(state(gone).0, PeerState::Stalled, "nobody says so any more");
        let ours = PeerFacts { paused: Some(Timestamp(5)), ..held(Holding::Pending) };
        assert_eq!(state(ours), (PeerState::Paused, Timestamp(5)));
    }

    #[test]
    fn a_peer_is_joining_until_its_catalog_was_here_once() {
        for session in [None, Some(SessionState::Opening), Some(SessionState::Live)] {
            let facts = PeerFacts { session, synced: None, catalog: None, ..active() };
            assert_eq!(state(facts), (PeerState::Joining, Timestamp(1)));
        }
    }

    #[test]
    fn a_session_alone_is_not_active() {
        let facts = PeerFacts { synced: None, ..active() };
        assert_eq!(state(facts).0, PeerState::Stalled);
        let now = start();
        let since = now.checked_sub(Duration::from_secs(30)).expect("the machine is up for 30 s");
        let stalled = SessionState::Stalled { direction: Direction::Inbound, since, behind: 3 };
        let status = derive(&PeerFacts { session: Some(stalled), ..active() }, WALL, now);
        assert_eq!((status.state, status.since), (PeerState::Stalled, Timestamp(WALL.0 - 30_000)));
    }

    #[test]
    fn without_a_session_a_catalog_ages_in_three_steps() {
        let ages = [
            (0, PeerState::Stalled, 0),
            (59, PeerState::Stalled, 0),
            (60, PeerState::Stale, 60),
            (599, PeerState::Stale, 60),
            (600, PeerState::Withdrawn, 600),
            (90_000, PeerState::Withdrawn, 600),
        ];
        for (age, expected, after) in ages {
            let catalog = Timestamp(WALL.0 - age * 1_000);
            let facts = PeerFacts { session: None, catalog: Some(catalog), ..active() };
            let since = catalog.after(Duration::from_secs(after));
            assert_eq!(state(facts), (expected, since), "after {age} s");
        }
    }

    #[test]
    fn only_peers_whose_catalog_is_believed_serve() {
        use PeerState as S;
        let all = [
            (S::Joining, false, true),
            (S::Pending, false, true),
            (S::Active, true, true),
            (S::Stalled, true, true),
            (S::Stale, true, true),
            (S::Withdrawn, false, true),
            (S::Paused, false, true),
            (S::Distrusted, false, false),
            (S::Terminated, false, false),
            (S::Revoked, false, false),
        ];
        for (state, serves, trusted) in all {
            assert_eq!((state.serves(), state.trusted()), (serves, trusted), "{state}");
        }
    }
}
