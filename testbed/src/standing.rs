//! What stands: one folder with a state file, written before anything it names is used, so that a later
//! call finds it, also after this one was killed.

use std::{
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use crate::{
    emulator::control::Control,
    ground::BackendName,
    process::{Member, Role},
    scenario::Scenario,
};

/// The state file's name.
const FILE: &str = "testbed.json";

/// The file that says what an endpoint does wrong.
pub(crate) const DEFECTS: &str = "defects";
/// The file in which an endpoint writes the ids of requests.
pub(crate) const IDS: &str = "ids";

/// What gateways are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Product {
    /// The one that this is for.
    #[default]
    Tombolo,
    /// Envoys in their place.
    Envoy,
}

/// Everything a run made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Random, part of every name the run makes.
    pub(crate) run: String,
    /// What it stands on.
    pub(crate) backend: BackendName,
    /// What its gateways are.
    #[serde(default)]
    pub(crate) product: Product,
    /// Their binary.
    pub(crate) tombolo: PathBuf,
    /// What was asked for.
    pub(crate) scenario: Scenario,
    /// Which range of loopback addresses it uses.
    pub(crate) slot: u8,
    /// Namespaces, named before they are made.
    pub(crate) namespaces: Vec<String>,
    /// Processes.
    pub(crate) members: Vec<Member>,
    /// Whether `up` came to its end.
    pub(crate) complete: bool,
    /// Where it stands on disk; not written.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// Held while something is changed; the kernel lets go of it when the process ends.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock of a folder, making the folder if need be.
    pub(crate) fn take(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .with_context(|| format!("the folder {} cannot be made", folder.display()))?;
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        let file = File::options().create(true).truncate(false).write(true).open(folder.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self { _file: file }),
            Err(_) => bail!("another testbed command works in {} now", folder.display()),
        }
    }
}

impl Standing {
    /// A run that has made nothing yet; its state file exists when this returns.
    pub(crate) fn begin(
        folder: &Path,
        backend: BackendName,
        (product, tombolo): (Product, PathBuf),
        scenario: Scenario,
        slot: u8,
    ) -> Result<Self> {
        if folder.join(FILE).exists() {
            bail!("a testbed stands in {} already\n  try: testbed down, or another --dir", folder.display());
        }
        let run = format!("{:06x}", rand::rng().random_range(0..1_u32 << 24));
        let folder = folder.to_owned();
        let (namespaces, members) = (Vec::new(), Vec::new());
        let standing = Self {
            run,
            backend,
            product,
            tombolo,
            scenario,
            slot,
            namespaces,
            members,
            complete: false,
            folder,
        };
        standing.save()?;
        Ok(standing)
    }

    /// Finds what stands.
    pub(crate) fn find(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no testbed stands in {}\n  try: testbed up 3", folder.display())
            }
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let mut standing: Self =
            serde_json::from_slice(&text).with_context(|| format!("{} is not understood", path.display()))?;
        folder.clone_into(&mut standing.folder);
        Ok(standing)
    }

    /// Writes the state file: a temporary one, then a rename.
    pub(crate) fn save(&self) -> Result<()> {
        let (path, temporary) = (self.folder.join(FILE), self.folder.join("testbed.json.new"));
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Adds a process, starts it and records it before anybody uses it.
    pub(crate) fn launch(&mut self, mut member: Member) -> Result<()> {
        crate::interrupt::check()?;
        ensure!(!self.run.is_empty(), "a run without an id");
        member.start(&self.run)?;
        self.members.push(member);
        self.save()
    }

    /// Starts a known process again.
    pub(crate) fn relaunch(&mut self, index: usize) -> Result<()> {
        let run = self.run.clone();
        self.members[index].start(&run)?;
        self.save()
    }

    /// Position of a gateway among the processes.
    pub(crate) fn gateway(&self, cluster: &str, number: usize) -> Result<usize> {
        let found = self.members.iter().position(|m| m.cluster == cluster && m.role == Role::Gateway(number));
        found.with_context(|| format!("`{cluster}` has no gateway {number}"))
    }

    /// A client of the relay or emulator.
    pub(crate) fn wan(&self) -> Control {
        Control::new(&self.wan_socket())
    }

    /// Its socket.
    pub(crate) fn wan_socket(&self) -> PathBuf {
        self.folder.join("wan.sock")
    }

    /// The folder of a cluster's configuration and logs.
    pub(crate) fn cluster_folder(&self, cluster: &str) -> PathBuf {
        self.folder.join("c").join(cluster)
    }

    /// A file of an endpoint, counted from 1.
    pub(crate) fn endpoint_file(&self, cluster: &str, number: usize, kind: &str) -> PathBuf {
        self.cluster_folder(cluster).join(format!("endpoint-{number}.{kind}"))
    }

    /// The endpoints: cluster and number, counted from 1.
    pub(crate) fn endpoints(&self) -> Vec<(String, usize)> {
        let clusters = self.scenario.clusters.iter();
        clusters.flat_map(|c| (1..=c.endpoints).map(|number| (c.name.clone(), number))).collect()
    }

    /// The state folder that the gateways of a cluster share; short, for the socket inside it.
    pub(crate) fn state_folder(&self, cluster: &str) -> PathBuf {
        self.folder.join("s").join(cluster)
    }

    /// Removes what the run wrote, the state file last.
    pub(crate) fn erase(&self) -> Result<()> {
        for name in ["c", "s", "kept"] {
            let path = self.folder.join(name);
            if path.exists() {
                fs::remove_dir_all(&path).with_context(|| format!("{} cannot be removed", path.display()))?;
            }
        }
        for name in ["wan.sock", "wan.json", "wan.log", "testbed.json.new", FILE, "lock"] {
            match fs::remove_file(self.folder.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        // Not empty: somebody else keeps things there, which are not ours to remove.
        let _ = fs::remove_dir(&self.folder);
        Ok(())
    }
}
