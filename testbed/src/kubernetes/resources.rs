//! Tombolo's custom resources on a real API server: joining by `kubectl apply` alone, what they report, what
//! they refuse, and rules that hold.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use super::kubectl::{Kubectl, SOON, SOON_FLAG, until};

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

/// Installs by `tombolo k8s install`, which also has the cluster's DNS ask the gateways.
pub(super) fn install(it: Kubectl<'_>) -> Result<()> {
    let cluster = it.cluster;
    let (region, _) = cluster.zone.split_once('-').unwrap_or((&cluster.zone, ""));
    let (locality, address) = (format!("{region}/{}", cluster.zone), format!("{}:30443", cluster.address));
    let words = ["install", "--cluster", &cluster.name, "--locality", &locality, "--advertise", &address];
    it.k8s(&words, "")?;
    // Here no kubelet brings a changed ConfigMap into a pod that runs.
    it.run(&["rollout", "restart", "deployment/coredns", "-n", "kube-system"])?;
    it.stands("deployment/coredns", "kube-system")
}

/// Joins `it` to `first` by `tombolo k8s`, from where both kubeconfigs are.
pub(super) fn join_by_command(first: Kubectl<'_>, it: Kubectl<'_>) -> Result<()> {
    let token = first.k8s(&["token", "--for", &it.cluster.name, "--allow-private"], "")?;
    let told = it.k8s(&["join", &first.cluster.name, "-"], &token)?;
    ensure!(told.contains("is a peer: active"), "{told}");
    Ok(())
}

/// `tombolo k8s check` where all is well, and where something is not.
pub(super) fn checked(it: Kubectl<'_>) -> Result<String> {
    let report = |answer: &str| -> Result<(usize, usize)> {
        let report: serde_json::Value = serde_json::from_str(answer)?;
        let checks = report["checks"].as_array().context("no checks")?;
        Ok((checks.len(), checks.iter().filter(|check| check["verdict"] == "ok").count()))
    };
    let good = it.k8s(&["check", "-o", "json"], "")?;
    let (all, ok) = report(&good)?;
    ensure!(all == ok, "{good}");
    it.run(&["delete", "clusterrolebinding", "tombolo"])?;
    // The API server judges by what it has heard of its own objects, which is a moment late.
    let refusal = || Ok(it.k8s(&["check"], "").err().map_or_else(String::new, |error| format!("{error:#}")));
    until(SOON, refusal, |told| told.contains("TMB-3004") && told.contains("may not"))
        .context("no check fails without rights")?;
    it.k8s(&["install"], "").context("a second installation mends it")?;
    until(SOON, || it.k8s(&["check"], ""), |_| true).context("the second installation mends nothing")?;
    Ok(format!("{ok} of {all}; without its rights the check says so, `install` gives them back"))
}

/// `tombolo k8s uninstall` leaves nothing behind, and the Corefile as it was.
pub(super) fn uninstalled(it: Kubectl<'_>, corefile: &str) -> Result<String> {
    it.k8s(&["uninstall", "--definitions", "--state-too"], "")?;
    // Here no controller releases a claim that nobody uses any more.
    let claim =
        ["patch", "pvc", "state-tombolo-0", "--type=merge", "-p", "{\"metadata\":{\"finalizers\":null}}"];
    it.run(&[&claim[..], &SYSTEM].concat())?;
    ensure!(self::corefile(it)? == corefile, "the Corefile is not what it was");
    let gone = || it.run(&["get", "namespaces", "-o", "name"]);
    until(SOON, gone, |answer| !answer.contains("tombolo-system"))?;
    // A definition goes when the last object of it is gone.
    let ours = || {
        let left =
            it.run(&["get", "crds,clusterroles,clusterrolebindings,endpointslices", "-A", "-o", "name"])?;
        let ours = left.lines().filter(|name| name.contains("tombolo") || name.contains("multicluster"));
        Ok(ours.collect::<Vec<_>>().join(", "))
    };
    until(SOON, ours, str::is_empty).context("something is left")?;
    Ok("nothing of it is left, and the Corefile is what it was".to_owned())
}

/// The cluster's Corefile.
pub(super) fn corefile(it: Kubectl<'_>) -> Result<String> {
    it.run(&["get", "configmap", "coredns", "-n", "kube-system", "-o", "jsonpath={.data.Corefile}"])
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
    let events = || east.run(&["get", "events", "-A", "-o", "jsonpath={range .items[*]}{.reason} {end}"]);
    for reason in ["TokenIssued", "TokenUsed", "PeerActive"] {
        until(SOON, events, |answer| answer.contains(reason))
            .with_context(|| format!("no Event {reason}"))?;
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

/// A JoinToken that is deleted while no gateway runs: its token is revoked by the next one.
pub(super) fn token_without_object(it: Kubectl<'_>) -> Result<String> {
    it.apply(
        "apiVersion: tombolo.dev/v1alpha1\nkind: JoinToken\n\
         metadata: {name: for-nobody, namespace: tombolo-system}\nspec: {for: nobody, allowPrivate: true}\n",
    )?;
    let id = ["get", "jointoken", "for-nobody", "-o", "jsonpath={.status.id}"];
    let id = || it.run(&[&id[..], &SYSTEM].concat());
    let (id, _) = until(SOON, id, |answer| !answer.is_empty())?;
    let scale = |replicas: &str| it.run(&[&["scale", "statefulset/tombolo", replicas][..], &SYSTEM].concat());
    scale("--replicas=0")?;
    it.run(&[&["wait", "--for=delete", "pod/tombolo-0", SOON_FLAG][..], &SYSTEM].concat())?;
    it.run(&[&["delete", "jointoken", "for-nobody"][..], &SYSTEM].concat())?;
    scale("--replicas=1")?;
    let begun = Instant::now();
    let tokens = || it.tombolo(&["token", "list", "-o", "json"], "");
    let revoked = |answer: &str| {
        let list: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
        let tokens = list["tokens"].as_array().cloned().unwrap_or_default();
        tokens.iter().any(|token| token["id"] == id.as_str() && token["state"] == "revoked")
    };
    until(SOON, tokens, revoked).context("its token is not revoked")?;
    it.stands("statefulset/tombolo", "tombolo-system")?;
    Ok(format!("revoked {:.0} s after the gateway was asked to come back", begun.elapsed().as_secs_f64()))
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
