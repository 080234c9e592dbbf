//! `testbed kubernetes scale`: many Services and endpoints in one cluster, on real API servers: what the gateways
//! cost at rest and while things change, and how long an export takes to resolve elsewhere.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    cluster::{self, Standing},
    kubectl::{Kubectl, until},
    programs::Programs,
    verify,
};
use crate::{interrupt, screen};

/// Long enough for all of them on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How long the gateways are watched at rest, and under changes.
const WATCHED: Duration = Duration::from_secs(30);
/// Objects in one `kubectl create`.
const BATCH: usize = 250;
/// Ticks of a CPU's time in a second, on every Linux.
const TICKS: f64 = 100.0;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) services: usize,
    pub(super) endpoints: usize,
    /// Changes a second, while things change.
    pub(super) rate: usize,
    /// New exports of which it is measured how long they take.
    pub(super) samples: usize,
}

/// One gateway over some time.
#[derive(Debug, Serialize)]
struct Cost {
    cluster: String,
    memory_mib: u64,
    /// Of one core, in percent.
    cpu_percent: f64,
    /// Writes to the API server, a second: all but reads, Leases apart.
    writes_per_second: f64,
    leases_per_second: f64,
}

/// All that was seen.
#[derive(Debug, Serialize)]
pub(super) struct Measured {
    schema: &'static str,
    services: usize,
    endpoints: usize,
    /// From the last ServiceExport applied to the last name with an address, in seconds.
    all_imported_seconds: f64,
    at_rest: Vec<Cost>,
    changes_per_second: f64,
    under_changes: Vec<Cost>,
    /// From `kubectl apply` of a ServiceExport to the answer of the other cluster's CoreDNS, in milliseconds.
    export_to_resolvable_ms: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    samples: usize,
    p50: u64,
    p99: u64,
}

impl Measured {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{} Services, {} endpoints; all imported after {:.0} s\n",
            self.services, self.endpoints, self.all_imported_seconds
        );
        for (when, costs) in [("at rest", &self.at_rest), ("under changes", &self.under_changes)] {
            for cost in costs {
                let _ = writeln!(
                    text,
                    "{when}, {}: {} MiB, {:.1} % of a core, {:.2} writes/s and {:.2} of Leases",
                    cost.cluster,
                    cost.memory_mib,
                    cost.cpu_percent,
                    cost.writes_per_second,
                    cost.leases_per_second
                );
            }
        }
        let it = &self.export_to_resolvable_ms;
        let _ = write!(
            text,
            "{:.0} changes/s; export to resolvable: p50 {} ms, p99 {} ms of {}",
            self.changes_per_second, it.p50, it.p99, it.samples
        );
        text
    }
}

/// Measures two clusters: the first imports what the second exports.
pub(super) fn scale(
    standing: &mut Standing,
    programs: &Programs,
    tombolo: &Path,
    size: Size,
) -> Result<Measured> {
    cluster::up(standing, programs, tombolo, 2)?;
    let standing = &*standing;
    verify::install_and_join(standing)?;
    let [east, west] = standing.clusters.as_slice() else { anyhow::bail!("two clusters") };
    let [east, west] = [east, west].map(|cluster| Kubectl::new(standing, cluster));
    for it in [east, west] {
        it.run(&["create", "namespace", "many"])?;
    }
    fill(west, size)?;
    let begun = Instant::now();
    let names: Vec<String> = (0..size.services).map(|at| format!("s{at}")).collect();
    create(west, &names, &|name| service_export(name))?;
    let addresses = ["get", "serviceimports", "-n", "many", "-o", "jsonpath={.items[*].spec.ips[0]}"];
    for it in [east, west] {
        loop {
            interrupt::check()?;
            let count = it.run(&addresses)?.split_whitespace().count();
            screen::note(&format!(
                "{:5.0} s  {}: {count} names have an address",
                begun.elapsed().as_secs_f64(),
                it.cluster.name
            ));
            if count >= size.services {
                break;
            }
            ensure!(begun.elapsed() < PATIENCE, "only {count} names have an address after {PATIENCE:?}");
            thread::sleep(Duration::from_secs(5));
        }
    }
    let all_imported_seconds = begun.elapsed().as_secs_f64();
    // What was written last is seen, and the last batch settled.
    thread::sleep(Duration::from_secs(20));
    let at_rest = watched([east, west], || {
        thread::sleep(WATCHED);
        Ok(())
    })?;
    let mut changes = 0;
    let mut took = 0.0;
    let under_changes = watched([east, west], || {
        let begun = Instant::now();
        changes = change(west, size)?;
        took = begun.elapsed().as_secs_f64();
        Ok(())
    })?;
    let samples = (0..size.samples).map(|at| sample(east, west, at)).collect::<Result<Vec<_>>>()?;
    Ok(Measured {
        schema: "testbed/v1/kubernetes-scale",
        services: size.services,
        endpoints: size.endpoints,
        all_imported_seconds,
        at_rest,
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        changes_per_second: changes as f64 / took,
        under_changes,
        export_to_resolvable_ms: quantiles(samples),
    })
}

fn quantiles(mut samples: Vec<u64>) -> Quantiles {
    samples.sort_unstable();
    let at = |percent: usize| samples.get((samples.len() * percent / 100).min(samples.len() - 1)).copied();
    let samples_count = samples.len();
    Quantiles { samples: samples_count, p50: at(50).unwrap_or(0), p99: at(99).unwrap_or(0) }
}

fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: many}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n"
    )
}

fn service_export(name: &str) -> String {
    format!(
        "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: many}}\n"
    )
}

/// The slice of a Service; the addresses are nobody's.
fn slice(name: &str, endpoints: usize, turn: usize) -> String {
    let at: usize = name.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(0);
    let address = |index: usize| {
        let number = at * endpoints + index;
        format!("198.{}.{}.{}", 20 + number / 60_000, number / 240 % 250, number % 240 + 1)
    };
    let ready = |index: usize| index != 0 || turn.is_multiple_of(2);
    let all: Vec<String> = (0..endpoints)
        .map(|index| format!("{{addresses: [{}], conditions: {{ready: {}}}}}", address(index), ready(index)))
        .collect();
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: many, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nendpoints: [{}]\nports: [{{name: http, port: 8080}}]\n",
        all.join(", ")
    )
}

/// Creates objects of these names, a few kubectls at a time.
fn create(it: Kubectl<'_>, names: &[String], object: &(impl Fn(&str) -> String + Sync)) -> Result<()> {
    let batches: Vec<&[String]> = names.chunks(BATCH).collect();
    for batches in batches.chunks(4) {
        interrupt::check()?;
        thread::scope(|scope| {
            let each: Vec<_> = batches
                .iter()
                .map(|batch| {
                    scope.spawn(move || {
                        let text: Vec<String> = batch.iter().map(|name| object(name)).collect();
                        it.fed(&["create", "-f", "-", "--validate=false"], &text.join("---\n"))
                    })
                })
                .collect();
            each.into_iter().try_for_each(|it| it.join().expect("no panic").map(drop))
        })?;
    }
    Ok(())
}

fn fill(it: Kubectl<'_>, size: Size) -> Result<()> {
    let begun = Instant::now();
    let names: Vec<String> = (0..size.services).map(|at| format!("s{at}")).collect();
    let each = size.endpoints / size.services;
    create(it, &names, &|name| format!("{}---\n{}", service(name), slice(name, each, 0)))?;
    screen::note(&format!("{:5.0} s  {} Services stand", begun.elapsed().as_secs_f64(), size.services));
    Ok(())
}

/// Changes endpoints at the rate that is asked for; how many were changed.
fn change(it: Kubectl<'_>, size: Size) -> Result<usize> {
    let begun = Instant::now();
    let each = size.endpoints / size.services;
    let mut done = 0;
    for second in 1_u32.. {
        let text: Vec<String> = (0..size.rate)
            .map(|at| slice(&format!("s{}", (done + at) % size.services), each, 1 + done / size.services))
            .collect();
        it.fed(&["replace", "-f", "-", "--validate=false"], &text.join("---\n"))?;
        done += size.rate;
        if begun.elapsed() >= WATCHED {
            break;
        }
        thread::sleep((Duration::from_secs(1) * second).saturating_sub(begun.elapsed()));
    }
    Ok(done)
}

/// One new export; how long until the other cluster's DNS has it, in milliseconds.
fn sample(east: Kubectl<'_>, west: Kubectl<'_>, at: usize) -> Result<u64> {
    let name = format!("x{at}");
    west.fed(&["create", "-f", "-"], &format!("{}---\n{}", service(&name), slice(&name, 1, 0)))?;
    thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    west.fed(&["create", "-f", "-"], &service_export(&name))?;
    let full = format!("{name}.many.svc.clusterset.local");
    let ask = || east.client(&["dig", "+short", "+time=1", "+tries=1", &full]);
    until(Duration::from_secs(60), ask, |answer| answer.starts_with("10.96."))?;
    Ok(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// What a gateway has used so far.
struct Used {
    cluster: String,
    memory_mib: u64,
    cpu_seconds: f64,
    writes: f64,
    leases: f64,
}

fn used(it: Kubectl<'_>) -> Result<Used> {
    let file = it.cluster.folder.join("pod-tombolo-system-tombolo-0-tombolo.pid");
    let outer: i32 = fs::read_to_string(&file)?.trim().parse()?;
    let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
    let pid = children.split_whitespace().next().context("the gateway has no process")?.to_owned();
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    let metrics = it.run(&["get", "--raw", "/metrics"])?;
    let (writes, leases) = writes(&metrics);
    let cpu_seconds = (ticks(11) + ticks(12)) / TICKS;
    Ok(Used { cluster: it.cluster.name.clone(), memory_mib: kib / 1_024, cpu_seconds, writes, leases })
}

/// Writes that the API server has counted, those of Leases apart. Nobody but Tombolo writes these kinds here
/// while a gateway is watched, but for the changes of slices themselves.
fn writes(metrics: &str) -> (f64, f64) {
    let (mut all, mut leases) = (0.0, 0.0);
    for line in metrics.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let is = |label: &str| line.contains(label);
        let write =
            ["POST", "PUT", "PATCH", "APPLY", "DELETE"].iter().any(|verb| is(&format!("verb=\"{verb}\"")));
        let count: f64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0.0);
        if write && is("resource=\"leases\"") {
            leases += count;
        } else if write && !is("resource=\"subjectaccessreviews\"") && !is("resource=\"pods\"") {
            all += count;
        }
    }
    (all, leases)
}

/// What both gateways use while something is done.
fn watched(all: [Kubectl<'_>; 2], act: impl FnOnce() -> Result<()>) -> Result<Vec<Cost>> {
    let before = [used(all[0])?, used(all[1])?];
    let begun = Instant::now();
    act()?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = [used(all[0])?, used(all[1])?];
    let cost = |(before, after): (Used, Used)| Cost {
        cluster: after.cluster,
        memory_mib: after.memory_mib,
        cpu_percent: (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0,
        writes_per_second: (after.writes - before.writes) / seconds,
        leases_per_second: (after.leases - before.leases) / seconds,
    };
    Ok(before.into_iter().zip(after).map(cost).collect())
}
