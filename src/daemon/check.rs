//! What can be known to be wrong before anything is made: a start that fails here leaves no trace.
//!
//! The first start fixes a cluster's id and keys for good, so it must not happen for a gateway that cannot
//! serve. Addresses are tried and let go again; whoever takes one in between is met when it is opened.

use std::{os::unix::ffi::OsStrExt as _, path::Path};

use super::{address_problem, settings};
use crate::{
    config::Config,
    model::{
        code::{Code, Problem},
        ids::TrustDomain,
        limits::UNIX_PATH_BYTES_MAX,
        policy,
        zone::ZoneName,
    },
    net::{self, Net},
};

/// Where in the state folder a gateway's socket lies; every gateway's id is as long as this one.
const SOCKET: &str = "gateways/gw-00000000/admin.sock";

/// Whether a gateway can be started with `config` and the state folder `state`.
///
/// # Errors
/// A [`Problem`] of the 10xx, or [`Code::STATE_PATH_TOO_LONG`]. Nothing was changed.
pub fn check(config: &Config, net: &dyn Net, state: &Path) -> Result<(), Problem> {
    let anybody = TrustDomain::parse("any.tombolo").expect("a well-formed trust domain");
    settings::settings(config, &anybody)?;
    ZoneName::parse(&config.names.zone)
        .map_err(|error| Problem::new(Code::CONFIG_VALUE_INVALID, format!("names.zone: {error}")))?;
    for spec in &config.exports {
        spec.check_carried()?;
        let name = spec.service_name();
        let decision = policy::may_export(&name);
        if !decision.allowed {
            let message = format!("{name} cannot be exported: {}", decision.reason);
            return Err(Problem::new(Code::NAME_RESERVED, message));
        }
    }
    check_path(state)?;
    check_addresses(config, net)
}

fn check_path(state: &Path) -> Result<(), Problem> {
    let socket = state.join(SOCKET);
    let bytes = socket.as_os_str().as_bytes().len();
    if bytes <= UNIX_PATH_BYTES_MAX {
        return Ok(());
    }
    let over = bytes - UNIX_PATH_BYTES_MAX;
    let message =
        format!("the admin socket below {} would have a path {over} bytes too long", state.display());
    Err(Problem::new(Code::STATE_PATH_TOO_LONG, message))
}

/// Holds all of them at once, so that two of ours which exclude each other are found too.
fn check_addresses(config: &Config, net: &dyn Net) -> Result<(), Problem> {
    let listen = &config.listen;
    let _quic =
        net.quic_group(listen.quic, 1).map_err(|error| address_problem("quic", listen.quic, &error))?;
    let _dns = net::dns_sockets(listen.dns, 1).map_err(|error| address_problem("dns", listen.dns, &error))?;
    let _admin =
        net.tcp_listen(listen.admin, 1).map_err(|error| address_problem("admin", listen.admin, &error))?;
    Ok(())
}
