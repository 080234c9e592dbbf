//! What is scraped is what the table promises, and labels stay bounded.

use std::collections::BTreeMap;

use super::*;

fn cluster(id: &str) -> ClusterId {
    ClusterId::parse(id).expect("an id")
}

fn service(name: &str) -> ServiceName {
    ServiceName::parse(name).expect("a name")
}

/// Every family has at least one value.
fn scraped() -> String {
    let metrics = Metrics::new();
    metrics.started(Timestamp(1_800_000_000_000));
    metrics.dns("A", "NOERROR", Duration::from_micros(40));
    let lane = LaneFigures {
        up: true,
        rtt: Duration::from_millis(38),
        loss: 0.25,
        inbound_age: Duration::from_millis(100),
        streams: 3,
    };
    let figures = PeerFigures {
        state: "active",
        imported: 2,
        exported: 1,
        catalog_age: Some(Duration::ZERO),
        lane: Some(lane),
        root_ends_in: Duration::from_secs(60),
    };
    metrics.encode_with(|scrape| {
        scrape.peer(&cluster("west"), &figures);
        scrape.connections(&service("shop/web"), Some(&cluster("west")), "served", 7);
        scrape.connections(&service("shop/web"), None, "no_candidate", 1);
        scrape.opens_waited(&cluster("west"), 4);
        scrape.retries_refused(&service("shop/web"), 3);
        scrape.certificate(Certificate::Svid, &cluster("east"), Duration::from_secs(5));
    })
}

#[test]
fn what_is_scraped_reads_as_open_metrics() {
    // Values of one family come in any order.
    let scraped = scraped();
    let mut lines: Vec<&str> = scraped.lines().filter(|line| !line.starts_with('#')).collect();
    lines.sort_unstable();
    lines.retain(|line| !line.starts_with("tombolo_dns_duration_seconds_bucket"));
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    insta::assert_snapshot!(lines.join("\n").replace(&version, "version=\"RELEASE\""));
    assert!(scraped.ends_with("# EOF\n"));
}

#[test]
fn every_family_of_the_table_is_scraped_with_its_kind_and_labels_and_no_other() {
    let text = scraped();
    let kinds: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE tombolo_")?.split_once(' ')).collect();
    let promised: BTreeMap<&str, &str> =
        FAMILIES.iter().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(kinds, promised);
    for family in FAMILIES.iter().filter(|family| family.kind != Kind::Histogram) {
        let name = family.full_name();
        let line = text
            .lines()
            .find(|line| line.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .unwrap_or_else(|| panic!("{name} has no value"));
        let labels: Vec<&str> = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect())
            .unwrap_or_default();
        assert_eq!(labels, family.labels, "{name}");
    }
}

#[test]
fn what_a_scrape_does_not_set_is_gone() {
    let metrics = Metrics::new();
    let text = metrics.encode_with(|scrape| scrape.peer(&cluster("west"), &PeerFigures::default()));
    assert!(text.contains("tombolo_peer_up{peer=\"west\"} 0"), "{text}");
    assert!(!text.contains("peer_rtt_seconds{"), "no lane, no figures of one");
    assert!(!metrics.encode().contains("west"), "a peer that is gone leaves no figure behind");
}

#[test]
fn beyond_the_bound_services_count_as_one() {
    let text = Metrics::new().encode_with(|scrape| {
        for number in 0..METRIC_SERVICES_MAX + 2 {
            scrape.connections(&service(&format!("shop/s{number}")), None, "limit", 1);
        }
        scrape.connections(&service("shop/s0"), None, "limit", 1);
    });
    let label = |service: &str| format!("{{service=\"{service}\",dst_cluster=\"\",result=\"limit\"}} 2");
    assert!(text.contains(&label("shop/s0")) && text.contains(&label("other")), "{text}");
    assert_eq!(text.matches("tombolo_connections_total{").count(), METRIC_SERVICES_MAX + 1);
}
