//! One root certificate: what it must be to speak for a trust domain.
//!
//! A trust anchor's own validity is checked here, because certificate verifiers do not look at it.

use std::{fmt, time::Duration};

use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::{Der, Fingerprint, sha256};
use crate::model::{
    ids::Timestamp,
    limits::{CLOCK_SKEW_MAX, NOT_BEFORE_BACKDATE},
};

/// A self-contained certificate authority of a trust domain.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    der: Der,
    spki_sha256: [u8; 32],
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Root {
    /// Parses a DER certificate and checks that it is an authority our verifier can use.
    ///
    /// # Errors
    /// [`RootProblem`]; the time plays no part.
    pub fn parse(der: &[u8]) -> Result<Self, RootProblem> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| RootProblem::Malformed)?;
        check_authority(&certificate)?;
        check_name_constraints(&certificate)?;
        if !rest.is_empty() || webpki::anchor_from_trusted_cert(&CertificateDer::from(der)).is_err() {
            return Err(RootProblem::Malformed);
        }
        let validity = certificate.validity();
        Ok(Self {
            der: der.into(),
            spki_sha256: sha256(certificate.public_key().raw),
            not_before: timestamp(validity.not_before.timestamp()),
            not_after: timestamp(validity.not_after.timestamp()),
        })
    }

    /// The whole certificate.
    #[must_use]
    pub fn der(&self) -> &Der {
        &self.der
    }

    /// SHA-256 of its SubjectPublicKeyInfo: the identity of the key, whatever certificate carries it.
    #[must_use]
    pub fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// Its first moment.
    #[must_use]
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// Its last moment.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// When it was made, as far as its validity says, and when it ends: its beginning is set back a little
    /// for clocks that are behind.
    #[must_use]
    pub fn life(&self) -> (Timestamp, Timestamp) {
        (self.not_before.after(NOT_BEFORE_BACKDATE).min(self.not_after), self.not_after)
    }

    /// The short form of its key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let (first, _) = self.spki_sha256.split_first_chunk().expect("32 is more than 8");
        Fingerprint(*first)
    }

    /// Whether it is in its validity, give or take the clock skew that is accepted between clusters.
    ///
    /// # Errors
    /// [`RootProblem::Expired`] or [`RootProblem::NotYetValid`].
    pub fn check_time(&self, now: Timestamp) -> Result<(), RootProblem> {
        if now > self.not_after.after(CLOCK_SKEW_MAX) {
            return Err(RootProblem::Expired { ago: now.since(self.not_after) });
        }
        if self.not_before > now.after(CLOCK_SKEW_MAX) {
            return Err(RootProblem::NotYetValid { ahead: self.not_before.since(now) });
        }
        Ok(())
    }

    /// The names of kind URI it carries: a Tombolo root has its trust domain as the only one.
    #[must_use]
    pub fn uris(&self) -> Vec<String> {
        let Ok((_, certificate)) = X509Certificate::from_der(&self.der) else { return Vec::new() };
        let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
        let uri = |name: &GeneralName<'_>| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        };
        names.value.general_names.iter().filter_map(uri).collect()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("fingerprint", &self.fingerprint().to_string())
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish()
    }
}

/// What is wrong with a root, as the end of a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootProblem {
    /// Not one X.509 version 3 certificate.
    #[error("is not a DER certificate")]
    Malformed,
    /// Basic constraints say so, or are absent.
    #[error("is not a certificate authority")]
    NotAnAuthority,
    /// Its key usage lacks keyCertSign.
    #[error("may not sign certificates")]
    MayNotSign,
    /// SPIFFE's own way to fence an authority, which webpki refuses (RUSTSEC-2026-0098): every identity under
    /// such a root would fail, so it is said at once.
    #[error("has URI name constraints, which cannot be verified; issue a root without them")]
    UriNameConstraints,
    /// Past its end.
    #[error("expired {} s ago", ago.as_secs())]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// Before its beginning.
    #[error("is valid only in {} s; compare the clocks", ahead.as_secs())]
    NotYetValid {
        /// How far ahead.
        ahead: Duration,
    },
}

fn check_authority(certificate: &X509Certificate<'_>) -> Result<(), RootProblem> {
    let basic = certificate.basic_constraints().map_err(|_| RootProblem::Malformed)?;
    if !basic.is_some_and(|basic| basic.value.ca) {
        return Err(RootProblem::NotAnAuthority);
    }
    let usage = certificate.key_usage().map_err(|_| RootProblem::Malformed)?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(RootProblem::MayNotSign);
    }
    Ok(())
}

fn check_name_constraints(certificate: &X509Certificate<'_>) -> Result<(), RootProblem> {
    let constraints = certificate.name_constraints().map_err(|_| RootProblem::Malformed)?;
    let Some(constraints) = constraints else { return Ok(()) };
    let permitted = constraints.value.permitted_subtrees.iter().flatten();
    let mut subtrees = permitted.chain(constraints.value.excluded_subtrees.iter().flatten());
    if subtrees.any(|subtree| matches!(subtree.base, GeneralName::URI(_) | GeneralName::Invalid(..))) {
        return Err(RootProblem::UriNameConstraints);
    }
    Ok(())
}

fn timestamp(unix_seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(unix_seconds).unwrap_or(0).saturating_mul(1_000))
}
