//! The cluster's roots, and how far a rotation is.

use super::words::{Plain, age, left};
use crate::{
    admin::api::CaStatus,
    cli::output::{Style, Tone},
    model::ids::Timestamp,
};

/// `tombolo ca status`.
pub(crate) fn ca(status: &CaStatus, now: Timestamp, style: Style) -> String {
    let mut roots = Plain::new(&["ROOT", "FINGERPRINT", "ENDS", "ISSUES"], None, style);
    for root in &status.roots {
        let issues = if root.issuing { "yes" } else { "-" };
        let tone = if root.issuing { Tone::Good } else { Tone::Plain };
        let end = left(root.expires_unix_ms, now);
        roots.row(tone, [root.number.to_string(), root.fingerprint.clone(), end, issues.to_owned()]);
    }
    let mut peers = Plain::new(&["PEER", "HAS THEM", "STATE"], None, style);
    for peer in &status.peers {
        let (word, tone) = if peer.acked { ("yes", Tone::Good) } else { ("waited for", Tone::Fair) };
        let state = format!("{} {}", peer.state, age(peer.state_age_ms));
        peers.row(tone, [peer.cluster.to_string(), word.to_owned(), state]);
    }
    let peers = if status.peers.is_empty() { String::new() } else { format!("\n{}", peers.text()) };
    format!("{}\n\n{}{peers}", ca_line(status, now), roots.text())
}

/// What a rotation waits for, as long as which nothing new is to be told: its phase, its roots, and the peers.
pub(crate) fn ca_awaited(status: &CaStatus) -> (String, u64, Vec<String>) {
    let waited = status.peers.iter().filter(|peer| !peer.acked).map(|peer| peer.cluster.to_string());
    (status.phase.clone(), status.sequence, waited.collect())
}

/// One line: the phase, whom it waits for, and for how long at most.
pub(crate) fn ca_line(status: &CaStatus, now: Timestamp) -> String {
    let waited = status.peers.iter().filter(|peer| !peer.acked);
    let waited: Vec<String> =
        waited.map(|peer| format!("{} ({} {})", peer.cluster, peer.state, age(peer.state_age_ms))).collect();
    let issuing = status.roots.iter().find(|root| root.issuing).map(|root| root.number);
    let issuing = issuing.map_or_else(String::new, |number| format!("root {number} issues"));
    let most = status.phase_ends_unix_ms.map(|end| left(end, now));
    let most = |before: &str, after: &str| {
        most.as_ref().map_or_else(String::new, |left| format!("{before}{left}{after}"))
    };
    match status.phase.as_str() {
        "publishing" if waited.is_empty() => format!("publishing: every peer has the new root; {issuing}"),
        "publishing" => {
            let most = most(", for ", " at most");
            format!("publishing: waiting for {} to store the new root{most}; {issuing}", waited.join(", "))
        }
        "retiring" => format!("retiring: {issuing}, the old root is still believed{}", most(" for ", "")),
        phase => format!("{phase}: {issuing}, bundle sequence {}", status.sequence),
    }
}
