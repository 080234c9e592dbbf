//! API servers that are away, hang, refuse, or have forgotten a kind, and what must be seen meanwhile: clients
//! notice nothing, people are told, and all is well afterwards. Each leaves the clusters as it found them.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{
    faults::{NOT_FOLLOWED, export, import, remembers, restart_gateway},
    kubectl::{Kubectl, SOON, SOON_FLAG, until},
    overlay,
};
use crate::process::Identity;

/// How long an API server is away.
const AWAY: Duration = Duration::from_secs(120);
/// How long one hangs.
const HANGS: Duration = Duration::from_secs(12);

/// A client that asks for the name all the time, and keeps what is answered where no API server is needed to
/// read it.
pub(super) struct Asker {
    log: PathBuf,
}

impl Asker {
    pub(super) fn begin(it: Kubectl<'_>) -> Result<Self> {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: asker, namespace: default}\nspec:\n  \
            terminationGracePeriodSeconds: 0\n  containers:\n    - name: asker\n      image: shell\n      command:\n        \
            - sh\n        - -c\n        - 'while sleep 0.2; do curl -sS --max-time 1 http://web.shop.svc.clusterset.local./; echo; done'\n";
        it.apply(pod)?;
        let asker = Self { log: it.cluster.folder.join("pod-default-asker-asker.log") };
        asker.more(3).context("nothing answers before the fault")?;
        Ok(asker)
    }

    fn answers(&self) -> usize {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| *line == "west" || *line == "north").count()
    }

    /// Waits for so many more answers; how long that took.
    pub(super) fn more(&self, count: usize) -> Result<Duration> {
        let wanted = self.answers() + count;
        let ask = || Ok(self.answers().to_string());
        until(SOON, ask, |answer| answer.parse().is_ok_and(|count: usize| count >= wanted)).map(|it| it.1)
    }
}

/// What is away, and since when.
pub(super) struct Away {
    asker: Asker,
    begun: Instant,
}

fn server(it: Kubectl<'_>) -> Result<Identity> {
    let pid: i32 = fs::read_to_string(it.cluster.folder.join("kube-apiserver.pid"))?.trim().parse()?;
    Identity::of(pid).context("no API server")
}

fn told(it: Kubectl<'_>) -> Result<()> {
    let status = || it.tombolo(&["status"], "");
    until(SOON, status, |answer| answer.contains(NOT_FOLLOWED)).map(drop).context("status tells nothing")
}

fn well(it: Kubectl<'_>) -> Result<()> {
    let status = || it.tombolo(&["status"], "");
    until(SOON, status, |answer| !answer.contains(NOT_FOLLOWED)).map(drop)
}

/// All that a gateway has logged.
pub(super) fn gateways_log(it: Kubectl<'_>) -> String {
    let log = it.cluster.folder.join("pod-tombolo-system-tombolo-0-tombolo.log");
    fs::read_to_string(log).unwrap_or_default()
}

/// The API server goes away and the gateway's process is killed.
pub(super) fn goes_away(east: Kubectl<'_>) -> Result<(Away, String)> {
    let asker = Asker::begin(east)?;
    remembers(east, &["west", "north"])?;
    fs::write(east.cluster.folder.join("kube-apiserver.away"), "")?;
    server(east)?.kill()?;
    let begun = Instant::now();
    asker.more(5).context("nothing answers without the API server")?;
    restart_gateway(east)?;
    std::thread::sleep(Duration::from_secs(1));
    let back = asker.more(5).context("nothing answers after the gateway's restart")?;
    let seen = format!("five answers within {:.1} s of its end", back.as_secs_f64() + 1.0);
    Ok((Away { asker, begun }, seen))
}

/// The two minutes are over.
pub(super) fn comes_back(east: Kubectl<'_>, away: &Away) -> Result<String> {
    while away.begun.elapsed() < AWAY {
        std::thread::sleep(Duration::from_millis(100));
    }
    away.asker.more(5).context("nothing answers at the end")?;
    let whole = away.begun.elapsed();
    fs::remove_file(east.cluster.folder.join("kube-apiserver.away"))?;
    well(east)?;
    east.run(&["delete", "pod", "asker", "--wait=false"])?;
    let (whole, all) = (whole.as_secs_f64(), away.begun.elapsed().as_secs_f64());
    Ok(format!("away for {whole:.0} s, all followed again {:.0} s later", all - whole))
}

/// The API server takes connections and answers nothing.
pub(super) fn hangs(it: Kubectl<'_>) -> Result<String> {
    let before = gateways_log(it).len();
    let identity = server(it)?;
    identity.signal(Signal::SIGSTOP)?;
    std::thread::sleep(HANGS);
    identity.signal(Signal::SIGCONT)?;
    let news = || Ok(gateways_log(it).get(before..).unwrap_or_default().to_owned());
    let wanted = |log: &str| log.contains("does not answer") && log.contains("answers again");
    until(SOON, news, wanted).context("the gateway has not noticed")?;
    well(it)?;
    Ok(format!("silent for {} s: noticed, and listed anew", HANGS.as_secs()))
}

/// The API server restarts: versions that watches ask for are gone.
pub(super) fn restarts(it: Kubectl<'_>) -> Result<String> {
    let before = gateways_log(it).len();
    server(it)?.kill()?;
    let name = || it.run(&["get", "serviceexport", "nobody", "-n", "shop", "-o", "name"]);
    let made = || it.apply(&export("nobody")).and_then(|()| name());
    until(SOON, made, |answer| !answer.is_empty()).context("it does not come back")?;
    let path = "jsonpath={.status.conditions[?(@.type==\"Valid\")].reason}";
    let valid = || it.run(&["get", "serviceexport", "nobody", "-n", "shop", "-o", path]);
    let (_, took) = until(SOON, valid, |answer| answer == "NoService").context("its watch is dead")?;
    it.run(&["delete", "serviceexport", "nobody", "-n", "shop"])?;
    well(it)?;
    let log = gateways_log(it);
    let news = log.get(before..).unwrap_or_default();
    let gone = news.lines().filter(|line| line.contains("too old resource version")).count();
    Ok(format!("{gone} versions gone (410); a new ServiceExport is told after {:.1} s", took.as_secs_f64()))
}

/// A definition is deleted, and with it every ServiceImport; then it is installed anew.
pub(super) fn definition_missing(it: Kubectl<'_>) -> Result<String> {
    let address = import(it, "{.spec.ips[0]}")?;
    it.run(&["delete", "crd", "serviceimports.multicluster.x-k8s.io", SOON_FLAG])?;
    told(it)?;
    let path = "jsonpath={.status.conditions[?(@.type==\"ApiServerReachable\")].message}";
    let condition = || it.run(&["get", "clusterset", "clusterset", "-o", path]);
    let (message, _) = until(SOON, condition, |answer| answer.contains("ServiceImports"))?;
    it.apply(overlay::SERVICE_IMPORTS)?;
    until(SOON, || import(it, "{.spec.ips[0]}"), |answer| answer == address)
        .context("the import does not come back with its address")?;
    well(it)?;
    Ok(format!("Clusterset: {message:?}; installed anew, the import has the same address"))
}
