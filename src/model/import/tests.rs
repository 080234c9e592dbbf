//! The merge rules of KEP-1645, one by one, and the laws that hold for any set of rows.

use proptest::{collection, option, prelude::*, sample};

use super::*;
use crate::model::{
    catalog::{InternalTrafficPolicy, TrafficDistribution},
    ids::Locality,
};

fn cluster(id: &str) -> ClusterId {
    ClusterId::parse(id).expect("label")
}

fn port(name: &str, number: u16, protocol: Protocol) -> Port {
    Port { name: name.into(), number, protocol, app_protocol: "".into() }
}

fn row(created: u64, ports: &[Port]) -> Row {
    Row {
        name: ServiceName::parse("shop/web").expect("name"),
        seq: 1,
        export_id: ExportId([7; 16]),
        ports: ports.to_vec(),
        zones: vec![ZoneReady { locality: Locality::default(), ready: 1, total: 1 }],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: Timestamp(created),
        headless: false,
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}

fn endpoint(hostname: &str, ready: bool) -> HeadlessEndpoint {
    HeadlessEndpoint {
        hostname: ServiceLabel::parse(hostname).expect("label"),
        locality: Locality::default(),
        ready,
    }
}

fn merged(offers: &[(&str, &Row)]) -> Import {
    let offers: Vec<_> = offers.iter().map(|(id, row)| (cluster(id), *row, Freshness::Fresh)).collect();
    merge(&offers).expect("somebody exports")
}

fn reasons(import: &Import) -> Vec<ConflictReason> {
    import.conflicts.iter().map(|conflict| conflict.reason).collect()
}

/// `name:number@cluster+cluster` of each port.
fn ports_of(import: &Import) -> Vec<String> {
    let text = |entry: &ImportPort| {
        let clusters: Vec<_> = entry.clusters.iter().map(ClusterId::as_str).collect();
        format!("{}:{}/{}@{}", entry.port.name, entry.port.number, entry.port.protocol, clusters.join("+"))
    };
    import.ports.iter().map(text).collect()
}

#[test]
fn nobody_exporting_is_no_import() {
    assert_eq!(merge(&[]), None);
    let row = row(1, &[]);
    assert_eq!(merge(&[(cluster("east"), &row, Freshness::Withdrawn)]), None);
}

#[test]
fn equal_exports_have_no_conflict() {
    let (east, west) =
        (row(1, &[port("http", 80, Protocol::Tcp)]), row(2, &[port("http", 80, Protocol::Tcp)]));
    let import = merged(&[("west", &west), ("east", &east)]);
    assert_eq!(import.conflict_reason(), "NoConflicts");
    assert_eq!(ports_of(&import), ["http:80/tcp@east+west"]);
}

#[test]
fn the_oldest_export_wins_and_the_cluster_id_breaks_a_tie() {
    let (mut young, mut old) = (row(20, &[]), row(10, &[]));
    young.labels.insert("team".into(), "young".into());
    old.labels.insert("team".into(), "old".into());
    old.annotations.insert("note".into(), "old".into());
    old.headless = true;
    let import = merged(&[("east", &young), ("west", &old)]);
    assert_eq!(import.labels["team"], "old");
    assert_eq!(import.annotations["note"], "old");
    assert!(import.headless);
    assert_eq!(
        import.conflict_reason(),
        "TypeConflict,LabelsConflict,AnnotationsConflict",
        "{:?}",
        import.conflicts
    );

    young.created = old.created;
    assert_eq!(merged(&[("west", &old), ("east", &young)]).labels["team"], "young");
}

#[test]
fn the_oldest_says_whether_clients_are_kept_and_for_how_long() {
    let (mut old, mut young) = (row(1, &[]), row(2, &[]));
    old.session_affinity = Some(ClientIp { timeout: 600 });
    let import = merged(&[("east", &young), ("west", &old)]);
    assert_eq!(import.session_affinity, Some(ClientIp { timeout: 600 }));
    assert_eq!(reasons(&import), [ConflictReason::SessionAffinityConflict]);
    young.session_affinity = Some(ClientIp::default());
    let import = merged(&[("east", &young), ("west", &old)]);
    assert_eq!(reasons(&import), [ConflictReason::SessionAffinityConfigConflict]);
    assert_eq!(
        import.conflicts[0].message,
        "the timeouts of session affinity of east differ from those of west, the oldest export; the oldest's holds"
    );
    young.session_affinity = old.session_affinity;
    assert!(merged(&[("east", &young), ("west", &old)]).conflicts.is_empty());
}

#[test]
fn the_oldest_says_how_its_endpoints_are_reached() {
    let (mut old, mut young) = (row(1, &[]), row(2, &[]));
    old.traffic.internal_policy = InternalTrafficPolicy::Local;
    young.traffic.distribution = Some(TrafficDistribution::PreferSameZone);
    let import = merged(&[("east", &young), ("west", &old)]);
    assert_eq!(import.traffic, old.traffic);
    assert_eq!(import.conflict_reason(), "InternalTrafficPolicyConflict,TrafficDistributionConflict");
    assert_eq!(
        import.conflicts[0].message,
        "the internal traffic policies of east differ from those of west, the oldest export; \
         the ServiceImport says Local"
    );
    assert!(import.conflicts[1].message.ends_with("the ServiceImport says none"));
    // The same to who follows it, but not the same value: the standard compares values.
    old.traffic.distribution = Some(TrafficDistribution::PreferClose);
    young.traffic.internal_policy = InternalTrafficPolicy::Local;
    let import = merged(&[("east", &young), ("west", &old)]);
    assert_eq!(reasons(&import), [ConflictReason::TrafficDistributionConflict]);
    assert!(import.conflicts[0].message.ends_with("the ServiceImport says PreferClose"));
    young.traffic = old.traffic;
    assert!(merged(&[("east", &young), ("west", &old)]).conflicts.is_empty());
}

#[test]
fn a_conflict_names_both_sides() {
    let (old, young) = (row(1, &[port("http", 80, Protocol::Tcp)]), row(2, &[]));
    let import = merged(&[("east", &old), ("west", &young), ("north", &young)]);
    assert_eq!(reasons(&import), [ConflictReason::PortConflict]);
    assert_eq!(
        import.conflicts[0].message,
        "the ports of north and west differ from those of east, the oldest export; \
         each port is served by the clusters that expose it"
    );
}

#[test]
fn different_ports_are_a_union_and_each_goes_to_who_exposes_it() {
    let old = row(1, &[port("http", 80, Protocol::Tcp), port("dns", 53, Protocol::Udp)]);
    let young = row(2, &[port("http", 80, Protocol::Tcp), port("dns-tcp", 53, Protocol::Tcp)]);
    let import = merged(&[("east", &old), ("west", &young)]);
    assert_eq!(ports_of(&import), ["http:80/tcp@east+west", "dns:53/udp@east", "dns-tcp:53/tcp@west"]);
    assert_eq!(reasons(&import), [ConflictReason::PortConflict]);
}

#[test]
fn the_same_port_name_with_another_number_goes_to_the_oldest_only() {
    let (old, young) =
        (row(1, &[port("hello", 42, Protocol::Tcp)]), row(2, &[port("hello", 43, Protocol::Tcp)]));
    let import = merged(&[("west", &young), ("east", &old)]);
    assert_eq!(ports_of(&import), ["hello:42/tcp@east"]);
    assert_eq!(reasons(&import), [ConflictReason::PortConflict]);
}

#[test]
fn the_same_number_under_another_name_keeps_the_older_name() {
    let (old, young) =
        (row(1, &[port("web", 80, Protocol::Tcp)]), row(2, &[port("http", 80, Protocol::Tcp)]));
    assert_eq!(ports_of(&merged(&[("west", &young), ("east", &old)])), ["web:80/tcp@east+west"]);
}

#[test]
fn the_empty_port_name_counts_as_a_name() {
    let (old, young) = (row(1, &[port("", 80, Protocol::Tcp)]), row(2, &[port("", 81, Protocol::Tcp)]));
    assert_eq!(ports_of(&merged(&[("east", &old), ("west", &young)])), [":80/tcp@east"]);
}

#[test]
fn stale_rows_count_and_withdrawn_rows_do_not() {
    let row = row(1, &[port("http", 80, Protocol::Tcp)]);
    let offers = [
        (cluster("east"), &row, Freshness::Stale),
        (cluster("west"), &row, Freshness::Withdrawn),
        (cluster("north"), &row, Freshness::Fresh),
    ];
    let import = merge(&offers).expect("two export");
    let parts: Vec<_> = import.clusters.iter().map(|part| (part.cluster.as_str(), part.freshness)).collect();
    assert_eq!(parts, [("east", Freshness::Stale), ("north", Freshness::Fresh)]);
    assert_eq!(ports_of(&import), ["http:80/tcp@east+north"]);
}

#[test]
fn idempotence_is_each_clusters_own() {
    let (mut old, young) = (row(1, &[]), row(2, &[]));
    old.idempotent = true;
    let import = merged(&[("east", &old), ("west", &young)]);
    assert_eq!(import.clusters.iter().map(|part| part.idempotent).collect::<Vec<_>>(), [true, false]);
    assert!(import.conflicts.is_empty());
}

#[test]
fn endpoints_are_sorted_and_listed_once() {
    let mut row = row(1, &[]);
    row.headless = true;
    row.endpoints = vec![endpoint("web-1", false), endpoint("web-0", false), endpoint("web-0", true)];
    let import = merged(&[("east", &row)]);
    assert_eq!(import.clusters[0].endpoints, [endpoint("web-0", true), endpoint("web-1", false)]);
    assert_eq!(import.ready_endpoints().count(), 1);
    let one = ServiceLabel::parse("web-1").expect("label");
    assert_eq!(import.clusters[0].endpoint(&one), Some(&endpoint("web-1", false)));

    row.headless = false;
    assert_eq!(merged(&[("east", &row)]).ready_endpoints().count(), 0);
}

#[test]
fn a_row_of_another_name_is_no_part_of_it() {
    let (old, mut young) = (row(1, &[]), row(2, &[]));
    young.name = ServiceName::parse("shop/other").expect("name");
    assert_eq!(merged(&[("east", &old), ("west", &young)]).clusters.len(), 1);
}

fn any_port() -> impl Strategy<Value = Port> {
    let protocol = sample::select(vec![Protocol::Tcp, Protocol::Udp]);
    (sample::select(vec!["", "a", "b", "c"]), 80_u16..84, protocol)
        .prop_map(|(name, number, protocol)| port(name, number, protocol))
}

fn any_row() -> impl Strategy<Value = (Row, Freshness)> {
    let freshness = sample::select(vec![Freshness::Fresh, Freshness::Stale, Freshness::Withdrawn]);
    let endpoints = collection::vec((sample::select(vec!["e0", "e1", "e2"]), any::<bool>()), 0..4);
    let distribution = sample::select(TrafficDistribution::ALL.to_vec());
    let policy = sample::select(vec![InternalTrafficPolicy::Cluster, InternalTrafficPolicy::Local]);
    let traffic = (policy, option::of(distribution))
        .prop_map(|(internal_policy, distribution)| Traffic { internal_policy, distribution });
    let shape = (collection::vec(any_port(), 0..5), any::<bool>(), 0_u8..2);
    (0_u64..4, shape, traffic, endpoints, freshness).prop_map(
        |(created, (ports, headless, label), traffic, endpoints, freshness)| {
            let mut row = row(created, &ports);
            row.headless = headless;
            row.labels.insert("l".into(), label.to_string());
            row.traffic = traffic;
            row.session_affinity = headless.then_some(ClientIp { timeout: 60 + u32::from(label) });
            row.endpoints = endpoints.into_iter().map(|(name, ready)| endpoint(name, ready)).collect();
            (row, freshness)
        },
    )
}

fn any_offers() -> impl Strategy<Value = Vec<(ClusterId, Row, Freshness)>> {
    collection::btree_map("[a-f]", any_row(), 0..6).prop_map(|rows| {
        rows.into_iter().map(|(id, (row, freshness))| (cluster(&id), row, freshness)).collect()
    })
}

fn borrowed(offers: &[(ClusterId, Row, Freshness)]) -> Vec<(ClusterId, &Row, Freshness)> {
    offers.iter().map(|(id, row, freshness)| (id.clone(), row, *freshness)).collect()
}

proptest! {
    #[test]
    fn order_and_repetition_change_nothing(
        (offers, shuffled) in any_offers().prop_flat_map(|offers| (Just(offers.clone()), Just(offers).prop_shuffle())),
    ) {
        let once = merge(&borrowed(&offers));
        let twice = [borrowed(&shuffled), borrowed(&offers)].concat();
        prop_assert_eq!(merge(&borrowed(&shuffled)), once.clone());
        prop_assert_eq!(merge(&twice), once);
    }

    #[test]
    fn a_younger_export_only_adds(offers in any_offers(), young in any_row()) {
        let before = merge(&borrowed(&offers));
        let mut more = offers.clone();
        let (mut row, freshness) = young;
        row.created = Timestamp(100);
        more.push((cluster("z"), row, freshness));
        let after = merge(&borrowed(&more));
        if let Some(before) = before {
            let after = after.expect("still exported");
            prop_assert_eq!((after.headless, &after.labels), (before.headless, &before.labels));
            prop_assert_eq!((after.session_affinity, after.traffic), (before.session_affinity, before.traffic));
            prop_assert_eq!(&after.clusters[..before.clusters.len()], &before.clusters[..]);
            for (old, new) in before.ports.iter().zip(&after.ports) {
                prop_assert_eq!(&old.port, &new.port);
                prop_assert!(new.clusters.starts_with(&old.clusters));
            }
            prop_assert!(reasons(&before).iter().all(|reason| reasons(&after).contains(reason)));
        }
    }

    #[test]
    fn ports_are_unique_and_go_only_to_clusters_that_expose_them(offers in any_offers()) {
        if let Some(import) = merge(&borrowed(&offers)) {
            let names: BTreeSet<_> = import.ports.iter().map(|entry| &entry.port.name).collect();
            let numbers: BTreeSet<_> =
                import.ports.iter().map(|entry| (entry.port.protocol, entry.port.number)).collect();
            prop_assert_eq!((names.len(), numbers.len()), (import.ports.len(), import.ports.len()));
            for entry in &import.ports {
                prop_assert!(!entry.clusters.is_empty());
                for id in &entry.clusters {
                    let part = import.cluster(id).expect("a counted cluster");
                    let same = |port: &Port| {
                        (port.protocol, port.number) == (entry.port.protocol, entry.port.number)
                    };
                    prop_assert!(part.ports.iter().any(same));
                }
            }
            prop_assert!(import.clusters.iter().all(|part| part.freshness != Freshness::Withdrawn));
        }
    }
}
