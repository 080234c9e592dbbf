//! Connection ids that carry the shard and prove whose they are.
//!
//! Eight bytes: one whose value modulo the number of shards is the shard, three of nonce, four of a MAC under
//! a key of this gateway (settled B2). A packet with anyone else's id is dropped in silence: answering it
//! with a stateless reset would close a healthy connection of a sibling shard or replica. The keys are
//! persisted per gateway, so that a restarted gateway can reset what its former life left behind.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use quinn::{ConnectionId, ConnectionIdGenerator};
use quinn_proto::InvalidCid;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

const NONCE_BYTES: usize = 3;
const MAC_BYTES: usize = 4;
/// Length of our connection ids.
const CONNECTION_ID_BYTES: usize = 1 + NONCE_BYTES + MAC_BYTES;
/// Length of the file `quic.keys`: the reset key, then the connection id key.
pub const QUIC_KEYS_BYTES: usize = 64;

/// The two persisted secrets of one gateway, never shared between replicas.
#[derive(Clone)]
pub struct QuicKeys {
    reset: Arc<hmac::Key>,
    connection_id: Arc<hmac::Key>,
}

impl std::fmt::Debug for QuicKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QuicKeys(..)")
    }
}

impl QuicKeys {
    /// Takes the content of `quic.keys`.
    #[must_use]
    pub fn new(bytes: &[u8; QUIC_KEYS_BYTES]) -> Self {
        let (reset, connection_id) = bytes.split_at(QUIC_KEYS_BYTES / 2);
        let key = |bytes: &[u8]| Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes));
        Self { reset: key(reset), connection_id: key(connection_id) }
    }

    /// Signs stateless resets.
    #[must_use]
    pub fn reset_key(&self) -> Arc<hmac::Key> {
        self.reset.clone()
    }

    fn mac(&self, head: &[u8]) -> [u8; MAC_BYTES] {
        let tag = hmac::sign(&self.connection_id, head);
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&tag.as_ref()[..MAC_BYTES]);
        mac
    }
}

/// Makes and recognises the connection ids of one shard.
#[derive(Debug)]
pub(super) struct ShardConnectionIds {
    keys: QuicKeys,
    shard: u8,
    shards: u8,
    rng: StdRng,
}

impl ShardConnectionIds {
    /// Ids for `shard` of `shards`; `seed` comes from the process's one source of randomness.
    #[must_use]
    pub(super) fn new(keys: QuicKeys, shard: u8, shards: u8, seed: [u8; 32]) -> Self {
        Self { keys, shard, shards: shards.max(1), rng: StdRng::from_seed(seed) }
    }
}

impl ConnectionIdGenerator for ShardConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        // Any byte that is the shard modulo the number of shards, so that the shard is not plain to see.
        let turns = (u8::MAX - self.shard) / self.shards;
        id[0] = self.shard + self.shards * self.rng.random_range(0..=turns);
        self.rng.fill_bytes(&mut id[1..=NONCE_BYTES]);
        let mac = self.keys.mac(&id[..=NONCE_BYTES]);
        id[1 + NONCE_BYTES..].copy_from_slice(&mac);
        ConnectionId::new(&id)
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        let (head, mac) = id.split_at_checked(1 + NONCE_BYTES).ok_or(InvalidCid)?;
        let ours = id.len() == CONNECTION_ID_BYTES
            && head[0] % self.shards == self.shard
            && mac == self.keys.mac(head);
        if ours { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(key: u8, shard: u8, shards: u8) -> ShardConnectionIds {
        ShardConnectionIds::new(QuicKeys::new(&[key; QUIC_KEYS_BYTES]), shard, shards, [7; 32])
    }

    #[test]
    fn an_id_is_recognised_by_its_own_shard_and_gateway_only() {
        for shards in [1, 2, 3, 16] {
            for shard in 0..shards {
                let mut maker = ids(1, shard, shards);
                for _ in 0..200 {
                    let id = maker.generate_cid();
                    assert_eq!(id[0] % shards, shard);
                    assert!(maker.validate(&id).is_ok());
                    assert!(ids(2, shard, shards).validate(&id).is_err(), "another gateway took it");
                    if shards > 1 {
                        let sibling = ids(1, (shard + 1) % shards, shards);
                        assert!(sibling.validate(&id).is_err(), "a sibling shard took it");
                    }
                }
            }
        }
    }

    #[test]
    fn ids_of_other_lengths_are_foreign() {
        let maker = ids(1, 0, 1);
        for length in [0, 1, 4, 7, 9, 20] {
            assert!(maker.validate(&ConnectionId::new(&vec![0; length])).is_err());
        }
    }

    #[test]
    fn a_restarted_gateway_recognises_its_former_ids() {
        let id = ids(5, 1, 2).generate_cid();
        assert!(ids(5, 1, 2).validate(&id).is_ok());
    }
}
