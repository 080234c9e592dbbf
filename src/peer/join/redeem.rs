//! The joiner's side: reads a token, dials its issuer, exchanges trust, and stores the issuer as a peer.
//!
//! Running the same token again is harmless: the issuer gives the same gateway the same answer. Waiting for
//! the link and the first catalog is the caller's matter.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use prost::Message as _;
use quinn::Connection;
use tokio::{sync::mpsc, time::timeout};

use super::{Claim, Ourselves, check_names, exporter, length_prefixed, problem, read_bytes};
use crate::{
    identity::{WallClock, join_client, refusal_code},
    link::{
        LinkError, Links,
        codes::Close,
        stream::{Reader, StreamError, Writer},
    },
    model::{
        code::{Code, Problem},
        ids::{ClusterId, Timestamp, TrustDomain},
        limits,
        state::{Event, Peer, Ruling, Standing, State},
        token::{
            Token, TokenId,
            proof::{sign_possession, transcript, without_signatures},
        },
        trust::{Bundle, Fingerprint},
    },
    net::Net,
    store::Store,
    wire::{self, JoinAsk, JoinGrant, JoinReply, OfferedBundle, PROTO_VERSION},
};

/// Characters of an issuer's message that are shown.
const MESSAGE_CHARS_MAX: usize = 300;

/// What redeeming a token needs.
#[derive(Debug, Clone)]
pub(in crate::peer) struct Redeemer {
    /// Who joins.
    pub ours: Arc<Ourselves>,
    /// Where the issuer is stored.
    pub store: Store,
    /// What dials.
    pub links: Links,
    /// What looks up names.
    pub net: Arc<dyn Net>,
    /// The issuer may be a known peer with other roots.
    pub re_trust: bool,
}

/// Something a person is told while joining; displayed as facts, without verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::peer) enum Step {
    /// The token was read.
    Token {
        /// Its public name.
        id: TokenId,
        /// Who made it.
        issuer: TrustDomain,
        /// What is left of its life by this host's clock; `None` when it is over, which the issuer decides.
        left: Option<Duration>,
    },
    /// An address answered, and holds the pinned key.
    Connect {
        /// The address.
        address: SocketAddr,
        /// How long the handshake took.
        took: Duration,
    },
    /// Trust was exchanged.
    Exchange {
        /// Our trust domain, number of roots and fingerprint.
        sent: (TrustDomain, usize, Fingerprint),
        /// Theirs.
        got: (TrustDomain, usize, Fingerprint),
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token { id, issuer, left: Some(left) } => {
                write!(
                    f,
                    "{id}, issued by {issuer}, {}m{:02}s left",
                    left.as_secs() / 60,
                    left.as_secs() % 60
                )
            }
            Self::Token { id, issuer, left: None } => {
                write!(f, "{id}, issued by {issuer}, expired by this host's clock")
            }
            Self::Connect { address, took } => {
                write!(f, "{address} in {} ms, pin matches", took.as_millis())
            }
            Self::Exchange { sent, got } => {
                let roots = |count: usize| if count == 1 { "root" } else { "roots" };
                write!(f, "sent {} {} ({} {}), ", sent.1, roots(sent.1), sent.0, sent.2)?;
                write!(f, "got {} {} ({} {})", got.1, roots(got.1), got.0, got.2)
            }
        }
    }
}

/// The peer that was joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::peer) struct Joined {
    /// Its cluster id.
    pub peer: ClusterId,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// What to compare with its operator.
    pub fingerprint: Fingerprint,
    /// Where it can be dialled; the address that answered is first.
    pub endpoints: Vec<String>,
    /// Number of the peering.
    pub generation: u64,
    /// A person there has to approve first.
    pub pending_approval: bool,
}

impl Redeemer {
    /// Redeems a token. Each step is told as it is done; whoever listens must take them, or leave.
    ///
    /// # Errors
    /// Everything that can be wrong with a token, a path, an issuer or ourselves. Nothing is stored then.
    pub(in crate::peer) async fn redeem(
        &self,
        text: &str,
        steps: &mpsc::Sender<Step>,
    ) -> Result<Joined, Problem> {
        let token = Token::parse(text)?;
        let own = self.ours.identity.trust_domain();
        if token.issuer == *own || token.pin == self.ours.identity.join_key().pin() {
            let message = format!("token {} was made by this cluster, {own}", token.id);
            return Err(Problem::new(Code::TOKEN_IS_OURS, message));
        }
        let left = token.expires.since(self.ours.clock.wall());
        let left = Some(left).filter(|left| !left.is_zero());
        if left.is_none() {
            tracing::warn!(token = %token.id, "the token is expired by this host's clock; the issuer decides");
        }
        tell(steps, Step::Token { id: token.id, issuer: token.issuer.clone(), left }).await;
        let (connection, address) = self.connect(&token, steps).await?;
        let request = self.request(&connection, &token)?;
        let own_limits = &self.ours.limits;
        let exchanged =
            timeout(own_limits.join_timeout, exchange(&connection, &request, own_limits.join_message)).await;
        let reply = match exchanged {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => return Err(cut_off(&connection, &address, &error.to_string())),
            Err(_) => {
                let seconds = own_limits.join_timeout.as_secs_f64();
                return Err(cut_off(&connection, &address, &format!("no answer in {seconds} s")));
            }
        };
        connection.close(Close::JoinDone.code(), Close::JoinDone.phrase().as_bytes());
        let grant = match wire::join_reply(reply).map_err(|error| problem::not_understood(&error))? {
            JoinReply::Joined(grant) => grant,
            JoinReply::Denied { code, message } => return Err(told_by_issuer(&code, &message)),
        };
        self.take(&token, grant, address, steps).await
    }

    /// Dials the token's addresses in turn until one answers with the pinned key.
    async fn connect(
        &self,
        token: &Token,
        steps: &mpsc::Sender<Step>,
    ) -> Result<(Connection, String), Problem> {
        let clock = self.ours.clock.clone();
        let wall: WallClock = Arc::new(move || clock.wall());
        let (mut failures, mut impostor) = (Vec::new(), None);
        for address in &token.addresses {
            let found = match self.resolve(address).await {
                Ok(found) => found,
                Err(error) => {
                    failures.push(format!("{address}: {error}"));
                    continue;
                }
            };
            for candidate in found {
                let begun = self.ours.clock.now();
                match self.links.dial_join(candidate, join_client(token.pin, &wall)).await {
                    Ok(connection) => {
                        let took = self.ours.clock.now().saturating_duration_since(begun);
                        tell(steps, Step::Connect { address: candidate, took }).await;
                        return Ok((connection, address.clone()));
                    }
                    Err(error) => {
                        if is_wrong_pin(&error) {
                            impostor = Some(address);
                        }
                        failures.push(format!("{address}: {}", in_short(&error)));
                    }
                }
            }
        }
        let message = failures.join("; ");
        Err(match impostor {
            Some(address) => {
                let message = format!("{address} does not hold the key that token {} pins", token.id);
                Problem::new(Code::TOKEN_PIN_MISMATCH, message)
            }
            None => Problem::new(Code::TOKEN_ISSUER_UNREACHABLE, message),
        })
    }

    async fn resolve(&self, address: &str) -> std::io::Result<Vec<SocketAddr>> {
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = port.ok_or_else(|| std::io::Error::other("not of the form host:port"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        self.net.resolve(bare, port).await
    }

    /// The encoded request, signed twice for this connection only.
    pub(super) fn request(&self, connection: &Connection, token: &Token) -> Result<Vec<u8>, Problem> {
        let (ours, svid) = (&self.ours, self.ours.svid.get());
        let generation = self.store.state().peer_of(&token.issuer).map_or(1, |peer| peer.generation + 1);
        let mut ask = JoinAsk {
            versions: (PROTO_VERSION, PROTO_VERSION),
            token: token.id,
            cluster: ours.identity.cluster().clone(),
            trust_domain: ours.identity.trust_domain().clone(),
            bundle: OfferedBundle::from(ours.bundle().as_ref()),
            gateway: svid.id().clone(),
            endpoints: ours.endpoints.clone(),
            chain: svid.chain().iter().map(|certificate| certificate.to_vec()).collect(),
            nonce: ours.clock.random_bytes::<16>().to_vec(),
            sig_token: Vec::new(),
            sig_svid: Vec::new(),
            generation,
        };
        let failed = |what| Problem::new(Code::KEY_NOT_MADE, format!("the request has no {what}"));
        let unsigned = wire::join_request_proto(ask.clone()).encode_to_vec();
        let unsigned = without_signatures(&unsigned).ok_or_else(|| failed("form"))?;
        let exporter = exporter(connection, token.id).ok_or_else(|| failed("exporter"))?;
        let transcript = transcript(&exporter, &unsigned);
        ask.sig_token = sign_possession(&token.secret, &transcript);
        ask.sig_svid = svid.sign(&transcript).map_err(|_| failed("signature"))?;
        Ok(wire::join_request_proto(ask).encode_to_vec())
    }

    /// Checks what the issuer says of itself, and stores it as a peer.
    async fn take(
        &self,
        token: &Token,
        grant: JoinGrant,
        address: String,
        steps: &mpsc::Sender<Step>,
    ) -> Result<Joined, Problem> {
        if grant.trust_domain != token.issuer {
            let (found, expected) = (&grant.trust_domain, &token.issuer);
            let message = format!("the issuer calls itself {found}, the token {expected}");
            return Err(Problem::new(Code::TRUST_DOMAIN_MISMATCH, message));
        }
        let now = self.ours.clock.wall();
        let bundle = Bundle::checked(grant.bundle.sequence, &grant.bundle.roots, now)?;
        let facts = |domain: &TrustDomain, bundle: &Bundle| {
            (domain.clone(), bundle.roots().len(), bundle.fingerprint())
        };
        let sent = facts(self.ours.identity.trust_domain(), self.ours.bundle().as_ref());
        let exchanged = Step::Exchange { sent, got: facts(&grant.trust_domain, &bundle) };
        let others = grant.endpoints.iter().filter(|it| **it != address).cloned();
        let mut endpoints: Vec<String> = std::iter::once(address.clone()).chain(others).collect();
        endpoints.truncate(limits::PEER_ENDPOINTS_MAX);
        let ours = self.ours.clone();
        let offer = Offer { grant, bundle, endpoints, re_trust: self.re_trust };
        let joined = self.store.transact(move |state, now| offer.accept(&ours, state, now)).await?;
        tell(steps, exchanged).await;
        Ok(joined)
    }
}

/// What an issuer offers, well formed.
struct Offer {
    grant: JoinGrant,
    bundle: Bundle,
    endpoints: Vec<String>,
    re_trust: bool,
}

impl Offer {
    fn accept(
        self,
        ours: &Ourselves,
        state: &State,
        now: Timestamp,
    ) -> Result<(Vec<Event>, Joined), Problem> {
        let Self { grant, bundle, endpoints, re_trust } = self;
        let claim = Claim {
            cluster: &grant.cluster,
            domain: &grant.trust_domain,
            bundle: &bundle,
            replaces: re_trust,
        };
        let known = check_names(ours, state, claim)?;
        // An answer of before may come again after a newer join; the peering does not go back.
        let generation = known.map_or(0, |peer| peer.generation).max(grant.generation);
        let joined = Joined {
            peer: grant.cluster.clone(),
            trust_domain: grant.trust_domain.clone(),
            fingerprint: bundle.fingerprint(),
            endpoints: endpoints.clone(),
            generation,
            pending_approval: grant.pending_approval,
        };
        let peer = Peer {
            cluster: grant.cluster,
            trust_domain: grant.trust_domain,
            bundle,
            endpoints,
            generation,
            // Whoever redeems a token means its issuer; a person's approval is asked there.
            standing: Standing::Approved,
            introduced_by: None,
            issuer: true,
            added: known.map_or(now, |peer| peer.added),
            // Our roots were in the request.
            ruling: Ruling {
                paused: known.and_then(|peer| peer.ruling.paused),
                acked: ours.bundle().sequence(),
                ..Ruling::default()
            },
        };
        Ok((vec![Event::Peer(peer)], joined))
    }
}

async fn exchange(
    connection: &Connection,
    request: &[u8],
    most: usize,
) -> Result<federation_proto::v1::JoinResponse, StreamError> {
    let (send, receive) = connection.open_bi().await.map_err(|lost| StreamError::Read(lost.into()))?;
    let (mut writer, mut reader) = (Writer::new(send), Reader::new(receive));
    writer.write_chunk(length_prefixed(request)).await?;
    writer.finish();
    let bytes = read_bytes(&mut reader, most).await?;
    Ok(federation_proto::v1::JoinResponse::decode(bytes.as_slice())?)
}

async fn tell(steps: &mpsc::Sender<Step>, step: Step) {
    // Whoever listened may have gone; the join goes on.
    let _ = steps.send(step).await;
}

/// The issuer answered the dial, and then no more.
fn cut_off(connection: &Connection, address: &str, cause: &str) -> Problem {
    let closed = match connection.close_reason() {
        Some(quinn::ConnectionError::ApplicationClosed(frame)) => Close::of(frame.error_code),
        _ => None,
    };
    connection.close(Close::JoinDone.code(), Close::JoinDone.phrase().as_bytes());
    if closed == Some(Close::Shutdown) {
        return Problem::new(Code::JOIN_BUSY, format!("{address} takes no join at this moment"));
    }
    let message = format!("{address} took the connection, but the exchange was not finished: {cause}");
    Problem::new(Code::TOKEN_ISSUER_UNREACHABLE, message)
        .with_fix("run the same command again: the token still answers to this gateway")
}

/// An issuer's refusal. Its words are foreign: they are cut, and cannot steer a terminal.
fn told_by_issuer(code: &str, message: &str) -> Problem {
    let code = Code::parse(code).unwrap_or(Code::JOIN_DENIED);
    let shown: String =
        message.chars().filter(|letter| !letter.is_control()).take(MESSAGE_CHARS_MAX).collect();
    Problem::new(code, format!("the issuer says: {shown}"))
}

fn is_wrong_pin(error: &LinkError) -> bool {
    let LinkError::Handshake { error, .. } = error else { return false };
    refusal_code(error) == Some(Code::TOKEN_PIN_MISMATCH)
}

fn in_short(error: &LinkError) -> String {
    match error {
        LinkError::NoAnswer { .. } | LinkError::Handshake { error: quinn::ConnectionError::TimedOut, .. } => {
            "no answer over UDP".to_owned()
        }
        LinkError::Handshake { error, .. } => error.to_string(),
        error => error.to_string(),
    }
}
