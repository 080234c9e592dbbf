//! Watches one gateway and notes what it comes to believe: peers, links, sessions, names, ejections.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use tokio::time::sleep;
use tombolo::model::{session::SessionState, state::Standing};

use super::gateway::Gateway;

/// How often it is looked at; shorter lives are not seen.
const LOOK: Duration = Duration::from_millis(10);

/// Notes every change for as long as the host runs.
pub(crate) async fn run(gateway: Rc<Gateway>) {
    gateway.note("started");
    let mut known = BTreeMap::new();
    let mut noted = 0;
    loop {
        let seen = look(&gateway);
        for (what, how) in &seen {
            if known.get(what) != Some(how) {
                gateway.note(format!("{what} {how}"));
            }
        }
        for what in known.keys().filter(|what| !seen.contains_key(*what)) {
            gateway.note(format!("{what} gone"));
        }
        known = seen;
        for event in gateway.core.ledger.noted(noted) {
            noted = event.number;
            gateway.note(format!("{}: {}", event.kind, event.text));
        }
        if let Some(failure) = gateway.tasks.failed() {
            gateway.site.truth.accuse(format!("{}: {failure}", gateway.site.name));
        }
        if gateway.tasks.transient_panics() > 0 {
            gateway.site.truth.accuse(format!("{}: a task panicked", gateway.site.name));
        }
        sleep(LOOK).await;
    }
}

fn look(gateway: &Gateway) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let core = &gateway.core;
    let state = core.store.state();
    for (cluster, peer) in &state.peers {
        let standing = match peer.standing {
            Standing::Approved => "approved",
            Standing::Pending => "pending",
            Standing::Distrusted => "distrusted",
            Standing::Terminated => "terminated",
            Standing::Revoked => "revoked",
        };
        seen.insert(format!("peer {cluster}"), standing.to_owned());
        if let Some(row) = core.ledger.session(cluster) {
            let word = match row.state {
                SessionState::Opening => "opening",
                SessionState::Live => "live",
                SessionState::Stalled { .. } => "stalled",
                SessionState::Lost { .. } => "lost",
            };
            let synced = if row.synced.is_some() { ", synced" } else { "" };
            seen.insert(format!("session with {cluster}"), format!("{word}{synced}"));
        }
        if let Some(held) = state.catalogs.get(cluster) {
            seen.insert(format!("catalog of {cluster}"), format!("has {} rows", held.rows.len()));
        }
    }
    for lanes in core.links.registry().up().values() {
        for lane in lanes {
            let by = if lane.dialled() { "dialled" } else { "accepted" };
            seen.insert(format!("link to {}", lane.key().cluster), format!("{by}, {:?}", lane.health()));
        }
    }
    for (name, import) in &state.imports {
        let clusters: Vec<&str> = import.clusters.iter().map(|part| part.cluster.as_str()).collect();
        seen.insert(format!("name {name}"), format!("from {}", clusters.join(", ")));
    }
    seen
}
