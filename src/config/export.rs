//! An export as people declare it: an `[[export]]` table, `--export`, or `tombolo export`.
//!
//! The table leaves things out (a port's number, its name); [`ExportSpec::to_export`] fills them in and
//! gives the model's `Export`. Whether the name may be exported is policy, decided elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use super::sections::Health;
use crate::model::{
    catalog::{ClientIp, Export, ExportPort, ExportSource, Port, Protocol, Traffic},
    code::{Code, Problem},
    ids::{Incarnation, Namespace, ServiceLabel, ServiceName, Timestamp},
    limits,
};

/// How the place of an export that a flag declares begins.
const FLAG: &str = "--export";

/// One declared export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: Namespace,
    /// Its name.
    pub name: ServiceLabel,
    /// Requests may be sent twice.
    #[serde(default)]
    pub idempotent: bool,
    /// Clients address endpoints one by one.
    #[serde(default)]
    pub headless: bool,
    /// Whether clients are kept with an endpoint.
    #[serde(default)]
    pub session_affinity: SessionAffinity,
    /// Labels that propagate.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its ports; at least one.
    #[serde(default, rename = "port")]
    pub ports: Vec<PortSpec>,
    /// Where it was declared, for people: "tombolo.toml line 12".
    #[serde(skip)]
    pub place: String,
}

/// Whether clients are kept with an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionAffinity {
    /// Each connection goes where there is most room.
    #[default]
    None,
    /// A client is known by its address.
    ClientIp,
}

impl SessionAffinity {
    /// What other clusters are told.
    #[must_use]
    pub fn client_ip(self) -> Option<ClientIp> {
        (self == Self::ClientIp).then(ClientIp::default)
    }
}

/// One port of a declared export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Its name; left empty, `tcp-80` or `udp-53`.
    #[serde(default)]
    pub name: String,
    /// The number clients connect to; left out, that of the first endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its transport.
    #[serde(default = "tcp")]
    pub protocol: Protocol,
    /// Kubernetes `appProtocol`.
    #[serde(default)]
    pub app_protocol: String,
    /// Where this gateway connects.
    #[serde(default)]
    pub to: Vec<SocketAddr>,
    /// Active checks of its endpoints.
    #[serde(default)]
    pub health: Health,
}

/// The flags that `tombolo export` takes beside `NAME[.NAMESPACE]=ADDR[,ADDR]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportFlags {
    /// `--port`.
    pub port: Option<u16>,
    /// `--port-name`.
    pub port_name: Option<String>,
    /// `--udp`.
    pub udp: bool,
    /// `--idempotent`.
    pub idempotent: bool,
    /// `--session-affinity`.
    pub session_affinity: SessionAffinity,
}

impl ExportSpec {
    /// Reads `NAME[.NAMESPACE]=ADDR[,ADDR]`.
    ///
    /// # Errors
    /// A [`Problem`] with [`Code::FLAG_INVALID`] that names the part that is wrong.
    pub fn from_flag(text: &str, flags: &ExportFlags, zone: &str) -> Result<Self, Problem> {
        let wrong = |why: String| {
            Problem::new(Code::FLAG_INVALID, format!("export {text:?}: {why}"))
                .with_fix("write NAME[.NAMESPACE]=ADDRESS:PORT, as in web.shop=127.0.0.1:8080")
        };
        let (name, addresses) =
            text.split_once('=').ok_or_else(|| wrong("has no '=' between name and addresses".to_owned()))?;
        let name = ServiceName::parse_spoken(name, zone).map_err(|error| wrong(error.to_string()))?;
        let address = |part: &str| {
            part.parse::<SocketAddr>().map_err(|_| wrong(format!("{part:?} is not of the form ADDRESS:PORT")))
        };
        let port = PortSpec {
            name: flags.port_name.clone().unwrap_or_default(),
            port: flags.port,
            protocol: if flags.udp { Protocol::Udp } else { Protocol::Tcp },
            app_protocol: String::new(),
            to: addresses.split(',').map(address).collect::<Result<_, _>>()?,
            health: Health::default(),
        };
        let spec = Self {
            namespace: name.namespace,
            name: name.name,
            idempotent: flags.idempotent,
            headless: false,
            session_affinity: flags.session_affinity,
            labels: BTreeMap::new(),
            ports: vec![port],
            place: format!("{FLAG} {text}"),
        };
        spec.check().map_err(wrong)?;
        Ok(spec)
    }

    /// Its name as clusters know it.
    #[must_use]
    pub fn service_name(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Its ports with everything filled in.
    #[must_use]
    pub fn export_ports(&self) -> Vec<ExportPort> {
        self.ports.iter().map(PortSpec::export_port).collect()
    }

    /// The export it declares.
    #[must_use]
    pub fn to_export(&self, created: Timestamp, incarnation: Incarnation, source: ExportSource) -> Export {
        Export {
            name: self.service_name(),
            ports: self.export_ports(),
            endpoints: Vec::new(),
            annotations: BTreeMap::new(),
            labels: self.labels.clone(),
            idempotent: self.idempotent,
            headless: self.headless,
            session_affinity: self.session_affinity.client_ip(),
            traffic: Traffic::default(),
            created,
            incarnation,
            source,
        }
    }

    /// Whether this release carries it.
    ///
    /// # Errors
    /// [`Code::SETTING_NOT_SERVED`] for a UDP port: its traffic would go nowhere.
    pub fn check_carried(&self) -> Result<(), Problem> {
        if self.ports.iter().all(|port| port.protocol == Protocol::Tcp) {
            return Ok(());
        }
        let message = format!("{} has a UDP port, and this release carries TCP only", self.service_name());
        Err(Problem::new(Code::SETTING_NOT_SERVED, message).with_fix("export its TCP ports only"))
    }

    /// Whether it was declared by a flag.
    #[must_use]
    pub fn is_flag(&self) -> bool {
        self.place.starts_with(FLAG)
    }

    /// The problem of one name declared in two places.
    #[must_use]
    pub fn declared_twice(name: &ServiceName, first: &str, second: &str) -> Problem {
        let message = format!("{name} is exported in two places: {first}, and {second}");
        let fix = format!("keep one: remove it from {second}, or from {first}");
        Problem::new(Code::EXPORT_DECLARED_TWICE, message).with_fix(fix)
    }

    /// What its parts must be together, as the end of a sentence that began with its name.
    pub(super) fn check(&self) -> Result<(), String> {
        let fits = |text: &String| text.len() <= limits::LABEL_BYTES_MAX;
        if self.labels.len() > limits::LABELS_PER_SERVICE_MAX {
            return Err(format!("has more than {} labels", limits::LABELS_PER_SERVICE_MAX));
        }
        if let Some((key, _)) = self.labels.iter().find(|(key, value)| !fits(key) || !fits(value)) {
            return Err(format!("has a label over {} bytes: {key:?}", limits::LABEL_BYTES_MAX));
        }
        if self.ports.is_empty() {
            return Err("has no [[export.port]]".to_owned());
        }
        if self.ports.len() > limits::PORTS_PER_SERVICE_MAX {
            return Err(format!("has more than {} ports", limits::PORTS_PER_SERVICE_MAX));
        }
        let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for spec in &self.ports {
            spec.check()?;
            let port = spec.export_port().port;
            if !names.insert(port.name.clone()) {
                return Err(format!("has two ports named {:?}", port.name));
            }
            if !numbers.insert((port.number, port.protocol)) {
                return Err(format!("has port {}/{} twice", port.number, port.protocol));
            }
        }
        Ok(())
    }
}

impl PortSpec {
    fn number(&self) -> u16 {
        self.port.or_else(|| self.to.first().map(SocketAddr::port)).unwrap_or(0)
    }

    fn export_port(&self) -> ExportPort {
        let number = self.number();
        let name = if self.name.is_empty() {
            format!("{}-{number}", self.protocol).into()
        } else {
            self.name.as_str().into()
        };
        let port =
            Port { name, number, protocol: self.protocol, app_protocol: self.app_protocol.as_str().into() };
        ExportPort { port, to: self.to.clone(), health: self.health.check() }
    }

    fn check(&self) -> Result<(), String> {
        if self.to.is_empty() {
            return Err("has a port without an address in `to`".to_owned());
        }
        if self.to.len() > limits::ENDPOINTS_PER_SERVICE_MAX {
            return Err(format!("has a port with more than {} addresses", limits::ENDPOINTS_PER_SERVICE_MAX));
        }
        if self.number() == 0 || self.to.iter().any(|to| to.port() == 0) {
            return Err("has a port or an address with the number 0".to_owned());
        }
        self.health.problem()?;
        if !self.name.is_empty() {
            ServiceLabel::parse(&self.name)
                .map_err(|error| format!("has a port whose name is no label: {error}"))?;
        }
        Ok(())
    }
}

fn default_namespace() -> Namespace {
    Namespace::parse("default").expect("default is a label")
}

fn tcp() -> Protocol {
    Protocol::Tcp
}
