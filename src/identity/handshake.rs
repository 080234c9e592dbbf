//! The verifiers that rustls calls: the rules of [`super::verifier`], and the pin of a token, in its terms.
//!
//! Signatures of the handshake are left to rustls; without that check a pin or a chain would prove nothing.

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use super::verifier::{Role, Trust, TrustError};
use crate::model::{
    code::Code,
    ids::{Timestamp, TrustDomain},
    limits::CHAIN_CERTIFICATES_MAX,
    trust::sha256,
};

/// Judges peers in the handshake, on either side.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) trust: Arc<Trust>,
    /// Whom we dialled; when accepting, nobody in particular.
    pub(super) expected: Option<TrustDomain>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl PeerVerifier {
    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        role: Role,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        if intermediates.len() >= CHAIN_CERTIFICATES_MAX {
            return Err(TrustError::ChainTooLong(intermediates.len() + 1).into());
        }
        let chain: Vec<_> = std::iter::once(leaf).chain(intermediates).cloned().collect();
        let now = Timestamp(now.as_secs().saturating_mul(1_000));
        self.trust.judge(&chain, role, self.expected.as_ref(), now)?;
        Ok(())
    }
}

/// Judges an issuer at first contact: its key, and nothing else, is what the token says. Possession of the
/// key is proved by the handshake's signature, which rustls checks.
#[derive(Debug)]
pub(super) struct PinVerifier {
    pub(super) pin: [u8; 32],
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

/// What both verifiers leave to rustls. TLS 1.2 is never negotiated.
macro_rules! signatures_by_rustls {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls13RequiredForQuic))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, Role::Server, now).map(|()| ServerCertVerified::assertion())
    }

    signatures_by_rustls!();
}

impl ClientCertVerifier for PeerVerifier {
    /// Joiners have none that we could judge, and they share the port; so the link asks after the handshake.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.judge(leaf, intermediates, Role::Client, now).map(|()| ClientCertVerified::assertion())
    }

    signatures_by_rustls!();
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = EndEntityCert::try_from(leaf).map_err(|_| TrustError::Malformed)?;
        if sha256(&certificate.subject_public_key_info()) != self.pin {
            return Err(TrustError::WrongPin.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by_rustls!();
}

impl From<TrustError> for rustls::Error {
    fn from(error: TrustError) -> Self {
        // The other side learns these from the TLS alert; all else is "certificate unknown" to it.
        let certificate = match &error {
            TrustError::Expired(_) => CertificateError::Expired,
            TrustError::NotYetValid(_) => CertificateError::NotValidYet,
            TrustError::UnknownIssuer(_) | TrustError::UnknownDomain(_) => CertificateError::UnknownIssuer,
            TrustError::Malformed => CertificateError::BadEncoding,
            _ => CertificateError::Other(OtherError(Arc::new(Told(error)))),
        };
        Self::InvalidCertificate(certificate)
    }
}

/// A reason on its way through TLS, which prints what it does not know by `Debug` only.
#[derive(thiserror::Error)]
#[error(transparent)]
struct Told(TrustError);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.code(), self.0)
    }
}

/// The code with which this side refused the other's certificate, when that is how a connection failed. A
/// refusal by the other side is not looked at: it could say anything. (An unknown trust domain and a chain
/// of unknown roots are one to TLS, and so here.)
#[must_use]
pub fn refusal_code(error: &quinn::ConnectionError) -> Option<Code> {
    let quinn::ConnectionError::TransportError(error) = error else { return None };
    if let Some(at) = error.reason.find("TMB-") {
        return Code::parse(error.reason.get(at..at + 8)?).ok();
    }
    let certificate = error.reason.strip_prefix("invalid peer certificate: ")?;
    match certificate {
        "UnknownIssuer" => Some(Code::CHAIN_NOT_TRUSTED),
        "Expired" => Some(Code::SVID_EXPIRED),
        "NotValidYet" => Some(Code::CLOCK_SKEW),
        _ => Some(Code::IDENTITY_REFUSED),
    }
}
