//! Clusters as they stand: a namespace each, a router namespace between them, and one process in each that is
//! the cluster. All names carry the run's id; nothing is made outside of these namespaces.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::{kubectl::Kubectl, programs::Programs};
use crate::{
    interrupt,
    process::{Member, Role, marked},
    screen,
};

/// What the clusters are called, and where they are.
const PLACES: [(&str, &str); 9] = [
    ("east", "eu-1a"),
    ("west", "eu-1b"),
    ("north", "us-1a"),
    ("south", "us-1b"),
    ("alpha", "ap-1a"),
    ("beta", "ap-1b"),
    ("gamma", "sa-1a"),
    ("delta", "sa-1b"),
    ("omega", "af-1a"),
];

/// How long a cluster may take to stand.
const PATIENCE: Duration = Duration::from_secs(120);

const FILE: &str = "kubernetes.json";

/// One cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cluster {
    /// Its name.
    pub(super) name: String,
    /// Its zone.
    pub(super) zone: String,
    /// Its namespace.
    pub(super) namespace: String,
    /// Its node's address among the clusters.
    pub(super) address: String,
    /// Where everything of it is kept.
    pub(super) folder: PathBuf,
}

/// All that a run made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Part of every name.
    pub(super) run: String,
    /// The clusters, in order.
    pub(super) clusters: Vec<Cluster>,
    /// The `kubectl` of the same version.
    pub(super) kubectl: PathBuf,
    /// The program that is tried.
    pub(super) tombolo: PathBuf,
    /// The program that is a cluster, and does some jobs in one.
    pub(super) program: PathBuf,
    members: Vec<Member>,
    #[serde(skip)]
    folder: PathBuf,
}

impl Standing {
    /// A run that has made nothing yet.
    pub(super) fn begin(folder: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "clusters are network namespaces, which needs root\n  try: sudo testbed kubernetes ..."
        );
        fs::create_dir_all(folder)?;
        ensure!(
            !folder.join(FILE).exists(),
            "clusters stand in {} already\n  try: testbed kubernetes down",
            folder.display()
        );
        let run = format!("{:06x}", rand::rng().random_range(0..1_u32 << 24));
        let (clusters, members) = (Vec::new(), Vec::new());
        let [kubectl, tombolo, program] = [const { PathBuf::new() }; 3];
        let standing = Self { run, clusters, kubectl, tombolo, program, members, folder: folder.to_owned() };
        standing.save()?;
        Ok(standing)
    }

    /// Finds what stands.
    pub(super) fn find(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = fs::read(&path).with_context(|| {
            format!("no clusters stand in {}\n  try: testbed kubernetes up 3", folder.display())
        })?;
        let mut standing: Self = serde_json::from_slice(&text)?;
        folder.clone_into(&mut standing.folder);
        Ok(standing)
    }

    fn save(&self) -> Result<()> {
        let temporary = self.folder.join("kubernetes.json.new");
        fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&temporary, self.folder.join(FILE))?;
        Ok(())
    }

    fn router(&self) -> String {
        format!("tbk{}-r", self.run)
    }

    /// What a person may type now.
    pub(super) fn guide(&self) -> String {
        let line = |cluster: &Cluster| {
            format!(
                "{}: ip netns exec {} {} --kubeconfig {}",
                cluster.name,
                cluster.namespace,
                self.kubectl.display(),
                cluster.folder.join("kubeconfig").display()
            )
        };
        self.clusters.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Ends every process of the run, then removes namespaces and files.
    pub(super) fn take_down(&self) -> Result<()> {
        for identity in self.members.iter().filter_map(|member| member.identity) {
            identity.signal(nix::sys::signal::Signal::SIGTERM)?;
        }
        let until = Instant::now() + Duration::from_secs(5);
        while self.members.iter().any(Member::alive) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        // A few rounds, for what these start in turn.
        for _ in 0..5 {
            for identity in marked(&self.run) {
                identity.kill()?;
            }
        }
        let namespaces = self.clusters.iter().map(|cluster| cluster.namespace.clone());
        for namespace in namespaces.chain([self.router()]) {
            if Path::new("/run/netns").join(&namespace).exists() {
                ip(&["netns", "del", &namespace], "")?;
            }
        }
        fs::remove_dir_all(&self.folder).with_context(|| self.folder.display().to_string())
    }

    /// Copies the logs next to the folder, for reading after `down`.
    pub(super) fn keep_logs(&self) -> Result<PathBuf> {
        let kept = self.folder.with_file_name(format!("testbed-kept-{}", self.run));
        for cluster in &self.clusters {
            let to = kept.join(&cluster.name);
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(&cluster.folder).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|extension| extension == "log") {
                    fs::copy(entry.path(), to.join(entry.file_name()))?;
                }
            }
        }
        Ok(kept)
    }
}

/// Runs `ip` with an input for `-batch`.
fn ip(words: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("`ip` cannot be started\n  try: apt-get install -y iproute2 nftables")?;
    child.stdin.take().context("a pipe that was asked for")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`ip {}` failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Makes the namespaces and starts a cluster in each; returns when all of them stand and take pods.
pub(super) fn up(standing: &mut Standing, programs: &Programs, tombolo: &Path, count: usize) -> Result<()> {
    let began = Instant::now();
    standing.kubectl = programs.path("kubectl");
    standing.program.clone_from(&programs.cluster);
    tombolo.clone_into(&mut standing.tombolo);
    for (index, (name, zone)) in PLACES.iter().enumerate().take(count) {
        standing.clusters.push(Cluster {
            name: (*name).to_owned(),
            zone: (*zone).to_owned(),
            namespace: format!("tbk{}-{}", standing.run, index + 1),
            address: format!("198.18.{}.1", index + 1),
            folder: standing.folder.join(name),
        });
    }
    standing.save()?;
    ip(&["netns", "add", &standing.router()], "")?;
    ip(&["netns", "exec", &standing.router(), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], "")?;
    for cluster in standing.clusters.clone() {
        connect(standing, &cluster)?;
        fs::create_dir_all(&cluster.folder)?;
        let member = member(&cluster, programs, tombolo)?;
        interrupt::check()?;
        let mut member = member;
        member.start(&standing.run)?;
        standing.members.push(member);
        standing.save()?;
    }
    for (cluster, member) in standing.clusters.iter().zip(&standing.members) {
        let ready = cluster.folder.join("ready");
        while !ready.exists() {
            interrupt::check()?;
            ensure!(member.alive(), "cluster {} ended: {}", cluster.name, member.last_words());
            ensure!(
                began.elapsed() < PATIENCE,
                "cluster {} does not stand after {PATIENCE:?}: {}",
                cluster.name,
                member.last_words()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    for cluster in &standing.clusters {
        for namespace in ["default", "kube-system"] {
            Kubectl::new(standing, cluster).takes_pods(namespace)?;
        }
    }
    screen::note(&format!("{:5.1} s  {count} control planes stand", began.elapsed().as_secs_f64()));
    Ok(())
}

fn connect(standing: &Standing, cluster: &Cluster) -> Result<()> {
    let (router, own) = (standing.router(), &cluster.namespace);
    let cable = format!("to-{}", cluster.name);
    let gateway = gateway_of(&cluster.address).context("an address that ends in .1")?;
    ip(
        &["-batch", "-"],
        &format!("netns add {own}\nlink add {cable} netns {router} type veth peer name wan0 netns {own}\n"),
    )?;
    let address = &cluster.address;
    ip(
        &["-n", own, "-batch", "-"],
        &format!(
            "link set lo up\naddr add {address}/24 dev wan0\nlink set wan0 up\nroute add default via {gateway}\n"
        ),
    )?;
    ip(
        &["-n", &router, "-batch", "-"],
        &format!("link set lo up\naddr add {gateway}/24 dev {cable}\nlink set {cable} up\n"),
    )
}

/// The router's address on a cluster's cable.
fn gateway_of(address: &str) -> Option<String> {
    Some(format!("{}.254", address.strip_suffix(".1")?))
}

fn member(cluster: &Cluster, programs: &Programs, tombolo: &Path) -> Result<Member> {
    let own = std::env::current_exe().context("this program does not know where it is")?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let mut command: Vec<String> =
        ["ip", "netns", "exec", &cluster.namespace].iter().map(|word| (*word).to_owned()).collect();
    command.push(text(&programs.cluster));
    for (flag, value) in [
        ("--folder", text(&cluster.folder)),
        ("--bin", text(&programs.folder)),
        ("--name", cluster.name.clone()),
        ("--address", cluster.address.clone()),
        ("--zone", cluster.zone.clone()),
        ("--image", format!("coredns={}", text(&programs.path("coredns")))),
        ("--image", format!("tombolo={}", text(tombolo))),
        ("--image", format!("testbed={}", text(&own))),
    ] {
        command.extend([flag.to_owned(), value]);
    }
    let log = cluster.folder.join("cluster.log");
    Ok(Member { role: Role::Wan, cluster: cluster.name.clone(), command, log, identity: None })
}
