//! `[limits]` as a peer meets them that takes whatever it is given.

use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::time::timeout;

use crate::{
    authority::{Authority, know},
    gateway::{Cluster, Gateway, Listens, until},
    hostile::Hostile,
    stranger::dial,
};

const KIB: usize = 1024;
/// Whoever waits for longer than this is blocked.
const BLOCKED: Duration = Duration::from_millis(500);
/// The kinds of a stream.
const CONTROL: u8 = 1;
const TCP: u8 = 3;

/// A gateway with these limits that knows two peers, which are only keys.
fn gateway(number: u8, limits: &str) -> (Cluster, Gateway, [Authority; 2]) {
    let (east, peers) = (Cluster::new("east", number), ["north", "west"].map(Authority::new));
    for peer in &peers {
        know(&east, &peer.as_peer(&[]));
    }
    let config = east.file("c.toml", &format!("[limits]\n{limits}"));
    let gateway = east.start_at(&Listens::free(), &["--config", &config]);
    (east, gateway, peers)
}

async fn connected(gateway: &Gateway, who: &Authority) -> (Endpoint, Connection) {
    dial(&gateway.listens.quic, who.leaf(|_| {})).await.expect("let in")
}

/// Opens a stream and writes its kind.
async fn open(connection: &Connection, kind: u8) -> (SendStream, RecvStream) {
    let (mut send, receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&[kind]).await.expect("written");
    (send, receive)
}

/// How many bytes may be written before the other side takes no more.
async fn room(send: &mut SendStream) -> usize {
    let (block, mut written) = ([7; 4 * KIB], 0);
    while let Ok(count) = timeout(BLOCKED, send.write(&block)).await {
        written += count.expect("not refused");
    }
    written
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_and_streams_are_as_large_and_as_many_as_was_configured() {
    let limits = "stream_window = \"16KiB\"\nconnection_window = \"192KiB\"\nconnection_window_max = \"192KiB\"\n\
                  bidi_streams = 16\nhandshake_timeout = \"30s\"\nheader_timeout = \"30s\"\n";
    let (_east, gateway, [_, west]) = gateway(165, limits);
    let (_endpoint, connection) = connected(&gateway, &west).await;
    // Nobody reads what comes before `Hello`.
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(open(&connection, TCP).await);
    }
    assert!(timeout(BLOCKED, connection.open_bi()).await.is_err(), "a 17th stream");
    let mut rooms = Vec::new();
    for (send, _) in &mut streams {
        rooms.push(room(send).await);
    }
    assert!((8 * KIB..=20 * KIB).contains(&rooms[0]), "of one stream {rooms:?}");
    let all: usize = rooms.iter().sum();
    assert!((128 * KIB..=208 * KIB).contains(&all), "of all {rooms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_slow_has_the_time_that_was_configured() {
    let (_east, gateway, [_, west]) =
        gateway(164, "handshake_timeout = \"1s\"\nheader_timeout = \"600ms\"\n");
    let (_endpoint, connection) = connected(&gateway, &west).await;
    let begun = Instant::now();
    timeout(Duration::from_secs(4), connection.closed()).await.expect("no Hello came");
    assert!(begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
    let session = Hostile::join(&gateway.listens.quic, &west, 1).await.expect("a session");
    let begun = Instant::now();
    let (_send, mut receive) = open(&session.connection, TCP).await;
    let end = timeout(Duration::from_secs(2), receive.read(&mut [0; 1])).await.expect("no header came");
    assert!(
        end.is_err() && begun.elapsed() > Duration::from_millis(300),
        "{end:?} after {:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http2_window_of_a_call_is_as_large_as_was_configured() {
    let (_east, gateway, [_, west]) = gateway(163, "http2_stream_window = \"96KiB\"\n");
    let (_endpoint, connection) = connected(&gateway, &west).await;
    let (mut send, mut receive) = open(&connection, CONTROL).await;
    // The preface of RFC 9113, 3.4, with settings that say nothing; the gateway's come back.
    send.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("written");
    let mut head = [0; 9];
    timeout(Duration::from_secs(5), receive.read_exact(&mut head)).await.expect("in time").expect("a frame");
    assert_eq!(head[3], 4, "SETTINGS");
    let mut settings = vec![0; usize::from(head[2])];
    receive.read_exact(&mut settings).await.expect("settings");
    // INITIAL_WINDOW_SIZE has number 4 (RFC 9113, 6.5.2).
    let window = settings.chunks(6).find(|entry| entry[..2] == [0, 4]).expect("a window");
    assert_eq!(u32::from_be_bytes([window[2], window[3], window[4], window[5]]), 96 * 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_links_is_shared_when_it_does_not_go_round() {
    let (_east, gateway, [north, west]) = gateway(160, "memory = \"16MiB\"\nhandshake_timeout = \"30s\"\n");
    let to = &gateway.listens.quic;
    let _first = Hostile::join(to, &north, 1).await.expect("a session");
    std::thread::sleep(Duration::from_secs(2));
    assert!(!gateway.log().contains("TMB-4004"), "one lane has all of it");
    let _second = Hostile::join(to, &west, 1).await.expect("a session");
    until("it says that the budget is reached", || gateway.log().contains("TMB-4004").then_some(()));
}
