//! Envoys in the place of gateways, as many and with the same endpoints: mutual TLS between clusters, the order of
//! clusters as priorities, active health checks and outlier detection. What for, `docs/benchmarks.md` says.
//!
//! Outlier detection is as Envoy's own page on transient failures has it. Of active checks it gives no figures; these
//! are quicker than any that it shows. TCP is carried as TCP: a retry is one of connecting.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{
    bench::{Certificates, typed},
    gateway::PORTS,
    ground::ground,
    inside,
    process::{Member, Role},
    standing::Standing,
};

/// Where the clients' Envoy listens for them: this and the number of the sample service's port.
const ABOVE: u16 = 10_000;

/// Where clients connect to for a port of the sample service.
pub(crate) fn target(standing: &Standing, cluster: usize, name: &str) -> Result<SocketAddr> {
    let port = PORTS.iter().find(|(known, _)| *known == name);
    let port = port.with_context(|| format!("no port is called {name}"))?.1;
    let listens = ground(standing.backend).listens(standing, cluster, 0);
    Ok(SocketAddr::new(listens.dns.ip(), ABOVE + port))
}

/// Writes the config and starts the process; it is not ready yet.
pub(crate) fn start(standing: &mut Standing, cluster: usize, gateway: usize) -> Result<()> {
    let name = standing.scenario.clusters[cluster].name.clone();
    let folder = standing.cluster_folder(&name);
    fs::create_dir_all(&folder)?;
    let text = serde_json::to_vec_pretty(&config(standing, cluster, gateway)?)?;
    let file = folder.join(format!("gateway-{}.json", gateway + 1));
    fs::write(&file, text).with_context(|| file.display().to_string())?;
    let mut command = ground(standing.backend).prefix(standing, cluster);
    command.push(standing.tombolo.to_string_lossy().into_owned());
    let options = ["-c", &file.to_string_lossy(), "--disable-hot-restart", "--log-level", "warning"];
    command.extend(options.map(str::to_owned));
    let log = folder.join(format!("gateway-{}.log", gateway + 1));
    let role = Role::Gateway(gateway + 1);
    standing.launch(Member { role, cluster: name, command, log, identity: None })
}

/// Waits until it serves and finds everything healthy.
pub(crate) fn wait_ready(
    standing: &Standing,
    cluster: usize,
    gateway: usize,
    paths: &[&str],
    limit: Duration,
) -> Result<()> {
    let admin = ground(standing.backend).listens(standing, cluster, gateway).admin;
    let until = Instant::now() + limit;
    loop {
        crate::interrupt::check()?;
        let good = |path: &&str| {
            let said = inside::get(standing, cluster, admin, path);
            said.is_ok_and(|said| !said.contains("/failed_") && !said.contains("health_flags::/pending"))
        };
        if paths.iter().all(good) {
            return Ok(());
        }
        if Instant::now() > until {
            let name = &standing.scenario.clusters[cluster].name;
            bail!("the Envoy {name}/{} is not well after {limit:?}", gateway + 1);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn config(standing: &Standing, cluster: usize, gateway: usize) -> Result<Value> {
    let certificates = Certificates::once(&standing.folder.join("c").join("certificates"))?;
    let listens = ground(standing.backend).listens(standing, cluster, gateway);
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    if standing.scenario.clusters[cluster].endpoints > 0 {
        listeners.push(far(listens.quic, &certificates));
        clusters.extend(PORTS.map(|(name, port)| local(standing, cluster, name, port)));
    }
    if standing.scenario.client()? == cluster {
        for (name, port) in PORTS {
            let at = SocketAddr::new(listens.dns.ip(), ABOVE + port);
            let chain = json!({"filters": [proxy(&format!("to-{name}"))]});
            listeners.push(json!({"name": name, "address": address(at), "filter_chains": [chain]}));
            clusters.push(near(standing, cluster, name, &certificates)?);
        }
    }
    Ok(json!({
        "admin": {"address": address(listens.admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }))
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

fn endpoint(of: SocketAddr) -> Value {
    json!({"endpoint": {"address": address(of)}})
}

/// A TCP proxy that connects anew when a connection fails.
fn proxy(cluster: &str) -> Value {
    let fields = json!({
        "stat_prefix": "in", "cluster": cluster, "idle_timeout": "0s", "max_connect_attempts": 3,
    });
    let kind = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    json!({"name": "tcp", "typed_config": typed(kind, fields)})
}

/// What both sides' clusters have: checks, outlier detection, no limits that a load could meet.
fn cluster(name: &str, endpoints: Vec<Value>) -> Value {
    let most =
        json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "circuit_breakers": {"thresholds": [most]},
        "close_connections_on_host_health_failure": true,
        "health_checks": [{
            "timeout": "1s", "interval": "1s", "no_traffic_interval": "1s",
            "unhealthy_threshold": 2, "healthy_threshold": 1, "tcp_health_check": {},
        }],
        "outlier_detection": {
            "consecutive_5xx": 5, "consecutive_gateway_failure": 5,
            "base_ejection_time": "30s", "max_ejection_percent": 50,
        },
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    })
}

/// The endpoints of this cluster.
fn local(standing: &Standing, index: usize, name: &str, port: u16) -> Value {
    let ground = ground(standing.backend);
    let all = (0..standing.scenario.clusters[index].endpoints)
        .map(|number| endpoint(SocketAddr::new(ground.endpoint(standing, index, number), port)));
    cluster(&format!("local-{name}"), vec![json!({"lb_endpoints": all.collect::<Vec<_>>()})])
}

/// The Envoys of all clusters with endpoints, by priority.
fn near(standing: &Standing, own: usize, name: &str, certificates: &Certificates) -> Result<Value> {
    let (ground, scenario) = (ground(standing.backend), &standing.scenario);
    let mut order = Vec::new();
    for name in &scenario.order {
        order.push(scenario.cluster(name)?);
    }
    let others = (0..scenario.clusters.len()).filter(|index| !order.contains(index));
    let others: Vec<usize> = others.filter(|index| *index != own).collect();
    let own_first = Some(own).filter(|own| scenario.order.is_empty() || !order.contains(own));
    let by_priority: Vec<usize> = own_first.into_iter().chain(order).chain(others).collect();
    let serving = by_priority.into_iter().filter(|index| scenario.clusters[*index].endpoints > 0);
    let endpoints = serving.enumerate().map(|(priority, index)| {
        let all = (0..scenario.clusters[index].gateways).map(|gateway| {
            let listens = ground.listens(standing, index, gateway);
            endpoint(if index == own { listens.quic } else { listens.advertise })
        });
        json!({"priority": priority, "lb_endpoints": all.collect::<Vec<_>>()})
    });
    let mut cluster = cluster(&format!("to-{name}"), endpoints.collect());
    let context = json!({"common_tls_context": certificates.common_tls(), "sni": format!("{name}.test")});
    let context = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context);
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": context});
    Ok(cluster)
}

/// One listener for other clusters; the server name tells the port.
fn far(at: SocketAddr, certificates: &Certificates) -> Value {
    let chains = PORTS.map(|(name, _)| {
        let common = certificates.common_tls();
        let context = json!({"common_tls_context": common, "require_client_certificate": true});
        let context = typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", context);
        json!({
            "filter_chain_match": {"server_names": [format!("{name}.test")]},
            "filters": [proxy(&format!("local-{name}"))],
            "transport_socket": {"name": "tls", "typed_config": context},
        })
    });
    let inspector = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    let inspector = json!({"name": "tls_inspector", "typed_config": typed(inspector, json!({}))});
    json!({"name": "far", "address": address(at), "listener_filters": [inspector], "filter_chains": chains})
}
