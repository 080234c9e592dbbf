//! The rule for opens, case by case and as laws.

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

/// An attempt on a good link of 40 ms, just sent, with somewhere else to go.
fn attempt(state: OpenState) -> Attempt {
    Attempt {
        state,
        idempotent: false,
        link: LinkState::Up,
        elapsed: Duration::ZERO,
        open_for: Duration::ZERO,
        pto: 70 * MS,
        client_bytes: 100,
        tried: 1,
        more_candidates: true,
        other_in_flight: false,
        over_budget: false,
    }
}

const SILENT: OpenState = OpenState::Unanswered { bytes_written: false };
const SENT: OpenState = OpenState::Unanswered { bytes_written: true };
const REFUSED: OpenState = OpenState::Refused { origin: Origin::Refused };

#[test]
fn connected_is_carried_whatever_else() {
    let late = Attempt { link: LinkState::Suspect, open_for: 60_000 * MS, ..attempt(OpenState::Connected) };
    assert_eq!(next_step(&late), Step::Carry);
}

#[test]
fn unsent_and_refused_go_to_the_next_candidate() {
    for state in [OpenState::Unsent, REFUSED] {
        assert_eq!(next_step(&attempt(state)), Step::TryNext);
    }
}

#[test]
fn the_last_refusal_resets_the_client_with_its_origin() {
    let last = Attempt { more_candidates: false, ..attempt(REFUSED) };
    assert_eq!(next_step(&last), Step::Reset(ResetReason::Refused(Origin::Refused)));
    assert_eq!(next_step(&Attempt { other_in_flight: true, ..last }), Step::GiveWay);
    let unsent = Attempt { more_candidates: false, ..attempt(OpenState::Unsent) };
    assert_eq!(next_step(&unsent), Step::Reset(ResetReason::NoCandidate));
}

#[test]
fn a_silent_attempt_is_hedged_after_300_ms_or_two_ptos() {
    let at = |pto, elapsed| next_step(&Attempt { pto: pto * MS, elapsed: elapsed * MS, ..attempt(SILENT) });
    assert_eq!(at(70, 0), Step::Wait(300 * MS));
    assert_eq!(at(70, 299), Step::Wait(MS));
    assert_eq!(at(70, 300), Step::Hedge);
    assert_eq!(at(250, 499), Step::Wait(MS));
    assert_eq!(at(250, 500), Step::Hedge);
}

#[test]
fn there_is_one_hedge_at_a_time() {
    let hedged = Attempt { elapsed: 400 * MS, other_in_flight: true, ..attempt(SILENT) };
    assert!(matches!(next_step(&hedged), Step::Wait(_)));
}

#[test]
fn without_budget_nothing_is_hedged_and_what_is_in_doubt_still_goes_on() {
    let silent = Attempt { idempotent: true, elapsed: 400 * MS, over_budget: true, ..attempt(SENT) };
    assert!(matches!(next_step(&silent), Step::Wait(_)));
    assert_eq!(next_step(&Attempt { link: LinkState::Suspect, ..silent }), Step::TryNext);
    assert_eq!(next_step(&Attempt { state: REFUSED, ..silent }), Step::TryNext);
}

#[test]
fn sent_bytes_are_never_hedged_unless_idempotent() {
    let sent = Attempt { elapsed: 5_000 * MS, open_for: 5_000 * MS, ..attempt(SENT) };
    assert_eq!(next_step(&sent), Step::Wait(5_000 * MS));
    assert_eq!(next_step(&Attempt { idempotent: true, ..sent }), Step::Hedge);
}

#[test]
fn suspicion_moves_what_may_be_moved_and_resets_the_rest() {
    let suspect = |state| Attempt { link: LinkState::Suspect, elapsed: 100 * MS, ..attempt(state) };
    assert_eq!(next_step(&suspect(SILENT)), Step::TryNext);
    assert_eq!(next_step(&Attempt { idempotent: true, ..suspect(SENT) }), Step::TryNext);
    assert_eq!(next_step(&suspect(SENT)), Step::Reset(ResetReason::Unanswered));
}

#[test]
fn with_nowhere_else_to_go_a_suspect_link_is_given_its_time() {
    let alone = Attempt { link: LinkState::Suspect, more_candidates: false, ..attempt(SENT) };
    assert_eq!(next_step(&alone), Step::Wait(OPEN_TIMEOUT));
    let down = Attempt { link: LinkState::Down, ..alone };
    assert_eq!(next_step(&down), Step::Reset(ResetReason::Unanswered));
    assert_eq!(next_step(&Attempt { state: SILENT, ..down }), Step::Reset(ResetReason::NoCandidate));
}

#[test]
fn tries_bytes_and_time_are_bounded() {
    let spent = [
        Attempt { tried: CANDIDATES_TRIED_MAX, ..attempt(REFUSED) },
        Attempt { client_bytes: FIRST_BYTES_MAX + 1, ..attempt(REFUSED) },
        Attempt { open_for: OPEN_TIMEOUT, ..attempt(REFUSED) },
    ];
    for attempt in spent {
        assert_eq!(next_step(&attempt), Step::Reset(ResetReason::Refused(Origin::Refused)), "{attempt:?}");
    }
    let late = Attempt { open_for: OPEN_TIMEOUT, ..attempt(SILENT) };
    assert_eq!(next_step(&late), Step::Reset(ResetReason::Timeout));
}

#[test]
fn only_idempotent_bytes_are_written_while_two_attempts_race() {
    assert!(may_write_first_bytes(false, 1) && may_write_first_bytes(true, 2));
    assert!(!may_write_first_bytes(false, 2));
}

fn states() -> impl Strategy<Value = OpenState> {
    let origins =
        [Origin::Gateway, Origin::Refused, Origin::Timeout, Origin::Policy, Origin::Limit, Origin::App];
    prop_oneof![
        Just(OpenState::Unsent),
        proptest::sample::select(origins.to_vec()).prop_map(|origin| OpenState::Refused { origin }),
        any::<bool>().prop_map(|bytes_written| OpenState::Unanswered { bytes_written }),
        Just(OpenState::Connected),
    ]
}

fn attempts() -> impl Strategy<Value = Attempt> {
    let links = proptest::sample::select(vec![LinkState::Up, LinkState::Suspect, LinkState::Down]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let numbers = (0u64..12_000, 0u64..12_000, 26u64..2_000, 0usize..70_000, 1usize..10);
    (states(), links, flags, numbers).prop_map(|(state, link, flags, numbers)| Attempt {
        state,
        link,
        idempotent: flags.0,
        more_candidates: flags.1,
        other_in_flight: flags.2,
        over_budget: flags.3,
        elapsed: Duration::from_millis(numbers.0.min(numbers.1)),
        open_for: Duration::from_millis(numbers.1),
        pto: Duration::from_millis(numbers.2),
        client_bytes: numbers.3,
        tried: numbers.4,
    })
}

proptest! {
    #[test]
    fn bytes_that_may_have_arrived_never_go_twice(attempt in attempts()) {
        let sent = attempt.state == OpenState::Unanswered { bytes_written: true };
        if sent && !attempt.idempotent {
            prop_assert!(!matches!(next_step(&attempt), Step::TryNext | Step::Hedge));
        }
    }

    #[test]
    fn a_further_try_always_has_somewhere_to_go_and_its_bytes(attempt in attempts()) {
        if matches!(next_step(&attempt), Step::TryNext | Step::Hedge) {
            prop_assert!(attempt.more_candidates && attempt.tried < CANDIDATES_TRIED_MAX);
            prop_assert!(attempt.client_bytes <= FIRST_BYTES_MAX && attempt.open_for < OPEN_TIMEOUT);
        }
    }

    #[test]
    fn what_can_be_saved_is_never_reset(attempt in attempts()) {
        let lost = matches!(next_step(&attempt), Step::Reset(_));
        let can_go_on = attempt.more_candidates && attempt.tried < CANDIDATES_TRIED_MAX
            && attempt.client_bytes <= FIRST_BYTES_MAX && attempt.open_for < OPEN_TIMEOUT;
        let replayable = attempt.idempotent || attempt.state != (OpenState::Unanswered { bytes_written: true });
        prop_assert!(!(lost && (attempt.other_in_flight || can_go_on && replayable)));
    }

    #[test]
    fn waiting_always_makes_progress_and_ends_with_the_open(attempt in attempts()) {
        if let Step::Wait(time) = next_step(&attempt) {
            prop_assert!(!time.is_zero() && attempt.open_for + time <= OPEN_TIMEOUT);
        }
    }
}
