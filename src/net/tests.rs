//! The network's promises, held against this machine's kernel on loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const WAIT: Duration = Duration::from_secs(5);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn bound(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("bound")
}

/// Sends `packets`, each from a socket of its own, and checks who received each.
fn check_steering(group: &[UdpSocket], to: SocketAddr, packets: &[Vec<u8>]) {
    let from: SocketAddr = if to.is_ipv4() { loopback() } else { (Ipv6Addr::LOCALHOST, 0).into() };
    let mut expected = vec![Vec::new(); group.len()];
    for packet in packets {
        let sender = UdpSocket::bind(from).expect("sender");
        sender.send_to(packet, to).expect("sent");
        expected[steer(packet, group.len())].push(packet.clone());
    }
    for (index, (socket, expected)) in group.iter().zip(&mut expected).enumerate() {
        socket.set_nonblocking(false).expect("blocking");
        socket.set_read_timeout(Some(WAIT)).expect("timeout");
        let mut buffer = [0; 64];
        let mut got = Vec::new();
        while got.len() < expected.len() {
            let (len, _) = socket.recv_from(&mut buffer).expect("a packet that steer() sends here");
            got.push(buffer[..len].to_vec());
        }
        got.sort();
        expected.sort();
        assert_eq!(&got, expected, "socket {index} of {}", group.len());
        socket.set_nonblocking(true).expect("not blocking");
        let more = socket.recv_from(&mut buffer);
        assert!(more.is_err(), "socket {index} got {more:?}, which is another's");
    }
}

/// Packets of every length around the bytes that matter, both header forms, every value of those bytes.
fn packets() -> Vec<Vec<u8>> {
    let lengths = (0..12_usize).flat_map(|len| [vec![0x40; len], vec![0xff; len], vec![0x80; len]]);
    let values = (0..=255_u8).flat_map(|value| {
        let mut short = vec![0x7f, value, 3, 5, 7, 11, 13, 17, 19];
        let long = vec![0xc3, 0, 0, 0, 1, 8, value, 1, 2, 3, 4, 5, 6, 7];
        short.push(value.wrapping_mul(31));
        [short, long]
    });
    lengths.chain(values).collect()
}

#[test]
fn the_kernel_steers_as_steer_says() {
    for count in [1, 2, 3, 7, 16] {
        let group = group::open_udp(loopback(), count).expect("group");
        let to = bound(&group[0]);
        assert!(group.iter().all(|socket| bound(socket) == to));
        for some in packets().chunks(64) {
            check_steering(&group, to, some);
        }
    }
}

#[test]
fn a_dual_stack_group_is_steered_for_both_families() {
    let group = group::open_udp((Ipv6Addr::UNSPECIFIED, 0).into(), 3).expect("this machine has IPv6");
    let port = bound(&group[0]).port();
    for some in packets().chunks(64) {
        check_steering(&group, (Ipv4Addr::LOCALHOST, port).into(), some);
        check_steering(&group, (Ipv6Addr::LOCALHOST, port).into(), some);
    }
}

proptest! {
    #[test]
    fn steering_stays_within_the_shards(packet in proptest::collection::vec(any::<u8>(), 0..40), shards in 0..40_usize) {
        prop_assert!(steer(&packet, shards) < shards.max(1));
    }
}

#[test]
fn an_address_in_use_is_found_whatever_holds_it() {
    for (ours, theirs) in [(1, 1), (1, 4), (4, 1), (4, 4)] {
        let held = group::open_udp(loopback(), theirs).expect("group");
        let taken = group::open_udp(bound(&held[0]), ours).map(|_| ()).expect_err("in use");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "UDP, {ours} beside {theirs}");
        let held = group::open_tcp(loopback(), theirs).expect("group");
        let addr = held[0].local_addr().expect("bound");
        let taken = group::open_tcp(addr, ours).map(|_| ()).expect_err("in use");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "TCP, {ours} beside {theirs}");
    }
}

#[test]
fn an_address_is_free_again_once_its_group_is_closed() {
    let held = group::open_udp(loopback(), 3).expect("group");
    let addr = bound(&held[0]);
    drop(held);
    assert_eq!(bound(&group::open_udp(addr, 2).expect("free")[1]), addr);
}

#[test]
fn buffers_are_reported_as_the_kernel_gave_them() {
    let socket = &Os::default().quic_group(loopback(), 1).expect("socket")[0];
    let report = socket.buffers();
    assert!(report.receive > 0 && report.send > 0, "{report}");
    let poor = BufferReport { wanted: 10, receive: 5, send: 10 };
    assert!(poor.clamped() && poor.to_string().contains("rmem_max"));
    assert!(!BufferReport { wanted: 10, receive: 10, send: 12 }.clamped());
}

#[tokio::test]
async fn a_quic_socket_sends_and_receives_on_the_runtime_it_is_wrapped_on() {
    let mut group = Os::default().quic_group(loopback(), 2).expect("group");
    let to = group[0].local_addr().expect("bound");
    let socket = group.remove(0).wrap().expect("wrapped");
    let dial = Os::default().quic_dial(Ipv4Addr::LOCALHOST.into()).expect("dial");
    let contents = b"\x40\x00";
    let transmit =
        quinn::udp::Transmit { destination: to, ecn: None, contents, segment_size: None, src_ip: None };
    let mut poller = Arc::clone(&dial).create_io_poller();
    std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.expect("writable");
    dial.try_send(&transmit).expect("sent");
    let mut bytes = [0; 2048];
    let mut meta = [quinn::udp::RecvMeta::default()];
    let receive =
        std::future::poll_fn(|cx| socket.poll_recv(cx, &mut [io::IoSliceMut::new(&mut bytes)], &mut meta));
    assert_eq!(receive.await.expect("received"), 1);
    assert_eq!(meta[0].addr, dial.local_addr().expect("bound"));
    assert_eq!(bytes[..2], *contents);
}

/// A connected pair: the accepted stream, and the client's end as a plain blocking socket.
async fn pair() -> (Box<dyn Stream>, std::net::TcpStream) {
    let mut listener = Os::default().tcp_listen(loopback(), 1).expect("listening").remove(0);
    let addr = listener.local_addr().expect("bound");
    let client = std::net::TcpStream::connect(addr).expect("connected");
    client.set_read_timeout(Some(WAIT)).expect("timeout");
    let (stream, peer) = listener.accept().await.expect("accepted");
    assert_eq!(peer, client.local_addr().expect("bound"));
    assert_eq!(stream.local_addr().expect("bound"), addr);
    (stream, client)
}

#[tokio::test]
async fn every_listener_of_a_group_can_be_reached() {
    let mut listeners = Os::default().tcp_listen(loopback(), 3).expect("listening");
    let addr = listeners[0].local_addr().expect("bound");
    let mut reached = [false; 3];
    while reached.contains(&false) {
        let _client = Os::default().tcp_connect(addr, WAIT).await.expect("connected");
        let [a, b, c] = listeners.as_mut_slice() else { panic!("three") };
        let index = tokio::select! {
            biased;
            taken = a.accept() => taken.map(|_| 0),
            taken = b.accept() => taken.map(|_| 1),
            taken = c.accept() => taken.map(|_| 2),
        };
        reached[index.expect("accepted")] = true;
    }
}

#[tokio::test]
async fn a_dual_stack_listener_names_ipv4_peers_plainly() {
    let listeners = Os::default().tcp_listen((Ipv6Addr::UNSPECIFIED, 0).into(), 1);
    let mut listener = listeners.expect("this machine has IPv6").remove(0);
    let port = listener.local_addr().expect("bound").port();
    let _client =
        Os::default().tcp_connect((Ipv4Addr::LOCALHOST, port).into(), WAIT).await.expect("connected");
    let (_, peer) = listener.accept().await.expect("accepted");
    assert_eq!(peer.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
}

#[tokio::test]
async fn bytes_that_came_with_the_connection_can_be_read_at_once() {
    let mut listener = Os::default().tcp_listen(loopback(), 1).expect("listening").remove(0);
    let addr = listener.local_addr().expect("bound");
    let mut client = std::net::TcpStream::connect(addr).expect("connected");
    client.write_all(b"hello").expect("sent");
    let (mut stream, _) = listener.accept().await.expect("accepted");
    let mut buffer = [0; 3];
    assert_eq!(stream.try_read_now(&mut buffer).expect("there"), 3);
    assert_eq!(&buffer, b"hel");
    let mut rest = [0; 2];
    stream.read_exact(&mut rest).await.expect("the rest");
    assert_eq!(&rest, b"lo");
    let nothing = stream.try_read_now(&mut buffer).expect_err("nothing there");
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_half_closed_connection_still_carries_the_other_direction() {
    let (mut stream, mut client) = pair().await;
    stream.shutdown().await.expect("FIN");
    assert_eq!(client.read(&mut [0; 1]).expect("end"), 0);
    client.write_all(b"x").expect("sent");
    assert_eq!(stream.read_u8().await.expect("read"), b'x');
}

#[tokio::test]
async fn reset_on_close_resets() {
    let (stream, mut client) = pair().await;
    stream.reset_on_close().expect("set");
    drop(stream);
    let error = client.read(&mut [0; 1]).expect_err("reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stream_moves_to_another_runtime_with_its_bytes() {
    let (stream, mut client) = pair().await;
    client.write_all(b"ping").expect("sent");
    let elsewhere = std::thread::scope(|scope| {
        let moved = scope.spawn(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let mut stream = stream.rehome().expect("moved");
                let mut got = [0; 4];
                stream.read_exact(&mut got).await.expect("read");
                stream.write_all(b"pong").await.expect("written");
                got
            })
        });
        moved.join().expect("no panic")
    });
    assert_eq!(&elsewhere, b"ping");
    let mut got = [0; 4];
    client.read_exact(&mut got).expect("answered");
    assert_eq!(&got, b"pong");
}

#[tokio::test]
async fn nobody_listening_is_refused() {
    let listener = Os::default().tcp_listen(loopback(), 1).expect("listening").remove(0);
    let addr = listener.local_addr().expect("bound");
    drop(listener);
    let refused = Os::default().tcp_connect(addr, WAIT).await.expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn silence_times_out() {
    // The kernel drops what knocks on a listener whose queue is full: here, behind the first client.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
    listener.bind(&loopback().into()).expect("bound");
    listener.listen(0).expect("listening");
    let addr = listener.local_addr().expect("bound").as_socket().expect("IPv4");
    let _first = std::net::TcpStream::connect(addr).expect("connected");
    let silence = Os::default().tcp_connect(addr, WAIT).await.expect_err("nobody accepts");
    assert_eq!(silence.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn literal_addresses_resolve_to_themselves() {
    for (host, ip) in
        [("127.0.0.1", IpAddr::from(Ipv4Addr::LOCALHOST)), ("[::1]", Ipv6Addr::LOCALHOST.into())]
    {
        assert_eq!(Os::default().resolve(host, 7).await.expect("literal"), [SocketAddr::new(ip, 7)]);
    }
}

#[tokio::test]
async fn dns_gets_its_sockets_and_a_taken_port_is_said() {
    let udp = dns_udp(loopback()).expect("UDP");
    let addr = udp.local_addr().expect("bound");
    assert_eq!(dns_udp(addr).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    let tcp = dns_tcp(loopback()).expect("TCP");
    let addr = tcp.local_addr().expect("bound");
    assert_eq!(dns_tcp(addr).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn the_bound_on_open_files_is_raised_to_what_is_allowed() {
    let (_, raised) = raise_open_files().expect("allowed");
    assert_eq!(raise_open_files().expect("allowed"), (raised, raised));
}

#[tokio::test]
async fn a_unix_socket_is_private_and_answers() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("admin.sock");
    let listener = unix_listen(&path).expect("listening");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut client = unix_connect(&path).await.expect("connected");
    let (mut served, _) = listener.accept().await.expect("accepted");
    client.write_u8(7).await.expect("written");
    assert_eq!(served.read_u8().await.expect("read"), 7);
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("admin.sock");
    drop(unix_listen(&path).expect("listening"));
    assert!(path.exists(), "a killed daemon leaves its socket behind");
    let live = unix_listen(&path).expect("replaced");
    assert_eq!(unix_listen(&path).expect_err("live").kind(), io::ErrorKind::AddrInUse);
    drop(live);
    let file = folder.path().join("file");
    tempfile::NamedTempFile::new_in(&folder).expect("file").persist(&file).expect("named");
    assert_eq!(unix_listen(&file).expect_err("a file").kind(), io::ErrorKind::AddrInUse);
    assert!(file.exists(), "what is no socket of ours stays");
}

#[tokio::test]
async fn a_unix_path_that_is_too_long_is_said_clearly() {
    let path = std::path::PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    for error in [unix_listen(&path).expect_err("long"), unix_connect(&path).await.expect_err("long")] {
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("125 bytes"), "{error}");
    }
}

/// Sends a datagram, and once more until it goes out for itself.
async fn send(socket: &Arc<dyn AsyncUdpSocket>, to: SocketAddr) {
    let transmit = quinn::udp::Transmit {
        destination: to,
        ecn: None,
        contents: b"\x40\x00",
        segment_size: None,
        src_ip: None,
    };
    let mut poller = Arc::clone(socket).create_io_poller();
    std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await.expect("writable");
    socket.try_send(&transmit).expect("sent");
}

#[tokio::test]
async fn who_sends_to_a_port_of_nobody_is_told_and_others_are_not() {
    for local in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let os = Os::default();
        let dial = os.quic_dial(local).expect("dial");
        let held = os.quic_group((local, 0).into(), 1).expect("held").remove(0);
        let alive = held.local_addr().expect("bound");
        let gone = os.quic_group((local, 0).into(), 1).expect("held").remove(0).local_addr().expect("bound");
        let (mut of_gone, mut of_alive) = (os.refusals().of(gone), os.refusals().of(alive));
        send(&dial, gone).await;
        // The word comes with a later call, which is carried out all the same.
        let told = async {
            loop {
                send(&dial, alive).await;
                if tokio::time::timeout(Duration::from_millis(5), of_gone.told()).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(WAIT, told).await.expect("told");
        assert!(tokio::time::timeout(Duration::from_millis(20), of_alive.told()).await.is_err());
    }
}

/// Of a group, the system tells any member what concerns another's datagram.
#[tokio::test]
async fn a_group_hears_of_its_members_datagrams_although_nobody_sends_again() {
    let os = Os::default();
    let group = os.quic_group(loopback(), 2).expect("group");
    let members: Vec<_> = group.into_iter().map(|member| member.wrap().expect("wrapped")).collect();
    let gone: Vec<_> = (0..8)
        .map(|_| os.quic_group(loopback(), 1).expect("held").remove(0).local_addr().expect("bound"))
        .collect();
    let mut followed: Vec<_> = gone.iter().map(|gone| os.refusals().of(*gone)).collect();
    for gone in gone {
        send(&members[0], gone).await;
    }
    let told = async {
        for followed in &mut followed {
            followed.told().await;
        }
    };
    let mut bytes = [0; 2048];
    let mut meta = [quinn::udp::RecvMeta::default()];
    let receiving = std::future::poll_fn(|cx| {
        for member in &members {
            let received = member.poll_recv(cx, &mut [io::IoSliceMut::new(&mut bytes)], &mut meta);
            assert!(received.is_pending());
        }
        std::task::Poll::<()>::Pending
    });
    tokio::select! {
        biased;
        () = receiving => {}
        told = tokio::time::timeout(WAIT, told) => told.expect("told of all of them"),
    }
}

#[tokio::test]
async fn nothing_is_kept_of_an_address_that_nobody_follows() {
    let refusals = Refusals::default();
    let at = loopback();
    let (first, second) = (refusals.of(at), refusals.of(at));
    drop(first);
    refusals.tell(at);
    let mut second = second;
    tokio::time::timeout(WAIT, second.told()).await.expect("still followed");
    drop(second);
    refusals.tell(at);
    assert!(format!("{refusals:?}").contains("{}"), "{refusals:?}");
}
