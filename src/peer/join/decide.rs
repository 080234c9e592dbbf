//! What becomes of a join request: the issuer's decision, made on the newest state with nothing in between.
//!
//! Everything of one redemption is one step: token, peer and stored answer change together or not at all.
//! Only who proved possession of the token is told why not; all others get one and the same answer.

use prost::Message as _;
use rustls_pki_types::CertificateDer;

use super::{Claim, Ourselves, check_names, problem};
use crate::{
    identity::judge_joiner,
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp},
        state::{Event, Peer, Ruling, Standing, State},
        token::{
            TokenId,
            proof::{transcript, without_signatures},
            record::{Denial, JoinFacts, Redemption, TokenRecord, Verdict, judge},
        },
        trust::{Bundle, sha256},
    },
    wire::{self, JoinAsk, JoinGrant, JoinReply, OfferedBundle, PROTO_VERSION},
};

/// A request that could be read, with what its connection adds to it.
#[derive(Debug)]
pub(super) struct Asked {
    ask: JoinAsk,
    unsigned: Vec<u8>,
    request_key: [u8; 32],
    exporter: [u8; 32],
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A new peer, or a known one anew.
    Joined { cluster: ClusterId, pending_approval: bool },
    /// The same gateway asked again and got the same answer.
    Repeated { cluster: ClusterId },
    /// Not a message, or not one that was signed with a token of ours.
    Unproven { token: Option<TokenId> },
    /// Refused although proven.
    Denied { token: TokenId, cluster: ClusterId, problem: Problem },
}

impl Asked {
    /// Reads a request; `exporter` gives what binds it to its connection. `None` when it is not one.
    pub(super) fn read(bytes: &[u8], exporter: impl FnOnce(TokenId) -> Option<[u8; 32]>) -> Option<Self> {
        let unsigned = without_signatures(bytes)?;
        let request = federation_proto::v1::JoinRequest::decode(bytes).ok()?;
        let ask = wire::join_ask(request).ok()?;
        let leaf = CertificateDer::from(ask.chain.first()?.as_slice());
        let key = webpki::EndEntityCert::try_from(&leaf).ok()?.subject_public_key_info();
        Some(Self { unsigned, request_key: sha256(&key), exporter: exporter(ask.token)?, ask })
    }
}

/// The one answer for whoever did not prove possession, whatever the reason.
pub(super) fn unproven(token: Option<TokenId>) -> (Vec<u8>, Outcome) {
    (denied(&Denial::Unproven.into()), Outcome::Unproven { token })
}

/// Decides. Returns the events that make it so, the encoded answer, and what came of it.
pub(super) fn decide(
    ours: &Ourselves,
    state: &State,
    now: Timestamp,
    asked: &Asked,
) -> (Vec<Event>, (Vec<u8>, Outcome)) {
    let ask = &asked.ask;
    let record = state.tokens.get(&ask.token);
    let facts = JoinFacts {
        request_key: asked.request_key,
        cluster: &ask.cluster,
        trust_domain: &ask.trust_domain,
        unsigned_request: &asked.unsigned,
        sig_token: &ask.sig_token,
    };
    let verdict = judge(record.map(AsRef::as_ref), &facts, &asked.exporter, now);
    let refused = |problem: Problem| {
        let answer = denied(&problem);
        let outcome = Outcome::Denied { token: ask.token, cluster: ask.cluster.clone(), problem };
        (Vec::new(), (answer, outcome))
    };
    match (verdict, record) {
        (Verdict::Deny(Denial::Unproven), _) | (_, None) => (Vec::new(), unproven(Some(ask.token))),
        (Verdict::Deny(denial), _) => refused(denial.into()),
        (Verdict::Replay(before), _) => match believe(asked, now) {
            Ok(_) => {
                let outcome = Outcome::Repeated { cluster: ask.cluster.clone() };
                (Vec::new(), (before.response.clone(), outcome))
            }
            Err(problem) => refused(problem),
        },
        (Verdict::Accept { pending_approval }, Some(record)) => {
            let admitted = believe(asked, now)
                .and_then(|bundle| admit(ours, state, now, (asked, bundle, record, pending_approval)));
            admitted.unwrap_or_else(refused)
        }
    }
}

/// Whether the joiner operates a gateway under the roots it submits; these roots then.
fn believe(asked: &Asked, now: Timestamp) -> Result<Bundle, Problem> {
    let ask = &asked.ask;
    if !(ask.versions.0..=ask.versions.1).contains(&PROTO_VERSION) {
        let (oldest, newest) = ask.versions;
        let message = format!("it speaks protocol {oldest} to {newest}, this cluster {PROTO_VERSION}");
        return Err(Problem::new(Code::PROTOCOL_VERSION, message));
    }
    let bundle = Bundle::checked(ask.bundle.sequence, &ask.bundle.roots, now)?;
    let chain: Vec<_> = ask.chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let transcript = transcript(&asked.exporter, &asked.unsigned);
    let claim = (&ask.trust_domain, &bundle);
    let proven = judge_joiner(claim, &chain, &transcript, &ask.sig_svid, now)
        .map_err(|error| problem::not_believed(&error))?;
    if proven.id != ask.gateway {
        let message = format!("the request is of {}, its certificate of {}", ask.gateway, proven.id);
        return Err(Problem::new(Code::IDENTITY_REFUSED, message));
    }
    Ok(bundle)
}

type Decided = (Vec<Event>, (Vec<u8>, Outcome));

fn admit(
    ours: &Ourselves,
    state: &State,
    now: Timestamp,
    (asked, bundle, record, pending_approval): (&Asked, Bundle, &TokenRecord, bool),
) -> Result<Decided, Problem> {
    let ask = &asked.ask;
    let claim =
        Claim { cluster: &ask.cluster, domain: &ask.trust_domain, bundle: &bundle, replaces: record.rejoin };
    let known = check_names(ours, state, claim)?;
    // A cluster that is a peer already joins anew: its former connections are of an older peering (P24).
    let generation = known.map_or(1, |peer| peer.generation.saturating_add(1)).max(ask.generation);
    let approved = known.is_some_and(|peer| peer.standing == Standing::Approved);
    let pending_approval = pending_approval && !approved;
    let peer = Peer {
        cluster: ask.cluster.clone(),
        trust_domain: ask.trust_domain.clone(),
        bundle,
        endpoints: ask.endpoints.clone(),
        generation,
        standing: if pending_approval { Standing::Pending } else { Standing::Approved },
        introduced_by: None,
        issuer: known.is_some_and(|peer| peer.issuer),
        added: known.map_or(now, |peer| peer.added),
        // Our roots are in the answer.
        ruling: Ruling {
            paused: known.and_then(|peer| peer.ruling.paused),
            acked: ours.bundle().sequence(),
            ..Ruling::default()
        },
    };
    let grant = JoinGrant {
        cluster: ours.identity.cluster().clone(),
        trust_domain: ours.identity.trust_domain().clone(),
        bundle: OfferedBundle::from(ours.bundle().as_ref()),
        endpoints: ours.endpoints.clone(),
        generation,
        pending_approval,
    };
    let response = wire::join_response_proto(JoinReply::Joined(grant)).encode_to_vec();
    let redemption = Redemption {
        request_key: asked.request_key,
        cluster: ask.cluster.clone(),
        at: now,
        response: response.clone(),
    };
    let events = vec![Event::Token(record.redeemed_by(redemption)), Event::Peer(peer)];
    Ok((events, (response, Outcome::Joined { cluster: ask.cluster.clone(), pending_approval })))
}

fn denied(problem: &Problem) -> Vec<u8> {
    let reply = JoinReply::Denied { code: problem.code.to_string(), message: problem.message.clone() };
    wire::join_response_proto(reply).encode_to_vec()
}
