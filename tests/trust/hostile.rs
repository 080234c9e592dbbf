//! A peer that joined long ago and means ill: it passes the handshake, says `Hello`, and then says what it likes.

use std::{
    future::{Future, ready},
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use federation_proto::v1::{self, control_client::ControlClient, ctl::Message};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Uri};
use tower_service::Service;

use crate::{authority::Authority, stranger::dial};

const PATIENCE: Duration = Duration::from_secs(10);

type Pipe = tokio::io::Join<RecvStream, SendStream>;

#[derive(Clone)]
struct Once(Arc<Mutex<Option<Pipe>>>);

impl Service<Uri> for Once {
    type Response = TokioIo<Pipe>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let pipe = self.0.lock().expect("not poisoned").take();
        Box::pin(ready(pipe.map(TokioIo::new).ok_or_else(|| io::Error::other("used"))))
    }
}

/// A session of a hostile peer with a gateway.
pub(crate) struct Hostile {
    pub(crate) connection: Connection,
    say: mpsc::Sender<v1::Ctl>,
    heard: Streaming<v1::Ctl>,
    _endpoint: Endpoint,
}

impl Hostile {
    /// Dials and says `Hello`, as a peering of this generation. Fails when the gateway does not answer it.
    pub(crate) async fn join(to: &str, who: &Authority, generation: u64) -> Option<Self> {
        let (endpoint, connection) = dial(to, who.leaf(|_| {})).await.ok()?;
        let (mut send, receive) = connection.open_bi().await.ok()?;
        send.write_all(&[1]).await.ok()?;
        let pipe = Once(Arc::new(Mutex::new(Some(tokio::io::join(receive, send)))));
        let channel = tonic::transport::Endpoint::from_static("http://gateway.tombolo")
            .connect_with_connector(pipe)
            .await
            .ok()?;
        let (say, said) = mpsc::channel(16);
        let hello = v1::Hello {
            proto_min: 1,
            proto_max: 1,
            cluster: who.cluster.to_string(),
            gateway: "g1".to_owned(),
            instance: vec![7; 16],
            shards: 1,
            lanes_wanted: 1,
            opens_per_second: 0,
            generation,
            locality: Some(v1::Locality::default()),
            ..v1::Hello::default()
        };
        say.send(v1::Ctl { message: Some(Message::Hello(hello)) }).await.ok()?;
        let mut client = ControlClient::new(channel);
        let reply = timeout(PATIENCE, client.session(ReceiverStream::new(said))).await.ok()?;
        let mut hostile = Self { connection, say, heard: reply.ok()?.into_inner(), _endpoint: endpoint };
        match hostile.hear().await? {
            Message::Hello(_) => Some(hostile),
            _ => None,
        }
    }

    pub(crate) async fn say(&self, message: Message) {
        self.say.send(v1::Ctl { message: Some(message) }).await.expect("the session lives");
    }

    async fn hear(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.heard.message()).await.ok()?.ok()??.message
    }

    /// Offers a bundle; what the gateway answers: nothing when it took it, else why not.
    pub(crate) async fn offer(&mut self, sequence: u64, roots: Vec<Vec<u8>>) -> String {
        self.say(Message::Bundle(v1::Bundle { sequence, roots, ..v1::Bundle::default() })).await;
        loop {
            match self.hear().await.expect("an answer") {
                Message::BundleAck(ack) if ack.sequence == sequence => return ack.refused,
                _ => {}
            }
        }
    }

    /// Opens a proxied stream; what the gateway answers, and how long it took.
    pub(crate) async fn open(&self, export_id: Vec<u8>, caller: &str) -> (Option<v1::OpenReply>, Duration) {
        let begun = std::time::Instant::now();
        let header = v1::StreamHeader {
            export_id,
            port: 80,
            caller: caller.to_owned(),
            deadline_ms: 5_000,
            ..v1::StreamHeader::default()
        };
        let reply = timeout(PATIENCE, self.exchange(&header)).await.ok().flatten();
        (reply, begun.elapsed())
    }

    async fn exchange(&self, header: &v1::StreamHeader) -> Option<v1::OpenReply> {
        let (mut send, mut receive) = self.connection.open_bi().await.ok()?;
        let mut bytes = vec![3];
        header.encode_length_delimited(&mut bytes).ok()?;
        send.write_all(&bytes).await.ok()?;
        let answer = receive.read_to_end(4_096).await.ok()?;
        v1::OpenReply::decode_length_delimited(answer.as_slice()).ok()
    }

    /// Waits until the gateway ends the connection; how long it took, if it did.
    pub(crate) async fn cut_within(&self, patience: Duration) -> Option<Duration> {
        let begun = std::time::Instant::now();
        timeout(patience, self.connection.closed()).await.ok()?;
        Some(begun.elapsed())
    }
}
