//! The clusterset, its members, and tokens to join with.

#![expect(unreachable_pub, reason = "the derive repeats the types inside functions")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::conditions;

/// This cluster as a member of its clusterset. There is one, `clusterset`, which the gateway makes and keeps.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "Clusterset",
    status = "ClustersetStatus",
    category = "tombolo",
    doc = "This cluster as a member of its clusterset. There is one, `clusterset`, which the gateway makes and keeps.",
    validation = Rule::new("self.metadata.name == 'clusterset'").message("there is one Clusterset, and it is called clusterset"),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".status.cluster"),
    printcolumn(name = "Trust domain", type_ = "string", json_path = ".status.trustDomain"),
    printcolumn(name = "Peers", type_ = "string", json_path = ".status.peers"),
    printcolumn(name = "Exports", type_ = "integer", json_path = ".status.exports"),
    printcolumn(name = "Imports", type_ = "integer", json_path = ".status.imports"),
    printcolumn(name = "Root expires", type_ = "date", json_path = ".status.rootExpires", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ClustersetSpec {}

/// What a cluster is in its clusterset.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClustersetStatus {
    /// The id of this cluster.
    pub cluster: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Digest of its newest root's key, for two operators to compare.
    pub fingerprint: String,
    /// Active peers of all peers.
    pub peers: String,
    /// Services this cluster exports.
    pub exports: i64,
    /// Services known in the clusterset.
    pub imports: i64,
    /// When its newest root ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_expires: Option<String>,
    /// `ApiServerReachable`: the gateway can follow every kind of object. `ApiServerWritable`: what it writes is
    /// taken. `Ready`: every peer is active.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// What a person wants of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Desired {
    /// A member: a pause is ended, and a peer that waits for approval is approved.
    Active,
    /// Trust stays; its names are gone and its streams are closed.
    Paused,
    /// The peering is ended, and the peer is told.
    Removed,
    /// The peering is ended without a word, and its trust domain and keys are blocked.
    Revoked,
}

/// A key of a Secret in the namespace of the gateways.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret, in the namespace of the gateways.
    pub name: String,
    /// Its key.
    #[serde(default = "token")]
    pub key: String,
}

fn token() -> String {
    "token".to_owned()
}

/// Another cluster of the clusterset. Its name is the other cluster's id. The gateway makes one for every peer
/// it has; one that a person makes with a token joins that cluster.
#[derive(CustomResource, KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "Peer",
    status = "PeerStatus",
    category = "tombolo",
    doc = "Another cluster of the clusterset, by its cluster id. The gateway makes one for every peer it has; one that a person makes with a token joins that cluster. Deleting it ends nothing: set `desired`.",
    validation = Rule::new("self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')").message("the name is a cluster id: one label"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "RTT", type_ = "string", json_path = ".status.rtt"),
    printcolumn(name = "In", type_ = "integer", json_path = ".status.imported"),
    printcolumn(name = "Out", type_ = "integer", json_path = ".status.exported"),
    printcolumn(name = "Trust domain", type_ = "string", json_path = ".status.trustDomain", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct PeerSpec {
    /// Where the token to join with is. Used while the cluster is no peer, and then no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretKey>,
    /// What the peer is to be; left out, whatever the command line has made of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<Desired>,
}

/// How a peer is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerStatus {
    /// joining, pending, active, stalled, stale, withdrawn, paused, distrusted, terminated or revoked.
    pub state: String,
    /// Why.
    pub reason: String,
    /// Its trust domain.
    pub trust_domain: String,
    /// Digest of its newest root's key, for two operators to compare.
    pub fingerprint: String,
    /// Its addresses.
    pub endpoints: Vec<String>,
    /// Round trip of the link, roughly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt: Option<String>,
    /// Services taken from it.
    pub imported: i64,
    /// Services it is told of.
    pub exported: i64,
    /// `Joined`, `Reachable`, `Trusted`, `InSync` and `Ready`, which is all of them.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// A token for another cluster to join with, made by the gateway into a Secret of the same name. Deleting it
/// revokes the token.
#[derive(CustomResource, KubeSchema, Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "tombolo.dev",
    version = "v1alpha1",
    kind = "JoinToken",
    namespaced,
    status = "JoinTokenStatus",
    category = "tombolo",
    doc = "A token for another cluster to join with, in the namespace of the gateways. The gateway writes it into a Secret of the same name, under the key `token`. Deleting the JoinToken revokes it.",
    validation = Rule::new("self.spec == oldSelf.spec").message("a token cannot be changed: delete it and make another"),
    printcolumn(name = "For", type_ = "string", json_path = ".spec.for"),
    printcolumn(name = "Uses left", type_ = "integer", json_path = ".status.usesLeft"),
    printcolumn(name = "Expires", type_ = "string", json_path = ".status.expires"),
    printcolumn(name = "Redeemed by", type_ = "string", json_path = ".status.redeemedBy"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct JoinTokenSpec {
    /// Only this cluster may redeem it.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub cluster: Option<String>,
    /// Its life, from 1m to 24h.
    #[serde(default = "quarter")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("from 1m to 24h"))]
    pub ttl: String,
    /// How many clusters may redeem it.
    #[serde(default = "once")]
    #[schemars(range(min = 1, max = 1000))]
    pub uses: i32,
    /// Only a cluster of this trust domain may redeem it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect_trust_domain: Option<String>,
    /// Whoever redeems it waits for approval here: `desired: Active` on its Peer.
    #[serde(default)]
    pub require_approval: bool,
    /// Issue it although it names only addresses of this host or of private networks.
    #[serde(default)]
    pub allow_private: bool,
}

fn quarter() -> String {
    "15m".to_owned()
}

fn once() -> i32 {
    1
}

impl Default for JoinTokenSpec {
    fn default() -> Self {
        Self {
            cluster: None,
            ttl: quarter(),
            uses: once(),
            expect_trust_domain: None,
            require_approval: false,
            allow_private: false,
        }
    }
}

/// What became of a token; the token itself is in the Secret and never here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JoinTokenStatus {
    /// Its id, as `tombolo token list` shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The Secret it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// How many clusters may still redeem it.
    pub uses_left: i32,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Who redeemed it.
    pub redeemed_by: Vec<String>,
    /// `Ready`: True while it can be redeemed; else Refused, Redeemed, Expired or Revoked.
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}
