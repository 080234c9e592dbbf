//! The consumer's two gates: which names are taken from whom, and who here may call them.

use serde::{Deserialize, Serialize};

use super::{CallerPattern, Decision, NamePattern, PeerPattern, Reason, is_reserved};
use crate::model::ids::{ClusterId, ServiceName, SpiffeId};

/// What an import rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportAction {
    /// Take these names from these peers; the names are then taken from no others.
    Allow,
    /// Never take them.
    Deny,
}

/// One `[[import]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRule {
    /// The names it selects.
    pub names: Vec<NamePattern>,
    /// The peers it is about.
    pub peers: Vec<PeerPattern>,
    /// What it does.
    pub action: ImportAction,
    /// The name under which they appear here.
    pub alias: Option<ServiceName>,
    /// Whether they merge with other clusters' exports of that name.
    pub merge: bool,
}

/// How an export of a peer appears here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import<'a> {
    /// Whether it does, and why.
    pub decision: Decision,
    /// Under which name, when not its own.
    pub alias: Option<&'a ServiceName>,
    /// Whether it merges with others of that name.
    pub merge: bool,
}

/// Whether a peer's export becomes an import here. A denial counts before any allowance, whatever their
/// order; a name that no rule selects is taken from every member.
#[must_use]
pub fn may_import<'a>(rules: &'a [ImportRule], name: &ServiceName, peer: &ClusterId) -> Import<'a> {
    let plain = |decision| Import { decision, alias: None, merge: true };
    if is_reserved(name) {
        return plain(Decision::refuse(Reason::Reserved));
    }
    let (mut first_allow, mut allowed) = (None, None);
    for (at, rule) in rules.iter().enumerate() {
        if !rule.names.iter().any(|pattern| pattern.matches(name)) {
            continue;
        }
        let of_peer = rule.peers.iter().any(|pattern| pattern.matches(peer));
        match rule.action {
            ImportAction::Deny if of_peer => return plain(Decision::refuse(Reason::ImportRefused(at + 1))),
            ImportAction::Deny => {}
            ImportAction::Allow => {
                first_allow.get_or_insert(at + 1);
                if of_peer {
                    allowed.get_or_insert((at + 1, rule));
                }
            }
        }
    }
    match (allowed, first_allow) {
        (Some((number, rule)), _) => Import {
            decision: Decision::allow(Reason::ImportRule(number)),
            alias: rule.alias.as_ref(),
            merge: rule.merge,
        },
        (None, Some(number)) => plain(Decision::refuse(Reason::PeerNotImported(number))),
        (None, None) => plain(Decision::allow(Reason::DefaultImport)),
    }
}

/// The other names under which a name may appear here, by rules with an alias.
pub fn aliases_of<'a>(
    rules: &'a [ImportRule],
    name: &'a ServiceName,
) -> impl Iterator<Item = &'a ServiceName> + 'a {
    let named = |rule: &&ImportRule| rule.names.iter().any(|pattern| pattern.matches(name));
    rules.iter().filter(named).filter_map(|rule| rule.alias.as_ref())
}

/// The names that may appear here as `alias`.
pub fn sources_of<'a>(
    rules: &'a [ImportRule],
    alias: &ServiceName,
) -> impl Iterator<Item = ServiceName> + 'a {
    let alias = alias.clone();
    let here = move |rule: &&ImportRule| rule.alias.as_ref() == Some(&alias);
    rules.iter().filter(here).filter_map(|rule| rule.names.first()?.literal())
}

/// One `[[egress]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    /// The names it selects.
    pub names: Vec<NamePattern>,
    /// Who of this cluster may call them.
    pub callers: Vec<CallerPattern>,
}

/// Whether a caller of this cluster may call a name of the clusterset. A name that no rule selects is open to
/// all; one that rules select, to those whom one of them names.
#[must_use]
pub fn may_call_out(rules: &[EgressRule], name: &ServiceName, caller: &SpiffeId) -> Decision {
    let mut first = None;
    for (at, rule) in rules.iter().enumerate() {
        if !rule.names.iter().any(|pattern| pattern.matches(name)) {
            continue;
        }
        first.get_or_insert(at + 1);
        if rule.callers.iter().any(|pattern| pattern.matches(caller)) {
            return Decision::allow(Reason::EgressRule(at + 1));
        }
    }
    match first {
        Some(rule) => Decision::refuse(Reason::CallerNotLetOut(rule)),
        None => Decision::allow(Reason::DefaultEgress),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).expect("a name")
    }

    fn caller(path: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://east.test/{path}")).expect("an id")
    }

    fn egress(names: &str, callers: &str) -> EgressRule {
        let callers = CallerPattern::parse(&format!("spiffe://east.test/{callers}")).expect("a pattern");
        EgressRule { names: vec![NamePattern::parse(names).expect("a pattern")], callers: vec![callers] }
    }

    #[test]
    fn a_name_that_no_egress_rule_selects_is_open_to_all() {
        let decision = may_call_out(&[egress("pay/*", "ns/shop/sa/*")], &name("shop/web"), &caller("x"));
        assert_eq!((decision.allowed, decision.reason), (true, Reason::DefaultEgress));
    }

    #[test]
    fn a_selected_name_is_for_those_whom_some_rule_names() {
        let rules = [egress("pay/*", "ns/shop/sa/cart"), egress("*/card", "ns/shop/sa/*")];
        let asked = |service, path| may_call_out(&rules, &name(service), &caller(path));
        assert_eq!(asked("pay/card", "ns/shop/sa/cart").reason, Reason::EgressRule(1));
        assert_eq!(asked("pay/card", "ns/shop/sa/web").reason, Reason::EgressRule(2));
        let refused = asked("pay/bill", "ns/shop/sa/web");
        assert_eq!((refused.allowed, refused.reason), (false, Reason::CallerNotLetOut(1)));
        assert!(!asked("pay/card", "ns/shopping/sa/cart").allowed, "whole segments only");
    }

    #[test]
    fn an_alias_is_found_from_both_ends() {
        let rule = ImportRule {
            names: vec![NamePattern::parse("shop/web").expect("a pattern")],
            peers: vec![PeerPattern::parse("*").expect("a pattern")],
            action: ImportAction::Allow,
            alias: Some(name("shop/web-west")),
            merge: true,
        };
        let rules = [rule];
        let web = name("shop/web");
        assert_eq!(aliases_of(&rules, &web).collect::<Vec<_>>(), [&name("shop/web-west")]);
        assert_eq!(sources_of(&rules, &name("shop/web-west")).collect::<Vec<_>>(), [web]);
        assert_eq!(sources_of(&rules, &name("shop/other")).count(), 0);
    }
}
