//! kubectl, and `tombolo k8s`, inside a cluster's namespace.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::cluster::{Cluster, Standing};
use crate::interrupt;

/// How long anything may take of which nobody promises a time. Generous, for a machine with too much to do: a step
/// that is to be quick says so itself.
pub(super) const SOON: Duration = Duration::from_secs(120);
/// The same, for kubectl.
pub(super) const SOON_FLAG: &str = "--timeout=120s";

/// kubectl of one cluster.
#[derive(Clone, Copy)]
pub(super) struct Kubectl<'a> {
    standing: &'a Standing,
    pub(super) cluster: &'a Cluster,
}

impl<'a> Kubectl<'a> {
    pub(super) fn new(standing: &'a Standing, cluster: &'a Cluster) -> Self {
        Self { standing, cluster }
    }

    /// Runs it; the answer is its output.
    pub(super) fn run(self, words: &[&str]) -> Result<String> {
        self.fed(words, "")
    }

    /// Runs it with an input.
    pub(super) fn fed(self, words: &[&str], input: &str) -> Result<String> {
        self.program(&self.standing.kubectl, words, input)
    }

    /// Runs `tombolo k8s`, as the person who has the kubeconfig.
    pub(super) fn k8s(self, words: &[&str], input: &str) -> Result<String> {
        let context = ["--context", self.cluster.name.as_str()];
        self.program(&self.standing.tombolo, &[&["k8s"], words, &context].concat(), input)
    }

    /// Does a job of the cluster's program, beside the cluster's pods.
    pub(super) fn job(self, words: &[&str]) -> Result<String> {
        self.program(&self.standing.program, words, "")
    }

    /// Begins such a job, which is spoken with.
    pub(super) fn begin_job(self, words: &[&str]) -> Result<Child> {
        let mut command = self.command(&self.standing.program, words);
        Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?)
    }

    fn command(self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.cluster.namespace])
            .arg(program)
            .args(words)
            .env("KUBECONFIG", self.cluster.folder.join("kubeconfig"))
            .env(crate::process::MARK, &self.standing.run)
            .env("HOME", &self.cluster.folder);
        command
    }

    fn program(self, program: &Path, words: &[&str], input: &str) -> Result<String> {
        let mut child = self
            .command(program, words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // It may end without reading all of it, and says why.
        let _ = child.stdin.take().context("a pipe that was asked for")?.write_all(input.as_bytes());
        let output = child.wait_with_output()?;
        ensure!(
            output.status.success(),
            "{}: `{} {}` failed: {} {}",
            self.cluster.name,
            program.file_name().unwrap_or_default().to_string_lossy(),
            words.join(" "),
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Applies objects.
    pub(super) fn apply(self, objects: &str) -> Result<()> {
        self.fed(&["apply", "-f", "-"], objects).map(drop)
    }

    /// Makes a namespace, and waits until pods can be made in it.
    pub(super) fn namespace(self, name: &str) -> Result<()> {
        self.run(&["create", "namespace", name])?;
        self.takes_pods(name)
    }

    /// Waits for what controllers put into each namespace and every pod in it needs.
    pub(super) fn takes_pods(self, namespace: &str) -> Result<()> {
        let words =
            ["get", "serviceaccount/default", "configmap/kube-root-ca.crt", "-n", namespace, "-o", "name"];
        until(SOON, || self.run(&words), |_| true).map(drop).with_context(|| {
            format!("in {} no pod can be made in the namespace {namespace}", self.cluster.name)
        })
    }

    /// Waits until a workload has the pods it wants, and they are ready.
    pub(super) fn stands(self, workload: &str, namespace: &str) -> Result<()> {
        self.run(&["rollout", "status", workload, "-n", namespace, SOON_FLAG]).map(drop)
    }

    /// What the cluster has and what happened in it, kept beside its logs for whoever asks why a step failed.
    pub(super) fn keep_objects(self) -> Result<()> {
        let kinds = "pods,services,endpointslices,serviceexports,serviceimports,peers,clustersets";
        let asked: [&[&str]; 2] = [
            &["get", kinds, "-A", "-o", "wide", "--request-timeout=10s"],
            &["get", "events", "-A", "--sort-by=.metadata.creationTimestamp", "--request-timeout=10s"],
        ];
        let answer = |words: &[&str]| self.run(words).unwrap_or_else(|error| format!("{error:#}"));
        let text = asked.map(|words| format!("{}\n", answer(words))).concat();
        Ok(fs::write(self.cluster.folder.join("objects.log"), text)?)
    }

    /// Runs a command in the client's pod.
    pub(super) fn client(self, words: &[&str]) -> Result<String> {
        self.run(&[&["exec", "client", "--"], words].concat())
    }

    /// Runs Tombolo's command line in the gateway's pod.
    pub(super) fn tombolo(self, words: &[&str], input: &str) -> Result<String> {
        let inside = ["exec", "-i", "-n", "tombolo-system", "tombolo-0", "--", "tombolo"];
        self.fed(&[&inside, words].concat(), input)
    }
}

/// Asks again until the answer is as wanted; returns it and how long that took.
pub(super) fn until(
    limit: Duration,
    ask: impl Fn() -> Result<String>,
    wanted: impl Fn(&str) -> bool,
) -> Result<(String, Duration)> {
    let began = Instant::now();
    loop {
        interrupt::check()?;
        let answer = ask();
        if let Ok(answer) = &answer
            && wanted(answer)
        {
            return Ok((answer.clone(), began.elapsed()));
        }
        if began.elapsed() > limit {
            match answer {
                Ok(answer) => bail!("after {limit:?} the answer is {answer:?}"),
                Err(error) => return Err(error.context(format!("not within {limit:?}"))),
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
