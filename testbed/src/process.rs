//! Processes that the testbed made, and only those: each is known by its id and its start time, so that
//! an id that the kernel gave to somebody else is never signalled.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// Set in the environment of everything a run starts; what was started but not yet recorded is found by it.
pub(crate) const MARK: &str = "TOMBOLO_TESTBED_RUN";

/// Names the cluster of what a run starts, beside the mark.
pub(crate) const CLUSTER: &str = "TOMBOLO_TESTBED_CLUSTER";

/// A process by its id and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Its id.
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks after boot.
    pub(crate) started: u64,
}

/// What a process is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Role {
    /// A gateway, counted from 1.
    Gateway(usize),
    /// An endpoint of the sample service, counted from 1.
    Endpoint(usize),
    /// The relay or the emulator.
    Wan,
}

/// How a process is started, and the one that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Member {
    /// What it is for.
    pub(crate) role: Role,
    /// Its cluster; empty for the WAN.
    pub(crate) cluster: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
    /// The process, once it was started.
    pub(crate) identity: Option<Identity>,
}

impl Member {
    /// Starts it in a process group of its own, so that Ctrl-C in the terminal does not reach it. A gateway
    /// records what QUIC does.
    pub(crate) fn start(&mut self, run: &str) -> Result<Identity> {
        let gateway = matches!(self.role, Role::Gateway(_));
        let records = gateway.then(|| ("TOMBOLO_QLOG", self.log.with_extension("qlog")));
        self.start_with(run, records)
    }

    /// The same without any records: each packet would cost a line, and this is to be measured.
    pub(crate) fn start_bare(&mut self, run: &str) -> Result<Identity> {
        self.start_with(run, None)
    }

    fn start_with(&mut self, run: &str, records: Option<(&str, PathBuf)>) -> Result<Identity> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("the log {} cannot be opened", self.log.display()))?;
        let (program, arguments) = self.command.split_first().context("a process without a program")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(records)
            .env(MARK, run)
            .env(CLUSTER, &self.cluster)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        let pid = i32::try_from(child.id()).context("a process id beyond pid_t")?;
        let started =
            start_time(pid).with_context(|| format!("{program} ended at once: {}", self.last_words()))?;
        let identity = Identity { pid, started };
        self.identity = Some(identity);
        Ok(identity)
    }

    /// Whether it runs.
    pub(crate) fn alive(&self) -> bool {
        self.identity.is_some_and(Identity::alive)
    }

    /// The end of its log, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let text =
            fs::read(&self.log).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }
}

impl Identity {
    /// The process that has that id now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, started: start_time(pid)? })
    }

    /// Whether the very process still runs. A zombie has ended.
    pub(crate) fn alive(self) -> bool {
        reap(self.pid);
        start_time(self.pid) == Some(self.started)
    }

    /// Sends a signal, if it is still the same process.
    #[expect(clippy::disallowed_methods, reason = "the one place, behind the check")]
    pub(crate) fn signal(self, signal: Signal) -> Result<bool> {
        if !self.alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("{signal} to process {}", self.pid)),
        }
    }

    /// Kills and waits until it is gone, at most five seconds.
    pub(crate) fn kill(self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let until = Instant::now() + Duration::from_secs(5);
        while self.alive() {
            anyhow::ensure!(Instant::now() < until, "process {} does not end after SIGKILL", self.pid);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

/// Collects the exit status if it is a child of ours, so that no zombie stays; others are init's.
fn reap(pid: i32) {
    let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
}

/// The start time of a running process; nothing for one that has ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything; count after its end.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.nth(18)?.parse().ok() }
}

/// Processes that carry the mark of a run, recorded or not.
pub(crate) fn marked(run: &str) -> Vec<Identity> {
    let mark = format!("{MARK}={run}");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let environ = fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
        if environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
            && let Some(started) = start_time(pid)
        {
            found.push(Identity { pid, started });
        }
    }
    found
}

/// The cluster of the marked process that owns a UDP socket bound to that port; nothing if there is none.
/// Gateways dial from any address, so on loopback only the kernel's tables tell who is who.
pub(crate) fn owner_of_udp(run: &str, port: u16) -> Option<String> {
    let table = fs::read_to_string("/proc/net/udp").ok()?;
    let suffix = format!(":{port:04X}");
    let inodes: Vec<String> = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&suffix)))
        .filter_map(|fields| fields.get(9).map(|inode| format!("socket:[{inode}]")))
        .collect();
    let owns = |pid: i32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|to| inodes.iter().any(|i| to == Path::new(i)))
    };
    let own = i32::try_from(std::process::id()).ok();
    let pid = marked(run).into_iter().map(|found| found.pid).find(|pid| Some(*pid) != own && owns(*pid))?;
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let start = format!("{CLUSTER}=");
    let mut variables = environ.split(|byte| *byte == 0);
    let value = variables.find_map(|variable| variable.strip_prefix(start.as_bytes()))?;
    String::from_utf8(value.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Member {
        Member {
            role: Role::Gateway(1),
            cluster: "east".to_owned(),
            command: vec!["sleep".to_owned(), "60".to_owned()],
            log: folder.join("log"),
            identity: None,
        }
    }

    #[test]
    fn a_process_is_signalled_only_while_id_and_start_time_agree() {
        let folder = tempfile::tempdir().unwrap();
        let mut member = sleeper(folder.path());
        let run = format!("unit-{}", std::process::id());
        let identity = member.start(&run).unwrap();
        let stranger = Identity { started: identity.started + 1, ..identity };
        assert!(!stranger.signal(Signal::SIGKILL).unwrap());
        assert!(member.alive());
        // The mark stands in the environment only once the program runs.
        let until = Instant::now() + Duration::from_secs(5);
        while marked(&run) != vec![identity] && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(marked(&run), vec![identity]);
        identity.kill().unwrap();
        assert!(!member.alive());
        assert!(marked(&run).is_empty());
    }
}
