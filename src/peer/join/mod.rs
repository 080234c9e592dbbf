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

use std::sync::Arc;

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
        state::{Peer, State},
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
    /// The roots others verify us by.
    pub bundle: Bundle,
    /// Where others can dial us, best first; at most 8.
    pub endpoints: Vec<String>,
    /// Time and randomness.
    pub clock: Clock,
}

/// What either side of a join checks of the other, once each has proved who it is: that neither its roots nor
/// its id belong to anybody else. Returns what is known of it already.
fn check_names<'a>(
    ours: &Ourselves,
    state: &'a State,
    cluster: &ClusterId,
    domain: &TrustDomain,
    bundle: &Bundle,
) -> Result<Option<&'a Arc<Peer>>, Problem> {
    let own = (ours.identity.trust_domain(), &ours.bundle);
    let peers = state.peers.values().map(|peer| (&peer.trust_domain, &peer.bundle));
    check_new_domain(Known { own, peers }, domain, bundle)?;
    let taken = |holder: &TrustDomain| {
        let message =
            format!("cluster id {cluster} belongs to trust domain {holder} already, {domain} claims it too");
        Problem::new(Code::CLUSTER_ID_TAKEN, message)
    };
    if cluster == ours.identity.cluster() {
        return Err(taken(ours.identity.trust_domain()));
    }
    let known = state.peers.get(cluster);
    if let Some(other) = known.filter(|peer| peer.trust_domain != *domain) {
        return Err(taken(&other.trust_domain));
    }
    if let Some(other) = state.peer_of(domain).filter(|peer| peer.cluster != *cluster) {
        let message = format!("trust domain {domain} belongs to cluster {} already", other.cluster);
        return Err(Problem::new(Code::TRUST_CONFLICT, message));
    }
    if known.is_none() && state.peers.len() >= limits::PEERS_MAX {
        let message = format!("this cluster has {} peers and takes no more", limits::PEERS_MAX);
        return Err(Problem::new(Code::PEERS_LIMIT, message));
    }
    Ok(known)
}

/// What binds both signatures of a join to this very connection.
fn exporter(connection: &Connection, token: TokenId) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    connection.export_keying_material(&mut bytes, EXPORTER_LABEL, &token.0).ok()?;
    Some(bytes)
}

/// Reads a length-prefixed message as it came: what is signed is bytes, not their meaning.
async fn read_bytes(reader: &mut Reader) -> Result<Vec<u8>, StreamError> {
    let length = reader.read_varint().await?;
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    if wanted > limits::JOIN_MESSAGE_BYTES_MAX {
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
