//! The WAN emulator: a pure model of links, an engine that moves real packets through it, and the
//! media it speaks: TUN devices in namespaces, UDP sockets on loopback. No tc, no netem, no kernel module.

pub(crate) mod capture;
pub(crate) mod control;
pub(crate) mod engine;
pub(crate) mod link;
pub(crate) mod measure;
pub(crate) mod pair;
mod tcp;
pub(crate) mod tun;
pub(crate) mod udp;
