//! `GET /v1/status`: this gateway on one page, and what a person should look at.

use std::collections::BTreeMap;

use super::{
    Parts,
    api::{Status, schema},
    peers::{self, Moment, millis},
};
use crate::{
    metrics::{Certificate, Scrape},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp},
        limits::ROOT_ENDS_SOON,
        state::State,
        virtual_ip::BindingState,
    },
};

/// The whole page.
pub(super) fn status(parts: &Parts) -> Status {
    let (state, at) = (parts.store.state(), Moment::of(parts));
    let about = &parts.about;
    let pending = parts.readiness.pending();
    Status {
        schema: schema("status"),
        version: about.version.clone(),
        cluster: state.me.cluster.clone(),
        gateway: state.me.gateway.clone(),
        trust_domain: state.me.trust_domain.clone(),
        fingerprint: parts.identity.bundle().fingerprint().to_string(),
        locality: state.me.locality.clone(),
        up_ms: millis(at.now.saturating_duration_since(about.started)),
        addresses: about.addresses.clone(),
        state: about.state.clone(),
        ready: pending.is_empty(),
        pending,
        svid_expires_unix_ms: parts.svid.get().not_after(),
        root_expires_unix_ms: parts.identity.bundle().newest().not_after(),
        peers: peers::all(parts, &state, at),
        exported: state.exports.len(),
        imported: state.imports.len(),
        warnings: warnings(parts, &state, at.wall),
    }
}

fn warnings(parts: &Parts, state: &State, now: Timestamp) -> Vec<Problem> {
    let mut warnings = (parts.warnings)();
    let own = (&state.me.cluster, parts.identity.bundle().newest().not_after());
    let roots = state.peers.values().map(|peer| (&peer.cluster, peer.bundle.newest().not_after()));
    warnings.extend(std::iter::once(own).chain(roots).filter_map(|(cluster, end)| root(cluster, end, now)));
    warnings.extend(listeners(parts));
    warnings.extend(moved(parts));
    warnings
}

fn root(cluster: &ClusterId, end: Timestamp, now: Timestamp) -> Option<Problem> {
    if now > end {
        return Some(Problem::new(Code::ROOT_EXPIRED, format!("the newest root of {cluster} has expired")));
    }
    let left = end.since(now);
    (left < ROOT_ENDS_SOON).then(|| {
        let hours = left.as_secs() / 3_600;
        Problem::new(Code::ROOT_EXPIRES_SOON, format!("the newest root of {cluster} ends in {hours} h"))
    })
}

/// One warning a code, however many listeners it concerns.
fn listeners(parts: &Parts) -> Vec<Problem> {
    let mut failed: BTreeMap<Code, Vec<String>> = BTreeMap::new();
    for binding in parts.ledger.bindings().values() {
        let BindingState::Failed(code) = binding.state else { continue };
        failed.entry(code).or_default().push(format!("{}:{}", binding.ip, binding.port));
    }
    let told = |(code, places): (Code, Vec<String>)| {
        let more = match places.len() - 1 {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        Problem::new(code, format!("no listener on {}{more}", places[0]))
    };
    failed.into_iter().map(told).collect()
}

/// Listeners that stand on another port than the service's, as one warning.
fn moved(parts: &Parts) -> Option<Problem> {
    let bindings = parts.ledger.bindings();
    let mut moved = bindings
        .values()
        .filter(|binding| binding.state == BindingState::Listening && binding.bound_port != binding.port);
    let first = moved.next()?;
    let more = match moved.count() {
        0 => String::new(),
        count => format!(", and {count} more likewise"),
    };
    let message = format!(
        "{}:{} may not be bound, {} serves it and SRV records say so{more}",
        first.ip, first.port, first.bound_port
    );
    Some(Problem::new(Code::PORT_NEEDS_PRIVILEGE, message))
}

/// Sets the figures that mirror the status.
pub(super) fn scrape(parts: &Parts, into: &Scrape<'_>) {
    let (state, at) = (parts.store.state(), Moment::of(parts));
    for peer in state.peers.values() {
        into.peer(&peer.cluster, &peers::figures(parts, &state, peer, at));
    }
    let own = [
        (Certificate::Svid, parts.svid.get().not_after()),
        (Certificate::Root, parts.identity.bundle().newest().not_after()),
    ];
    for (kind, end) in own {
        into.certificate(kind, &state.me.cluster, end.since(at.wall));
    }
    for (proxied, total) in parts.ledger.counts() {
        into.connections(&proxied.service, proxied.cluster.as_ref(), proxied.result, total);
    }
    for (peer, waits) in parts.ledger.waits() {
        into.opens_waited(&peer, waits);
    }
    for (service, refused) in parts.ledger.retries_refused() {
        into.retries_refused(&service, refused.times);
    }
}
