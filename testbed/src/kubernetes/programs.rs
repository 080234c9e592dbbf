//! Builds the programs of Kubernetes once a machine: from their modules, as `testbed/kubernetes/go.sum` pins them,
//! into the cache outside of the tree.

use std::{
    fs::{self, File},
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::screen;

/// The programs and the packages they are.
const PROGRAMS: [(&str, &str); 6] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("coredns", "github.com/coredns/coredns"),
];

/// How often a build says how far it is.
const NEWS: Duration = Duration::from_secs(30);

/// Where the Go module is.
const MODULE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kubernetes");

/// Built programs.
#[derive(Debug)]
pub(super) struct Programs {
    /// Where those of Kubernetes are.
    pub(super) folder: PathBuf,
    /// Our own: a cluster in a namespace.
    pub(super) cluster: PathBuf,
}

impl Programs {
    /// One of Kubernetes'.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Builds what is not there yet.
pub(super) fn ready() -> Result<Programs> {
    let folder = folder()?;
    for (name, package) in PROGRAMS {
        build(&folder.join(name), package)?;
    }
    let mut sources: Vec<PathBuf> = fs::read_dir(MODULE)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_source(path))
        .collect();
    sources.sort();
    let cluster = folder.join(format!("cluster-{}", key(&sources)?));
    build(&cluster, ".")?;
    Ok(Programs { folder, cluster })
}

/// CoreDNS alone, as it is pinned for clusters.
pub(crate) fn coredns() -> Result<PathBuf> {
    let folder = folder()?;
    let (name, package) =
        PROGRAMS.into_iter().find(|(name, _)| *name == "coredns").context("a program of the list")?;
    let program = folder.join(name);
    build(&program, package)?;
    Ok(program)
}

/// Where programs of these versions are.
fn folder() -> Result<PathBuf> {
    let pinned = key(&[Path::new(MODULE).join("go.sum")])?;
    let folder = cache()?.join("kubernetes").join(pinned);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "go")
}

fn cache() -> Result<PathBuf> {
    if let Some(told) = std::env::var_os("TOMBOLO_CACHE") {
        return Ok(told.into());
    }
    let home = std::env::var_os("HOME").context("neither TOMBOLO_CACHE nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cache/tombolo"))
}

fn build(program: &Path, package: &str) -> Result<()> {
    if program.is_file() {
        return Ok(());
    }
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    screen::note(&format!("building {name}"));
    let began = Instant::now();
    // Under another name until it is whole: a build that is interrupted leaves nothing that looks built.
    let unfinished = program.with_extension(format!("building-{}", std::process::id()));
    let told = program.with_extension(format!("told-{}", std::process::id()));
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut child = Command::new("nice")
        .args(["-n", "10", "go", "build", "-v", "-trimpath", "-buildvcs=false", "-mod=readonly"])
        .arg(format!("-p={cores}"))
        .args(["-ldflags", "-s -w", "-o"])
        .arg(&unfinished)
        .arg(package)
        .env("CGO_ENABLED", "0")
        .env("GOMAXPROCS", cores.to_string())
        .current_dir(MODULE)
        .stderr(File::create(&told)?)
        .spawn()
        .context("`go` cannot be started\n  try: install Go 1.26 or newer")?;
    let mut next = began + NEWS;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > next {
            next += NEWS;
            let (packages, seconds) = (lines(&told).len(), began.elapsed().as_secs());
            screen::note(&format!("building {name}: {packages} packages in {seconds} s"));
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let all = lines(&told);
    fs::remove_file(&told)?;
    ensure!(
        status.success(),
        "{package} could not be built ({status}):\n{}",
        all[all.len().saturating_sub(20)..].join("\n")
    );
    fs::rename(&unfinished, program)?;
    screen::note(&format!("built {name} in {:.0} s", began.elapsed().as_secs_f64()));
    Ok(())
}

/// What Go says: a line for each package that it compiles or fetches, and what is wrong.
fn lines(told: &Path) -> Vec<String> {
    let text = fs::read(told).map(|raw| String::from_utf8_lossy(&raw).into_owned()).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A key of the contents of files (FNV-1a): it tells versions apart, and protects from nothing.
fn key(files: &[PathBuf]) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        for byte in fs::read(file).with_context(|| file.display().to_string())? {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("{hash:016x}"))
}
