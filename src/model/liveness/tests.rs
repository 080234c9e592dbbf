//! Two link clocks and the path between them, on a virtual time line.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::testing::instant;

const MS: Duration = Duration::from_millis(1);

/// One packet on the path: from which side, the how-manieth of that side, when.
#[derive(Clone, Copy)]
struct Packet {
    from: usize,
    index: u64,
    at: Duration,
}

/// Two lanes' ends, each with its log of changes.
struct Path<F> {
    start: Instant,
    now: Duration,
    ends: [Liveness; 2],
    sent: [u64; 2],
    flying: BTreeMap<(Duration, u64), (usize, Probe)>,
    log: Vec<(u64, usize, Change)>,
    /// One-way delay of a packet; none: lost.
    delay: F,
}

impl<F: FnMut(Packet) -> Option<Duration>> Path<F> {
    fn new(delay: F) -> Self {
        let start = instant();
        let end = Liveness::new(Some(40 * MS), start);
        Self {
            start,
            now: Duration::ZERO,
            ends: [end.clone(), end],
            sent: [0; 2],
            flying: BTreeMap::new(),
            log: Vec::new(),
            delay,
        }
    }

    fn act(&mut self, end: usize, actions: Actions) {
        if let Some(change) = actions.change {
            self.log.push((u64::try_from(self.now.as_millis()).unwrap(), end, change));
        }
        if let Some(probe) = actions.send {
            self.sent[end] += 1;
            let packet = Packet { from: end, index: self.sent[end], at: self.now };
            if let Some(delay) = (self.delay)(packet) {
                let serial = self.sent[0] + self.sent[1];
                self.flying.insert((self.now + delay, serial), (1 - end, probe));
            }
        }
    }

    fn active(&mut self, end: usize, open: bool) {
        let actions = self.ends[end].active(open, self.start + self.now);
        self.act(end, actions);
    }

    /// Runs to `until` with `halted` ends neither reading nor waking.
    fn run_halting(&mut self, until: Duration, halted: Option<usize>) {
        loop {
            let runs = |end: &usize| Some(*end) != halted;
            let wake = (0..2).filter(runs).map(|end| (self.ends[end].next_wake() - self.start, end)).min();
            let (wake, end) = wake.expect("one end runs");
            let arrival = self.flying.iter().find(|(_, (to, _))| runs(to)).map(|(key, _)| *key);
            match arrival {
                Some(key) if key.0 <= wake && key.0 <= until => {
                    let (to, probe) = self.flying.remove(&key).expect("found");
                    self.now = self.now.max(key.0);
                    let actions = self.ends[to].probe_received(probe, self.start + self.now);
                    self.act(to, actions);
                }
                _ if wake <= until => {
                    self.now = self.now.max(wake);
                    let actions = self.ends[end].tick(self.start + self.now);
                    self.act(end, actions);
                }
                _ => {
                    self.now = until;
                    return;
                }
            }
        }
    }

    fn run(&mut self, until: Duration) {
        self.run_halting(until, None);
    }

    fn states(&self) -> [LinkState; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn both_active<F: FnMut(Packet) -> Option<Duration>>(delay: F) -> Path<F> {
    let mut path = Path::new(delay);
    path.run(100 * MS);
    path.active(0, true);
    path.active(1, true);
    path
}

#[test]
fn a_black_hole_is_suspect_within_a_second_and_down_after_three() {
    let mut path = both_active(|packet| (packet.at < 10_000 * MS).then_some(20 * MS));
    path.run(20_000 * MS);
    for end in 0..2 {
        let log: Vec<_> = path.log.iter().filter(|entry| entry.1 == end).collect();
        let [suspect, down] = log[..] else { panic!("{log:?}") };
        assert!(matches!(suspect.2, Change::BecameSuspect { .. }) && (10_400..=10_800).contains(&suspect.0));
        assert!(matches!(down.2, Change::BecameDown { .. }) && (12_800..=13_200).contains(&down.0));
    }
}

#[test]
fn loss_one_way_is_seen_by_both_sides_within_a_second_and_names_itself() {
    for deaf in 0..2 {
        let mut path =
            both_active(move |packet| (packet.at < 10_000 * MS || packet.from == deaf).then_some(20 * MS));
        path.run(11_000 * MS);
        assert_eq!(path.states(), [LinkState::Suspect; 2]);
        let cause = |end| match path.log.iter().find(|entry| entry.1 == end) {
            Some((_, _, Change::BecameSuspect { cause })) => *cause,
            other => panic!("{other:?}"),
        };
        assert!(!cause(deaf).peer_heard, "the deaf side hears nothing");
        assert!(cause(1 - deaf).peer_heard, "the other side hears the peer");
        assert!(cause(1 - deaf).to_string().contains("one way"));
        path.run(20_000 * MS);
        assert_eq!(path.states(), [LinkState::Down; 2]);
        assert_eq!(path.log.len(), 4, "one transition per event: {:?}", path.log);
    }
}

#[test]
fn a_lane_is_up_again_after_three_good_probes() {
    let mut path =
        both_active(|packet| (!(10_000..11_500).contains(&packet.at.as_millis())).then_some(20 * MS));
    path.run(20_000 * MS);
    let ups: Vec<_> = path.log.iter().filter(|entry| entry.2 == Change::BecameUp).collect();
    assert_eq!(ups.len(), 2);
    assert!(ups.iter().all(|up| (11_900..=12_200).contains(&up.0)), "{ups:?}");
    assert_eq!(path.log.len(), 4);
}

#[test]
fn an_idle_lane_is_probed_every_ten_seconds_and_a_lost_probe_alone_means_nothing() {
    let mut path = Path::new(|packet| (packet.from == 1 || packet.index % 4 != 3).then_some(20 * MS));
    path.run(600_000 * MS);
    assert_eq!(path.log, []);
    assert!(path.sent.iter().all(|sent| *sent < 200), "{:?}", path.sent);
}

#[test]
fn opening_on_an_idle_lane_starts_the_clock_at_zero() {
    // The path dies right after a good probe of the idle lane; streams open nine seconds later.
    let mut path = Path::new(|packet| (packet.at < 11_000 * MS).then_some(20 * MS));
    path.run(19_000 * MS);
    let ages = path.ends[0].ages(path.start + path.now);
    assert!(ages.outbound > 8_000 * MS, "{ages:?}");
    assert_eq!(path.states(), [LinkState::Up; 2]);
    let sent = path.sent[0];
    path.active(0, true);
    assert_eq!(path.sent[0], sent + 1, "the probe goes at once");
    path.run(19_500 * MS);
    assert_eq!(path.ends[0].state(), LinkState::Up, "old silence of an idle lane counts for nothing");
    path.run(19_600 * MS);
    assert_eq!(path.ends[0].state(), LinkState::Suspect);
}

#[test]
fn opening_and_closing_streams_does_not_flood_probes() {
    let mut path = Path::new(|_| Some(20 * MS));
    for round in 1..=2_000u32 {
        path.active(0, round % 2 == 1);
        path.run(round * MS);
    }
    assert!(path.sent[0] <= 11 + path.sent[1], "{:?}", path.sent);
}

#[test]
fn a_halt_of_ours_is_not_the_peers_death() {
    for halt in [150, 400, 700, 5_000, 60_000] {
        let mut path = both_active(|_| Some(20 * MS));
        path.run(5_000 * MS);
        path.run_halting(5_000 * MS + halt * MS, Some(0));
        path.run(5_000 * MS + halt * MS + 5_000 * MS);
        let ours: Vec<_> = path.log.iter().filter(|entry| entry.1 == 0).collect();
        assert!(ours.is_empty(), "after {halt} ms: {ours:?}");
        assert!(path.ends[0].rtt().srtt < 60 * MS, "a halt is not a round trip");
        assert_eq!(path.states(), [LinkState::Up; 2]);
    }
}

#[test]
fn a_peer_that_dies_during_our_halt_is_still_found_out() {
    let mut path = both_active(|packet| (packet.at < 7_000 * MS).then_some(20 * MS));
    path.run(5_000 * MS);
    path.run_halting(10_000 * MS, Some(0));
    path.run(10_700 * MS);
    assert_eq!(path.ends[0].state(), LinkState::Suspect);
}

#[test]
fn acknowledgements_prove_as_well_as_echoes_but_bring_nothing_up() {
    let start = instant();
    let mut lane = Liveness::new(Some(40 * MS), start);
    let _ = lane.active(true, start);
    let mut now = start;
    for _ in 0..20 {
        now += 100 * MS;
        lane.acknowledged(now.checked_sub(50 * MS).unwrap(), now);
        let _ = lane.tick(now);
    }
    assert_eq!(lane.state(), LinkState::Up);
    for _ in 0..10 {
        now += 100 * MS;
        let _ = lane.tick(now);
    }
    assert_eq!(lane.state(), LinkState::Suspect);
    lane.acknowledged(now, now);
    assert_eq!(lane.tick(now).change, None);
    assert_eq!(lane.state(), LinkState::Suspect);
}

#[test]
fn echoes_of_probes_never_sent_prove_nothing() {
    let start = instant();
    let mut lane = Liveness::new(Some(40 * MS), start);
    let mut now = start;
    for _ in 0..20 {
        let _ = lane.tick(now);
        let _ = lane.probe_received(Probe { seq: 0, echo: 1_000 }, now);
        now += 100 * MS;
    }
    assert_eq!(lane.state(), LinkState::Suspect);
}

#[test]
fn a_probe_is_answered_and_an_answer_is_not() {
    let start = instant();
    let mut lane = Liveness::new(None, start);
    let _ = lane.tick(start);
    let reply = lane.probe_received(Probe { seq: 7, echo: 0 }, start + MS);
    assert_eq!(reply.send, Some(Probe { seq: 0, echo: 7 }));
    let reply = lane.probe_received(Probe { seq: 0, echo: 1 }, start + 2 * MS);
    assert_eq!(reply, Actions::default());
}

#[test]
fn nothing_grows_while_a_lane_stays_down() {
    let mut path = both_active(|_| None);
    path.run(600_000 * MS);
    assert_eq!(path.states(), [LinkState::Down; 2]);
    assert!(path.ends[0].unanswered.len() <= PROBES_UNANSWERED_MAX);
}

#[test]
fn a_slow_path_is_judged_by_its_own_probe_timeout() {
    let mut path = both_active(|_| Some(450 * MS));
    path.ends.iter_mut().for_each(|end| end.given_rtt(900 * MS, 20 * MS));
    path.run(120_000 * MS);
    assert_eq!(path.log, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_lane_is_suspect_while_every_echo_comes_within_the_bound(
        delays in proptest::collection::vec(1u64..290, 50), toggles in proptest::collection::vec(0u64..9_000, 0..10),
    ) {
        let mut path = Path::new(|packet| {
            let index = usize::try_from(packet.index).unwrap();
            Some(MS * u32::try_from(delays[index % delays.len()]).unwrap())
        });
        for (round, pause) in toggles.into_iter().enumerate() {
            path.active(round % 2, round % 4 < 2);
            path.run(path.now + MS * u32::try_from(pause).unwrap());
        }
        path.run(path.now + 30_000 * MS);
        prop_assert_eq!(&path.log, &[]);
    }

    #[test]
    fn scattered_loss_never_makes_a_lane_down(lost in proptest::collection::vec(0u32..100, 200)) {
        // Three in a hundred, drawn per packet, 200 ms round trip: ten minutes.
        let mut path = both_active(|packet| {
            let index = usize::try_from(packet.index + u64::try_from(packet.from).unwrap() * 77).unwrap();
            (lost[index % lost.len()] >= 3).then_some(100 * MS)
        });
        path.run(600_000 * MS);
        let down = path.log.iter().filter(|entry| matches!(entry.2, Change::BecameDown { .. })).count();
        prop_assert_eq!(down, 0);
    }

    #[test]
    fn death_at_any_moment_is_found_within_the_bound(at in 1_000u32..30_000, active in any::<bool>()) {
        let mut path = Path::new(|packet| (packet.at < MS * at).then_some(20 * MS));
        if active {
            path.active(0, true);
        }
        path.run(MS * at);
        path.active(0, true);
        path.run(MS * (at + 1_000));
        prop_assert_eq!(path.ends[0].state(), LinkState::Suspect);
        path.run(MS * (at + 3_300));
        prop_assert_eq!(path.ends[0].state(), LinkState::Down);
    }

    #[test]
    fn the_next_wake_never_lies_in_the_past_and_a_tick_at_it_moves_it(
        steps in proptest::collection::vec((0u8..5, 0u64..2_000), 1..100),
    ) {
        let start = instant();
        let (mut lane, mut now) = (Liveness::new(None, start), start);
        for (kind, pause) in steps {
            now += Duration::from_millis(pause);
            match kind {
                0 => drop(lane.active(pause % 2 == 0, now)),
                1 => drop(lane.probe_received(Probe { seq: pause, echo: pause % 20 }, now)),
                2 => lane.acknowledged(now, now),
                _ => drop(lane.tick(now)),
            }
            prop_assert!(lane.next_wake() >= now);
            let mut ticks = 0;
            while lane.next_wake() <= now && ticks < 5 {
                let _ = lane.tick(now);
                ticks += 1;
            }
            prop_assert!(lane.next_wake() > now, "a tick that changes nothing would spin");
        }
    }
}
