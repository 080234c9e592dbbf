//! What the testbed runs of itself: the relay or emulator, and the client inside a cluster. Not for people.

use std::{io::Write as _, os::unix::net::UnixListener, path::Path};

use anyhow::{Context as _, Result};

use crate::{
    emulator::{engine::Engine, tun::Devices, udp::Relay},
    ground::{WanMedium, WanPlan},
    load::{self, Plan},
};

/// Runs the relay or emulator until it is told to stop.
pub(crate) fn wan(plan: &Path, socket: &Path) -> Result<()> {
    let text = std::fs::read(plan).with_context(|| plan.display().to_string())?;
    let plan: WanPlan = serde_json::from_slice(&text)?;
    if socket.exists() {
        std::fs::remove_file(socket).context("an old control socket cannot be removed")?;
    }
    let control = UnixListener::bind(socket)
        .with_context(|| format!("the control socket {} cannot be opened", socket.display()))?;
    match plan.medium {
        WanMedium::Relay(fronts) => {
            let run = std::env::var(crate::process::MARK).unwrap_or_default();
            let relay = Relay::open(fronts, &plan.clusters, &run)?;
            Engine::new(relay, plan.clusters, plan.shape, plan.seed, control)?.run()
        }
        WanMedium::Tun(sides) => {
            let devices = Devices::open(&sides, 1_500)?;
            Engine::new(devices, plan.clusters, plan.shape, plan.seed, control)?.run()
        }
    }
}

/// Runs a load plan from stdin: one line with the start, then one line with the outcome.
pub(crate) fn client() -> Result<()> {
    let plan: Plan = serde_json::from_reader(std::io::stdin().lock())?;
    let outcome = runtime()?.block_on(load::run(plan, |started| {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{started}");
        let _ = out.flush();
    }))?;
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &outcome)?;
    Ok(out.flush()?)
}

/// The runtime of loads and servers.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the runtime cannot be made")
}
