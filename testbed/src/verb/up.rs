//! `testbed up`: makes what a scenario asks for, in the order in which its parts need each other.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    gateway,
    ground::{BackendName, WanPlan, free_slot, ground},
    kept,
    process::{Member, Role},
    scenario::Scenario,
    screen,
    standing::{Lock, Standing},
};

/// How long a gateway may take to serve, and peers to know each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Brings a scenario up in a folder. On any error what was made is taken down again.
pub(crate) fn up(
    folder: &std::path::Path,
    backend: BackendName,
    tombolo: PathBuf,
    scenario: Scenario,
) -> Result<Standing> {
    ground(backend).check(&scenario)?;
    let _lock = Lock::take(folder)?;
    let (slot, _guard) = match backend {
        BackendName::Proc => free_slot().map(|(slot, guard)| (slot, Some(guard)))?,
        BackendName::Netns => (0, None),
    };
    let mut standing = Standing::begin(folder, backend, tombolo, scenario, slot)?;
    match build(&mut standing) {
        Ok(()) => Ok(standing),
        Err(error) => {
            // Who pressed Ctrl-C looks for no fault, and wants nothing left behind.
            let kept =
                (!crate::interrupt::asked()).then(|| kept::failure(&standing, &kept::command_line(), None));
            super::down::take_down(&standing).context("taking down what was made")?;
            let place = kept.and_then(Result::ok);
            let place = place.map_or_else(String::new, |kept| format!("\n  kept: {}", kept.display()));
            bail!("{error:#}{place}")
        }
    }
}

fn build(standing: &mut Standing) -> Result<()> {
    let began = Instant::now();
    let step = |text: &str| screen::note(&format!("{:5.1} s  {text}", began.elapsed().as_secs_f64()));
    for cluster in &standing.scenario.clusters {
        std::fs::create_dir_all(standing.cluster_folder(&cluster.name))?;
    }
    let ground = ground(standing.backend);
    ground.prepare(standing)?;
    start_wan(standing)?;
    ground.connect(standing)?;
    step("links stand");
    let plan: Vec<(usize, usize, usize)> = standing
        .scenario
        .clusters
        .iter()
        .enumerate()
        .map(|(index, cluster)| (index, cluster.gateways, cluster.endpoints))
        .collect();
    for (cluster, _, endpoints) in &plan {
        for endpoint in 0..*endpoints {
            start_endpoint(standing, *cluster, endpoint)?;
        }
    }
    // The first gateway of a cluster makes its identity; the others find it.
    for (cluster, _, _) in &plan {
        gateway::start(standing, *cluster, 0)?;
    }
    for (cluster, _, _) in &plan {
        gateway::wait_ready(standing, *cluster, 0, PATIENCE)?;
    }
    step("a gateway serves in every cluster");
    for (cluster, gateways, _) in &plan {
        for number in 1..*gateways {
            gateway::start(standing, *cluster, number)?;
        }
    }
    for (cluster, gateways, _) in &plan {
        for number in 1..*gateways {
            gateway::wait_ready(standing, *cluster, number, PATIENCE)?;
        }
    }
    for (cluster, _, _) in plan.iter().skip(1) {
        gateway::join(standing, *cluster)?;
    }
    step("joined");
    wait_peers(standing, PATIENCE)?;
    step("every gateway knows every peer");
    standing.complete = true;
    standing.save()
}

fn start_wan(standing: &mut Standing) -> Result<()> {
    let scenario = &standing.scenario;
    let plan = WanPlan {
        clusters: scenario.clusters.iter().map(|cluster| cluster.name.clone()).collect(),
        shape: scenario.link,
        seed: scenario.seed,
        medium: ground(standing.backend).medium(standing),
    };
    let file = standing.folder.join("wan.json");
    std::fs::write(&file, serde_json::to_vec(&plan)?)?;
    let command = [own_path()?, "inner".into(), "wan".into(), file, standing.wan_socket()];
    let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let log = standing.folder.join("wan.log");
    standing.launch(Member { role: Role::Wan, cluster: String::new(), command, log, identity: None })?;
    let until = Instant::now() + Duration::from_secs(5);
    while let Err(error) = standing.wan().ask(&crate::emulator::control::Request::Status) {
        let member = &standing.members[standing.members.len() - 1];
        if !member.alive() || Instant::now() > until {
            bail!("the links do not come up: {error:#}\n{}", member.last_words());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn start_endpoint(standing: &mut Standing, cluster: usize, endpoint: usize) -> Result<()> {
    let ground = ground(standing.backend);
    let plan = &standing.scenario.clusters[cluster];
    let name = plan.name.clone();
    let mut command = ground.prefix(standing, cluster);
    command.push(own_path()?.to_string_lossy().into_owned());
    command.extend(["backend", "--cluster", &name].map(str::to_owned));
    for (port, number) in gateway::PORTS {
        command.push(format!("--{port}"));
        command.push(format!("{}:{number}", ground.endpoint(standing, cluster, endpoint)));
    }
    for defect in &plan.defects {
        command.extend(["--defect".to_owned(), defect.clone()]);
    }
    let log = standing.cluster_folder(&name).join(format!("endpoint-{}.log", endpoint + 1));
    let role = Role::Endpoint(endpoint + 1);
    standing.launch(Member { role, cluster: name, command, log, identity: None })
}

/// Waits until every gateway has an active peer, with a link that is up, in every other cluster.
pub(crate) fn wait_peers(standing: &Standing, limit: Duration) -> Result<()> {
    let until = Instant::now() + limit;
    let others = standing.scenario.clusters.len() - 1;
    for (cluster, plan) in standing.scenario.clusters.iter().enumerate() {
        for number in 0..plan.gateways {
            let admin = gateway::admin(standing, cluster, number)?;
            loop {
                crate::interrupt::check()?;
                let peers = admin.peers()?;
                let good = peers.iter().filter(|peer| peer.state == "active" && peer.link == "up").count();
                if good >= others {
                    break;
                }
                if Instant::now() > until {
                    bail!(
                        "{}/{} has {good} of {others} peers up after {limit:?}: {peers:?}",
                        plan.name,
                        number + 1
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(())
}

/// This program, for the parts of a testbed that are itself.
pub(crate) fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("this program does not know where it is")
}
