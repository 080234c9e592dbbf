//! Who may see an export, who may call it, and whose exports become imports: default deny with one default
//! grant (B5), decided by name, peer and caller alone.
//!
//! Rules compare whole segments, literally or by `*`; there are no regular expressions and no partial
//! matches (A6). Every decision carries its reason, for `explain`. That a caller's identity is proven is the
//! proxy's matter; that a peer is who it says, the verifier's.

mod consumer;
mod pattern;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::{ClusterId, ServiceName, SpiffeId, TrustDomain};
pub use consumer::{
    EgressRule, Import, ImportAction, ImportRule, aliases_of, may_call_out, may_import, sources_of,
};
pub use pattern::{CallerPattern, NamePattern, PatternError, PeerPattern};

/// Namespaces whose services are never exported or imported.
pub const RESERVED_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// The one reserved service outside them: the API server's.
pub const RESERVED_SERVICE: (&str, &str) = ("default", "kubernetes");

/// Whether a name is never exported nor imported, whatever any rule says (threat 9).
#[must_use]
pub fn is_reserved(name: &ServiceName) -> bool {
    let (namespace, service) = (name.namespace.as_str(), name.name.as_str());
    RESERVED_NAMESPACES.contains(&namespace) || (namespace, service) == RESERVED_SERVICE
}

/// Whether a service may be exported at all.
#[must_use]
pub fn may_export(name: &ServiceName) -> Decision {
    if is_reserved(name) { Decision::refuse(Reason::Reserved) } else { Decision::allow(Reason::Exported) }
}

/// Yes or no, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The answer.
    pub allowed: bool,
    /// The rule it comes from.
    pub reason: Reason,
    /// What the grants in `audit` mode that select the name would have said.
    pub audit: Option<bool>,
}

impl Decision {
    fn allow(reason: Reason) -> Self {
        Self { allowed: true, reason, audit: None }
    }

    fn refuse(reason: Reason) -> Self {
        Self { allowed: false, reason, audit: None }
    }
}

/// Why a [`Decision`] is what it is. Rules are counted from 1, in the order of the config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The name is reserved.
    Reserved,
    /// Nothing stands against exporting it.
    Exported,
    /// Nothing of that name is exported.
    NotExported,
    /// The peer was introduced and waits for approval.
    NotApproved,
    /// No grant selects the export; `default_grant = "clusterset"` lets every member have it.
    DefaultClusterset,
    /// No grant selects the export, and `default_grant = "none"`.
    DefaultNone,
    /// This grant names it, the peer and the caller.
    Grant(usize),
    /// Grants select the export, this one first, and none of them names the peer.
    PeerNotGranted(usize),
    /// Grants let the peer have the export, this one first, and none of them names the caller.
    CallerNotGranted(usize),
    /// The caller is of another trust domain than the peer that vouches for it (A7).
    ForeignCaller,
    /// No import rule selects the name; exports of members are imported.
    DefaultImport,
    /// This import rule allows it.
    ImportRule(usize),
    /// This import rule refuses it.
    ImportRefused(usize),
    /// Import rules allow the name, this one first, and none of them from this peer.
    PeerNotImported(usize),
    /// This guardrail keeps the export from the peer, whatever grants say.
    Guardrail(usize),
    /// No egress rule selects the name; every caller of this cluster may call it.
    DefaultEgress,
    /// This egress rule names the caller.
    EgressRule(usize),
    /// Egress rules select the name, this one first, and none of them names the caller.
    CallerNotLetOut(usize),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved => f.write_str("the name is reserved"),
            Self::Exported => f.write_str("it is exported"),
            Self::NotExported => f.write_str("it is not exported"),
            Self::NotApproved => f.write_str("the peer is not approved, or is paused"),
            Self::DefaultClusterset => f.write_str("no grant selects it, and every member may by default"),
            Self::DefaultNone => f.write_str("no grant selects it, and none is the default"),
            Self::Grant(rule) => write!(f, "grant {rule} allows it"),
            Self::PeerNotGranted(rule) => write!(f, "grant {rule} selects it and does not name the peer"),
            Self::CallerNotGranted(rule) => write!(f, "grant {rule} selects it and does not name the caller"),
            Self::ForeignCaller => f.write_str("the caller is of another trust domain than the peer"),
            Self::DefaultImport => {
                f.write_str("no import rule selects it, and members' exports are imported")
            }
            Self::ImportRule(rule) => write!(f, "import rule {rule} allows it"),
            Self::ImportRefused(rule) => write!(f, "import rule {rule} refuses it"),
            Self::Guardrail(rule) => write!(f, "guardrail {rule} keeps it from the peer"),
            Self::DefaultEgress => {
                f.write_str("no egress rule selects it, and every caller here may call it")
            }
            Self::EgressRule(rule) => write!(f, "egress rule {rule} allows it"),
            Self::CallerNotLetOut(rule) => {
                write!(f, "egress rule {rule} selects it and does not name the caller")
            }
            Self::PeerNotImported(rule) => {
                write!(f, "import rule {rule} takes the name, but not from this peer")
            }
        }
    }
}

/// What holds for an export that no grant selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultGrant {
    /// Every member may have it, which is what a `ServiceExport` means in the standard.
    #[default]
    Clusterset,
    /// Nobody.
    None,
}

/// Whether a grant decides or only reports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantMode {
    /// It decides.
    #[default]
    Enforce,
    /// It changes nothing; what it would decide is reported.
    Audit,
}

/// One `[[grant]]`: these exports for these peers, and of these for these callers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The exports it selects.
    pub exports: Vec<NamePattern>,
    /// Who may see them.
    #[serde(default)]
    pub peers: Vec<PeerPattern>,
    /// Who of those peers may call them; empty: everybody there.
    #[serde(default)]
    pub callers: Vec<CallerPattern>,
    /// Whether it decides.
    #[serde(default)]
    pub mode: GrantMode,
}

/// A peer as policy knows it.
#[derive(Debug, Clone, Copy)]
pub struct PeerView<'a> {
    /// Its cluster id.
    pub cluster: &'a ClusterId,
    /// The trust domain that was pinned when it joined.
    pub trust_domain: &'a TrustDomain,
    /// It joined by token, or its introduction was approved (B5).
    pub approved: bool,
}

/// All grants, and what holds where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// For exports that no grant selects.
    pub default: DefaultGrant,
    /// In the order of the config file; their order decides nothing.
    pub grants: Vec<Grant>,
    /// What no grant gives away (A5).
    pub guardrails: Vec<Guardrail>,
}

/// One `[[guardrail]]`: these exports are never for these peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guardrail {
    /// The exports it selects.
    pub exports: Vec<NamePattern>,
    /// Who never gets them.
    pub peers: Vec<PeerPattern>,
}

impl Grants {
    /// Whether a peer is told of an export.
    #[must_use]
    pub fn visible(&self, name: &ServiceName, peer: PeerView<'_>) -> Decision {
        self.decide(name, peer, None)
    }

    /// Whether a caller in a peer may reach an export. An unattributed caller matches only grants without
    /// callers (M9).
    #[must_use]
    pub fn callable(&self, name: &ServiceName, peer: PeerView<'_>, caller: &SpiffeId) -> Decision {
        if caller.trust_domain() != peer.trust_domain {
            return Decision::refuse(Reason::ForeignCaller);
        }
        self.decide(name, peer, Some(caller))
    }

    fn decide(&self, name: &ServiceName, peer: PeerView<'_>, caller: Option<&SpiffeId>) -> Decision {
        if is_reserved(name) {
            return Decision::refuse(Reason::Reserved);
        }
        if !peer.approved {
            return Decision::refuse(Reason::NotApproved);
        }
        let kept = self.guardrails.iter().position(|rule| {
            rule.exports.iter().any(|pattern| pattern.matches(name))
                && rule.peers.iter().any(|pattern| pattern.matches(peer.cluster))
        });
        if let Some(at) = kept {
            return Decision::refuse(Reason::Guardrail(at + 1));
        }
        let ask = |mode| self.selected(mode, name, peer, caller);
        let mut decision = ask(GrantMode::Enforce).unwrap_or_else(|| match self.default {
            DefaultGrant::Clusterset => Decision::allow(Reason::DefaultClusterset),
            DefaultGrant::None => Decision::refuse(Reason::DefaultNone),
        });
        decision.audit = ask(GrantMode::Audit).map(|audit| audit.allowed);
        decision
    }

    /// What the grants of one mode say, if any of them selects the export.
    fn selected(
        &self,
        mode: GrantMode,
        name: &ServiceName,
        peer: PeerView<'_>,
        caller: Option<&SpiffeId>,
    ) -> Option<Decision> {
        let (mut first, mut first_for_peer) = (None, None);
        for (at, grant) in self.grants.iter().enumerate() {
            if grant.mode != mode || !grant.exports.iter().any(|pattern| pattern.matches(name)) {
                continue;
            }
            let rule = at + 1;
            first.get_or_insert(rule);
            if !grant.peers.iter().any(|pattern| pattern.matches(peer.cluster)) {
                continue;
            }
            first_for_peer.get_or_insert(rule);
            let named = |id: &SpiffeId| grant.callers.iter().any(|pattern| pattern.matches(id));
            if grant.callers.is_empty() || caller.is_none_or(named) {
                return Some(Decision::allow(Reason::Grant(rule)));
            }
        }
        let reason = match (first, first_for_peer) {
            (_, Some(rule)) => Reason::CallerNotGranted(rule),
            (Some(rule), None) => Reason::PeerNotGranted(rule),
            (None, None) => return None,
        };
        Some(Decision::refuse(reason))
    }
}
