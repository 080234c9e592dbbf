//! What custom resources are told of what they stand for. Pure.

use imbl::OrdMap;
use serde_json::{Value, json};

use super::{Condition, PeerView};
use crate::{
    kubernetes::{
        conditions::time,
        world::{Trouble, WRITES},
    },
    model::{ids::Timestamp, state::State, token::record::TokenRecord},
};

/// Conditions with their times: one that stays keeps its own.
pub(super) fn dated(conditions: &[Condition], generation: i64, held: &Value, now: Timestamp) -> Value {
    let known = held["conditions"].as_array();
    let dated = |condition: &Condition| {
        let status = if condition.holds { "True" } else { "False" };
        let same = |known: &&Value| known["type"] == condition.kind && known["status"] == status;
        let since = known.into_iter().flatten().find(same).and_then(|it| it["lastTransitionTime"].as_str());
        json!({
            "type": condition.kind,
            "status": status,
            "reason": condition.reason,
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since.map_or_else(|| time(now), str::to_owned),
        })
    };
    conditions.iter().map(dated).collect()
}

/// The Clusterset's status without its conditions, and those.
pub(super) fn clusterset(
    state: &State,
    peers: &[PeerView],
    trouble: &OrdMap<&'static str, Trouble>,
    fingerprint: &str,
    ends: Timestamp,
) -> (Value, Vec<Condition>) {
    let members = peers.iter().filter(|peer| !matches!(peer.state.as_str(), "terminated" | "revoked"));
    let active = peers.iter().filter(|peer| peer.state == "active").count();
    let away: Vec<&str> =
        members.clone().filter(|peer| peer.state != "active").map(|peer| peer.cluster.as_str()).collect();
    let ready = if away.is_empty() {
        Condition::new("Ready", true, "Ready", "every peer is active")
    } else {
        Condition::new("Ready", false, "PeersAway", format!("not active: {}", away.join(", ")))
    };
    let status = json!({
        "cluster": state.me.cluster.as_str(),
        "trustDomain": state.me.trust_domain.as_str(),
        "fingerprint": fingerprint,
        "peers": format!("{active}/{}", members.count()),
        "exports": state.exports.len(),
        "imports": state.imports.len(),
        "rootExpires": time(ends),
    });
    (status, vec![reachable(trouble), writable(trouble), ready])
}

/// Whether everything can be followed, or else what not and why.
fn reachable(trouble: &OrdMap<&'static str, Trouble>) -> Condition {
    let kinds: Vec<&str> = trouble.keys().copied().filter(|kind| *kind != WRITES).collect();
    let why = kinds.first().and_then(|kind| Some(trouble.get(kind)?.reason.as_str()));
    let (reason, note) = match why {
        None => ("Followed", "every kind of object is followed".to_owned()),
        Some(why) => ("NotFollowed", format!("cannot be followed: {}: {why}", kinds.join(", "))),
    };
    Condition::new("ApiServerReachable", why.is_none(), reason, note)
}

/// Whether what is written is taken, or else why not. One may be refused while the other is not.
fn writable(trouble: &OrdMap<&'static str, Trouble>) -> Condition {
    let (reason, note) = match trouble.get(WRITES) {
        None => ("Written", "what is written is taken".to_owned()),
        Some(why) => ("NotWritten", format!("nothing can be written: {}", why.reason)),
    };
    Condition::new("ApiServerWritable", !trouble.contains_key(WRITES), reason, note)
}

/// A peer's status without its conditions, and those.
pub(super) fn peer(view: &PeerView) -> (Value, Vec<Condition>) {
    let reachable = match view.link.as_deref() {
        Some("up") => Condition::new("Reachable", true, "LinkUp", "a link is up"),
        Some(other) => {
            Condition::new("Reachable", false, &camel("Link", other), format!("the link is {other}"))
        }
        None => Condition::new("Reachable", false, "NoLink", view.link_cause.clone()),
    };
    let trusted = match view.state.as_str() {
        "distrusted" | "terminated" | "revoked" => {
            Condition::new("Trusted", false, &camel("", &view.state), view.cause.clone())
        }
        "pending" => {
            Condition::new("Trusted", false, "WaitsForApproval", "set `desired: Active` to approve it")
        }
        _ => Condition::new("Trusted", true, "Trusted", "its roots are believed"),
    };
    let in_sync = if view.in_sync {
        Condition::new("InSync", true, "InSync", "what is held of it is current")
    } else {
        Condition::new("InSync", false, "NotCurrent", "what is held of it may be old")
    };
    let ready = Condition::new("Ready", view.state == "active", &camel("", &view.state), view.cause.clone());
    let joined = Condition::new("Joined", true, "Joined", "it is a peer of this cluster");
    let mut status = json!({
        "state": view.state,
        "reason": view.cause,
        "trustDomain": view.trust_domain,
        "fingerprint": view.fingerprint,
        "endpoints": view.endpoints,
        "imported": view.imported,
        "exported": view.exported,
    });
    if let Some(rtt) = view.rtt_ms {
        status["rtt"] = roughly(rtt).into();
    }
    (status, vec![joined, reachable, trusted, in_sync, ready])
}

/// The status of a Peer whose cluster is none yet.
pub(super) fn not_joined(reason: &str, message: &str) -> (Value, Vec<Condition>) {
    let status = json!({ "state": "joining", "reason": message });
    let joined = Condition::new("Joined", false, reason, message);
    (status, vec![joined, Condition::new("Ready", false, reason, message)])
}

/// A round trip that does not change with every packet.
fn roughly(millis: f64) -> String {
    const STEPS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0];
    let step = STEPS.iter().find(|step| millis <= **step);
    step.map_or_else(|| "> 500 ms".to_owned(), |step| format!("<= {step} ms"))
}

fn camel(before: &str, word: &str) -> String {
    let mut letters = word.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    format!("{before}{}{}", first.map(String::from).unwrap_or_default(), letters.as_str())
}

/// A token's status without its conditions, and those.
pub(super) fn token(record: &TokenRecord, secret: &str, now: Timestamp) -> (Value, Condition) {
    let by: Vec<&str> = record.redeemed.iter().map(|it| it.cluster.as_str()).collect();
    let told = |holds, reason: &str, note: &str| Condition::new("Ready", holds, reason, note);
    let condition = if record.revoked.is_some() {
        told(false, "Revoked", "it cannot be redeemed any more")
    } else if record.uses_left == 0 {
        told(false, "Redeemed", "it was used as often as it may be")
    } else if now >= record.expires {
        told(false, "Expired", "its life is over")
    } else {
        told(true, "Issued", "it can be redeemed")
    };
    let status = json!({
        "id": record.id.to_string(),
        "secretName": secret,
        "usesLeft": record.uses_left,
        "expires": time(record.expires),
        "redeemedBy": by,
    });
    (status, condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: &str, link: Option<&str>) -> PeerView {
        PeerView {
            cluster: "west".to_owned(),
            state: state.to_owned(),
            cause: "because".to_owned(),
            link: link.map(str::to_owned),
            rtt_ms: Some(12.3),
            in_sync: state == "active",
            ..PeerView::default()
        }
    }

    fn holds(conditions: &[Condition], kind: &str) -> bool {
        conditions.iter().find(|it| it.kind == kind).is_some_and(|it| it.holds)
    }

    #[test]
    fn a_peer_is_ready_only_when_it_is_active_and_says_why_not() {
        let (status, conditions) = peer(&view("active", Some("up")));
        assert!(conditions.iter().all(|it| it.holds));
        assert_eq!(status["rtt"], "<= 20 ms", "a figure that stays while the round trip trembles");
        let (_, conditions) = peer(&view("stale", None));
        assert!(holds(&conditions, "Trusted") && !holds(&conditions, "Reachable"));
        let ready = conditions.iter().find(|it| it.kind == "Ready").expect("a condition");
        assert_eq!((ready.holds, ready.reason.as_str()), (false, "Stale"));
        let (_, conditions) = peer(&view("revoked", None));
        assert!(!holds(&conditions, "Trusted"));
    }

    #[test]
    fn an_api_server_that_takes_nothing_is_told_beside_one_that_says_nothing() {
        let trouble = |kinds: &[&'static str]| {
            let of = |kind: &&'static str| {
                (*kind, Trouble { reason: format!("{kind}: too many requests"), unknown: false })
            };
            kinds.iter().map(of).collect::<OrdMap<_, _>>()
        };
        let told = |kinds: &[&'static str]| {
            let trouble = trouble(kinds);
            (reachable(&trouble).reason, writable(&trouble).reason)
        };
        let pair = |reachable: &str, writable: &str| (reachable.to_owned(), writable.to_owned());
        assert_eq!(told(&[]), pair("Followed", "Written"));
        assert_eq!(told(&["Pods"]), pair("NotFollowed", "Written"));
        assert_eq!(told(&[WRITES]), pair("Followed", "NotWritten"));
        assert_eq!(told(&[WRITES, "Leases", "Pods"]), pair("NotFollowed", "NotWritten"));
        let both = trouble(&[WRITES, "Leases", "Pods"]);
        let note = "cannot be followed: Leases, Pods: Leases: too many requests";
        assert_eq!(reachable(&both).message, note);
        assert!(writable(&both).message.contains("writes: too many requests"));
        assert!(!reachable(&both).holds && !writable(&both).holds);
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let (_, conditions) = peer(&view("active", Some("up")));
        let first = dated(&conditions, 1, &Value::Null, Timestamp(1_000_000));
        let held = json!({ "conditions": first });
        assert_eq!(dated(&conditions, 1, &held, Timestamp(9_000_000)), first);
        let (_, conditions) = peer(&view("stale", None));
        let second = dated(&conditions, 1, &held, Timestamp(9_000_000));
        assert_ne!(second[4]["lastTransitionTime"], first[4]["lastTransitionTime"]);
        assert_eq!(second[0]["lastTransitionTime"], first[0]["lastTransitionTime"]);
    }
}
