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
        streams: 0,
        stream_target: None,
        downloads: 0,
        nonce: 7,
    };
    let outcome = run(plan, |_| {}).await.unwrap();
    let sums = outcome.account;
    assert_eq!(sums.issued, requests);
    assert_eq!(sums.issued, sums.ok + sums.retried + sums.failed + sums.unanswered);
    (sums, manners.requests())
}

const EVERY_KIND: [Kind; 6] =
    [Kind::HttpKeepalive, Kind::HttpPerConnection, Kind::Bulk, Kind::File, Kind::LongTcp, Kind::ServerFirst];

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_downloads_beside_the_requests_are_counted_apart() {
    let manners = Manners::new("west".to_owned(), Vec::new());
    let http = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let echo = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (target, stream_target) = (http.local_addr().unwrap(), echo.local_addr().ok());
    tokio::spawn(server::serve(http, Speech::Http, Arc::clone(&manners)));
    tokio::spawn(server::serve(echo, Speech::Echo, manners));
    let plan = Plan {
        kind: Kind::HttpKeepalive,
        target,
        rps: 50.0,
        connections: 2,
        duration: Span::from_millis(1_000),
        deadline: Span::from_millis(5_000),
        late: Span::from_millis(1_000),
        bulk_bytes: 10_000,
        streams: 5,
        stream_target,
        downloads: 1,
        nonce: 7,
    };
    let outcome = run(plan, |_| {}).await.unwrap();
    assert_eq!(outcome.account.ok, 50);
    assert_eq!(outcome.streams.iter().filter(|stream| stream.end == End::Kept).count(), 5);
    assert!(outcome.downloads.whole > 0 && outcome.downloads.broken == 0, "{:?}", outcome.downloads);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_writes_down_the_id_of_every_try() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("ids");
    let ids = std::fs::File::options().create(true).append(true).open(&path).unwrap();
    let manners = Manners::recording("west".to_owned(), vec!["reset:10".parse().unwrap()], Some(ids));
    let listener = server::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let target = listener.local_addr().unwrap();
    tokio::spawn(server::serve(listener, Speech::Http, manners));
    let plan = Plan {
        kind: Kind::HttpPerConnection,
        target,
        rps: 100.0,
        connections: 0,
        duration: Span::from_millis(400),
        deadline: Span::from_millis(5_000),
        late: Span::from_millis(1_000),
        bulk_bytes: 0,
        streams: 0,
        stream_target: None,
        downloads: 0,
        nonce: 7,
    };
    let sums = run(plan, |_| {}).await.unwrap().account;
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let tries = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), tries, "each try has an id of its own");
    assert_eq!(tries as u64, 40 + sums.reset, "{sums:?}");
    assert!(sums.retried > 0 && sums.failed == 0, "{sums:?}");
}
