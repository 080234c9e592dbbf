//! What is kept of Tombolo's own custom resources. Nothing is decided here.

use kube::{
    Resource, ResourceExt as _,
    core::object::{HasSpec, HasStatus},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    resources::{
        ClustersetSpec, ExportGrantSpec, FailoverPolicySpec, GuardrailSpec, ImportPolicySpec, JoinTokenSpec,
        PeerSpec,
    },
    world::{Change, Mirror},
};

/// One of them, as it stands there.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Own<S> {
    pub(super) uid: String,
    pub(super) generation: i64,
    pub(super) spec: S,
    /// As it stands there.
    pub(super) status: Value,
    /// The gateway made it, not a person.
    pub(super) ours: bool,
}

impl<S: Clone> Own<S> {
    /// None while it is being deleted.
    pub(super) fn of<K>(object: &K) -> Option<Self>
    where
        K: Resource + HasSpec<Spec = S> + HasStatus<Status: Serialize>,
    {
        if object.meta().deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            uid: object.uid()?,
            generation: object.meta().generation.unwrap_or(0),
            spec: object.spec().clone(),
            status: serde_json::to_value(object.status()).unwrap_or_default(),
            ours: object.labels().get(super::MANAGED_BY).is_some_and(|by| by == super::MANAGER),
        })
    }
}

/// What was said about one kind of them.
#[derive(Debug)]
pub(super) enum SaidOwn {
    Clustersets(Change<Own<ClustersetSpec>>),
    Peers(Change<Own<PeerSpec>>),
    Tokens(Change<Own<JoinTokenSpec>>),
    Grants(Change<Own<ExportGrantSpec>>),
    Imports(Change<Own<ImportPolicySpec>>),
    Guardrails(Change<Own<GuardrailSpec>>),
    Failovers(Change<Own<FailoverPolicySpec>>),
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Owned {
    pub(super) clustersets: Mirror<Own<ClustersetSpec>>,
    pub(super) peers: Mirror<Own<PeerSpec>>,
    pub(super) tokens: Mirror<Own<JoinTokenSpec>>,
    pub(super) grants: Mirror<Own<ExportGrantSpec>>,
    pub(super) imports: Mirror<Own<ImportPolicySpec>>,
    pub(super) guardrails: Mirror<Own<GuardrailSpec>>,
    pub(super) failovers: Mirror<Own<FailoverPolicySpec>>,
}

impl Owned {
    /// Takes over what was said.
    pub(super) fn take(&mut self, said: SaidOwn) {
        match said {
            SaidOwn::Clustersets(change) => self.clustersets.take(change),
            SaidOwn::Peers(change) => self.peers.take(change),
            SaidOwn::Tokens(change) => self.tokens.take(change),
            SaidOwn::Grants(change) => self.grants.take(change),
            SaidOwn::Imports(change) => self.imports.take(change),
            SaidOwn::Guardrails(change) => self.guardrails.take(change),
            SaidOwn::Failovers(change) => self.failovers.take(change),
        }
    }

    /// Whether all rules were seen once; before that, those that were known hold.
    pub(super) fn knows_rules(&self) -> bool {
        self.grants.is_complete()
            && self.imports.is_complete()
            && self.guardrails.is_complete()
            && self.failovers.is_complete()
    }

    /// Whether the rules are the same as in `old`.
    pub(super) fn same_rules(&self, old: &Self) -> bool {
        self.knows_rules() == old.knows_rules()
            && self.grants.changed_since(&old.grants).is_empty()
            && self.imports.changed_since(&old.imports).is_empty()
            && self.guardrails.changed_since(&old.guardrails).is_empty()
            && self.failovers.changed_since(&old.failovers).is_empty()
    }
}
