//! gRPC calls over one QUIC stream each: opening one, and serving those that arrive.
//!
//! Every call has an HTTP/2 connection of its own inside its own stream, so no window is shared between
//! concerns (P2). TLS is QUIC's; tonic sees a byte stream whose other end is already authenticated.

use std::{
    convert::Infallible,
    future::{Future, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tower_service::Service;

use crate::{
    link::{
        Caller, Lane,
        stream::{CallStream, Kind, StreamError},
    },
    model::limits,
};

/// Why a call could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The lane is gone.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// HTTP/2 could not be set up on the stream.
    #[error("the call could not be set up: {0}")]
    Setup(#[from] tonic::transport::Error),
}

type OneStream = Arc<Mutex<Option<CallStream<()>>>>;

/// Hands its one stream to tonic, once: a call never outlives its stream.
#[derive(Clone)]
struct OneConnection(OneStream);

impl Service<Uri> for OneConnection {
    type Response = TokioIo<CallStream<()>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the stream of this call has ended");
        Box::pin(ready(stream.map(TokioIo::new).ok_or_else(gone)))
    }
}

/// Opens a stream of `kind` on the lane and speaks gRPC on it, with HTTP/2 windows of so many bytes.
pub(super) async fn open(lane: &Arc<Lane>, kind: Kind, window: u32) -> Result<Channel, CallError> {
    let (mut writer, reader) = lane.open(kind).await?;
    writer.write_chunk(Bytes::copy_from_slice(&[kind.number()])).await.map_err(StreamError::from)?;
    let stream = Arc::new(Mutex::new(Some(CallStream::new(writer, reader, ()))));
    let channel = Endpoint::from_static("http://gateway.tombolo")
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.saturating_mul(2))
        .connect_with_connector(OneConnection(stream))
        .await?;
    Ok(channel)
}

/// Serves the calls that arrive on `calls` until the sender is gone.
pub(super) async fn serve<C, K>(
    calls: mpsc::Receiver<CallStream<Caller>>,
    control: C,
    catalog: K,
    window: u32,
) where
    C: federation_proto::v1::control_server::Control,
    K: federation_proto::v1::catalog_server::Catalog,
{
    use federation_proto::v1::{catalog_server::CatalogServer, control_server::ControlServer};
    // The stream of connections never yields an error: tonic would take it for the end of all.
    let incoming = ReceiverStream::new(calls).map(Ok::<_, Infallible>);
    let served = Server::builder()
        .initial_stream_window_size(window)
        .initial_connection_window_size(window.saturating_mul(2))
        .max_concurrent_streams(limits::CALLS_PER_STREAM_MAX)
        .add_service(ControlServer::new(control).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX))
        .add_service(CatalogServer::new(catalog).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX))
        .serve_with_incoming(incoming)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the server of control and catalog calls ended");
    }
}
