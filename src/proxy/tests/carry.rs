//! Carrying between two TCP connections of this host, without any link.

use bytes::Bytes;
use tokio::io::AsyncWriteExt as _;

use super::{
    super::{
        pump::{Carried, Left, Side, tcp_and_tcp},
        tcp::Tcp,
    },
    SOON,
    world::{accept, application, read, read_to_end, soon, write},
};
use crate::net::{Net as _, Os, Stream};

/// Both ends of a connection.
async fn connection() -> (Box<dyn Stream>, Box<dyn Stream>) {
    let (mut listener, address) = application();
    let near = Os::default().tcp_connect(address, SOON).await.expect("connected");
    (near, accept(&mut listener).await)
}

#[tokio::test]
async fn each_direction_ends_on_its_own_and_bytes_are_counted() {
    let ((mut client, inner), (outer, mut server)) = (connection().await, connection().await);
    let talk = async {
        write(&mut client, b"question").await;
        client.shutdown().await.expect("half-closed");
        assert_eq!(read_to_end(&mut server).await.expect("a proper end"), b"question");
        write(&mut server, b"a long answer").await;
        server.shutdown().await.expect("ended");
        assert_eq!(read_to_end(&mut client).await.expect("a proper end"), b"a long answer");
    };
    let (carried, ()) = tokio::join!(tcp_and_tcp(Tcp::new(inner), Tcp::new(outer), Left::default()), talk);
    assert_eq!(carried, Carried { forth: 8, back: 13, whole: true, cut_by: None });
}

#[tokio::test]
async fn what_was_read_before_goes_before_everything_else() {
    let ((mut client, inner), (outer, mut server)) = (connection().await, connection().await);
    let left = Left { forth: Bytes::from_static(b"a quest"), back: Bytes::from_static(b"an ") };
    let talk = async {
        write(&mut client, b"ion").await;
        client.shutdown().await.expect("half-closed");
        assert_eq!(read_to_end(&mut server).await.expect("a proper end"), b"a question");
        write(&mut server, b"answer").await;
        server.shutdown().await.expect("ended");
        assert_eq!(read_to_end(&mut client).await.expect("a proper end"), b"an answer");
    };
    let (carried, ()) = tokio::join!(tcp_and_tcp(Tcp::new(inner), Tcp::new(outer), left), talk);
    assert!(carried.whole);
}

#[tokio::test]
async fn a_reset_is_passed_on_and_never_looks_like_an_end() {
    for first_resets in [true, false] {
        let ((client, inner), (outer, server)) = (connection().await, connection().await);
        let (cut, mut other) = if first_resets { (client, server) } else { (server, client) };
        let talk = async {
            cut.reset_on_close().expect("set");
            drop(cut);
            read_to_end(&mut other).await.expect_err("never a proper end")
        };
        let (carried, error) =
            tokio::join!(tcp_and_tcp(Tcp::new(inner), Tcp::new(outer), Left::default()), talk);
        assert_eq!((carried.whole, error.kind()), (false, std::io::ErrorKind::ConnectionReset));
        assert_eq!(carried.cut_by, Some(if first_resets { Side::First } else { Side::Second }));
    }
}

#[tokio::test]
async fn what_is_dropped_on_the_way_is_reset() {
    let ((mut client, inner), (outer, mut server)) = (connection().await, connection().await);
    write(&mut client, b"x").await;
    let carry = tcp_and_tcp(Tcp::new(inner), Tcp::new(outer), Left::default());
    tokio::select! {
        biased;
        seen = read(&mut server, 1) => assert_eq!(seen, b"x"),
        _ = soon(carry) => panic!("neither side has ended"),
    }
    for end in [&mut client, &mut server] {
        let error = read_to_end(end).await.expect_err("never a proper end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
