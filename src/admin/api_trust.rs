//! The bodies of the admin API that are about trust: verbs of a peer, fingerprints, roots. Part of [`super::api`].

use serde::{Deserialize, Serialize};

use crate::model::ids::{ClusterId, ServiceName, Timestamp, TrustDomain};

/// `POST /v1/peers/ID/ACTION`: pause, resume, remove, revoke, forget, approve.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerWish {
    /// Without a word to the peer.
    pub force: bool,
}

/// `POST /v1/peers/ID/verify`: what two operators compare.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verification {
    /// `tombolo/v1/verification`.
    pub schema: String,
    /// This cluster's roots, newest last.
    pub own: VerifiedRoots,
    /// The peer's roots as they are used here.
    pub peer: VerifiedRoots,
    /// Whether the peer has said that it uses this cluster's roots of now; absent when it said nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_ours: Option<bool>,
    /// How long ago it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_age_ms: Option<u64>,
}

/// The roots of one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifiedRoots {
    /// Whose.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Of its bundle.
    pub sequence: u64,
    /// First bytes of each root's key digest, newest last.
    pub fingerprints: Vec<String>,
}

/// `GET /v1/authz?from=&to=`: what each gate says of a caller and a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuthzExplanation {
    /// `tombolo/v1/authz`.
    pub schema: String,
    /// The caller.
    pub from: String,
    /// The service.
    pub to: ServiceName,
    /// Whether this side allows it.
    pub allowed: bool,
    /// Every gate that was asked, in the order a connection passes them.
    pub gates: Vec<GateDecision>,
}

/// What one gate says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GateDecision {
    /// egress, import, export or grant.
    pub gate: String,
    /// The cluster that decides.
    pub side: ClusterId,
    /// The cluster it is about.
    pub cluster: ClusterId,
    /// Its answer; absent when only the other side knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<bool>,
    /// The rule it comes from.
    pub reason: String,
    /// What grants in audit mode would say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<bool>,
}

/// `GET /v1/ca`, and the answer to `POST /v1/ca/rotate`: this cluster's roots, and how far a rotation is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CaStatus {
    /// `tombolo/v1/ca`.
    pub schema: String,
    /// settled, publishing or retiring.
    pub phase: String,
    /// How long it has been in it.
    pub phase_age_ms: u64,
    /// When it ends at the latest, whoever is away until then; absent when it is settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_ends_unix_ms: Option<Timestamp>,
    /// Of the bundle that peers are told.
    pub sequence: u64,
    /// The roots, oldest first.
    pub roots: Vec<RootStatus>,
    /// Peers, and whether they have stored these roots.
    pub peers: Vec<RootAck>,
    /// When the issuing root's SVID of this gateway ends.
    pub svid_expires_unix_ms: Timestamp,
}

/// One root of this cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootStatus {
    /// Its number.
    pub number: u32,
    /// First bytes of its key's digest.
    pub fingerprint: String,
    /// Whether gateways get their SVIDs from it.
    pub issuing: bool,
    /// When it ends.
    pub expires_unix_ms: Timestamp,
}

/// What a peer has said of this cluster's roots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RootAck {
    /// The peer.
    pub cluster: ClusterId,
    /// Whether it has stored the roots of now.
    pub acked: bool,
    /// Its state, and since when.
    pub state: String,
    /// How long it has been in it.
    pub state_age_ms: u64,
}
