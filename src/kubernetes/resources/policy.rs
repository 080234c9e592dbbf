//! Rules: who may see what, what is taken of others, what is given to nobody, and where connections go.

#![expect(unreachable_pub, reason = "the derive repeats the types inside functions")]
#![expect(clippy::duplicated_attributes, reason = "printer columns have types, and there are several")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RuleStatus;

/// Whether a grant decides or only reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// It decides.
    #[default]
    Enforce,
    /// It changes nothing; what it would decide is reported.
    Audit,
}

/// These exports of the namespace for these peers, and of these for these callers.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "ExportGrant",
    namespaced,
    status = "RuleStatus",
    category = "tombolo",
    doc = "Which peers may see exports of its namespace, and which of their callers may call them. An export that no grant selects follows `default_grant` of the config file.",
    printcolumn(name = "Exports", type_ = "string", json_path = ".spec.exports"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ExportGrantSpec {
    /// Names of exports in this namespace; `*` is all of them.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^[^/]+$")))]
    pub exports: Vec<String>,
    /// Cluster ids; `*` is every peer.
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub peers: Vec<String>,
    /// SPIFFE IDs of callers, with `*` for a segment; empty: everybody there.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 2048)))]
    pub callers: Vec<String>,
    /// Whether it decides.
    #[serde(default)]
    pub mode: Mode,
}

/// What happens to a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// It is taken from these peers, and from no others.
    #[default]
    Allow,
    /// It is never taken from them.
    Refuse,
}

/// Which names this cluster takes from whom.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "ImportPolicy",
    status = "RuleStatus",
    category = "tombolo",
    doc = "Which names this cluster takes from whom. A name that no policy selects is taken from every member.",
    validation = Rule::new("!has(self.spec.alias) || (self.spec.names.size() == 1 && !self.spec.names[0].contains('*'))").message("an alias stands for exactly one name without a star"),
    printcolumn(name = "Names", type_ = "string", json_path = ".spec.names"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Alias", type_ = "string", json_path = ".spec.alias"),
    printcolumn(name = "Accepted", type_ = "string", json_path = ".status.conditions[?(@.type=='Accepted')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ImportPolicySpec {
    /// `NAMESPACE/NAME` patterns.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^[^/]+/[^/]+$"))
    )]
    pub names: Vec<String>,
    /// Cluster ids; `*` is every peer.
    #[serde(default = "everybody")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub peers: Vec<String>,
    /// What happens to them.
    #[serde(default)]
    pub action: Action,
    /// `NAMESPACE/NAME` it gets here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 128), regex(pattern = r"^[^/*]+/[^/*]+$"))]
    pub alias: Option<String>,
    /// Whether it merges with exports of the same name elsewhere.
    #[serde(default = "yes")]
    pub merge: bool,
}

/// These exports are never for these peers, whatever grants say.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "Guardrail",
    status = "RuleStatus",
    category = "tombolo",
    doc = "Exports that certain peers never get, whatever grants say.",
    printcolumn(name = "Exports", type_ = "string", json_path = ".spec.exports"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".spec.peers"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GuardrailSpec {
    /// `NAMESPACE/NAME` patterns.
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 128), regex(pattern = r"^[^/]+/[^/]+$"))
    )]
    pub exports: Vec<String>,
    /// Cluster ids; `*` is every peer.
    #[serde(default = "everybody")]
    #[schemars(length(min = 1, max = 256), inner(length(min = 1, max = 63)))]
    pub peers: Vec<String>,
}

/// Which clusters come first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Affinity {
    /// This one.
    #[default]
    Local,
    /// The others.
    Remote,
    /// None before another.
    None,
}

/// Where connections to services of the namespace go.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "FailoverPolicy",
    plural = "failoverpolicies",
    namespaced,
    status = "RuleStatus",
    category = "tombolo",
    doc = "Where connections to services of its namespace go, and when they come back. The first that names a service counts: those of the config file, then these by their names.",
    printcolumn(name = "Services", type_ = "string", json_path = ".spec.services"),
    printcolumn(name = "Affinity", type_ = "string", json_path = ".spec.affinity"),
    printcolumn(name = "Order", type_ = "string", json_path = ".spec.order"),
    printcolumn(name = "Hold", type_ = "string", json_path = ".spec.hold"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Accepted')].reason"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct FailoverPolicySpec {
    /// Names of services in this namespace; `*` is all of them.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^[^/]+$")))]
    pub services: Vec<String>,
    /// Which clusters come first.
    #[serde(default)]
    pub affinity: Affinity,
    /// Cluster ids, best first; empty means by locality.
    #[serde(default)]
    #[schemars(length(max = 256), inner(length(min = 1, max = 63)))]
    pub order: Vec<String>,
    /// Shares by cluster id, from 0, which takes a cluster out.
    #[serde(default)]
    pub weights: BTreeMap<String, i32>,
    /// Good for this long before connections come back.
    #[serde(default = "hold")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('0s') && duration(self) <= duration('1h')").message("from 0s to 1h"))]
    pub hold: String,
}

fn everybody() -> Vec<String> {
    vec!["*".to_owned()]
}

fn yes() -> bool {
    true
}

fn hold() -> String {
    "5s".to_owned()
}
