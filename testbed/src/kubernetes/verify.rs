//! `testbed kubernetes verify`: the whole way of a Service from one cluster to a client in another, on real
//! API servers, through the real CoreDNS and the real kube-proxy.

use std::{path::Path, time::Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    affinity, apiserver,
    cluster::{self, Cluster, Standing},
    families, faults, hindrance,
    kubectl::{Kubectl, SOON, SOON_FLAG, until},
    overlay,
    programs::Programs,
    resources,
};
use crate::screen;

const NAME: &str = "web.shop.svc.clusterset.local";
const URL: &str = "http://web.shop.svc.clusterset.local./";

/// As the cluster's DNS is before anything is installed.
const COREFILE: &str = ".:53 {
    errors
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    reload 2s
}";

/// One thing that was to be shown.
#[derive(Debug, Serialize)]
struct Step {
    what: String,
    seconds: f64,
    /// What was seen; or why it does not hold.
    seen: String,
    holds: bool,
}

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    schema: &'static str,
    /// Whether everything holds.
    pub(super) pass: bool,
    steps: Vec<Step>,
}

impl Shown {
    /// For people.
    pub(super) fn table(&self) -> String {
        let row = |step: &Step| {
            let verdict = if step.holds { "ok" } else { "FAIL" };
            vec![verdict.to_owned(), format!("{:.1}", step.seconds), step.what.clone(), step.seen.clone()]
        };
        let rows: Vec<Vec<String>> = self.steps.iter().map(row).collect();
        let verdict = if self.pass { "PASS" } else { "FAIL" };
        format!("{}\n{verdict}", screen::table(&["", "SECONDS", "WHAT", "SEEN"], &rows))
    }

    /// Does one step, unless one before it has failed.
    fn step(&mut self, what: &str, act: impl FnOnce() -> Result<String>) {
        if !self.pass {
            return;
        }
        let began = Instant::now();
        let result = act();
        let seconds = began.elapsed().as_secs_f64();
        self.pass = result.is_ok();
        let seen = result.unwrap_or_else(|error| format!("{error:#}"));
        screen::note(&format!("{seconds:5.1} s  {what}: {seen}"));
        self.steps.push(Step { what: what.to_owned(), seconds, seen, holds: self.pass });
    }
}

/// Shows all of it; what was made is still there afterwards.
pub(super) fn verify(standing: &mut Standing, programs: &Programs, tombolo: &Path) -> Shown {
    let mut shown = Shown { schema: "testbed/v1/kubernetes", pass: true, steps: Vec::new() };
    shown.step("three API servers in three namespaces", || {
        cluster::up(standing, programs, tombolo, 3)?;
        Ok("the same pod and service addresses in each".to_owned())
    });
    let standing = &*standing;
    shown.step("install, and join by command and by kubectl apply", || {
        install_and_join(standing)?;
        Ok("every gateway knows every other".to_owned())
    });
    if !shown.pass {
        return shown;
    }
    let [east, west, north] = standing.clusters.as_slice() else { return shown };
    let [east, west, north] = [east, west, north].map(|cluster| Kubectl::new(standing, cluster));
    shown.step("the manifests pass the API server's validation", || dry_run(east));
    shown.step("ServiceExports in west and north", || export(&[east, west, north]));
    shown.step("a ServiceImport in east", || imported(east));
    shown.step("dig through CoreDNS gives its address", || resolves(east));
    let ask = || east.client(&["curl", "-sS", "--max-time", "5", URL]);
    shown.step("custom resources report", || resources::reports(east, north));
    shown.step("custom resources that are wrong", || resources::refused(east));
    shown.step("rules hold", || resources::rules(east, west));
    shown.step("another writer", || faults::another_writer(east));
    // Before the outage: controllers that were without an API server for long come back to their work late.
    shown.step("the namespace is deleted", || faults::namespace_deleted(east));
    shown.step("the gateway's rights are taken", || faults::rights_taken(east, &ask));
    without_an_api_server(&mut shown, [east, west, north]);
    let mut first = String::new();
    shown.step("curl through kube-proxy reaches another cluster", || {
        let wanted = |answer: &str| answer == "west" || answer == "north";
        let (answer, _) = until(SOON, ask, wanted)?;
        first.clone_from(&answer);
        Ok(answer)
    });
    let [answering, other] = if first == "west" { [west, north] } else { [north, west] };
    shown.step("its pods are killed and the next cluster answers", || failover(east, answering, other));
    shown.step("the exports are deleted and the name goes", || unexport(&[east, west, north]));
    shown.step("tombolo k8s check", || resources::checked(north));
    shown.step("tombolo k8s uninstall", || resources::uninstalled(north, COREFILE));
    shown
}

/// One API server is away for two minutes; meanwhile comes all that does without it, faults of the others too.
fn without_an_api_server(shown: &mut Shown, [east, west, north]: [Kubectl<'_>; 3]) {
    let mut away = None;
    shown.step("an API server goes away and its gateway is killed", || {
        let (begun, seen) = apiserver::goes_away(east)?;
        away = Some(begun);
        Ok(seen)
    });
    shown.step("a ServiceExport of nothing", || faults::nothing_to_export(west));
    shown.step("a Service without selector", || faults::no_selector(north, west));
    shown.step("Services of both families, and of IPv6", || families::both_families(north, west));
    shown.step("a port is added and removed", || faults::port_added_and_removed(north, [west, north]));
    shown.step("clients are kept with an endpoint", || affinity::kept(north, west));
    shown.step("an API server asks for patience (429)", || hindrance::throttled(north));
    shown.step("watches are late but live", || hindrance::slow_watch(west));
    shown.step("a JoinToken goes while no gateway runs", || resources::token_without_object(west));
    shown.step("an API server hangs", || apiserver::hangs(north));
    shown.step("an API server restarts, versions are gone", || apiserver::restarts(west));
    shown.step("a definition is missing", || apiserver::definition_missing(north));
    if let Some(away) = away {
        shown.step("the first one comes back after two minutes", || apiserver::comes_back(east, &away));
    }
}

/// Puts DNS and Tombolo into every cluster and joins them all to the first.
pub(super) fn install_and_join(standing: &Standing) -> Result<()> {
    let all: Vec<Kubectl<'_>> = standing.clusters.iter().map(|it| Kubectl::new(standing, it)).collect();
    // Both ways to install: by hand in the first cluster, by command in the others.
    for (index, it) in all.iter().enumerate() {
        it.apply(overlay::COREDNS)?;
        it.apply(overlay::CLIENT)?;
        if index == 0 {
            let folder = overlay::write(it.cluster)?;
            it.run(&["apply", "--server-side", "-k", &folder])?;
        } else {
            resources::install(*it).with_context(|| logs(it.cluster))?;
        }
    }
    for it in &all[..1] {
        it.stands("statefulset/tombolo", "tombolo-system").with_context(|| logs(it.cluster))?;
        forward_names(*it)?;
    }
    let (first, others) = all.split_first().context("no clusters")?;
    for (index, it) in others.iter().enumerate() {
        // Both ways of joining: by command, and by objects alone.
        if index == 0 {
            resources::join_by_command(*first, *it)?;
        } else {
            resources::join_by_apply(*first, *it)?;
        }
    }
    for it in &all {
        let wanted = all.len() - 1;
        let active = |answer: &str| {
            let peers: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
            let peers = peers["peers"].as_array().cloned().unwrap_or_default();
            peers.iter().filter(|peer| peer["state"] == "active").count() == wanted
        };
        until(SOON, || it.tombolo(&["peers", "-o", "json"], ""), active)
            .with_context(|| format!("{} does not know the others", it.cluster.name))?;
        it.run(&["wait", "--for=condition=Ready", "pod/client", "-n", "default", SOON_FLAG])?;
    }
    Ok(())
}

/// The end of a gateway's log, for an error message.
fn logs(cluster: &Cluster) -> String {
    let log = cluster.folder.join("pod-tombolo-system-tombolo-0-tombolo.log");
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(6)..].join("\n")
}

/// Has the cluster's CoreDNS ask the gateways for names of the clusterset.
fn forward_names(it: Kubectl<'_>) -> Result<()> {
    let service =
        ["get", "service", "tombolo-dns", "-n", "tombolo-system", "-o", "jsonpath={.spec.clusterIP}"];
    let gateways = it.run(&service)?;
    let map =
        it.run(&["get", "configmap", "coredns", "-n", "kube-system", "-o", "jsonpath={.data.Corefile}"])?;
    let corefile = format!("{}{map}\n", overlay::corefile(&gateways));
    let patch = serde_json::json!({ "data": { "Corefile": corefile } }).to_string();
    it.run(&["patch", "configmap", "coredns", "-n", "kube-system", "--type=merge", "-p", &patch])?;
    it.run(&["rollout", "restart", "deployment/coredns", "-n", "kube-system"])?;
    it.stands("deployment/coredns", "kube-system")
}

/// Everything in `deploy/`, applied for nothing but the answer.
fn dry_run(it: Kubectl<'_>) -> Result<String> {
    let folder = overlay::write(it.cluster)?;
    let answer = it.run(&["apply", "--server-side", "--dry-run=server", "-k", &folder, "-o", "name"])?;
    let objects = answer.lines().count();
    ensure!(objects >= 19, "only {objects} objects: {answer}");
    Ok(format!("{objects} objects"))
}

fn export(all: &[Kubectl<'_>; 3]) -> Result<String> {
    for it in all {
        it.namespace("shop")?;
    }
    for it in &all[1..] {
        it.apply(&overlay::server(&it.cluster.name))?;
        it.apply(overlay::EXPORT)?;
    }
    let path = "jsonpath={range .status.conditions[*]}{.type}={.status}/{.reason} {end}";
    let mut seen = String::new();
    for it in &all[1..] {
        let ask = || it.run(&["get", "serviceexport", "web", "-n", "shop", "-o", path]);
        let wanted = |answer: &str| answer.contains("Valid=True") && answer.contains("Ready=True/Exported");
        seen = until(SOON, ask, wanted)?.0;
        it.stands("deployment/web", "shop")?;
    }
    Ok(seen.trim().to_owned())
}

fn imported(east: Kubectl<'_>) -> Result<String> {
    let path =
        "jsonpath={.spec.type} {.spec.ips[0]} {.status.clusters[*].cluster} {.status.conditions[0].reason}";
    let ask = || east.run(&["get", "serviceimport", "web", "-n", "shop", "-o", path]);
    let wanted = |answer: &str| {
        ["ClusterSetIP 10.96.", "north", "west", "Ready"].iter().all(|part| answer.contains(part))
    };
    until(SOON, ask, wanted).map(|(answer, _)| answer)
}

fn resolves(east: Kubectl<'_>) -> Result<String> {
    let ip = east.run(&["get", "serviceimport", "web", "-n", "shop", "-o", "jsonpath={.spec.ips[0]}"])?;
    let (answer, took) =
        until(SOON, || east.client(&["dig", "+short", "+time=2", "+tries=1", NAME]), |answer| answer == ip)?;
    Ok(format!("{answer} after {:.1} s", took.as_secs_f64()))
}

/// Deletes every pod behind the Service where it was answered, and asks until the next cluster does.
fn failover(east: Kubectl<'_>, answering: Kubectl<'_>, other: Kubectl<'_>) -> Result<String> {
    answering.run(&["scale", "deployment/web", "-n", "shop", "--replicas=0"])?;
    let begun = Instant::now();
    let pods = ["delete", "pods", "-n", "shop", "--all", "--force", "--grace-period=0", "--wait=false"];
    answering.run(&pods)?;
    let ask = || east.client(&["curl", "-sS", "--max-time", "5", URL]);
    until(SOON, ask, |answer| answer == other.cluster.name)?;
    let took = begun.elapsed();
    for _ in 0..10 {
        let answer = ask()?;
        ensure!(answer == other.cluster.name, "{answer:?} answered after the failover");
    }
    let (from, to) = (&answering.cluster.name, &other.cluster.name);
    Ok(format!("{from} -> {to} within {:.1} s, then 10 of 10", took.as_secs_f64()))
}

fn unexport(all: &[Kubectl<'_>; 3]) -> Result<String> {
    for it in &all[1..] {
        it.run(&["delete", "serviceexport", "web", "-n", "shop"])?;
    }
    for it in all {
        let ask = || it.run(&["get", "serviceimports,endpointslices", "-n", "shop", "-o", "name"]);
        let ours = "multicluster.x-k8s.io";
        until(SOON, ask, |answer| !answer.contains(ours) && !answer.contains("clusterset-"))?;
    }
    let ask = || all[0].client(&["dig", "+time=2", "+tries=1", NAME]);
    until(SOON, ask, |answer| answer.contains("NXDOMAIN"))?;
    Ok("no ServiceImport, no slice, NXDOMAIN".to_owned())
}
