//! The state folder at start: whose it is, the cluster's identity, this gateway's own place and keys.
//!
//! Nothing is ever minted over something that cannot be read: a damaged or foreign folder stops the start
//! with its code, and is left as it is.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    config::Config,
    files::{Folder, FolderLock, Persist, PersistError},
    identity::{
        EXPORT_SECRET_FILE, Identity, IdentityError, JOIN_KEY_FILE, NewIdentity, SVID_CERTIFICATE_FILE,
        SVID_KEY_FILE, Svid,
    },
    link::{QUIC_KEYS_BYTES, QuicKeys},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, GatewayId, Timestamp, TrustDomain},
        limits,
    },
};

/// The file that says whose folder it is.
const CLUSTER: &str = "cluster.json";

/// `cluster.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ClusterDocument {
    cluster: ClusterId,
    trust_domain: TrustDomain,
    created: Timestamp,
}

/// Where a gateway keeps what must last. In production a folder on disk that this process holds.
#[derive(Debug)]
pub struct Home {
    /// The files.
    pub persist: Arc<dyn Persist>,
    /// This gateway.
    pub gateway: GatewayId,
    /// For people.
    pub place: String,
    /// Keeps other processes out of this gateway's folder.
    pub lock: Option<FolderLock>,
}

/// What [`Home::open`] found or made.
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) quic_keys: QuicKeys,
    pub(super) svid: Svid,
    /// Whether the folder was new.
    pub(super) first_start: bool,
}

/// As a problem for people.
pub(super) fn problem(error: &PersistError) -> Problem {
    let code = match error {
        PersistError::NotReadable { .. } => Code::STATE_UNREADABLE,
        PersistError::Corrupt { recovered: true, .. } => Code::STATE_RECOVERED,
        PersistError::Corrupt { recovered: false, .. } | PersistError::BadPath { .. } => Code::STATE_CORRUPT,
        PersistError::Newer { .. } => Code::STATE_NEWER,
        PersistError::Locked { .. } => Code::STATE_LOCKED,
        PersistError::Io { .. } => Code::STATE_NOT_WRITABLE,
    };
    Problem::new(code, error.to_string())
}

fn identity_problem(error: &IdentityError) -> Problem {
    Problem::new(Code::STATE_INCOMPLETE, error.to_string())
}

impl Home {
    /// Opens the folder at `root` and takes a place of its own in it: the first gateway's that no process
    /// holds, or a new one.
    ///
    /// # Errors
    /// A [`Problem`] of the 11xx.
    pub fn claim(root: &Path, clock: &Clock) -> Result<Self, Problem> {
        let folder = Folder::open(root).map_err(|error| problem(&error))?;
        // Held while places are told apart, so that two starts do not take the same new one.
        let _all = retry_locked(&folder)?;
        for number in 1..=limits::GATEWAYS_PER_PEER_MAX {
            let id = place_name(root, number, clock);
            match folder.lock(&format!("gateways/{id}")) {
                Ok(lock) => {
                    let gateway = GatewayId::parse(&id)
                        .map_err(|error| Problem::new(Code::STATE_CORRUPT, error.to_string()))?;
                    let place = root.display().to_string();
                    return Ok(Self { persist: Arc::new(folder), gateway, place, lock: Some(lock) });
                }
                Err(PersistError::Locked { .. }) => {}
                Err(error) => return Err(problem(&error)),
            }
        }
        Err(Problem::new(
            Code::STATE_LOCKED,
            format!("{} gateways already run on {}", limits::GATEWAYS_PER_PEER_MAX, root.display()),
        ))
    }

    /// This gateway's own folder.
    #[must_use]
    pub fn folder(&self) -> String {
        format!("gateways/{}", self.gateway)
    }

    /// Reads the cluster's identity and this gateway's keys, or makes them at the first start.
    pub(super) fn open(&self, config: &Config, host_name: &str, clock: &Clock) -> Result<Opened, Problem> {
        // Two first starts at once make one cluster.
        let _alone = self.persist.exclusive().map_err(|error| problem(&error))?;
        let known = self.read(CLUSTER)?;
        let (identity, first_start) = match known {
            Some(bytes) => (self.load_identity(&bytes, config)?, false),
            None => (self.create_identity(config, host_name, clock)?, true),
        };
        let quic_keys = self.quic_keys(clock)?;
        let svid = self.svid(&identity, config, clock)?;
        Ok(Opened { identity, quic_keys, svid, first_start })
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, Problem> {
        let loaded = self.persist.load(path).map_err(|error| problem(&error))?;
        if let Some(warning) = loaded.as_ref().and_then(|loaded| PersistError::warning(path, loaded)) {
            tracing::warn!(code = %Code::STATE_RECOVERED, error = %warning, "a state file was damaged");
            // Else the one good copy is all there is. A disk that fails says so at the next change.
            let _ =
                self.persist.commit(path, &loaded.as_ref().map(|it| it.bytes.clone()).unwrap_or_default());
        }
        Ok(loaded.map(|loaded| loaded.bytes))
    }

    pub(super) fn write(&self, path: &str, bytes: &[u8]) -> Result<(), Problem> {
        self.persist.commit(path, bytes).map(|_| ()).map_err(|error| problem(&error))
    }

    fn load_identity(&self, document: &[u8], config: &Config) -> Result<Identity, Problem> {
        let document: ClusterDocument = serde_json::from_slice(document).map_err(|error| {
            Problem::new(Code::STATE_CORRUPT, format!("{CLUSTER} in {}: {error}", self.place))
        })?;
        let another = |what: &str, theirs: &str, ours: &str| {
            let place = &self.place;
            let message = format!("{place} belongs to {what} {theirs}, and {ours} was asked for");
            Err(Problem::new(Code::STATE_OF_ANOTHER_CLUSTER, message))
        };
        if let Some(asked) = config.cluster.as_ref().filter(|asked| **asked != document.cluster) {
            return another("cluster", document.cluster.as_str(), asked.as_str());
        }
        if let Some(asked) = config.trust_domain.as_ref().filter(|asked| **asked != document.trust_domain) {
            return another("trust domain", document.trust_domain.as_str(), asked.as_str());
        }
        let files = self.identity_files()?;
        let identity = Identity::load(&document.cluster, &files).map_err(|error| identity_problem(&error))?;
        if *identity.trust_domain() != document.trust_domain {
            return another("trust domain", document.trust_domain.as_str(), identity.trust_domain().as_str());
        }
        Ok(identity)
    }

    /// The folder `identity` by path.
    pub(super) fn identity_files(&self) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
        let mut files = BTreeMap::new();
        for name in self.persist.list("identity").map_err(|error| problem(&error))? {
            let path = format!("identity/{name}");
            files.extend(self.read(&path)?.map(|bytes| (path, bytes)));
        }
        Ok(files)
    }

    fn create_identity(&self, config: &Config, host_name: &str, clock: &Clock) -> Result<Identity, Problem> {
        // Keys without the document that says whose they are: somebody deleted it, or a copy is incomplete.
        let left = self.persist.list("identity").map_err(|error| problem(&error))?;
        let whole = [JOIN_KEY_FILE, EXPORT_SECRET_FILE].map(|path| path.trim_start_matches("identity/"));
        if left.iter().any(|name| name.ends_with(".pem") && !whole.contains(&name.as_str())) {
            let message = format!("{} has an identity but no {CLUSTER}", self.place);
            return Err(Problem::new(Code::STATE_INCOMPLETE, message));
        }
        let cluster = config.cluster_id(host_name);
        let new = NewIdentity {
            cluster: &cluster,
            trust_domain: config.trust_domain.clone(),
            root_life: config.identity.root_life,
            export_secret: clock.random_bytes(),
        };
        let (identity, files) =
            Identity::create(new, clock.wall()).map_err(|error| identity_problem(&error))?;
        for (path, bytes) in files {
            self.write(&path, &bytes)?;
        }
        let trust_domain = identity.trust_domain().clone();
        let document = ClusterDocument { cluster, trust_domain, created: clock.wall() };
        let bytes = serde_json::to_vec_pretty(&document).expect("the document has text keys");
        self.write(CLUSTER, &bytes)?;
        Ok(identity)
    }

    fn quic_keys(&self, clock: &Clock) -> Result<QuicKeys, Problem> {
        let path = format!("{}/quic.keys", self.folder());
        let bytes: [u8; QUIC_KEYS_BYTES] = match self.read(&path)? {
            Some(bytes) => bytes.as_slice().try_into().map_err(|_| {
                Problem::new(Code::STATE_CORRUPT, format!("{path} in {} has the wrong length", self.place))
            })?,
            None => {
                let bytes = clock.random_bytes();
                self.write(&path, &bytes)?;
                bytes
            }
        };
        Ok(QuicKeys::new(&bytes))
    }

    fn svid(&self, identity: &Identity, config: &Config, clock: &Clock) -> Result<Svid, Problem> {
        let (certificate, key) = (self.svid_path(SVID_CERTIFICATE_FILE), self.svid_path(SVID_KEY_FILE));
        if let (Some(certificate), Some(key)) = (self.read(&certificate)?, self.read(&key)?)
            && let Ok(svid) = Svid::load(&certificate, &key)
            && clock.wall() < svid.renew_at()
            && identity.issued(&svid, clock.wall())
        {
            return Ok(svid);
        }
        self.issue_svid(identity, config.identity.svid_life, clock)
    }

    /// Issues an SVID and keeps it.
    pub(super) fn issue_svid(
        &self,
        identity: &Identity,
        life: std::time::Duration,
        clock: &Clock,
    ) -> Result<Svid, Problem> {
        let issued = identity.issue(&self.gateway, life, clock.wall());
        let svid = issued.map_err(|error| Problem::new(Code::SVID_RENEWAL_FAILING, error.to_string()))?;
        for (name, bytes) in svid.files() {
            self.write(&self.svid_path(name), &bytes)?;
        }
        Ok(svid)
    }

    fn svid_path(&self, name: &str) -> String {
        format!("{}/{name}", self.folder())
    }
}

/// The name of the `number`th place: the existing ones as they were made, then a new one. So a second
/// gateway that ran once does not take the first one's turn after a restart.
fn place_name(root: &Path, number: usize, clock: &Clock) -> String {
    let folder = root.join("gateways");
    let mut places: Vec<String> = std::fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| GatewayId::parse(name).is_ok())
        .collect();
    // Its keys are written once; a place without any was never served from, and comes last.
    let made =
        |name: &String| std::fs::metadata(folder.join(name).join("quic.keys")).and_then(|it| it.modified());
    places.sort_by_cached_key(|name| match made(name) {
        Ok(at) => (0, Some(at), name.clone()),
        Err(_) => (1, None, name.clone()),
    });
    places
        .get(number - 1)
        .cloned()
        .unwrap_or_else(|| format!("gw-{}", data_encoding::HEXLOWER.encode(&clock.random_bytes::<4>())))
}

/// The whole folder, for the short time a start needs it alone.
fn retry_locked(folder: &Folder) -> Result<FolderLock, Problem> {
    const TRIES: u32 = 50;
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);
    for _ in 1..TRIES {
        match folder.lock("") {
            Err(PersistError::Locked { .. }) => std::thread::sleep(PAUSE),
            taken => return taken.map_err(|error| problem(&error)),
        }
    }
    folder.lock("").map_err(|error| problem(&error))
}
