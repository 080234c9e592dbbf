//! The ledger's own promises; the rules behind its figures are tested where they stand.

use std::time::Duration;

use super::*;
use crate::model::{
    ids::Timestamp, limits::EVENTS_KEPT_MAX, open::Origin, outlier::Outcome, virtual_ip::BindingState,
};

fn ledger() -> Ledger {
    Ledger::new(Clock::simulated(1, Timestamp(0)))
}

fn service() -> ServiceName {
    ServiceName::parse("default/web").expect("a name")
}

fn west() -> ClusterId {
    ClusterId::parse("west").expect("an id")
}

fn key() -> OutlierKey {
    OutlierKey { cluster: west(), service: service(), port: 80 }
}

#[tokio::test(start_paused = true)]
async fn the_epoch_changes_when_a_plan_would() {
    let ledger = ledger();
    let mut seen = ledger.health_epoch();
    for _ in 0..2 {
        ledger.observe(&key(), Outcome::Failure(Origin::Refused));
        assert!(!seen.has_changed().expect("open"), "nothing is ejected yet");
    }
    ledger.observe(&key(), Outcome::Failure(Origin::Refused));
    assert!(seen.has_changed().expect("open"));
    assert!(matches!(ledger.standing(&key(), ledger.now()), Standing::Ejected { .. }));
    seen.mark_unchanged();
    ledger.observe_rtt(&west(), Duration::from_millis(3));
    assert!(seen.has_changed().expect("open"), "a first measurement sets the band");
    seen.mark_unchanged();
    ledger.observe_rtt(&west(), Duration::from_millis(4));
    assert!(!seen.has_changed().expect("open"));
    assert_eq!(ledger.bands().get(&west()), Some(&Band::NEAREST));
}

#[tokio::test(start_paused = true)]
async fn a_bad_endpoint_never_ejects_what_the_source_sees() {
    let ledger = ledger();
    let endpoint = (service(), 80, "127.0.0.1:1".parse().expect("an address"));
    for _ in 0..3 {
        ledger.observe_endpoint(&endpoint, Outcome::Failure(Origin::Refused));
    }
    assert_eq!(ledger.unhealthy_endpoints().len(), 1);
    assert!(ledger.unhealthy().is_empty());
    ledger.forget(&service());
    assert!(ledger.unhealthy_endpoints().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_under_way_costs_until_it_ends() {
    let ledger = ledger();
    let target = Target::Peer(west());
    ledger.observe_latency(&target, Duration::from_millis(10));
    let (one, two) = (ledger.begin(&target), ledger.begin(&target));
    assert_eq!((ledger.in_flight(&target), ledger.cost(&target)), (2, 30_000_000));
    drop((one, two));
    assert_eq!((ledger.in_flight(&target), ledger.cost(&target)), (0, 10_000_000));
}

#[tokio::test(start_paused = true)]
async fn bindings_are_seen_as_they_were_published() {
    let ledger = ledger();
    let ip = Ipv4Addr::new(127, 77, 0, 2);
    let binding =
        Binding { ip, protocol: Protocol::Tcp, port: 80, bound_port: 20_080, state: BindingState::Listening };
    ledger.bind(binding);
    let before = ledger.bindings();
    ledger.unbind(ip, Protocol::Tcp, 80);
    assert_eq!(before.get(&(ip, Protocol::Tcp, 80)), Some(&binding));
    assert!(ledger.bindings().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_so_many_events_are_remembered_and_none_is_told_twice() {
    let ledger = ledger();
    for number in 0..=EVENTS_KEPT_MAX {
        ledger.note("test", number.to_string());
    }
    let all = ledger.noted(0);
    assert_eq!((all.len(), all[0].text.as_str()), (EVENTS_KEPT_MAX, "1"));
    let last = all.last().expect("some").number;
    assert!(ledger.noted(last).is_empty());
}
