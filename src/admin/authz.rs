//! Why a caller may, or may not, reach a service: the deciding rule of every gate on this side.
//!
//! A peer never tells its rules, so of the other side only what its catalog shows is said.

use super::{
    Parts,
    api::{AuthzExplanation, GateDecision, schema},
    services,
};
use crate::model::{
    code::{Code, Problem},
    ids::{ClusterId, ServiceName, SpiffeId},
    policy::{Decision, PeerView, may_export},
    state::State,
};

/// `GET /v1/authz`. `from` is a SPIFFE ID, or a path below this cluster's trust domain.
pub(super) fn explain(parts: &Parts, from: &str, to: ServiceName) -> Result<AuthzExplanation, Problem> {
    let state = parts.store.state();
    let text = match from.strip_prefix("spiffe://") {
        Some(_) => from.to_owned(),
        None => format!("spiffe://{}/{from}", state.me.trust_domain),
    };
    let caller = SpiffeId::parse(&text).map_err(|error| {
        Problem::new(Code::FLAG_INVALID, format!("--from: {error}"))
            .with_fix("write a SPIFFE ID, or a path below this trust domain as in ns/shop/sa/cart")
    })?;
    let gates = if *caller.trust_domain() == state.me.trust_domain {
        outwards(&state, &caller, &to)
    } else {
        inwards(&state, &caller, &to)?
    };
    let decisions = || gates.iter().filter_map(|gate| gate.allowed);
    let ways = gates.iter().filter(|gate| gate.gate == "import" || gate.gate == "export");
    let has_way = ways.clone().count() == 0 || ways.filter_map(|gate| gate.allowed).any(|allowed| allowed);
    let firm = gates.iter().filter(|gate| gate.gate != "import").all(|gate| gate.allowed != Some(false));
    let allowed = has_way && firm && decisions().count() > 0;
    Ok(AuthzExplanation { schema: schema("authz"), from: caller.to_string(), to, allowed, gates })
}

fn told(gate: &str, side: &ClusterId, cluster: &ClusterId, decision: &Decision) -> GateDecision {
    GateDecision {
        gate: gate.to_owned(),
        side: side.clone(),
        cluster: cluster.clone(),
        allowed: Some(decision.allowed),
        reason: decision.reason.to_string(),
        audit: decision.audit,
    }
}

/// A caller of this cluster: egress here, then each cluster that may serve it.
fn outwards(state: &State, caller: &SpiffeId, to: &ServiceName) -> Vec<GateDecision> {
    let me = &state.me.cluster;
    let mut gates = vec![told("egress", me, me, &state.may_call_out(to, caller))];
    if state.exports.contains_key(to) {
        gates.push(told("export", me, me, &may_export(to)));
    }
    for (cluster, catalog) in &state.catalogs {
        if !catalog.rows.contains_key(to) {
            continue;
        }
        let refusal = services::refusal(to, cluster, state);
        let reason = refusal.clone().unwrap_or_else(|| "its export is imported".to_owned());
        gates.push(GateDecision {
            gate: "import".to_owned(),
            side: me.clone(),
            cluster: cluster.clone(),
            allowed: Some(refusal.is_none()),
            reason,
            audit: None,
        });
        gates.push(GateDecision {
            gate: "grant".to_owned(),
            side: cluster.clone(),
            cluster: me.clone(),
            allowed: None,
            reason: format!("it lets this cluster see the export; whether this caller may use it, it alone knows: `tombolo authz explain --from {caller} --to {to}` there"),
            audit: None,
        });
    }
    gates
}

/// A caller of a peer: what this cluster gives it.
fn inwards(state: &State, caller: &SpiffeId, to: &ServiceName) -> Result<Vec<GateDecision>, Problem> {
    let domain = caller.trust_domain();
    let peer = state.peer_of(domain).ok_or_else(|| {
        Problem::new(Code::NO_SUCH_PEER, format!("{domain} is the trust domain of no peer"))
            .with_fix("compare it with `tombolo peers`")
    })?;
    let me = &state.me.cluster;
    let view = PeerView { cluster: &peer.cluster, trust_domain: domain, approved: peer.serves() };
    let mut gates = Vec::new();
    if state.exports.contains_key(to) {
        gates.push(told("export", me, me, &may_export(to)));
        gates.push(told("visible", me, &peer.cluster, &state.settings.grants.visible(to, view)));
    }
    gates.push(told("grant", me, &peer.cluster, &state.may_reach(&peer.cluster, domain, to, caller)));
    Ok(gates)
}
