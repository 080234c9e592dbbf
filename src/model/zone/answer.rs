//! From a question to an answer: what stands at each place of the zone.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Instant};

use super::{
    Answer, DNS_VERSION, DNS_VERSION_TTL, Data, DnsName, Owner, QueryType, Question, Rcode, Record, Soa,
    ZoneSource, place::Place,
};
use crate::model::{
    catalog::{HeadlessEndpoint, Protocol},
    ids::{ClusterId, ServiceLabel, ServiceName},
    import::{Import, ImportCluster, ImportPort},
    limits,
    virtual_ip::VipKey,
};

/// What stands at a name.
enum Found {
    /// Records of the type that was asked; none when the name exists without that type.
    Records(Vec<Data>),
    /// SRV records, and the addresses of their targets.
    Services(Vec<Data>, Vec<(DnsName, Ipv4Addr)>),
    /// Nothing that we know of.
    Miss,
    /// Nothing, whatever peers may still tell: names of the zone do not look like that.
    Never,
    /// Something whose address is not there yet.
    NotYet,
}

const NO_DATA: Found = Found::Records(Vec::new());

/// Answers one question from the newest state.
///
/// Names outside the zone, `ANY` and transfers are refused. A name that exists without the type has no
/// records and no error; a miss is denied only when it is final (rule 29).
#[must_use]
pub fn answer(question: &Question<'_>, view: &dyn ZoneSource, now: Instant) -> Answer {
    let refused = matches!(question.kind, QueryType::Any | QueryType::Transfer);
    let Some(inside) = view.zone().inside(question.labels).filter(|_| !refused) else {
        return empty(Rcode::Refused);
    };
    let place = Place::of(inside);
    let ttl = if place == Some(Place::Version) { DNS_VERSION_TTL } else { view.ttl() };
    let found = place.map_or(Found::Never, |place| look_up(place, question.kind, view));
    let record = |owner, data| Record { owner, ttl, data };
    let asked = |data: Vec<Data>| data.into_iter().map(|data| record(Owner::Asked, data)).collect();
    match found {
        Found::Records(data) if data.is_empty() => denied(Rcode::NoError, view),
        Found::Records(data) => Answer { authoritative: true, answers: asked(data), ..empty(Rcode::NoError) },
        Found::Services(data, targets) => Answer {
            authoritative: true,
            answers: asked(data),
            additionals: targets
                .into_iter()
                .map(|(name, ip)| record(Owner::Named(name), Data::A(ip)))
                .collect(),
            ..empty(Rcode::NoError)
        },
        Found::Never => denied(Rcode::NxDomain, view),
        Found::Miss if view.synced(now) => denied(Rcode::NxDomain, view),
        Found::Miss | Found::NotYet => empty(Rcode::ServFail),
    }
}

fn empty(rcode: Rcode) -> Answer {
    Answer { rcode, authoritative: false, answers: Vec::new(), soa: None, additionals: Vec::new() }
}

/// With the SOA record, so that the denial is cached as briefly as an answer (RFC 2308).
fn denied(rcode: Rcode, view: &dyn ZoneSource) -> Answer {
    let soa = Record { owner: Owner::Named(view.zone().apex()), ttl: view.ttl(), data: soa(view) };
    Answer { authoritative: true, soa: Some(soa), ..empty(rcode) }
}

fn soa(view: &dyn ZoneSource) -> Data {
    Data::Soa(Soa {
        server: view.zone().child("ns"),
        contact: view.zone().child("hostmaster"),
        serial: view.serial(),
        refresh: 7_200,
        retry: 1_800,
        expire: 86_400,
        minimum: view.ttl(),
    })
}

fn look_up(place: Place<'_>, kind: QueryType, view: &dyn ZoneSource) -> Found {
    let exists = |exists: bool| if exists { NO_DATA } else { Found::Miss };
    match place {
        Place::Apex => match kind {
            QueryType::Soa => Found::Records(vec![soa(view)]),
            QueryType::Ns => Found::Records(vec![Data::Ns(view.zone().child("ns"))]),
            _ => NO_DATA,
        },
        Place::Version if kind == QueryType::Txt => Found::Records(vec![Data::Txt(DNS_VERSION)]),
        Place::Server if kind == QueryType::A => {
            Found::Records(view.server().map(Data::A).into_iter().collect())
        }
        Place::Version | Place::Server | Place::Services => NO_DATA,
        Place::Namespace(namespace) => exists(view.holds(&namespace)),
        Place::Service(name) => at_service(&name, kind, view),
        Place::Transport(name, protocol) => {
            with_ports(&name, QueryType::Other(0), view, |port| port.port.protocol == protocol)
        }
        Place::Port(name, protocol, asked) => with_ports(&name, kind, view, |port| {
            port.port.protocol == protocol && port.port.name.as_bytes().eq_ignore_ascii_case(asked)
        }),
        // Only what has ready endpoints below it: an empty name, but one that must not be denied, since a
        // resolver may take a denial for all that lies below (RFC 8020).
        Place::Cluster(name, cluster) => exists(view.import(&name).is_some_and(|import| {
            import.headless
                && import.cluster(&cluster).is_some_and(|part| part.endpoints.iter().any(|e| e.ready))
        })),
        Place::Endpoint(name, cluster, hostname) => at_endpoint(name, cluster, hostname, kind, view),
    }
}

fn at_service(name: &ServiceName, kind: QueryType, view: &dyn ZoneSource) -> Found {
    let Some(import) = view.import(name) else { return Found::Miss };
    match hosts(import, view) {
        Err(found) => found,
        Ok(hosts) => match kind {
            QueryType::A => Found::Records(hosts.iter().map(|host| Data::A(host.ip)).collect()),
            QueryType::Srv => services(import, &hosts, view, |_| true),
            _ => NO_DATA,
        },
    }
}

/// What stands at a name that exists while the service has a named port that `matches`.
fn with_ports(
    name: &ServiceName,
    kind: QueryType,
    view: &dyn ZoneSource,
    matches: impl Fn(&ImportPort) -> bool,
) -> Found {
    let Some(import) = view.import(name) else { return Found::Miss };
    if !import.ports.iter().any(|port| is_named(port) && matches(port)) {
        return Found::Miss;
    }
    match hosts(import, view) {
        Err(found) => found,
        Ok(hosts) if kind == QueryType::Srv => services(import, &hosts, view, matches),
        Ok(_) => NO_DATA,
    }
}

fn at_endpoint(
    name: ServiceName,
    cluster: ClusterId,
    hostname: ServiceLabel,
    kind: QueryType,
    view: &dyn ZoneSource,
) -> Found {
    let ready = view.import(&name).filter(|import| {
        let part = import.cluster(&cluster).filter(|_| import.headless);
        part.and_then(|part| part.endpoint(&hostname)).is_some_and(|endpoint| endpoint.ready)
    });
    match (ready, kind) {
        (None, _) => Found::Miss,
        (Some(import), QueryType::A) => view
            .virtual_ip(&VipKey::Endpoint(name, cluster, hostname))
            .filter(|ip| is_served(import, *ip, view))
            .map_or(Found::NotYet, |ip| Found::Records(vec![Data::A(ip)])),
        (Some(_), _) => NO_DATA,
    }
}

/// One address that serves an import: the service's, or a ready endpoint's of a headless one.
struct Host<'a> {
    ip: Ipv4Addr,
    endpoint: Option<(&'a ImportCluster, &'a HeadlessEndpoint)>,
}

/// The addresses that serve an import, never an empty list. A headless service without a ready endpoint is
/// a miss (rule 22); any other service has its address whether or not somebody is ready.
fn hosts<'a>(import: &'a Import, view: &dyn ZoneSource) -> Result<Vec<Host<'a>>, Found> {
    if !import.headless {
        let ip = view.virtual_ip(&VipKey::Service(import.name.clone()));
        let ip = ip.filter(|ip| is_served(import, *ip, view)).ok_or(Found::NotYet)?;
        return Ok(vec![Host { ip, endpoint: None }]);
    }
    let mut ready = import.ready_endpoints().peekable();
    if ready.peek().is_none() {
        return Err(Found::Miss);
    }
    let hosts: Vec<_> = ready
        .filter_map(|(part, endpoint)| {
            let key = VipKey::Endpoint(import.name.clone(), part.cluster.clone(), endpoint.hostname.clone());
            let ip = view.virtual_ip(&key).filter(|ip| is_served(import, *ip, view))?;
            Some(Host { ip, endpoint: Some((part, endpoint)) })
        })
        .take(limits::DNS_RECORDS_MAX)
        .collect();
    if hosts.is_empty() { Err(Found::NotYet) } else { Ok(hosts) }
}

/// Whether who is told of an address now finds somebody there: one of its TCP ports has its listener.
fn is_served(import: &Import, ip: Ipv4Addr, view: &dyn ZoneSource) -> bool {
    let mut ports = import.ports.iter().filter(|port| port.port.protocol == Protocol::Tcp).peekable();
    ports.peek().is_none() || ports.any(|port| bound_port(view, ip, port).is_some())
}

/// SRV records of the named ports that `matches`, each once (rules 20, 21 and 24).
fn services(
    import: &Import,
    hosts: &[Host<'_>],
    view: &dyn ZoneSource,
    matches: impl Fn(&ImportPort) -> bool,
) -> Found {
    let mut seen = BTreeSet::new();
    let (mut records, mut targets) = (Vec::new(), Vec::new());
    let mut opening = false;
    for host in hosts {
        let name = match host.endpoint {
            None => Some(view.zone().service(&import.name)),
            Some((part, endpoint)) => {
                view.zone().endpoint(&import.name, &part.cluster, endpoint.hostname.as_str())
            }
        };
        let Some(target) = name else { continue }; // longer than DNS carries; refused at its export
        let before = records.len();
        for port in import.ports.iter().filter(|port| is_named(port) && matches(port)) {
            let exposed = host.endpoint.is_none_or(|(part, _)| port.clusters.contains(&part.cluster));
            if !exposed {
                continue;
            }
            let Some(bound) = bound_port(view, host.ip, port) else {
                opening = true;
                continue;
            };
            if records.len() < limits::DNS_RECORDS_MAX && seen.insert((host.ip, bound)) {
                records.push(Data::Srv { priority: 0, weight: 1, port: bound, target: target.clone() });
            }
        }
        if records.len() > before {
            targets.push((target, host.ip));
        }
    }
    if records.is_empty() && opening { Found::NotYet } else { Found::Services(records, targets) }
}

fn bound_port(view: &dyn ZoneSource, ip: Ipv4Addr, port: &ImportPort) -> Option<u16> {
    let protocol: Protocol = port.port.protocol;
    view.bound_port(ip, protocol, port.port.number)
}

/// Whether a port's name can stand in an SRV record's name, after its underscore (rule 20).
fn is_named(port: &ImportPort) -> bool {
    let name = port.port.name.as_bytes();
    (1..=62).contains(&name.len())
        && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}
