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
use serde::{Deserialize, Serialize};

use super::{
    cluster::{self, Standing},
    kubectl::Kubectl,
    programs::Programs,
    verify,
};
use crate::{interrupt, screen};

/// Long enough for all of them on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How long the gateways are watched at rest, and under changes.
const WATCHED: Duration = Duration::from_secs(30);
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
    /// From the request that makes a ServiceExport to the answer of the other cluster's CoreDNS, in milliseconds.
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
    job(west, west, "fill", size)?;
    let begun = Instant::now();
    job(west, west, "export", size)?;
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
    let mut changed = 0.0;
    let under_changes = watched([east, west], || {
        let said = job(west, west, "change", size)?;
        changed = said.changes / said.seconds;
        Ok(())
    })?;
    // Asked where it is to resolve.
    let samples = job(east, west, "sample", size)?.millis;
    Ok(Measured {
        schema: "testbed/v1/kubernetes-scale",
        services: size.services,
        endpoints: size.endpoints,
        all_imported_seconds,
        at_rest,
        changes_per_second: changed,
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

/// Has the cluster's program do a job in the cluster `at` to the cluster `to`, and reads what it says.
fn job(at: Kubectl<'_>, to: Kubectl<'_>, name: &str, size: Size) -> Result<Said> {
    interrupt::check()?;
    let config = to.cluster.folder.join("kubeconfig").to_string_lossy().into_owned();
    let endpoints = (size.endpoints / size.services).to_string();
    let [services, rate, samples] = [size.services, size.rate, size.samples].map(|number| number.to_string());
    let length = format!("{}s", WATCHED.as_secs());
    let text = at.job(&[
        name,
        "--kubeconfig",
        &config,
        "--services",
        &services,
        "--endpoints",
        &endpoints,
        "--rate",
        &rate,
        "--samples",
        &samples,
        "--for",
        &length,
    ])?;
    let said: Said = serde_json::from_str(&text).with_context(|| text.clone())?;
    screen::note(&format!("{:5.0} s  {}: {name}", said.seconds, to.cluster.name));
    Ok(said)
}

/// What a job says.
#[derive(Debug, Deserialize)]
struct Said {
    seconds: f64,
    #[serde(default)]
    changes: f64,
    #[serde(default)]
    millis: Vec<u64>,
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
