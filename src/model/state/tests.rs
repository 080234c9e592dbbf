//! What events do to the state, and what is derived from them.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::model::{
    catalog::{ExportPort, ExportSource, Port, Protocol, Traffic, ZoneReady},
    ids::Incarnation,
    limits,
    replication::RowChange,
    trust::{
        Bundle,
        tests::{bundle_of, root_of},
    },
    virtual_ip::VipKey,
};

const START: Timestamp = Timestamp(1_800_000_000_000);

fn later(after: Duration) -> Timestamp {
    START.after(after)
}

fn id(text: &str) -> ClusterId {
    ClusterId::parse(text).expect("a cluster id")
}

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("a service name")
}

/// One bundle for all: whose roots they are is not judged here.
fn bundle() -> Bundle {
    static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| bundle_of(1, &[&root_of("any.tombolo").0]));
    BUNDLE.clone()
}

fn state() -> State {
    let me = Me {
        cluster: id("east"),
        trust_domain: TrustDomain::parse("east.tombolo").expect("a trust domain"),
        gateway: GatewayId::parse("g1").expect("a gateway id"),
        locality: Locality::parse("eu/eu-1").expect("a locality"),
    };
    let range = "127.77.0.0/24".parse().expect("a network");
    State::new(
        me,
        Settings { introductions: true, ..Settings::default() },
        VirtualIps::new(range).expect("fits"),
    )
}

fn peer(cluster: &str, standing: Standing) -> Peer {
    Peer {
        cluster: id(cluster),
        trust_domain: TrustDomain::parse(&format!("{cluster}.tombolo")).expect("a trust domain"),
        bundle: bundle(),
        endpoints: vec!["192.0.2.1:7443".to_owned()],
        generation: 1,
        standing,
        introduced_by: None,
        issuer: false,
        added: START,
        ruling: Default::default(),
    }
}

fn port(number: u16) -> Port {
    Port { name: "http".into(), number, protocol: Protocol::Tcp, app_protocol: "".into() }
}

fn export(service: &str, to: &[&str]) -> Export {
    Export {
        name: name(service),
        ports: vec![ExportPort {
            port: port(80),
            to: to.iter().map(|address| address.parse().expect("an address")).collect(),
            health: None,
        }],
        endpoints: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        labels: BTreeMap::new(),
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        headless: false,
        created: START,
        incarnation: Incarnation([1; 16]),
        source: ExportSource::State,
    }
}

fn row(service: &str, seq: Seq) -> Row {
    Row {
        name: name(service),
        seq,
        export_id: ExportId([7; 16]),
        ports: vec![port(80)],
        zones: vec![ZoneReady { locality: Locality::default(), ready: 1, total: 1 }],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: START,
        headless: false,
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}

fn rows(cluster: &str, rows: Vec<Row>) -> Event {
    let rows = rows.into_iter().map(|row| RowChange::Row(Arc::new(row))).collect();
    Event::Catalog(CatalogChange { peer: id(cluster), position: None, rows, swept: Vec::new() })
}

fn clusters_of(state: &State, service: &str) -> Vec<String> {
    let import = state.imports.get(&name(service));
    import
        .map(|import| import.clusters.iter().map(|part| part.cluster.to_string()).collect())
        .unwrap_or_default()
}

#[test]
fn an_export_is_an_import_of_this_cluster_too_and_has_an_address() {
    let mut state = state();
    assert!(state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080", "127.0.0.1:8081"])), START));
    assert_eq!(clusters_of(&state, "shop/web"), ["east"]);
    assert_eq!(state.imports[&name("shop/web")].clusters[0].ready(), 2);
    assert!(state.virtual_ips.get(&VipKey::Service(name("shop/web"))).is_some());
}

#[test]
fn the_same_export_again_changes_nothing() {
    let mut state = state();
    state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), START);
    let version = state.version;
    assert!(!state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), START));
    assert_eq!(state.version, version);
}

/// One `[[import]]` about everybody.
fn import_rule(names: &str, alias: Option<&str>, merge: bool) -> crate::model::policy::ImportRule {
    use crate::model::policy::{ImportAction, ImportRule, NamePattern, PeerPattern};
    ImportRule {
        names: vec![NamePattern::parse(names).expect("a pattern")],
        peers: vec![PeerPattern::parse("*").expect("a pattern")],
        action: ImportAction::Allow,
        alias: alias.map(name),
        merge,
    }
}

fn with_rules(imports: Vec<crate::model::policy::ImportRule>) -> Event {
    Event::Settings(Settings { introductions: true, imports, ..Settings::default() })
}

#[test]
fn an_alias_is_the_name_here_and_follows_its_rule() {
    let mut state = state();
    state.apply(Event::Peer(peer("west", Standing::Approved)), START);
    state.apply(with_rules(vec![import_rule("shop/web", Some("shop/theirs"), true)]), START);
    state.apply(rows("west", vec![row("shop/web", 1)]), START);
    assert_eq!(clusters_of(&state, "shop/theirs"), ["west"]);
    assert!(clusters_of(&state, "shop/web").is_empty());
    state.apply(with_rules(vec![import_rule("shop/web", Some("shop/other"), true)]), START);
    assert!(clusters_of(&state, "shop/theirs").is_empty());
    assert_eq!(clusters_of(&state, "shop/other"), ["west"]);
    state.apply(with_rules(Vec::new()), START);
    assert_eq!((clusters_of(&state, "shop/web").len(), clusters_of(&state, "shop/other").len()), (1, 0));
}

#[test]
fn an_import_that_is_kept_apart_stands_aside_for_those_that_merge() {
    let mut state = state();
    state.apply(Event::Peer(peer("west", Standing::Approved)), START);
    state.apply(with_rules(vec![import_rule("shop/web", None, false)]), START);
    state.apply(rows("west", vec![row("shop/web", 1)]), START);
    assert_eq!(clusters_of(&state, "shop/web"), ["west"], "alone it is served");
    state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), START);
    assert_eq!(clusters_of(&state, "shop/web"), ["east"]);
    state.apply(Event::Unexported(name("shop/web")), START);
    assert_eq!(clusters_of(&state, "shop/web"), ["west"]);
}

#[test]
fn a_paused_or_removed_peer_serves_no_name() {
    use crate::model::peering::{Outcome, Verb, decide};
    for verb in [Verb::Pause, Verb::Remove, Verb::Revoke] {
        let mut state = state();
        state.apply(Event::Peer(peer("west", Standing::Approved)), START);
        state.apply(rows("west", vec![row("shop/web", 1)]), START);
        assert_eq!(clusters_of(&state, "shop/web"), ["west"]);
        let Ok(Outcome::Changed(ended)) = decide(verb, &state.peers[&id("west")], Vec::new(), START) else {
            panic!("{verb} changed nothing")
        };
        state.apply(Event::Peer(*ended), START);
        assert!(clusters_of(&state, "shop/web").is_empty(), "{verb}");
        state.apply(Event::PeerForgotten(id("west")), START);
        assert!(state.peers.is_empty() && state.catalogs.is_empty());
    }
}

#[test]
fn rows_of_a_stranger_are_nobodys() {
    let mut state = state();
    assert!(!state.apply(rows("west", vec![row("shop/web", 1)]), START));
    assert!(state.imports.is_empty());
}

#[test]
fn rows_of_an_introduced_peer_count_once_it_is_approved() {
    let mut state = state();
    state.apply(Event::Peer(peer("west", Standing::Pending)), START);
    state.apply(rows("west", vec![row("shop/web", 1)]), START);
    assert!(state.imports.is_empty());
    state.apply(Event::Standing(id("west"), Standing::Approved), START);
    assert_eq!(clusters_of(&state, "shop/web"), ["west"]);
    state.apply(Event::Standing(id("west"), Standing::Distrusted), START);
    assert!(state.imports.is_empty(), "a distrusted peer's names are gone at once");
}

#[test]
fn a_lost_catalog_goes_stale_then_withdrawn_then_is_forgotten() {
    let mut state = state();
    state.apply(Event::Peer(peer("west", Standing::Approved)), START);
    state.apply(rows("west", vec![row("shop/web", 1)]), START);
    state.apply(Event::CatalogSynced(id("west"), (Epoch([1; 16]), 1)), START);
    state.apply(Event::SessionLost(id("west")), START);
    let freshness = |state: &State| state.imports.get(&name("shop/web")).map(|i| i.clusters[0].freshness);
    state.apply(Event::Tick, later(Duration::from_secs(59)));
    assert_eq!(freshness(&state), Some(Freshness::Fresh));
    state.apply(Event::Tick, later(limits::CATALOG_STALE_AFTER));
    assert_eq!(freshness(&state), Some(Freshness::Stale));
    state.apply(Event::Tick, later(limits::CATALOG_WITHDRAWN_AFTER));
    assert_eq!(freshness(&state), None, "withdrawn rows make no import");
    assert!(state.catalogs.contains_key(&id("west")), "they may come back");
    state
        .apply(Event::CatalogSynced(id("west"), (Epoch([1; 16]), 1)), later(limits::CATALOG_WITHDRAWN_AFTER));
    assert_eq!(freshness(&state), Some(Freshness::Fresh));
    state.apply(Event::SessionLost(id("west")), later(limits::CATALOG_WITHDRAWN_AFTER));
    state.apply(Event::Tick, later(limits::CATALOG_WITHDRAWN_AFTER + limits::CATALOG_FORGOTTEN_AFTER));
    assert!(!state.catalogs.contains_key(&id("west")));
    assert!(state.peers.contains_key(&id("west")), "the peer itself stays");
}

#[test]
fn a_virtual_ip_outlives_its_service_by_a_day() {
    let mut state = state();
    state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), START);
    let key = VipKey::Service(name("shop/web"));
    let first = state.virtual_ips.get(&key);
    state.apply(Event::Unexported(name("shop/web")), START);
    assert!(state.imports.is_empty());
    state.apply(Event::Tick, later(limits::VIRTUAL_IP_KEPT - Duration::from_secs(1)));
    state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), later(limits::VIRTUAL_IP_KEPT));
    assert_eq!(state.virtual_ips.get(&key), first);
}

#[test]
fn a_sink_is_told_only_what_differs() {
    let mut state = state();
    state.apply(Event::Exported(export("shop/web", &["127.0.0.1:8080"])), START);
    let seen = state.clone();
    assert!(state.changes_since(&seen).is_empty());
    state.apply(Event::Exported(export("shop/cart", &["127.0.0.1:8081"])), START);
    let changes = state.changes_since(&seen);
    assert_eq!(changes.imports.into_iter().collect::<Vec<_>>(), [name("shop/cart")]);
    assert_eq!(changes.exports.into_iter().collect::<Vec<_>>(), [name("shop/cart")]);
    assert!(changes.peers.is_empty());
}

#[test]
fn a_headless_export_has_an_address_for_each_endpoint() {
    let mut state = state();
    let headless = Export { headless: true, ..export("shop/db", &["127.0.0.1:5432", "127.0.0.2:5432"]) };
    state.apply(Event::Exported(headless), START);
    let import = &state.imports[&name("shop/db")];
    let hosts: Vec<_> = import.ready_endpoints().map(|(_, endpoint)| endpoint.hostname.to_string()).collect();
    assert_eq!(hosts, ["127-0-0-1", "127-0-0-2"]);
    assert_eq!(state.virtual_ips.iter().count(), 2);
}

#[test]
fn endpoint_hostnames_are_labels() {
    for ip in ["127.0.0.1", "::1", "fe80::", "2001:db8::5"] {
        let text = endpoint_hostname(ip.parse().expect("an address"));
        assert!(ServiceLabel::parse(&text).is_ok(), "{text}");
    }
}

proptest! {
    /// Whatever order changes of different names come in, the same imports result.
    #[test]
    fn the_order_of_unrelated_changes_does_not_matter(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle()) {
        let events = |index: usize| match index {
            0 => Event::Exported(export("a/one", &["127.0.0.1:1"])),
            1 => Event::Exported(export("a/two", &["127.0.0.1:2"])),
            2 => rows("west", vec![row("a/one", 1)]),
            3 => rows("west", vec![row("a/three", 2)]),
            4 => rows("north", vec![row("a/two", 1)]),
            _ => rows("north", vec![row("a/three", 3)]),
        };
        let run = |order: &[usize]| {
            let mut state = state();
            state.apply(Event::Peer(peer("west", Standing::Approved)), START);
            state.apply(Event::Peer(peer("north", Standing::Approved)), START);
            for index in order {
                state.apply(events(*index), START);
            }
            state.imports
        };
        prop_assert_eq!(run(&order), run(&[0, 1, 2, 3, 4, 5]));
    }

    /// A change of one peer's rows asks only those that stand in the import; asking everybody says the same.
    #[test]
    fn merging_what_changed_is_merging_all(changes in prop::collection::vec((0..3usize, 0..2usize, any::<bool>()), 0..12)) {
        let mut state = state();
        let clusters = ["north", "south", "west"];
        for (cluster, standing) in clusters.iter().zip([Standing::Approved, Standing::Pending, Standing::Approved]) {
            state.apply(Event::Peer(peer(cluster, standing)), START);
        }
        state.apply(Event::Exported(export("a/one", &["127.0.0.1:1"])), START);
        for (seq, (cluster, service, comes)) in (1..).zip(changes) {
            let service = ["a/one", "a/two"][service];
            let change = if comes {
                RowChange::Row(Arc::new(row(service, seq)))
            } else {
                RowChange::Tombstone { name: name(service), seq }
            };
            let peer = id(clusters[cluster]);
            let change = CatalogChange { peer, position: None, rows: vec![change], swept: Vec::new() };
            state.apply(Event::Catalog(change), START);
        }
        let mut anew = state.clone();
        let introductions = !anew.settings.introductions;
        anew.apply(Event::Settings(Settings { introductions, ..Settings::default() }), START);
        prop_assert_eq!(state.imports, anew.imports);
    }
}
