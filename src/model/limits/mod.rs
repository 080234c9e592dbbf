//! Every cap, in one place, with its unit in its name: frames, maps, queues, windows, timers.
//!
//! Those that an operator may want to change are defaults of the `[limits]` section of the config file;
//! the others protect an invariant. Sources: the reference's table of defaults, rules P1 to P28.

mod failover;

use std::time::Duration;

pub use failover::*;

// --- catalog, per peer (P8 to P11) ---

/// Services taken from one peer.
pub const SERVICES_PER_PEER_MAX: usize = 10_000;
/// Endpoints of one (headless) service.
pub const ENDPOINTS_PER_SERVICE_MAX: usize = 1_000;
/// Ports of one service.
pub const PORTS_PER_SERVICE_MAX: usize = 32;
/// Zones of one service.
pub const ZONES_PER_SERVICE_MAX: usize = 32;
/// Labels or annotations of one service.
pub const LABELS_PER_SERVICE_MAX: usize = 32;
/// Bytes of one label's key or value.
pub const LABEL_BYTES_MAX: usize = 128;
/// Encoded bytes of one row (P10).
pub const ROW_BYTES_MAX: usize = 16 * 1024;
/// Encoded bytes of all rows of one peer.
pub const CATALOG_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Rows per second taken from one peer after its first snapshot.
pub const ROWS_PER_SECOND_MAX: u32 = 2_000;
/// Rows in one batch (P8).
pub const BATCH_ROWS_MAX: usize = 512;
/// Encoded bytes of one batch (P8).
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Batches sent and not yet acknowledged (P8).
pub const BATCHES_IN_FLIGHT_MAX: usize = 8;
/// Tombstones kept per importer before a snapshot is cheaper.
pub const TOMBSTONES_MAX: usize = 10_000;
/// Refused rows remembered per peer for status.
pub const REFUSALS_MAX: usize = 256;
/// Bytes of a refusal's message (P9).
pub const REFUSAL_MESSAGE_BYTES_MAX: usize = 256;
/// Pause between digests (P14).
pub const DIGEST_INTERVAL: Duration = Duration::from_secs(60);
/// A send that makes no progress for this long resets its stream (P4).
pub const SEND_STALL_MAX: Duration = Duration::from_secs(30);

// --- catalog age (P15) ---

/// A catalog without its session is stale after this.
pub const CATALOG_STALE_AFTER: Duration = Duration::from_secs(60);
/// Then its rows leave DNS.
pub const CATALOG_WITHDRAWN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Then its rows are deleted.
pub const CATALOG_FORGOTTEN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

// --- session clock (P12, P13, M3) ---

/// Pause between heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Without a heartbeat for this long the session's streams are opened anew.
pub const HEARTBEAT_LOST_AFTER: Duration = Duration::from_secs(15);
/// Without progress for this long the peer is stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(30);

// --- links ---

/// Connection window before it grows.
pub const CONNECTION_WINDOW_BYTES: u64 = 16 * 1024 * 1024;
/// Connection window at most.
pub const CONNECTION_WINDOW_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Connection windows of all lanes of a gateway together.
pub const LINK_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;
/// How often windows are brought in line with what comes and with the budget.
pub const WINDOWS_INTERVAL: Duration = Duration::from_secs(1);
/// Connection window of somebody who has not proven who he is: two of the largest join messages.
pub const UNPROVEN_WINDOW_BYTES: u32 = 128 * 1024;
/// Streams he may have open: one for a join, and control and catalog of a peer without another round trip.
pub const UNPROVEN_STREAMS_MAX: u32 = 4;
/// Window of one QUIC stream. With more a sender that overshoots could leave more holes in one stream than
/// quinn-proto holds: it keeps 1,024 gaps, which are as many datagrams of 1,200 bytes and as many between them (M8).
/// With half of it a stream at 1 % loss waits for what is sent again, and fills half of 200 Mbit/s.
pub const STREAM_WINDOW_BYTES: u64 = 2_400_000;
/// Window of the HTTP/2 inside a control or catalog stream.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// Control and catalog streams waiting to be served.
pub const CALLS_WAITING_MAX: usize = 64;
/// Control and catalog streams of one lane that are served at once.
pub const CALLS_PER_LANE_MAX: usize = 8;
/// Calls on one control or catalog stream.
pub const CALLS_PER_STREAM_MAX: u32 = 4;
/// Largest gRPC message.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 512 * 1024;
/// Bidirectional streams a peer may have open on one connection.
pub const BIDI_STREAMS_MAX: u32 = 16_384;
/// Streams a peer may open in one second.
pub const OPENS_PER_SECOND_MAX: u32 = 2_000;
/// What a peer may open at once, as the time it would take at that pace.
pub const OPENS_BURST: Duration = Duration::from_secs(1);
/// The same on the side that opens, for new clients. Far less than what the peer takes at once: what opens without
/// a turn has room in between, and a flood has no more than this to hurt others with before it is paced.
pub const OPEN_TURNS_BURST: Duration = Duration::from_millis(125);
/// A new client waits no longer than this for its turn, and is then opened in any case: the peer may refuse it, and
/// the next candidate take it.
pub const OPEN_TURN_WAIT_MAX: Duration = Duration::from_millis(250);
/// Time for a stream's header to arrive.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for a QUIC handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// QUIC idle timeout.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that are recorded when qlog is asked for.
pub const QLOG_FILES_MAX: usize = 256;
/// Longest record of one connection, in bytes; what comes later is left out.
pub const QLOG_FILE_BYTES_MAX: usize = 64 << 20;
/// QUIC keep-alive of an idle lane; shorter than any NAT's memory.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Encoded bytes of a stream header.
pub const STREAM_HEADER_BYTES_MAX: usize = 4 * 1024;
/// Encoded bytes of the answer to an open.
pub const OPEN_REPLY_BYTES_MAX: usize = 1024;
/// Datagram buffers, each way.
pub const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024;
/// UDP payload of a QUIC packet at most, where the path takes it: ten of them are one segmented send, which is
/// 64 KiB at most.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 6_500;
/// Packets that may come without an acknowledgement of their own. What is sent anyway carries it; a loss is told at
/// once. Far below the ten packets that a new lane may send.
pub const PACKETS_UNACKNOWLEDGED_MAX: u32 = 4;
/// Half-open handshakes from which on Retry is demanded.
pub const HALF_OPEN_RETRY_ABOVE: usize = 256;
/// Half-open handshakes at most.
pub const HALF_OPEN_MAX: usize = 1_024;
/// Bytes buffered for one half-open handshake.
pub const HALF_OPEN_BUFFER_BYTES: u64 = 64 * 1024;
/// Lanes to one gateway whose place was taken and that still carry streams.
pub const RETIRED_LANES_MAX: usize = 2;
/// A lane whose place was taken ends after carrying nothing for this long.
pub const RETIRED_LANE_IDLE: Duration = Duration::from_secs(2);
/// Endpoints of a peer of which it is remembered which gateway answers there.
pub const PEER_ENDPOINTS_KNOWN_MAX: usize = GATEWAYS_PER_PEER_MAX * PEER_ENDPOINTS_MAX;
/// A dial from a fresh socket replaces a shard's dialling socket no more often than this.
pub const FRESH_SOCKET_INTERVAL: Duration = Duration::from_secs(1);
/// Pause before the next endpoint of a peer is dialled beside the one before (RFC 8305 section 5).
pub const DIAL_STAGGER: Duration = Duration::from_millis(250);
/// Endpoints (`host:port`) a peer may announce.
pub const PEER_ENDPOINTS_MAX: usize = 8;
/// Bytes of one `host:port`.
pub const PEER_ENDPOINT_BYTES_MAX: usize = 255;
/// After a link was lost, dials stay close together for this long.
pub const DIAL_CLOSE_FOR: Duration = Duration::from_secs(60);
/// Meanwhile each of them waits no longer than this for its handshake.
pub const DIAL_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// First pause between dials.
pub const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause between dials (P25).
pub const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Shortest time between two dials of one peer, whatever happened.
pub const DIAL_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A link that lived this long starts its back-off anew.
pub const DIAL_BACKOFF_RESET_AFTER: Duration = Duration::from_secs(60);
/// Shortest time between two stateless resets (B2).
pub const RESET_INTERVAL_MIN: Duration = Duration::from_millis(1);

// --- trust ---

/// Roots in one bundle (P21).
pub const ROOTS_PER_BUNDLE_MAX: usize = 16;
/// Encoded bytes of one bundle.
pub const BUNDLE_BYTES_MAX: usize = 64 * 1024;
/// Peers of one cluster.
pub const PEERS_MAX: usize = 1_000;
/// The renewal of an SVID is tried again after this.
pub const SVID_RENEWAL_RETRY: Duration = Duration::from_secs(1);
/// Whether an SVID is due is looked at no later than this.
pub const SVID_RENEWAL_CHECK: Duration = Duration::from_secs(60);
/// How often workloads are asked to read a bundle again.
pub const BUNDLE_REFRESH_HINT: Duration = Duration::from_secs(300);
/// A rotation of the root is looked at this often.
pub const ROTATION_CHECK: Duration = Duration::from_millis(500);
/// Gateways of one peer that are told apart.
pub const GATEWAYS_PER_PEER_MAX: usize = 16;
/// Certificates in a presented chain.
pub const CHAIN_CERTIFICATES_MAX: usize = 4;
/// Life of a gateway's SVID unless configured otherwise.
pub const SVID_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Life of a root unless configured otherwise.
pub const ROOT_LIFE: Duration = Duration::from_secs(8_760 * 60 * 60);
/// Clock skew accepted between clusters.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// A certificate's NotBefore lies this far back.
pub const NOT_BEFORE_BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Pause between sweeps that judge live links again.
pub const TRUST_SWEEP_INTERVAL: Duration = Duration::from_secs(5);

// --- tokens and joining ---

/// Life of a token unless told otherwise.
pub const TOKEN_TTL: Duration = Duration::from_secs(15 * 60);
/// Shortest life of a token.
pub const TOKEN_TTL_MIN: Duration = Duration::from_secs(60);
/// Longest life of a token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// A redeemed token still answers the same key for this long after its end.
pub const TOKEN_REPLAY_GRACE: Duration = Duration::from_secs(10 * 60);
/// Tokens outstanding at once.
pub const TOKENS_MAX: usize = 1_000;
/// Characters of a token.
pub const TOKEN_BYTES_MAX: usize = 1_400;
/// Bytes of a token before base64.
pub const TOKEN_BINARY_BYTES_MAX: usize = 1_024;
/// Clusters that may redeem one token.
pub const TOKEN_USES_MAX: u32 = 32;
/// Bytes of a join request or response.
pub const JOIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Time for a whole join exchange.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a joined peer to become usable: a link and a whole catalog.
pub const JOIN_USABLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Join exchanges at once.
pub const JOINS_IN_FLIGHT_MAX: usize = 16;
/// Records one introducer may pass on.
pub const INTRODUCTIONS_PER_PEER_MAX: usize = 64;
/// Bytes of an introduction's record: a bundle and the little around it.
pub const INTRODUCTION_BYTES_MAX: usize = BUNDLE_BYTES_MAX + 8 * 1024;
/// Our own record is told no more often than this.
pub const INTRODUCTION_RETRY: Duration = Duration::from_secs(60);
/// Life of an introduction record.
pub const INTRODUCTION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

// --- proxy ---

/// Client bytes kept for another try.
pub const FIRST_BYTES_MAX: usize = 64 * 1024;
/// How long an open waits for first bytes that are already on their way (M7 b).
pub const FIRST_BYTES_WAIT: Duration = Duration::from_micros(500);
/// Time for the exporter to connect to an endpoint.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// An endpoint that has not taken a connection after this is given company by the next one (RFC 8305 section 5 has
/// the same pause between addresses).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);
/// Endpoints of this cluster that are tried beside each other for one connection.
pub const CONNECTS_AT_ONCE_MAX: usize = 3;
/// Of an idempotent export, time for an endpoint's first word before another one is asked beside it.
pub const FIRST_WORD_TIMEOUT: Duration = Duration::from_secs(1);
/// Endpoints of one cluster asked after the first one, of one connection.
pub const ENDPOINTS_AGAIN_MAX: usize = 2;
/// Clusters or gateways asked after the first one that had connected, of one connection.
pub const REPLAYS_MAX: usize = 2;
/// Time for a whole open, all candidates together.
pub const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Candidates tried for one connection.
pub const CANDIDATES_TRIED_MAX: usize = 8;
/// So long new connections wait for a cluster whose last link was lost, if nobody else can serve them: a gateway that
/// is restarted dials its peers at once.
pub const LINK_RETURN_WAIT: Duration = Duration::from_secs(2);
/// An unanswered open is hedged after this, or after 2 PTO.
pub const HEDGE_AFTER: Duration = Duration::from_millis(300);
/// PTOs until an unanswered open is hedged.
pub const HEDGE_PTOS: u32 = 2;
/// Share of a service's requests that may be sent again while the first try may still be served, or after an
/// endpoint failed it (Finagle, Linkerd).
pub const RETRY_PERCENT: u32 = 20;
/// And so many a second on top, so that a service that is asked seldom may be asked again at all.
pub const RETRY_FLOOR_PER_SECOND: u32 = 10;
/// The requests of so many slots are looked back on.
pub const RETRY_SLOTS: usize = 10;
/// Length of one of them.
pub const RETRY_SLOT: Duration = Duration::from_secs(1);
/// Services with a retry budget; for those beyond it nothing is paid.
pub const RETRY_BUDGETS_MAX: usize = 16_384;
/// That a service's budget is used up is told to people no more often than this.
pub const RETRY_TOLD_INTERVAL: Duration = Duration::from_secs(60);
/// Buffer of one direction of a pump while bytes are there.
pub const PUMP_BUFFER_BYTES: usize = 64 * 1024;
/// What one direction of a connection carries before all others of its shard have their turn.
pub const PUMP_TURN_BYTES: usize = 128 * 1024;
/// Proxied connections of one gateway.
pub const CONNECTIONS_MAX: usize = 65_536;
/// Time for goodbyes and last writes at the end of the process.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before accepting again when descriptors ran out.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A listener that could not be bound is tried again this often.
pub const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Shortest time between two looks at which imports still have a place to go.
pub const PLAN_SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(20);
/// Pause between two looks at the round trips of links.
pub const RTT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes after which a data stream ranks below young ones.
pub const YOUNG_STREAM_BYTES: u64 = 128 * 1024;
/// Peers have at least this long to act on the word that a gateway drains.
pub const DRAIN_SETTLE_MIN: Duration = Duration::from_millis(100);
/// And no longer than this.
pub const DRAIN_SETTLE_MAX: Duration = Duration::from_secs(1);
/// Time to finish when draining.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

// --- names ---

/// Time to live of an answer.
pub const NAME_TTL: Duration = Duration::from_secs(5);
/// Size of the block of virtual IPs one daemon claims (B9).
pub const VIRTUAL_IP_BLOCK_PREFIX: u8 = 18;
/// The TCP port of the socket that guards a block, on its first address.
pub const VIRTUAL_IP_GUARD_PORT: u16 = 7_443;
/// A virtual IP outlives its last export by this.
pub const VIRTUAL_IP_KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// After start, for this long, a miss is SERVFAIL while a known peer's catalog is missing.
pub const UNSYNCED_GRACE: Duration = Duration::from_secs(5);
/// The same for a peer that joined while running, counted from its join.
pub const UNSYNCED_GRACE_AFTER_JOIN: Duration = Duration::from_secs(30);
/// Ports the process may not bind move up by this (B10).
pub const UNPRIVILEGED_PORT_OFFSET: u16 = 20_000;
/// Largest UDP answer (DNS flag day 2020).
pub const DNS_UDP_BYTES_MAX: u16 = 1_232;
/// Largest question over UDP; what is longer is cut, and then not understood.
pub const DNS_UDP_QUESTION_BYTES_MAX: usize = 4_096;
/// Questions answered in a row before the shard's other work.
pub const DNS_UDP_BURST: usize = 32;
/// Records of one answer; a headless service with more endpoints answers with as many of them.
pub const DNS_RECORDS_MAX: usize = 512;
/// DNS over TCP: connections at once; further ones wait in the kernel's queue.
pub const DNS_TCP_CONNECTIONS_MAX: usize = 128;
/// DNS over TCP: pause before accepting again when descriptors ran out.
pub const DNS_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// DNS over TCP: idle time.
pub const DNS_TCP_TIMEOUT: Duration = Duration::from_secs(10);

// --- queues ---

/// Events waiting for the store.
pub const STORE_QUEUE_MAX: usize = 4_096;
/// Events the store takes at once, before it publishes.
pub const STORE_BATCH_MAX: usize = 256;
/// The store judges ages, and writes catalogs, this often.
pub const STORE_TICK: Duration = Duration::from_secs(5);
/// The store looks this often whether another gateway of the cluster changed what they share.
pub const SHARED_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A gateway tells its siblings this often that it is there, and looks this often for them.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(60);
/// Pause between two looks for sibling gateways.
pub const REPLICA_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A sibling that said nothing for this long is not counted.
pub const REPLICA_FORGOTTEN_AFTER: Duration = Duration::from_secs(10 * 60);
/// Messages waiting to be written on one call.
pub const CALL_QUEUE_MAX: usize = 16;
/// Things remembered for `tombolo events` and the API.
pub const EVENTS_KEPT_MAX: usize = 1_000;

// --- Kubernetes ---

/// Derived Services of one headless import.
pub const ENTRANCES_PER_IMPORT_MAX: usize = 100;
/// What the API server said that waits to be taken over.
pub const API_EVENTS_QUEUE_MAX: usize = 4_096;
/// What the API server said that is taken over at once, before exports are told.
pub const API_EVENTS_BATCH_MAX: usize = 1_024;
/// Time for the API server to take a connection, or to answer a write.
pub const API_SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// Names whose objects are written at once; one while the API server refuses or does not answer.
pub const API_WRITERS_MAX: usize = 16;
/// Pause of a writer after each write, so at most 400 a second together.
pub const API_WRITE_PAUSE: Duration = Duration::from_millis(40);
/// Without any change, what is written is compared with what should be this often.
pub const API_IDLE_LOOK: Duration = Duration::from_secs(300);
/// What was written and is not seen on the watch after this long is written again.
pub const API_ECHO_MAX: Duration = Duration::from_secs(10);
/// Longest pause that an API server can ask for (`Retry-After`).
pub const API_RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
/// Letters of an Event's note.
pub const API_EVENT_NOTE_MAX: usize = 1_000;
/// Pause between two looks at custom resources while something changes.
pub const GOVERN_PAUSE: Duration = Duration::from_secs(1);
/// The same while nothing does: links and round trips are no part of the state.
pub const GOVERN_LOOK: Duration = Duration::from_secs(5);
/// Figures of a peer are written at most this often.
pub const GOVERN_FIGURES_PAUSE: Duration = Duration::from_secs(10);
/// At least so long after a join that failed.
pub const GOVERN_JOIN_PAUSE: Duration = Duration::from_secs(5);
/// A pod has had its address for this long before it is believed to be its sender.
pub const POD_ADDRESS_SETTLED: Duration = Duration::from_secs(2);
/// Life of the Lease of the gateway that writes.
pub const LEASE_LIFE: Duration = Duration::from_secs(15);
/// A gateway that can no longer renew it counts it as its own for so long; others wait for all of its life.
pub const LEASE_HELD: Duration = Duration::from_secs(10);
/// After an API server was silent for so long, watches may hang on connections that nobody serves.
pub const SILENCE_FOR_LISTS: Duration = Duration::from_secs(10);
/// Time for one look at it; without an answer the API server counts as away.
pub const LEASE_TIMEOUT: Duration = Duration::from_secs(3);
/// An API server that sends nothing at all for so long on a watch is away: it says something each minute.
pub const API_SILENCE_MAX: Duration = Duration::from_secs(295);
/// Pause between two looks at the Lease.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(4);

// --- admin and metrics ---

/// Bytes of one request's body.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;
/// Connections at once to each of the two admin addresses; further ones wait in the kernel's queue.
pub const ADMIN_CONNECTIONS_MAX: usize = 128;
/// Time for the head of a request to arrive.
pub const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before accepting again when descriptors ran out.
pub const ADMIN_ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time for requests that run to end when the API is shut down.
pub const ADMIN_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait that a request may ask for.
pub const ADMIN_WAIT_MAX: Duration = Duration::from_secs(5 * 60);
/// Steps of a join waiting to be written.
pub const JOIN_STEPS_QUEUE_MAX: usize = 16;
/// A root that ends sooner than this is warned of.
pub const ROOT_ENDS_SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Services with metrics of their own; the rest count as one.
pub const METRIC_SERVICES_MAX: usize = 500;

// --- the machine ---

/// Shards (threads of the data path) unless told otherwise.
pub const SHARDS_MAX: usize = 16;
/// Pause between two heartbeats of a shard.
pub const SHARD_TICK_INTERVAL: Duration = Duration::from_millis(250);
/// A shard without a heartbeat for this long is taken out of placement.
pub const SHARD_STALLED_AFTER: Duration = Duration::from_secs(2);
/// Time for a shard's thread to end after its tasks were cut off.
pub const SHARD_JOIN_TIMEOUT: Duration = Duration::from_secs(1);
/// Receive and send buffer wanted of the kernel for a QUIC socket.
pub const UDP_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Connections the kernel holds until we accept them.
pub const TCP_BACKLOG: i32 = 1_024;
/// Bytes of one file of the state folder, its first line included.
pub const STATE_FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Bytes of a Unix socket's path (`sun_path` less its end mark).
pub const UNIX_PATH_BYTES_MAX: usize = 107;
