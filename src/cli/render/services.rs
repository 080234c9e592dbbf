//! Services of the clusterset: a table, and all there is of one.

use super::words::{Plain, dash, fields};
use crate::{
    admin::api::{PortStatus, ServiceCluster, ServiceStatus},
    cli::output::{Style, Tone},
};

/// `tombolo services`.
pub(crate) fn services(services: &[ServiceStatus], style: Style) -> String {
    if services.is_empty() {
        return "No services yet: export one with `tombolo export NAME=ADDRESS:PORT`\n".to_owned();
    }
    let mut table = Plain::new(&["SERVICE", "VIRTUAL IP", "PORTS", "CLUSTERS (READY)"], None, style);
    for service in services {
        table.row(
            Tone::Plain,
            [
                service.name.to_string(),
                address(service),
                joined(&service.ports, short_port),
                joined(&service.clusters, short_cluster),
            ],
        );
    }
    let mut text = table.text();
    for service in services {
        text += &conflicts(service, style);
        for port in service.ports.iter().filter(|port| port.state != "listening") {
            text += &format!("! {} port {}: {}\n", service.name, port.name, port.state);
        }
    }
    text
}

/// `tombolo services NAME`.
pub(crate) fn service(service: &ServiceStatus, style: Style) -> String {
    let mut text = fields([
        ("service", service.name.to_string()),
        ("dns name", service.dns_name.clone()),
        ("virtual ip", address(service)),
    ]);
    text.push('\n');
    let mut ports = Plain::new(&["PORT", "NUMBER", "BOUND", "STATE"], None, style);
    for port in &service.ports {
        ports.row(
            Tone::Plain,
            [
                port.name.clone(),
                format!("{}/{}", port.port, port.protocol),
                port.bound_port.map_or_else(dash, |bound| bound.to_string()),
                port.state.clone(),
            ],
        );
    }
    text += &ports.text();
    text.push('\n');
    let mut clusters =
        Plain::new(&["CLUSTER", "READY", "CATALOG", "REQUESTS MAY BE SENT TWICE"], Some(2), style);
    for cluster in &service.clusters {
        let here = if cluster.local { " (this one)" } else { "" };
        clusters.row(
            tone(cluster),
            [
                format!("{}{here}", cluster.cluster),
                format!("{} of {}", cluster.ready, cluster.total),
                cluster.freshness.clone(),
                if cluster.idempotent { "yes" } else { "no" }.to_owned(),
            ],
        );
    }
    text + &clusters.text() + &conflicts(service, style)
}

fn address(service: &ServiceStatus) -> String {
    if service.headless { "headless".to_owned() } else { service.virtual_ip.clone().unwrap_or_else(dash) }
}

fn joined<T>(things: &[T], word: impl Fn(&T) -> String) -> String {
    if things.is_empty() { dash() } else { things.iter().map(word).collect::<Vec<_>>().join(", ") }
}

/// `http 80/tcp`, with the port really bound when it is another.
pub(super) fn short_port(port: &PortStatus) -> String {
    let moved = port.bound_port.filter(|bound| *bound != port.port);
    let moved = moved.map(|bound| format!(" on {bound}")).unwrap_or_default();
    format!("{} {}/{}{moved}", port.name, port.port, port.protocol)
}

fn short_cluster(cluster: &ServiceCluster) -> String {
    let fresh = if cluster.freshness == "live" { String::new() } else { format!(" {}", cluster.freshness) };
    let here = if cluster.local { "*" } else { "" };
    format!("{}{here} {}/{}{fresh}", cluster.cluster, cluster.ready, cluster.total)
}

fn tone(cluster: &ServiceCluster) -> Tone {
    match cluster.freshness.as_str() {
        "live" => Tone::Good,
        "stale" => Tone::Fair,
        _ => Tone::Bad,
    }
}

fn conflicts(service: &ServiceStatus, style: Style) -> String {
    let mark = style.paint(Tone::Fair, "!");
    service.conflicts.iter().map(|conflict| format!("{mark} {}: {conflict}\n", service.name)).collect()
}
