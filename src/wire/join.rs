//! The messages of first contact, and the records members pass on, to the wire and back.
//!
//! Bundles of a join stay as they came: what is wrong with one is told in words only to a joiner that proved
//! possession of its token, so judging them is left to whoever knows that.

use federation_proto::v1;

use super::{WireError, at_most, endpoints};
use crate::model::{
    ids::{ClusterId, SpiffeId, Timestamp, TrustDomain},
    introduction::ClusterRecord,
    limits,
    token::TokenId,
    trust::Bundle,
};

/// A bundle as it came, not judged yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedBundle {
    /// Grows with each change.
    pub sequence: u64,
    /// DER certificates, oldest first.
    pub roots: Vec<Vec<u8>>,
}

/// What a joiner asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinAsk {
    /// Oldest and newest protocol version it speaks.
    pub versions: (u32, u32),
    /// Which token it redeems.
    pub token: TokenId,
    /// What it calls its cluster.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its roots.
    pub bundle: OfferedBundle,
    /// The gateway that asks.
    pub gateway: SpiffeId,
    /// Where it can be dialled.
    pub endpoints: Vec<String>,
    /// Its SVID, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Makes each request another.
    pub nonce: Vec<u8>,
    /// Possession of the token.
    pub sig_token: Vec<u8>,
    /// Possession of the SVID's key.
    pub sig_svid: Vec<u8>,
    /// Number of the peering it means to begin.
    pub generation: u64,
}

/// What an issuer grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinGrant {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its roots.
    pub bundle: OfferedBundle,
    /// Where it can be dialled.
    pub endpoints: Vec<String>,
    /// Number of the peering.
    pub generation: u64,
    /// A person there has to approve first.
    pub pending_approval: bool,
}

/// What an issuer answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JoinReply {
    /// Both sides are peers now.
    Joined(JoinGrant),
    /// No; foreign text, to be shown with care.
    Denied {
        /// `TMB-` and four digits, if the issuer is ours.
        code: String,
        /// Why, as far as it tells.
        message: String,
    },
}

/// Reads a joiner's request.
///
/// # Errors
/// [`WireError`].
pub fn join_ask(request: v1::JoinRequest) -> Result<JoinAsk, WireError> {
    at_most("chain", request.chain.len(), limits::CHAIN_CERTIFICATES_MAX)?;
    Ok(JoinAsk {
        versions: (request.proto_min, request.proto_max),
        token: TokenId::from_slice(&request.token_id).ok_or(WireError::Range("token_id"))?,
        cluster: ClusterId::parse(&request.cluster).map_err(WireError::id("cluster"))?,
        trust_domain: TrustDomain::parse(&request.trust_domain).map_err(WireError::id("trust_domain"))?,
        bundle: offered(request.bundle)?,
        gateway: SpiffeId::parse(&request.gateway).map_err(WireError::id("gateway"))?,
        endpoints: endpoints(request.endpoints)?,
        chain: request.chain,
        nonce: request.nonce,
        sig_token: request.sig_token,
        sig_svid: request.sig_svid,
        generation: request.generation,
    })
}

/// A request as it goes out.
#[must_use]
pub fn join_request_proto(ask: JoinAsk) -> v1::JoinRequest {
    v1::JoinRequest {
        proto_min: ask.versions.0,
        proto_max: ask.versions.1,
        token_id: ask.token.0.to_vec(),
        cluster: ask.cluster.to_string(),
        trust_domain: ask.trust_domain.to_string(),
        bundle: Some(ask.bundle.into()),
        gateway: ask.gateway.to_string(),
        endpoints: ask.endpoints,
        chain: ask.chain,
        nonce: ask.nonce,
        sig_token: ask.sig_token,
        sig_svid: ask.sig_svid,
        generation: ask.generation,
    }
}

/// Reads an issuer's answer.
///
/// # Errors
/// [`WireError`].
pub fn join_reply(response: v1::JoinResponse) -> Result<JoinReply, WireError> {
    use v1::join_response::Outcome;
    Ok(match response.outcome.ok_or(WireError::Missing("outcome"))? {
        Outcome::Denied(denied) => JoinReply::Denied { code: denied.code, message: denied.message },
        Outcome::Joined(joined) => JoinReply::Joined(JoinGrant {
            cluster: ClusterId::parse(&joined.cluster).map_err(WireError::id("cluster"))?,
            trust_domain: TrustDomain::parse(&joined.trust_domain).map_err(WireError::id("trust_domain"))?,
            bundle: offered(joined.bundle)?,
            endpoints: endpoints(joined.endpoints)?,
            generation: joined.generation,
            pending_approval: joined.pending_approval,
        }),
    })
}

/// An answer as it goes out.
#[must_use]
pub fn join_response_proto(reply: JoinReply) -> v1::JoinResponse {
    use v1::join_response::Outcome;
    let outcome = match reply {
        JoinReply::Denied { code, message } => Outcome::Denied(v1::Denied { code, message }),
        JoinReply::Joined(grant) => Outcome::Joined(v1::Joined {
            cluster: grant.cluster.to_string(),
            trust_domain: grant.trust_domain.to_string(),
            bundle: Some(grant.bundle.into()),
            endpoints: grant.endpoints,
            generation: grant.generation,
            pending_approval: grant.pending_approval,
            features: Vec::new(),
        }),
    };
    v1::JoinResponse { outcome: Some(outcome) }
}

/// Reads a record that somebody passed on or said of itself; whether it is genuine is for others to judge.
///
/// # Errors
/// [`WireError`].
pub fn cluster_record(record: v1::ClusterRecord) -> Result<ClusterRecord, WireError> {
    let time = |field, unix_ms| u64::try_from(unix_ms).map(Timestamp).map_err(|_| WireError::Range(field));
    let bundle = offered(record.bundle)?;
    Ok(ClusterRecord {
        cluster: ClusterId::parse(&record.cluster).map_err(WireError::id("cluster"))?,
        trust_domain: TrustDomain::parse(&record.trust_domain).map_err(WireError::id("trust_domain"))?,
        bundle: Bundle::parse(bundle.sequence, &bundle.roots)?,
        generation: record.generation,
        endpoints: endpoints(record.endpoints)?,
        issued: time("issued_unix_ms", record.issued_unix_ms)?,
        expires: time("expires_unix_ms", record.expires_unix_ms)?,
    })
}

/// A record as it goes out.
#[must_use]
pub fn cluster_record_proto(record: &ClusterRecord) -> v1::ClusterRecord {
    let unix_ms = |time: Timestamp| i64::try_from(time.0).unwrap_or(i64::MAX);
    v1::ClusterRecord {
        cluster: record.cluster.to_string(),
        trust_domain: record.trust_domain.to_string(),
        bundle: Some(OfferedBundle::from(&record.bundle).into()),
        generation: record.generation,
        endpoints: record.endpoints.clone(),
        issued_unix_ms: unix_ms(record.issued),
        expires_unix_ms: unix_ms(record.expires),
    }
}

fn offered(bundle: Option<v1::Bundle>) -> Result<OfferedBundle, WireError> {
    let v1::Bundle { sequence, roots, .. } = bundle.ok_or(WireError::Missing("bundle"))?;
    Ok(OfferedBundle { sequence, roots })
}

impl From<&Bundle> for OfferedBundle {
    fn from(bundle: &Bundle) -> Self {
        let roots = bundle.roots().iter().map(|root| root.der().to_vec()).collect();
        Self { sequence: bundle.sequence(), roots }
    }
}

impl From<OfferedBundle> for v1::Bundle {
    fn from(bundle: OfferedBundle) -> Self {
        Self { sequence: bundle.sequence, roots: bundle.roots, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask() -> JoinAsk {
        JoinAsk {
            versions: (1, 1),
            token: TokenId([3; 10]),
            cluster: ClusterId::parse("west").expect("an id"),
            trust_domain: TrustDomain::parse("west.example").expect("a domain"),
            bundle: OfferedBundle { sequence: 4, roots: vec![vec![1, 2, 3]] },
            gateway: SpiffeId::parse("spiffe://west.example/gateway/g1").expect("an id"),
            endpoints: vec!["192.0.2.1:7443".to_owned()],
            chain: vec![vec![5; 10]],
            nonce: vec![6; 16],
            sig_token: vec![7; 64],
            sig_svid: vec![8; 70],
            generation: 2,
        }
    }

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        assert_eq!(join_ask(join_request_proto(ask())), Ok(ask()));
    }

    #[test]
    fn answers_read_back_as_they_were_written() {
        let ask = ask();
        let joined = JoinReply::Joined(JoinGrant {
            cluster: ask.cluster,
            trust_domain: ask.trust_domain,
            bundle: ask.bundle,
            endpoints: ask.endpoints,
            generation: 9,
            pending_approval: true,
        });
        let denied = JoinReply::Denied { code: "TMB-1201".to_owned(), message: "expired".to_owned() };
        for reply in [joined, denied] {
            assert_eq!(join_reply(join_response_proto(reply.clone())), Ok(reply));
        }
    }

    #[test]
    fn a_request_names_the_field_that_is_wrong() {
        let with = |change: fn(&mut v1::JoinRequest)| {
            let mut request = join_request_proto(ask());
            change(&mut request);
            join_ask(request).expect_err("refused").to_string()
        };
        assert!(with(|it| it.token_id.truncate(9)).contains("token_id"));
        assert!(with(|it| it.cluster = "West!".to_owned()).contains("cluster"));
        assert!(with(|it| it.bundle = None).contains("bundle"));
        assert!(with(|it| it.endpoints = vec!["nowhere".to_owned()]).contains("endpoints"));
        assert!(with(|it| it.chain = vec![Vec::new(); 5]).contains("chain"));
    }
}
