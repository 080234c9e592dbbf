//! What a Service says of the way from its clients to its endpoints: session affinity, which keeps a client with one of
//! the pods of another cluster, and what is only told. It leaves the clusters as it found them.

use anyhow::{Context as _, Result, ensure};

use super::{
    faults::export,
    kubectl::{Kubectl, SOON, until},
};

const URL: &str = "http://kept.shop.svc.clusterset.local./";
/// Pods behind the name.
const PODS: usize = 3;
/// Questions of one client after the first.
const AGAIN: usize = 10;

/// A pod that answers with its own name; nobody makes another one in its place.
fn pod(number: usize) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: kept-{number}, namespace: shop, labels: {{app: kept}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: kept
      image: testbed
      args: [backend, --cluster, kept-{number}, --http, '[::]:8080']
      readinessProbe: {{tcpSocket: {{port: 8080}}}}
---
"
    )
}

fn service(spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: kept, namespace: shop}}\n\
         spec:\n  {spec}\n  selector: {{app: kept}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]\n---\n{}",
        export("kept")
    )
}

/// What the first exporter says, and what the ServiceImports say then.
const SAID: [&str; 2] = [
    "sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  internalTrafficPolicy: Local
  trafficDistribution: PreferSameZone",
    "ClientIP/600/Local/PreferSameZone",
];
/// The same of the second one.
const SAID_LATER: [&str; 2] = ["sessionAffinity: None", "//Cluster/"];
/// What they disagree on.
const CONFLICT: &str =
    "True/SessionAffinityConflict,InternalTrafficPolicyConflict,TrafficDistributionConflict";

/// Waits until the ServiceImports of the clusters say that.
fn told(clusters: &[Kubectl<'_>], wanted: &str) -> Result<()> {
    for one in clusters {
        let path = "jsonpath={.spec.sessionAffinity}/{.spec.sessionAffinityConfig.clientIP.timeoutSeconds}/\
                    {.spec.internalTrafficPolicy}/{.spec.trafficDistribution}";
        let says = || one.run(&["get", "serviceimport", "kept", "-n", "shop", "-o", path]);
        until(SOON, says, |answer| answer == wanted)
            .with_context(|| format!("the ServiceImport in {} does not say {wanted}", one.cluster.name))?;
    }
    Ok(())
}

/// The exporter is told what is not followed, and no Service that leads to gateways has it.
fn not_followed(from: Kubectl<'_>, it: Kubectl<'_>) -> Result<()> {
    let path = "jsonpath={range .status.conditions[?(@.type==\"tombolo.dev/Carried\")]}{.message}{end}";
    let lacks = || it.run(&["get", "serviceexport", "kept", "-n", "shop", "-o", path]);
    let both = |answer: &str| {
        answer.contains("internalTrafficPolicy Local (")
            && answer.contains("trafficDistribution PreferSameZone (")
    };
    until(SOON, lacks, both).context("the exporter is not told what is not followed")?;
    let path = "jsonpath={range .items[*]}{.metadata.annotations.tombolo\\.dev/entrance-of}=\
                {.spec.internalTrafficPolicy}/{.spec.trafficDistribution} {end}";
    let derived = from.run(&["get", "services", "-n", "tombolo-system", "-o", path])?;
    ensure!(derived.split(' ').any(|one| one == "shop/kept=Cluster/"), "the derived Services: {derived}");
    Ok(())
}

/// A client meets the same pod again and again, another one when that is gone, and exporters that disagree are told.
pub(super) fn kept(from: Kubectl<'_>, it: Kubectl<'_>) -> Result<String> {
    let pods: String = (1..=PODS).map(pod).collect();
    it.apply(&format!("{pods}{}", service(SAID[0])))?;
    told(&[from, it], SAID[1])?;
    let ready =
        || it.run(&["get", "serviceexport", "kept", "-n", "shop", "-o", "jsonpath={.status.conditions}"]);
    until(SOON, ready, |answer| answer.contains("Exported") && !answer.contains("sessionAffinity"))?;
    not_followed(from, it)?;

    // One that comes later takes its share of the clients.
    let known = || {
        let all: serde_json::Value = serde_json::from_str(&from.tombolo(&["services", "-o", "json"], "")?)?;
        let kept = all["services"].as_array().into_iter().flatten().find(|it| it["name"] == "shop/kept");
        Ok(kept.map(|kept| kept["clusters"][0]["ready"].to_string()).unwrap_or_default())
    };
    until(SOON, known, |ready| ready == PODS.to_string()).context("not all pods are known")?;

    let ask = || from.client(&["curl", "-sS", "--max-time", "5", URL]);
    let first = same_again(&ask, |answer| answer.starts_with("kept-"))?;
    it.run(&["delete", "pod", &first, "-n", "shop", "--force", "--grace-period=0", "--wait=false"])?;
    let second = same_again(&ask, |answer| answer.starts_with("kept-") && answer != first)?;

    from.apply(&service(SAID_LATER[0]))?;
    for one in [from, it] {
        let path = "jsonpath={range .status.conditions[?(@.type==\"Conflict\")]}{.status}/{.reason}{end}";
        let conflict = || one.run(&["get", "serviceexport", "kept", "-n", "shop", "-o", path]);
        until(SOON, conflict, |answer| answer == CONFLICT).context("nobody is told")?;
    }
    told(&[from, it], SAID[1]).context("the younger export has changed it")?;
    it.run(&["delete", "service/kept", "serviceexport/kept", "-n", "shop"])?;
    told(&[from, it], SAID_LATER[1]).context("the oldest one's outlives it")?;
    from.run(&["delete", "service/kept", "serviceexport/kept", "-n", "shop"])?;
    it.run(&["delete", "pods", "-l", "app=kept", "-n", "shop", "--wait=false"])?;
    Ok(format!(
        "{AGAIN} of {AGAIN} by {first}; that one killed, {AGAIN} of {AGAIN} by {second}; conflicts told"
    ))
}

/// Waits for such an answer, and gets the same one again and again.
fn same_again(ask: &dyn Fn() -> Result<String>, wanted: impl Fn(&str) -> bool) -> Result<String> {
    let (first, _) = until(SOON, ask, wanted)?;
    for _ in 0..AGAIN {
        let answer = ask()?;
        ensure!(answer == first, "{answer} answered after {first}");
    }
    Ok(first)
}
