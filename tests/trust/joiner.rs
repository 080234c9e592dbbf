//! A cluster that joins by hand, so that a test may drop an answer, repeat a request or relay it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prost::Message as _;
use quinn::{Connection, Endpoint};
use tokio::time::timeout;
use tombolo::{
    identity::{Identity, NewIdentity, Svid, WallClock, join_client},
    model::{
        ids::{ClusterId, GatewayId, TrustDomain},
        token::{
            Token,
            proof::{EXPORTER_LABEL, sign_possession, transcript, without_signatures},
        },
    },
    wire::{self, JoinAsk, JoinReply, OfferedBundle, PROTO_VERSION},
};

use crate::authority::now;

const PATIENCE: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

/// One gateway of a cluster that never runs.
pub(crate) struct Joiner {
    pub(crate) cluster: ClusterId,
    pub(crate) identity: Identity,
    pub(crate) svid: Svid,
    /// More roots than its own.
    pub(crate) more_roots: Vec<Vec<u8>>,
}

/// What an issuer answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The bytes of the grant.
    Joined(Vec<u8>),
    /// The code of the refusal.
    Denied(String),
    /// Nothing.
    Nothing,
}

impl Joiner {
    pub(crate) fn new(cluster: &str) -> Self {
        Self::of_domain(cluster, None)
    }

    pub(crate) fn of_domain(cluster: &str, domain: Option<&str>) -> Self {
        let cluster = ClusterId::parse(cluster).expect("an id");
        let trust_domain = domain.map(|domain| TrustDomain::parse(domain).expect("a domain"));
        let new =
            NewIdentity { cluster: &cluster, trust_domain, root_life: 30 * DAY, export_secret: [1; 32] };
        let (identity, _) = Identity::create(new, now()).expect("made");
        let gateway = GatewayId::parse("g1").expect("an id");
        let svid = identity.issue(&gateway, DAY, now()).expect("issued");
        Self { cluster, identity, svid, more_roots: Vec::new() }
    }

    /// Connects to an address of a token, as the token says.
    pub(crate) async fn connect(token: &Token, to: &str) -> Option<(Endpoint, Connection)> {
        let wall: WallClock = Arc::new(now);
        let endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        let config = quinn::ClientConfig::new(Arc::new(join_client(token.pin, &wall)));
        let to: SocketAddr = to.parse().expect("an address");
        let connecting = endpoint.connect_with(config, to, "tombolo").expect("dialled");
        let connection = timeout(PATIENCE, connecting).await.expect("in time").ok()?;
        Some((endpoint, connection))
    }

    /// A request that proves itself on the connection whose exporter this is.
    pub(crate) fn request(&self, token: &Token, connection: &Connection) -> Vec<u8> {
        let mut exporter = [0; 32];
        connection
            .export_keying_material(&mut exporter, EXPORTER_LABEL, &token.id.0)
            .expect("keying material");
        let bundle = self.identity.bundle();
        let own = bundle.roots().iter().map(|root| root.der().to_vec());
        let mut ask = JoinAsk {
            versions: (PROTO_VERSION, PROTO_VERSION),
            token: token.id,
            cluster: self.cluster.clone(),
            trust_domain: self.identity.trust_domain().clone(),
            bundle: OfferedBundle { sequence: 1, roots: own.chain(self.more_roots.clone()).collect() },
            gateway: self.svid.id().clone(),
            endpoints: Vec::new(),
            chain: self.svid.chain().iter().map(|certificate| certificate.to_vec()).collect(),
            nonce: vec![1; 16],
            sig_token: Vec::new(),
            sig_svid: Vec::new(),
            generation: 1,
        };
        let unsigned = wire::join_request_proto(ask.clone()).encode_to_vec();
        let unsigned = without_signatures(&unsigned).expect("a request");
        let transcript = transcript(&exporter, &unsigned);
        ask.sig_token = sign_possession(&token.secret, &transcript);
        ask.sig_svid = self.svid.sign(&transcript).expect("signed");
        wire::join_request_proto(ask).encode_to_vec()
    }

    /// Joins at an address.
    pub(crate) async fn join(&self, token: &Token, to: &str) -> Answer {
        let Some((_endpoint, connection)) = Self::connect(token, to).await else { return Answer::Nothing };
        let request = self.request(token, &connection);
        exchange(&connection, &request).await
    }
}

/// Sends a request and nothing else: nobody waits for the answer.
pub(crate) async fn send(connection: &Connection, request: &[u8]) -> Option<quinn::RecvStream> {
    let (mut send, receive) = connection.open_bi().await.ok()?;
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(request.len() as u64, &mut bytes);
    bytes.extend_from_slice(request);
    send.write_all(&bytes).await.ok()?;
    send.finish().ok()?;
    Some(receive)
}

/// One request, one answer.
pub(crate) async fn exchange(connection: &Connection, request: &[u8]) -> Answer {
    let Some(mut receive) = send(connection, request).await else { return Answer::Nothing };
    let Ok(Ok(bytes)) = timeout(PATIENCE, receive.read_to_end(65_536)).await else { return Answer::Nothing };
    let Ok(response) = federation_proto::v1::JoinResponse::decode_length_delimited(bytes.as_slice()) else {
        return Answer::Nothing;
    };
    match wire::join_reply(response) {
        Ok(JoinReply::Joined(_)) => Answer::Joined(bytes),
        Ok(JoinReply::Denied { code, .. }) => Answer::Denied(code),
        Err(_) => Answer::Nothing,
    }
}
