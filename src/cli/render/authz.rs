//! What the gates say of a caller and a service.

use super::words::Plain;
use crate::{
    admin::api::AuthzExplanation,
    cli::output::{Style, Tone},
};

/// `tombolo authz explain`.
pub(crate) fn authz(found: &AuthzExplanation, style: Style) -> String {
    let mut table = Plain::new(&["GATE", "DECIDED BY", "ABOUT", "ANSWER", "RULE"], None, style);
    for gate in &found.gates {
        let (word, tone) = match gate.allowed {
            Some(true) => ("allowed", Tone::Good),
            Some(false) => ("refused", Tone::Bad),
            None => ("not known here", Tone::Fair),
        };
        let audit = match gate.audit {
            Some(true) => "; grants in audit mode would allow it",
            Some(false) => "; grants in audit mode would refuse it",
            None => "",
        };
        table.row(
            tone,
            [
                gate.gate.clone(),
                gate.side.to_string(),
                gate.cluster.to_string(),
                word.to_owned(),
                format!("{}{audit}", gate.reason),
            ],
        );
    }
    let verdict = if found.allowed { "allowed on this side" } else { "refused" };
    format!("{} -> {}: {verdict}\n\n{}", found.from, found.to, table.text())
}
