//! The cluster's certificate authority: a root key, its self-signed certificate, and what it issues.
//!
//! It issues to this cluster's own gateways only and from parameters of its own making; a request's wishes
//! are never taken over. No name constraints are set: verifiers refuse them on URIs (RUSTSEC-2026-0098).

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SigningKey as _,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::{IdentityError, Svid};
use crate::model::{
    ids::{ClusterId, GatewayId, SpiffeId, Timestamp, TrustDomain},
    limits::NOT_BEFORE_BACKDATE,
    trust::{Root, sha256},
};

/// A root with its key.
pub(super) struct Authority {
    trust_domain: TrustDomain,
    root: Root,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Why no SVID is issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Rotate the root.
    #[error("the cluster's root expired {} s ago", ago.as_secs())]
    RootExpired {
        /// How long ago.
        ago: Duration,
    },
    /// A key or certificate cannot be made.
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    /// What was made cannot be used with TLS; never seen.
    #[error("the issued certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// A new ECDSA P-256 key, which Envoy, Istio and browsers verify too.
pub(super) fn generate_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

/// SHA-256 of the key's SubjectPublicKeyInfo.
pub(super) fn spki_sha256(key: &KeyPair) -> [u8; 32] {
    sha256(&key.subject_public_key_info())
}

impl Authority {
    pub(super) fn create(
        cluster: &ClusterId,
        trust_domain: &TrustDomain,
        number: u32,
        key: KeyPair,
        life: Duration,
        now: Timestamp,
    ) -> Result<Self, IdentityError> {
        let mut params = params(&format!("spiffe://{trust_domain}"), now, now.after(life))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = subject(&format!("{cluster} root {number}"));
        let certificate = params.self_signed(&key)?;
        let root = Root::parse(certificate.der()).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::new(params, key);
        Ok(Self { trust_domain: trust_domain.clone(), root, certificate_pem: certificate.pem(), issuer })
    }

    /// Reads a certificate and its key, each with the path it came from.
    pub(super) fn load(certificate: (&str, &[u8]), key: (&str, &[u8])) -> Result<Self, IdentityError> {
        let unusable = |problem: &str| IdentityError::unusable(certificate.0, problem);
        let der = CertificateDer::from_pem_slice(certificate.1)
            .map_err(|_| unusable("does not hold a PEM certificate"))?;
        let root = Root::parse(&der).map_err(|problem| IdentityError::unusable(certificate.0, problem))?;
        let uris = root.uris();
        let [uri] = uris.as_slice() else { return Err(unusable("does not carry exactly one trust domain")) };
        let trust_domain = uri.strip_prefix("spiffe://").and_then(|text| TrustDomain::parse(text).ok());
        let trust_domain = trust_domain.ok_or_else(|| unusable("does not carry a trust domain"))?;
        let pair = load_key(key)?;
        if spki_sha256(&pair) != *root.spki_sha256() {
            return Err(IdentityError::NotAPair {
                key: key.0.to_owned(),
                certificate: certificate.0.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_der(&der, pair)
            .map_err(|problem| IdentityError::unusable(certificate.0, problem))?;
        let certificate_pem = String::from_utf8_lossy(certificate.1).into_owned();
        Ok(Self { trust_domain, root, certificate_pem, issuer })
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub(super) fn certificate_der(&self) -> &[u8] {
        self.root.der()
    }

    pub(super) fn certificate_file(&self) -> Zeroizing<Vec<u8>> {
        self.certificate_pem.as_bytes().to_vec().into()
    }

    pub(super) fn key_file(&self) -> Zeroizing<Vec<u8>> {
        self.issuer.key().serialize_pem().into_bytes().into()
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        Ok(self.issuer.key().sign(message)?)
    }

    pub(super) fn issue(
        &self,
        gateway: &GatewayId,
        life: Duration,
        now: Timestamp,
    ) -> Result<Svid, IssueError> {
        if now >= self.root.not_after() {
            return Err(IssueError::RootExpired { ago: now.since(self.root.not_after()) });
        }
        let id = SpiffeId::gateway(&self.trust_domain, gateway);
        let ends = now.after(life).min(self.root.not_after());
        let mut params = params(id.as_str(), now, ends)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name = subject(gateway.as_str());
        let key = generate_key()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Svid::assemble(certificate.pem(), key_pem, certificate.der().clone())?)
    }
}

/// Parameters shared by all certificates: one URI, and a validity that begins a little earlier, for clocks
/// that are behind.
fn params(uri: &str, now: Timestamp, ends: Timestamp) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    let begins = Timestamp(now.0.saturating_sub(u64::try_from(NOT_BEFORE_BACKDATE.as_millis()).unwrap_or(0)));
    let at = |time: Timestamp| {
        let seconds = i64::try_from(time.0 / 1_000).map_err(|_| rcgen::Error::Time)?;
        ASN1Time::from_timestamp(seconds).map(|time| time.to_datetime()).map_err(|_| rcgen::Error::Time)
    };
    params.not_before = at(begins)?;
    params.not_after = at(ends)?;
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

fn subject(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

/// Reads a PEM key with the path it came from.
pub(super) fn load_key((path, bytes): (&str, &[u8])) -> Result<KeyPair, IdentityError> {
    let text = std::str::from_utf8(bytes).map_err(|_| IdentityError::unusable(path, "is not text"))?;
    let pair = KeyPair::from_pem(text)
        .map_err(|_| IdentityError::unusable(path, "does not hold a PEM private key"))?;
    if pair.algorithm() != &PKCS_ECDSA_P256_SHA256 {
        return Err(IdentityError::unusable(path, "is not an ECDSA P-256 key"));
    }
    Ok(pair)
}
