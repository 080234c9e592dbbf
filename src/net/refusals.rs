//! Word that nobody listens at an address: ICMP "port unreachable", as the system hands it to whoever sent there.
//!
//! Anybody who knows both addresses can forge such a message (RFC 9000 section 14.2.1, RFC 8085 section 5.2), and a
//! router on the way may send it too. So it is only passed on here; what it means, the link clock decides.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use dashmap::DashMap;
use tokio::sync::watch;

use super::canonical;

/// Who wants to hear of which address. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<DashMap<SocketAddr, watch::Sender<u64>>>);

impl Refusals {
    /// Follows what is said of `address` from now on.
    #[must_use]
    pub fn of(&self, address: SocketAddr) -> Refused {
        let address = canonical(address);
        let heard = self.0.entry(address).or_default().subscribe();
        Refused { address, heard, refusals: self.clone() }
    }

    /// Tells whoever follows `address`.
    pub(super) fn tell(&self, address: SocketAddr) {
        if let Some(followed) = self.0.get(&canonical(address)) {
            followed.send_modify(|count| *count += 1);
        }
    }
}

/// What is said of one address.
#[derive(Debug)]
pub struct Refused {
    address: SocketAddr,
    heard: watch::Receiver<u64>,
    refusals: Refusals,
}

impl Refused {
    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it is said, at least once, that nobody listens there. Cancel safe.
    pub async fn told(&mut self) {
        // The sender is in the map for as long as this is.
        let _ = self.heard.changed().await;
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        // Our own receiver is still counted.
        self.refusals.0.remove_if(&self.address, |_, followed| followed.receiver_count() <= 1);
    }
}

/// Asks the system to hand such messages to `socket`. They come as the error of a later call, which concerns
/// another datagram than that call's, and in the socket's error queue (ip(7), `IP_RECVERR`).
pub(super) fn ask_for(socket: &UdpSocket) {
    #[cfg(target_os = "linux")]
    {
        use nix::sys::socket::{setsockopt, sockopt};
        // A socket of IPv6 takes both, one of IPv4 refuses the other. Without them silence tells the same, later.
        let _ = setsockopt(socket, sockopt::Ipv4RecvErr, &true);
        let _ = setsockopt(socket, sockopt::Ipv6RecvErr, &true);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = socket;
}

/// Empties the error queue of a socket, and tells of the addresses at which nobody listens.
#[cfg(target_os = "linux")]
pub(super) fn take(socket: &impl std::os::fd::AsRawFd, refusals: &Refusals) {
    use nix::{
        libc,
        sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg},
    };
    use std::{collections::BTreeSet, io::IoSliceMut};

    use crate::model::limits::{ERROR_CONTROL_BYTES, ERRORS_TAKEN_MAX};

    let mut refused = BTreeSet::new();
    let mut control = [0; ERROR_CONTROL_BYTES];
    for _ in 0..ERRORS_TAKEN_MAX {
        let (mut quoted, flags) = ([0; 1], MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT);
        let mut quoted = [IoSliceMut::new(&mut quoted)];
        let taken = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut quoted, Some(&mut control), flags);
        let Ok(message) = taken else { break };
        let Some(to) = message.address.as_ref().and_then(address) else { continue };
        let Ok(mut words) = message.cmsgs() else { continue };
        let is_refusal = words.any(|word| match word {
            ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                error.ee_origin != libc::SO_EE_ORIGIN_LOCAL
                    && i32::try_from(error.ee_errno) == Ok(libc::ECONNREFUSED)
            }
            _ => false,
        });
        if is_refusal {
            refused.insert(to);
        }
    }
    refused.into_iter().for_each(|to| refusals.tell(to));
}

/// Elsewhere nothing was asked for.
#[cfg(not(target_os = "linux"))]
pub(super) fn take<S>(_: &S, _: &Refusals) {}

#[cfg(target_os = "linux")]
fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|at| SocketAddr::from((at.ip(), at.port())));
    v4.or_else(|| storage.as_sockaddr_in6().map(|at| SocketAddr::from((at.ip(), at.port()))))
}
