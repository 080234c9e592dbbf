//! `tombolo status`: who this gateway is, its peers, and what to look at.

use super::{
    peers::short_peers,
    words::{age, ahead, count, fields},
};
use crate::{
    admin::api::Status,
    cli::output::{Style, Tone},
    model::ids::Timestamp,
};

/// The whole page.
pub(crate) fn status(status: &Status, now: Timestamp, style: Style) -> String {
    let ready = if status.ready {
        style.paint(Tone::Good, "ready")
    } else {
        style.paint(Tone::Fair, &format!("not ready, waits for {}", status.pending.join(", ")))
    };
    let locality = status.locality.to_string();
    let place = if locality.is_empty() { String::new() } else { format!("   {locality}") };
    let mut text = format!(
        "{}   gateway {}   up {}   v{}{place}   {ready}\n",
        status.cluster,
        status.gateway,
        age(status.up_ms),
        status.version
    );
    let addresses = &status.addresses;
    text += &fields([
        ("trust domain", format!("{}   fingerprint {}", status.trust_domain, status.fingerprint)),
        (
            "certificate",
            format!(
                "ends {}   root ends {}",
                ahead(status.svid_expires_unix_ms, now),
                ahead(status.root_expires_unix_ms, now)
            ),
        ),
        ("listens", format!("peers {}   dns {}   admin {}", addresses.quic, addresses.dns, addresses.admin)),
        ("state", status.state.clone()),
        ("services", format!("{} known, {} exported by this cluster", status.imported, status.exported)),
    ]);
    text.push('\n');
    if status.peers.is_empty() {
        text += "No peers yet: `tombolo token create` here, `tombolo join -` there\n";
    } else {
        text += &short_peers(&status.peers, style);
    }
    let failing = status.peers.iter().filter(|peer| peer.dial_failure.is_some()).count();
    if failing > 0 {
        text += &format!("! {} cannot be dialled: see `tombolo peers`\n", count(failing, "peer"));
    }
    for warning in &status.warnings {
        let mark = style.paint(Tone::Fair, "!");
        text += &format!("{mark} {}: {}\n  try: {}\n", warning.code, warning.message, warning.fix);
    }
    text
}
