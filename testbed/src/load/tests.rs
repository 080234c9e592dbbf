//! Loads against servers whose misbehaviour is known: the counts must be exact.

use super::*;
use crate::server::{self, Defect, Manners, Speech};

async fn against(
    kind: Kind,
    defects: &'static [&'static str],
    requests: u64,
    deadline_ms: u64,
) -> (Account, u64) {
    let defects: Vec<Defect> = defects.iter().map(|text| text.parse().unwrap()).collect();
    let manners = Manners::new("west".to_owned(), defects);
    let speech = match kind.port_name() {
        "http" => Speech::Http,
        "echo" => Speech::Echo,
        _ => Speech::Greet,
    };
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, speech, Arc::clone(&manners)));
    let rps = 400.0;
    let plan = Plan {
        kind,
        target,
        rps,
        connections: 20,
        duration: Span(Duration::from_secs_f64(requests as f64 / rps)),
        deadline: Span::from_millis(deadline_ms),
        late: Span::from_millis(1_000),
        bulk_bytes: 10_000,
    };
    let outcome = run(plan, |_| {}).await.unwrap();
    let sums = outcome.account;
    assert_eq!(sums.issued, requests);
    assert_eq!(sums.issued, sums.ok + sums.retried + sums.failed + sums.unanswered);
    (sums, manners.requests())
}

const EVERY_KIND: [Kind; 5] =
    [Kind::HttpKeepalive, Kind::HttpPerConnection, Kind::Bulk, Kind::LongTcp, Kind::ServerFirst];

/// All kinds at once, each against a server of its own.
async fn every_kind(
    defects: &'static [&'static str],
    requests: u64,
    deadline_ms: u64,
) -> Vec<(Kind, Account, u64)> {
    let runs = EVERY_KIND.map(|kind| (kind, tokio::spawn(against(kind, defects, requests, deadline_ms))));
    let mut all = Vec::new();
    for (kind, run) in runs {
        let (sums, seen) = run.await.unwrap();
        all.push((kind, sums, seen));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_well_behaved_server_gives_only_ok() {
    for (kind, sums, seen) in every_kind(&[], 200, 10_000).await {
        assert_eq!((sums.ok, sums.reset, seen), (200, 0, 200), "{kind:?} {sums:?}");
        assert_eq!(sums.clusters.get("west"), Some(&200), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_drops_every_hundredth_request_costs_exactly_so_many_retries() {
    for (kind, sums, seen) in every_kind(&["drop:100"], 400, 10_000).await {
        assert_eq!(seen, 404, "{kind:?}: 400 requests and 4 retries");
        assert_eq!(
            (sums.ok, sums.retried, sums.failed, sums.unanswered),
            (396, 4, 0, 0),
            "{kind:?} {sums:?}"
        );
        assert_eq!(sums.reset, 4);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_every_hundredth_request_leaves_exactly_so_many_unanswered() {
    for (kind, sums, _) in every_kind(&["stall:100"], 400, 1_500).await {
        assert_eq!(
            (sums.ok, sums.retried, sums.failed, sums.unanswered),
            (396, 0, 0, 4),
            "{kind:?} {sums:?}"
        );
        assert!(sums.latency_ms.max >= 1_500.0, "{kind:?}: the unanswered are in the percentiles");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_truncates_is_never_taken_for_a_success() {
    for (kind, sums, _) in every_kind(&["truncate:100"], 400, 10_000).await {
        assert_eq!((sums.ok, sums.retried), (396, 4), "{kind:?} {sums:?}");
        assert_eq!(sums.troubles.get("truncated"), Some(&4), "{kind:?} {sums:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_answers_are_late_and_refusals_that_repeat_are_failures() {
    let (sums, _) = against(Kind::HttpKeepalive, &["slow:100:1200ms"], 300, 10_000).await;
    assert_eq!((sums.ok, sums.late), (300, 3), "{sums:?}");
    let (sums, _) = against(Kind::HttpPerConnection, &["error:1"], 50, 10_000).await;
    assert_eq!((sums.failed, sums.ok), (50, 0), "{sums:?}");
    assert_eq!(sums.troubles.get("status 503, then status 503"), Some(&50));
}
