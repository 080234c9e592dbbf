//! How a gateway ends: at once when idle, after its connections when not, at once when told twice.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    gateway::{Cluster, Gateway, Listens, until},
    names::place,
};

/// An idle gateway has nothing to wait for.
const QUICKLY: Duration = Duration::from_secs(3);

#[test]
fn an_idle_gateway_ends_well_and_quickly_by_either_signal() {
    let east = Cluster::new("east", 175);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut gateway = east.start();
        let begun = Instant::now();
        gateway.signal(signal);
        assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
        assert!(begun.elapsed() < QUICKLY, "{:?}", begun.elapsed());
        assert!(
            gateway.log().contains(signal.as_str()) && !gateway.log().contains("ERROR"),
            "{}",
            gateway.log()
        );
    }
}

/// A gateway that serves an echo, and a client in the middle of a conversation with it.
fn in_conversation(east: &Cluster) -> (Gateway, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let app = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
    let gateway = east.start_at(&Listens::free(), &["--export", &format!("echo.shop={app}")]);
    let name = "echo.shop.svc.clusterset.local.";
    let mut client = until("the name is served", || {
        let at = place(gateway.dns(), name, app.port())?;
        TcpStream::connect(at).ok()
    });
    client.set_read_timeout(Some(QUICKLY)).expect("set");
    echo(&mut client);
    (gateway, client)
}

fn echo(client: &mut TcpStream) {
    let mut buffer = [0; 4];
    client.write_all(b"word").expect("sent");
    client.read_exact(&mut buffer).expect("echoed");
    assert_eq!(&buffer, b"word");
}

#[test]
fn sigterm_lets_a_conversation_end_first() {
    let east = Cluster::new("east", 176);
    let (mut gateway, mut client) = in_conversation(&east);
    let at = client.peer_addr().expect("connected");
    gateway.signal(Signal::SIGTERM);
    until("nobody new is let in", || TcpStream::connect(at).is_err().then_some(()));
    echo(&mut client);
    assert!(gateway.lives());
    drop(client);
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
}

#[test]
fn a_second_signal_does_not_wait_for_a_conversation() {
    let east = Cluster::new("east", 177);
    let (mut gateway, mut client) = in_conversation(&east);
    gateway.signal(Signal::SIGINT);
    until("it drains", || gateway.log().contains("shutting down").then_some(()));
    echo(&mut client);
    let begun = Instant::now();
    gateway.signal(Signal::SIGINT);
    assert_eq!(gateway.ended().code(), Some(0), "{}", gateway.log());
    assert!(begun.elapsed() < QUICKLY, "{:?}", begun.elapsed());
}

#[test]
fn a_socket_left_behind_is_cleared_and_anything_else_is_not() {
    let east = Cluster::new("east", 178);
    let gateway = east.start();
    let folder = until("a place", || {
        std::fs::read_dir(east.state().join("gateways")).ok()?.next()?.ok().map(|entry| entry.path())
    });
    gateway.kill();
    let socket = folder.join("admin.sock");
    assert!(socket.exists());
    east.tombolo("status").refused(1, "TMB-1008", "no gateway answers", "tombolo run");
    east.start().stop();
    // Somebody answers behind it, who does not hold the lock.
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("bound");
    east.start_fails(&Listens::free(), &[]).refused(
        3,
        "TMB-1105",
        "is answered by a running daemon",
        "stop the other",
    );
    drop(listener);
    std::fs::remove_file(&socket).expect("removed");
    std::fs::write(&socket, "mine").expect("written");
    east.start_fails(&Listens::free(), &[]).refused(3, "TMB-1105", "is no socket", "--state");
    assert_eq!(std::fs::read_to_string(&socket).expect("left alone"), "mine");
}
