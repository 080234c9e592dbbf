//! Peers: a short table for `status`, a long one for `peers`, and all there is of one.

use super::words::{Plain, age, count, dash, fields, left, round_trip, round_trip_or_dash, tone_of_state};
use crate::{
    admin::api::{LinkStatus, PeerStatus, Verification, VerifiedRoots},
    cli::output::{Style, Tone},
    model::ids::Timestamp,
};

/// Roots that end sooner than this are marked: 30 days, in milliseconds.
const ROOT_ENDS_SOON_MS: u64 = 30 * 86_400_000;

/// The table inside `status`.
pub(super) fn short_peers(peers: &[PeerStatus], style: Style) -> String {
    let header = ["PEER", "STATE", "LINK", "RTT", "LOSS", "SEEN", "IN/OUT", "CATALOG", "CAUSE"];
    let mut table = Plain::new(&header, Some(1), style);
    for peer in peers {
        let link = peer.link.as_ref();
        table.row(
            tone_of_state(&peer.state),
            [
                peer.cluster.to_string(),
                state_and_age(peer),
                links(peer),
                round_trip_or_dash(link.map(|link| link.rtt_ms)),
                link.map_or_else(dash, |link| format!("{:.1}%", link.loss * 100.0)),
                link.map_or_else(dash, seen),
                format!("{}/{}", peer.imported, peer.exported),
                catalog(peer),
                cause(peer),
            ],
        );
    }
    table.text()
}

/// `tombolo peers`.
pub(crate) fn peers(peers: &[PeerStatus], now: Timestamp, style: Style) -> String {
    if peers.is_empty() {
        return "No peers yet: `tombolo token create` here, `tombolo join -` there\n".to_owned();
    }
    let header =
        ["PEER", "STATE", "TRUST DOMAIN", "RTT", "IMPORT", "EXPORT", "LAG", "DATA AGE", "ROOT ENDS", "CAUSE"];
    let mut table = Plain::new(&header, Some(1), style);
    for peer in peers {
        table.row(
            tone_of_state(&peer.state),
            [
                peer.cluster.to_string(),
                state_and_age(peer),
                peer.trust_domain.to_string(),
                round_trip_or_dash(peer.link.as_ref().map(|link| link.rtt_ms)),
                peer.imported.to_string(),
                peer.exported.to_string(),
                peer.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
                peer.catalog_age_ms.map_or_else(dash, age),
                root_ends(peer, now),
                cause(peer),
            ],
        );
    }
    let mut text = table.text();
    for peer in peers {
        if let Some(failure) = &peer.dial_failure {
            text += &format!("! {}: {failure}\n", peer.cluster);
        }
        if !peer.refusals.is_empty() {
            let refused = count(peer.refusals.len(), "row");
            text += &format!("! {}: {refused} refused, see `tombolo peers {}`\n", peer.cluster, peer.cluster);
        }
    }
    text
}

/// `tombolo peers NAME`.
pub(crate) fn peer(peer: &PeerStatus, now: Timestamp, style: Style) -> String {
    let state = style.paint(tone_of_state(&peer.state), &peer.state);
    let optional = |value: Option<String>| value.unwrap_or_default();
    let mut text = fields([
        ("peer", peer.cluster.to_string()),
        ("state", format!("{state} for {}: {}", age(peer.state_age_ms), peer.cause)),
        ("trust domain", peer.trust_domain.to_string()),
        ("fingerprint", peer.fingerprint.clone()),
        ("root ends", root_ends(peer, now)),
        ("introduced by", optional(peer.introduced_by.as_ref().map(ToString::to_string))),
        ("endpoints", peer.endpoints.join(", ")),
        ("link", every_link(peer)),
        ("last dial", optional(peer.dial_failure.clone())),
        ("services", format!("{} taken from it, {} told to it", peer.imported, peer.exported)),
        ("catalog", catalog(peer)),
    ]);
    for refusal in &peer.refusals {
        text += &format!("! refused: {refusal}\n");
    }
    text
}

/// The state of its lanes: `up`, `suspect 2s`, `1 up 1 suspect`, `down 12s`.
fn links(peer: &PeerStatus) -> String {
    let lanes = lanes(peer);
    match (lanes, &peer.link_down) {
        ([], None) => dash(),
        ([], Some(down)) => format!("down {}", age(down.age_ms)),
        ([one], _) if one.state == "up" => one.state.clone(),
        ([one], _) => format!("{} {}", one.state, age(one.state_age_ms)),
        (several, _) => {
            let counted = ["up", "suspect", "down"].map(|state| {
                let count = several.iter().filter(|lane| lane.state == state).count();
                if count == 0 { String::new() } else { format!("{count} {state}") }
            });
            counted.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Every lane; of an older gateway only the one in use is told.
fn lanes(peer: &PeerStatus) -> &[LinkStatus] {
    if peer.links.is_empty() { peer.link.as_slice() } else { &peer.links }
}

/// Why it is in its state, and what is wrong with its lanes, whose state moves first.
fn cause(peer: &PeerStatus) -> String {
    let mut text = peer.cause.clone();
    for lane in lanes(peer).iter().filter(|lane| lane.state != "up") {
        let why = lane.cause.as_deref().unwrap_or("not proved");
        text += &format!("; link to {} {} for {}: {why}", lane.gateway, lane.state, age(lane.state_age_ms));
    }
    for lane in lanes(peer).iter().filter(|lane| lane.draining) {
        text += &format!("; {} drains", lane.gateway);
    }
    if let (true, Some(down)) = (lanes(peer).is_empty(), &peer.link_down) {
        text += &format!("; link down for {}: {}", age(down.age_ms), down.cause);
    }
    text
}

/// All lanes in full, one a line.
fn every_link(peer: &PeerStatus) -> String {
    let told: Vec<String> = lanes(peer).iter().map(link).collect();
    match (told.is_empty(), &peer.link_down) {
        (false, _) => told.join("\n               "),
        (true, Some(down)) => format!("down for {}: {}", age(down.age_ms), down.cause),
        (true, None) => "none".to_owned(),
    }
}

/// `tombolo peer verify`.
pub(crate) fn verification(found: &Verification, style: Style) -> String {
    let roots = |roots: &VerifiedRoots| {
        format!("{}  {}  ({})", roots.fingerprints.join(", "), roots.cluster, roots.trust_domain)
    };
    let said = found.said_age_ms.map(age).unwrap_or_default();
    let used = match found.uses_ours {
        Some(true) => style.paint(Tone::Good, &format!("the same, said {said} ago")),
        Some(false) => style.paint(Tone::Bad, &format!("OTHERS, said {said} ago")),
        None => "not said yet: there is no session with it".to_owned(),
    };
    let mut text =
        fields([("theirs, here", roots(&found.peer)), ("ours", roots(&found.own)), ("ours, there", used)]);
    text += &format!(
        "Ask its operator for the two lines of `tombolo peer verify {}` there: they must be these, crosswise.\n",
        found.own.cluster
    );
    text
}

fn state_and_age(peer: &PeerStatus) -> String {
    format!("{} {}", peer.state, age(peer.state_age_ms))
}

/// Both directions apart: heard from it, and known to hear us.
fn seen(link: &LinkStatus) -> String {
    format!("{}/{}", age(link.inbound_age_ms), age(link.outbound_age_ms))
}

fn catalog(peer: &PeerStatus) -> String {
    let theirs = match peer.catalog_age_ms {
        None => "not there yet".to_owned(),
        Some(0) => "current".to_owned(),
        Some(old) => format!("{} old", age(old)),
    };
    match peer.lag {
        None | Some(0) => theirs,
        Some(lag) => format!("{theirs}, {lag} of ours unconfirmed"),
    }
}

fn root_ends(peer: &PeerStatus, now: Timestamp) -> String {
    let end = peer.root_expires_unix_ms;
    let soon = end.0.saturating_sub(now.0) < ROOT_ENDS_SOON_MS;
    let mark = if soon { " (!)" } else { "" };
    format!("{}{mark}", left(end, now))
}

fn link(link: &LinkStatus) -> String {
    format!(
        "{}{}, made {} ago, to gateway {} at {}, dialled by {}; rtt {}, loss {:.1}%, heard {} ago, hears us {} ago, {}",
        link.state,
        link.cause
            .as_ref()
            .map(|cause| format!(" for {} ({cause})", age(link.state_age_ms)))
            .unwrap_or_default(),
        age(link.up_ms),
        link.gateway,
        link.address,
        link.dialled_by,
        round_trip(link.rtt_ms),
        link.loss * 100.0,
        age(link.inbound_age_ms),
        age(link.outbound_age_ms),
        count(link.streams, "stream")
    )
}
