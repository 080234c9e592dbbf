//! `tombolo k8s check`: everything that can be wrong with a gateway in a cluster, each with what to do.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde::Serialize;
use serde_json::Value;

use super::{
    COREDNS, ZONE,
    api::{Server, refused},
    corefile, corefile_of, established,
    manifests::{self, NAMESPACE},
    ready,
};
use crate::{
    admin::api::schema,
    cli::output::{Printer, Tone},
    kubernetes::resources::{Clusterset, Peer},
    model::code::{Code, Problem},
};

/// What came of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    verdict: Verdict,
    /// What was seen.
    seen: String,
    /// What to do, when there is something.
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: String,
    checks: Vec<Check>,
}

impl Report {
    fn add(&mut self, what: &str, verdict: Verdict, seen: impl Into<String>, fix: &str) {
        let fix = if verdict == Verdict::Ok { String::new() } else { fix.to_owned() };
        self.checks.push(Check { what: what.to_owned(), verdict, seen: seen.into(), fix });
    }

    /// Good, or failed when it could not be asked.
    fn judged(&mut self, what: &str, result: Result<(bool, String), Problem>, fix: &str) {
        match result {
            Ok((true, seen)) => self.add(what, Verdict::Ok, seen, fix),
            Ok((false, seen)) => self.add(what, Verdict::Failed, seen, fix),
            Err(problem) => self.add(what, Verdict::Failed, problem.message, fix),
        }
    }

    fn table(&self, style: crate::cli::output::Style) -> String {
        let line = |check: &Check| {
            let (mark, tone) = match check.verdict {
                Verdict::Ok => ("ok", Tone::Good),
                Verdict::Warning => ("!!", Tone::Fair),
                Verdict::Failed => ("no", Tone::Bad),
            };
            let mut text = format!("{}  {}: {}", style.paint(tone, mark), check.what, check.seen);
            if !check.fix.is_empty() {
                text.push_str(&format!("\n      try: {}", check.fix));
            }
            text
        };
        let count = |verdict| self.checks.iter().filter(|check| check.verdict == verdict).count();
        let sums = format!(
            "{} ok, {} warnings, {} failed",
            count(Verdict::Ok),
            count(Verdict::Warning),
            count(Verdict::Failed)
        );
        let lines: Vec<String> = self.checks.iter().map(line).chain([sums]).collect();
        lines.join("\n")
    }
}

/// Looks at everything, and prints it.
pub(super) async fn run(server: &Server, printer: Printer) -> Result<(), Problem> {
    let mut report = Report { schema: schema("k8s-check"), checks: Vec::new() };
    report.judged("the API server answers", version(server).await, "is KUBECONFIG the right one?");
    if report.checks[0].verdict == Verdict::Ok {
        installed(server, &mut report).await;
        names(server, &mut report).await;
        members(server, &mut report).await;
    }
    let body = serde_json::to_string(&report).expect("a report is plain data");
    printer.body(&body, |style| Ok(report.table(style)))?;
    match report.checks.iter().filter(|check| check.verdict == Verdict::Failed).count() {
        0 => Ok(()),
        failed => Err(Problem::new(Code::KUBERNETES_CHECK, format!("{failed} checks failed"))),
    }
}

async fn version(server: &Server) -> Result<(bool, String), Problem> {
    let info = server.client.apiserver_version().await.map_err(|error| refused("/version", &error))?;
    Ok((true, format!("Kubernetes {}", info.git_version)))
}

async fn installed(server: &Server, report: &mut Report) {
    let mut missing = Vec::new();
    let all = manifests::definitions();
    for object in &all {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if !matches!(established(server, name).await, Ok(Some(()))) {
            missing.push(name.to_owned());
        }
    }
    let seen = match missing.as_slice() {
        [] => format!("{} of {0}", all.len()),
        missing => format!("missing: {}", missing.join(", ")),
    };
    let fix = "`tombolo k8s install`";
    report.judged("custom resource definitions", Ok((missing.is_empty(), seen)), fix);
    report.judged("the gateway's rights", rights(server).await, fix);
    let running = ready(server).await.map(|ready| match ready {
        Some(()) => (true, "tombolo-0 is ready".to_owned()),
        None => (false, "tombolo-0 is not ready".to_owned()),
    });
    let fix = "kubectl -n tombolo-system describe pod tombolo-0; kubectl -n tombolo-system logs tombolo-0";
    report.judged("the gateway", running, fix);
    report.judged("who writes", writer(server).await, fix);
    let config =
        server.get(("v1", "ConfigMap"), NAMESPACE, "tombolo").await.ok().flatten().unwrap_or_default();
    let text = config["data"]["tombolo.toml"].as_str().unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let addresses = table.get("advertise").and_then(|it| it.get("addresses")).and_then(toml::Value::as_array);
    let (verdict, seen) = match addresses.map(Vec::len) {
        None | Some(0) => {
            (Verdict::Warning, "none: other clusters cannot come in; this one can join them".to_owned())
        }
        Some(count) => (Verdict::Ok, format!("{count}")),
    };
    let fix = "`tombolo k8s install --advertise HOST:30443`, if the hosts of this cluster can be reached";
    report.add("advertised addresses", verdict, seen, fix);
}

/// Whether the gateway's account may do what its work asks for.
async fn rights(server: &Server) -> Result<(bool, String), Problem> {
    let user = format!("system:serviceaccount:{NAMESPACE}:tombolo");
    let asked = [
        ("list", "", "services", ""),
        ("watch", "discovery.k8s.io", "endpointslices", ""),
        ("list", "", "pods", ""),
        ("watch", "multicluster.x-k8s.io", "serviceexports", ""),
        ("patch", "multicluster.x-k8s.io", "serviceexports/status", ""),
        ("create", "multicluster.x-k8s.io", "serviceimports", ""),
        ("watch", "tombolo.dev", "peers", ""),
        ("patch", "tombolo.dev", "peers/status", ""),
        ("list", "tombolo.dev", "guardrails", ""),
        ("create", "events.k8s.io", "events", ""),
        ("create", "", "services", NAMESPACE),
        ("update", "coordination.k8s.io", "leases", NAMESPACE),
        ("create", "", "secrets", NAMESPACE),
    ];
    let reviews: Api<SubjectAccessReview> = Api::all(server.client.clone());
    let mut missing = Vec::new();
    for (verb, group, resource, namespace) in asked {
        let (resource_name, part) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(resource_name.to_owned()),
            subresource: Some(part.to_owned()).filter(|part| !part.is_empty()),
            namespace: Some(namespace.to_owned()).filter(|namespace| !namespace.is_empty()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = reviews.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| refused("subjectaccessreview", &error))?;
        if !answer.status.is_some_and(|status| status.allowed) {
            missing.push(format!("{verb} {resource}"));
        }
    }
    Ok(match missing.as_slice() {
        [] => (true, format!("{} asked for, all given", asked.len())),
        missing => (false, format!("may not {}", missing.join(", "))),
    })
}

async fn writer(server: &Server) -> Result<(bool, String), Problem> {
    let kind = ("coordination.k8s.io/v1", "Lease");
    let lease = server.get(kind, NAMESPACE, "tombolo-writer").await?.unwrap_or_default();
    let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or_default();
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|text| text.parse().ok());
    let now = i64::try_from(server.wall().0 / 1_000).unwrap_or(i64::MAX);
    let age = renewed.map(|at: k8s_openapi::jiff::Timestamp| now - at.as_second());
    Ok(match (holder, age) {
        ("", _) | (_, None) => (false, "no gateway holds the Lease tombolo-writer".to_owned()),
        (holder, Some(age)) if age > 20 => (false, format!("{holder} was last seen {age} s ago")),
        (holder, Some(age)) => (true, format!("{holder}, seen {} s ago", age.max(0))),
    })
}

async fn names(server: &Server, report: &mut Report) {
    let service = server.get(("v1", "Service"), NAMESPACE, "tombolo-dns").await.ok().flatten();
    let address =
        service.and_then(|it| it["spec"]["clusterIP"].as_str().map(str::to_owned)).unwrap_or_default();
    let fix = format!("`tombolo k8s install`, or have {ZONE} forwarded to {address} in the cluster's DNS");
    let asks = corefile_of(server).await.map(|corefile| match corefile {
        Some(corefile) if corefile::asks(&corefile, ZONE, &address) => {
            (true, format!("{ZONE} is asked of {address}"))
        }
        Some(_) => (false, format!("the Corefile of {}/{} does not ask {address}", COREDNS.0, COREDNS.1)),
        None => (false, "there is no ConfigMap coredns in kube-system".to_owned()),
    });
    report.judged("the cluster's DNS", asks, &fix);
}

async fn members(server: &Server, report: &mut Report) {
    let sets: Api<Clusterset> = Api::all(server.client.clone());
    let set = sets.get_opt("clusterset").await.map_err(|error| refused("clusterset", &error));
    let set = set.map(|set| serde_json::to_value(set).unwrap_or_default());
    let fix = "kubectl get clusterset clusterset -o yaml; then the gateway's logs";
    let written = set.clone().map(|set| told(&set, "ApiServerWritable"));
    report.judged("objects are followed", set.map(|set| told(&set, "ApiServerReachable")), fix);
    report.judged("objects are written", written, fix);
    let peers: Api<Peer> = Api::all(server.client.clone());
    match peers.list(&ListParams::default()).await {
        Err(error) => report.judged("peers", Err(refused("peers", &error)), fix),
        Ok(list) if list.items.is_empty() => {
            let fix = "`tombolo k8s token` in one cluster, `tombolo k8s join` in the other";
            report.add("peers", Verdict::Warning, "none yet", fix);
        }
        Ok(list) => {
            for peer in list {
                let name = peer.metadata.name.clone().unwrap_or_default();
                let object = serde_json::to_value(peer).unwrap_or_default();
                let state = object["status"]["state"].as_str().unwrap_or("unknown").to_owned();
                let (holds, message) = told(&object, "Ready");
                let verdict = match (holds, state.as_str()) {
                    (true, _) => Verdict::Ok,
                    (false, "paused" | "pending" | "terminated" | "revoked") => Verdict::Warning,
                    (false, _) => Verdict::Failed,
                };
                let fix = format!("kubectl describe peer {name}");
                report.add(&format!("peer {name}"), verdict, format!("{state}, {message}"), &fix);
            }
        }
    }
}

fn told(object: &Value, kind: &str) -> (bool, String) {
    condition(object, kind).unwrap_or_else(|| (false, format!("no condition {kind} yet")))
}

/// Whether a condition holds, and its message.
pub(super) fn condition(object: &Value, kind: &str) -> Option<(bool, String)> {
    let all = object["status"]["conditions"].as_array()?;
    let found = all.iter().find(|condition| condition["type"] == kind)?;
    Some((found["status"] == "True", found["message"].as_str().unwrap_or_default().to_owned()))
}
