//! API servers that ask for patience, and watches that are late but live: a proxy of the testbed stands between one
//! gateway and its API server for a while. Leases pass, as with the real one's priority and fairness, and so does
//! what is told to people. Each leaves the clusters as it found them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::{
    apiserver::gateways_log,
    faults::{NOT_FOLLOWED, export},
    kubectl::{Kubectl, SOON, until},
};

/// What a refused gateway is told to wait for, in seconds.
const RETRY_AFTER: u64 = 3;
/// How long a refusal is watched.
const WATCHED: Duration = Duration::from_secs(8);
/// How many kinds of objects a gateway follows, at least.
const KINDS: usize = 16;
/// How late watches are.
const LATE: Duration = Duration::from_secs(4);
/// A Clusterset of which nothing is wrong.
const WELL: &str = "ApiServerReachable=True/Followed ApiServerWritable=True/Written ";

/// What went through the proxy.
#[derive(Debug, Default, Deserialize)]
struct Counts {
    refused: usize,
    lists: usize,
    watches: usize,
}

/// The proxy while it stands; it ends with its input.
struct Hindrance {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Hindrance {
    fn begin(it: Kubectl<'_>, mode: &str) -> Result<Self> {
        let path = "jsonpath={.status.podIP}";
        let pod = it.run(&["get", "pod", "tombolo-0", "-n", "tombolo-system", "-o", path])?;
        let (folder, address) = (it.cluster.folder.to_string_lossy(), &it.cluster.address);
        let words = ["proxy", "--folder", &folder, "--address", address, "--pod", &pod, "--mode", mode];
        let mut child = it.begin_job(&words)?;
        let input = child.stdin.take().context("a pipe that was asked for")?;
        let output = BufReader::new(child.stdout.take().context("a pipe that was asked for")?);
        let mut proxy = Self { child, input, output };
        let line = proxy.line()?;
        ensure!(line == "ready", "the proxy said {line:?}");
        Ok(proxy)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Hinders in another way; what it counted until then.
    fn change(&mut self, mode: &str) -> Result<Counts> {
        writeln!(self.input, "{mode}")?;
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("the proxy said {line:?}"))
    }

    /// Waits until everything is followed by way of it; what it counted meanwhile.
    fn follows(&mut self) -> Result<Counts> {
        let (began, mut all) = (Instant::now(), Counts::default());
        while all.watches < KINDS {
            ensure!(began.elapsed() < SOON, "{all:?}: not everything is followed by way of the proxy");
            thread::sleep(Duration::from_millis(200));
            let more = self.change("count")?;
            all.refused += more.refused;
            all.lists += more.lists;
            all.watches += more.watches;
        }
        Ok(all)
    }

    /// Ends it; what it counted last.
    fn end(self) -> Result<Counts> {
        let Self { mut child, input, mut output } = self;
        drop(input);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(child.wait()?.success(), "the proxy failed");
        serde_json::from_str(&line).with_context(|| format!("the proxy said {line:?}"))
    }
}

/// What the Clusterset says of the API server.
fn conditions(it: Kubectl<'_>) -> Result<String> {
    let of = |kind: &str| {
        format!(
            "{{range .status.conditions[?(@.type==\"{kind}\")]}}{{.type}}={{.status}}/{{.reason}} {{end}}"
        )
    };
    let path = format!("jsonpath={}{}", of("ApiServerReachable"), of("ApiServerWritable"));
    it.run(&["get", "clusterset", "clusterset", "-o", &path]).map(|answer| format!("{} ", answer.trim()))
}

fn told(it: Kubectl<'_>, wanted: &str) -> Result<Duration> {
    let (_, took) = until(SOON, || conditions(it), |answer| answer.contains(wanted))
        .with_context(|| format!("the Clusterset does not say {wanted}"))?;
    Ok(took)
}

fn valid(it: Kubectl<'_>) -> Result<String> {
    let path = "jsonpath={.status.conditions[?(@.type==\"Valid\")].reason}";
    it.run(&["get", "serviceexport", "nobody", "-n", "shop", "-o", path])
}

/// 429 with Retry-After: first for what is written, then for everything.
pub(super) fn throttled(it: Kubectl<'_>) -> Result<String> {
    let url = "http://web.shop.svc.clusterset.local./";
    let client = || it.client(&["curl", "-sS", "--max-time", "5", url]);
    let ask = || until(SOON, client, |answer| !answer.is_empty()).context("traffic does not go on");
    let (before, began) = (gateways_log(it).len(), Instant::now());
    let mut proxy = Hindrance::begin(it, &format!("-refuse writes -retry-after {RETRY_AFTER}"))?;
    it.apply(&export("nobody"))?;
    // It was cut off at first, and has to see that what it can follow is followed.
    told(it, "ApiServerReachable=True/Followed ApiServerWritable=False/NotWritten ")?;
    ask()?;
    ensure!(valid(it)?.is_empty(), "it was written all the same");
    let first = began.elapsed().as_secs();
    let writes = proxy.change(&format!("-refuse all -retry-after {RETRY_AFTER}"))?;
    // One name is tried after each pause, and of Tombolo's own objects those that change.
    let most = 2 * usize::try_from(first / RETRY_AFTER + 2)?;
    ensure!(writes.refused >= 1 && writes.refused <= most, "{writes:?} in {first} s, at most {most}");

    let began = Instant::now();
    told(it, "ApiServerReachable=False/NotFollowed ApiServerWritable=False/NotWritten ")?;
    let status = it.tombolo(&["status"], "")?;
    ensure!(status.contains(NOT_FOLLOWED), "status tells nothing: {status}");
    ask()?;
    thread::sleep(WATCHED);
    let seconds = began.elapsed().as_secs();
    let all = proxy.end()?;
    // Some twenty kinds are followed and a name is written: each after its pause.
    let most = 25 * usize::try_from(seconds / RETRY_AFTER + 2)?;
    ensure!(all.refused >= KINDS && all.refused <= most, "{all:?} in {seconds} s, at most {most}");
    ensure!(all.lists + all.watches <= 2, "{all:?}: the proxy let something pass");

    until(SOON, || valid(it), |answer| answer == "NoService").context("it is not written afterwards")?;
    let well = told(it, WELL)?.as_secs_f64();
    let log = gateways_log(it);
    let news = log.get(before..).unwrap_or_default();
    // Refusals take nobody's Lease; on a machine with too much to do, silence may.
    let lost = news.contains("leads=false") && !news.contains("does not answer");
    ensure!(!lost, "the Lease was lost");
    it.run(&["delete", "serviceexport", "nobody", "-n", "shop"])?;
    Ok(format!(
        "writes: NotWritten, {} in {first} s; all: NotFollowed too, {} in {seconds} s; well {well:.0} s after its end",
        writes.refused, all.refused
    ))
}

/// Watches say everything, some seconds late: nothing is lost, nothing is listed again and again, nobody is alarmed.
pub(super) fn slow_watch(it: Kubectl<'_>) -> Result<String> {
    let mut proxy = Hindrance::begin(it, &format!("-delay {}s", LATE.as_secs()))?;
    // What was cut off has begun anew, and is found to be well.
    let cut = proxy.follows()?;
    told(it, WELL)?;
    it.apply(&export("nobody"))?;
    let (_, took) = until(SOON, || valid(it), |answer| answer == "NoService")?;
    ensure!(took >= LATE / 2, "the watch was not late: {took:?}");
    let status = it.tombolo(&["status"], "")?;
    let calm = proxy.end()?;
    ensure!(cut.lists <= 2 * KINDS && calm.lists <= KINDS, "{cut:?}, {calm:?}: lists again and again");
    ensure!(cut.watches <= 2 * KINDS && calm.watches <= KINDS, "{cut:?}, {calm:?}: watches again and again");
    told(it, WELL)?;
    ensure!(!status.contains(NOT_FOLLOWED), "a slow watch is no trouble: {status}");
    it.run(&["delete", "serviceexport", "nobody", "-n", "shop"])?;
    let (cut, calm, took) = (cut.watches, calm.watches, took.as_secs_f64());
    Ok(format!("told after {took:.1} s; {cut} watches begun, then {calm}, and no trouble"))
}
