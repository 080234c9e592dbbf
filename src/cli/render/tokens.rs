//! Join tokens: a new one with what to do with it, and the list without secrets.

use super::words::{Plain, ahead, fields, left, time_of_day};
use crate::{
    admin::api::{NewToken, TokenStatus},
    cli::output::{Style, Tone},
    model::ids::{ClusterId, Timestamp},
};

/// `tombolo token create`. The token stands alone on its line, to be copied.
pub(crate) fn new_token(
    token: &NewToken,
    meant_for: Option<&ClusterId>,
    now: Timestamp,
    style: Style,
) -> String {
    let meant_for = meant_for.map(|cluster| format!(" for cluster {cluster}")).unwrap_or_default();
    let mut text = format!("Join token{meant_for}\n");
    let expires = token.expires_unix_ms;
    text += &fields([
        ("  id", token.id.clone()),
        ("  expires", format!("{} ({})", time_of_day(expires), ahead(expires, now))),
        ("  uses", token.uses.to_string()),
        ("  reach me at", token.addresses.join(", ")),
        ("  my identity", format!("{}   fingerprint {}", token.trust_domain, token.fingerprint)),
    ]);
    text += "On the other cluster run `tombolo join -` and paste this line; it is a secret, shown once:\n\n";
    text + &style.paint(Tone::Good, &token.token) + "\n"
}

/// `tombolo token list`.
pub(crate) fn tokens(tokens: &[TokenStatus], now: Timestamp, style: Style) -> String {
    if tokens.is_empty() {
        return "No tokens: create one with `tombolo token create`\n".to_owned();
    }
    let mut table = Plain::new(&["ID", "STATE", "EXPIRES", "USES LEFT", "REDEEMED BY"], Some(1), style);
    for token in tokens {
        let tone = match token.state.as_str() {
            "unused" => Tone::Good,
            "redeemed" => Tone::Plain,
            _ => Tone::Fair,
        };
        let redeemed: Vec<&str> = token.redeemed_by.iter().map(ClusterId::as_str).collect();
        table.row(
            tone,
            [
                token.id.clone(),
                token.state.clone(),
                left(token.expires_unix_ms, now),
                token.uses_left.to_string(),
                if redeemed.is_empty() { "-".to_owned() } else { redeemed.join(", ") },
            ],
        );
    }
    table.text()
}
