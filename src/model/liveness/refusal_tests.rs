//! What a host's word that nobody listens does to a link clock: quick when the peer is silent too, nothing when it
//! lives.

use proptest::prelude::*;

use super::*;
use crate::model::testing::instant;

const MS: Duration = Duration::from_millis(1);

/// A clock at 40 ms, and its peer: alive until a moment, its echoes a round trip after each probe.
struct Lane {
    clock: Liveness,
    start: Instant,
    now: Duration,
    dies: Duration,
    echoes: Vec<(Duration, u64)>,
    log: Vec<(Duration, Change)>,
}

impl Lane {
    fn new(streams_open: bool, dies: Duration) -> Self {
        let start = instant();
        let mut lane = Self {
            clock: Liveness::new(Some(40 * MS), start),
            start,
            now: Duration::ZERO,
            dies,
            echoes: Vec::new(),
            log: Vec::new(),
        };
        let actions = lane.clock.active(streams_open, start);
        lane.act(actions);
        lane
    }

    fn act(&mut self, actions: Actions) {
        if let Some(change) = actions.change {
            self.log.push((self.now, change));
        }
        let probe = actions.send.filter(|probe| probe.seq > 0 && self.now + 20 * MS < self.dies);
        self.echoes.extend(probe.map(|probe| (self.now + 40 * MS, probe.seq)));
    }

    fn run(&mut self, until: Duration) {
        while self.now < until {
            let wake = until.min(self.clock.next_wake() - self.start);
            let echo = self.echoes.first().copied().filter(|(at, _)| *at <= wake);
            self.now = echo.map_or(wake, |(at, _)| at);
            let now = self.start + self.now;
            let actions = match echo {
                Some((_, seq)) => {
                    self.echoes.remove(0);
                    self.clock.probe_received(Probe { seq: 0, echo: seq }, now)
                }
                None => self.clock.tick(now),
            };
            self.act(actions);
            if self.clock.state() == LinkState::Down {
                return;
            }
        }
    }

    fn refuse(&mut self, place: RefusedAt) {
        let actions = self.clock.refused(place, self.start + self.now);
        self.act(actions);
    }

    fn down(&self) -> Option<Duration> {
        self.log.iter().find(|(_, change)| matches!(change, Change::BecameDown { .. })).map(|(at, _)| *at)
    }
}

#[test]
fn a_dead_peer_whose_host_says_so_is_suspect_after_a_probe_timeout_and_down_after_two() {
    let mut lane = Lane::new(true, 2_000 * MS);
    lane.run(2_040 * MS);
    let pto = lane.clock.pto();
    lane.refuse(RefusedAt::Home);
    lane.run(4_000 * MS);
    let [(suspect, first), (down, second)] = lane.log[..] else { panic!("{:?}", lane.log) };
    assert!(matches!(first, Change::BecameSuspect { .. }) && matches!(second, Change::BecameDown { .. }));
    assert_eq!(suspect, 2_040 * MS + pto.max(REFUSED_SUSPECT_AFTER));
    assert_eq!(down, 2_040 * MS + (pto * 2).max(REFUSED_DOWN_AFTER));
    let Change::BecameDown { cause } = second else { unreachable!("matched above") };
    assert!(cause.to_string().contains("nobody listens"), "{cause}");
}

#[test]
fn where_a_nat_may_have_forgotten_the_peer_has_the_time_of_three_probes() {
    let mut lane = Lane::new(true, 2_000 * MS);
    lane.run(2_040 * MS);
    lane.refuse(RefusedAt::Source);
    lane.run(4_000 * MS);
    assert_eq!(lane.down(), Some(2_040 * MS + SUSPECT_AFTER.max(lane.clock.pto() * SUSPECT_PTOS)));
}

#[test]
fn a_peer_that_is_silent_because_nothing_is_open_is_not_dropped_for_what_a_nat_says() {
    let mut lane = Lane::new(false, Duration::MAX);
    lane.run(5_000 * MS);
    lane.echoes.clear();
    lane.dies = Duration::ZERO;
    lane.refuse(RefusedAt::Source);
    lane.run(7_000 * MS);
    assert_eq!(lane.down(), None);
}

#[test]
fn who_speaks_contradicts_its_host() {
    let mut lane = Lane::new(true, 2_000 * MS);
    lane.run(2_040 * MS);
    lane.refuse(RefusedAt::Home);
    lane.run(2_100 * MS);
    let actions = lane.clock.probe_received(Probe { seq: 7, echo: 0 }, lane.start + lane.now);
    lane.act(actions);
    lane.run(2_500 * MS);
    assert_eq!((lane.clock.state(), lane.log.len()), (LinkState::Up, 0), "{:?}", lane.log);
}

proptest! {
    /// However often it is forged: while the peer answers, the lane stays up.
    #[test]
    fn forged_refusals_never_harm_a_lane_whose_peer_answers(
        streams_open in any::<bool>(),
        home in any::<bool>(),
        pauses in prop::collection::vec(1..200_u32, 1..200),
    ) {
        let mut lane = Lane::new(streams_open, Duration::MAX);
        let place = if home { RefusedAt::Home } else { RefusedAt::Source };
        for pause in pauses {
            lane.run(lane.now + MS * pause);
            lane.refuse(place);
            prop_assert_eq!(lane.clock.state(), LinkState::Up);
        }
        prop_assert!(lane.log.is_empty(), "{:?}", lane.log);
    }
}
