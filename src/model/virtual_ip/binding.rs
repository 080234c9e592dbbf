//! What a virtual IP listens on: the port of the service, or the one that stands in for it (B10).
//!
//! Data only. The proxy binds and reports; DNS tells clients the port that is really bound.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::model::{catalog::Protocol, code::Code, limits};

/// The port to listen on for a service's port: the same, or 20,000 higher where the process may not bind it.
/// A port so high that there is no such number stays as it is: then binding it says why it fails.
#[must_use]
pub fn listen_port(port: u16, may_bind: bool) -> u16 {
    if may_bind { port } else { port.checked_add(limits::UNPRIVILEGED_PORT_OFFSET).unwrap_or(port) }
}

/// Whether a listener stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BindingState {
    /// Clients are accepted.
    Listening,
    /// Nobody could serve them, so they are refused by the kernel (B9).
    NoCandidate,
    /// It could not be bound, and why.
    Failed(Code),
}

/// One port of one virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The virtual IP.
    pub ip: Ipv4Addr,
    /// The transport.
    pub protocol: Protocol,
    /// The service's port.
    pub port: u16,
    /// The port that is bound, [`listen_port`] of it; what SRV says.
    pub bound_port: u16,
    /// Whether it stands.
    pub state: BindingState,
}
