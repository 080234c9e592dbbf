//! The config file, environment and flags as one typed [`Config`] of plain values.
//!
//! Text comes in, a config or a [`Problem`] with its place comes out: nothing here opens a file, reads the
//! process's environment or knows a component. The keys stand in `keys`, their types in `sections`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{
    code::Problem,
    ids::{ClusterId, Locality, ServiceName, TrustDomain},
    introduction::Introductions,
    policy::DefaultGrant,
};

mod export;
mod keys;
mod load;
mod reference;
mod sections;
mod source;
pub mod value;

#[cfg(test)]
mod tests;

pub use export::{ExportFlags, ExportSpec, PortSpec, SessionAffinity};
pub use load::{FileText, Overrides};
pub use reference::reference_page;
pub use sections::{
    Advertise, Affinity, Caller, CheckKind, Egress, Empty, Failover, Grant, Guardrail, Health, Import,
    ImportAction, Kubernetes, Limits, Link, Listen, Lives, Names,
};

/// All settings of a gateway. Every key has a default, so the file may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The cluster id; none means [`Config::cluster_id`]'s default, or what the state folder says.
    #[serde(with = "value::blank")]
    pub cluster: Option<ClusterId>,
    /// The trust domain; none means one derived from the cluster id and its first root.
    #[serde(with = "value::blank")]
    pub trust_domain: Option<TrustDomain>,
    /// Where this gateway runs.
    pub locality: Locality,
    /// What an export gets that no grant selects.
    pub default_grant: DefaultGrant,
    /// Whether members may introduce other clusters.
    pub introductions: Introductions,
    /// Whose introductions are approved at once: cluster ids, or [`ISSUER`].
    pub auto_approve: Vec<String>,
    /// Where this gateway listens.
    pub listen: Listen,
    /// How others reach it.
    pub advertise: Advertise,
    /// The zone and the virtual IPs.
    pub names: Names,
    /// The Kubernetes cluster this gateway belongs to.
    pub kubernetes: Kubernetes,
    /// Lives of what the cluster's CA issues.
    pub identity: Lives,
    /// Connections to other gateways.
    pub link: Link,
    /// The caps an operator may change.
    pub limits: Limits,
    /// Declared exports, those of flags included.
    #[serde(rename = "export", skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<ExportSpec>,
    /// Who may use which export.
    #[serde(rename = "grant", skip_serializing_if = "Vec::is_empty")]
    pub grants: Vec<Grant>,
    /// What no grant gives away.
    #[serde(rename = "guardrail", skip_serializing_if = "Vec::is_empty")]
    pub guardrails: Vec<Guardrail>,
    /// Who on this side may call what.
    #[serde(rename = "egress", skip_serializing_if = "Vec::is_empty")]
    pub egress: Vec<Egress>,
    /// Which names are taken from whom.
    #[serde(rename = "import", skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// Where connections go.
    #[serde(rename = "failover", skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Failover>,
    /// Who clients are.
    #[serde(rename = "caller", skip_serializing_if = "Vec::is_empty")]
    pub callers: Vec<Caller>,
}

/// In `auto_approve`: the peer whose token this cluster redeemed.
pub const ISSUER: &str = "@issuer";

impl Default for Config {
    fn default() -> Self {
        Self {
            cluster: None,
            trust_domain: None,
            locality: Locality::default(),
            default_grant: DefaultGrant::default(),
            introductions: Introductions::default(),
            auto_approve: vec![ISSUER.to_owned()],
            listen: Listen::default(),
            advertise: Advertise::default(),
            names: Names::default(),
            kubernetes: Kubernetes::default(),
            identity: Lives::default(),
            link: Link::default(),
            limits: Limits::default(),
            exports: Vec::new(),
            grants: Vec::new(),
            guardrails: Vec::new(),
            egress: Vec::new(),
            imports: Vec::new(),
            failovers: Vec::new(),
            callers: Vec::new(),
        }
    }
}

impl Config {
    /// Reads the file's text, then the environment's variables over it, then the flags.
    ///
    /// # Errors
    /// A [`Problem`] that names the key, its value, and the line, variable or flag it stands in.
    pub fn load(
        file: Option<FileText<'_>>,
        env: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, Problem> {
        load::load(file, env, overrides)
    }

    /// The JSON Schema of the file, for editors and `tombolo config schema`.
    #[must_use]
    pub fn schema_json() -> String {
        let schema = keys::schema(&Self::default());
        serde_json::to_string_pretty(&schema).expect("a schema is plain data")
    }

    /// The effective settings as a config file. There are no secrets in a config.
    #[must_use]
    pub fn show(&self) -> String {
        toml::to_string(self).expect("a config is plain data")
    }

    /// The cluster id, or by default the host name's first label, made to fit.
    #[must_use]
    pub fn cluster_id(&self, host_name: &str) -> ClusterId {
        self.cluster.clone().unwrap_or_else(|| {
            let first = host_name.split('.').next().unwrap_or_default().to_lowercase();
            let fitting = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
            let label: String = first.chars().map(fitting).take(63).collect();
            ClusterId::parse(label.trim_matches('-'))
                .unwrap_or_else(|_| ClusterId::parse("cluster").expect("cluster is a label"))
        })
    }

    /// Where an export is declared, for messages: "tombolo.toml line 12".
    #[must_use]
    pub fn place_of_export(&self, name: &ServiceName) -> Option<&str> {
        self.exports.iter().find(|spec| spec.service_name() == *name).map(|spec| spec.place.as_str())
    }

    /// Keys that differ in `new` and take effect only at the next start: `"listen.quic"`.
    #[must_use]
    pub fn changes_needing_restart(&self, new: &Self) -> Vec<String> {
        let (old, new) = (load::table_of(self), load::table_of(new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        let mut changed = Vec::new();
        for name in names.into_iter().filter(|name| !keys::RELOADED.contains(&name.as_str())) {
            let pair = (old.get(name), new.get(name));
            match pair {
                (a, b) if a == b => {}
                (Some(toml::Value::Table(a)), Some(toml::Value::Table(b))) => {
                    let differs = |key: &&String| a.get(*key) != b.get(*key);
                    changed.extend(b.keys().filter(differs).map(|key| keys::join(name, key)));
                }
                _ => changed.push(name.clone()),
            }
        }
        changed
    }
}
