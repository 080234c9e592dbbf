//! QUIC settings, all of them: windows, timers, buffers, keys. Every figure has its name in `model::limits`.

use std::sync::Arc;

use quinn::{
    AckFrequencyConfig, ClientConfig, ConnectionId, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    QlogStream, ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};

use super::{
    congestion,
    connection_id::{QuicKeys, ShardConnectionIds},
    room::Roomy,
    windows::LinkLimits,
};
use crate::{clock::Clock, model::limits};

/// Length of the connection id that a client makes up for its first packets: the longest there is, which
/// leaves the most to chance (RFC 9000 section 7.2 asks for 8 at least).
const FIRST_ID_BYTES: usize = 20;

/// Settings of a connection, the same for both directions of dialling. Until the other side is known it may
/// send little: [`widen`] gives it the rest.
pub(super) fn transport(given: &LinkLimits, qlog: Option<QlogStream>) -> TransportConfig {
    let mut config = TransportConfig::default();
    let idle = VarInt::from_u64(limits::IDLE_TIMEOUT.as_millis() as u64).unwrap_or(VarInt::MAX);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(limits::PACKETS_UNACKNOWLEDGED_MAX));
    let mut packets = MtuDiscoveryConfig::default();
    packets.upper_bound(limits::UDP_PAYLOAD_BYTES_MAX);
    config
        .ack_frequency_config(Some(acknowledgements))
        .mtu_discovery_config(Some(packets))
        .congestion_controller_factory(Arc::new(Roomy(congestion::controllers(given.congestion))))
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(limits::KEEP_ALIVE_INTERVAL))
        .max_concurrent_bidi_streams(VarInt::from_u32(limits::UNPROVEN_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u64(given.stream_window).unwrap_or(VarInt::MAX))
        .receive_window(VarInt::from_u32(limits::UNPROVEN_WINDOW_BYTES))
        .send_window(given.connection_window_max)
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES)
        .qlog_stream(qlog);
    config
}

/// Settings of a shard's endpoint.
pub(super) fn endpoint(keys: &QuicKeys, shard: u8, shards: u8, seed: [u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(keys.reset_key());
    let keys = keys.clone();
    config
        .cid_generator(move || Box::new(ShardConnectionIds::new(keys.clone(), shard, shards, seed)))
        .min_reset_interval(limits::RESET_INTERVAL_MIN)
        .rng_seed(Some(seed))
        .max_udp_payload_size(limits::UDP_PAYLOAD_BYTES_MAX)
        .expect("more than the least of RFC 9000 section 18.2");
    config
}

/// What an accepting endpoint offers. One value serves all shards, so a Retry token of one is good at the
/// others.
pub(super) fn server(tls: QuicServerConfig, given: &LinkLimits) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config
        .transport_config(Arc::new(transport(given, None)))
        .max_incoming(limits::HALF_OPEN_MAX)
        .incoming_buffer_size(limits::HALF_OPEN_BUFFER_BYTES)
        .incoming_buffer_size_total(limits::HALF_OPEN_BUFFER_BYTES * 256);
    config
}

/// What a dial offers. The first packets' connection id, which is the far side's until it has chosen its own,
/// is drawn from `clock`: it decides the shard there, so it must be repeatable where time is.
pub(super) fn client(
    tls: QuicClientConfig,
    clock: &Clock,
    (given, qlog): (&LinkLimits, Option<QlogStream>),
) -> ClientConfig {
    let mut config = ClientConfig::new(Arc::new(tls));
    let clock = clock.clone();
    let transport = Arc::new(transport(given, qlog));
    config.transport_config(transport).initial_dst_cid_provider(Arc::new(move || {
        ConnectionId::new(&clock.random_bytes::<FIRST_ID_BYTES>())
    }));
    config
}
