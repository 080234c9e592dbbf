//! Groups of sockets on one address: opened without stealing from anybody, and steered by QUIC packet.
//!
//! A group is exclusive at birth: its first socket is bound *without* `SO_REUSEPORT`, so that a second
//! daemon of the same user gets `AddrInUse` instead of half of our packets, and becomes the founder of the
//! group after. Which shard a connection id names is not decided here.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::model::limits::{TCP_BACKLOG, UDP_BUFFER_BYTES};

/// Where a short header packet carries the first byte of our connection id (RFC 9000 section 17.3).
const SHORT_HEADER_CID_AT: u8 = 1;
/// Where a long header packet carries it: after flags, version and length (RFC 9000 section 17.2).
const LONG_HEADER_CID_AT: u8 = 6;
/// The bit of the first byte that says long header (RFC 9000 section 17.2).
const LONG_HEADER: u8 = 0x80;

/// The shard of `shards` that a QUIC packet is for, by the first byte of its destination connection id;
/// 0 for a packet too short to tell. The kernel is given the same rule as a program.
#[must_use]
pub fn steer(packet: &[u8], shards: usize) -> usize {
    let long = packet.first().is_some_and(|first| first & LONG_HEADER != 0);
    let at = if long { LONG_HEADER_CID_AT } else { SHORT_HEADER_CID_AT };
    packet.get(usize::from(at)).map_or(0, |byte| usize::from(*byte) % shards.max(1))
}

/// What the kernel gave a UDP socket for buffers, each way, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferReport {
    /// Asked for, each way.
    pub wanted: usize,
    /// Got for receiving.
    pub receive: usize,
    /// Got for sending.
    pub send: usize,
}

impl BufferReport {
    /// Whether the kernel gave less than wanted.
    #[must_use]
    pub fn clamped(&self) -> bool {
        self.receive < self.wanted || self.send < self.wanted
    }
}

impl fmt::Display for BufferReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wanted, receive, send } = self;
        write!(f, "UDP buffers: {receive} bytes to receive and {send} to send of {wanted} wanted")?;
        if self.clamped() { f.write_str("; raise net.core.rmem_max and net.core.wmem_max") } else { Ok(()) }
    }
}

/// Opens `count` steered UDP sockets on `addr`; they do not block.
pub(super) fn open_udp(addr: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets = open(addr, count, Type::DGRAM, Protocol::UDP)?;
    if let [first, _, ..] = sockets.as_slice() {
        attach_steering(first, sockets.len())?;
    }
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Opens `count` UDP sockets on `addr`, over which the kernel spreads senders; they do not block.
pub(super) fn open_udp_spread(addr: SocketAddr, count: usize) -> io::Result<Vec<UdpSocket>> {
    let sockets = open(addr, count, Type::DGRAM, Protocol::UDP)?;
    Ok(sockets.into_iter().map(UdpSocket::from).collect())
}

/// Opens `count` listening TCP sockets on `addr`; they do not block.
pub(super) fn open_tcp(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let sockets = open(addr, count, Type::STREAM, Protocol::TCP)?;
    Ok(sockets.into_iter().map(TcpListener::from).collect())
}

fn open(addr: SocketAddr, count: usize, kind: Type, protocol: Protocol) -> io::Result<Vec<Socket>> {
    let first = create(addr, kind, protocol)?;
    first.bind(&addr.into())?;
    if kind == Type::STREAM {
        // Only listening shows a conflict between two sockets that both have SO_REUSEADDR.
        first.listen(TCP_BACKLOG)?;
    }
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    if count > 1 {
        sockets[0].set_reuse_port(true)?;
    }
    for _ in 1..count {
        sockets.push(join(&bound, addr, kind, protocol)?);
    }
    Ok(sockets)
}

/// One more socket on the address of a group that has its founder.
fn join(bound: &SockAddr, addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = create(addr, kind, protocol)?;
    socket.set_reuse_port(true)?;
    socket.bind(bound)?;
    if kind == Type::STREAM {
        socket.listen(TCP_BACKLOG)?;
    }
    Ok(socket)
}

fn create(addr: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // [::] takes IPv4 too; any other IPv6 address is only itself.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    if kind == Type::STREAM {
        // A restarted daemon gets its port back while old connections linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        // Here rather than on each connection: on Linux they inherit it.
        socket.set_tcp_nodelay(true)?;
    } else {
        enlarge_buffers(&socket);
    }
    Ok(socket)
}

/// Asks for large buffers: beyond the system's bounds where we have the right, else up to them. What came
/// of it is read by [`buffers`]; too little costs throughput, not function.
fn enlarge_buffers(socket: &Socket) {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{setsockopt, sockopt};
        let _ = setsockopt(socket, sockopt::RcvBufForce, &UDP_BUFFER_BYTES);
        let _ = setsockopt(socket, sockopt::SndBufForce, &UDP_BUFFER_BYTES);
    }
    if usable(socket.recv_buffer_size()) < UDP_BUFFER_BYTES {
        let _ = socket.set_recv_buffer_size(UDP_BUFFER_BYTES);
    }
    if usable(socket.send_buffer_size()) < UDP_BUFFER_BYTES {
        let _ = socket.set_send_buffer_size(UDP_BUFFER_BYTES);
    }
}

/// Linux counts its own bookkeeping in and reports twice what was asked for (socket(7)).
fn usable(reported: io::Result<usize>) -> usize {
    let factor = if cfg!(target_os = "linux") { 2 } else { 1 };
    reported.unwrap_or(0) / factor
}

/// What the kernel gave `socket`.
pub(super) fn buffers(socket: &UdpSocket) -> BufferReport {
    let socket = socket2::SockRef::from(socket);
    BufferReport {
        wanted: UDP_BUFFER_BYTES,
        receive: usable(socket.recv_buffer_size()),
        send: usable(socket.send_buffer_size()),
    }
}

/// Gives the group of `member` the rule of [`steer`]. A load beyond the packet's end yields 0, as there.
///
/// The program counts from the start of the UDP payload; sockets are numbered in the order they joined.
#[cfg(target_os = "linux")]
fn attach_steering(member: &Socket, count: usize) -> io::Result<()> {
    use nix::{
        libc::{self, sock_filter, sock_fprog},
        sys::socket::{setsockopt, sockopt},
    };
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let step = |code: u32, jt, jf, k: u32| -> io::Result<sock_filter> {
        Ok(sock_filter { code: u16::try_from(code).map_err(io::Error::other)?, jt, jf, k })
    };
    let shards = u32::try_from(count).map_err(io::Error::other)?;
    let mut program = [
        step(LOAD_BYTE, 0, 0, 0)?,
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, u32::from(LONG_HEADER))?,
        step(LOAD_BYTE, 0, 0, u32::from(LONG_HEADER_CID_AT))?,
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1)?,
        step(LOAD_BYTE, 0, 0, u32::from(SHORT_HEADER_CID_AT))?,
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, shards)?,
        // Return the accumulator (BPF_A, which libc does not name).
        step(libc::BPF_RET | 0x10, 0, 0, 0)?,
    ];
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(setsockopt(member, sockopt::AttachReusePortCbpf, &program)?)
}

/// Elsewhere the kernel cannot be told, so there is one shard only.
#[cfg(not(target_os = "linux"))]
fn attach_steering(_: &Socket, _: usize) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "more than one shard needs Linux"))
}
