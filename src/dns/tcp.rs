//! DNS over TCP (RFC 7766): frames of two length bytes, a bounded number of connections, nobody idle.
//!
//! Hickory's own listener takes any number of connections, which would let DNS clients use up the file
//! descriptors the proxy needs.

use std::{io, net::SocketAddr, sync::Arc};

use hickory_server::net::xfer::Protocol;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    select,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::reply::Responder;
use crate::model::limits;

/// Accepts until told to stop. Connections end with it.
#[expect(clippy::disallowed_types, reason = "the listener is bound by crate::net")]
pub(super) async fn serve(
    listener: tokio::net::TcpListener,
    responder: Responder,
    stop: CancellationToken,
) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(limits::DNS_TCP_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let permit = select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            permit = Arc::clone(&room).acquire_owned() => permit.expect("never closed"),
        };
        let accepted = select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {} // forget those that ended
        match accepted {
            Ok((stream, from)) => {
                let responder = responder.clone();
                connections.spawn(async move {
                    converse(stream, from, &responder).await;
                    drop(permit);
                });
            }
            // The client gave up before it was accepted, or descriptors ran out: neither is the end.
            Err(error) if is_passing(&error) => sleep(limits::DNS_ACCEPT_PAUSE).await,
            Err(error) => return Err(error),
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    const EMFILE: i32 = 24;
    const ENFILE: i32 = 23;
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    ) || matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

/// One question after another, until the client leaves, is idle for too long, or talks nonsense.
pub(super) async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    from: SocketAddr,
    responder: &Responder,
) {
    loop {
        let read = timeout(limits::DNS_TCP_TIMEOUT, read_frame(&mut stream)).await;
        let Ok(Ok(question)) = read else { return };
        let Some(reply) = responder.reply_to_packet(question, from, Protocol::Tcp) else { return };
        let length = u16::try_from(reply.len()).expect("encoded into at most 65,535 bytes");
        let frame = [&length.to_be_bytes()[..], &reply].concat();
        let written = timeout(limits::DNS_TCP_TIMEOUT, stream.write_all(&frame)).await;
        let Ok(Ok(())) = written else { return };
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}
