//! Every gate's defaults, precedence and matching; what may never pass, passes under no rule.

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("valid")
}

fn cluster(text: &str) -> ClusterId {
    ClusterId::parse(text).expect("valid")
}

fn grant(exports: &str, peers: &str, callers: &[&str]) -> Grant {
    Grant {
        exports: vec![NamePattern::parse(exports).expect("valid")],
        peers: vec![PeerPattern::parse(peers).expect("valid")],
        callers: callers.iter().map(|each| CallerPattern::parse(each).expect("valid")).collect(),
        mode: GrantMode::Enforce,
    }
}

fn grants(default: DefaultGrant, grants: Vec<Grant>) -> Grants {
    Grants { default, grants, guardrails: Vec::new() }
}

/// Asks for the approved member `west` of trust domain `west.tombolo`.
fn visible(grants: &Grants, service: &str) -> (bool, Reason) {
    let (cluster, trust_domain) = (cluster("west"), TrustDomain::parse("west.tombolo").expect("valid"));
    let peer = PeerView { cluster: &cluster, trust_domain: &trust_domain, approved: true };
    let decision = grants.visible(&name(service), peer);
    (decision.allowed, decision.reason)
}

fn callable(grants: &Grants, service: &str, caller: &str) -> (bool, Reason) {
    let (cluster, trust_domain) = (cluster("west"), TrustDomain::parse("west.tombolo").expect("valid"));
    let peer = PeerView { cluster: &cluster, trust_domain: &trust_domain, approved: true };
    let decision = grants.callable(&name(service), peer, &SpiffeId::parse(caller).expect("valid"));
    (decision.allowed, decision.reason)
}

#[test]
fn an_export_that_no_grant_selects_follows_the_default() {
    let open = grants(DefaultGrant::Clusterset, vec![grant("shop/cart", "east", &[])]);
    assert_eq!(visible(&open, "shop/web"), (true, Reason::DefaultClusterset));
    let closed = grants(DefaultGrant::None, vec![]);
    assert_eq!(visible(&closed, "shop/web"), (false, Reason::DefaultNone));
}

#[test]
fn the_first_grant_that_selects_an_export_replaces_the_default_for_it() {
    let rules = grants(DefaultGrant::Clusterset, vec![grant("shop/*", "east", &[])]);
    assert_eq!(visible(&rules, "shop/web"), (false, Reason::PeerNotGranted(1)));
    assert_eq!(visible(&rules, "bank/web"), (true, Reason::DefaultClusterset));
    let both = grants(DefaultGrant::None, vec![grant("shop/*", "east", &[]), grant("*/web", "*", &[])]);
    assert_eq!(visible(&both, "shop/web"), (true, Reason::Grant(2)));
}

#[test]
fn an_introduced_peer_sees_nothing_before_it_is_approved() {
    let rules = grants(DefaultGrant::Clusterset, vec![grant("*/*", "*", &[])]);
    let (cluster, trust_domain) = (cluster("west"), TrustDomain::parse("west.tombolo").expect("valid"));
    let peer = PeerView { cluster: &cluster, trust_domain: &trust_domain, approved: false };
    assert_eq!(rules.visible(&name("shop/web"), peer), Decision::refuse(Reason::NotApproved));
}

#[test]
fn reserved_names_pass_under_no_rule() {
    let rules = grants(DefaultGrant::Clusterset, vec![grant("*/*", "*", &[])]);
    let allow = ImportRule {
        names: vec![NamePattern::parse("*/*").expect("valid")],
        peers: vec![PeerPattern::parse("*").expect("valid")],
        action: ImportAction::Allow,
        alias: None,
        merge: true,
    };
    for reserved in ["kube-system/dns", "kube-public/a", "kube-node-lease/a", "default/kubernetes"] {
        assert_eq!(visible(&rules, reserved), (false, Reason::Reserved));
        assert_eq!(may_export(&name(reserved)), Decision::refuse(Reason::Reserved));
        let import = may_import(std::slice::from_ref(&allow), &name(reserved), &cluster("west"));
        assert_eq!(import.decision, Decision::refuse(Reason::Reserved));
    }
    for free in ["kube-systems/dns", "default/kubernetes-2", "shop/kubernetes"] {
        assert!(may_export(&name(free)).allowed, "{free}");
    }
}

#[test]
fn a_caller_counts_only_within_its_peer_and_its_grant() {
    let sa = "spiffe://west.tombolo/ns/shop/sa/cart";
    let rules = grants(DefaultGrant::None, vec![grant("shop/web", "west", &[sa])]);
    assert_eq!(visible(&rules, "shop/web"), (true, Reason::Grant(1)));
    assert_eq!(callable(&rules, "shop/web", sa), (true, Reason::Grant(1)));
    let other = "spiffe://west.tombolo/ns/shop/sa/cart2";
    assert_eq!(callable(&rules, "shop/web", other), (false, Reason::CallerNotGranted(1)));
    let foreign = "spiffe://east.tombolo/ns/shop/sa/cart";
    assert_eq!(callable(&rules, "shop/web", foreign), (false, Reason::ForeignCaller));
}

#[test]
fn an_unattributed_caller_matches_only_grants_to_the_whole_peer() {
    let nobody = "spiffe://west.tombolo/unattributed";
    let every_caller = grant("shop/web", "west", &["spiffe://west.tombolo/**"]);
    let narrow = grants(DefaultGrant::None, vec![every_caller]);
    assert_eq!(callable(&narrow, "shop/web", nobody), (false, Reason::CallerNotGranted(1)));
    let wide = grants(DefaultGrant::None, vec![grant("shop/web", "west", &[])]);
    assert_eq!(callable(&wide, "shop/web", nobody), (true, Reason::Grant(1)));
}

#[test]
fn a_grant_in_audit_mode_decides_nothing_and_says_what_it_would() {
    let audit = Grant { mode: GrantMode::Audit, ..grant("shop/*", "east", &[]) };
    let rules = grants(DefaultGrant::Clusterset, vec![audit]);
    let (cluster, trust_domain) = (cluster("west"), TrustDomain::parse("west.tombolo").expect("valid"));
    let peer = PeerView { cluster: &cluster, trust_domain: &trust_domain, approved: true };
    let decision = rules.visible(&name("shop/web"), peer);
    assert!(decision.allowed && decision.reason == Reason::DefaultClusterset);
    assert_eq!(decision.audit, Some(false));
}

#[test]
fn patterns_compare_whole_segments() {
    let cases = [
        ("spiffe://td/ns/a", "spiffe://td/ns/a", true),
        ("spiffe://td/ns/a", "spiffe://td/ns/ab", false),
        ("spiffe://td/ns/a", "spiffe://td/ns/A", false),
        ("spiffe://td/ns/*", "spiffe://td/ns/a", true),
        ("spiffe://td/ns/*", "spiffe://td/ns/a/sa/b", false),
        ("spiffe://td/ns/*/sa/b", "spiffe://td/ns/a/sa/b", true),
        ("spiffe://td/ns/**", "spiffe://td/ns/a/sa/b", true),
        ("spiffe://td/ns/**", "spiffe://td/ns", false),
        ("spiffe://td/**", "spiffe://td", false),
        ("spiffe://td/**", "spiffe://td2/ns/a", false),
    ];
    for (pattern, caller, matches) in cases {
        let parsed = CallerPattern::parse(pattern).expect("valid");
        assert_eq!(parsed.matches(&SpiffeId::parse(caller).expect("valid")), matches, "{pattern} {caller}");
    }
}

#[test]
fn what_is_no_pattern_is_refused() {
    for bad in ["*", "shop", "shop/", "/web", "shop/we*", "Shop/web", "a/b/c", "shop/**", ""] {
        assert!(NamePattern::parse(bad).is_err(), "{bad:?} was accepted");
    }
    for bad in ["", "w*st", "West", "**", "west."] {
        assert!(PeerPattern::parse(bad).is_err(), "{bad:?} was accepted");
    }
    for bad in [
        "",
        "spiffe://td",
        "spiffe://*/a",
        "spiffe://td/**/a",
        "spiffe://td/a*",
        "spiffe://td//a",
        "x://td/a",
    ] {
        assert!(CallerPattern::parse(bad).is_err(), "{bad:?} was accepted");
    }
}

#[test]
fn imports_are_taken_from_members_unless_a_rule_says_otherwise() {
    let rule = |names: &str, peers: &str, action| ImportRule {
        names: vec![NamePattern::parse(names).expect("valid")],
        peers: vec![PeerPattern::parse(peers).expect("valid")],
        action,
        alias: Some(name("shop/west-web")),
        merge: false,
    };
    let west = cluster("west");
    let ask = |rules: &[ImportRule]| may_import(rules, &name("shop/web"), &west).decision.reason;
    let (allow, deny) = (ImportAction::Allow, ImportAction::Deny);
    assert_eq!(ask(&[]), Reason::DefaultImport);
    assert_eq!(ask(&[rule("bank/*", "west", deny)]), Reason::DefaultImport);
    assert_eq!(ask(&[rule("shop/*", "east", deny)]), Reason::DefaultImport);
    assert_eq!(ask(&[rule("shop/*", "east", allow)]), Reason::PeerNotImported(1));
    assert_eq!(ask(&[rule("shop/*", "west", allow), rule("*/web", "*", deny)]), Reason::ImportRefused(2));
    let rules = [rule("shop/*", "east", allow), rule("shop/*", "west", allow)];
    let import = may_import(&rules, &name("shop/web"), &west);
    assert_eq!(import.decision, Decision::allow(Reason::ImportRule(2)));
    assert_eq!((import.alias, import.merge), (Some(&name("shop/west-web")), false));
}

proptest! {
    #[test]
    fn the_order_of_grants_decides_nothing(turn in 0..4usize, peers in prop::collection::vec(0..3usize, 4)) {
        let words = ["west", "east", "*"];
        let mut rules: Vec<Grant> = peers.iter().map(|peer| grant("shop/*", words[*peer], &[])).collect();
        let before = visible(&grants(DefaultGrant::None, rules.clone()), "shop/web").0;
        rules.rotate_left(turn);
        prop_assert_eq!(visible(&grants(DefaultGrant::None, rules), "shop/web").0, before);
        prop_assert_eq!(before, peers.iter().any(|peer| *peer != 1));
    }

    #[test]
    fn who_may_call_may_see(exports in 0..3usize, peers in 0..3usize, callers in 0..3usize, open in any::<bool>()) {
        let caller = "spiffe://west.tombolo/ns/shop/sa/cart";
        let lists: [&[&str]; 3] = [&[], &[caller], &["spiffe://west.tombolo/ns/bank/**"]];
        let rule = grant(["shop/*", "*/*", "bank/*"][exports], ["west", "*", "east"][peers], lists[callers]);
        let default = if open { DefaultGrant::Clusterset } else { DefaultGrant::None };
        let rules = grants(default, vec![rule]);
        prop_assert!(!callable(&rules, "shop/web", caller).0 || visible(&rules, "shop/web").0);
    }

    #[test]
    fn parsing_is_total_and_prints_what_it_read(text in "\\PC{0,40}", word in "[a-z*/:.]{0,30}") {
        for text in [text, format!("spiffe://{word}"), word] {
            if let Ok(pattern) = NamePattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), &*text);
            }
            if let Ok(pattern) = PeerPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), &*text);
            }
            if let Ok(pattern) = CallerPattern::parse(&text) {
                prop_assert_eq!(pattern.to_string(), &*text);
            }
        }
    }
}
