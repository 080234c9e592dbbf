//! What can happen to [`State`](super::State): every change anybody may ask for.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Peer, Standing, Unready};
use crate::model::{
    catalog::{Export, Row},
    entrance::Entrance,
    failover::FailoverPolicy,
    ids::{ClusterId, Epoch, Locality, Seq, ServiceName, SpiffeId, Timestamp},
    policy::{EgressRule, Grant, Grants, Guardrail, ImportRule, NamePattern},
    replication::RowChange,
    token::{TokenId, record::TokenRecord},
    trust::Bundle,
    virtual_ip::VipKey,
};

/// What the config file says and may say anew while running.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Who may see what is exported.
    pub grants: Grants,
    /// What is taken of what others export.
    pub imports: Vec<ImportRule>,
    /// Who here may call what.
    pub egress: Vec<EgressRule>,
    /// Who clients are by their address; the first that matches counts.
    pub callers: Vec<(IpNet, SpiffeId)>,
    /// Whether introductions are taken at all.
    pub introductions: bool,
    /// Whose introductions are approved at once: cluster ids, or `@issuer`.
    pub auto_approve: Vec<String>,
    /// Where connections go, where a person said so; the first rule that names a service counts.
    pub failovers: Vec<FailoverRule>,
}

/// Rules that were declared beside the config file, as custom resources. They are kept on disk: a gateway
/// that starts while nobody can be asked must not give away what a rule kept back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Declared {
    /// Who may see what is exported.
    pub grants: Vec<Grant>,
    /// What no grant gives away.
    pub guardrails: Vec<Guardrail>,
    /// What is taken of what others export.
    pub imports: Vec<ImportRule>,
    /// Where connections go.
    pub failovers: Vec<FailoverRule>,
}

/// One `[[failover]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRule {
    /// The services it is about.
    pub names: Vec<NamePattern>,
    /// What was said.
    pub policy: FailoverPolicy,
}

impl Settings {
    /// These, and after them what was declared beside the config file.
    #[must_use]
    pub fn with(&self, declared: &Declared) -> Self {
        let mut all = self.clone();
        all.grants.grants.extend(declared.grants.iter().cloned());
        all.grants.guardrails.extend(declared.guardrails.iter().cloned());
        all.imports.extend(declared.imports.iter().cloned());
        all.failovers.extend(declared.failovers.iter().cloned());
        all
    }

    /// What was said about a service, or the default.
    #[must_use]
    pub fn failover(&self, name: &ServiceName) -> FailoverPolicy {
        let named = |rule: &&FailoverRule| rule.names.iter().any(|pattern| pattern.matches(name));
        self.failovers.iter().find(named).map(|rule| rule.policy.clone()).unwrap_or_default()
    }
}

/// One change.
#[derive(Debug, Clone)]
pub enum Event {
    /// A service is offered, or offered differently.
    Exported(Export),
    /// A service is no longer offered.
    Unexported(ServiceName),
    /// Checks of a service's endpoints found exactly these not ready.
    Readiness(ServiceName, Unready),
    /// A peer joined, was introduced, or its record changed.
    Peer(Peer),
    /// What was decided about a peer.
    Standing(ClusterId, Standing),
    /// Nothing of a peer is remembered any more.
    PeerForgotten(ClusterId),
    /// What was held of a peer's exports is deleted; its names went before.
    CatalogDropped(ClusterId),
    /// A peer has stored this sequence of our own bundle.
    Acked(ClusterId, u64),
    /// A peer's roots changed; judged before.
    Bundle(ClusterId, Bundle),
    /// A peer listens elsewhere.
    Endpoints(ClusterId, Vec<String>),
    /// A token was issued, redeemed or revoked.
    Token(TokenRecord),
    /// A token's record is no longer needed.
    TokenForgotten(TokenId),
    /// Rows of a peer's catalog.
    Catalog(CatalogChange),
    /// All that a peer exports is held: a session with it is complete.
    CatalogSynced(ClusterId, (Epoch, Seq)),
    /// What was held of a peer when the process last ran.
    CatalogLoaded {
        /// Whose.
        peer: ClusterId,
        /// Which state of the exporter the rows are, if they are one.
        position: Option<(Epoch, Seq)>,
        /// Its rows.
        rows: Vec<Row>,
        /// When it was last known to be current.
        current: Timestamp,
    },
    /// No session keeps the peer's catalog current any more.
    SessionLost(ClusterId),
    /// Time passes: ages are judged.
    Tick,
    /// The config file says something else.
    Settings(Settings),
    /// Custom resources say something else.
    Declared(Declared),
    /// This gateway runs elsewhere than before.
    Locality(Locality),
    /// The derived Service of a name came, went or changed.
    Entrance(VipKey, Option<Entrance>),
}

impl Event {
    /// Whether it changes what the gateways of a cluster share, and what is on disk before it counts.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        !matches!(
            self,
            Self::Catalog(_)
                | Self::CatalogDropped(_)
                | Self::CatalogSynced(..)
                | Self::CatalogLoaded { .. }
                | Self::SessionLost(_)
                | Self::Readiness(..)
                | Self::Tick
                | Self::Settings(_)
                | Self::Locality(_)
                | Self::Entrance(..)
        )
    }
}

/// A step of a peer's catalog.
#[derive(Debug, Clone)]
pub struct CatalogChange {
    /// Whose.
    pub peer: ClusterId,
    /// Which state of the exporter was held before this step, if it was one. Held again after a restart, it
    /// makes the exporter repeat this step, which changes nothing.
    pub position: Option<(Epoch, Seq)>,
    /// Rows that came or went, in the order they came.
    pub rows: Vec<RowChange>,
    /// Rows a snapshot no longer held.
    pub swept: Vec<ServiceName>,
}
