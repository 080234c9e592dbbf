//! `tombolo k8s`: installs the gateway into a cluster, checks it, joins it to others, and takes it out again;
//! through the API server alone, as the person who runs it.

pub mod args;

mod api;
mod check;
mod corefile;
mod joining;
mod manifests;

use std::time::Duration;

use serde_json::{Value, json};

use self::{
    api::Server,
    args::{InstallArgs, K8sVerb, UninstallArgs},
    manifests::NAMESPACE,
};
use super::{
    args::SharedArgs,
    output::{self, Printer},
};
use crate::model::code::{Code, Problem};

/// How long an installation may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Where a cluster's DNS is configured.
const COREDNS: (&str, &str) = ("kube-system", "coredns");
/// The zone of the clusterset.
const ZONE: &str = "clusterset.local";

/// Does what was typed.
pub(super) async fn run(verb: K8sVerb, shared: &SharedArgs, printer: Printer) -> Result<(), Problem> {
    let limit = shared.timeout.unwrap_or(TIMEOUT);
    match verb {
        K8sVerb::Install(args) => install(&args, limit).await,
        K8sVerb::Manifests(setting) => {
            let mut all = manifests::definitions();
            all.extend(manifests::configured(&setting, None)?);
            output::line(manifests::text(&all)?.trim_end());
            Ok(())
        }
        K8sVerb::Uninstall(args) => uninstall(&args, limit).await,
        K8sVerb::Check(context) => check::run(&Server::of(&context).await?, printer).await,
        K8sVerb::Token(args) => joining::token(&args, limit).await,
        K8sVerb::Join(args) => joining::join(&args, limit).await,
    }
}

async fn install(args: &InstallArgs, limit: Duration) -> Result<(), Problem> {
    let server = Server::of(&args.context).await?;
    let there = server.get(("v1", "ConfigMap"), NAMESPACE, "tombolo").await?;
    let installed = there.as_ref().and_then(|map| map["data"]["tombolo.toml"].as_str());
    let gateway = manifests::configured(&args.setting, installed)?;
    if args.dry_run {
        return rehearse(&server, &gateway).await;
    }
    let definitions = manifests::definitions();
    for object in &definitions {
        server.apply(object, false).await?;
    }
    for object in &definitions {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let known = server.until(limit, || established(&server, name)).await?;
        known.ok_or_else(|| late(&format!("the definition {name} is not established"), limit))?;
    }
    output::line(&format!("{} custom resource definitions", definitions.len()));
    let before = there.as_ref().map(|map| map["data"].clone());
    for object in &gateway {
        server.apply(object, false).await?;
    }
    output::line(&format!("{} objects of the gateway, in {NAMESPACE}", gateway.len()));
    let config = gateway.iter().find(|object| object["kind"] == "ConfigMap").map(|map| map["data"].clone());
    if before.is_some() && before != config {
        // A gateway reads its config when it starts.
        let digest = server.wall().0.to_string();
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": { "tombolo.dev/restarted": digest } } } } });
        server.merge(("apps/v1", "StatefulSet"), (NAMESPACE, "tombolo"), &patch).await?;
    }
    let ready = server.until(limit, || ready(&server)).await?;
    ready.ok_or_else(|| {
        late("the gateway is not ready", limit)
            .with_fix(format!("kubectl -n {NAMESPACE} describe pod tombolo-0, and its logs"))
    })?;
    output::line("the gateway is ready");
    if !args.no_dns {
        output::line(&ask_gateways(&server).await?);
    }
    output::line(
        "next: `tombolo k8s token --for OTHER` here, `tombolo k8s join THIS -` there; `tombolo k8s check`",
    );
    Ok(())
}

/// Lets the API server judge what does not need anything else to be there first.
async fn rehearse(server: &Server, gateway: &[Value]) -> Result<(), Problem> {
    let definitions = manifests::definitions();
    let standing = server.get(("v1", "Namespace"), "", NAMESPACE).await?.is_some();
    let mut skipped = 0;
    for object in definitions.iter().chain(gateway) {
        if object["metadata"]["namespace"].is_string() && !standing {
            skipped += 1;
            continue;
        }
        output::line(&format!("{} would be taken", server.apply(object, true).await?));
    }
    if skipped > 0 {
        output::line(&format!(
            "{skipped} objects cannot be judged before the namespace {NAMESPACE} is there"
        ));
    }
    Ok(())
}

async fn established(server: &Server, name: &str) -> Result<Option<()>, Problem> {
    let kind = ("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let there = server.get(kind, "", name).await?.unwrap_or_default();
    Ok(check::condition(&there, "Established").filter(|(holds, _)| *holds).map(drop))
}

async fn ready(server: &Server) -> Result<Option<()>, Problem> {
    let set = server.get(("apps/v1", "StatefulSet"), NAMESPACE, "tombolo").await?.unwrap_or_default();
    let (status, generation) = (&set["status"], &set["metadata"]["generation"]);
    let number = |key: &str| status[key].as_i64().unwrap_or(0);
    let wanted = set["spec"]["replicas"].as_i64().unwrap_or(1);
    let newest = status["observedGeneration"] == *generation && number("updatedReplicas") == wanted;
    Ok((newest && number("readyReplicas") == wanted).then_some(()))
}

/// Puts the stub into the cluster's Corefile.
async fn ask_gateways(server: &Server) -> Result<String, Problem> {
    let service = server.get(("v1", "Service"), NAMESPACE, "tombolo-dns").await?.unwrap_or_default();
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let corefile = corefile_of(server).await?.ok_or_else(|| {
        let text = "there is no ConfigMap coredns in kube-system: the cluster has another DNS";
        let fix = format!("have it forward {ZONE} to {address}, and install with --no-dns");
        Problem::new(Code::KUBERNETES_REFUSED, text).with_fix(fix)
    })?;
    if corefile::asks(&corefile, ZONE, &address) {
        return Ok(format!("the cluster's DNS asks {address} for {ZONE} already"));
    }
    let with_stub = corefile::with_stub(&corefile, ZONE, &address).ok_or_else(|| {
        let text = format!("the Corefile of {}/{} has a block for {ZONE} already", COREDNS.0, COREDNS.1);
        let fix = format!("have that block forward to {address}, or take it out; then install again");
        Problem::new(Code::KUBERNETES_REFUSED, text).with_fix(fix)
    })?;
    set_corefile(server, &corefile, with_stub).await?;
    Ok(format!("the cluster's DNS asks {address} for {ZONE}"))
}

async fn corefile_of(server: &Server) -> Result<Option<String>, Problem> {
    let map = server.get(("v1", "ConfigMap"), COREDNS.0, COREDNS.1).await?;
    Ok(map.and_then(|map| map["data"]["Corefile"].as_str().map(str::to_owned)))
}

async fn set_corefile(server: &Server, old: &str, new: String) -> Result<(), Problem> {
    let patch = json!({ "data": { "Corefile": new } });
    server.merge(("v1", "ConfigMap"), COREDNS, &patch).await?;
    if corefile::reloads(old) { Ok(()) } else { server.restart(COREDNS.0, COREDNS.1).await }
}

async fn uninstall(args: &UninstallArgs, limit: Duration) -> Result<(), Problem> {
    let server = Server::of(&args.context).await?;
    if let Some(corefile) = corefile_of(&server).await? {
        let without = corefile::without_stub(&corefile);
        if without != corefile {
            set_corefile(&server, &corefile, without).await?;
            output::line("the cluster's DNS is as it was");
        }
    }
    let mut gone = 0;
    // What was imported goes first, while nobody makes it anew: without the gateway it leads nowhere.
    for object in manifests::gateway().iter().filter(|object| object["kind"] == "StatefulSet") {
        gone += usize::from(server.delete(object).await?.is_some());
    }
    let left = server.until(limit, || no_pods(&server)).await?;
    left.ok_or_else(|| late("the gateway's pod does not end", limit))?;
    gone += joining::remove_imports(&server).await?;
    for object in manifests::gateway().iter().rev() {
        let keep = object["kind"] == "Namespace" && !args.state_too;
        if !keep {
            gone += usize::from(server.delete(object).await?.is_some());
        }
    }
    if args.definitions {
        for object in manifests::definitions() {
            gone += usize::from(server.delete(&object).await?.is_some());
        }
    }
    output::line(&format!("{gone} objects are deleted"));
    if !args.state_too {
        output::line(&format!(
            "the claim state-tombolo-0 in {NAMESPACE} stays, and the cluster's identity with it"
        ));
    }
    Ok(())
}

/// Whether the StatefulSet is gone and its pod too.
async fn no_pods(server: &Server) -> Result<Option<()>, Problem> {
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(server.client.clone(), NAMESPACE);
    let there = pods.get_opt("tombolo-0").await.map_err(|error| api::refused("pod/tombolo-0", &error))?;
    Ok(there.is_none().then_some(()))
}

fn late(what: &str, limit: Duration) -> Problem {
    Problem::new(Code::COMMAND_TIMED_OUT, format!("{what} after {} s", limit.as_secs()))
}
