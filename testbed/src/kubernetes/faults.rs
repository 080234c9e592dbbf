//! What can go wrong around a gateway on Kubernetes, and what must be seen then. Each leaves the clusters as it
//! found them.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;

use super::kubectl::{Kubectl, SOON, SOON_FLAG, until};
use crate::process::Identity;

/// What a person is told of a kind that cannot be followed.
pub(super) const NOT_FOLLOWED: &str = "TMB-3002";

pub(super) fn export(name: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: shop}}\n"
    )
}

fn valid(it: Kubectl<'_>, name: &str, wanted: &str) -> Result<()> {
    let path = "jsonpath={range .status.conditions[?(@.type==\"Valid\")]}{.status}/{.reason}{end}";
    until(
        SOON,
        || it.run(&["get", "serviceexport", name, "-n", "shop", "-o", path]),
        |answer| answer == wanted,
    )
    .map(drop)
    .with_context(|| format!("the condition Valid of {name} is not {wanted}"))
}

pub(super) fn import(it: Kubectl<'_>, path: &str) -> Result<String> {
    it.run(&["get", "serviceimport", "web", "-n", "shop", "-o", &format!("jsonpath={path}")])
}

/// A ServiceExport without its Service, and of a Service that is a name elsewhere.
pub(super) fn nothing_to_export(it: Kubectl<'_>) -> Result<String> {
    it.apply(&export("nobody"))?;
    valid(it, "nobody", "False/NoService")?;
    let elsewhere = "apiVersion: v1\nkind: Service\nmetadata: {name: elsewhere, namespace: shop}\n\
                     spec: {type: ExternalName, externalName: example.org}\n";
    it.apply(elsewhere)?;
    it.apply(&export("elsewhere"))?;
    valid(it, "elsewhere", "False/InvalidServiceType")?;
    let imports = it.run(&["get", "serviceimports", "-n", "shop", "-o", "name"])?;
    ensure!(!imports.contains("nobody") && !imports.contains("elsewhere"), "{imports}");
    it.run(&[
        "delete",
        "serviceexports/nobody",
        "serviceexports/elsewhere",
        "service/elsewhere",
        "-n",
        "shop",
    ])?;
    Ok("NoService and InvalidServiceType, and no import".to_owned())
}

/// A Service without a selector, whose EndpointSlice a person wrote.
pub(super) fn no_selector(from: Kubectl<'_>, it: Kubectl<'_>) -> Result<String> {
    let pod =
        it.run(&["get", "pods", "-n", "shop", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"])?;
    it.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: manual, namespace: shop}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: manual-1, namespace: shop, labels: {{kubernetes.io/service-name: manual}}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: [{pod}]}}]\nports: [{{name: http, port: 8080}}]\n---\n{}",
        export("manual")
    ))?;
    let ask =
        || from.client(&["curl", "-sS", "--max-time", "5", "http://manual.shop.svc.clusterset.local./"]);
    let (answer, _) = until(SOON, ask, |answer| answer == it.cluster.name)?;
    it.run(&["delete", "serviceexports/manual", "services/manual", "endpointslices/manual-1", "-n", "shop"])?;
    Ok(format!("answered by {answer}"))
}

/// The gateway's port that an import's port 80 leads to, while there is one import.
fn leads(it: Kubectl<'_>) -> Result<String> {
    let path = "jsonpath={range .items[*]}{range .spec.ports[?(@.port==80)]}{.targetPort} {end}{end}";
    let label = "app.kubernetes.io/managed-by=tombolo.dev";
    it.run(&["get", "services", "-n", "tombolo-system", "-l", label, "-o", path])
}

/// A port comes and goes; the one that stays leads where it led.
pub(super) fn port_added_and_removed(from: Kubectl<'_>, exporters: [Kubectl<'_>; 2]) -> Result<String> {
    let before = leads(from)?;
    let patch = |ports: &str| -> Result<()> {
        for it in exporters {
            it.run(&[
                "patch",
                "service",
                "web",
                "-n",
                "shop",
                "-p",
                &format!("{{\"spec\":{{\"ports\":{ports}}}}}"),
            ])?;
        }
        Ok(())
    };
    patch("[{\"name\":\"admin\",\"port\":81,\"targetPort\":8080}]")?;
    let numbers = || import(from, "{.spec.ports[*].port}");
    let both = |answer: &str| answer.contains("80") && answer.contains("81");
    until(SOON, numbers, both)?;
    ensure!(leads(from)? == before, "the port that stayed leads elsewhere");
    let ask =
        || from.client(&["curl", "-sS", "--max-time", "5", "http://web.shop.svc.clusterset.local.:81/"]);
    until(SOON, ask, |answer| !answer.is_empty())?;
    patch("[{\"$patch\":\"delete\",\"port\":81}]")?;
    until(SOON, numbers, |answer| answer == "80")?;
    Ok(format!("80, then 80 and 81, then 80; it leads to {before} all along"))
}

/// Somebody else changes what is Tombolo's; it is put right.
pub(super) fn another_writer(east: Kubectl<'_>) -> Result<String> {
    let address = import(east, "{.spec.ips[0]}")?;
    let patch = "{\"spec\":{\"ips\":[\"10.96.0.99\"]}}";
    east.run(&["patch", "serviceimport", "web", "-n", "shop", "--type=merge", "-p", patch])?;
    until(SOON, || import(east, "{.spec.ips[0]}"), |answer| answer == address)?;
    east.run(&["delete", "serviceimport", "web", "-n", "shop"])?;
    until(SOON, || import(east, "{.spec.ips[0]}"), |answer| answer == address)?;
    Ok("changed and deleted, and put right with the same address".to_owned())
}

/// The namespace of an import is deleted here and made again.
pub(super) fn namespace_deleted(east: Kubectl<'_>) -> Result<String> {
    east.run(&["delete", "namespace", "shop", SOON_FLAG])?;
    let label = "app.kubernetes.io/managed-by=tombolo.dev";
    let derived = || east.run(&["get", "services", "-n", "tombolo-system", "-l", label, "-o", "name"]);
    until(SOON, derived, str::is_empty)?;
    east.namespace("shop")?;
    let (address, _) = until(SOON, || import(east, "{.spec.ips[0]}"), |answer| !answer.is_empty())?;
    Ok(format!("its objects went with it; made again, the name has {address}"))
}

/// The rights of the gateways are taken away: what was known stays true, and a person is told.
pub(super) fn rights_taken(east: Kubectl<'_>, ask: &dyn Fn() -> Result<String>) -> Result<String> {
    remembers(east, &["west", "north"])?;
    let binding = east.run(&["get", "clusterrolebinding", "tombolo", "-o", "json"])?;
    east.run(&["delete", "clusterrolebinding", "tombolo"])?;
    let restarts = restarts(east)?;
    // A watch that stands goes on; a gateway that starts has none.
    restart_gateway(east)?;
    until(SOON, || east.tombolo(&["status"], ""), |answer| answer.contains(NOT_FOLLOWED))?;
    let (answer, _) = until(SOON, ask, |answer| !answer.is_empty())?;
    east.fed(&["replace", "--force", "-f", "-"], &binding)?;
    until(SOON, || east.tombolo(&["status"], ""), |answer| !answer.contains(NOT_FOLLOWED))?;
    // Until the cluster has seen the restart to its end, its Services may yet do without the gateway for a moment.
    until(SOON, || self::restarts(east), |answer| answer != restarts).context("its pod has not restarted")?;
    east.run(&["wait", "--for=condition=Ready", "pod/tombolo-0", "-n", "tombolo-system", SOON_FLAG])?;
    let path = "jsonpath={.items[*].endpoints[*].conditions.ready}";
    let served = || east.run(&["get", "endpointslices", "-n", "tombolo-system", "-o", path]);
    until(SOON, served, |answer| !answer.is_empty() && !answer.contains("false"))?;
    Ok(format!("{NOT_FOLLOWED} in status, {answer} went on answering"))
}

/// How often the gateway's process was started again, as far as the API server knows.
fn restarts(it: Kubectl<'_>) -> Result<String> {
    let path = "jsonpath={.status.containerStatuses[0].restartCount}";
    it.run(&["get", "pod", "tombolo-0", "-n", "tombolo-system", "-o", path])
}

/// Waits until a gateway would know `web` of these clusters after a restart, from its disk alone, and where it
/// listens for it.
pub(super) fn remembers(it: Kubectl<'_>, peers: &[&str]) -> Result<()> {
    let listening = format!("\"listening\":{}}}", leads(it)?);
    let gateways = it.cluster.folder.join("claims/tombolo-system/state-tombolo-0/state/gateways");
    let kept = || -> Result<String> {
        let gateway = fs::read_dir(&gateways)?.next().context("no gateway has kept anything")??;
        let keeps = |file: &str, what: &str| -> Result<()> {
            let text = fs::read_to_string(gateway.path().join(file)).with_context(|| file.to_owned())?;
            ensure!(text.contains(what), "{file} does not say {what}: {text}");
            Ok(())
        };
        for peer in peers {
            keeps(&format!("catalog/{peer}.snap"), "\"shop/web\"")?;
        }
        keeps("entrances.json", &listening)?;
        Ok(String::new())
    };
    until(SOON, kept, |_| true).map(drop)
}

/// Kills the gateway's process; its pod starts it again.
pub(super) fn restart_gateway(it: Kubectl<'_>) -> Result<()> {
    let file = it.cluster.folder.join("pod-tombolo-system-tombolo-0-tombolo.pid");
    let process = || -> Result<String> {
        let outer: i32 = fs::read_to_string(&file)?.trim().parse()?;
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        children.split_whitespace().next().map(str::to_owned).context("the gateway has no process")
    };
    let (pid, _) = until(SOON, process, |_| true)?;
    Identity::of(pid.parse()?).context("the gateway has ended")?.signal(Signal::SIGKILL)?;
    Ok(())
}
