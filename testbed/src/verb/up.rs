//! `testbed up`: makes what a scenario asks for, in the order in which its parts need each other.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    envoy, gateway,
    ground::{BackendName, WanPlan, free_slot, ground},
    kept,
    process::{Member, Role},
    scenario::Scenario,
    screen,
    standing::{DEFECTS, IDS, Lock, Product, Standing},
};

/// How long a gateway may take to serve, and peers to know each other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Brings a scenario up in a folder. On any error what was made is taken down again.
pub(crate) fn up(
    folder: &std::path::Path,
    backend: BackendName,
    binary: (Product, PathBuf),
    scenario: Scenario,
) -> Result<Standing> {
    ground(backend).check(&scenario)?;
    let _lock = Lock::take(folder)?;
    let (slot, _guard) = match backend {
        BackendName::Proc => free_slot().map(|(slot, guard)| (slot, Some(guard)))?,
        BackendName::Netns => (0, None),
    };
    let mut standing = Standing::begin(folder, backend, binary, scenario, slot)?;
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
    let file = |kind: &str| standing.endpoint_file(&name, endpoint + 1, kind);
    for (option, kind) in [("--follow", DEFECTS), ("--record", IDS)] {
        command.extend([option.to_owned(), file(kind).to_string_lossy().into_owned()]);
    }
    let log = file("log");
    let role = Role::Endpoint(endpoint + 1);
    standing.launch(Member { role, cluster: name, command, log, identity: None })
}

/// Waits until every gateway has an active peer, with a link to each of its gateways, in every other cluster.
pub(crate) fn wait_peers(standing: &Standing, limit: Duration) -> Result<()> {
    for (cluster, plan) in standing.scenario.clusters.iter().enumerate() {
        for number in 0..plan.gateways {
            wait_links(standing, cluster, number, limit)?;
        }
    }
    Ok(())
}

/// Waits until all links of a gateway are up, seen from it.
pub(crate) fn wait_links(standing: &Standing, cluster: usize, number: usize, limit: Duration) -> Result<()> {
    if standing.product == Product::Envoy {
        return envoy::wait_ready(standing, cluster, number, &["/ready", "/clusters"], limit);
    }
    let until = Instant::now() + limit;
    let admin = gateway::admin(standing, cluster, number)?;
    let own = &standing.scenario.clusters[cluster].name;
    loop {
        crate::interrupt::check()?;
        let peers = admin.peers()?;
        let good = |name: &str, gateways: usize| {
            let peer = peers.iter().find(|peer| peer.cluster == name);
            peer.is_some_and(|peer| peer.state == "active" && peer.link == "up" && peer.links_up >= gateways)
        };
        let mut others = standing.scenario.clusters.iter().filter(|other| other.name != *own);
        let Some(missing) = others.find(|other| !good(&other.name, other.gateways)) else { return Ok(()) };
        if Instant::now() > until {
            let (missing, number) = (&missing.name, number + 1);
            bail!("{own}/{number} has not all links to {missing} after {limit:?}: {peers:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// This program, for the parts of a testbed that are itself.
pub(crate) fn own_path() -> Result<PathBuf> {
    std::env::current_exe().context("this program does not know where it is")
}
