//! A gateway as a process of its own: started, waited for, asked, and killed without warning.

use std::{
    fs::{File, OpenOptions},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use super::failed;
use crate::{
    admin::api::{Addresses, Status},
    cli::{args::SharedArgs, client::Client},
    model::code::Problem,
};

/// Time for a gateway to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(8);
/// Pause between two looks at something that is waited for.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(25);
/// Time for one answer of a gateway on this host.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Lines of a log worth showing.
const LAST_LINES: usize = 15;

/// A running gateway. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Gateway {
    cluster: &'static str,
    child: Child,
    state: PathBuf,
    log: PathBuf,
}

impl Gateway {
    /// Starts `program run` for a cluster whose application is at `export`, with all it writes below `folder`.
    pub(super) fn start(
        program: &Path,
        folder: &Path,
        cluster: &'static str,
        locality: &str,
        export: SocketAddr,
    ) -> Result<Self, Problem> {
        let (state, log) = (folder.join(cluster), folder.join(format!("{cluster}.log")));
        let output = open_log(&log)?;
        let errors = output.try_clone().map_err(|error| failed(format!("{}: {error}", log.display())))?;
        let child = Command::new(program)
            .args(["run", "--cluster", cluster, "--locality", locality])
            .args(["--listen", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--export", &format!("web.demo={export}"), "--idempotent", "--exit-with-parent"])
            .arg("--state")
            .arg(&state)
            // A group of its own: Ctrl-C is for the demo, which ends its gateways itself.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(format!("the gateway of {cluster} cannot be started: {error}")))?;
        Ok(Self { cluster, child, state, log })
    }

    /// Waits until it says that it serves.
    pub(super) async fn ready(&mut self) -> Result<(Client, Addresses), Problem> {
        let cluster = self.cluster;
        let waited = tokio::time::timeout(READY_TIMEOUT, self.first_ready()).await;
        waited.unwrap_or_else(|_| {
            let seconds = READY_TIMEOUT.as_secs();
            Err(failed(format!("the gateway of {cluster} was not ready within {seconds} s")))
        })
    }

    async fn first_ready(&mut self) -> Result<(Client, Addresses), Problem> {
        let shared = SharedArgs { state: Some(self.state.clone()), ..SharedArgs::default() };
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(failed(format!("the gateway of {} ended by itself ({status})", self.cluster)));
            }
            if let Ok(client) = Client::find(&shared, ANSWER_TIMEOUT).await
                && let Ok(status) = client.read::<Status>("/v1/status").await
                && status.ready
            {
                return Ok((client, status.addresses));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Sends SIGKILL: the process ends between two instructions, and tells nobody.
    pub(super) fn kill(&mut self) {
        // It fails only when the process has ended already.
        let _ = self.child.start_kill();
    }

    /// Kills it and waits until it is gone.
    pub(super) async fn end(&mut self) {
        // As above.
        let _ = self.child.kill().await;
    }

    /// Its state folder.
    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    /// The last lines it wrote, if any.
    pub(super) fn last_words(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        if last.is_empty() {
            return String::new();
        }
        let shown: String = last.iter().map(|line| format!("  {line}\n")).collect();
        format!("last words of the gateway of {}:\n{shown}", self.cluster)
    }
}

fn open_log(path: &Path) -> Result<File, Problem> {
    let opened = OpenOptions::new().create_new(true).append(true).open(path);
    opened.map_err(|error| failed(format!("the log {} cannot be opened: {error}", path.display())))
}
