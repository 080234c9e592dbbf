//! `testbed kubernetes`: real control planes, one in each network namespace, with the same addresses inside all
//! of them. What a cluster is made of stands in `testbed/kubernetes`, a Go module; here it is built, started,
//! driven by kubectl and taken down.

mod affinity;
mod apiserver;
mod cluster;
mod families;
mod faults;
mod hindrance;
mod kubectl;
mod overlay;
mod programs;
mod resources;
mod scale;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Subcommand;

use crate::{gateway, interrupt, screen};
use cluster::Standing;
use kubectl::Kubectl;
pub(crate) use programs::coredns;

/// What `testbed kubernetes` does.
#[derive(Debug, Subcommand)]
pub(crate) enum KubernetesVerb {
    /// Bring clusters up, with Tombolo in each and all of them joined; they stand until `down` (root)
    Up {
        /// How many
        #[arg(default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
        clusters: u8,
        /// Only the clusters, without Tombolo
        #[arg(long)]
        bare: bool,
    },
    /// Bring three clusters up, export a Service, reach it from another cluster, kill it, and take all down
    Verify,
    /// Bring two clusters up, fill one with Services, and measure what the gateways cost (root)
    Scale {
        /// Services that one cluster exports
        #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
        services: u32,
        /// Endpoints of all of them
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
        endpoints: u32,
        /// Changes of endpoints a second
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=500))]
        rate: u32,
        /// New exports that are timed
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        samples: u32,
    },
    /// Take away what stands
    Down,
    /// Build the programs of Kubernetes into the cache, which takes long the first time
    Build,
}

/// Does what was typed; false when something that was to be shown does not hold.
pub(crate) fn run(verb: &KubernetesVerb, folder: &Path, tombolo: Option<&Path>, json: bool) -> Result<bool> {
    interrupt::note_signals()?;
    let folder = beside(folder)?;
    match verb {
        KubernetesVerb::Build => {
            screen::say(&programs::ready()?.folder.display().to_string());
        }
        KubernetesVerb::Up { clusters, bare } => {
            let programs = programs::ready()?;
            let tombolo = gateway::find_binary(tombolo)?;
            let mut standing = Standing::begin(&folder)?;
            let made = cluster::up(&mut standing, &programs, &tombolo, usize::from(*clusters))
                .and_then(|()| if *bare { Ok(()) } else { verify::install_and_join(&standing) });
            if let Err(error) = made {
                return Err(undone(&standing, error));
            }
            screen::say(&standing.guide());
        }
        KubernetesVerb::Verify => {
            let programs = programs::ready()?;
            let tombolo = gateway::find_binary(tombolo)?;
            let mut standing = Standing::begin(&folder)?;
            let shown = verify::verify(&mut standing, &programs, &tombolo);
            if !shown.pass && !interrupt::asked() {
                for cluster in &standing.clusters {
                    Kubectl::new(&standing, cluster).keep_objects()?;
                }
                screen::note(&format!("logs: {}", standing.keep_logs()?.display()));
            }
            standing.take_down()?;
            screen::say(&if json { serde_json::to_string_pretty(&shown)? } else { shown.table() });
            return Ok(shown.pass);
        }
        KubernetesVerb::Scale { services, endpoints, rate, samples } => {
            let programs = programs::ready()?;
            let tombolo = gateway::find_binary(tombolo)?;
            let mut standing = Standing::begin(&folder)?;
            let number = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
            let size = scale::Size {
                services: number(*services),
                endpoints: number(*endpoints),
                rate: number(*rate),
                samples: number(*samples),
            };
            match scale::scale(&mut standing, &programs, &tombolo, size) {
                Err(error) => return Err(undone(&standing, error)),
                Ok(measured) => {
                    standing.take_down()?;
                    let text = if json { serde_json::to_string_pretty(&measured)? } else { measured.table() };
                    screen::say(&text);
                }
            }
        }
        KubernetesVerb::Down => {
            let standing = Standing::find(&folder)?;
            standing.take_down()?;
            screen::say(&format!("run {} is down: nothing of it is left", standing.run));
        }
    }
    Ok(true)
}

/// Takes down what a failed `up` made, and keeps its logs.
fn undone(standing: &Standing, error: anyhow::Error) -> anyhow::Error {
    let kept = standing.keep_logs().map(|kept| kept.display().to_string());
    let place = kept.unwrap_or_else(|error| format!("not kept: {error:#}"));
    match standing.take_down() {
        Ok(()) => error.context(format!("logs: {place}")),
        Err(second) => error.context(format!("and taking down what was made failed: {second:#}")),
    }
}

/// Its own folder next to the testbed's, so that both can stand at once.
fn beside(folder: &Path) -> Result<PathBuf> {
    let name = folder.file_name().context("a folder without a name")?.to_string_lossy();
    Ok(folder.with_file_name(format!("{name}-kubernetes")))
}
