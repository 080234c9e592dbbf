//! One attempt to open a connection through one candidate: an endpoint here, or a stream to a peer's gateway.
//!
//! It knows how far it has come; what follows from that is `model::open`'s to say, and `open` does it.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use federation_proto::v1;
use prost::Message as _;

use super::{
    endpoints::{Connected, Wanted},
    inbound::Site,
};
use crate::{
    ledger::Ledger,
    link::{
        Lane, StreamGuard,
        codes::Reset,
        stream::{Kind, PRIORITY_DATA, Reader, StreamError, Writer},
    },
    model::{
        catalog::Export,
        code::Code,
        failover::Target,
        limits::OPEN_REPLY_BYTES_MAX,
        liveness::LinkState,
        open::{OpenState, Origin},
        outlier::{Outcome, OutlierKey},
    },
    net::BoxFuture,
};

/// How an attempt ended.
pub(super) enum Ending {
    /// It is connected.
    Connected(Way),
    /// Somebody said no.
    Refused { origin: Origin, code: String, reason: String },
    /// Nothing of it left this gateway.
    Unsent,
    /// It was sent, and the stream or lane ended without an answer.
    Broken,
}

/// An open way to an endpoint.
pub(super) enum Way {
    /// Straight to an endpoint of this cluster.
    Local(Connected),
    /// Over a stream.
    Peer(PeerWay),
}

/// A stream that a peer's gateway has connected.
pub(super) struct PeerWay {
    pub(super) lane: Arc<Lane>,
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    pub(super) counted: StreamGuard,
}

/// Says to the ledger how an attempt ended, in any case: a place on probation waits for it.
pub(super) struct Judged {
    ledger: Ledger,
    key: OutlierKey,
    done: bool,
}

impl Judged {
    pub(super) fn new(ledger: Ledger, key: OutlierKey) -> Self {
        Self { ledger, key, done: false }
    }

    pub(super) fn observe(&mut self, outcome: Outcome) {
        self.done = true;
        self.ledger.observe(&self.key, outcome);
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        if !self.done {
            self.ledger.observe(&self.key, Outcome::Unknown);
        }
    }
}

/// What is asked of a lane while an open waits on it.
pub(super) trait Road: Send + Sync {
    fn health(&self) -> LinkState;
    fn pto(&self) -> Duration;
}

impl Road for Lane {
    fn health(&self) -> LinkState {
        Self::health(self)
    }

    fn pto(&self) -> Duration {
        self.figures().pto
    }
}

/// One attempt under way.
pub(super) struct Attempt {
    pub(super) target: Target,
    pub(super) judged: Judged,
    pub(super) started: Instant,
    pub(super) idempotent: bool,
    /// Client bytes that go with the header.
    pub(super) bytes: usize,
    /// What it runs over; none for an endpoint of this cluster.
    pub(super) road: Option<Arc<dyn Road>>,
    /// The ending, once it is known and is not a connection.
    pub(super) over: Option<OpenState>,
    /// The retry budget refused to race it.
    pub(super) over_budget: bool,
    /// Waits for the lane to be suspect; gone once it was.
    pub(super) suspect: Option<BoxFuture<'static, ()>>,
    pub(super) ending: BoxFuture<'static, Ending>,
    pub(super) sent: Arc<AtomicBool>,
}

impl Attempt {
    /// How far it has come.
    pub(super) fn state(&self) -> OpenState {
        let written = self.bytes > 0 && self.sent.load(Ordering::Relaxed);
        self.over.unwrap_or(OpenState::Unanswered { bytes_written: written })
    }

    /// The health of its lane, as the rule for opens wants it.
    pub(super) fn link(&self) -> LinkState {
        match (&self.road, self.over) {
            (_, Some(_)) => LinkState::Down,
            (Some(road), None) => road.health(),
            (None, None) => LinkState::Up,
        }
    }

    pub(super) fn pto(&self) -> Duration {
        self.road.as_ref().map_or(Duration::ZERO, |road| road.pto())
    }
}

/// Connects to an endpoint of this cluster.
pub(super) fn local(
    site: Arc<Site>,
    export: Option<Arc<Export>>,
    wanted: Wanted,
) -> BoxFuture<'static, Ending> {
    Box::pin(async move {
        // Withdrawn since the plan was made.
        let Some(export) = export else { return Ending::Unsent };
        match site.endpoints.connect(&export, &wanted).await {
            Ok(connected) => Ending::Connected(Way::Local(connected)),
            Err(refusal) => Ending::Refused {
                origin: refusal.origin,
                code: refusal.code.to_string(),
                reason: refusal.reason,
            },
        }
    })
}

/// Asks a peer's gateway: kind, header and first bytes go out in one piece.
pub(super) fn peer(
    lane: Arc<Lane>,
    header: v1::StreamHeader,
    first: Bytes,
    sent: Arc<AtomicBool>,
) -> BoxFuture<'static, Ending> {
    Box::pin(async move {
        let counted = lane.count_stream();
        let Ok((writer, reader)) = lane.open(Kind::Tcp).await else { return Ending::Unsent };
        let mut stream = Halves(Some((writer, reader)));
        let mut opening = BytesMut::with_capacity(1 + 10 + header.encoded_len() + first.len());
        opening.put_u8(Kind::Tcp.number());
        if header.encode_length_delimited(&mut opening).is_err() {
            // The buffer grows, so there is nothing that could fail; if it did, nothing was sent.
            return Ending::Unsent;
        }
        opening.put_slice(&first);
        sent.store(true, Ordering::Relaxed);
        let Some((writer, reader)) = &mut stream.0 else { return Ending::Unsent };
        writer.set_priority(PRIORITY_DATA);
        if let Err(error) = writer.write_chunk(opening.freeze()).await {
            return broken(&error.into());
        }
        let reply = reader.read_message::<v1::OpenReply>(OPEN_REPLY_BYTES_MAX).await;
        match reply.map(|reply| reply.outcome) {
            Ok(Some(v1::open_reply::Outcome::Connected(_))) => match stream.0.take() {
                Some((writer, reader)) => {
                    Ending::Connected(Way::Peer(PeerWay { lane, writer, reader, counted }))
                }
                None => Ending::Broken,
            },
            Ok(Some(v1::open_reply::Outcome::Refused(refused))) => Ending::Refused {
                origin: origin(refused.origin()),
                code: refused.code,
                reason: refused.reason,
            },
            Ok(None) => Ending::Broken,
            Err(error) => broken(&error),
        }
    })
}

/// A stream that was turned away unread was refused; of any other nobody knows how far it came.
fn broken(error: &StreamError) -> Ending {
    if error.reset() != Some(Reset::Limit) {
        return Ending::Broken;
    }
    let code = Code::OPEN_RATE_LIMIT;
    Ending::Refused { origin: Origin::Limit, code: code.to_string(), reason: code.info().title.to_owned() }
}

/// A stream whose attempt was given up tells so when it is dropped.
struct Halves(Option<(Writer, Reader)>);

impl Drop for Halves {
    fn drop(&mut self) {
        if let Some((writer, reader)) = &mut self.0 {
            writer.reset(Reset::Superseded);
            reader.stop(Reset::Superseded);
        }
    }
}

fn origin(origin: v1::Origin) -> Origin {
    match origin {
        // Whoever does not say who failed has failed.
        v1::Origin::Unspecified | v1::Origin::Gateway => Origin::Gateway,
        v1::Origin::Refused => Origin::Refused,
        v1::Origin::Timeout => Origin::Timeout,
        v1::Origin::Policy => Origin::Policy,
        v1::Origin::Limit => Origin::Limit,
        v1::Origin::App => Origin::App,
    }
}

/// Waits until a lane is suspect, for a poll loop.
pub(super) fn suspect(lane: Arc<Lane>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { lane.suspect().await })
}
