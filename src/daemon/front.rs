//! The front doors of a gateway: DNS, the admin socket, health and metrics.

use std::{io, path::PathBuf, sync::Arc};

use rand::RngExt;

use super::{address_problem, core::Core, kubernetes, reports};
use crate::{
    admin::{Admin, api::Addresses},
    dns::{Dns, Inputs},
    metrics::Metrics,
    model::code::{Code, Problem},
    net,
    supervise::Readiness,
};

/// The opened doors.
pub(super) struct Front {
    addresses: Addresses,
}

impl Front {
    /// Binds every address first, then serves.
    pub(super) async fn open(
        core: Arc<Core>,
        readiness: Readiness,
        socket: PathBuf,
    ) -> Result<Self, Problem> {
        let listen = &core.config.listen;
        let (dns_udp, dns_tcp) = net::dns_sockets(listen.dns, core.shards.count())
            .map_err(|error| address_problem("dns", listen.dns, &error))?;
        let dns_address = dns_tcp.local_addr().unwrap_or(listen.dns);
        let opened = core.net.tcp_listen(listen.admin, 1);
        let admin_tcp = opened
            .map_err(|error| address_problem("admin", listen.admin, &error))?
            .pop()
            .ok_or_else(|| Problem::new(Code::ADDRESS_IN_USE, "admin has no socket"))?;
        let unix = net::unix_listen(&socket).map_err(|error| {
            let code = match error.kind() {
                io::ErrorKind::InvalidInput => Code::STATE_PATH_TOO_LONG,
                io::ErrorKind::AddrInUse => Code::STATE_LOCKED,
                _ => Code::STATE_NOT_WRITABLE,
            };
            Problem::new(code, format!("the admin socket {}: {error}", socket.display()))
        })?;
        let addresses = Addresses {
            quic: core.links.address().map(|address| address.to_string()).unwrap_or_default(),
            dns: dns_address.to_string(),
            admin: admin_tcp.local_addr().unwrap_or(listen.admin).to_string(),
            socket: socket.display().to_string(),
        };
        let metrics = Metrics::new();
        let dns = Dns::start(dns_udp, dns_tcp, inputs(&core, &metrics), &core.shards)
            .map_err(|error| address_problem("dns", dns_address, &error))?;
        let parts = reports::parts(&core, readiness, metrics, &addresses);
        kubernetes::govern(&core, &parts);
        let admin = Admin::start(parts, unix, admin_tcp);
        core.tasks.spawn("dns", watch_dns(core.clone(), dns));
        core.tasks.spawn("admin", close_admin(core.clone(), admin));
        Ok(Self { addresses })
    }

    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

fn inputs(core: &Arc<Core>, metrics: &Metrics) -> Inputs {
    let (newest, now, seed, metrics) =
        (core.clone(), core.clock.clone(), core.clock.clone(), metrics.clone());
    Inputs {
        newest: Box::new(move || newest.zone()),
        now: Box::new(move || now.now()),
        seed: Box::new(move || seed.rng().random()),
        observe: Box::new(move |observed| metrics.dns(observed.kind, observed.rcode, observed.took)),
    }
}

/// DNS answers until the end; when it fails, the gateway does.
async fn watch_dns(core: Arc<Core>, mut dns: Dns) {
    let hard = core.tasks.shutdown().hard();
    tokio::pin!(hard);
    let error = tokio::select! {
        biased;
        () = &mut hard => None,
        error = dns.failed() => Some(error),
    };
    if let Some(error) = error {
        // Ending before shutdown was asked for brings the daemon down, with this task's name.
        tracing::error!(%error, "DNS ended");
        return;
    }
    if let Err(error) = dns.shutdown().await {
        tracing::warn!(%error, "DNS did not end in order");
    }
}

/// The admin API answers until the very end, so that draining can be watched.
async fn close_admin(core: Arc<Core>, admin: Admin) {
    core.tasks.shutdown().hard().await;
    admin.shutdown().await;
}
