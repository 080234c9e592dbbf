//! Who this cluster is, and whom it believes: the cluster's authority, its gateways' SVIDs, the verifier of
//! other clusters' SVIDs, and the TLS configurations made of them.
//!
//! Bytes of files come in and go out as values; reading, writing and locking them is `files`' matter. The
//! rules about bundles and tokens are `model`'s. Nothing here decides who may join.

mod ca;
mod export;
mod handshake;
mod joining;
mod proof;
mod roots;
mod svid;
#[cfg(test)]
mod tests;
mod tls;
mod verifier;

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::{ca::Authority, export::ExportSecret, roots::Roots, verifier::Anchors};
pub use self::{
    ca::IssueError,
    handshake::refusal_code,
    joining::JoinKey,
    proof::{ProvenPeer, REAUTH_EXPORTER_LABEL, judge_joiner, judge_reauth, sign_reauth},
    svid::{CurrentSvid, SVID_CERTIFICATE_FILE, SVID_KEY_FILE, Svid},
    tls::{ALPN_JOIN, ALPN_PEER, SERVER_NAME, Tls, WallClock, join_client},
    verifier::{Blocked, Role, Trust, TrustError, key_of, presented_chain},
};
use crate::model::{
    code::Code,
    ids::{ClusterId, ExportId, GatewayId, Incarnation, ServiceName, Timestamp, TrustDomain},
    introduction::signed_bytes,
    rotation::RootSet,
    trust::{Bundle, BundleRefusal, Der, default_trust_domain},
};

/// Path of the join key in the state folder.
pub const JOIN_KEY_FILE: &str = "identity/join.key";
/// Path of the secret behind export ids in the state folder.
pub const EXPORT_SECRET_FILE: &str = "identity/export.secret";

/// Path of the list of roots in the state folder; absent before the first rotation.
pub const ROOT_SET_FILE: &str = "identity/roots.json";

/// Path of a root's certificate in the state folder; roots count from 1.
#[must_use]
pub fn root_certificate_file(number: u32) -> String {
    format!("identity/root-{number}.pem")
}

/// Path of a root's key in the state folder.
#[must_use]
pub fn root_key_file(number: u32) -> String {
    format!("identity/root-{number}.key")
}

/// A path below the state folder and what belongs there; wiped when dropped.
pub type IdentityFile = (String, Zeroizing<Vec<u8>>);

/// What all gateways of a cluster share: its roots, join key and export secret.
pub struct Identity {
    cluster: ClusterId,
    trust_domain: TrustDomain,
    roots: ArcSwap<Roots>,
    changed: watch::Sender<u64>,
    workload_roots: ArcSwap<Vec<Der>>,
    join_key: JoinKey,
    export_secret: ExportSecret,
}

/// What a new identity is made of.
#[derive(Debug, Clone)]
pub struct NewIdentity<'a> {
    /// The cluster it is for.
    pub cluster: &'a ClusterId,
    /// Configured, or derived from the first root's key.
    pub trust_domain: Option<TrustDomain>,
    /// How long the root lives.
    pub root_life: Duration,
    /// 32 random bytes behind the export ids.
    pub export_secret: [u8; 32],
}

impl Identity {
    /// Makes root 1, the join key and the export secret, and the files that keep them. They are to be
    /// committed in the order given: the root's certificate is the last, so as long as it is missing nothing
    /// was made.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when the system has no randomness left, or the clock is out of range.
    pub fn create(new: NewIdentity<'_>, now: Timestamp) -> Result<(Self, Vec<IdentityFile>), IdentityError> {
        let key = ca::generate_key()?;
        let trust_domain =
            new.trust_domain.unwrap_or_else(|| default_trust_domain(new.cluster, &ca::spki_sha256(&key)));
        let root = Authority::create(new.cluster, &trust_domain, 1, key, new.root_life, now)?;
        let join_key = JoinKey::generate()?;
        let export_secret = ExportSecret::new(new.export_secret);
        let files = vec![
            (EXPORT_SECRET_FILE.to_owned(), export_secret.to_file()),
            (JOIN_KEY_FILE.to_owned(), join_key.to_file()),
            (root_key_file(1), root.key_file()),
            (root_certificate_file(1), root.certificate_file()),
        ];
        let cluster = new.cluster.clone();
        let roots = Roots::of(RootSet::first(now), vec![Arc::new(root)])?;
        Ok((Self::whole(cluster, trust_domain, roots, join_key, export_secret), files))
    }

    fn whole(
        cluster: ClusterId,
        trust_domain: TrustDomain,
        roots: Roots,
        join_key: JoinKey,
        export_secret: ExportSecret,
    ) -> Self {
        let (roots, changed) = (ArcSwap::from_pointee(roots), watch::Sender::new(0));
        let workload_roots = ArcSwap::default();
        Self { cluster, trust_domain, roots, changed, workload_roots, join_key, export_secret }
    }

    /// Reads what [`Self::create`] made; `files` holds the folder `identity` by path. The trust domain is the
    /// one the roots carry.
    ///
    /// # Errors
    /// [`IdentityError`] names the file and what is wrong with it.
    pub fn load(cluster: &ClusterId, files: &BTreeMap<String, Vec<u8>>) -> Result<Self, IdentityError> {
        let get = |path: &str| {
            files.get(path).map(Vec::as_slice).ok_or_else(|| IdentityError::Missing(path.to_owned()))
        };
        let set = match files.get(ROOT_SET_FILE) {
            Some(bytes) => serde_json::from_slice(bytes)
                .map_err(|error| IdentityError::unusable(ROOT_SET_FILE, error))?,
            // Written at the first rotation.
            None => RootSet::first(Timestamp(0)),
        };
        let roots = Roots::load(set, files)?;
        let trust_domain = roots.trust_domain().clone();
        let join_key = JoinKey::load(JOIN_KEY_FILE, get(JOIN_KEY_FILE)?)?;
        let export_secret = ExportSecret::load(EXPORT_SECRET_FILE, get(EXPORT_SECRET_FILE)?)?;
        Ok(Self::whole(cluster.clone(), trust_domain, roots, join_key, export_secret))
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Its trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The roots as others are told them, oldest first.
    #[must_use]
    pub fn bundle(&self) -> Arc<Bundle> {
        self.roots.load().bundle.clone()
    }

    /// From now on, peers are told these authorities of this cluster's workloads, too.
    pub fn set_workload_roots(&self, roots: Vec<Der>) {
        self.workload_roots.store(Arc::new(roots));
        self.changed.send_modify(|version| *version += 1);
    }

    /// The roots with the authorities of the workloads.
    ///
    /// # Errors
    /// [`BundleRefusal`] when one of them is no authority, or has the key of another.
    pub fn published(&self) -> Result<Bundle, BundleRefusal> {
        Bundle::clone(&self.bundle()).with_workload_roots(&self.workload_roots.load())
    }

    /// Which roots these are, and which of them issues.
    #[must_use]
    pub fn root_set(&self) -> RootSet {
        self.roots.load().set.clone()
    }

    /// Changes with each [`Self::adopt`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes a root of this number, and the files that keep it; nothing uses it before a set that names it is
    /// adopted.
    ///
    /// # Errors
    /// [`IdentityError::Make`].
    pub fn make_root(
        &self,
        number: u32,
        life: Duration,
        now: Timestamp,
    ) -> Result<[IdentityFile; 2], IdentityError> {
        let key = ca::generate_key()?;
        let root = Authority::create(&self.cluster, &self.trust_domain, number, key, life, now)?;
        Ok([
            (root_key_file(number), root.key_file()),
            (root_certificate_file(number), root.certificate_file()),
        ])
    }

    /// From now on, uses this set of roots; `files` holds the folder `identity` by path.
    ///
    /// # Errors
    /// [`IdentityError`] when a root of the set cannot be read; then nothing changed.
    pub fn adopt(&self, set: RootSet, files: &BTreeMap<String, Vec<u8>>) -> Result<(), IdentityError> {
        let roots = Roots::load(set, files)?;
        if *roots.trust_domain() != self.trust_domain {
            let (first, second) = (self.trust_domain.clone(), roots.trust_domain().clone());
            return Err(IdentityError::TwoTrustDomains { first, second });
        }
        self.roots.store(Arc::new(roots));
        self.changed.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Whether the root that issues now has issued this SVID.
    #[must_use]
    pub fn issued(&self, svid: &Svid, now: Timestamp) -> bool {
        let roots = self.roots.load();
        let Ok(bundle) = Bundle::parse(1, &[roots.issuing().certificate_der()]) else { return false };
        let anchors = Arc::new(Anchors::of(&bundle));
        verifier::judge(svid.chain(), Role::Client, Some(&self.trust_domain), now, |_| Some(anchors)).is_ok()
    }

    /// The key that answers first contacts; tokens carry its pin.
    #[must_use]
    pub fn join_key(&self) -> &JoinKey {
        &self.join_key
    }

    /// Issues a gateway an SVID under the root that issues. Its key is new; it never outlives the root.
    ///
    /// # Errors
    /// [`IssueError`] when the root has ended, or nothing can be made.
    pub fn issue(&self, gateway: &GatewayId, life: Duration, now: Timestamp) -> Result<Svid, IssueError> {
        self.roots.load().issuing().issue(gateway, life, now)
    }

    /// Signs an introduction of this cluster, `encoded` as it will cross the wire, with the newest root's key.
    ///
    /// # Errors
    /// [`IdentityError::Make`] when the system has no randomness left.
    pub fn sign_introduction(&self, encoded: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.roots.load().newest().sign(&signed_bytes(encoded))
    }

    /// What `peer` calls an export of ours; the same on every replica, another one for each peer and each
    /// incarnation (B7).
    #[must_use]
    pub fn export_id(&self, peer: &TrustDomain, name: &ServiceName, incarnation: Incarnation) -> ExportId {
        self.export_secret.id(peer, name, incarnation)
    }

    /// What stands for a client of a service in front of other clusters, so that they can keep it with an endpoint
    /// and never learn its address; the same on every replica, another one for each service.
    #[must_use]
    pub fn client_key(&self, service: &ServiceName, from: IpAddr) -> [u8; 16] {
        self.export_secret.client(service, from)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.load().set)
            .finish_non_exhaustive()
    }
}

/// Why an identity cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// A file is there and cannot be used.
    #[error("{path} {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// The end of the sentence.
        problem: String,
    },
    /// A key and a certificate that do not belong together.
    #[error("{key} is not the key of {certificate}")]
    NotAPair {
        /// The key's file.
        key: String,
        /// The certificate's file.
        certificate: String,
    },
    /// The roots disagree.
    #[error("the roots belong to two trust domains, {first} and {second}")]
    TwoTrustDomains {
        /// The oldest root's.
        first: TrustDomain,
        /// Another's.
        second: TrustDomain,
    },
    /// A key or certificate cannot be made.
    #[error("a key or certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
}

impl IdentityError {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Missing(_) => Code::STATE_INCOMPLETE,
            Self::Unusable { .. } | Self::TwoTrustDomains { .. } => Code::IDENTITY_UNUSABLE,
            Self::NotAPair { .. } => Code::KEY_MISMATCH,
            Self::Make(_) => Code::KEY_NOT_MADE,
        }
    }

    fn unusable(path: &str, problem: impl fmt::Display) -> Self {
        Self::Unusable { path: path.to_owned(), problem: problem.to_string() }
    }
}
