//! kubectl, and `tombolo k8s`, inside a cluster's namespace.

use std::{
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::cluster::{Cluster, Standing};
use crate::interrupt;

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
