//! What a Service, its slices and its ServiceExport mean together.

use super::*;
use crate::{
    kubernetes::{
        seen::{Service, ServicePort, Slice},
        world::{Change, Said},
    },
    model::{
        catalog::{ClientIp, InternalTrafficPolicy, Protocol, Traffic, TrafficDistribution},
        ids::Timestamp,
        state::export_row,
    },
};

const TRAFFIC: Traffic = Traffic {
    internal_policy: InternalTrafficPolicy::Local,
    distribution: Some(TrafficDistribution::PreferSameZone),
};

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn here() -> Locality {
    Locality::parse("eu/eu-1a").expect("a locality")
}

fn service(form: Form) -> Said {
    let port = ServicePort {
        name: "http".to_owned(),
        protocol: Protocol::Tcp,
        number: 80,
        app_protocol: String::new(),
    };
    Said::Services(Change::Put(
        key("web"),
        Some(Service {
            form,
            ports: vec![port],
            session_affinity: Some(ClientIp { timeout: 600 }),
            traffic: TRAFFIC,
            not_carried: Vec::new(),
        }),
    ))
}

fn declared(uid: &str) -> Said {
    let declared = ServiceExport {
        uid: uid.to_owned(),
        created: Timestamp(7),
        generation: 1,
        labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
        annotations: BTreeMap::from([("owner".to_owned(), "shop".to_owned())]),
        conditions: Vec::new(),
    };
    Said::Exports(Change::Put(key("web"), Some(declared)))
}

fn endpoint(ip: &str, ready: bool) -> SliceEndpoint {
    SliceEndpoint {
        addresses: vec![ip.parse().expect("an address")],
        ready,
        hostname: None,
        host: Some("worker".to_owned()),
        zone: None,
    }
}

fn slice(name: &str, ipv4: bool, port: u16, endpoints: Vec<SliceEndpoint>) -> Said {
    let ports = vec![("http".to_owned(), Protocol::Tcp, port)];
    let slice = Slice { service: "web".to_owned(), ipv4, ports, endpoints };
    Said::Slices(Change::Put(key(name), Some(slice)))
}

const UID: &str = "0f0f0f0f-1111-2222-3333-444444444444";

fn world(said: Vec<Said>) -> World {
    let mut world = World::default();
    for said in said {
        world.take(said);
    }
    world
}

fn exported(world: &World) -> Result<Export, Invalid> {
    export(world, &key("web"), &here()).expect("a ServiceExport")
}

#[test]
fn several_slices_are_one_export_and_only_ready_endpoints_are_connected_to() {
    let world = world(vec![
        service(Form::ClusterIp),
        declared(UID),
        slice("web-1", true, 8080, vec![endpoint("10.0.0.1", true), endpoint("10.0.0.2", false)]),
        slice("web-2", true, 8081, vec![endpoint("10.0.0.3", true)]),
        Said::Hosts(Change::Put(Key::new("", "worker"), Locality::parse("eu/eu-1b").ok())),
    ]);
    let export = exported(&world).expect("valid");
    let to: Vec<String> = export.ports[0].to.iter().map(ToString::to_string).collect();
    assert_eq!(to, ["10.0.0.1:8080", "10.0.0.3:8081"]);
    assert_eq!(export.created, Timestamp(7));
    assert_eq!(export.session_affinity, Some(ClientIp { timeout: 600 }));
    let row = export_row(&export, &here(), crate::model::ids::ExportId([0; 16]));
    let zones: Vec<_> =
        row.zones.iter().map(|zone| (zone.locality.to_string(), zone.ready, zone.total)).collect();
    assert_eq!(zones, [("eu/eu-1b".to_owned(), 2, 3)]);
    assert_eq!((export.traffic, row.traffic), (TRAFFIC, TRAFFIC));
    assert_eq!((row.labels["tier"].as_str(), row.annotations["owner"].as_str()), ("front", "shop"));
}

#[test]
fn a_service_of_two_families_counts_each_endpoint_once() {
    let world = world(vec![
        service(Form::ClusterIp),
        declared(UID),
        slice("web-6", false, 8080, vec![endpoint("fd00::1", true)]),
        slice("web-4", true, 8080, vec![endpoint("10.0.0.1", true)]),
    ]);
    let export = exported(&world).expect("valid");
    assert_eq!(export.endpoints.len(), 1);
    assert!(export.ports[0].to.iter().all(SocketAddr::is_ipv4));
}

#[test]
fn what_cannot_be_exported_says_why() {
    let missing = world(vec![declared(UID)]);
    assert_eq!(exported(&missing), Err(Invalid::NoService));
    let elsewhere = world(vec![declared(UID), service(Form::ExternalName)]);
    assert_eq!(exported(&elsewhere), Err(Invalid::ServiceType));
    assert!(export(&world(vec![service(Form::ClusterIp)]), &key("web"), &here()).is_none(), "not exported");
}

#[test]
fn a_service_export_made_again_is_another_life_of_the_export() {
    let of = |uid| exported(&world(vec![service(Form::Headless), declared(uid)])).expect("valid");
    let (first, second) = (of(UID), of("0f0f0f0f-1111-2222-3333-555555555555"));
    assert!(first.headless);
    assert_ne!(first.incarnation, second.incarnation);
    assert_eq!(first.incarnation, of(UID).incarnation);
}
