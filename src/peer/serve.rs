//! How sessions begin: lanes we dialled say `Hello`, calls of the other side are answered, joins are served.

use std::{pin::Pin, sync::Arc};

use federation_proto::v1::{
    self, catalog_server::Catalog, control_client::ControlClient, control_server::Control, ctl::Message,
};
use quinn::Connection;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Inner, call, exporting::Exporting, join::Joins, session::Session};
use crate::{
    link::{
        Caller, Lane, Verdict,
        codes::Close,
        stream::{CallStream, Kind},
    },
    model::limits,
    wire::{self, Greeting, PROTO_VERSION},
};

type Sent<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Serves control and catalog calls for the life of the process.
pub(super) async fn calls(peers: Arc<Inner>, calls: mpsc::Receiver<CallStream<Caller>>) {
    let window = peers.ours.limits.http2_stream_window;
    call::serve(calls, ControlService(peers.clone()), CatalogService(peers), window).await;
}

/// Serves joining clusters for the life of the process.
pub(super) async fn joins(peers: Arc<Inner>, server: Joins, mut joins: mpsc::Receiver<Connection>) {
    while let Some(connection) = joins.recv().await {
        peers.tasks.spawn_transient("join", server.clone().serve(connection));
    }
}

/// Says `Hello` on every lane this side dialled.
pub(super) async fn greetings(peers: Arc<Inner>, mut dialled: mpsc::Receiver<Arc<Lane>>) {
    while let Some(lane) = dialled.recv().await {
        peers.tasks.spawn_transient("session", greet(peers.clone(), lane));
    }
}

/// Opens the control call of a dialled lane, and opens it anew while the lane lives: a session that ends says
/// nothing of the traffic beside it.
async fn greet(peers: Arc<Inner>, lane: Arc<Lane>) {
    while !lane.is_closed() && !lane.is_retired() {
        match timeout(peers.ours.limits.handshake_timeout, say_hello(&peers, &lane)).await {
            Ok(Ok((session, inbound))) => session.run(inbound).await,
            // What it carries has its time; a later lane does the talking.
            Ok(Err(_)) | Err(_) if lane.is_retired() => return,
            Ok(Err((close, reason))) => {
                tracing::debug!(peer = %lane.key().cluster, %reason, "lane not used");
                return refuse(&lane, close, &reason);
            }
            Err(_) => return lane.close(Close::Protocol),
        };
        sleep(limits::DIAL_BACKOFF_MIN).await;
    }
}

type Refused = (Close, String);

/// Ends a lane. Why a peering is over is told, for only the other side can do something about it.
fn refuse(lane: &Lane, close: Close, reason: &str) {
    match close {
        Close::Terminated => lane.close_saying(close, reason),
        _ => lane.close(close),
    }
}

async fn say_hello(peers: &Arc<Inner>, lane: &Arc<Lane>) -> Result<(Session, Streaming<v1::Ctl>), Refused> {
    let protocol = |error: String| (Close::Protocol, error);
    let channel = call::open(lane, Kind::Control, peers.ours.limits.http2_stream_window)
        .await
        .map_err(|error| protocol(error.to_string()))?;
    let (out, queued) = mpsc::channel(limits::CALL_QUEUE_MAX);
    let hello = v1::Ctl { message: Some(Message::Hello(peers.greeting(lane).to_proto())) };
    out.try_send(hello).map_err(|_| protocol("the queue is full".to_owned()))?;
    let mut client = ControlClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX);
    let reply = client.session(ReceiverStream::new(queued)).await;
    let mut inbound = reply.map_err(|error| protocol(error.to_string()))?.into_inner();
    let greeting = hear_hello(lane, &mut inbound).await?;
    peers.fence(lane, &greeting)?;
    let registry = peers.links.registry();
    match settled(registry.settle(lane, greeting.instance)) {
        Ok(()) => {
            registry.note_home(lane.key(), &greeting.endpoints);
            Ok((Session { peers: peers.clone(), lane: lane.clone(), out }, inbound))
        }
        Err(refused) => Err(refused),
    }
}

/// What follows for a lane whose `Hello`s are exchanged.
fn settled(verdict: Verdict) -> Result<(), Refused> {
    match verdict {
        Verdict::Accepted => Ok(()),
        Verdict::Duplicate | Verdict::Retired => Err((Close::Duplicate, "another lane lives".to_owned())),
        Verdict::TooMany => Err((Close::Limit, "the peer has too many gateways".to_owned())),
    }
}

/// The first message of the other side, which has to be its `Hello`.
async fn hear_hello(lane: &Lane, inbound: &mut Streaming<v1::Ctl>) -> Result<Greeting, Refused> {
    let protocol = |error: String| (Close::Protocol, error);
    let first = inbound.message().await.map_err(|error| protocol(error.to_string()))?;
    let Some(Message::Hello(hello)) = first.and_then(|first| first.message) else {
        return Err(protocol("the call did not begin with Hello".to_owned()));
    };
    let greeting = wire::hello(hello).map_err(|error| protocol(error.to_string()))?;
    // What it says of itself has to be what its certificate proved.
    if greeting.cluster != lane.key().cluster || greeting.gateway != lane.key().gateway {
        return Err(protocol(format!("it calls itself {}/{}", greeting.cluster, greeting.gateway)));
    }
    if greeting.common_version().is_none() {
        let (oldest, newest) = greeting.versions;
        return Err(protocol(format!("it speaks versions {oldest} to {newest}, we speak {PROTO_VERSION}")));
    }
    lane.agree_pace(greeting.opens_per_second);
    Ok(greeting)
}

impl Inner {
    /// A gateway that knows an older peering only was revived with an old state folder (P24).
    fn fence(&self, lane: &Lane, greeting: &Greeting) -> Result<(), Refused> {
        let state = self.store.state();
        let ours = state.peers.get(&lane.key().cluster).map_or(0, |peer| peer.generation);
        let theirs = greeting.generation;
        if theirs >= ours {
            return Ok(());
        }
        let words = format!(
            "this gateway knows peering {theirs} with us, which is over; the one of now is number {ours}"
        );
        Err((Close::Terminated, format!("{words}: join anew, with the same token if its answer was lost")))
    }

    fn greeting(&self, lane: &Lane) -> Greeting {
        let state = self.store.state();
        Greeting {
            versions: (PROTO_VERSION, PROTO_VERSION),
            cluster: state.me.cluster.clone(),
            gateway: state.me.gateway.clone(),
            instance: self.instance,
            shards: self.shards,
            lane: lane.number(),
            generation: state.peers.get(&lane.key().cluster).map_or(0, |peer| peer.generation),
            locality: state.me.locality.clone(),
            endpoints: self.ours.endpoints.clone(),
            opens_per_second: self.links.limits().opens_per_second,
        }
    }
}

struct ControlService(Arc<Inner>);

/// Who calls; a connection without it did not come through a link.
fn caller<T>(request: &Request<T>, kind: Kind) -> Result<Arc<Lane>, Status> {
    let caller = request.extensions().get::<Caller>().filter(|caller| caller.kind == kind);
    caller.map(|caller| caller.lane.clone()).ok_or_else(|| Status::unauthenticated("not on this stream"))
}

#[tonic::async_trait]
impl Control for ControlService {
    type SessionStream = Sent<v1::Ctl>;

    async fn session(
        &self,
        request: Request<Streaming<v1::Ctl>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let lane = caller(&request, Kind::Control)?;
        if lane.dialled() {
            return Err(Status::failed_precondition("the side that dialled opens the control call"));
        }
        let (out, queued) = mpsc::channel(limits::CALL_QUEUE_MAX);
        let answered = answer(self.0.clone(), lane, request.into_inner(), out);
        self.0.tasks.spawn_transient("session", answered);
        Ok(Response::new(Box::pin(ReceiverStream::new(queued).map(Ok))))
    }
}

/// Answers the `Hello` of a lane the other side dialled, and runs its session.
async fn answer(
    peers: Arc<Inner>,
    lane: Arc<Lane>,
    mut inbound: Streaming<v1::Ctl>,
    out: mpsc::Sender<v1::Ctl>,
) {
    let heard = timeout(peers.ours.limits.handshake_timeout, hear_hello(&lane, &mut inbound)).await;
    let greeting = match heard.map(|heard| heard.and_then(|it| peers.fence(&lane, &it).map(|()| it))) {
        Ok(Ok(greeting)) => greeting,
        Ok(Err((close, reason))) => {
            tracing::warn!(peer = %lane.key().cluster, %reason, "a lane was refused");
            return refuse(&lane, close, &reason);
        }
        Err(_) => return lane.close(Close::Protocol),
    };
    let registry = peers.links.registry();
    if let Err((close, reason)) = settled(registry.hear(&lane, greeting.instance, greeting.lane)) {
        tracing::debug!(peer = %lane.key().cluster, %reason, "lane not used");
        if !lane.is_retired() {
            lane.close(close);
        }
        return;
    }
    registry.note_home(lane.key(), &greeting.endpoints);
    let hello = v1::Ctl { message: Some(Message::Hello(peers.greeting(&lane).to_proto())) };
    if out.try_send(hello).is_err() {
        return lane.close(Close::Protocol);
    }
    Session { peers, lane, out }.run(inbound).await;
}

struct CatalogService(Arc<Inner>);

#[tonic::async_trait]
impl Catalog for CatalogService {
    type WatchStream = Sent<v1::Exporter>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::Importer>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let lane = caller(&request, Kind::Catalog)?;
        if timeout(self.0.ours.limits.header_timeout, lane.wait_up()).await.is_err() {
            return Err(Status::failed_precondition("Hello comes first"));
        }
        let cluster = &lane.key().cluster;
        let peer = self.0.store.state().peers.get(cluster).cloned();
        let (Some(peer), Some(view)) = (peer, self.0.views.of(cluster)) else {
            return Err(Status::permission_denied("not a peer"));
        };
        let exporting = Exporting {
            peer: lane.key().clone(),
            view,
            generation: peer.generation,
            clock: self.0.clock.clone(),
        };
        let (out, queued) = mpsc::channel(limits::BATCHES_IN_FLIGHT_MAX);
        self.0.tasks.spawn_transient("export catalog", exporting.run(request.into_inner(), out));
        Ok(Response::new(Box::pin(ReceiverStream::new(queued))))
    }
}
