//! The issuer's side of a token: what is kept of it, and the judgement of whoever presents it.
//!
//! [`judge`] decides and changes nothing; the caller stores [`TokenRecord::redeemed_by`]'s result by
//! compare-and-swap before it answers. Order of checks: the joining note's section 5.2, step 3.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{TokenId, TokenSecret, proof};
use crate::model::{
    code::Code,
    ids::{ClusterId, Timestamp, TrustDomain},
    limits::{TOKEN_REPLAY_GRACE, TOKEN_TTL, TOKEN_TTL_MAX, TOKEN_TTL_MIN, TOKEN_USES_MAX},
};

/// What the issuer keeps of a token; none of it lets anyone join.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Its public name.
    pub id: TokenId,
    /// The public half of its key.
    #[serde(with = "hex32")]
    pub public_key: [u8; 32],
    /// When it was made.
    pub created: Timestamp,
    /// When it ends, by this cluster's clock.
    pub expires: Timestamp,
    /// Clusters that may still redeem it.
    pub uses_left: u32,
    /// The only cluster that may redeem it, if bound.
    #[serde(rename = "for", default)]
    pub for_cluster: Option<ClusterId>,
    /// The only trust domain that may redeem it, if bound.
    #[serde(default)]
    pub expect_trust_domain: Option<TrustDomain>,
    /// A redeemer waits for a person.
    #[serde(default)]
    pub require_approval: bool,
    /// The cluster it is for may come with other roots, in the place of the peer of its id.
    #[serde(default)]
    pub rejoin: bool,
    /// The object that asks for it, where there is one: without that it is to be revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared_by: Option<String>,
    /// When it was revoked.
    #[serde(default)]
    pub revoked: Option<Timestamp>,
    /// Who redeemed it.
    #[serde(default)]
    pub redeemed: Vec<Redemption>,
}

/// One use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// SHA-256 of the gateway's SubjectPublicKeyInfo.
    #[serde(with = "hex32")]
    pub request_key: [u8; 32],
    /// The cluster that joined.
    pub cluster: ClusterId,
    /// When.
    pub at: Timestamp,
    /// The encoded answer, given again to the same key.
    #[serde(with = "base64")]
    pub response: Vec<u8>,
}

/// What a person asked of a new token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenTerms {
    /// How long it may be redeemed.
    pub ttl: Duration,
    /// How many clusters may redeem it.
    pub uses: u32,
    /// The only cluster that may redeem it.
    pub for_cluster: Option<ClusterId>,
    /// The only trust domain that may redeem it.
    pub expect_trust_domain: Option<TrustDomain>,
    /// A redeemer waits for a person.
    pub require_approval: bool,
    /// The cluster it is for may come with other roots, in the place of the peer of its id.
    pub rejoin: bool,
}

impl Default for TokenTerms {
    fn default() -> Self {
        Self {
            ttl: TOKEN_TTL,
            uses: 1,
            for_cluster: None,
            expect_trust_domain: None,
            require_approval: false,
            rejoin: false,
        }
    }
}

/// Why a token is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Outside [`TOKEN_TTL_MIN`] to [`TOKEN_TTL_MAX`].
    #[error("a token lives {} s to {} s, not {} s", TOKEN_TTL_MIN.as_secs(), TOKEN_TTL_MAX.as_secs(), .0.as_secs())]
    Ttl(Duration),
    /// Outside 1 to [`TOKEN_USES_MAX`].
    #[error("a token has 1 to {TOKEN_USES_MAX} uses, not {0}")]
    Uses(u32),
}

impl TermsError {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Ttl(_) => Code::TOKEN_LIFE_INVALID,
            Self::Uses(_) => Code::TOKEN_USES_INVALID,
        }
    }
}

impl TokenRecord {
    /// The record of a new token. The end is cut to whole seconds, as the token's text says it.
    ///
    /// # Errors
    /// [`TermsError`] for a life or a number of uses out of bounds.
    pub fn issue(
        id: TokenId,
        secret: &TokenSecret,
        terms: TokenTerms,
        now: Timestamp,
    ) -> Result<Self, TermsError> {
        if !(TOKEN_TTL_MIN..=TOKEN_TTL_MAX).contains(&terms.ttl) {
            return Err(TermsError::Ttl(terms.ttl));
        }
        if !(1..=TOKEN_USES_MAX).contains(&terms.uses) {
            return Err(TermsError::Uses(terms.uses));
        }
        Ok(Self {
            id,
            public_key: proof::public_key(secret),
            created: now,
            expires: Timestamp(now.after(terms.ttl).0 / 1_000 * 1_000),
            uses_left: terms.uses,
            rejoin: terms.rejoin && terms.for_cluster.is_some(),
            for_cluster: terms.for_cluster,
            expect_trust_domain: terms.expect_trust_domain,
            require_approval: terms.require_approval,
            declared_by: None,
            revoked: None,
            redeemed: Vec::new(),
        })
    }
}

/// What a join request says, as far as its token is concerned.
#[derive(Debug, Clone)]
pub struct JoinFacts<'a> {
    /// SHA-256 of the SubjectPublicKeyInfo of the SVID it presents.
    pub request_key: [u8; 32],
    /// The cluster that asks.
    pub cluster: &'a ClusterId,
    /// Its trust domain.
    pub trust_domain: &'a TrustDomain,
    /// The encoded request less its signatures ([`proof::without_signatures`]).
    pub unsigned_request: &'a [u8],
    /// The proof of possession.
    pub sig_token: &'a [u8],
}

/// The judgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Go on to the bundle and name checks, then redeem.
    Accept {
        /// Whether a person has to approve.
        pending_approval: bool,
    },
    /// The same key asked before: answer the same, change nothing.
    Replay(&'a Redemption),
    /// No.
    Deny(Denial),
}

/// Why not. Only [`Denial::Unproven`] may be told to whoever did not prove possession, and it tells nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// No such token, or the proof is wrong: the same words for both.
    #[error("the token was not accepted")]
    Unproven,
    /// Taken back.
    #[error("the token was revoked")]
    Revoked,
    /// Used up by others. The issuer's people are told: one of the two may be a thief.
    #[error("the token was already redeemed by {by:?} {} s ago", ago.as_secs())]
    Reused {
        /// The last one who redeemed it.
        by: ClusterId,
        /// How long ago.
        ago: Duration,
    },
    /// Past its end, by the issuer's clock.
    #[error("the token expired {} s ago by the issuer's clock", ago.as_secs())]
    Expired {
        /// How long ago.
        ago: Duration,
    },
    /// Bound to another cluster id.
    #[error("the token is for cluster {expected:?}, not for {found:?}")]
    OtherCluster {
        /// Whom it is for.
        expected: ClusterId,
        /// Who asked.
        found: ClusterId,
    },
    /// Bound to another trust domain.
    #[error("the token is for trust domain {expected}, not for {found}")]
    OtherTrustDomain {
        /// Whom it is for.
        expected: TrustDomain,
        /// Who asked.
        found: TrustDomain,
    },
}

impl Denial {
    /// Its row of the table of codes.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unproven => Code::JOIN_DENIED,
            Self::Expired { .. } => Code::TOKEN_EXPIRED,
            Self::Reused { .. } => Code::TOKEN_REDEEMED,
            Self::Revoked => Code::TOKEN_REVOKED,
            Self::OtherCluster { .. } => Code::TOKEN_FOR_ANOTHER,
            Self::OtherTrustDomain { .. } => Code::TRUST_DOMAIN_MISMATCH,
        }
    }
}

/// Judges a request for a token; `record` is what is kept under the request's token id, `exporter` the 32
/// bytes of [`proof::EXPORTER_LABEL`] of this very connection. An unknown token costs the same verification
/// as a known one and gets the same answer as a wrong proof.
#[must_use]
pub fn judge<'a>(
    record: Option<&'a TokenRecord>,
    request: &JoinFacts<'_>,
    exporter: &[u8; 32],
    now: Timestamp,
) -> Verdict<'a> {
    let transcript = proof::transcript(exporter, request.unsigned_request);
    let public_key = record.map_or(&NOBODYS_KEY, |record| &record.public_key);
    let proven = proof::verify_possession(public_key, &transcript, request.sig_token);
    match record {
        Some(record) if proven => record.judge_proven(request, now),
        _ => Verdict::Deny(Denial::Unproven),
    }
}

impl TokenRecord {
    fn judge_proven(&self, request: &JoinFacts<'_>, now: Timestamp) -> Verdict<'_> {
        if self.revoked.is_some() {
            return Verdict::Deny(Denial::Revoked);
        }
        let same =
            |use_: &&Redemption| use_.request_key == request.request_key && use_.cluster == *request.cluster;
        if let Some(before) = self.redeemed.iter().find(same)
            && now <= self.expires.after(TOKEN_REPLAY_GRACE)
        {
            return Verdict::Replay(before);
        }
        if let Some(last) = self.redeemed.last()
            && self.uses_left == 0
        {
            return Verdict::Deny(Denial::Reused { by: last.cluster.clone(), ago: now.since(last.at) });
        }
        if now > self.expires {
            return Verdict::Deny(Denial::Expired { ago: now.since(self.expires) });
        }
        if let Some(expected) = self.for_cluster.as_ref().filter(|expected| *expected != request.cluster) {
            let (expected, found) = (expected.clone(), request.cluster.clone());
            return Verdict::Deny(Denial::OtherCluster { expected, found });
        }
        if let Some(expected) = self.expect_trust_domain.as_ref().filter(|it| *it != request.trust_domain) {
            let (expected, found) = (expected.clone(), request.trust_domain.clone());
            return Verdict::Deny(Denial::OtherTrustDomain { expected, found });
        }
        Verdict::Accept { pending_approval: self.require_approval }
    }

    /// This record after one more use, to be stored before the answer leaves.
    #[must_use]
    pub fn redeemed_by(&self, redemption: Redemption) -> Self {
        let mut after = self.clone();
        after.uses_left = after.uses_left.saturating_sub(1);
        after.redeemed.push(redemption);
        after
    }

    /// When nobody can gain anything from it any more, and it may be deleted.
    #[must_use]
    pub fn forgettable_after(&self) -> Timestamp {
        self.expires.after(TOKEN_REPLAY_GRACE)
    }
}

/// A well-formed Ed25519 key (the base point) to spend time on when the token is unknown; what verifies
/// against it is refused all the same.
const NOBODYS_KEY: [u8; 32] = {
    let mut key = [0x66; 32];
    key[0] = 0x58;
    key
};

mod hex32 {
    //! 32 bytes as lower-case hexadecimal.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::HEXLOWER.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).map_err(D::Error::custom)?;
        bytes.try_into().map_err(|_| D::Error::custom("expected 32 bytes"))
    }
}

mod base64 {
    //! Any bytes as base64.

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&data_encoding::BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        data_encoding::BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
