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
    format!("{}\n\n{}{peers}", ca_line(status), roots.text())
}

/// One line: the phase, and whom it waits for.
pub(crate) fn ca_line(status: &CaStatus) -> String {
    let waited: Vec<&str> =
        status.peers.iter().filter(|peer| !peer.acked).map(|peer| peer.cluster.as_str()).collect();
    let issuing = status.roots.iter().find(|root| root.issuing).map(|root| root.number);
    let issuing = issuing.map_or_else(String::new, |number| format!("root {number} issues"));
    match status.phase.as_str() {
        "publishing" if waited.is_empty() => format!("publishing: every peer has the new root; {issuing}"),
        "publishing" => {
            format!("publishing: waiting for {} to store the new root; {issuing}", waited.join(", "))
        }
        "retiring" => format!("retiring: {issuing}, the old root is still believed"),
        phase => format!("{phase}: {issuing}, bundle sequence {}", status.sequence),
    }
}
