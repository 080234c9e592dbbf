//! The session clock: whether a peer's catalog can be believed, by heartbeats and by progress (P12, P13).
//!
//! It never moves traffic and says nothing of liveness: the link clock does (M3). Heartbeats show that the
//! other side's control task runs; progress shows that catalogs move. Sending, and opening streams anew, is
//! the caller's.

use std::time::{Duration, Instant};

use super::{
    ids::{Seq, Timestamp},
    limits,
};

/// What one side tells the other every 5 s (proto `Heartbeat`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Newest seq of the sender's catalog for the receiver.
    pub head_seq: Seq,
    /// Newest seq of the receiver's catalog that the sender applied.
    pub applied_seq: Seq,
    /// Sequence of the sender's bundle.
    pub bundle_sequence: u64,
    /// SHA-256 over the receiver's roots as the sender uses them.
    pub your_roots_sha256: [u8; 32],
    /// The sender's clock.
    pub at: Timestamp,
    /// What keeps the sender from serving the receiver.
    pub holding: Option<Holding>,
}

/// Why one side neither serves the other nor takes its exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holding {
    /// Somebody paused it.
    Paused,
    /// It waits for somebody's approval.
    Pending,
}

/// What this gateway knows for its next heartbeat; the session adds nothing but the time of sending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Newest seq of our catalog for the peer.
    pub head_seq: Seq,
    /// Newest seq of the peer's catalog that we applied.
    pub applied_seq: Seq,
    /// Sequence of our bundle.
    pub bundle_sequence: u64,
    /// SHA-256 over the peer's roots as we use them.
    pub peer_roots_sha256: [u8; 32],
    /// What keeps us from serving the peer.
    pub holding: Option<Holding>,
}

/// What the caller does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionAction {
    /// Send this on `control`.
    Send(Heartbeat),
    /// Close the session's streams and open them anew.
    Reopen,
}

/// Which way a catalog is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer has changes that we have not applied.
    Inbound,
    /// We have changes that the peer has not applied.
    Outbound,
}

/// What can be believed of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Streams are open, no heartbeat has come yet.
    Opening,
    /// Heartbeats come, and catalogs move or have nothing to move.
    Live,
    /// Heartbeats come, but a catalog has not moved for 30 s although it should.
    Stalled {
        /// Which one; inbound when both.
        direction: Direction,
        /// Since when it has not.
        since: Instant,
        /// Seqs it is behind.
        behind: u64,
    },
    /// No heartbeat for 15 s.
    Lost {
        /// When the last one came, or the streams were opened.
        since: Instant,
    },
}

/// One catalog's way: how far its source is, how far its copy, and when the copy last moved.
#[derive(Debug, Clone, Copy)]
struct Way {
    head: Seq,
    applied: Seq,
    /// When the copy last moved, or fell behind after it had caught up.
    moved_at: Instant,
}

impl Way {
    fn set(&mut self, head: Seq, applied: Seq, now: Instant) {
        let had_nothing_to_do = self.applied >= self.head;
        if applied != self.applied || (had_nothing_to_do && head > applied) {
            self.moved_at = now;
        }
        (self.head, self.applied) = (head, applied);
    }

    /// When it is stalled unless it moves.
    fn stalls_at(&self) -> Option<Instant> {
        (self.head > self.applied).then(|| self.moved_at + limits::STALLED_AFTER)
    }
}

/// The clock of one session with one gateway of a peer.
#[derive(Debug, Clone)]
pub struct SessionClock {
    heard: Option<Instant>,
    opened: Instant,
    next_send: Instant,
    inbound: Way,
    outbound: Way,
    peer: Option<Heartbeat>,
    /// New streams get as long to move a catalog as the old ones had.
    patient_until: Instant,
    /// What the last heartbeat we sent said of our holding; a change of it is told at once.
    told: Option<Holding>,
    /// Streams are being opened anew; until then neither heartbeats nor complaints.
    reopening: bool,
}

impl SessionClock {
    /// For streams that are open since now. The first heartbeat is due at once.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let way = Way { head: 0, applied: 0, moved_at: now };
        Self {
            heard: None,
            opened: now,
            next_send: now,
            inbound: way,
            outbound: way,
            peer: None,
            patient_until: now,
            told: None,
            reopening: false,
        }
    }

    /// The streams were opened anew. A catalog that was stalled is so until it moves.
    pub fn reopened(&mut self, now: Instant) {
        *self = Self {
            inbound: self.inbound,
            outbound: self.outbound,
            patient_until: now + limits::STALLED_AFTER,
            ..Self::new(now)
        };
    }

    /// Our own figures changed. Cheap; call it whenever one may have.
    pub fn on_progress(&mut self, ours: &Progress, now: Instant) {
        self.inbound.set(self.inbound.head, ours.applied_seq, now);
        self.outbound.set(ours.head_seq, self.outbound.applied, now);
    }

    /// A heartbeat came.
    pub fn on_heartbeat(&mut self, heartbeat: Heartbeat, now: Instant) {
        self.heard = Some(now);
        self.peer = Some(heartbeat);
        self.inbound.set(heartbeat.head_seq, self.inbound.applied, now);
        self.outbound.set(self.outbound.head, heartbeat.applied_seq, now);
    }

    /// What is to be done now.
    pub fn poll(&mut self, ours: &Progress, wall: Timestamp, now: Instant) -> Option<SessionAction> {
        self.on_progress(ours, now);
        if self.reopening {
            return None;
        }
        if matches!(self.state(now), SessionState::Lost { .. }) || self.stalled_inbound(now) {
            self.reopening = true;
            return Some(SessionAction::Reopen);
        }
        if now < self.next_send && ours.holding == self.told {
            return None;
        }
        self.told = ours.holding;
        self.next_send = now + limits::HEARTBEAT_INTERVAL;
        Some(SessionAction::Send(Heartbeat {
            head_seq: ours.head_seq,
            applied_seq: ours.applied_seq,
            bundle_sequence: ours.bundle_sequence,
            your_roots_sha256: ours.peer_roots_sha256,
            at: wall,
            holding: ours.holding,
        }))
    }

    /// We opened the catalog that does not move, so we open it anew; the peer does so for the other one.
    fn stalled_inbound(&self, now: Instant) -> bool {
        self.inbound.stalls_at().is_some_and(|at| at.max(self.patient_until) <= now)
    }

    /// When [`Self::poll`] or [`Self::state`] may say something new although nothing happened.
    #[must_use]
    pub fn next_wake(&self, now: Instant) -> Option<Instant> {
        if self.reopening {
            return None;
        }
        let stalls = [self.inbound.stalls_at(), self.outbound.stalls_at()].into_iter().flatten();
        let lost = self.silent_since() + limits::HEARTBEAT_LOST_AFTER;
        let later = stalls.chain([self.patient_until, lost]).filter(|at| *at > now);
        later.chain([self.next_send]).min()
    }

    /// What can be believed.
    #[must_use]
    pub fn state(&self, now: Instant) -> SessionState {
        let since = self.silent_since();
        if now.saturating_duration_since(since) >= limits::HEARTBEAT_LOST_AFTER {
            return SessionState::Lost { since };
        }
        for (direction, way) in [(Direction::Inbound, self.inbound), (Direction::Outbound, self.outbound)] {
            if way.stalls_at().is_some_and(|at| at <= now) {
                let behind = way.head - way.applied;
                return SessionState::Stalled { direction, since: way.moved_at, behind };
            }
        }
        if self.heard.is_none() { SessionState::Opening } else { SessionState::Live }
    }

    fn silent_since(&self) -> Instant {
        self.heard.unwrap_or(self.opened)
    }

    /// The newest heartbeat and its age.
    #[must_use]
    pub fn peer(&self, now: Instant) -> Option<(Heartbeat, Duration)> {
        self.peer.zip(self.heard).map(|(beat, heard)| (beat, now.saturating_duration_since(heard)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn start() -> Instant {
        crate::model::testing::instant()
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn beat(head_seq: Seq, applied_seq: Seq) -> Heartbeat {
        Heartbeat { head_seq, applied_seq, ..Heartbeat::default() }
    }

    #[test]
    fn heartbeats_go_out_every_five_seconds_beginning_at_once() {
        let t0 = start();
        let mut clock = SessionClock::new(t0);
        let ours = Progress { head_seq: 3, applied_seq: 2, ..Progress::default() };
        for second in 0..12 {
            let now = t0 + seconds(second);
            let action = clock.poll(&ours, Timestamp(second), now);
            let expected = Heartbeat { at: Timestamp(second), ..beat(3, 2) };
            let due = second % 5 == 0;
            assert_eq!(action, due.then_some(SessionAction::Send(expected)), "second {second}");
            clock.on_heartbeat(beat(2, 3), now);
        }
    }

    #[test]
    fn that_a_peer_is_held_is_told_at_once_and_so_is_its_end() {
        let t0 = start();
        let mut clock = SessionClock::new(t0);
        let mut ours = Progress::default();
        let mut poll = |holding, millis| {
            ours.holding = holding;
            clock.poll(&ours, Timestamp(0), t0 + Duration::from_millis(millis))
        };
        let told = |holding| Some(SessionAction::Send(Heartbeat { holding, ..Heartbeat::default() }));
        assert_eq!(poll(None, 0), told(None));
        assert_eq!(poll(None, 1), None);
        assert_eq!(poll(Some(Holding::Paused), 2), told(Some(Holding::Paused)));
        assert_eq!(poll(Some(Holding::Paused), 3), None);
        assert_eq!(poll(None, 4), told(None));
    }

    #[test]
    fn fifteen_silent_seconds_open_the_streams_anew_once() {
        let t0 = start();
        let mut clock = SessionClock::new(t0);
        clock.on_heartbeat(beat(0, 0), t0);
        let late = t0 + seconds(15);
        assert_eq!(clock.state(late - Duration::from_millis(1)), SessionState::Live);
        assert_eq!(clock.state(late), SessionState::Lost { since: t0 });
        assert_eq!(clock.poll(&Progress::default(), Timestamp(0), late), Some(SessionAction::Reopen));
        assert_eq!(clock.poll(&Progress::default(), Timestamp(0), late + seconds(60)), None);
        clock.reopened(late + seconds(60));
        assert_eq!(clock.state(late + seconds(60)), SessionState::Opening);
        assert!(matches!(
            clock.poll(&Progress::default(), Timestamp(0), late + seconds(60)),
            Some(SessionAction::Send(_))
        ));
    }

    #[test]
    fn thirty_seconds_without_progress_are_a_stall_although_heartbeats_come() {
        let t0 = start();
        let mut clock = SessionClock::new(t0);
        let ours = Progress { applied_seq: 4, ..Progress::default() };
        for second in 0..30 {
            clock.on_heartbeat(beat(9, 0), t0 + seconds(second));
            assert_eq!(clock.state(t0 + seconds(second)), SessionState::Live);
            let action = clock.poll(&ours, Timestamp(0), t0 + seconds(second));
            assert_ne!(action, Some(SessionAction::Reopen));
        }
        let now = t0 + seconds(30);
        let stalled = SessionState::Stalled { direction: Direction::Inbound, since: t0, behind: 5 };
        assert_eq!(clock.state(now), stalled);
        assert_eq!(clock.poll(&ours, Timestamp(0), now), Some(SessionAction::Reopen));
        clock.reopened(now);
        clock.on_heartbeat(beat(9, 0), now);
        assert_eq!(clock.state(now), stalled, "new streams alone are no progress");
        let action = clock.poll(&ours, Timestamp(0), now);
        assert_ne!(action, Some(SessionAction::Reopen), "new streams get their time");
        clock.on_progress(&Progress { applied_seq: 5, ..ours }, now);
        assert_eq!(clock.state(now), SessionState::Live);
    }

    #[test]
    fn a_peer_that_does_not_apply_ours_is_stalled_and_its_streams_are_left_to_it() {
        let t0 = start();
        let mut clock = SessionClock::new(t0);
        let ours = Progress { head_seq: 7, ..Progress::default() };
        clock.on_progress(&ours, t0);
        let now = t0 + seconds(30);
        clock.on_heartbeat(beat(0, 2), t0 + seconds(1));
        clock.on_heartbeat(beat(0, 2), now);
        let since = t0 + seconds(1);
        let stalled = SessionState::Stalled { direction: Direction::Outbound, since, behind: 5 };
        assert_eq!(clock.state(now + seconds(1)), stalled);
        let action = clock.poll(&ours, Timestamp(0), now + seconds(1));
        assert!(matches!(action, Some(SessionAction::Send(_))));
        assert!(clock.next_wake(now + seconds(1)).is_some_and(|at| at > now + seconds(1)), "no busy loop");
    }

    proptest! {
        #[test]
        fn a_catalog_that_moves_at_least_every_thirty_seconds_is_never_stalled(
            pauses in prop::collection::vec(0..30u64, 1..50),
        ) {
            let mut now = start();
            let mut clock = SessionClock::new(now);
            for (applied, pause) in (1..).zip(pauses) {
                for _ in 0..pause {
                    now += seconds(1);
                    clock.on_heartbeat(beat(1_000, 0), now);
                    prop_assert_eq!(clock.state(now), SessionState::Live);
                }
                clock.on_progress(&Progress { applied_seq: applied, ..Progress::default() }, now);
            }
        }

        #[test]
        fn polling_at_every_wake_never_spins(beats in prop::collection::vec((0..20u64, 0..3u64, 0..3u64), 0..30)) {
            let mut now = start();
            let mut clock = SessionClock::new(now);
            for (pause, head, applied) in beats {
                let until = now + seconds(pause);
                for _ in 0..100 {
                    let action = clock.poll(&Progress { head_seq: 2, applied_seq: 1, ..Progress::default() }, Timestamp(0), now);
                    if action == Some(SessionAction::Reopen) {
                        clock.reopened(now);
                        continue;
                    }
                    let wake = clock.next_wake(now).expect("streams are open");
                    prop_assert!(wake > now, "due at once again");
                    if wake > until {
                        break;
                    }
                    now = wake;
                }
                now = until;
                clock.on_heartbeat(beat(head, applied), now);
            }
        }
    }
}
