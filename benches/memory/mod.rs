//! A network whose UDP is the system's and whose TCP is memory: no bound on open files, and nothing of the kernel
//! between a client and its gateway, or a gateway and its endpoint. Nobody resets here; a drop is an end.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::AsyncUdpSocket;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex},
    sync::mpsc,
};
use tombolo::net::{Accepted, BoxFuture, Net, Os, QuicSocket, Refusals, Stream, TcpListen};

/// Bytes under way in a pipe, each way.
const PIPE: usize = 2_048;
/// Connections that nobody has accepted yet.
const BACKLOG: usize = 1_024;
/// Bytes of a request, and of its answer.
pub(crate) const REQUEST: usize = 64;
pub(crate) const ANSWER: usize = 1_024;

/// The network of one process.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    system: Os,
    listening: Mutex<BTreeMap<SocketAddr, mpsc::Sender<Accepted>>>,
}

impl Memory {
    /// Connects to who listens at that address in this process.
    pub(crate) async fn visit(&self, address: SocketAddr) -> io::Result<DuplexStream> {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned();
        let listening = listening.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (near, far) = duplex(PIPE);
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let offered = listening.send((Box::new(Pipe::new(far, address)), from)).await;
        offered.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(near)
    }
}

impl Net for Memory {
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>> {
        self.system.quic_group(addr, shards)
    }

    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.system.quic_dial(local)
    }

    fn refusals(&self) -> Refusals {
        self.system.refusals()
    }

    /// The first of the listeners accepts them all.
    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.get(&addr).is_some_and(|sender| !sender.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, receiver) = mpsc::channel(BACKLOG);
        listening.insert(addr, sender);
        let first = Listener { at: addr, queue: Some(receiver) };
        let rest = (1..listeners).map(|_| Listener { at: addr, queue: None });
        Ok(std::iter::once(first).chain(rest).map(|one| Box::new(one) as Box<dyn TcpListen>).collect())
    }

    /// Whatever the address, there is an endpoint that answers.
    fn tcp_connect(
        &self,
        addr: SocketAddr,
        _timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let (near, far) = duplex(PIPE);
            drop(tokio::task::spawn(answer(far)));
            Ok(Box::new(Pipe::new(near, addr)) as Box<dyn Stream>)
        })
    }

    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        self.system.resolve(host, port)
    }
}

/// An endpoint's side of a connection: an answer for each request, for as long as there are any.
async fn answer(mut stream: DuplexStream) -> io::Result<()> {
    loop {
        let mut request = [0; 1];
        for _ in 0..REQUEST {
            stream.read_exact(&mut request).await?;
        }
        stream.write_all(&[0; ANSWER]).await?;
    }
}

/// A request and its answer, from the client's side.
pub(crate) async fn ask(stream: &mut DuplexStream) -> io::Result<()> {
    stream.write_all(&[0; REQUEST]).await?;
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).await.map(drop)
}

#[derive(Debug)]
struct Listener {
    at: SocketAddr,
    queue: Option<mpsc::Receiver<Accepted>>,
}

impl TcpListen for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            match &mut self.queue {
                Some(queue) => queue.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into()),
                None => std::future::pending().await,
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }
}

/// A gateway's side of a connection.
#[derive(Debug)]
struct Pipe {
    /// Behind a lock because [`Stream::try_read_now`] reads through a shared reference.
    inner: Mutex<DuplexStream>,
    shown: SocketAddr,
}

impl Pipe {
    fn new(inner: DuplexStream, shown: SocketAddr) -> Self {
        Self { inner: Mutex::new(inner), shown }
    }

    fn inner(&mut self) -> Pin<&mut DuplexStream> {
        Pin::new(self.inner.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

impl Stream for Pipe {
    fn reset_on_close(&self) -> io::Result<()> {
        Ok(())
    }

    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(self)
    }

    fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut room = ReadBuf::new(buffer);
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        // The next poll of its task registers anew whom to wake.
        match Pin::new(&mut *inner).poll_read(&mut Context::from_waker(Waker::noop()), &mut room) {
            Poll::Ready(read) => read.map(|()| room.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.shown)
    }
}
