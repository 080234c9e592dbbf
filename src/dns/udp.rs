//! DNS over UDP: a packet, an answer, on the shard whose socket it came to. No task, no queue, no other thread.

use std::{io, net::SocketAddr};

use hickory_server::net::xfer::Protocol;
use tokio::select;
use tokio_util::sync::CancellationToken;

use super::reply::Responder;
use crate::model::limits;

/// Answers until told to stop.
///
/// # Errors
/// When the socket cannot be waited on any more.
#[expect(clippy::disallowed_types, reason = "the socket is bound by crate::net")]
pub(super) async fn serve(
    socket: tokio::net::UdpSocket,
    responder: Responder,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut packet = vec![0; limits::DNS_UDP_QUESTION_BYTES_MAX];
    loop {
        select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            readable = socket.readable() => readable?,
        }
        // After a burst, whatever else this shard has to do comes first.
        for _ in 0..limits::DNS_UDP_BURST {
            match socket.try_recv_from(&mut packet) {
                Ok((length, from)) => {
                    if let Some(reply) = answer(&responder, &packet[..length], from) {
                        // A full send buffer, or a client out of reach: it asks again.
                        let _ = socket.try_send_to(&reply, from);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What an earlier answer met on its way (ICMP) is told here, and is no matter of the next packet.
                Err(error) => tracing::debug!(%error, "a DNS packet was not received"),
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Nothing for those whom no answer can reach: their address is made up.
fn answer(responder: &Responder, packet: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    let ip = from.ip();
    if from.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
        return None;
    }
    responder.reply_to_packet(packet.to_vec(), from, Protocol::Udp)
}
