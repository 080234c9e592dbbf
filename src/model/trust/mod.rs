//! Trust bundles: which roots speak for a trust domain, and when a changed set may replace the old one.
//!
//! Rules P21 to P23 and the bundle checks of a join. A bundle carries no trust domain: the binding of one to
//! the other is ours and is made by whoever stores it. No certificate chain is verified here.

mod root;
mod spiffe;
#[cfg(test)]
pub(in crate::model) mod tests;

use std::{collections::BTreeSet, fmt, sync::Arc};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

pub use self::root::{Root, RootProblem};
use super::{
    code::Code,
    ids::{ClusterId, Timestamp, TrustDomain},
    limits::{BUNDLE_BYTES_MAX, ROOTS_PER_BUNDLE_MAX},
};

/// The roots of one trust domain at one moment: 1 to 16 of them, oldest first, the newest last.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BundleDocument", into = "BundleDocument")]
pub struct Bundle {
    sequence: u64,
    roots: Vec<Root>,
    /// For workloads only: no gateway is believed by them.
    workload_roots: Vec<Root>,
}

impl Bundle {
    /// Takes roots that must all be certificates of authorities, without looking at the time: for bundles
    /// that were accepted before and come back from disk.
    ///
    /// # Errors
    /// [`BundleRefusal`] names the broken rule.
    pub fn parse(sequence: u64, roots: &[impl AsRef<[u8]>]) -> Result<Self, BundleRefusal> {
        check_size(roots)?;
        if roots.is_empty() {
            return Err(BundleRefusal::Empty);
        }
        let parse = |(index, der): (usize, &_)| {
            Root::parse(AsRef::<[u8]>::as_ref(der)).map_err(|problem| BundleRefusal::Root { index, problem })
        };
        Self::of(sequence, roots.iter().enumerate().map(parse).collect::<Result<_, _>>()?)
    }

    /// Takes a bundle at first contact: every root must also be in its validity at `now`.
    ///
    /// # Errors
    /// [`BundleRefusal`] names the broken rule.
    pub fn checked(sequence: u64, roots: &[impl AsRef<[u8]>], now: Timestamp) -> Result<Self, BundleRefusal> {
        let bundle = Self::parse(sequence, roots)?;
        for (index, root) in bundle.roots.iter().enumerate() {
            root.check_time(now).map_err(|problem| BundleRefusal::Root { index, problem })?;
        }
        Ok(bundle)
    }

    fn of(sequence: u64, roots: Vec<Root>) -> Result<Self, BundleRefusal> {
        let keys: BTreeSet<_> = roots.iter().map(Root::spki_sha256).collect();
        if keys.len() < roots.len() {
            return Err(BundleRefusal::DuplicateKey);
        }
        Ok(Self { sequence, roots, workload_roots: Vec::new() })
    }

    /// The same with these authorities for the cluster's workloads, which are no other's.
    ///
    /// # Errors
    /// [`BundleRefusal`] names the broken rule.
    pub fn with_workload_roots(self, roots: &[impl AsRef<[u8]>]) -> Result<Self, BundleRefusal> {
        check_size(roots)?;
        let parse = |(index, der): (usize, &_)| {
            Root::parse(AsRef::<[u8]>::as_ref(der)).map_err(|problem| BundleRefusal::Root { index, problem })
        };
        let workload_roots: Vec<_> = roots.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
        let bundle = Self { workload_roots, ..self };
        let keys: BTreeSet<_> = bundle.every_root().map(Root::spki_sha256).collect();
        if keys.len() < bundle.every_root().count() {
            return Err(BundleRefusal::DuplicateKey);
        }
        Ok(bundle)
    }

    /// The authorities of the cluster's workloads.
    #[must_use]
    pub fn workload_roots(&self) -> &[Root] {
        &self.workload_roots
    }

    /// Those of its gateways, then those of its workloads.
    pub fn every_root(&self) -> impl Iterator<Item = &Root> {
        self.roots.iter().chain(&self.workload_roots)
    }

    /// Grows with each change; a lower one is a replay.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Oldest first; never empty.
    #[must_use]
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root whose key signs introductions and whose fingerprint people compare.
    #[must_use]
    pub fn newest(&self) -> &Root {
        self.roots.last().expect("a bundle has at least one root")
    }

    /// What people compare out of band.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.newest().fingerprint()
    }

    /// SHA-256 over the sorted SHA-256 of the roots: says whether both ends use the same set, in any order.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let set: BTreeSet<[u8; 32]> = self.roots.iter().map(|root| sha256(root.der())).collect();
        sha256(&set.into_iter().flatten().collect::<Vec<u8>>())
    }

    /// Whether a root of this bundle has this key.
    #[must_use]
    pub fn has_key(&self, spki_sha256: &[u8; 32]) -> bool {
        self.roots.iter().any(|root| root.spki_sha256() == spki_sha256)
    }

    /// Whether both hold the same keys, whatever their sequence and order.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        self.roots.len() == other.roots.len()
            && self.roots.iter().all(|root| other.has_key(root.spki_sha256()))
    }

    /// When the last root that still verifies something ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.roots.iter().map(Root::not_after).max().expect("a bundle has at least one root")
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: Vec<_> = self.roots.iter().map(|root| root.fingerprint().to_string()).collect();
        f.debug_struct("Bundle").field("sequence", &self.sequence).field("roots", &roots).finish()
    }
}

/// How a bundle lies on disk.
#[derive(Serialize, Deserialize)]
struct BundleDocument {
    sequence: u64,
    /// DER certificates in base64.
    roots: Vec<String>,
    /// The same, of workloads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    workload_roots: Vec<String>,
}

impl TryFrom<BundleDocument> for Bundle {
    type Error = BundleRefusal;
    fn try_from(document: BundleDocument) -> Result<Self, BundleRefusal> {
        let decode = |(index, text): (usize, &String)| {
            data_encoding::BASE64
                .decode(text.as_bytes())
                .map_err(|_| BundleRefusal::Root { index, problem: RootProblem::Malformed })
        };
        let roots: Vec<_> = document.roots.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        let more: Vec<_> =
            document.workload_roots.iter().enumerate().map(decode).collect::<Result<_, _>>()?;
        Self::parse(document.sequence, &roots)?.with_workload_roots(&more)
    }
}

impl From<Bundle> for BundleDocument {
    fn from(bundle: Bundle) -> Self {
        let encoded =
            |roots: &[Root]| roots.iter().map(|root| data_encoding::BASE64.encode(root.der())).collect();
        let (roots, workload_roots) = (encoded(&bundle.roots), encoded(&bundle.workload_roots));
        Self { sequence: bundle.sequence, roots, workload_roots }
    }
}

/// The first 8 bytes of the SHA-256 of a public key, in groups people can read aloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 8]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pair) in self.0.chunks(2).enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}", data_encoding::HEXLOWER.encode(pair))?;
        }
        Ok(())
    }
}

/// Why a bundle is not taken. Nothing changes when it is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleRefusal {
    /// At first contact there must be something to trust.
    #[error("the bundle holds no root")]
    Empty,
    /// More than [`ROOTS_PER_BUNDLE_MAX`].
    #[error("the bundle holds {count} roots, at most {ROOTS_PER_BUNDLE_MAX} are taken")]
    TooManyRoots {
        /// How many were offered.
        count: usize,
    },
    /// More than [`BUNDLE_BYTES_MAX`].
    #[error("the bundle has {bytes} bytes, at most {BUNDLE_BYTES_MAX} are taken")]
    TooLarge {
        /// Bytes of all roots.
        bytes: usize,
    },
    /// One root is not usable.
    #[error("root {index} of the bundle {problem}")]
    Root {
        /// Its place in the bundle, from 0.
        index: usize,
        /// What is wrong with it.
        problem: RootProblem,
    },
    /// Two certificates of one key say nothing more than one.
    #[error("two roots of the bundle have the same key")]
    DuplicateKey,
    /// An update must be newer than what is stored (P21).
    #[error("bundle sequence {offered} is not newer than the stored {current}")]
    StaleSequence {
        /// What is stored.
        current: u64,
        /// What was offered.
        offered: u64,
    },
    /// Another cluster claims this cluster's own domain.
    #[error("{0} is this cluster's own trust domain")]
    OwnDomain(TrustDomain),
    /// The domain is known, with other roots; only `peer re-trust` with a token changes that.
    #[error("trust domain {0} is already bound to other roots")]
    TrustConflict(TrustDomain),
    /// One key may speak for one domain only.
    #[error("the bundle shares the key {key} with trust domain {domain}")]
    SharedKey {
        /// The other domain.
        domain: TrustDomain,
        /// The shared key.
        key: Fingerprint,
    },
}

impl BundleRefusal {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Empty
            | Self::TooManyRoots { .. }
            | Self::TooLarge { .. }
            | Self::DuplicateKey
            | Self::Root { .. }
            | Self::StaleSequence { .. } => Code::BUNDLE_REFUSED,
            Self::OwnDomain(_) | Self::TrustConflict(_) | Self::SharedKey { .. } => Code::TRUST_CONFLICT,
        }
    }
}

/// Every trust domain this cluster knows: its own, and all peers', revoked and removed ones included.
pub struct Known<'a, I> {
    /// This cluster.
    pub own: (&'a TrustDomain, &'a Bundle),
    /// The peers.
    pub peers: I,
}

/// The bundle checks of a join or an introduction: the domain is not ours, not bound to other roots, and no
/// key of the bundle speaks for another domain already (threat 4).
///
/// # Errors
/// [`BundleRefusal::OwnDomain`], [`BundleRefusal::TrustConflict`] or [`BundleRefusal::SharedKey`].
pub fn check_new_domain<'a>(
    known: Known<'a, impl IntoIterator<Item = (&'a TrustDomain, &'a Bundle)>>,
    domain: &TrustDomain,
    bundle: &Bundle,
) -> Result<(), BundleRefusal> {
    if domain == known.own.0 {
        return Err(BundleRefusal::OwnDomain(domain.clone()));
    }
    check_shared(known.own, bundle)?;
    for (other, its_bundle) in known.peers {
        if other != domain {
            check_shared((other, its_bundle), bundle)?;
        } else if !its_bundle.same_keys(bundle) {
            return Err(BundleRefusal::TrustConflict(domain.clone()));
        }
    }
    Ok(())
}

fn check_shared((domain, theirs): (&TrustDomain, &Bundle), bundle: &Bundle) -> Result<(), BundleRefusal> {
    let is_theirs = |root: &&Root| theirs.every_root().any(|it| it.spki_sha256() == root.spki_sha256());
    match bundle.every_root().find(is_theirs) {
        Some(root) => Err(BundleRefusal::SharedKey { domain: domain.clone(), key: root.fingerprint() }),
        None => Ok(()),
    }
}

/// Whether no key of a bundle speaks for another domain already.
///
/// # Errors
/// [`BundleRefusal::SharedKey`].
pub fn check_own_keys<'a>(
    known: Known<'a, impl IntoIterator<Item = (&'a TrustDomain, &'a Bundle)>>,
    domain: &TrustDomain,
    bundle: &Bundle,
) -> Result<(), BundleRefusal> {
    check_shared(known.own, bundle)?;
    for (other, theirs) in known.peers {
        if other != domain {
            check_shared((other, theirs), bundle)?;
        }
    }
    Ok(())
}

/// What an accepted update means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BundleUpdate {
    /// Store this, then use it for verifying and dialling, then acknowledge.
    Replace(Bundle),
    /// The peer disowned itself or has nothing valid left: trust nothing of it and close its links (P23).
    Distrust {
        /// The sequence that said so.
        sequence: u64,
    },
}

/// A bundle as it came over `control`, on a connection that the stored bundle authenticated.
pub struct Offer<'a, R> {
    /// The domain the connection's peer is bound to; bundles never name one.
    pub domain: &'a TrustDomain,
    /// What is stored for it.
    pub current: &'a Bundle,
    /// The offered sequence.
    pub sequence: u64,
    /// The offered DER certificates.
    pub roots: &'a [R],
}

/// Judges a peer's new bundle (P21): strictly newer, well formed, sharing no key with another domain. Roots
/// outside their validity are dropped rather than refused, or a peer could never replace an expired one; when
/// none is left the peer is distrusted.
///
/// # Errors
/// [`BundleRefusal`]; the stored bundle stays in use.
pub fn accept_update<'a, R: AsRef<[u8]>>(
    known: Known<'a, impl IntoIterator<Item = (&'a TrustDomain, &'a Bundle)>>,
    offer: &Offer<'_, R>,
    now: Timestamp,
) -> Result<BundleUpdate, BundleRefusal> {
    let (current, offered) = (offer.current.sequence, offer.sequence);
    if offered <= current {
        return Err(BundleRefusal::StaleSequence { current, offered });
    }
    if offer.roots.is_empty() {
        return Ok(BundleUpdate::Distrust { sequence: offered });
    }
    let mut bundle = Bundle::parse(offered, offer.roots)?;
    check_own_keys(known, offer.domain, &bundle)?;
    bundle.roots.retain(|root| root.check_time(now).is_ok());
    if bundle.roots.is_empty() {
        return Ok(BundleUpdate::Distrust { sequence: offered });
    }
    Ok(BundleUpdate::Replace(bundle))
}

fn check_size(roots: &[impl AsRef<[u8]>]) -> Result<(), BundleRefusal> {
    if roots.len() > ROOTS_PER_BUNDLE_MAX {
        return Err(BundleRefusal::TooManyRoots { count: roots.len() });
    }
    let bytes = roots.iter().map(|root| root.as_ref().len()).sum();
    if bytes > BUNDLE_BYTES_MAX {
        return Err(BundleRefusal::TooLarge { bytes });
    }
    Ok(())
}

/// The trust domain of a cluster that configures none:
/// `<cluster id>.<12 base32 characters of the SHA-256 of its first root's key>.tombolo`.
///
/// Two strangers of one name can so meet, and the name itself vouches for the key it began with.
#[must_use]
pub fn default_trust_domain(cluster: &ClusterId, first_root_spki_sha256: &[u8; 32]) -> TrustDomain {
    let text = data_encoding::BASE32_NOPAD.encode(first_root_spki_sha256).to_ascii_lowercase();
    TrustDomain::parse(&format!("{cluster}.{}.tombolo", &text[..12]))
        .expect("a label and base32 are characters of a trust domain, 84 at most")
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Bytes shared by all clones, as certificates are.
pub type Der = Arc<[u8]>;
