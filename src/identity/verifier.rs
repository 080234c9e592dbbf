//! Judges what a peer presents: which identity it is, and whether its own trust domain's roots vouch for it.
//!
//! The trust domain is read from the one URI in the leaf, and only that domain's roots are looked at, so no
//! cluster can sign for another (threat 4). TLS asks at each handshake; the sweep of live links asks again
//! with [`Trust::judge`], because QUIC never re-checks a long connection.
//!
//! Clocks: a certificate counts as valid up to 5 minutes beyond either end ([`CLOCK_SKEW_MAX`]). Clusters do
//! not share a clock, SVIDs live a day and are renewed after 16 hours, and NotBefore is set back as well, so
//! the tolerance costs nothing and saves links when one clock is off.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use data_encoding::HEXLOWER;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::model::{
    code::Code,
    ids::{IdError, SpiffeId, Timestamp, TrustDomain},
    limits::{CHAIN_CERTIFICATES_MAX, CLOCK_SKEW_MAX},
    state::BlockedKey,
    trust::{Bundle, Root, sha256},
};

/// What the other side was in the handshake: says which extended key usage its leaf needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// The roots of every trust domain that is believed now. Swapped at run time; readers never wait.
#[derive(Default)]
pub struct Trust {
    domains: ArcSwap<BTreeMap<TrustDomain, Arc<Anchors>>>,
    blocked: ArcSwap<Blocked>,
}

/// Keys that are believed no more, and certificates by their issuer's domain and serial number: never a hash
/// of a certificate, which whoever holds the key can encode anew (threat 15).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocked {
    /// SHA-256 of SubjectPublicKeyInfos, in hexadecimal digits.
    pub keys: BTreeSet<String>,
    /// Trust domain and serial number, in hexadecimal digits.
    pub serials: BTreeSet<(TrustDomain, String)>,
}

/// The key and the serial number of a certificate, as they are blocked; none of what is no certificate.
#[must_use]
pub fn key_of(certificate: &CertificateDer<'_>) -> Option<BlockedKey> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(BlockedKey {
        spki_sha256: HEXLOWER.encode(&sha256(parsed.public_key().raw)),
        serial: HEXLOWER.encode(parsed.raw_serial()),
    })
}

impl Trust {
    /// Believes nobody yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// From now on, believes exactly these. Live connections are to be judged again by the caller.
    pub fn replace<'a>(&self, bundles: impl IntoIterator<Item = (&'a TrustDomain, &'a Bundle)>) {
        let anchors = |(domain, bundle): (&TrustDomain, &_)| (domain.clone(), Arc::new(Anchors::of(bundle)));
        self.domains.store(Arc::new(bundles.into_iter().map(anchors).collect()));
    }

    /// From now on, believes no certificate of these, whoever signed it.
    pub fn block(&self, blocked: Blocked) {
        self.blocked.store(Arc::new(blocked));
    }

    /// Whether this domain has any roots here.
    #[must_use]
    pub fn knows(&self, domain: &TrustDomain) -> bool {
        self.domains.load().contains_key(domain)
    }

    /// Judges a presented chain, leaf first, in the handshake and again at any later time. `expected` is the
    /// domain that was dialled, or that the link belongs to.
    ///
    /// # Errors
    /// [`TrustError`] says what is wrong with it.
    pub fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        expected: Option<&TrustDomain>,
        now: Timestamp,
    ) -> Result<SpiffeId, TrustError> {
        let domains = self.domains.load();
        let id = judge(chain, role, expected, now, |domain| domains.get(domain).cloned())?;
        if self.is_blocked(&id, chain) { Err(TrustError::Blocked(id)) } else { Ok(id) }
    }

    /// Whether any certificate of a chain has a blocked key, or its leaf a blocked serial number.
    fn is_blocked(&self, id: &SpiffeId, chain: &[CertificateDer<'_>]) -> bool {
        let blocked = self.blocked.load();
        if blocked.keys.is_empty() && blocked.serials.is_empty() {
            return false;
        }
        chain.iter().filter_map(key_of).enumerate().any(|(place, key)| {
            blocked.keys.contains(&key.spki_sha256)
                || (place == 0 && blocked.serials.contains(&(id.trust_domain().clone(), key.serial)))
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.domains.load().keys()).finish()
    }
}

/// The chain a QUIC connection's other side presented, leaf first; empty when it presented none.
#[must_use]
pub fn presented_chain(identity: Option<Box<dyn Any>>) -> Vec<CertificateDer<'static>> {
    identity.and_then(|any| any.downcast().ok()).map(|chain| *chain).unwrap_or_default()
}

/// Why a peer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// Nothing was presented.
    #[error("no certificate was presented")]
    NoCertificate,
    /// More than [`CHAIN_CERTIFICATES_MAX`].
    #[error("the chain has {0} certificates, at most {CHAIN_CERTIFICATES_MAX} are read")]
    ChainTooLong(usize),
    /// Not X.509.
    #[error("the certificate cannot be read")]
    Malformed,
    /// An SVID has exactly one URI (X509-SVID section 2).
    #[error("the certificate carries {0} URIs instead of one")]
    NotOneUri(usize),
    /// The URI is no SPIFFE ID.
    #[error(transparent)]
    NotSpiffe(#[from] IdError),
    /// Only gateways speak here; workloads have identities of another path.
    #[error("{0} is not the identity of a gateway")]
    NotAGateway(SpiffeId),
    /// A gateway of another cluster than the one dialled.
    #[error("{found} is not of the trust domain {expected}")]
    OtherDomain {
        /// Who was expected.
        expected: TrustDomain,
        /// Who is there.
        found: SpiffeId,
    },
    /// Another gateway than the link's.
    #[error("{found} is not {expected}")]
    OtherPeer {
        /// Who was expected.
        expected: SpiffeId,
        /// Who is there.
        found: SpiffeId,
    },
    /// No roots for it.
    #[error("trust domain {0} is not known")]
    UnknownDomain(TrustDomain),
    /// Certificate verifiers do not look at an anchor's validity, so this is checked here.
    #[error("every root of trust domain {0} has expired")]
    RootExpired(TrustDomain),
    /// An authority presents itself.
    #[error("the certificate of {0} is an authority's, or may sign certificates")]
    Authority(SpiffeId),
    /// It may not be used for this.
    #[error("the certificate of {0} is not for this purpose")]
    Purpose(SpiffeId),
    /// Past its end.
    #[error("the certificate of {0} has expired")]
    Expired(SpiffeId),
    /// Before its beginning.
    #[error("the certificate of {0} is not valid yet; compare the clocks")]
    NotYetValid(SpiffeId),
    /// The roots of its domain do not vouch for it.
    #[error("the roots of its trust domain do not vouch for {0}")]
    UnknownIssuer(SpiffeId),
    /// It did not sign what it had to.
    #[error("{0} did not prove that it holds the key of its certificate")]
    BadProof(SpiffeId),
    /// Its key, or its serial number, was revoked.
    #[error("the key of {0} is revoked here")]
    Blocked(SpiffeId),
    /// Another key than the token pins.
    #[error("the key of the dialled address is not the one the token names")]
    WrongPin,
}

impl TrustError {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::UnknownDomain(_) => Code::TRUST_DOMAIN_UNKNOWN,
            Self::UnknownIssuer(_) => Code::CHAIN_NOT_TRUSTED,
            Self::RootExpired(_) => Code::ROOT_EXPIRED,
            Self::Expired(_) => Code::SVID_EXPIRED,
            Self::NotYetValid(_) => Code::CLOCK_SKEW,
            Self::OtherDomain { .. } => Code::WRONG_GATEWAY,
            Self::OtherPeer { .. } => Code::REAUTHENTICATION_REFUSED,
            Self::BadProof(_) => Code::PROOF_INVALID,
            Self::Blocked(_) => Code::PEER_REVOKED,
            Self::WrongPin => Code::TOKEN_PIN_MISMATCH,
            Self::NoCertificate
            | Self::ChainTooLong(_)
            | Self::Malformed
            | Self::NotOneUri(_)
            | Self::NotSpiffe(_)
            | Self::NotAGateway(_)
            | Self::Authority(_)
            | Self::Purpose(_) => Code::IDENTITY_REFUSED,
        }
    }
}

/// The roots of one domain, ready to verify with.
pub(super) struct Anchors(Vec<(Root, TrustAnchor<'static>)>);

impl Anchors {
    pub(super) fn of(bundle: &Bundle) -> Self {
        let anchor = |root: &Root| {
            let der = CertificateDer::from(root.der().as_ref());
            webpki::anchor_from_trusted_cert(&der).ok().map(|anchor| (root.clone(), anchor.to_owned()))
        };
        Self(bundle.roots().iter().filter_map(anchor).collect())
    }
}

pub(super) fn judge(
    chain: &[CertificateDer<'_>],
    role: Role,
    expected: Option<&TrustDomain>,
    now: Timestamp,
    anchors_of: impl FnOnce(&TrustDomain) -> Option<Arc<Anchors>>,
) -> Result<SpiffeId, TrustError> {
    if chain.len() > CHAIN_CERTIFICATES_MAX {
        return Err(TrustError::ChainTooLong(chain.len()));
    }
    let (leaf, intermediates) = chain.split_first().ok_or(TrustError::NoCertificate)?;
    let id = read_leaf(leaf)?;
    let domain = id.trust_domain();
    if let Some(expected) = expected.filter(|expected| *expected != domain) {
        return Err(TrustError::OtherDomain { expected: expected.clone(), found: id });
    }
    if id.gateway_id().is_none() {
        return Err(TrustError::NotAGateway(id));
    }
    let anchors = anchors_of(domain).ok_or_else(|| TrustError::UnknownDomain(domain.clone()))?;
    let current = anchors.0.iter().filter(|(root, _)| root.check_time(now).is_ok());
    let usable: Vec<TrustAnchor<'_>> = current.map(|(_, anchor)| anchor.clone()).collect();
    if usable.is_empty() {
        return Err(TrustError::RootExpired(domain.clone()));
    }
    verify(leaf, intermediates, role, &usable, now).map_err(|error| match error {
        webpki::Error::CaUsedAsEndEntity => TrustError::Authority(id.clone()),
        webpki::Error::CertExpired { .. } => TrustError::Expired(id.clone()),
        webpki::Error::CertNotValidYet { .. } => TrustError::NotYetValid(id.clone()),
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            TrustError::Purpose(id.clone())
        }
        _ => TrustError::UnknownIssuer(id.clone()),
    })?;
    Ok(id)
}

/// Reads the identity out of a leaf and refuses what an SVID may not be.
fn read_leaf(leaf: &CertificateDer<'_>) -> Result<SpiffeId, TrustError> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| TrustError::Malformed)?;
    if !rest.is_empty() {
        return Err(TrustError::Malformed);
    }
    let names = certificate.subject_alternative_name().map_err(|_| TrustError::Malformed)?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    if names.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(TrustError::Malformed);
    }
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = match (uris.next(), uris.count()) {
        (Some(uri), 0) => SpiffeId::parse(uri)?,
        (first, more) => return Err(TrustError::NotOneUri(usize::from(first.is_some()) + more)),
    };
    let basic = certificate.basic_constraints().map_err(|_| TrustError::Malformed)?;
    let usage = certificate.key_usage().map_err(|_| TrustError::Malformed)?.map(|usage| usage.value);
    if basic.is_some_and(|basic| basic.value.ca)
        || usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign())
    {
        return Err(TrustError::Authority(id));
    }
    if usage.is_some_and(|usage| !usage.digital_signature()) {
        return Err(TrustError::Purpose(id));
    }
    Ok(id)
}

/// Builds the chain at `now`, and when a certificate's time is what is wrong, once more at the far end of the
/// accepted clock skew.
fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    role: Role,
    anchors: &[TrustAnchor<'_>],
    now: Timestamp,
) -> Result<(), webpki::Error> {
    let certificate = EndEntityCert::try_from(leaf)?;
    let at = |time: Timestamp| {
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let time = UnixTime::since_unix_epoch(Duration::from_millis(time.0));
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        certificate
            .verify_for_usage(algorithms, anchors, intermediates, time, usage, None, None)
            .map(|_path| ())
    };
    at(now).or_else(|error| match error {
        webpki::Error::CertExpired { .. } => {
            at(Timestamp(now.0.saturating_sub(CLOCK_SKEW_MAX.as_secs() * 1_000)))
        }
        webpki::Error::CertNotValidYet { .. } => at(now.after(CLOCK_SKEW_MAX)),
        other => Err(other),
    })
}
