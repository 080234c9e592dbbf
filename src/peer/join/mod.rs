//! First contact by token: [`issue`] makes the token, `serve` answers whoever presents one, [`redeem`]
//! presents one.
//!
//! What a token is and who may redeem it are rules of `model::token`; what both sides check of each other
//! before they become peers stands here once, in [`check_names`]. Keeping the link that follows is the
//! sessions' matter.

mod decide;
pub mod issue;
mod problem;
pub(super) mod redeem;
mod serve;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use quinn::Connection;

pub(super) use self::serve::Joins;
use crate::{
    clock::Clock,
    identity::{CurrentSvid, Identity},
    link::stream::{Reader, StreamError},
    model::{
        code::{Code, Problem},
        ids::{ClusterId, TrustDomain},
        limits,
        state::{Peer, Standing, State},
        token::{TokenId, proof::EXPORTER_LABEL},
        trust::{Bundle, Known, check_new_domain},
    },
};

/// This cluster and gateway, as others meet it.
#[derive(Debug)]
pub struct Ourselves {
    /// The cluster's authority and join key.
    pub identity: Arc<Identity>,
    /// What this gateway presents.
    pub svid: Arc<CurrentSvid>,
    /// Where others can dial us, best first; at most 8.
    pub endpoints: Vec<String>,
    /// Time and randomness.
    pub clock: Clock,
    /// What sessions and joins may take.
    pub limits: PeerLimits,
}

/// What sessions and joins may take, as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerLimits {
    /// Window of the HTTP/2 inside a control or catalog stream, in bytes.
    pub http2_stream_window: u32,
    /// Time for a lane to be settled before its catalog is asked for.
    pub header_timeout: Duration,
    /// Time for a lane's `Hello`.
    pub handshake_timeout: Duration,
    /// Time for a whole join exchange.
    pub join_timeout: Duration,
    /// Bytes of a join message.
    pub join_message: usize,
    /// Peers of this cluster.
    pub peers: usize,
}

impl Default for PeerLimits {
    fn default() -> Self {
        Self {
            http2_stream_window: limits::HTTP2_STREAM_WINDOW_BYTES,
            header_timeout: limits::HEADER_TIMEOUT,
            handshake_timeout: limits::HANDSHAKE_TIMEOUT,
            join_timeout: limits::JOIN_TIMEOUT,
            join_message: limits::JOIN_MESSAGE_BYTES_MAX,
            peers: limits::PEERS_MAX,
        }
    }
}

impl PeerLimits {
    /// Whether a cluster with so many peers takes no more of them.
    ///
    /// # Errors
    /// [`Code::PEERS_LIMIT`].
    pub(in crate::peer) fn check_peers(&self, peers: usize) -> Result<(), Problem> {
        if peers < self.peers {
            return Ok(());
        }
        let message = format!("this cluster has {peers} peers and takes no more (limits.peers)");
        Err(Problem::new(Code::PEERS_LIMIT, message))
    }
}

impl Ourselves {
    /// The roots others verify us by.
    #[must_use]
    pub fn bundle(&self) -> Arc<Bundle> {
        self.identity.bundle()
    }
}

/// Who the other side of a join says it is, once it has proved it.
#[derive(Debug, Clone, Copy)]
struct Claim<'a> {
    cluster: &'a ClusterId,
    domain: &'a TrustDomain,
    bundle: &'a Bundle,
    /// A person said that it may come with other roots, or another trust domain, than the peer of its id.
    replaces: bool,
}

impl Claim<'_> {
    /// Whether a known peer stands against the claim. One that was removed does not, nor one that is replaced:
    /// it is the claimant's own former self.
    fn is_opposed_by(&self, peer: &Peer) -> bool {
        peer.cluster != *self.cluster || !(self.replaces || peer.is_tombstone())
    }
}

/// What either side of a join checks of the other, once each has proved who it is: that neither its roots nor
/// its id belong to anybody else. Returns what is known of it already.
fn check_names<'a>(
    ours: &Ourselves,
    state: &'a State,
    claim: Claim<'_>,
) -> Result<Option<&'a Arc<Peer>>, Problem> {
    let Claim { cluster, domain, bundle, .. } = claim;
    check_not_revoked(state, claim)?;
    let own_bundle = ours.bundle();
    let own = (ours.identity.trust_domain(), own_bundle.as_ref());
    let opposing = || state.peers.values().filter(|peer| claim.is_opposed_by(peer));
    let peers = opposing().map(|peer| (&peer.trust_domain, &peer.bundle));
    check_new_domain(Known { own, peers }, domain, bundle)?;
    let taken = |holder: &TrustDomain| {
        let message =
            format!("cluster id {cluster} belongs to trust domain {holder} already, {domain} claims it too");
        Problem::new(Code::CLUSTER_ID_TAKEN, message)
    };
    if cluster == ours.identity.cluster() {
        return Err(taken(ours.identity.trust_domain()));
    }
    if let Some(other) = opposing().find(|peer| peer.cluster == *cluster && peer.trust_domain != *domain) {
        return Err(taken(&other.trust_domain));
    }
    if let Some(other) = opposing().find(|peer| peer.trust_domain == *domain && peer.cluster != *cluster) {
        let message = format!("trust domain {domain} belongs to cluster {} already", other.cluster);
        return Err(Problem::new(Code::TRUST_CONFLICT, message));
    }
    let known = state.peers.get(cluster);
    if known.is_none() {
        ours.limits.check_peers(state.peers.len())?;
    }
    Ok(known)
}

/// What was revoked stays out under any name, until it is forgotten.
fn check_not_revoked(state: &State, claim: Claim<'_>) -> Result<(), Problem> {
    let shares_key =
        |peer: &Peer| claim.bundle.roots().iter().any(|root| peer.bundle.has_key(root.spki_sha256()));
    let revoked = state.peers.values().find(|peer| {
        peer.standing == Standing::Revoked
            && (peer.cluster == *claim.cluster || peer.trust_domain == *claim.domain || shares_key(peer))
    });
    match revoked {
        Some(peer) => {
            let message =
                format!("{} was revoked, and {} shares its id or a key", peer.cluster, claim.domain);
            Err(Problem::new(Code::PEER_REVOKED, message))
        }
        None => Ok(()),
    }
}

/// What binds both signatures of a join to this very connection.
fn exporter(connection: &Connection, token: TokenId) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    connection.export_keying_material(&mut bytes, EXPORTER_LABEL, &token.0).ok()?;
    Some(bytes)
}

/// Reads a length-prefixed message as it came: what is signed is bytes, not their meaning.
async fn read_bytes(reader: &mut Reader, most: usize) -> Result<Vec<u8>, StreamError> {
    let length = reader.read_varint().await?;
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    if wanted > most {
        return Err(StreamError::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(wanted);
    while bytes.len() < wanted {
        let chunk = reader.read_chunk(wanted - bytes.len()).await?.ok_or(StreamError::Truncated)?;
        bytes.extend_from_slice(&chunk);
    }
    // There is one message each way; what follows it is nothing to us.
    bytes.truncate(wanted);
    Ok(bytes)
}

/// An encoded message behind its length.
fn length_prefixed(message: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(message.len() + 10);
    prost::encoding::encode_varint(message.len() as u64, &mut bytes);
    bytes.extend_from_slice(message);
    bytes.into()
}
