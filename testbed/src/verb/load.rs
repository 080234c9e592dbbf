//! `testbed load`: a client inside a cluster that stands, its plan and its account.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use super::up::own_path;
use crate::{
    gateway,
    ground::ground,
    interrupt,
    load::{Account, Kind, Outcome, Plan},
    process::MARK,
    scenario::Load,
    screen,
    standing::Standing,
};

/// How long a wait for the client does not look whether to stop, in milliseconds.
const LOOK: u16 = 50;

/// A load that runs.
pub(crate) struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// When the first request is due.
    pub(crate) started: u64,
}

/// The plan for a load through what stands.
pub(crate) fn plan(standing: &Standing, load: &Load) -> Result<Plan> {
    let client = standing.scenario.client()?;
    let target = gateway::target(standing, client, load.kind.port_name())?;
    let streams = (load.streams > 0).then(|| gateway::target(standing, client, Kind::LongTcp.port_name()));
    Ok(Plan {
        kind: load.kind,
        target,
        rps: load.rps,
        connections: load.connections,
        duration: load.duration,
        deadline: load.deadline,
        late: load.late,
        bulk_bytes: load.bulk_bytes,
        streams: load.streams,
        stream_target: streams.transpose()?,
        downloads: load.downloads,
        nonce: rand::random(),
    })
}

impl Running {
    /// Starts a client in its cluster; its connections stand when this returns.
    pub(crate) fn start(standing: &Standing, plan: &Plan) -> Result<Self> {
        let mut words = ground(standing.backend).prefix(standing, standing.scenario.client()?);
        words.push(own_path()?.to_string_lossy().into_owned());
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .args(["inner", "client"])
            .env(MARK, &standing.run)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("the client cannot be started")?;
        let mut input = child.stdin.take().context("a pipe that was asked for")?;
        input.write_all(&serde_json::to_vec(plan)?)?;
        drop(input);
        let mut output = BufReader::new(child.stdout.take().context("a pipe that was asked for")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let Ok(started) = line.trim().parse() else {
            let mut said = String::new();
            if let Some(mut errors) = child.stderr.take() {
                errors.read_to_string(&mut said)?;
            }
            child.wait()?;
            bail!("the client could not begin: {}", said.trim());
        };
        Ok(Self { child, output, started })
    }

    /// Waits for its end; kills it and is an error when somebody asks to stop meanwhile.
    pub(crate) fn finish(mut self) -> Result<Outcome> {
        let ended = loop {
            let mut ready = [PollFd::new(self.output.get_ref().as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, LOOK) {
                Ok(1..) => break true,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("waiting for the client failed"),
            }
            if interrupt::asked() {
                break false;
            }
        };
        if !ended {
            self.child.kill().context("the client cannot be ended")?;
        }
        // It writes nothing between its first line and its account, which comes whole.
        let outcome = serde_json::from_reader(&mut self.output);
        let status = self.child.wait()?;
        interrupt::check()?;
        outcome.with_context(|| format!("the client ended without an account: {status}"))
    }
}

/// The account as a table.
pub(crate) fn table(account: &Account) -> String {
    let headings = [
        "ISSUED",
        "OK",
        "RETRIED",
        "FAILED",
        "UNANSWERED",
        "RESET",
        "LATE",
        "P50 ms",
        "P99 ms",
        "P99.9 ms",
        "MAX ms",
    ];
    let (a, l) = (account, account.latency_ms);
    let counts = [a.issued, a.ok, a.retried, a.failed, a.unanswered, a.reset, a.late].map(|n| n.to_string());
    let spans = [l.p50, l.p99, l.p999, l.max].map(|ms| format!("{ms:.1}"));
    let mut text = screen::table(&headings, &[counts.into_iter().chain(spans).collect()]);
    let list = |sums: &std::collections::BTreeMap<String, u64>| {
        sums.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    text.push_str(&format!("\nanswered by: {}", list(&a.clusters)));
    if !a.troubles.is_empty() {
        text.push_str(&format!("\nfirst tries that failed: {}", list(&a.troubles)));
    }
    let megabits = a.bytes as f64 * 8.0 / 1e3 / a.span_ms.max(1.0);
    text.push_str(&format!("\n{megabits:.1} Mbit/s of answers"));
    text
}
