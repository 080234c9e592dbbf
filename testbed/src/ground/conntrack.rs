//! Makes the NAT of a namespace forget every flow, as a router that was started again. One netlink message,
//! so that no tool is needed.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::emulator::tun::enter;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` of linux/netfilter/nfnetlink.h: without a tuple, all.
const DELETE: u16 = 1 << 8 | 2;
/// `NLM_F_REQUEST | NLM_F_ACK` of linux/netlink.h.
const FLAGS: u16 = 1 | 4;
/// `NLMSG_ERROR`, which is also how success is told.
const ERROR: u16 = 2;

/// Flushes the flows of a namespace.
pub(super) fn flush(namespace: &str) -> Result<()> {
    let namespace = namespace.to_owned();
    // A thread of its own, because it stays in the namespace.
    let flushed = std::thread::spawn(move || {
        enter(&namespace)?;
        ask().with_context(|| format!("the NAT of {namespace} cannot be flushed"))
    });
    flushed.join().map_err(|_| anyhow::anyhow!("flushing the NAT failed"))?
}

fn ask() -> Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    let fd = netlink.as_raw_fd();
    bind(fd, &NetlinkAddr::new(0, 0))?;
    // nlmsghdr, then nfgenmsg with every family.
    let mut message = 20_u32.to_ne_bytes().to_vec();
    message.extend(DELETE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 12]);
    send(fd, &message, MsgFlags::empty())?;
    let mut answer = [0; 256];
    let length = recv(fd, &mut answer, MsgFlags::empty())?;
    ensure!(
        length >= 20 && answer[4..6] == ERROR.to_ne_bytes(),
        "the kernel gave no answer that is understood"
    );
    let code = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(code == 0, "{}", std::io::Error::from_raw_os_error(-code));
    Ok(())
}
