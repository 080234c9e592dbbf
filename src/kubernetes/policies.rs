//! From custom resources to the rules of the model: what each says, or what in it cannot be read. Pure.

use std::fmt::Display;

use super::{
    own::{Own, Owned},
    resources::{self, Action, ExportGrantSpec, FailoverPolicySpec, GuardrailSpec, ImportPolicySpec, Mode},
    seen::Key,
};
use crate::{
    config::value::parse_duration,
    model::{
        failover::{Affinity, FailoverPolicy},
        ids::{ClusterId, ServiceName},
        policy::{
            CallerPattern, Grant, GrantMode, Guardrail, ImportAction, ImportRule, NamePattern, PatternError,
            PeerPattern, is_reserved,
        },
        state::{Declared, FailoverRule},
    },
};

/// All rules that can be read, by their names; the others count for nothing.
pub(super) fn declared(owned: &Owned) -> Declared {
    Declared {
        grants: owned.grants.iter().filter_map(|(key, it)| grant(key, &it.spec).ok()).collect(),
        guardrails: owned.guardrails.iter().filter_map(|(_, it)| guardrail(&it.spec).ok()).collect(),
        imports: owned.imports.iter().filter_map(|(_, it)| import(&it.spec).ok()).collect(),
        failovers: owned.failovers.iter().filter_map(|(key, it)| failover(key, &it.spec).ok()).collect(),
    }
}

/// What every rule object is told of itself: none when it is taken over, else why not.
pub(super) fn verdicts(owned: &Owned) -> Vec<(RuleKind, Key, Told)> {
    let mut all = Vec::new();
    let mut tell = |kind, key: &Key, told| all.push((kind, key.clone(), told));
    for (key, it) in owned.grants.iter() {
        tell(RuleKind::Grant, key, Told::of(it, grant(key, &it.spec).err()));
    }
    for (key, it) in owned.guardrails.iter() {
        tell(RuleKind::Guardrail, key, Told::of(it, guardrail(&it.spec).err()));
    }
    for (key, it) in owned.imports.iter() {
        tell(RuleKind::Import, key, Told::of(it, import(&it.spec).err()));
    }
    for (key, it) in owned.failovers.iter() {
        tell(RuleKind::Failover, key, Told::of(it, failover(key, &it.spec).err()));
    }
    all
}

/// Which kind of rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleKind {
    Grant,
    Guardrail,
    Import,
    Failover,
}

impl RuleKind {
    /// As in its API: kind and plural.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Grant => ("ExportGrant", "exportgrants"),
            Self::Guardrail => ("Guardrail", "guardrails"),
            Self::Import => ("ImportPolicy", "importpolicies"),
            Self::Failover => ("FailoverPolicy", "failoverpolicies"),
        }
    }
}

/// What a rule object is told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Told {
    pub(super) generation: i64,
    /// Its status as it stands there.
    pub(super) status: serde_json::Value,
    pub(super) wrong: Option<String>,
}

impl Told {
    fn of<S>(own: &Own<S>, wrong: Option<String>) -> Self {
        Self { generation: own.generation, status: own.status.clone(), wrong }
    }
}

fn patterns<T>(
    field: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, PatternError>,
) -> Result<Vec<T>, String> {
    texts.iter().map(|text| parse(text).map_err(|error| wrong(field, error))).collect()
}

fn wrong(field: &str, error: impl Display) -> String {
    format!("spec.{field}: {error}")
}

/// Names of one namespace, which the object cannot step out of.
fn of_namespace(field: &str, namespace: &str, names: &[String]) -> Result<Vec<NamePattern>, String> {
    let full: Vec<String> = names.iter().map(|name| format!("{namespace}/{name}")).collect();
    if let Some(name) = names.iter().find(|name| name.contains('/')) {
        return Err(wrong(field, format!("{name:?} has a namespace, and its own is meant")));
    }
    patterns(field, &full, NamePattern::parse)
}

fn grant(key: &Key, spec: &ExportGrantSpec) -> Result<Grant, String> {
    Ok(Grant {
        exports: of_namespace("exports", &key.namespace, &spec.exports)?,
        peers: patterns("peers", &spec.peers, PeerPattern::parse)?,
        callers: patterns("callers", &spec.callers, CallerPattern::parse)?,
        mode: match spec.mode {
            Mode::Enforce => GrantMode::Enforce,
            Mode::Audit => GrantMode::Audit,
        },
    })
}

fn guardrail(spec: &GuardrailSpec) -> Result<Guardrail, String> {
    Ok(Guardrail {
        exports: patterns("exports", &spec.exports, NamePattern::parse)?,
        peers: patterns("peers", &spec.peers, PeerPattern::parse)?,
    })
}

fn import(spec: &ImportPolicySpec) -> Result<ImportRule, String> {
    let names = patterns("names", &spec.names, NamePattern::parse)?;
    let alias = spec.alias.as_deref().map(ServiceName::parse).transpose();
    let alias = alias.map_err(|error| wrong("alias", error))?;
    if let Some(alias) = &alias {
        if is_reserved(alias) {
            return Err(wrong("alias", format!("{alias} is a reserved name")));
        }
        if !matches!(names.as_slice(), [one] if one.literal().is_some()) {
            return Err(wrong("alias", "stands for exactly one name, without a star, in `names`"));
        }
    }
    Ok(ImportRule {
        names,
        peers: patterns("peers", &spec.peers, PeerPattern::parse)?,
        action: match spec.action {
            Action::Allow => ImportAction::Allow,
            Action::Refuse => ImportAction::Deny,
        },
        alias,
        merge: spec.merge,
    })
}

fn failover(key: &Key, spec: &FailoverPolicySpec) -> Result<FailoverRule, String> {
    let cluster = |field: &str, text: &String| ClusterId::parse(text).map_err(|error| wrong(field, error));
    let share = |(text, share): (&String, &i32)| {
        let share = u32::try_from(*share).map_err(|_| wrong("weights", format!("{share} is below 0")))?;
        Ok::<_, String>((cluster("weights", text)?, share))
    };
    let policy = FailoverPolicy {
        affinity: match spec.affinity {
            resources::Affinity::Local => Affinity::Local,
            resources::Affinity::Remote => Affinity::Remote,
            resources::Affinity::None => Affinity::None,
        },
        order: spec.order.iter().map(|text| cluster("order", text)).collect::<Result<_, _>>()?,
        weights: spec.weights.iter().map(share).collect::<Result<_, _>>()?,
        hold: parse_duration(&spec.hold).map_err(|error| wrong("hold", error))?,
        ..FailoverPolicy::default()
    };
    Ok(FailoverRule { names: of_namespace("services", &key.namespace, &spec.services)?, policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(all: &[&str]) -> Vec<String> {
        all.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn a_grant_is_about_its_own_namespace_and_no_other() {
        let spec =
            ExportGrantSpec { exports: texts(&["*"]), peers: texts(&["west"]), ..ExportGrantSpec::default() };
        let all = grant(&Key::new("shop", "all"), &spec).expect("a grant");
        let name = |text| ServiceName::parse(text).expect("a name");
        assert!(all.exports[0].matches(&name("shop/web")));
        assert!(!all.exports[0].matches(&name("bank/web")));
        let spec = ExportGrantSpec { exports: texts(&["bank/web"]), ..spec };
        assert!(grant(&Key::new("shop", "all"), &spec).expect_err("refused").contains("exports"));
    }

    #[test]
    fn what_cannot_be_read_says_which_field() {
        let spec = FailoverPolicySpec {
            services: texts(&["web"]),
            affinity: resources::Affinity::Local,
            order: texts(&["Not A Cluster"]),
            weights: std::collections::BTreeMap::new(),
            hold: "5s".to_owned(),
        };
        let key = Key::new("shop", "web");
        assert!(failover(&key, &spec).expect_err("refused").starts_with("spec.order:"));
        let spec = FailoverPolicySpec { order: Vec::new(), hold: "soon".to_owned(), ..spec };
        assert!(failover(&key, &spec).expect_err("refused").starts_with("spec.hold:"));
        let spec = ImportPolicySpec {
            names: texts(&["shop/*"]),
            peers: texts(&["*"]),
            action: Action::Allow,
            alias: Some("shop/all".to_owned()),
            merge: true,
        };
        assert!(import(&spec).expect_err("refused").starts_with("spec.alias:"));
    }
}
