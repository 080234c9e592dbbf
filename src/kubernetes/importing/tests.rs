//! What stands in the API server for an import.

use super::*;
use crate::model::{
    catalog::{InternalTrafficPolicy, Port, Row, Traffic, TrafficDistribution, ZoneReady},
    ids::{ClusterId, ExportId, Locality, Timestamp},
    import::{Freshness, merge},
};

fn import(ports: &[(&str, u16)]) -> Import {
    let ports = ports.iter().map(|(name, number)| Port {
        name: (*name).into(),
        number: *number,
        protocol: Protocol::Tcp,
        app_protocol: "".into(),
    });
    let row = Row {
        name: ServiceName::parse("shop/web").expect("a name"),
        seq: 1,
        export_id: ExportId([1; 16]),
        ports: ports.collect(),
        zones: vec![ZoneReady { locality: Locality::default(), ready: 1, total: 1 }],
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        created: Timestamp(1),
        headless: false,
        idempotent: false,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    };
    merge(&[(ClusterId::parse("west").expect("an id"), &row, Freshness::Fresh)]).expect("an import")
}

fn key() -> VipKey {
    "shop/web".parse().expect("a key")
}

fn place() -> Place {
    let selector = BTreeMap::from([("app".to_owned(), "tombolo".to_owned())]);
    Place { namespace: "tombolo-system".to_owned(), selector }
}

/// The object as the API server has it, with what it adds by itself.
fn there(object: &Object) -> Written {
    let mut data = object.body.clone();
    let texts = |value: &Value| -> BTreeMap<String, String> {
        let entries = value.as_object().into_iter().flatten();
        entries.map(|(key, text)| (key.clone(), text.as_str().unwrap_or_default().to_owned())).collect()
    };
    let (labels, annotations) = (texts(&data["metadata"]["labels"]), texts(&data["metadata"]["annotations"]));
    data["spec"]["sessionAffinity"] = "None".into();
    Written { labels, annotations, data }
}

#[test]
fn a_port_that_stays_keeps_where_it_leads() {
    let first = entrance_ports(&key(), &import(&[("http", 80)]), None, |_| false);
    let known = Entrance { addresses: Vec::new(), ports: first.clone() };
    let both = import(&[("admin", 81), ("http", 80)]);
    let second = entrance_ports(&key(), &both, Some(&known), |port| port == first[0].listening);
    assert_eq!(second.len(), 2);
    assert!(second.contains(&first[0]));
    let places: BTreeSet<u16> = second.iter().map(|port| port.listening).collect();
    assert_eq!(places.len(), 2);
}

#[test]
fn an_object_stands_until_somebody_changes_it_or_more_is_asked_for() {
    let ports = [EntrancePort { protocol: Protocol::Tcp, number: 80, listening: 12_000 }];
    let object = entrance(&key(), &import(&[("http", 80)]), &ports, &place());
    let written = there(&object);
    assert!(object.stands_as(&written), "defaults are no change");
    let mut changed = written.clone();
    changed.data["spec"]["selector"]["app"] = "another".into();
    assert!(!object.stands_as(&changed));
    let other = [EntrancePort { protocol: Protocol::Tcp, number: 80, listening: 12_001 }];
    assert!(!entrance(&key(), &import(&[("http", 80)]), &other, &place()).stands_as(&written));
}

#[test]
fn a_service_import_waits_for_its_address_and_then_shows_it() {
    let import = import(&[("http", 80)]);
    let waiting = service_import(&import, Given::default());
    assert!(waiting.body["spec"].get("ips").is_none());
    assert_eq!(waiting.status.expect("a status")["conditions"][0]["reason"], "Pending");
    let addresses = ["10.96.1.2".parse().expect("an address")];
    let ready = service_import(&import, Given { addresses: &addresses, ..Given::default() });
    assert_eq!(ready.body["spec"]["ips"], json!(["10.96.1.2"]));
    assert_eq!(ready.body["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(ready.body["spec"]["type"], "ClusterSetIP");
    let status = ready.status.expect("a status");
    assert_eq!(
        (&status["clusters"][0]["cluster"], &status["conditions"][0]["status"]),
        (&json!("west"), &json!("True"))
    );
}

#[test]
fn what_keeps_a_client_stands_on_the_import_and_the_derived_service_until_it_is_gone() {
    let mut kept = import(&[("http", 80)]);
    let ports = [EntrancePort { protocol: Protocol::Tcp, number: 80, listening: 12_000 }];
    let both = |import: &Import| {
        [service_import(import, Given::default()), entrance(&key(), import, &ports, &place())]
    };
    let plain = both(&kept);
    kept.session_affinity = Some(crate::model::catalog::ClientIp { timeout: 600 });
    for (with, without) in both(&kept).iter().zip(&plain) {
        assert_eq!(with.body["spec"]["sessionAffinity"], "ClientIP");
        assert_eq!(
            with.body["spec"]["sessionAffinityConfig"],
            json!({ "clientIP": { "timeoutSeconds": 600 } })
        );
        assert!(without.body["spec"].get("sessionAffinity").is_none());
        assert!(!without.stands_as(&there(with)), "it is written again when it ends");
    }
}

#[test]
fn what_exporters_say_of_the_way_to_endpoints_stands_on_the_import_and_not_on_the_derived_service() {
    let mut import = import(&[("http", 80)]);
    let ports = [EntrancePort { protocol: Protocol::Tcp, number: 80, listening: 12_000 }];
    let plain = service_import(&import, Given::default());
    assert_eq!(plain.body["spec"]["internalTrafficPolicy"], "Cluster", "as each Service has it");
    assert!(plain.body["spec"].get("trafficDistribution").is_none());
    for distribution in TrafficDistribution::ALL {
        import.traffic =
            Traffic { internal_policy: InternalTrafficPolicy::Local, distribution: Some(distribution) };
        let told = service_import(&import, Given::default());
        assert_eq!(told.body["spec"]["internalTrafficPolicy"], "Local");
        assert_eq!(told.body["spec"]["trafficDistribution"], distribution.to_string());
        assert!(!plain.stands_as(&there(&told)), "it is written again when it ends");
        let entrance = entrance(&key(), &import, &ports, &place());
        assert_eq!(entrance.body["spec"]["internalTrafficPolicy"], "Cluster");
        assert!(entrance.body["spec"].get("trafficDistribution").is_none());
    }
}

#[test]
fn ports_that_are_not_served_lead_nowhere_and_are_named() {
    let mut import = import(&[("http", 80), ("dns", 53)]);
    import.ports[1].port.protocol = Protocol::Udp;
    let ports = entrance_ports(&key(), &import, None, |_| false);
    assert_eq!(ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80]);
    let addresses = ["10.96.1.2".parse().expect("an address")];
    let given = Given { addresses: &addresses, ..Given::default() };
    let ready = service_import(&import, given);
    assert_eq!(
        ready.body["spec"]["ports"].as_array().map(Vec::len),
        Some(2),
        "what exporters have stands there"
    );
    let message =
        |object: &Object| object.status.as_ref().expect("a status")["conditions"][0]["message"].clone();
    assert!(message(&ready).as_str().is_some_and(|text| text.contains("53/UDP")));
    import.ports.remove(0);
    let nothing = service_import(&import, Given::default());
    assert!(message(&nothing).as_str().is_some_and(|text| text.contains("none of its ports is TCP")));
}

#[test]
fn a_cluster_without_ipv4_says_why_a_name_has_no_address() {
    let error = "Service \"clusterset-a\" is invalid: spec.ipFamilies[0]: Invalid value: \"IPv4\": not configured on \
                 this cluster";
    assert!(lacks_family(error) && !lacks_family("spec.ports: Required value"));
    let given = Given { no_family: true, ..Given::default() };
    let refused = service_import(&import(&[("http", 80)]), given).status.expect("a status");
    assert_eq!(refused["conditions"][0]["reason"], "IPFamilyNotSupported");
}

#[test]
fn a_slice_names_its_source_and_leads_to_this_cluster() {
    let import = import(&[("http", 80)]);
    let address = |_: &VipKey| Some("10.96.1.2".parse().expect("an address"));
    let slice = slice(&import, &import.clusters[0], &address).expect("a slice");
    assert_eq!(slice.body["metadata"]["labels"][SOURCE_CLUSTER], "west");
    assert_eq!(slice.body["endpoints"][0]["addresses"], json!(["10.96.1.2"]));
    assert_eq!(slice.key.namespace, "shop");
}
