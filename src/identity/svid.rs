//! A gateway's SVID: the short-lived certificate it proves itself with, and the place where the current one
//! is found.
//!
//! Renewal swaps the current one: new connections use the new one, old ones go on.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{SignatureScheme, client::ResolvesClientCert, crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};
use zeroize::Zeroizing;

use super::IdentityError;
use crate::model::{
    ids::{SpiffeId, Timestamp},
    limits::NOT_BEFORE_BACKDATE,
    trust::sha256,
};

/// Name of the chain's file in a gateway's own folder.
pub const SVID_CERTIFICATE_FILE: &str = "svid.pem";
/// Name of the key's file in a gateway's own folder.
pub const SVID_KEY_FILE: &str = "svid.key";

/// A certificate of one gateway with its key.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    spki_sha256: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
    certificate_pem: Arc<str>,
    key_pem: Arc<Zeroizing<String>>,
}

impl Svid {
    pub(super) fn assemble(
        certificate_pem: String,
        key_pem: Zeroizing<String>,
        leaf: CertificateDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let bad = || rustls::Error::from(rustls::CertificateError::BadEncoding);
        let parts = {
            let (_, certificate) = X509Certificate::from_der(&leaf).map_err(|_| bad())?;
            let names = certificate.subject_alternative_name().ok().flatten().ok_or_else(bad)?;
            let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else { return Err(bad()) };
            let id = SpiffeId::parse(uri).map_err(|_| bad())?;
            let at = |time: x509_parser::time::ASN1Time| {
                Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1_000))
            };
            let validity = certificate.validity();
            (id, sha256(certificate.public_key().raw), at(validity.not_before), at(validity.not_after))
        };
        let (id, spki_sha256, not_before, not_after) = parts;
        let certified = certified(vec![leaf], &key_pem)?;
        let (certificate_pem, key_pem) = (certificate_pem.into(), Arc::new(key_pem));
        Ok(Self { id, certified, spki_sha256, not_before, not_after, certificate_pem, key_pem })
    }

    /// Reads an SVID that was kept, so that a restart needs no authority.
    ///
    /// # Errors
    /// [`IdentityError::Unusable`] names the file.
    pub fn load(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let unusable = |problem| IdentityError::unusable(SVID_CERTIFICATE_FILE, problem);
        let leaf = CertificateDer::from_pem_slice(certificate)
            .map_err(|_| unusable("does not hold a PEM certificate"))?;
        let text = |path, bytes: &[u8]| {
            String::from_utf8(bytes.to_vec()).map_err(|_| IdentityError::unusable(path, "is not text"))
        };
        let key_pem = Zeroizing::new(text(SVID_KEY_FILE, key)?);
        Self::assemble(text(SVID_CERTIFICATE_FILE, certificate)?, key_pem, leaf)
            .map_err(|_| unusable("and its key are not an SVID of a gateway"))
    }

    /// What to keep, named relative to the gateway's own folder.
    #[must_use]
    pub fn files(&self) -> [(&'static str, Zeroizing<Vec<u8>>); 2] {
        [
            (SVID_KEY_FILE, self.key_pem.as_bytes().to_vec().into()),
            (SVID_CERTIFICATE_FILE, self.certificate_pem.as_bytes().to_vec().into()),
        ]
    }

    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// DER, leaf first, as it is presented.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// SHA-256 of its key's SubjectPublicKeyInfo: the `request_key` of a join.
    #[must_use]
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// When it ends.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When to renew it: after two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> Timestamp {
        let issued = self.not_before.after(NOT_BEFORE_BACKDATE).min(self.not_after);
        issued.after(self.not_after.since(issued) * 2 / 3)
    }

    /// Signs with its key: ECDSA P-256 with SHA-256, ASN.1. What is signed must begin with a context of its
    /// own, as the transcript of a join does.
    ///
    /// # Errors
    /// [`rustls::Error`] when the system has no randomness left.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let scheme = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let signer = self.certified.key.choose_scheme(&scheme).ok_or(rustls::Error::HandshakeNotComplete)?;
        signer.sign(message)
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

pub(super) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key_pem: &str,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|_| rustls::Error::General("the key is not PEM".to_owned()))?;
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map(Arc::new)
}

/// The SVID this gateway presents now.
#[derive(Debug)]
pub struct CurrentSvid(ArcSwap<Svid>);

impl CurrentSvid {
    /// Begins with this one.
    #[must_use]
    pub fn new(svid: Svid) -> Arc<Self> {
        Arc::new(Self(ArcSwap::from_pointee(svid)))
    }

    /// The current one.
    #[must_use]
    pub fn get(&self) -> Arc<Svid> {
        self.0.load_full()
    }

    /// From now on, this one.
    pub fn replace(&self, svid: Svid) {
        self.0.store(Arc::new(svid));
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.load().certified)
    }
}

impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
