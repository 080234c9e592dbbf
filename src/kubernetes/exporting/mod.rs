//! From a ServiceExport, its Service and its EndpointSlices to an export of this cluster. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{
    seen::{Form, Key, ServiceExport, SliceEndpoint},
    world::World,
};
use crate::model::{
    catalog::{Export, ExportEndpoint, ExportPort, ExportSource, Port},
    ids::{Incarnation, Locality, ServiceLabel},
    policy::{self, Reason},
};

/// Why a ServiceExport exports nothing: the reasons of its condition `Valid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Invalid {
    /// There is no Service of that name.
    NoService,
    /// The Service is a name elsewhere.
    ServiceType,
    /// The name may not leave the cluster.
    Refused(Reason),
    /// A name that is no name for us.
    Name(String),
}

/// What the ServiceExport at `key` means; none when there is no such object.
pub(super) fn export(world: &World, key: &Key, here: &Locality) -> Option<Result<Export, Invalid>> {
    let declared = world.exports.get(key)?;
    Some(of_service(world, key, declared, here))
}

fn of_service(
    world: &World,
    key: &Key,
    declared: &ServiceExport,
    here: &Locality,
) -> Result<Export, Invalid> {
    let name = key.service().map_err(|error| Invalid::Name(error.to_string()))?;
    let decision = policy::may_export(&name);
    if !decision.allowed {
        return Err(Invalid::Refused(decision.reason));
    }
    let service = world.services.get(key).ok_or(Invalid::NoService)?;
    if service.form == Form::ExternalName {
        return Err(Invalid::ServiceType);
    }
    let ports = service.ports.iter().map(|port| {
        let to = addresses(world, key, &port.name, port.protocol);
        let port = Port {
            name: port.name.as_str().into(),
            number: port.number,
            protocol: port.protocol,
            app_protocol: port.app_protocol.as_str().into(),
        };
        ExportPort { port, to, health: None }
    });
    Ok(Export {
        name,
        ports: ports.collect(),
        endpoints: endpoints(world, key, here),
        labels: declared.labels.clone(),
        annotations: declared.annotations.clone(),
        idempotent: false,
        session_affinity: service.session_affinity,
        traffic: service.traffic,
        headless: service.form == Form::Headless,
        created: declared.created,
        incarnation: incarnation(&declared.uid),
        source: ExportSource::Kubernetes,
    })
}

/// A ServiceExport that is deleted and made again is another one: its uid says so.
fn incarnation(uid: &str) -> Incarnation {
    let digits = uid.replace('-', "").to_lowercase();
    let bytes = data_encoding::HEXLOWER.decode(digits.as_bytes()).ok();
    let exact = bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
    Incarnation(exact.unwrap_or_else(|| {
        // No API server gives such a uid; any stable bytes do.
        let mut folded = [0; 16];
        for (at, byte) in uid.bytes().enumerate() {
            folded[at % 16] ^= byte;
        }
        folded
    }))
}

/// A Service of both families has its endpoints in slices of each; one family is enough to count and to
/// connect to: IPv4 where there is one.
fn family(world: &World, key: &Key) -> bool {
    world.slices_of(key).any(|slice| slice.ipv4 && !slice.endpoints.is_empty())
}

/// Where ready endpoints listen for a port, from all slices together.
fn addresses(
    world: &World,
    key: &Key,
    port: &str,
    protocol: crate::model::catalog::Protocol,
) -> Vec<SocketAddr> {
    let ipv4 = family(world, key);
    let mut found: Vec<SocketAddr> = Vec::new();
    for slice in world.slices_of(key).filter(|slice| slice.ipv4 == ipv4) {
        let listening = slice.ports.iter().find(|(name, spoken, _)| name == port && *spoken == protocol);
        let Some((_, _, number)) = listening else { continue };
        let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
        let ips = ready.filter_map(|endpoint| endpoint.addresses.first());
        found.extend(ips.map(|ip| SocketAddr::new(*ip, *number)));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Every endpoint once; one that stands in two slices is ready when either says so.
fn endpoints(world: &World, key: &Key, here: &Locality) -> Vec<ExportEndpoint> {
    let ipv4 = family(world, key);
    let mut found: BTreeMap<IpAddr, ExportEndpoint> = BTreeMap::new();
    for slice in world.slices_of(key).filter(|slice| slice.ipv4 == ipv4) {
        for endpoint in &slice.endpoints {
            let Some(ip) = endpoint.addresses.first() else { continue };
            let hostname = endpoint.hostname.as_deref().and_then(|name| ServiceLabel::parse(name).ok());
            let locality = locality(world, endpoint, here);
            let new = ExportEndpoint { ip: *ip, hostname, locality, ready: endpoint.ready };
            let known = found.entry(*ip).or_insert_with(|| new.clone());
            known.ready |= new.ready;
        }
    }
    found.into_values().collect()
}

/// Where an endpoint is: its host's labels, else the zone its slice names, else where this gateway is.
fn locality(world: &World, endpoint: &SliceEndpoint, here: &Locality) -> Locality {
    let host = endpoint.host.as_deref().and_then(|host| world.hosts.get(&Key::new("", host)));
    if let Some(locality) = host.filter(|locality| ***locality != Locality::default()) {
        return (**locality).clone();
    }
    let zone =
        endpoint.zone.as_deref().and_then(|zone| Locality::parse(&format!("{}/{zone}", here.region)).ok());
    zone.unwrap_or_else(|| here.clone())
}

#[cfg(test)]
mod tests;
