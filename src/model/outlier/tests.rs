//! What ejects, what never does, and how an endpoint comes back.

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::model::testing::instant;

const REFUSED: Outcome = Outcome::Failure(Origin::Refused);
const APP: Outcome = Outcome::Failure(Origin::App);

fn rng() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn ejected(at: Instant) -> (Outlier, Instant) {
    let (mut outlier, mut rng) = (Outlier::new(), rng());
    for _ in 0..EJECT_AFTER_CONNECT_FAILURES {
        outlier.observe(REFUSED, at, &mut rng);
    }
    let Standing::Ejected { until } = outlier.state(at) else {
        panic!("three refusals did not eject");
    };
    (outlier, until)
}

#[test]
fn three_refused_connects_or_five_application_failures_eject() {
    for (outcome, needed) in [(REFUSED, 3), (Outcome::Failure(Origin::Timeout), 3), (APP, 5)] {
        let (mut outlier, mut rng) = (Outlier::new(), rng());
        for n in 1..needed {
            assert_eq!(outlier.observe(outcome, instant(), &mut rng), None, "after {n}");
        }
        assert!(matches!(outlier.observe(outcome, instant(), &mut rng), Some(Standing::Ejected { .. })));
    }
}

#[test]
fn one_success_ends_the_row() {
    let (mut outlier, mut rng) = (Outlier::new(), rng());
    for outcome in [REFUSED, REFUSED, Outcome::Success, REFUSED, REFUSED, APP, REFUSED, REFUSED] {
        assert_eq!(outlier.observe(outcome, instant(), &mut rng), None);
    }
}

#[test]
fn a_gateway_a_policy_a_limit_or_a_vanished_client_never_eject() {
    let (mut outlier, mut rng) = (Outlier::new(), rng());
    let foreign = [Origin::Gateway, Origin::Policy, Origin::Limit].map(Outcome::Failure);
    for outcome in foreign.into_iter().chain([Outcome::Unknown]).cycle().take(1_000) {
        assert_eq!(outlier.observe(outcome, instant(), &mut rng), None);
    }
    assert!(outlier.is_spotless(instant()));
}

#[test]
fn a_success_between_failures_of_others_does_not_hide_a_row() {
    let (mut outlier, mut rng) = (Outlier::new(), rng());
    for outcome in [REFUSED, Outcome::Failure(Origin::Gateway), REFUSED, Outcome::Unknown] {
        outlier.observe(outcome, instant(), &mut rng);
    }
    assert!(outlier.observe(REFUSED, instant(), &mut rng).is_some());
}

#[test]
fn probation_admits_one_real_request_at_a_time() {
    let (mut outlier, until) = ejected(instant());
    assert_eq!(outlier.admits(until - Duration::from_millis(1)), Admission::No { until });
    assert_eq!(outlier.state(until), Standing::Probation);
    assert_eq!(outlier.admits(until), Admission::Probe);
    let free = until + PROBATION_PROBE_MAX;
    assert_eq!(outlier.admits(until), Admission::No { until: free });
    assert_eq!(outlier.admits(free), Admission::Probe, "a probe without outcome blocks for ever");
}

#[test]
fn a_good_probe_heals_and_a_bad_one_ejects_for_longer() {
    let (mut healed, until) = ejected(instant());
    assert_eq!(healed.admits(until), Admission::Probe);
    assert_eq!(healed.observe(Outcome::Success, until, &mut rng()), Some(Standing::Healthy));
    assert_eq!(healed.admits(until), Admission::Yes);

    let (mut worse, until) = ejected(instant());
    worse.admits(until);
    let Some(Standing::Ejected { until: again }) = worse.observe(APP, until, &mut rng()) else {
        panic!("a failed probe did not eject");
    };
    assert!(again - until > EJECTION_MIN);
}

#[test]
fn a_probe_that_says_nothing_lets_another_go() {
    let (mut outlier, until) = ejected(instant());
    outlier.admits(until);
    assert_eq!(outlier.observe(Outcome::Failure(Origin::Gateway), until, &mut rng()), None);
    assert_eq!(outlier.admits(until), Admission::Probe);
}

#[test]
fn penalties_double_to_thirty_seconds_and_healthy_time_forgives_them() {
    assert_eq!([0, 1, 2, 3, 4, 5, 40].map(|n| penalty(n).as_secs()), [1, 2, 4, 8, 16, 30, 30]);
    let (mut outlier, mut now) = ejected(instant());
    for _ in 0..3 {
        let Some(Standing::Ejected { until }) = outlier.observe(REFUSED, now, &mut rng()) else {
            panic!("not on probation");
        };
        now = until;
    }
    assert_eq!(outlier.ejections(), 4);
    outlier.observe(Outcome::Success, now, &mut rng());
    for (seconds, left) in [(9, 4), (10, 3), (25, 2), (40, 0)] {
        outlier.observe(Outcome::Success, now + Duration::from_secs(seconds), &mut rng());
        assert_eq!(outlier.ejections(), left, "after {seconds} s");
    }
}

#[test]
fn the_ledger_remembers_only_those_something_speaks_against() {
    let (mut outliers, mut rng, now) = (Outliers::new(), rng(), instant());
    for key in 0..100u32 {
        outliers.observe(&key, Outcome::Success, now, &mut rng);
    }
    assert!(outliers.is_empty());
    for _ in 0..3 {
        outliers.observe(&7, REFUSED, now, &mut rng);
    }
    outliers.observe(&8, REFUSED, now, &mut rng);
    outliers.observe(&8, Outcome::Success, now, &mut rng);
    assert_eq!(outliers.len(), 1);
    let until = outliers.next_change(now).expect("7 is ejected");
    assert_eq!(outliers.admits(&8, now), Admission::Yes);
    assert_eq!(outliers.unhealthy(until).collect::<Vec<_>>(), [(&7, Standing::Probation)]);
}

#[test]
fn five_cut_connections_in_a_row_eject_and_a_first_word_does_not_end_the_row() {
    let (mut outlier, mut rng, now) = (Outlier::new(), rng(), instant());
    for _ in 0..4 {
        assert_eq!(outlier.observe(Outcome::Success, now, &mut rng), None);
        assert_eq!(outlier.observe(Outcome::Cut, now, &mut rng), None);
    }
    outlier.observe(Outcome::Whole, now, &mut rng);
    for _ in 0..4 {
        assert_eq!(
            outlier.observe(Outcome::Cut, now, &mut rng),
            None,
            "one that ended in peace ends the row"
        );
    }
    let Some(Standing::Ejected { until }) = outlier.observe(Outcome::Cut, now, &mut rng) else {
        panic!("five cuts did not eject");
    };
    assert_eq!(outlier.admits(until), Admission::Probe);
    assert_eq!(outlier.observe(Outcome::Whole, until, &mut rng), None, "of a connection from before");
    assert_eq!(outlier.observe(Outcome::Success, until, &mut rng), Some(Standing::Healthy));
    let again = outlier.observe(Outcome::Cut, until, &mut rng);
    assert!(matches!(again, Some(Standing::Ejected { .. })), "one is enough until it is forgiven");
}

#[test]
fn who_cut_a_connection_comes_after_others_for_a_second() {
    let (mut outliers, mut rng, now) = (Outliers::new(), rng(), instant());
    outliers.observe(&1, Outcome::Success, now, &mut rng);
    outliers.observe(&1, Outcome::Cut, now, &mut rng);
    outliers.observe(&1, Outcome::Success, now, &mut rng);
    outliers.observe(&1, Outcome::Whole, now, &mut rng);
    let line = |outliers: &mut Outliers<u8>, at| {
        let mut line = vec![1, 2, 3];
        outliers.line_up(&mut line, |key| *key, |_| false, at);
        line
    };
    assert_eq!(line(&mut outliers, now), [2, 3, 1]);
    assert_eq!(line(&mut outliers, now + AVOIDED_AFTER_CUT), [1, 2, 3]);
    let mut alone = vec![1];
    outliers.line_up(&mut alone, |key| *key, |_| false, now);
    assert_eq!(alone, [1], "better than none");
}

#[test]
fn the_ledger_never_outgrows_its_cap() {
    let (mut outliers, mut rng, now) = (Outliers::new(), rng(), instant());
    for key in 0..OUTLIERS_MAX + 10 {
        outliers.observe(&key, REFUSED, now, &mut rng);
    }
    assert_eq!(outliers.len(), OUTLIERS_MAX);
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Success),
        1 => Just(Outcome::Unknown),
        1 => Just(Outcome::Whole),
        2 => Just(Outcome::Cut),
        6 => prop_oneof![
            Just(Origin::Gateway), Just(Origin::Refused), Just(Origin::Timeout),
            Just(Origin::Policy), Just(Origin::Limit), Just(Origin::App),
        ].prop_map(Outcome::Failure),
    ]
}

proptest! {
    #[test]
    fn none_that_is_ejected_avoided_or_not_ready_comes_before_one_that_is_none_of_it(
        history in proptest::collection::vec((0u8..6, outcomes(), 0u64..400), 0..80),
        unready in proptest::collection::btree_set(0u8..6, 0..6), turn in 0usize..6, seed in any::<u64>(),
    ) {
        let (mut outliers, mut rng, mut now) = (Outliers::new(), StdRng::seed_from_u64(seed), instant());
        for (key, outcome, pause) in history {
            now += Duration::from_millis(pause);
            outliers.observe(&key, outcome, now, &mut rng);
        }
        let good = |outliers: &Outliers<u8>, key: &u8| {
            !unready.contains(key) && !outliers.is_avoided(key, now) && outliers.state(key, now) == Standing::Healthy
        };
        let mut line: Vec<u8> = (0..6).collect();
        line.rotate_left(turn);
        let turns = line.clone();
        outliers.line_up(&mut line, |key| *key, |key| unready.contains(key), now);
        // Whose turn it is, if it is good or on probation, is the first.
        let probation = |key: &u8| !unready.contains(key) && outliers.state(key, now) == Standing::Probation;
        prop_assert!(!good(&outliers, &turns[0]) || line[0] == turns[0]);
        let after_first = usize::from(probation(&line[0]));
        let bad = line[after_first..].iter().position(|key| !good(&outliers, key)).unwrap_or(line.len());
        prop_assert!(!line[after_first..].iter().skip(bad).any(|key| good(&outliers, key)), "{:?}", line);
        line.sort_unstable();
        prop_assert_eq!(line, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn admission_and_standing_always_agree(
        steps in proptest::collection::vec((outcomes(), 0u64..4_000), 1..200), seed in any::<u64>(),
    ) {
        let (mut outlier, mut rng, mut now) = (Outlier::new(), StdRng::seed_from_u64(seed), instant());
        for (outcome, pause) in steps {
            now += Duration::from_millis(pause);
            let state = outlier.state(now);
            match (outlier.admits(now), state) {
                (Admission::Yes, Standing::Healthy) | (Admission::Probe, Standing::Probation) => {}
                (Admission::No { until }, Standing::Ejected { until: same }) => prop_assert_eq!(until, same),
                (Admission::No { until }, Standing::Probation) => prop_assert!(until > now),
                other => prop_assert!(false, "{:?}", other),
            }
            let change = outlier.observe(outcome, now, &mut rng);
            prop_assert_eq!(change.is_some(), outlier.state(now) != state);
            if let Some(Standing::Ejected { until }) = change {
                prop_assert!(until - now <= EJECTION_MAX && until - now >= EJECTION_MIN.mul_f64(0.8));
            }
        }
    }
}
