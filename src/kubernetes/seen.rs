//! What is kept of each object of the API server, and how it is read from one.
//!
//! Only what a rule asks for: a cluster has many objects, and most of their bytes are nobody's business here.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::{
    core::v1 as core,
    discovery::v1::{self as discovery},
};
use kube::{ResourceExt as _, core::DynamicObject};
use serde_json::Value;

use super::{ENTRANCE_OF, SERVICE_NAME, SOURCE_SERVICE};
use crate::model::{
    catalog::{ClientIp, InternalTrafficPolicy, Protocol, Traffic, TrafficDistribution},
    entrance::{Entrance, EntrancePort},
    ids::{IdError, Locality, Namespace, ServiceLabel, ServiceName, Timestamp},
    virtual_ip::VipKey,
};

/// An object's place: the namespace is empty for objects of the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(super) fn of(object: &impl kube::ResourceExt) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// The name of the clusterset that an object of this place is about.
    pub(super) fn service(&self) -> Result<ServiceName, IdError> {
        let namespace = Namespace::parse(&self.namespace)?;
        Ok(ServiceName { namespace, name: ServiceLabel::parse(&self.name)? })
    }
}

/// What a Service is, as far as exporting it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// It has an address of its own.
    ClusterIp,
    /// Clients address its endpoints one by one.
    Headless,
    /// It is a name elsewhere, which cannot be exported (rule 6).
    ExternalName,
}

/// A port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServicePort {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) number: u16,
    pub(super) app_protocol: String,
}

/// A Service of anybody's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) form: Form,
    pub(super) ports: Vec<ServicePort>,
    /// Whether it keeps clients with an endpoint.
    pub(super) session_affinity: Option<ClientIp>,
    /// What it says of the way to its endpoints.
    pub(super) traffic: Traffic,
    /// What of it is not carried to other clusters, each in words.
    pub(super) not_carried: Vec<String>,
}

/// Of `internalTrafficPolicy`: machines of another cluster are never the client's.
const LOCAL: &str =
    "internalTrafficPolicy Local (the ServiceImport says it, gateways reach endpoints on all machines)";

/// Of `trafficDistribution`: clusters are chosen by how near they are whatever it says, endpoints never are.
const NOT_BY_ZONE: &str =
    "(the ServiceImport says it, gateways prefer near clusters but take a cluster's endpoints in turn)";

/// What is asked of a Service that gateways do not do: nobody is to find that out by losing packets.
fn not_carried(spec: &core::ServiceSpec) -> Vec<String> {
    let port = |port: &core::ServicePort| {
        let spoken = port.protocol.as_deref().filter(|spoken| *spoken != "TCP")?;
        Some(format!("port {}/{spoken}", port.port))
    };
    let mut found: Vec<String> = spec.ports.iter().flatten().filter_map(port).collect();
    if traffic(spec).internal_policy == InternalTrafficPolicy::Local {
        found.push(LOCAL.to_owned());
    }
    found.extend(spec.traffic_distribution.iter().map(|wanted| match TrafficDistribution::parse(wanted) {
        Some(_) => format!("trafficDistribution {wanted} {NOT_BY_ZONE}"),
        None => format!("trafficDistribution {wanted}, which is not known here"),
    }));
    if spec.ip_families.iter().flatten().any(|family| family == "IPv6") {
        found.push("IPv6: names have IPv4 addresses in every cluster".to_owned());
    }
    found
}

/// Whether a Service keeps clients with an endpoint.
fn session_affinity(spec: &core::ServiceSpec) -> Option<ClientIp> {
    spec.session_affinity.as_deref().filter(|mode| *mode == "ClientIP")?;
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|client| client.timeout_seconds);
    let timeout = seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    Some(timeout.map_or_else(ClientIp::default, |timeout| ClientIp { timeout }))
}

/// What a Service says of the way to its endpoints.
fn traffic(spec: &core::ServiceSpec) -> Traffic {
    let internal_policy = match spec.internal_traffic_policy.as_deref() {
        Some("Local") => InternalTrafficPolicy::Local,
        _ => InternalTrafficPolicy::Cluster,
    };
    let distribution = spec.traffic_distribution.as_deref().and_then(TrafficDistribution::parse);
    Traffic { internal_policy, distribution }
}

/// None for a transport that is not carried.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|number| *number != 0)
}

impl Service {
    pub(super) fn of(service: &core::Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let form = match (spec.type_.as_deref(), spec.cluster_ip.as_deref()) {
            (Some("ExternalName"), _) => Form::ExternalName,
            (_, Some("None")) => Form::Headless,
            _ => Form::ClusterIp,
        };
        let port = |port: &core::ServicePort| {
            Some(ServicePort {
                name: port.name.clone().unwrap_or_default(),
                protocol: protocol(port.protocol.as_deref())?,
                number: number(port.port)?,
                app_protocol: port.app_protocol.clone().unwrap_or_default(),
            })
        };
        let ports = spec.ports.iter().flatten().filter_map(port).collect();
        Some(Self {
            form,
            ports,
            session_affinity: session_affinity(spec),
            traffic: traffic(spec),
            not_carried: not_carried(spec),
        })
    }
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceEndpoint {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ready: bool,
    pub(super) hostname: Option<String>,
    pub(super) host: Option<String>,
    pub(super) zone: Option<String>,
}

/// One EndpointSlice of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) service: String,
    pub(super) ipv4: bool,
    /// Name, transport and number of each port.
    pub(super) ports: Vec<(String, Protocol, u16)>,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

impl Slice {
    pub(super) fn of(slice: &discovery::EndpointSlice) -> Option<Self> {
        let service = slice.labels().get(SERVICE_NAME)?.clone();
        let ipv4 = match slice.address_type.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => return None,
        };
        let port = |port: &discovery::EndpointPort| {
            let protocol = protocol(port.protocol.as_deref())?;
            Some((port.name.clone().unwrap_or_default(), protocol, number(port.port?)?))
        };
        let endpoint = |endpoint: &discovery::Endpoint| SliceEndpoint {
            addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
            // Unset means ready (the API's own rule).
            ready: endpoint.conditions.as_ref().and_then(|known| known.ready).unwrap_or(true),
            hostname: endpoint.hostname.clone(),
            host: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
        };
        Some(Self {
            service,
            ipv4,
            ports: slice.ports.iter().flatten().filter_map(port).collect(),
            endpoints: slice.endpoints.iter().flatten().map(endpoint).collect(),
        })
    }
}

/// A ServiceExport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceExport {
    pub(super) uid: String,
    pub(super) created: Timestamp,
    pub(super) generation: i64,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    /// Its conditions as they stand there.
    pub(super) conditions: Vec<Value>,
}

fn strings(value: &Value) -> BTreeMap<String, String> {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

impl ServiceExport {
    /// None while it is being deleted: then nothing is exported any more.
    pub(super) fn of(object: &DynamicObject) -> Option<Self> {
        if object.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let created = object.creation_timestamp()?.0.as_millisecond();
        Some(Self {
            uid: object.uid()?,
            created: Timestamp(u64::try_from(created).unwrap_or(0)),
            generation: object.metadata.generation.unwrap_or(0),
            labels: strings(&object.data["spec"]["exportedLabels"]),
            annotations: strings(&object.data["spec"]["exportedAnnotations"]),
            conditions: object.data["status"]["conditions"].as_array().cloned().unwrap_or_default(),
        })
    }
}

/// An object that this gateway writes, as it stands there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Written {
    /// Labels, `spec` (all but metadata and status, for kinds without one) and `status`.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) data: Value,
}

impl Eq for Written {}

impl Written {
    pub(super) fn of(object: &DynamicObject) -> Self {
        Self {
            labels: object.labels().clone(),
            annotations: object.annotations().clone(),
            data: object.data.clone(),
        }
    }

    /// The name of the clusterset that a slice of ours at that place belongs to.
    pub(super) fn slice_of(&self, key: &Key) -> Option<ServiceName> {
        Key::new(&key.namespace, self.labels.get(SOURCE_SERVICE)?).service().ok()
    }
}

/// A derived Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Derived {
    /// What it stands for.
    pub(super) of: VipKey,
    /// Its addresses and ports.
    pub(super) entrance: Entrance,
    /// As it stands there.
    pub(super) written: Written,
}

impl Derived {
    pub(super) fn of(object: &DynamicObject) -> Option<Self> {
        if object.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let of = object.annotations().get(ENTRANCE_OF)?.parse().ok()?;
        let spec = &object.data["spec"];
        let texts = spec["clusterIPs"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let port = |port: &Value| {
            let field = |name: &str| u16::try_from(port[name].as_u64()?).ok();
            Some(EntrancePort {
                protocol: protocol(port["protocol"].as_str())?,
                number: field("port")?,
                listening: field("targetPort")?,
            })
        };
        let entrance = Entrance {
            addresses: texts.filter_map(|text| text.parse().ok()).collect(),
            ports: spec["ports"].as_array().into_iter().flatten().filter_map(port).collect(),
        };
        Some(Self { of, entrance, written: Written::of(object) })
    }
}

/// Where a host of the cluster is.
pub(super) fn locality(host: &core::Node) -> Option<Locality> {
    let label = |name: &str| host.labels().get(name).cloned().unwrap_or_default();
    let region = label("topology.kubernetes.io/region");
    let zone = label("topology.kubernetes.io/zone");
    Locality::parse(&format!("{region}/{zone}")).ok()
}

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) account: String,
    /// Since when it runs.
    pub(super) since: Timestamp,
}

impl Pod {
    /// None for a pod whose address is its host's, or that does not run.
    pub(super) fn of(pod: &core::Pod) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        if spec.host_network == Some(true) || status.phase.as_deref() != Some("Running") {
            return None;
        }
        let since = status.start_time.as_ref().map_or(0, |time| time.0.as_millisecond());
        let addresses = status.pod_ips.iter().flatten().filter_map(|entry| entry.ip.parse().ok()).collect();
        Some(Self {
            addresses,
            account: spec.service_account_name.clone().unwrap_or_else(|| "default".to_owned()),
            since: Timestamp(u64::try_from(since).unwrap_or(0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_carried_of_a_service_is_named() {
        let of = |spec: Value| {
            let service = serde_json::json!({ "metadata": { "name": "web" }, "spec": spec });
            let service: core::Service = serde_json::from_value(service).expect("a Service");
            Service::of(&service).expect("it has a spec").not_carried
        };
        let plain = serde_json::json!({ "ports": [{ "port": 80 }], "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"] });
        assert!(of(plain).is_empty());
        let rich = serde_json::json!({ "sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local",
            "trafficDistribution": "PreferClose", "ipFamilies": ["IPv4", "IPv6"],
            "ports": [{ "port": 80 }, { "port": 53, "protocol": "UDP" }, { "port": 9, "protocol": "SCTP" }] });
        let named = of(rich);
        assert_eq!(named[..3], ["port 53/UDP", "port 9/SCTP", LOCAL]);
        assert!(named[3].starts_with("trafficDistribution PreferClose (the ServiceImport says it"));
        assert!(named[4].starts_with("IPv6") && named.len() == 5);
    }

    #[test]
    fn what_a_service_says_of_the_way_to_its_endpoints_is_read_and_what_is_not_known_is_told() {
        let of = |spec: Value| -> core::ServiceSpec { serde_json::from_value(spec).expect("a spec") };
        assert!(traffic(&of(serde_json::json!({ "internalTrafficPolicy": "Cluster" }))).is_default());
        assert!(traffic(&of(serde_json::json!({}))).is_default());
        for wanted in TrafficDistribution::ALL {
            let name = wanted.to_string();
            let spec =
                of(serde_json::json!({ "internalTrafficPolicy": "Local", "trafficDistribution": name }));
            let all = Traffic { internal_policy: InternalTrafficPolicy::Local, distribution: Some(wanted) };
            assert_eq!(traffic(&spec), all);
        }
        let later = of(serde_json::json!({ "trafficDistribution": "PreferSameRack" }));
        assert!(traffic(&later).is_default());
        assert_eq!(not_carried(&later), ["trafficDistribution PreferSameRack, which is not known here"]);
    }

    #[test]
    fn a_service_that_keeps_clients_says_for_how_long() {
        let of = |spec: Value| session_affinity(&serde_json::from_value(spec).expect("a spec"));
        let with = |config: Value| {
            of(serde_json::json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config }))
        };
        let seconds = serde_json::json!({ "clientIP": { "timeoutSeconds": 600 } });
        assert_eq!(with(seconds.clone()), Some(ClientIp { timeout: 600 }));
        assert_eq!(with(Value::Null), Some(ClientIp { timeout: 10_800 }));
        assert_eq!(
            of(serde_json::json!({ "sessionAffinity": "None", "sessionAffinityConfig": seconds })),
            None
        );
    }
}
