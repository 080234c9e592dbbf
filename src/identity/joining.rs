//! The join key: a key of its own, apart from the roots, so that rotating these leaves tokens valid.
//!
//! First contacts meet it behind a self-signed certificate of which only the key is looked at: its SHA-256 is
//! the pin inside every token. The certificate is made anew at each start.

use std::{fmt, sync::Arc};

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use super::{IdentityError, ca, svid};

/// The key that answers `tombolo-join/1`.
pub struct JoinKey {
    key: KeyPair,
    certified: Arc<CertifiedKey>,
}

impl JoinKey {
    pub(super) fn generate() -> Result<Self, IdentityError> {
        Self::certify(ca::generate_key()?)
    }

    pub(super) fn load(path: &str, bytes: &[u8]) -> Result<Self, IdentityError> {
        Self::certify(ca::load_key((path, bytes))?)
    }

    fn certify(key: KeyPair) -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let certificate = params.self_signed(&key)?;
        let pem = Zeroizing::new(key.serialize_pem());
        let certified = svid::certified(vec![certificate.der().clone()], &pem)
            .map_err(|_| rcgen::Error::CouldNotParseKeyPair)?;
        Ok(Self { key, certified })
    }

    pub(super) fn to_file(&self) -> Zeroizing<Vec<u8>> {
        self.key.serialize_pem().into_bytes().into()
    }

    pub(super) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// What tokens carry: SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn pin(&self) -> [u8; 32] {
        ca::spki_sha256(&self.key)
    }
}

impl fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinKey")
    }
}
