//! Tombolo's custom resources on a real API server: joining by `kubectl apply` alone, what they report, what
//! they refuse, and rules that hold.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::kubectl::{Kubectl, until};

const SOON: Duration = Duration::from_secs(60);
const SYSTEM: [&str; 2] = ["-n", "tombolo-system"];

/// Joins `it` to `first` without any command of Tombolo's: a JoinToken there, its Secret and a Peer here.
pub(super) fn join_by_apply(first: Kubectl<'_>, it: Kubectl<'_>) -> Result<()> {
    let (issuer, name) = (&first.cluster.name, &it.cluster.name);
    first.apply(&format!(
        "apiVersion: tombolo.dev/v1alpha1\nkind: JoinToken\nmetadata: {{name: for-{name}, namespace: tombolo-system}}\n\
         spec: {{for: {name}, ttl: 10m, allowPrivate: true}}\n"
    ))?;
    let secret = format!("for-{name}");
    let path = "jsonpath={.data.token}";
    let ask = || first.run(&[&["get", "secret", &secret, "-o", path][..], &SYSTEM].concat());
    let (token, _) = until(SOON, ask, |token| !token.is_empty()).context("no Secret of the JoinToken")?;
    it.apply(&format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: from-{issuer}, namespace: tombolo-system}}\n\
         data: {{token: {token}}}\n---\napiVersion: tombolo.dev/v1alpha1\nkind: Peer\nmetadata: {{name: {issuer}}}\n\
         spec: {{tokenSecretRef: {{name: from-{issuer}}}}}\n"
    ))
}

/// What the objects say once all have joined; secrets stand in Secrets only.
pub(super) fn reports(east: Kubectl<'_>, north: Kubectl<'_>) -> Result<String> {
    let path = "jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason} {end}";
    for (it, peer) in [(east, "west"), (east, "north"), (north, "east")] {
        let ask = || it.run(&["get", "peer", peer, "-o", path]);
        let wanted = |answer: &str| {
            ["Joined", "Reachable", "Trusted", "InSync", "Ready"]
                .iter()
                .all(|kind| answer.contains(&format!("{kind}=True")))
        };
        until(SOON, ask, wanted).with_context(|| format!("{peer} in {}", it.cluster.name))?;
    }
    let ask = || {
        east.run(&["get", "clusterset", "clusterset", "-o", "jsonpath={.status.peers} in {.status.cluster}"])
    };
    let (members, _) = until(SOON, ask, |answer| answer == "2/2 in east")?;
    let token = ["get", "jointoken", "for-north", "-o", "json"];
    let ask = || east.run(&[&token[..], &SYSTEM].concat());
    let (token, _) =
        until(SOON, ask, |answer| answer.contains("\"Redeemed\"") && answer.contains("\"north\""))?;
    ensure!(!token.contains("tmb1_"), "a token stands in a status");
    let events = east.run(&["get", "events", "-A", "-o", "jsonpath={range .items[*]}{.reason} {end}"])?;
    for reason in ["TokenIssued", "TokenUsed", "PeerActive"] {
        ensure!(events.contains(reason), "no Event {reason}: {events}");
    }
    let columns = east.run(&["get", "peers"])?;
    ensure!(columns.contains("STATE") && columns.contains("RTT"), "{columns}");
    Ok(format!("peers {members}; the token Redeemed and in its Secret only; Events told"))
}

/// What the API server itself refuses, by the definitions' rules.
pub(super) fn refused(east: Kubectl<'_>) -> Result<String> {
    let object = |kind: &str, metadata: &str, spec: &str| {
        format!("apiVersion: tombolo.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec: {spec}\n")
    };
    let system = "{name: wrong, namespace: tombolo-system}";
    let wrong = [
        (object("Clusterset", "{name: another}", "{}"), "there is one Clusterset"),
        (object("JoinToken", system, "{ttl: 48h}"), "from 1m to 24h"),
        (object("JoinToken", system, "{uses: 0}"), "greater than or equal to 1"),
        (object("ExportGrant", system, "{exports: [bank/web], peers: ['*']}"), "should match"),
        (object("ImportPolicy", "{name: wrong}", "{names: ['shop/*'], alias: shop/all}"), "exactly one name"),
        (object("Guardrail", "{name: wrong}", "{exports: []}"), "at least 1"),
        (object("FailoverPolicy", system, "{services: [web], hold: 2h}"), "from 0s to 1h"),
        (
            object("JoinToken", "{name: for-north, namespace: tombolo-system}", "{for: north, ttl: 20m}"),
            "a token cannot be changed",
        ),
    ];
    for (object, why) in &wrong {
        let Err(error) = east.apply(object) else { anyhow::bail!("taken, and should not be: {object}") };
        let told = format!("{error:#}");
        ensure!(told.contains(why), "refused for another reason: {told}");
    }
    Ok(format!("{} objects refused, each with its reason", wrong.len()))
}

/// Rules hold, and what they take away comes back with their end.
pub(super) fn rules(east: Kubectl<'_>, west: Kubectl<'_>) -> Result<String> {
    let path = "jsonpath={.status.clusters[*].cluster}";
    let clusters = || east.run(&["get", "serviceimport", "web", "-n", "shop", "-o", path]);
    let both = |answer: &str| answer.contains("west") && answer.contains("north");
    until(SOON, clusters, both)?;
    west.apply(
        "apiVersion: tombolo.dev/v1alpha1\nkind: Guardrail\nmetadata: {name: not-for-east}\n\
         spec: {exports: [shop/web], peers: [east]}\n",
    )?;
    let (_, took) =
        until(SOON, clusters, |answer| answer == "north").context("the guardrail does not hold")?;
    let path = "jsonpath={.status.conditions[0].type}={.status.conditions[0].status}";
    let accepted = || west.run(&["get", "guardrail", "not-for-east", "-o", path]);
    until(SOON, accepted, |answer| answer == "Accepted=True")?;
    west.run(&["delete", "guardrail", "not-for-east"])?;
    until(SOON, clusters, both).context("the guardrail holds on")?;
    let desired = |wish: &str| {
        let patch = format!("{{\"spec\":{{\"desired\":{wish}}}}}");
        east.run(&["patch", "peer", "west", "--type=merge", "-p", &patch])
    };
    desired("\"Paused\"")?;
    until(SOON, clusters, |answer| answer == "north").context("the pause does not hold")?;
    let state = || east.run(&["get", "peer", "west", "-o", "jsonpath={.status.state}"]);
    until(SOON, state, |answer| answer == "paused")?;
    desired("\"Active\"")?;
    until(SOON, clusters, both).context("the pause holds on")?;
    desired("null")?;
    Ok(format!("a Guardrail after {:.1} s, a pause; both ended again", took.as_secs_f64()))
}
