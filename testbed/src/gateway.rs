//! One gateway: its config file, its process, its joining. Tombolo is driven by its binary and its files.

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    admin::Admin,
    envoy,
    ground::{Listens, ground},
    process::{Member, Role},
    standing::{Product, Standing},
};

/// The sample service's name, as its DNS name starts.
pub(crate) const SERVICE: &str = "web.shop.";
/// Its ports: name and number.
pub(crate) const PORTS: [(&str, u16); 3] = [("http", 8080), ("echo", 8081), ("greet", 8082)];
/// The port of the first of them for clients that name none, where a gateway may listen on it.
const PLAIN: (&str, u16) = ("plain", 80);
/// The longest path of a Unix socket, less what the daemon adds to the state folder.
const LONGEST_STATE: usize = 60;
/// How long a service may take to be known and listened for.
const TARGET_PATIENCE: Duration = Duration::from_secs(5);

/// Finds the binary: as told, beside this one, or says how to build it.
pub(crate) fn find_binary(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(told) = told {
        ensure!(told.is_file(), "there is no tombolo binary at {}", told.display());
        return fs::canonicalize(told).with_context(|| told.display().to_string());
    }
    let own = std::env::current_exe().context("this program does not know where it is")?;
    let beside = own.with_file_name("tombolo");
    if beside.is_file() {
        return Ok(beside);
    }
    bail!(
        "there is no tombolo binary beside {}\n  try: cargo build --release -p tombolo -p testbed, or --tombolo PATH",
        own.display()
    )
}

/// The config file of a gateway.
fn config(standing: &Standing, cluster: usize, listens: &Listens) -> String {
    let plan = &standing.scenario.clusters[cluster];
    let mut text = format!(
        "cluster = \"{}\"\n{}\n[listen]\nquic = \"{}\"\ndns = \"{}\"\nadmin = \"{}\"\n[advertise]\naddresses = [\"{}\"]\n",
        plan.name, plan.config, listens.quic, listens.dns, listens.admin, listens.advertise
    );
    if let Some(network) = &listens.virtual_ips {
        text.push_str(&format!("[names]\nvirtual_ips = \"{network}\"\n"));
    }
    if let Some(drain) = plan.drain {
        text.push_str(&format!("[limits]\ndrain_timeout = \"{drain}\"\n"));
    }
    let scenario = &standing.scenario;
    if !scenario.order.is_empty() && scenario.client().is_ok_and(|client| client == cluster) {
        text.push_str(&format!("[[failover]]\nnames = [\"shop/web\"]\norder = {:?}\n", scenario.order));
    }
    if plan.endpoints == 0 {
        return text;
    }
    let idempotent = plan.idempotent;
    text.push_str(&format!("[[export]]\nnamespace = \"shop\"\nname = \"web\"\nidempotent = {idempotent}\n"));
    let ground = ground(standing.backend);
    let plain = ground.ports_below_1024().then_some((PLAIN.0, PLAIN.1, PORTS[0].1));
    for (name, port, at) in PORTS.map(|(name, port)| (name, port, port)).into_iter().chain(plain) {
        let to: Vec<String> = (0..plan.endpoints)
            .map(|endpoint| format!("\"{}:{at}\"", ground.endpoint(standing, cluster, endpoint)))
            .collect();
        text.push_str(&format!(
            "[[export.port]]\nname = \"{name}\"\nport = {port}\nto = [{}]\n",
            to.join(", ")
        ));
    }
    text
}

/// The binary of a product, which is got when it is not here.
pub(crate) fn binary_of(product: Product, told: Option<&Path>) -> Result<(Product, PathBuf)> {
    Ok((
        product,
        match product {
            Product::Tombolo => find_binary(told)?,
            Product::Envoy => crate::bench::envoy_binary()?,
        },
    ))
}

/// Where clients connect to for a port of the sample service. A link is up a moment before the catalog of the
/// peer is here and its listeners are open, so this waits for them.
pub(crate) fn target(standing: &Standing, cluster: usize, port: &str) -> Result<SocketAddr> {
    if standing.product == Product::Envoy {
        return envoy::target(standing, cluster, port);
    }
    let until = Instant::now() + TARGET_PATIENCE;
    loop {
        let target = admin(standing, cluster, 0).and_then(|admin| admin.target(SERVICE, port));
        if target.is_ok() || Instant::now() > until {
            return target;
        }
        crate::interrupt::check()?;
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes the config and starts the process; it is not ready yet.
pub(crate) fn start(standing: &mut Standing, cluster: usize, gateway: usize) -> Result<()> {
    if standing.product == Product::Envoy {
        return envoy::start(standing, cluster, gateway);
    }
    let ground = ground(standing.backend);
    let name = standing.scenario.clusters[cluster].name.clone();
    let (folder, state) = (standing.cluster_folder(&name), standing.state_folder(&name));
    ensure!(
        state.as_os_str().len() <= LONGEST_STATE,
        "the path {} is too long for a Unix socket inside it\n  try: --dir /tmp/tb",
        state.display()
    );
    fs::create_dir_all(&folder)?;
    fs::create_dir_all(&state)?;
    let file = folder.join(format!("gateway-{}.toml", gateway + 1));
    fs::write(&file, config(standing, cluster, &ground.listens(standing, cluster, gateway)))?;
    let mut command = ground.prefix(standing, cluster);
    let text = |path: &Path| path.to_string_lossy().into_owned();
    command.push(text(&standing.tombolo));
    command.extend(["run".to_owned(), "--config".to_owned(), text(&file)]);
    command.extend(["--state".to_owned(), text(&state)]);
    let log = folder.join(format!("gateway-{}.log", gateway + 1));
    let role = Role::Gateway(gateway + 1);
    standing.launch(Member { role, cluster: name, command, log, identity: None })
}

/// The admin socket of a gateway, counted from 0.
pub(crate) fn admin(standing: &Standing, cluster: usize, gateway: usize) -> Result<Admin> {
    let listens = ground(standing.backend).listens(standing, cluster, gateway);
    Admin::find(&standing.state_folder(&standing.scenario.clusters[cluster].name), &listens.quic.to_string())
}

/// Waits until a gateway says that it is ready; its last words are part of the error.
pub(crate) fn wait_ready(standing: &Standing, cluster: usize, gateway: usize, limit: Duration) -> Result<()> {
    if standing.product == Product::Envoy {
        return envoy::wait_ready(standing, cluster, gateway, &["/ready"], limit);
    }
    let name = &standing.scenario.clusters[cluster].name;
    let member = &standing.members[standing.gateway(name, gateway + 1)?];
    let until = Instant::now() + limit;
    loop {
        if let Ok(admin) = admin(standing, cluster, gateway)
            && admin.status().is_ok_and(|status| status["ready"] == true)
        {
            return Ok(());
        }
        crate::interrupt::check()?;
        if !member.alive() {
            bail!("gateway {name}/{} ended at its start:\n{}", gateway + 1, member.last_words());
        }
        if Instant::now() > until {
            bail!("gateway {name}/{} is not ready after {limit:?}:\n{}", gateway + 1, member.last_words());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Joins a cluster to the first one by a token; the token goes through a pipe.
pub(crate) fn join(standing: &Standing, cluster: usize) -> Result<()> {
    if standing.product == Product::Envoy {
        // Its config names everybody.
        return Ok(());
    }
    let token = call(standing, 0, &["token", "create", "--allow-private"], "")?;
    call(standing, cluster, &["join", "-"], &token).map(|_| ())
}

/// Runs a verb of `tombolo` against the first gateway of a cluster that answers.
pub(crate) fn call(standing: &Standing, cluster: usize, verb: &[&str], input: &str) -> Result<String> {
    let plan = &standing.scenario.clusters[cluster];
    let admin = (0..plan.gateways).find_map(|gateway| admin(standing, cluster, gateway).ok());
    let admin = admin.with_context(|| format!("no gateway of {} answers", plan.name))?;
    let mut words = ground(standing.backend).prefix(standing, cluster);
    words.push(standing.tombolo.to_string_lossy().into_owned());
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .args(verb)
        .arg("--socket")
        .arg(admin.socket())
        .env(crate::process::MARK, &standing.run)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", words[0]))?;
    child.stdin.take().context("a pipe that was asked for")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let name = &standing.scenario.clusters[cluster].name;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("`tombolo {}` in {name} failed:\n{said}", verb.join(" "));
    }
    String::from_utf8(output.stdout).context("the output of tombolo is no text")
}
