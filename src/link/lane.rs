//! One QUIC connection of a link: who is at the other end, whether it is usable, what runs on it.
//!
//! A lane lives on one shard. It is *up* once `Hello` has settled that no other lane of its number exists
//! (B1); streams of clients are neither opened nor served before. Its health is judged by the link clock in
//! `life`, and only published here.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use quinn::{Connection, ConnectionError};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};

use super::{
    codes::Close,
    opens::OpenTurns,
    stream::{Kind, Reader, StreamError, Writer},
    windows,
};
use crate::{
    identity::Role,
    model::{
        ids::{ClusterId, GatewayId, SpiffeId},
        limits,
        liveness::{Cause, LinkState, RoundTrip},
    },
};

/// Figures of a lane that people are shown.
#[derive(Debug, Clone, Copy)]
pub struct LaneFigures {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// How long to wait for an answer before something is taken for lost (RFC 9002 section 6.2.1).
    pub pto: Duration,
    /// Datagrams lost of those sent, 0 to 1.
    pub loss: f64,
    /// Since the last packet of the other side that proves it hears us.
    pub outbound_age: Duration,
    /// Since anything arrived.
    pub inbound_age: Duration,
}

/// What is thought of a lane, since when and why.
#[derive(Debug, Clone)]
pub struct Standing {
    /// The state.
    pub state: LinkState,
    /// When it began.
    pub since: Instant,
    /// Why, unless it is as it should be.
    pub cause: Option<Cause>,
}

/// Who a lane leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKey {
    /// The peer.
    pub cluster: ClusterId,
    /// Its gateway.
    pub gateway: GatewayId,
}

/// One QUIC connection to one gateway of a peer.
pub struct Lane {
    pub(super) connection: Connection,
    pub(super) key: LaneKey,
    identity: SpiffeId,
    pub(super) dialled: bool,
    shard: usize,
    born: Instant,
    up: watch::Sender<bool>,
    pub(super) health: watch::Sender<LinkState>,
    standing: ArcSwap<Standing>,
    pub(super) figures: watch::Sender<LaneFigures>,
    pub(super) streams: watch::Sender<usize>,
    pub(super) opened: AtomicUsize,
    /// When connections of clients may be opened, as the other side takes them.
    turns: OpenTurns,
    /// Bytes that the other side may have on their way, and those that have come until the last look.
    pub(super) window: AtomicU64,
    pub(super) received: AtomicU64,
    /// Streams whose readers cannot pass on what came, and what they may make of the window.
    pub(super) unread: AtomicUsize,
    pub(super) room: windows::Room,
    /// Places for control and catalog calls of the other side.
    pub(super) calls: Arc<Semaphore>,
    number: AtomicU32,
    retired: AtomicBool,
    draining: AtomicBool,
    chain: ArcSwap<Vec<CertificateDer<'static>>>,
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane")
            .field("key", &self.key)
            .field("dialled", &self.dialled)
            .field("shard", &self.shard)
            .field("health", &*self.health.borrow())
            .finish_non_exhaustive()
    }
}

/// What an authenticated connection is known by.
pub(super) struct Authenticated {
    pub(super) key: LaneKey,
    pub(super) identity: SpiffeId,
    pub(super) chain: Vec<CertificateDer<'static>>,
}

impl Lane {
    pub(super) fn new(
        connection: Connection,
        who: Authenticated,
        dialled: bool,
        shard: usize,
        now: Instant,
    ) -> Arc<Self> {
        let figures = LaneFigures {
            rtt: connection.rtt(),
            pto: RoundTrip::new(Some(connection.rtt())).pto(),
            loss: 0.0,
            outbound_age: Duration::ZERO,
            inbound_age: Duration::ZERO,
        };
        Arc::new(Self {
            connection,
            key: who.key,
            identity: who.identity,
            dialled,
            shard,
            born: now,
            up: watch::Sender::new(false),
            health: watch::Sender::new(LinkState::Up),
            standing: ArcSwap::from_pointee(Standing { state: LinkState::Up, since: now, cause: None }),
            figures: watch::Sender::new(figures),
            streams: watch::Sender::new(0),
            opened: AtomicUsize::new(0),
            turns: OpenTurns::new(now),
            window: AtomicU64::new(0),
            received: AtomicU64::new(0),
            unread: AtomicUsize::new(0),
            room: windows::Room::default(),
            calls: Arc::new(Semaphore::new(limits::CALLS_PER_LANE_MAX)),
            number: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            chain: ArcSwap::from_pointee(who.chain),
        })
    }

    /// The gateway at the other end.
    #[must_use]
    pub fn key(&self) -> &LaneKey {
        &self.key
    }

    /// Its SPIFFE ID, as its SVID proved.
    #[must_use]
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// Whether this side dialled.
    #[must_use]
    pub fn dialled(&self) -> bool {
        self.dialled
    }

    /// What the other side was in the handshake.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.dialled { Role::Server } else { Role::Client }
    }

    /// The shard whose runtime drives it.
    #[must_use]
    pub fn shard(&self) -> usize {
        self.shard
    }

    /// When the handshake ended.
    #[must_use]
    pub fn born(&self) -> Instant {
        self.born
    }

    /// The other side's address of this moment.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// The health of this moment.
    #[must_use]
    pub fn health(&self) -> LinkState {
        *self.health.borrow()
    }

    /// The same with its age and its cause.
    #[must_use]
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    pub(super) fn set_standing(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }

    /// Tells each change of its health, for whoever plans by it.
    #[must_use]
    pub fn health_changes(&self) -> watch::Receiver<LinkState> {
        self.health.subscribe()
    }

    /// The figures of this moment.
    #[must_use]
    pub fn figures(&self) -> LaneFigures {
        *self.figures.borrow()
    }

    /// Proxied streams open now, both directions.
    #[must_use]
    pub fn streams(&self) -> usize {
        *self.streams.borrow()
    }

    /// Streams this side opened since the handshake.
    #[must_use]
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }

    /// Waits until the lane is no longer up (suspect, down or closed).
    pub async fn suspect(&self) {
        let mut health = self.health.subscribe();
        // The sender lives as long as `self`.
        let _ = health.wait_for(|health| *health != LinkState::Up).await;
    }

    /// Waits for the connection's end and tells why it came.
    pub async fn closed(&self) -> ConnectionError {
        self.connection.closed().await
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.connection.close_reason().is_some()
    }

    /// Why the connection has ended, if it has.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionError> {
        self.connection.close_reason()
    }

    /// Ends the connection with a reason the other side reads.
    pub fn close(&self, reason: Close) {
        self.connection.close(reason.code(), reason.phrase().as_bytes());
    }

    /// The same with words of our own, which people on the other side read.
    pub fn close_saying(&self, reason: Close, words: &str) {
        let phrase = format!("{}: {words}", reason.phrase());
        self.connection.close(reason.code(), phrase.as_bytes());
    }

    /// Lets streams of clients pass; called once `Hello` is settled.
    pub(super) fn mark_up(&self) {
        self.up.send_replace(true);
    }

    /// Whether `Hello` was ever settled.
    pub(super) fn was_up(&self) -> bool {
        *self.up.borrow()
    }

    /// Waits until `Hello` is settled.
    pub async fn wait_up(&self) {
        let mut up = self.up.subscribe();
        let _ = up.wait_for(|up| *up).await;
    }

    /// Its number among the lanes to this gateway.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number.load(Ordering::Relaxed)
    }

    pub(super) fn set_number(&self, number: u32) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// A later lane took its place: it ends when what it carries has ended.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        // Whoever watches the streams looks again.
        self.streams.send_modify(|_| ());
    }

    /// Whether a later lane took its place.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Whether the gateway at the other end drains: it refuses new streams, or soon will.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Keying material of this connection's TLS session (RFC 8446 section 7.5).
    #[must_use]
    pub fn exporter(&self, label: &[u8], context: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        self.connection.export_keying_material(&mut material, label, context).ok()?;
        Some(material)
    }

    /// The newest chain the other side has proven, for the sweep.
    #[must_use]
    pub fn chain(&self) -> Arc<Vec<CertificateDer<'static>>> {
        self.chain.load_full()
    }

    /// Keeps a newer chain, after re-authentication was verified.
    pub fn renew_chain(&self, chain: Vec<CertificateDer<'static>>) {
        self.chain.store(Arc::new(chain));
    }

    /// Takes over how many new streams a second the other side says it takes; 0 if it does not say.
    pub fn agree_pace(&self, streams_per_second: u32) {
        self.turns.agree(streams_per_second);
    }

    /// Takes a turn to open a stream for a new client: how long to wait for it.
    #[must_use]
    pub fn take_turn(&self, now: Instant) -> Duration {
        self.turns.take(now)
    }

    /// Whether turns have been waited for longer than a burst lasts, and still are: time to ask somebody else.
    #[must_use]
    pub fn is_crowded(&self, now: Instant) -> bool {
        self.turns.are_crowded(now)
    }

    /// Opens a stream of `kind`. Nothing is sent yet: the caller writes [`Kind::number`] with its first bytes,
    /// so that both travel in one packet.
    ///
    /// # Errors
    /// [`StreamError`] when the connection is gone.
    pub async fn open(self: &Arc<Self>, kind: Kind) -> Result<(Writer, Reader), StreamError> {
        let (send, recv) = self
            .connection
            .open_bi()
            .await
            .map_err(|error| StreamError::Read(quinn::ReadError::ConnectionLost(error)))?;
        if kind == Kind::Tcp {
            self.opened.fetch_add(1, Ordering::Relaxed);
        }
        Ok((Writer::new(send), Reader::of(self, recv)))
    }

    /// Counts a stream that is left unread, or is no more.
    pub(super) fn count_unread(&self, unread: bool) {
        if unread {
            self.unread.fetch_add(1, Ordering::Relaxed);
            windows::make_room(self);
        } else {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Counts a proxied stream for as long as the guard lives; while one is open the lane is probed often.
    #[must_use]
    pub fn count_stream(self: &Arc<Self>) -> StreamGuard {
        self.streams.send_modify(|streams| *streams += 1);
        StreamGuard(self.clone())
    }
}

/// Counts one open stream on its lane.
#[derive(Debug)]
pub struct StreamGuard(Arc<Lane>);

impl Drop for StreamGuard {
    fn drop(&mut self) {
        self.0.streams.send_modify(|streams| *streams -= 1);
    }
}
