//! The network seam on turmoil: UDP under QUIC, steered to shards; TCP that can be reset; virtual IPs.
//!
//! A simulated host has one address and binds ports, not addresses, so each listener of a loopback address
//! gets a port of its own and [`HostNet`] keeps the table. Nothing here decides what fails and when.
#![expect(
    clippy::disallowed_methods,
    reason = "the pump stands for the kernel, not for a part of the daemon"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    task::AbortHandle,
};
use tombolo::net::{Accepted, BoxFuture, BufferReport, Net, QuicSocket, Stream, TcpListen, canonical, steer};
use turmoil::net::{TcpListener, TcpStream, UdpSocket};

/// Datagrams a socket holds before it drops more.
const QUEUE_DATAGRAMS: usize = 1024;
/// The largest datagram the simulated network carries.
const DATAGRAM_BYTES: usize = 2048;

/// What all hosts of one simulation share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Internet {
    /// Ends of connections that were reset, as (who reset, who shall see it). Turmoil can only say FIN.
    resets: Arc<Mutex<BTreeSet<(SocketAddr, SocketAddr)>>>,
}

/// The network of one run of one host.
#[derive(Debug)]
pub(crate) struct HostNet {
    internet: Internet,
    /// Which port stands for a loopback address, as long as its listener lives.
    loopback: Mutex<BTreeMap<SocketAddr, Weak<Port>>>,
    /// The sockets it dialled from.
    dialling: Mutex<Vec<Weak<Group>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The result of a future of turmoil's that is only by its looks one: binding.
fn at_once<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl HostNet {
    /// For a host that starts now; call it once a start.
    pub(crate) fn new(internet: &Internet) -> Arc<Self> {
        Arc::new(Self { internet: internet.clone(), loopback: Mutex::default(), dialling: Mutex::default() })
    }

    /// Whatever translates this host's addresses forgets the ports it has dialled from: nothing gets through
    /// by them any more, either way.
    pub(crate) fn forget_ports(&self) {
        for group in lock(&self.dialling).iter().filter_map(Weak::upgrade) {
            group.forgotten.store(true, Ordering::Relaxed);
        }
    }

    fn bind_udp(&self, addr: SocketAddr) -> io::Result<Arc<UdpSocket>> {
        if addr.is_ipv6() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the simulation speaks IPv4"));
        }
        Ok(Arc::new(at_once(UdpSocket::bind(addr))?))
    }

    /// Where to dial for `addr`: a loopback address's listener has a port of its own.
    fn actual(&self, addr: SocketAddr) -> io::Result<SocketAddr> {
        if !addr.ip().is_loopback() {
            return Ok(addr);
        }
        let port = lock(&self.loopback).get(&addr).and_then(Weak::upgrade);
        let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, addr.to_string()))?;
        Ok(port.actual)
    }
}

impl Net for HostNet {
    fn quic_group(&self, addr: SocketAddr, shards: usize) -> io::Result<Vec<Box<dyn QuicSocket>>> {
        let socket = self.bind_udp(addr)?;
        let (senders, receivers): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| mpsc::channel(QUEUE_DATAGRAMS)).unzip();
        let pump = tokio::spawn(pump(socket.clone(), senders)).abort_handle();
        let group = Arc::new(Group { socket, pump, forgotten: AtomicBool::new(false) });
        if addr.port() == 0 {
            lock(&self.dialling).push(Arc::downgrade(&group));
        }
        let member = |receiver| Member { group: group.clone(), queue: Mutex::new(receiver) };
        Ok(receivers.into_iter().map(|queue| Box::new(member(queue)) as Box<dyn QuicSocket>).collect())
    }

    fn quic_dial(&self, local: IpAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let mut group = self.quic_group(SocketAddr::new(local, 0), 1)?;
        group.pop().ok_or(io::ErrorKind::AddrNotAvailable)?.wrap()
    }

    fn tcp_listen(&self, addr: SocketAddr, listeners: usize) -> io::Result<Vec<Box<dyn TcpListen>>> {
        let listener = if addr.ip().is_loopback() {
            let mut table = lock(&self.loopback);
            if table.get(&addr).is_some_and(|port| port.strong_count() > 0) {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, addr.to_string()));
            }
            let listener = at_once(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
            let port = Arc::new(Port { actual: listener.local_addr()?, shown: addr, listener });
            table.insert(addr, Arc::downgrade(&port));
            port
        } else {
            let listener = at_once(TcpListener::bind(addr))?;
            let bound = listener.local_addr()?;
            Arc::new(Port { actual: bound, shown: bound, listener })
        };
        let one = || Listener { port: listener.clone(), internet: self.internet.clone() };
        Ok((0..listeners).map(|_| Box::new(one()) as Box<dyn TcpListen>).collect())
    }

    fn tcp_connect(
        &self,
        addr: SocketAddr,
        timeout: Duration,
    ) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
        let (actual, internet) = (self.actual(addr), self.internet.clone());
        Box::pin(async move {
            let connecting = tokio::time::timeout(timeout, TcpStream::connect(actual?));
            let inner = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            let (shown, far) = (inner.local_addr()?, inner.peer_addr()?);
            // Ports come again: what was reset was an earlier connection with the same ends.
            lock(&internet.resets).retain(|ends| *ends != (shown, far) && *ends != (far, shown));
            Ok(Box::new(Connection::new(inner, shown, internet)) as Box<dyn Stream>)
        })
    }

    fn resolve(&self, host: &str, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        let unknown = || io::Error::new(io::ErrorKind::NotFound, "only addresses are known here");
        let found = host.parse::<IpAddr>().map(|ip| vec![SocketAddr::new(ip, port)]).map_err(|_| unknown());
        Box::pin(std::future::ready(found))
    }
}

/// One bound UDP port and the task that deals its datagrams to the members.
#[derive(Debug)]
struct Group {
    socket: Arc<UdpSocket>,
    pump: AbortHandle,
    forgotten: AtomicBool,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

type Datagram = (Vec<u8>, SocketAddr);

/// Stands for the kernel's steering program.
async fn pump(socket: Arc<UdpSocket>, members: Vec<mpsc::Sender<Datagram>>) {
    let mut buffer = [0; DATAGRAM_BYTES];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let datagram = &buffer[..length];
        // A member that does not read loses datagrams, as a full socket buffer does.
        let _ = members[steer(datagram, members.len())].try_send((datagram.to_vec(), from));
    }
}

/// One shard's share of a group.
#[derive(Debug)]
struct Member {
    group: Arc<Group>,
    queue: Mutex<mpsc::Receiver<Datagram>>,
}

impl QuicSocket for Member {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.group.socket.local_addr()
    }

    fn buffers(&self) -> BufferReport {
        BufferReport { wanted: 0, receive: 0, send: 0 }
    }

    fn wrap(self: Box<Self>) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(*self))
    }
}

impl AsyncUdpSocket for Member {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.group.forgotten.load(Ordering::Relaxed) {
            return Ok(());
        }
        let sent = self.group.socket.try_send_to(transmit.contents, transmit.destination);
        match sent {
            Ok(_) => Ok(()),
            // Nobody is there, which a datagram does not learn.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut queue = lock(&self.queue);
        if self.group.forgotten.load(Ordering::Relaxed) {
            while let Poll::Ready(Some(_)) = queue.poll_recv(cx) {}
            return Poll::Pending;
        }
        let mut taken = 0;
        for (buffer, meta) in buffers.iter_mut().zip(meta) {
            match queue.poll_recv(cx) {
                Poll::Ready(Some((datagram, addr))) => {
                    let len = datagram.len().min(buffer.len());
                    buffer[..len].copy_from_slice(&datagram[..len]);
                    *meta = RecvMeta { addr, len, stride: len, ecn: None, dst_ip: None };
                    taken += 1;
                }
                Poll::Ready(None) if taken == 0 => {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                }
                Poll::Pending if taken == 0 => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(taken))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.group.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

/// The simulated network takes everything at once.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One listening port, shared by the listeners of a group.
struct Port {
    listener: TcpListener,
    /// Where it is bound.
    actual: SocketAddr,
    /// Where the daemon believes it to be bound.
    shown: SocketAddr,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Port({})", self.shown)
    }
}

#[derive(Debug)]
struct Listener {
    port: Arc<Port>,
    internet: Internet,
}

impl TcpListen for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Accepted>> {
        Box::pin(async move {
            let (inner, from) = self.port.listener.accept().await?;
            let shown = self.port.shown;
            let stream: Box<dyn Stream> = Box::new(Connection::new(inner, shown, self.internet.clone()));
            Ok((stream, canonical(from)))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.port.shown)
    }
}

/// One end of a TCP connection.
#[derive(Debug)]
struct Connection {
    /// Behind a lock because [`Stream::try_read_now`] reads through a shared reference.
    inner: Mutex<TcpStream>,
    ends: Option<(SocketAddr, SocketAddr)>,
    shown: SocketAddr,
    internet: Internet,
    reset_on_close: Mutex<bool>,
}

impl Connection {
    fn new(inner: TcpStream, shown: SocketAddr, internet: Internet) -> Self {
        let ends = inner.local_addr().ok().zip(inner.peer_addr().ok());
        Self { inner: Mutex::new(inner), ends, shown, internet, reset_on_close: Mutex::new(false) }
    }

    fn inner(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.inner.get_mut().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the end that was read is in truth a reset.
    fn was_reset(&self) -> bool {
        self.ends.is_some_and(|(local, far)| lock(&self.internet.resets).contains(&(far, local)))
    }

    fn read(
        &self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        let at_end = matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before;
        if at_end && buf.remaining() > 0 && self.was_reset() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        read
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if *lock(&self.reset_on_close) {
            lock(&self.internet.resets).extend(self.ends);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.read(&mut lock(&self.inner), cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.inner().poll_shutdown(cx) {
            // Done before, which an operating system does not mind.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => done,
        }
    }
}

impl Stream for Connection {
    fn reset_on_close(&self) -> io::Result<()> {
        *lock(&self.reset_on_close) = true;
        Ok(())
    }

    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(self)
    }

    fn try_read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buffer);
        // The next poll of its task registers anew whom to wake.
        let mut cx = Context::from_waker(Waker::noop());
        match self.read(&mut lock(&self.inner), &mut cx, &mut buf) {
            Poll::Ready(result) => result.map(|()| buf.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.shown)
    }
}
