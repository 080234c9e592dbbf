//! Envoy's two ways between clusters: a TLS connection for each client connection (Istio's classic path), and
//! HTTP/2 CONNECT over pooled TLS connections (the shape of Istio ambient). As many workers as cores, its
//! default; only its limits on connections are raised.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    pair::{Certificates, NAME},
    place::Ends,
};

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// A TLS connection each.
    Mtls,
    /// HTTP/2 CONNECT.
    Hbone,
}

/// The arguments of both with their config files, the clients' gateway's first.
pub(super) fn configure(
    way: Way,
    ends: Ends,
    certificates: &Certificates,
    folder: &Path,
) -> Result<Vec<Vec<String>>> {
    let near = near(way, ends, certificates);
    let far = far(way, ends, certificates);
    let mut arguments = Vec::new();
    for (number, config) in [near, far].iter().enumerate() {
        let path = folder.join(format!("gateway-{}.json", number + 1));
        fs::write(&path, serde_json::to_vec_pretty(config)?).with_context(|| path.display().to_string())?;
        let words = ["-c", &path.to_string_lossy(), "--disable-hot-restart", "--log-level", "warning"];
        arguments.push(words.map(str::to_owned).to_vec());
    }
    Ok(arguments)
}

fn address(of: SocketAddr) -> Value {
    json!({"socket_address": {"address": of.ip().to_string(), "port_value": of.port()}})
}

/// A config of a kind.
pub(crate) fn typed(kind: &str, mut fields: Value) -> Value {
    fields["@type"] = json!(format!("type.googleapis.com/{kind}"));
    fields
}

fn cluster(name: &str, to: SocketAddr) -> Value {
    let most =
        json!({"max_connections": 1_000_000, "max_pending_requests": 1_000_000, "max_requests": 1_000_000});
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(to)}}]}],
        },
    })
}

fn tls(way: Way, certificates: &Certificates) -> Value {
    let mut common = certificates.common_tls();
    if way == Way::Hbone {
        common["alpn_protocols"] = json!(["h2"]);
    }
    common
}

fn listener(at: SocketAddr, filter: Value, transport: Option<Value>) -> Value {
    let mut chain = json!({"filters": [filter]});
    if let Some(transport) = transport {
        chain["transport_socket"] = transport;
    }
    json!({"name": "in", "address": address(at), "filter_chains": [chain]})
}

fn tcp_proxy(cluster: &str) -> Value {
    let fields = json!({"stat_prefix": "in", "cluster": cluster, "idle_timeout": "0s"});
    typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", fields)
}

fn bootstrap(listener: Value, cluster: Value) -> Value {
    json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})
}

fn near(way: Way, ends: Ends, certificates: &Certificates) -> Value {
    let mut cluster = cluster("between", ends.between);
    let context = json!({"common_tls_context": tls(way, certificates), "sni": NAME});
    let context = typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context);
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": context});
    let mut proxy = tcp_proxy("between");
    if way == Way::Hbone {
        proxy["tunneling_config"] = json!({"hostname": format!("{NAME}:443")});
        let options = json!({"explicit_http_config": {"http2_protocol_options": {}}});
        let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({kind: typed(kind, options)});
    }
    bootstrap(
        listener(
            (Ipv4Addr::LOCALHOST, ends.enter).into(),
            json!({"name": "tcp", "typed_config": proxy}),
            None,
        ),
        cluster,
    )
}

fn far(way: Way, ends: Ends, certificates: &Certificates) -> Value {
    let context = json!({"common_tls_context": tls(way, certificates), "require_client_certificate": true});
    let context = typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", context);
    let transport = json!({"name": "tls", "typed_config": context});
    let filter = match way {
        Way::Mtls => json!({"name": "tcp", "typed_config": tcp_proxy("server")}),
        Way::Hbone => json!({"name": "http", "typed_config": connect_terminator()}),
    };
    bootstrap(listener(ends.between, filter, Some(transport)), cluster("server", ends.server))
}

fn connect_terminator() -> Value {
    let route = json!({
        "match": {"connect_matcher": {}},
        "route": {
            "cluster": "server",
            "timeout": "0s",
            "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
        },
    });
    let router = typed("envoy.extensions.filters.http.router.v3.Router", json!({}));
    let fields = json!({
        "stat_prefix": "in",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "http2_protocol_options": {"allow_connect": true},
        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": router}],
    });
    typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", fields)
}
