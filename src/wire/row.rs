//! Rows of a catalog, to the wire and back.

use std::{collections::BTreeMap, sync::Arc};

use federation_proto::v1;

use super::{WireError, at_most};
use crate::model::{
    catalog::{
        ClientIp, HeadlessEndpoint, InternalTrafficPolicy, Port, Protocol, Row, Traffic, TrafficDistribution,
        ZoneReady,
    },
    ids::{ExportId, Locality, Namespace, ServiceLabel, ServiceName, Timestamp},
    limits,
};

/// Longest port name or `appProtocol` taken.
const PORT_TEXT_BYTES_MAX: usize = 63;

/// The name a row or a tombstone is about.
pub(super) fn name(namespace: &str, name: &str) -> Result<ServiceName, WireError> {
    Ok(ServiceName {
        namespace: Namespace::parse(namespace).map_err(WireError::id("namespace"))?,
        name: ServiceLabel::parse(name).map_err(WireError::id("name"))?,
    })
}

/// A row that came in. Quotas are judged by the importer; only absurd sizes are refused here.
pub(super) fn parse(row: v1::Row) -> Result<Row, WireError> {
    at_most("ports", row.ports.len(), limits::PORTS_PER_SERVICE_MAX * 8)?;
    at_most("zones", row.zones.len(), limits::ZONES_PER_SERVICE_MAX * 8)?;
    at_most("endpoints", row.endpoints.len(), limits::ENDPOINTS_PER_SERVICE_MAX * 8)?;
    Ok(Row {
        name: name(&row.namespace, &row.name)?,
        seq: row.seq,
        export_id: ExportId::from_slice(&row.export_id).map_err(WireError::id("export_id"))?,
        ports: row.ports.into_iter().map(port).collect::<Result<_, _>>()?,
        zones: row.zones.into_iter().map(zone).collect::<Result<_, _>>()?,
        labels: labels("labels", row.labels.into_iter())?,
        annotations: labels("annotations", row.annotations.into_iter())?,
        created: Timestamp(
            u64::try_from(row.created_unix_ms).map_err(|_| WireError::Range("created_unix_ms"))?,
        ),
        headless: row.headless,
        idempotent: row.idempotent,
        session_affinity: affinity(row.client_ip_seconds),
        traffic: traffic(row.internal_traffic_local, row.traffic_distribution),
        endpoints: row.endpoints.into_iter().map(endpoint).collect::<Result<_, _>>()?,
    })
}

/// A row that goes out.
pub(super) fn proto(row: &Row) -> v1::Row {
    v1::Row {
        namespace: row.name.namespace.to_string(),
        name: row.name.name.to_string(),
        seq: row.seq,
        deleted: false,
        export_id: row.export_id.0.to_vec(),
        ports: row.ports.iter().map(port_proto).collect(),
        zones: row.zones.iter().map(zone_proto).collect(),
        labels: row.labels.clone().into_iter().collect(),
        annotations: row.annotations.clone().into_iter().collect(),
        created_unix_ms: i64::try_from(row.created.0).unwrap_or(i64::MAX),
        headless: row.headless,
        idempotent: row.idempotent,
        client_ip_seconds: row.session_affinity.map_or(0, |client| client.timeout),
        endpoints: row.endpoints.iter().map(endpoint_proto).collect(),
        internal_traffic_local: row.traffic.internal_policy == InternalTrafficPolicy::Local,
        traffic_distribution: row
            .traffic
            .distribution
            .map_or_else(i32::default, |it| distribution_proto(it).into()),
        kind: 0,
    }
}

/// What keeps clients with an endpoint is no reason to lose a row: a time beyond reason is cut.
fn affinity(seconds: u32) -> Option<ClientIp> {
    (seconds > 0).then_some(ClientIp { timeout: seconds.min(ClientIp::TIMEOUT_MAX) })
}

/// Only told, so it is no reason to lose a row either: what this release does not know counts as not said.
fn traffic(local: bool, distribution: i32) -> Traffic {
    let distribution = match v1::TrafficDistribution::try_from(distribution) {
        Ok(v1::TrafficDistribution::PreferClose) => Some(TrafficDistribution::PreferClose),
        Ok(v1::TrafficDistribution::PreferSameZone) => Some(TrafficDistribution::PreferSameZone),
        Ok(v1::TrafficDistribution::PreferSameNode) => Some(TrafficDistribution::PreferSameNode),
        Ok(v1::TrafficDistribution::Unspecified) | Err(_) => None,
    };
    let internal_policy = if local { InternalTrafficPolicy::Local } else { InternalTrafficPolicy::Cluster };
    Traffic { internal_policy, distribution }
}

fn distribution_proto(distribution: TrafficDistribution) -> v1::TrafficDistribution {
    match distribution {
        TrafficDistribution::PreferClose => v1::TrafficDistribution::PreferClose,
        TrafficDistribution::PreferSameZone => v1::TrafficDistribution::PreferSameZone,
        TrafficDistribution::PreferSameNode => v1::TrafficDistribution::PreferSameNode,
    }
}

fn labels(
    field: &'static str,
    map: impl ExactSizeIterator<Item = (String, String)>,
) -> Result<BTreeMap<String, String>, WireError> {
    at_most(field, map.len(), limits::LABELS_PER_SERVICE_MAX * 8)?;
    Ok(map.collect())
}

fn port(port: v1::Port) -> Result<Port, WireError> {
    at_most("port.name", port.name.len(), PORT_TEXT_BYTES_MAX)?;
    at_most("port.app_protocol", port.app_protocol.len(), PORT_TEXT_BYTES_MAX)?;
    let protocol = match port.protocol() {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Unspecified => return Err(WireError::Missing("port.protocol")),
    };
    let number = u16::try_from(port.number).ok().filter(|number| *number != 0);
    Ok(Port {
        name: Arc::from(port.name),
        number: number.ok_or(WireError::Range("port.number"))?,
        protocol,
        app_protocol: Arc::from(port.app_protocol),
    })
}

fn port_proto(port: &Port) -> v1::Port {
    let protocol = match port.protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
    };
    v1::Port {
        name: port.name.to_string(),
        number: port.number.into(),
        protocol: protocol.into(),
        app_protocol: port.app_protocol.to_string(),
    }
}

/// A locality that came in; a missing one is the unknown locality.
pub fn locality(locality: Option<v1::Locality>) -> Result<Locality, WireError> {
    let locality = locality.unwrap_or_default();
    let text = if locality.zone.is_empty() {
        locality.region
    } else {
        format!("{}/{}", locality.region, locality.zone)
    };
    Locality::parse(&text).map_err(WireError::id("locality"))
}

/// A locality that goes out.
#[must_use]
pub fn locality_proto(locality: &Locality) -> v1::Locality {
    v1::Locality { region: locality.region.to_string(), zone: locality.zone.to_string() }
}

fn zone(zone: v1::ZoneReady) -> Result<ZoneReady, WireError> {
    Ok(ZoneReady { locality: locality(zone.locality)?, ready: zone.ready, total: zone.total.max(zone.ready) })
}

fn zone_proto(zone: &ZoneReady) -> v1::ZoneReady {
    v1::ZoneReady { locality: Some(locality_proto(&zone.locality)), ready: zone.ready, total: zone.total }
}

fn endpoint(endpoint: v1::HeadlessEndpoint) -> Result<HeadlessEndpoint, WireError> {
    Ok(HeadlessEndpoint {
        hostname: ServiceLabel::parse(&endpoint.hostname).map_err(WireError::id("endpoint.hostname"))?,
        locality: locality(endpoint.locality)?,
        ready: endpoint.ready,
    })
}

fn endpoint_proto(endpoint: &HeadlessEndpoint) -> v1::HeadlessEndpoint {
    v1::HeadlessEndpoint {
        hostname: endpoint.hostname.to_string(),
        locality: Some(locality_proto(&endpoint.locality)),
        ready: endpoint.ready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row of a peer that knows of nothing but what the first release had.
    fn bare() -> v1::Row {
        v1::Row {
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            export_id: vec![7; 16],
            ..v1::Row::default()
        }
    }

    #[test]
    fn what_is_said_of_the_way_to_endpoints_arrives_and_what_is_not_known_counts_as_not_said() {
        let mut row = parse(bare()).expect("an old peer's row");
        assert!(row.traffic.is_default());
        for internal_policy in [InternalTrafficPolicy::Cluster, InternalTrafficPolicy::Local] {
            for distribution in TrafficDistribution::ALL.map(Some).into_iter().chain([None]) {
                row.traffic = Traffic { internal_policy, distribution };
                assert_eq!(parse(proto(&row)).expect("a row"), row);
            }
        }
        for strange in [4, -1, i32::MIN, i32::MAX] {
            let later = v1::Row { traffic_distribution: strange, ..bare() };
            assert!(parse(later).expect("no reason to lose it").traffic.is_default());
        }
    }

    #[test]
    fn what_keeps_clients_arrives_and_a_peer_that_knows_nothing_of_it_keeps_nobody() {
        let bare = bare();
        let mut row = parse(bare.clone()).expect("an old peer's row");
        assert_eq!(row.session_affinity, None);
        row.session_affinity = Some(ClientIp { timeout: 600 });
        assert_eq!(parse(proto(&row)).expect("a row"), row);
        let beyond = v1::Row { client_ip_seconds: u32::MAX, ..bare };
        let cut = parse(beyond).expect("no reason to lose it").session_affinity;
        assert_eq!(cut, Some(ClientIp { timeout: ClientIp::TIMEOUT_MAX }));
    }
}
