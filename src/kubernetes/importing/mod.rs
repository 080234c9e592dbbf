//! From an import to the objects that stand for it in the API server: the ServiceImport, its EndpointSlices
//! and the derived Services. Pure: what is written, and when, is `sink`'s matter.

use std::collections::{BTreeMap, BTreeSet};

use aws_lc_rs::digest;
use serde_json::{Map, Value, json};

use super::{
    APPLIED, ENTRANCE_OF, MANAGED_BY, MANAGER, SLICE_MANAGED_BY, SOURCE_CLUSTER, SOURCE_SERVICE,
    seen::{Key, Written},
};
use crate::model::{
    catalog::Protocol,
    entrance::{Entrance, EntrancePort, allocate},
    ids::ServiceName,
    import::{Import, ImportCluster, ImportPort},
    limits,
    virtual_ip::VipKey,
};

/// Which kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A derived Service.
    Service,
    /// An EndpointSlice of the standard's.
    Slice,
    /// A ServiceImport.
    Import,
    /// A ServiceExport, which people make; only its status is written.
    Export,
}

/// An object as it should be. Its `status`, if it has one, is written apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) key: Key,
    pub(super) body: Value,
    pub(super) status: Option<Value>,
}

/// What a derived Service is made with.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The namespace of the gateways.
    pub(super) namespace: String,
    /// The labels of their pods.
    pub(super) selector: BTreeMap<String, String>,
}

/// The names that an import needs derived Services for, and how many it cannot have (B8).
pub(super) fn entrances_of(import: &Import) -> (Vec<VipKey>, usize) {
    let mut keys = VipKey::of(import);
    let beyond = keys.len().saturating_sub(limits::ENTRANCES_PER_IMPORT_MAX);
    keys.truncate(limits::ENTRANCES_PER_IMPORT_MAX);
    (keys, beyond)
}

/// A name that no other text has, short enough for every kind of object.
fn hashed(text: &str) -> String {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    let letters = data_encoding::BASE32_NOPAD.encode(&digest.as_ref()[..15]);
    format!("clusterset-{}", letters.to_lowercase())
}

/// What a derived Service of that name is called.
pub(super) fn entrance_name(key: &VipKey) -> String {
    hashed(&key.to_string())
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// The ports of a derived Service: those it has keep where they lead, new ones get a free place.
pub(super) fn entrance_ports(
    key: &VipKey,
    import: &Import,
    known: Option<&Entrance>,
    is_taken: impl Fn(u16) -> bool,
) -> Vec<EntrancePort> {
    // Those just given to the ports before.
    let mut given = BTreeSet::new();
    let port = |entry: &ImportPort| {
        let (protocol, number) = (entry.port.protocol, entry.port.number);
        let held = known.and_then(|known| known.listening(protocol, number));
        let free = || allocate(key, protocol, number, |port| given.contains(&port) || is_taken(port));
        let listening = held.or_else(free)?;
        given.insert(listening);
        Some(EntrancePort { protocol, number, listening })
    };
    import.ports.iter().filter(|entry| is_served(entry)).filter_map(port).collect()
}

/// Only TCP is.
fn is_served(entry: &ImportPort) -> bool {
    entry.port.protocol == Protocol::Tcp
}

/// The derived Service of a name: it selects the gateways, so that Kubernetes itself keeps track of those
/// that are ready. What the standard copies from the exporters stands on the ServiceImport and not here, but for
/// what keeps a client: of several gateways it keeps meeting the same. `internalTrafficPolicy: Local` would have a
/// machine without a gateway drop what its clients say (B8), and what is near is the gateways' to choose.
pub(super) fn entrance(key: &VipKey, import: &Import, ports: &[EntrancePort], place: &Place) -> Object {
    let spoken = |port: &EntrancePort| {
        let entry = import.port(port.protocol, port.number);
        entry.map(|entry| entry.port.app_protocol.to_string()).filter(|text| !text.is_empty())
    };
    let ports: Vec<Value> = ports
        .iter()
        .map(|port| {
            let mut fields = json!({
                "name": format!("{}-{}", port.protocol, port.number),
                "protocol": protocol(port.protocol),
                "port": port.number,
                "targetPort": port.listening,
            });
            if let Some(spoken) = spoken(port) {
                fields["appProtocol"] = spoken.into();
            }
            fields
        })
        .collect();
    let name = entrance_name(key);
    let mut spec = json!({
        "type": "ClusterIP",
        "selector": place.selector,
        "internalTrafficPolicy": "Cluster",
        "ipFamilyPolicy": "SingleStack",
        "ipFamilies": ["IPv4"],
        "ports": ports,
    });
    kept_clients(import, &mut spec);
    let body = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": place.namespace,
            "labels": { MANAGED_BY: MANAGER },
            "annotations": { ENTRANCE_OF: key.to_string() },
        },
        "spec": spec,
    });
    sealed(Kind::Service, Key::new(&place.namespace, &name), body, None)
}

/// What a name has, or lacks, in this cluster.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Given<'a> {
    /// The addresses of its derived Service.
    pub(super) addresses: &'a [std::net::IpAddr],
    /// Endpoints of a headless name that cannot have one.
    pub(super) beyond: usize,
    /// The cluster has no Services of the family that names have.
    pub(super) no_family: bool,
}

/// Whether the API server refused a derived Service because it has no addresses of its family.
pub(super) fn lacks_family(error: &str) -> bool {
    error.contains("ipFamilies") && error.contains("not configured")
}

/// The ServiceImport of a name.
pub(super) fn service_import(import: &Import, given: Given<'_>) -> Object {
    let Given { addresses, beyond, no_family } = given;
    let ports: Vec<Value> = import
        .ports
        .iter()
        .map(|entry| {
            let mut fields = json!({ "protocol": protocol(entry.port.protocol), "port": entry.port.number });
            for (name, text) in [("name", &entry.port.name), ("appProtocol", &entry.port.app_protocol)] {
                if !text.is_empty() {
                    fields[name] = text.to_string().into();
                }
            }
            fields
        })
        .collect();
    let mut spec =
        json!({ "type": if import.headless { "Headless" } else { "ClusterSetIP" }, "ports": ports });
    if !import.headless && !addresses.is_empty() {
        spec["ips"] = addresses.iter().map(ToString::to_string).collect();
        let family = |ip: &std::net::IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        spec["ipFamilies"] = addresses.iter().map(family).collect();
    }
    kept_clients(import, &mut spec);
    spec["internalTrafficPolicy"] = import.traffic.internal_policy.to_string().into();
    if let Some(distribution) = import.traffic.distribution {
        spec["trafficDistribution"] = distribution.to_string().into();
    }
    let mut labels: Map<String, Value> = text_map(&import.labels);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.into());
    let body = json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1",
        "kind": "ServiceImport",
        "metadata": {
            "name": import.name.name.as_str(),
            "namespace": import.name.namespace.as_str(),
            "labels": labels,
            "annotations": text_map(&import.annotations),
        },
        "spec": spec,
    });
    let pending = !import.headless && addresses.is_empty();
    let (holds, reason, message) = match (pending, beyond) {
        (true, _) if no_family => {
            let message = "names have IPv4 addresses, and this cluster has no IPv4 Services";
            ("False", "IPFamilyNotSupported", message.to_owned())
        }
        (true, _) if !import.ports.is_empty() && !import.ports.iter().any(is_served) => {
            ("False", "Pending", "none of its ports is TCP, and no others are served".to_owned())
        }
        (true, _) => ("False", "Pending", "the name has no address yet".to_owned()),
        (false, 0) => ("True", "Ready", ready_message(import)),
        (false, beyond) => {
            let most = limits::ENTRANCES_PER_IMPORT_MAX;
            ("True", "Ready", format!("{beyond} endpoints beyond the first {most} have no address"))
        }
    };
    let clusters: Vec<Value> =
        import.clusters.iter().map(|part| json!({ "cluster": part.cluster.as_str() })).collect();
    let ready = json!({ "type": "Ready", "status": holds, "reason": reason, "message": message });
    let status = json!({ "clusters": clusters, "conditions": [ready] });
    sealed(Kind::Import, import_key(&import.name), body, Some(status))
}

/// Whether clients are kept with an endpoint, as Services and ServiceImports say it.
fn kept_clients(import: &Import, spec: &mut Value) {
    if let Some(client) = import.session_affinity {
        spec["sessionAffinity"] = "ClientIP".into();
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": client.timeout } });
    }
}

fn ready_message(import: &Import) -> String {
    let port = |entry: &ImportPort| format!("{}/{}", entry.port.number, protocol(entry.port.protocol));
    let unserved: Vec<String> = import.ports.iter().filter(|entry| !is_served(entry)).map(port).collect();
    match unserved.as_slice() {
        [] => "the name resolves and is served".to_owned(),
        ports => format!("the name resolves and is served, but for {}: only TCP is", ports.join(", ")),
    }
}

/// Where a ServiceImport stands.
pub(super) fn import_key(name: &ServiceName) -> Key {
    Key::new(name.namespace.as_str(), name.name.as_str())
}

/// The EndpointSlice of one exporter (rule 14): what clients of this cluster may connect to, which is the
/// derived Services and never an address inside another cluster.
pub(super) fn slice(
    import: &Import,
    part: &ImportCluster,
    address: &impl Fn(&VipKey) -> Option<std::net::Ipv4Addr>,
) -> Option<Object> {
    let endpoint = |key: VipKey, hostname: Option<&str>, ready: bool| {
        let mut fields = json!({
            "addresses": [address(&key)?.to_string()],
            "conditions": { "ready": ready, "serving": ready, "terminating": false },
        });
        if let Some(hostname) = hostname {
            fields["hostname"] = hostname.into();
        }
        Some(fields)
    };
    let endpoints: Vec<Value> = if import.headless {
        let of = |hostname: &crate::model::ids::ServiceLabel| {
            VipKey::Endpoint(import.name.clone(), part.cluster.clone(), hostname.clone())
        };
        let each = part.endpoints.iter().take(limits::ENTRANCES_PER_IMPORT_MAX);
        each.filter_map(|it| endpoint(of(&it.hostname), Some(it.hostname.as_str()), it.ready)).collect()
    } else {
        endpoint(VipKey::Service(import.name.clone()), None, part.ready() > 0).into_iter().collect()
    };
    if endpoints.is_empty() {
        return None;
    }
    let ports: Vec<Value> = part
        .ports
        .iter()
        .map(|port| json!({ "name": port.name.as_ref(), "protocol": protocol(port.protocol), "port": port.number }))
        .collect();
    let name = hashed(&format!("{} of {}", import.name, part.cluster));
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": import.name.namespace.as_str(),
            "labels": {
                SOURCE_SERVICE: import.name.name.as_str(),
                SOURCE_CLUSTER: part.cluster.as_str(),
                SLICE_MANAGED_BY: MANAGER,
            },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    });
    Some(sealed(Kind::Slice, Key::new(import.name.namespace.as_str(), &name), body, None))
}

fn text_map(texts: &BTreeMap<String, String>) -> Map<String, Value> {
    texts.iter().map(|(key, text)| (key.clone(), text.as_str().into())).collect()
}

/// Notes on the object what was asked for, so that a field no longer asked for is noticed too.
fn sealed(kind: Kind, key: Key, mut body: Value, status: Option<Value>) -> Object {
    let digest = digest::digest(&digest::SHA256, body.to_string().as_bytes());
    let seal = data_encoding::HEXLOWER.encode(&digest.as_ref()[..8]);
    body["metadata"]["annotations"][APPLIED] = seal.into();
    Object { kind, key, body, status }
}

impl Object {
    /// Whether the object there is this one, whatever others and defaults have added to it.
    pub(super) fn stands_as(&self, written: &Written) -> bool {
        let seal = self.body["metadata"]["annotations"][APPLIED].as_str();
        let metadata = &self.body["metadata"];
        let holds = |wanted: &Value, held: &BTreeMap<String, String>| {
            let wanted = wanted.as_object().into_iter().flatten();
            wanted.into_iter().all(|(key, value)| held.get(key).map(String::as_str) == value.as_str())
        };
        let content = |value: &Value| {
            let mut fields = value.as_object().cloned().unwrap_or_default();
            for apart in ["apiVersion", "kind", "metadata", "status"] {
                fields.remove(apart);
            }
            Value::Object(fields)
        };
        written.annotations.get(APPLIED).map(String::as_str) == seal
            && holds(&metadata["labels"], &written.labels)
            && holds(&metadata["annotations"], &written.annotations)
            && contains(&written.data, &content(&self.body))
    }

    /// Whether the status there is this one's.
    pub(super) fn has_status(&self, written: &Written) -> bool {
        self.status.as_ref().is_none_or(|status| contains(&written.data["status"], status))
    }
}

/// Whether everything that is wanted stands in what is held; lists have to be as long.
pub(super) fn contains(held: &Value, wanted: &Value) -> bool {
    match (held, wanted) {
        (Value::Object(held), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| held.get(key).is_some_and(|held| contains(held, value)))
        }
        (Value::Array(held), Value::Array(wanted)) => {
            held.len() == wanted.len() && held.iter().zip(wanted).all(|(held, value)| contains(held, value))
        }
        (held, wanted) => held == wanted,
    }
}

#[cfg(test)]
mod tests;
