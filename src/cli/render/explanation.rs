//! `tombolo explain NAME`: every cluster that was considered for a new connection, and what was decided.

use super::{
    services::short_port,
    words::{Plain, dash, round_trip_or_dash},
};
use crate::{
    admin::api::{CandidateStatus, EndpointStatus, Explanation},
    cli::output::{Style, Tone},
};

/// The whole page.
pub(crate) fn explanation(explanation: &Explanation, style: Style) -> String {
    let address = explanation.virtual_ip.clone().unwrap_or_else(|| "no virtual IP".to_owned());
    let mut text = format!("{}   {} -> {address}\n", explanation.name, explanation.dns_name);
    for port in &explanation.ports {
        text += &format!("\n{}: {}\n", short_port(&port.port), port.port.state);
        if port.considered.is_empty() {
            text += "no cluster offers this port\n";
            continue;
        }
        text += &candidates(&port.considered, style);
        text += &endpoints(&port.endpoints, style);
    }
    if let Some(kept) = &explanation.session_affinity {
        text += &format!("\nsession affinity: {kept}\n");
    }
    if let Some(retries) = &explanation.retries {
        text += &format!("\n{} {retries}\n", style.paint(Tone::Fair, "!"));
    }
    text
}

/// This cluster's own; none of a service that only others have.
fn endpoints(endpoints: &[EndpointStatus], style: Style) -> String {
    if endpoints.is_empty() {
        return String::new();
    }
    let mut table = Plain::new(&["ENDPOINT HERE", "STATE"], None, style);
    for endpoint in endpoints {
        let tone = if endpoint.state == "ready" { Tone::Good } else { Tone::Bad };
        table.row(tone, [endpoint.address.to_string(), endpoint.state.clone()]);
    }
    format!("\n{}", table.text())
}

fn candidates(considered: &[CandidateStatus], style: Style) -> String {
    let header = ["CLUSTER", "PRIORITY", "SHARE", "READY", "RTT", "REASON"];
    let mut table = Plain::new(&header, Some(2), style);
    for candidate in considered {
        let tone = match (candidate.share, candidate.priority) {
            (0, Some(_)) => Tone::Plain,
            (0, None) => Tone::Bad,
            _ => Tone::Good,
        };
        table.row(
            tone,
            [
                candidate.cluster.to_string(),
                candidate.priority.map_or_else(dash, |priority| priority.to_string()),
                format!("{}%", candidate.share),
                format!("{} of {}", candidate.ready, candidate.total),
                round_trip_or_dash(candidate.rtt_ms),
                candidate.reason.clone(),
            ],
        );
    }
    table.text()
}
