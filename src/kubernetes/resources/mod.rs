//! Tombolo's own custom resources, `tombolo.dev/v1alpha1`: what they hold, and their definitions.
//!
//! The definitions under `deploy/crds/tombolo.dev` are generated from these types. What the objects mean is
//! `policies`' and `governing`'s matter; nothing is decided here.

mod peering;
mod policy;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResourceExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    peering::{
        Clusterset, ClustersetSpec, ClustersetStatus, Desired, JoinToken, JoinTokenSpec, JoinTokenStatus,
        Peer, PeerSpec, PeerStatus, SecretKey,
    },
    policy::{
        Action, Affinity, ExportGrant, ExportGrantSpec, FailoverPolicy, FailoverPolicySpec, Guardrail,
        GuardrailSpec, ImportPolicy, ImportPolicySpec, Mode,
    },
};

/// The group of all of them.
pub const GROUP: &str = "tombolo.dev";

/// Whether a rule is taken over, and why not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStatus {
    /// `Accepted`: the gateway takes the rule over; False says what in it cannot be read.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// A list of conditions, one of each type.
fn conditions(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let items = generator.subschema_for::<Condition>();
    schemars::json_schema!({
        "type": "array",
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
    })
}

/// The definitions of all of them.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        Clusterset::crd(),
        Peer::crd(),
        JoinToken::crd(),
        ExportGrant::crd(),
        ImportPolicy::crd(),
        Guardrail::crd(),
        FailoverPolicy::crd(),
    ]
}

/// The files that the definitions stand in, with their text.
#[must_use]
pub fn definition_files() -> Vec<(String, String)> {
    let file = |definition: CustomResourceDefinition| {
        let name = format!("{GROUP}_{}.yaml", definition.spec.names.plural);
        let text = serde_saphyr::to_string(&definition).expect("a definition is plain data");
        let head = "# Printed from src/kubernetes/resources: TOMBOLO_BLESS=1 cargo test --test reference\n";
        (name, format!("{head}{text}"))
    };
    definitions().into_iter().map(file).collect()
}
