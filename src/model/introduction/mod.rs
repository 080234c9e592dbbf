//! Introductions: a member passes on the signed record of another, so that one join meets the whole set.
//!
//! A record describes the cluster that signed it and is never changed on its way. [`check_record`] says
//! whether it is genuine, [`decide`] what follows from it; neither admits anyone by itself, and neither ever
//! changes the trust in a cluster that is known already (B5).

#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    code::Code,
    ids::{ClusterId, Timestamp, TrustDomain},
    limits::{CLOCK_SKEW_MAX, INTRODUCTION_LIFE, INTRODUCTIONS_PER_PEER_MAX, PEER_ENDPOINTS_MAX},
    token::is_address,
    trust::{Bundle, BundleRefusal, Known, RootProblem, check_new_domain},
};

/// What the signed bytes of a record begin with, so that a root's signature over one means nothing else.
const CONTEXT: &[u8] = b"tombolo-introduction/1";

/// What a cluster says of itself to those it has not met.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// Its id.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its roots, newest last.
    pub bundle: Bundle,
    /// Of its peering.
    pub generation: u64,
    /// Where it listens: at most 8 `host:port`, possibly none when it cannot be dialled.
    pub endpoints: Vec<String>,
    /// When it signed.
    pub issued: Timestamp,
    /// Until when the record may be used; at most a day after `issued`.
    pub expires: Timestamp,
}

/// The bytes a record's signature covers; `encoded` is the record as it crosses the wire.
#[must_use]
pub fn signed_bytes(encoded: &[u8]) -> Vec<u8> {
    [CONTEXT, encoded].concat()
}

/// Why a record is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordRefusal {
    /// Not signed by the newest root it describes.
    #[error("the record of {0} is not signed by its newest root")]
    BadSignature(ClusterId),
    /// Past its end.
    #[error("the record of {cluster} expired {} s ago", ago.as_secs())]
    Expired {
        /// Whom it describes.
        cluster: ClusterId,
        /// How long ago.
        ago: Duration,
    },
    /// Signed in the future, ends before it begins, or lives longer than a day.
    #[error("the record of {0} has times that cannot be: compare the clocks")]
    Times(ClusterId),
    /// More than 8, or not `host:port`.
    #[error("the record of {0} names endpoints that are too many or not of the form host:port")]
    Endpoints(ClusterId),
    /// A root outside its validity.
    #[error("root {index} in the record of {cluster} {problem}")]
    Root {
        /// Whom it describes.
        cluster: ClusterId,
        /// The root's place.
        index: usize,
        /// What is wrong.
        problem: RootProblem,
    },
}

impl RecordRefusal {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::BadSignature(_) | Self::Expired { .. } | Self::Times(_) | Self::Endpoints(_) => {
                Code::INTRODUCTION_REFUSED
            }
            Self::Root { .. } => Code::BUNDLE_REFUSED,
        }
    }
}

/// Whether a record is genuine and current: `record` is what `encoded` decodes to, `signature` ECDSA P-256
/// with SHA-256 in ASN.1 over [`signed_bytes`].
///
/// # Errors
/// [`RecordRefusal`].
pub fn check_record(
    record: &ClusterRecord,
    encoded: &[u8],
    signature: &[u8],
    now: Timestamp,
) -> Result<(), RecordRefusal> {
    let cluster = || record.cluster.clone();
    if !is_signed_by_newest(&record.bundle, encoded, signature) {
        return Err(RecordRefusal::BadSignature(cluster()));
    }
    let life = record.expires.since(record.issued);
    if record.issued > now.after(CLOCK_SKEW_MAX) || life.is_zero() || life > INTRODUCTION_LIFE {
        return Err(RecordRefusal::Times(cluster()));
    }
    if now > record.expires {
        return Err(RecordRefusal::Expired { cluster: cluster(), ago: now.since(record.expires) });
    }
    if record.endpoints.len() > PEER_ENDPOINTS_MAX || !record.endpoints.iter().all(|it| is_address(it)) {
        return Err(RecordRefusal::Endpoints(cluster()));
    }
    for (index, root) in record.bundle.roots().iter().enumerate() {
        root.check_time(now).map_err(|problem| RecordRefusal::Root { cluster: cluster(), index, problem })?;
    }
    Ok(())
}

fn is_signed_by_newest(bundle: &Bundle, encoded: &[u8], signature: &[u8]) -> bool {
    let Ok((_, root)) = X509Certificate::from_der(bundle.newest().der()) else { return false };
    let key = &root.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&signed_bytes(encoded), signature).is_ok()
}

/// What this cluster does with introductions at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Introductions {
    /// Those who match `auto_approve` are approved, the others wait for a person.
    #[default]
    Ask,
    /// None is taken.
    Refuse,
}

/// One entry of `auto_approve`: whose introductions need no person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Approver {
    /// `@issuer`: the peer whose token this cluster redeemed.
    Issuer,
    /// This peer.
    Cluster(ClusterId),
}

impl TryFrom<String> for Approver {
    type Error = super::ids::IdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text == "@issuer" { Ok(Self::Issuer) } else { ClusterId::parse(&text).map(Self::Cluster) }
    }
}

impl From<Approver> for String {
    fn from(approver: Approver) -> Self {
        match approver {
            Approver::Issuer => "@issuer".to_owned(),
            Approver::Cluster(cluster) => cluster.into(),
        }
    }
}

/// The peer that passes a record on.
#[derive(Debug, Clone, Copy)]
pub struct Introducer<'a> {
    /// Who it is.
    pub cluster: &'a ClusterId,
    /// It joined by token, or a person approved it: only such a peer may introduce (depth 1).
    pub admitted_directly: bool,
    /// This cluster redeemed its token.
    pub is_issuer: bool,
    /// Peers it introduced before, approved or not.
    pub introduced: usize,
}

/// A peer as far as introductions care; revoked and removed ones count as long as they are remembered.
#[derive(Debug, Clone, Copy)]
pub struct KnownPeer<'a> {
    /// Its id.
    pub cluster: &'a ClusterId,
    /// Its trust domain.
    pub trust_domain: &'a TrustDomain,
    /// Its stored bundle.
    pub bundle: &'a Bundle,
}

/// The rules of this cluster.
#[derive(Debug, Clone, Copy)]
pub struct IntroductionRules<'a> {
    /// The setting `introductions`.
    pub introductions: Introductions,
    /// The setting `auto_approve`.
    pub auto_approve: &'a [Approver],
    /// This cluster.
    pub own: KnownPeer<'a>,
}

/// What follows from a genuine record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Store the peer as introduced and approved, and dial.
    Approve,
    /// Store it as introduced: trust domain pinned, nothing granted until a person approves.
    AskPerson,
    /// It is this cluster itself, or known with these roots: change nothing.
    AlreadyKnown,
    /// Store nothing, show why.
    Refuse(IntroductionRefusal),
}

/// Why an introduction leads to nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IntroductionRefusal {
    /// The setting says so.
    #[error("this cluster takes no introductions")]
    Disabled,
    /// Trust is not handed on further than one step.
    #[error("{0} was itself only introduced, so it may not introduce others")]
    TooDeep(ClusterId),
    /// [`INTRODUCTIONS_PER_PEER_MAX`] reached.
    #[error("{0} has introduced {INTRODUCTIONS_PER_PEER_MAX} clusters already")]
    TooMany(ClusterId),
    /// Another cluster has this id; ids are unique in a set.
    #[error("cluster id {cluster} belongs to trust domain {holder} already")]
    ClusterIdTaken {
        /// The contested id.
        cluster: ClusterId,
        /// Who has it.
        holder: TrustDomain,
    },
    /// The bundle checks of a join failed; a known domain with other roots is among them.
    #[error(transparent)]
    Bundle(#[from] BundleRefusal),
}

impl IntroductionRefusal {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Disabled | Self::TooDeep(_) | Self::TooMany(_) => Code::INTRODUCTION_REFUSED,
            Self::ClusterIdTaken { .. } => Code::CLUSTER_ID_TAKEN,
            Self::Bundle(refusal) => refusal.code(),
        }
    }
}

/// Decides on a record that [`check_record`] found genuine.
///
/// A known domain is never updated from a record: when the record's newest root is one we hold, it is an old
/// or a partial view of what the peer itself tells us; else it is a conflict.
pub fn decide<'a>(
    record: &ClusterRecord,
    introducer: Introducer<'_>,
    rules: &IntroductionRules<'a>,
    known: impl Iterator<Item = KnownPeer<'a>> + Clone,
) -> Decision {
    let is_same = |peer: &KnownPeer<'_>| {
        *peer.trust_domain == record.trust_domain
            && peer.bundle.has_key(record.bundle.newest().spki_sha256())
            && *peer.cluster == record.cluster
    };
    if is_same(&rules.own) || known.clone().any(|peer| is_same(&peer)) {
        return Decision::AlreadyKnown;
    }
    match refusal(record, introducer, rules, known) {
        Some(refusal) => Decision::Refuse(refusal),
        None if rules.approves(introducer) => Decision::Approve,
        None => Decision::AskPerson,
    }
}

impl IntroductionRules<'_> {
    fn approves(&self, introducer: Introducer<'_>) -> bool {
        self.auto_approve.iter().any(|approver| match approver {
            Approver::Issuer => introducer.is_issuer,
            Approver::Cluster(cluster) => cluster == introducer.cluster,
        })
    }
}

fn refusal<'a>(
    record: &ClusterRecord,
    introducer: Introducer<'_>,
    rules: &IntroductionRules<'a>,
    known: impl Iterator<Item = KnownPeer<'a>> + Clone,
) -> Option<IntroductionRefusal> {
    if rules.introductions == Introductions::Refuse {
        return Some(IntroductionRefusal::Disabled);
    }
    if !introducer.admitted_directly {
        return Some(IntroductionRefusal::TooDeep(introducer.cluster.clone()));
    }
    let peers = known.clone().map(|peer| (peer.trust_domain, peer.bundle));
    let own = (rules.own.trust_domain, rules.own.bundle);
    if known.clone().any(|peer| *peer.trust_domain == record.trust_domain) {
        return Some(BundleRefusal::TrustConflict(record.trust_domain.clone()).into());
    }
    if let Err(refusal) = check_new_domain(Known { own, peers }, &record.trust_domain, &record.bundle) {
        return Some(refusal.into());
    }
    let mut all = std::iter::once(rules.own).chain(known);
    if let Some(holder) = all.find(|peer| *peer.cluster == record.cluster) {
        let holder = holder.trust_domain.clone();
        return Some(IntroductionRefusal::ClusterIdTaken { cluster: record.cluster.clone(), holder });
    }
    if introducer.introduced >= INTRODUCTIONS_PER_PEER_MAX {
        return Some(IntroductionRefusal::TooMany(introducer.cluster.clone()));
    }
    None
}
