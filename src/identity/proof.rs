//! Signatures by an SVID's key outside the handshake: that a joiner operates a gateway under the roots it
//! submits, and that a link's peer holds a renewed SVID.

use rustls_pki_types::CertificateDer;

use super::{
    Svid,
    verifier::{self, Anchors, Role, Trust, TrustError},
};
use crate::model::{
    ids::{SpiffeId, Timestamp, TrustDomain},
    trust::{Bundle, sha256},
};

/// The exporter label of a re-authentication; no context, 32 bytes (RFC 8446 7.5).
pub const REAUTH_EXPORTER_LABEL: &[u8] = b"EXPORTER-tombolo-reauth-v1";
const REAUTH_CONTEXT: &[u8] = b"tombolo-reauth/1";

/// Who proved to hold the key of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPeer {
    /// The gateway.
    pub id: SpiffeId,
    /// SHA-256 of its key's SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
}

/// Judges a joiner: its chain leads to the bundle it submits, names a gateway of the trust domain it claims,
/// and its key signed `transcript` ([`crate::model::token::proof::transcript`]).
///
/// # Errors
/// [`TrustError`].
pub fn judge_joiner(
    claim: (&TrustDomain, &Bundle),
    chain: &[CertificateDer<'_>],
    transcript: &[u8],
    signature: &[u8],
    now: Timestamp,
) -> Result<ProvenPeer, TrustError> {
    let (domain, bundle) = claim;
    let id = verifier::judge(chain, Role::Client, Some(domain), now, |found| {
        (found == domain).then(|| Anchors::of(bundle).into())
    })?;
    proven(id, chain, transcript, signature)
}

/// Signs this connection's exporter, to renew a link's authority in band.
///
/// # Errors
/// [`rustls::Error`] when the system has no randomness left.
pub fn sign_reauth(svid: &Svid, exporter: &[u8; 32]) -> Result<Vec<u8>, rustls::Error> {
    svid.sign(&[REAUTH_CONTEXT, exporter].concat())
}

/// Judges a renewed chain like a handshake would; `peer` is whom the link is to, so nobody can pass on
/// another's renewal, or reflect ours.
///
/// # Errors
/// [`TrustError`]; the link keeps the chain it has.
pub fn judge_reauth(
    trust: &Trust,
    peer: (&SpiffeId, Role),
    chain: &[CertificateDer<'_>],
    signature: &[u8],
    exporter: &[u8; 32],
    now: Timestamp,
) -> Result<ProvenPeer, TrustError> {
    let (expected, role) = peer;
    let id = trust.judge(chain, role, Some(expected.trust_domain()), now)?;
    if id != *expected {
        return Err(TrustError::OtherPeer { expected: expected.clone(), found: id });
    }
    proven(id, chain, &[REAUTH_CONTEXT, exporter].concat(), signature)
}

fn proven(
    id: SpiffeId,
    chain: &[CertificateDer<'_>],
    message: &[u8],
    signature: &[u8],
) -> Result<ProvenPeer, TrustError> {
    let leaf = chain.first().ok_or(TrustError::NoCertificate)?;
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|_| TrustError::Malformed)?;
    certificate
        .verify_signature(webpki::aws_lc_rs::ECDSA_P256_SHA256, message, signature)
        .map_err(|_| TrustError::BadProof(id.clone()))?;
    Ok(ProvenPeer { id, spki_sha256: sha256(&certificate.subject_public_key_info()) })
}
