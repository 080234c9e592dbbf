//! The table of config keys: where each stands, its form and range, what it is for.
//!
//! Unknown keys, ranges, environment variables and the JSON Schema all come from this one table; a test
//! holds it against the types of `sections`. Defaults come from the types.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Config, value};

/// One key of the config file.
pub(super) struct Key {
    /// Its section: `""`, `"listen"`, `"export.port"`.
    pub(super) section: &'static str,
    /// Its name in that section.
    pub(super) name: &'static str,
    /// Its form and range.
    pub(super) form: Form,
    /// What it is for.
    pub(super) doc: &'static str,
}

/// The form of a value, with its range.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Text.
    Text,
    /// Text out of a few.
    Choice(&'static [&'static str]),
    /// True or false.
    Flag,
    /// A whole number.
    Count(u64, u64),
    /// A duration in seconds.
    Time(u64, u64),
    /// A size in bytes.
    Size(u64, u64),
    /// A list of texts.
    List,
    /// A table with keys of the operator's choice.
    Map,
    /// A table without keys in this release.
    Empty,
}

/// Sections that may appear many times, `[[export]]`; the others appear once.
pub(super) const REPEATED: &[&str] =
    &["export", "export.port", "grant", "guardrail", "egress", "import", "failover", "caller"];
/// Sections in the order in which people read them.
pub(super) const SECTIONS: &[&str] = &[
    "",
    "listen",
    "advertise",
    "names",
    "kubernetes",
    "identity",
    "link",
    "limits",
    "export",
    "export.port",
    "export.port.health",
    "grant",
    "guardrail",
    "egress",
    "import",
    "failover",
    "caller",
];
/// Keys that a running gateway takes over on reload; all others need a restart.
pub(super) const RELOADED: &[&str] = &[
    "auto_approve",
    "caller",
    "default_grant",
    "egress",
    "export",
    "failover",
    "grant",
    "guardrail",
    "import",
    "introductions",
];

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const YEAR: u64 = 365 * 24 * 3_600;

use Form::{Choice, Count, Flag, List, Size, Text, Time};

const fn key(section: &'static str, name: &'static str, form: Form, doc: &'static str) -> Key {
    Key { section, name, form, doc }
}

/// Every key there is.
pub(super) const KEYS: &[Key] = &[
    key("", "cluster", Text, "cluster id, fixed at first start; default: the host name's first label"),
    key(
        "",
        "trust_domain",
        Text,
        "trust domain, fixed at first start; default: from the cluster id and its root",
    ),
    key("", "locality", Text, "where this gateway runs: region/zone"),
    key("", "default_grant", Choice(&["clusterset", "none"]), "what an export gets that no grant selects"),
    key("", "introductions", Choice(&["ask", "refuse"]), "whether members may introduce other clusters"),
    key("", "auto_approve", List, "whose introductions are approved at once: cluster ids, or @issuer"),
    key("listen", "quic", Text, "UDP address for other gateways"),
    key("listen", "dns", Text, "UDP and TCP address for names"),
    key("listen", "admin", Text, "TCP address of /livez, /readyz and /metrics"),
    key(
        "advertise",
        "addresses",
        List,
        "host:port by which others reach this gateway; default: where it listens",
    ),
    key("names", "zone", Text, "the DNS zone of the clusterset"),
    key("names", "virtual_ips", Text, "IPv4 network inside 127.0.0.0/8 for the imports' addresses"),
    key("names", "ttl", Time(0, 3_600), "time to live of answers"),
    key(
        "kubernetes",
        "enabled",
        Flag,
        "take exports from the API server of this cluster, and give it imports",
    ),
    key("kubernetes", "namespace", Text, "namespace of the gateways and of the Services they derive"),
    key("kubernetes", "selector", Form::Map, "labels of the gateways' pods"),
    key("identity", "svid_life", Time(10, YEAR), "life of a gateway's certificate"),
    key("identity", "root_life", Time(60, 20 * YEAR), "life of a root"),
    key("identity", "rotation_patience", Time(0, YEAR), "how long a rotation waits for peers that are away"),
    key(
        "identity",
        "retire_after",
        Time(0, YEAR),
        "how long the old root is believed after the new one issues",
    ),
    key("identity", "workload_roots", List, "PEM files with the authorities of this cluster's workloads"),
    key("identity", "bundles", Text, "folder for all bundles; empty: `bundles` in the state folder"),
    key(
        "link",
        "congestion",
        Choice(&["delay", "cubic"]),
        "what decides how much is under way on a link: delay keeps queues short and bears losses, cubic is as TCP",
    ),
    key("limits", "services", Count(1, 1_000_000), "services taken from one peer"),
    key("limits", "endpoints_per_service", Count(1, 100_000), "endpoints of one service of a peer"),
    key("limits", "ports_per_service", Count(1, 1_000), "ports of one service of a peer"),
    key("limits", "zones_per_service", Count(1, 1_000), "zones of one service of a peer"),
    key("limits", "catalog", Size(64 * KIB, 64 * GIB), "all rows of one peer together"),
    key("limits", "row", Size(KIB, 256 * KIB), "one row"),
    key("limits", "rows_per_second", Count(1, 1_000_000), "rows from one peer after its first snapshot"),
    key("limits", "connection_window", Size(64 * KIB, 4 * GIB), "window of a connection before it grows"),
    key("limits", "connection_window_max", Size(64 * KIB, 4 * GIB), "window of a connection at most"),
    key("limits", "stream_window", Size(16 * KIB, 8 * MIB), "window of one stream"),
    key(
        "limits",
        "http2_stream_window",
        Size(64 * KIB, 64 * MIB),
        "HTTP/2 window of a control or catalog stream",
    ),
    key("limits", "bidi_streams", Count(16, 1_048_576), "streams a peer may have open on one connection"),
    key("limits", "opens_per_second", Count(1, 1_000_000), "streams a peer may open in one second"),
    key("limits", "header_timeout", Time(0, 60), "time for a stream's header"),
    key("limits", "handshake_timeout", Time(0, 60), "time for a QUIC handshake"),
    key("limits", "join_timeout", Time(0, 60), "time for a whole join exchange"),
    key("limits", "join_message", Size(4 * KIB, MIB), "one join message"),
    key("limits", "memory", Size(16 * MIB, 1 << 40), "windows of all links together"),
    key("limits", "connections", Count(1, 10_000_000), "proxied connections"),
    key("limits", "peers", Count(1, 100_000), "peers of this cluster"),
    key("limits", "drain_timeout", Time(0, 86_400), "time to finish when draining"),
    key("export", "namespace", Text, "namespace of the export; default: default"),
    key("export", "name", Text, "name of the export"),
    key("export", "idempotent", Flag, "its requests may be sent twice"),
    key("export", "headless", Flag, "clients address its endpoints one by one"),
    key("export", "session_affinity", Choice(&["none", "client-ip"]), "what keeps a client with an endpoint"),
    key("export", "labels", Form::Map, "labels that other clusters see"),
    key("export.port", "name", Text, "name of the port; default: tcp-N or udp-N"),
    key(
        "export.port",
        "port",
        Count(1, 65_535),
        "number clients connect to; default: that of the first endpoint",
    ),
    key("export.port", "protocol", Choice(&["tcp", "udp"]), "its transport"),
    key("export.port", "app_protocol", Text, "what is spoken: http, http2, grpc; default: opaque bytes"),
    key("export.port", "to", List, "addresses of the endpoints"),
    key(
        "export.port.health",
        "check",
        Choice(&["none", "tcp", "http"]),
        "what an endpoint is asked; default: none",
    ),
    key(
        "export.port.health",
        "path",
        Text,
        "what an http check gets; a status from 200 to 399 is ready; default: /",
    ),
    key(
        "export.port.health",
        "interval",
        Time(0, 3_600),
        "pause between two checks of an endpoint; default: 2s",
    ),
    key("export.port.health", "timeout", Time(0, 3_600), "time for one check; default: 1s"),
    key("grant", "exports", List, "NAMESPACE/NAME patterns of exports"),
    key("grant", "peers", List, "patterns of cluster ids"),
    key("grant", "callers", List, "patterns of SPIFFE IDs; empty: every caller of those peers"),
    key("grant", "mode", Choice(&["enforce", "audit"]), "decide, or only report"),
    key("guardrail", "exports", List, "NAMESPACE/NAME patterns of exports that no grant gives away"),
    key("guardrail", "peers", List, "patterns of the cluster ids that never get them"),
    key("egress", "names", List, "NAMESPACE/NAME patterns"),
    key("egress", "callers", List, "who here may call them: SPIFFE IDs, or paths as ns/shop/sa/*"),
    key("import", "names", List, "NAMESPACE/NAME patterns"),
    key("import", "peers", List, "patterns of cluster ids"),
    key("import", "action", Choice(&["allow", "refuse"]), "take the names, or leave them out"),
    key("import", "alias", Text, "NAMESPACE/NAME they get here; empty keeps theirs"),
    key("import", "merge", Flag, "merge with exports of the same name elsewhere"),
    key("failover", "names", List, "NAMESPACE/NAME patterns"),
    key("failover", "affinity", Choice(&["local", "remote", "none"]), "which clusters come first"),
    key("failover", "order", List, "cluster ids or regions, best first; empty: by locality"),
    key("failover", "weights", Form::Map, "shares by cluster id"),
    key("failover", "hold", Time(0, 86_400), "good for this long before connections come back"),
    key("failover", "active", Form::Empty, "active checks; no keys in this release"),
    key("caller", "source", Text, "network of a client"),
    key("caller", "identity", Text, "its identity below this trust domain: ns/shop/sa/cart"),
];

impl Key {
    /// `"listen.quic"`.
    pub(super) fn path(&self) -> String {
        join(self.section, self.name)
    }

    /// The variable that overrides it; keys of repeated sections have none.
    pub(super) fn variable(&self) -> Option<String> {
        let plain = !is_repeated(self.section) && !matches!(self.form, Form::Map | Form::Empty);
        plain.then(|| format!("TOMBOLO_{}", self.path().replace('.', "_").to_uppercase()))
    }

    /// Why a value lies outside the key's range, as the end of a sentence.
    pub(super) fn out_of_range(&self, found: &toml::Value) -> Option<String> {
        let outside = |least: u64, most: u64, it: Option<u64>, show: fn(u64) -> String| {
            let it = it?;
            (it < least || it > most).then(|| format!("must be from {} to {}", show(least), show(most)))
        };
        match self.form {
            Count(least, most) => {
                let number = found.as_integer()?;
                outside(least, most, Some(u64::try_from(number).unwrap_or(0)), |n| n.to_string())
            }
            Time(least, most) => {
                let time = value::parse_duration(found.as_str()?).ok()?;
                if time.is_zero() && self.section == "limits" && self.name != "drain_timeout" {
                    return Some("must be more than 0".to_owned());
                }
                let over = time > Duration::from_secs(most) || time < Duration::from_secs(least);
                let show = |seconds| value::format_duration(Duration::from_secs(seconds));
                over.then(|| format!("must be from {} to {}", show(least), show(most)))
            }
            Size(least, most) => {
                outside(least, most, value::parse_size(found.as_str()?).ok(), value::format_size)
            }
            _ => None,
        }
    }

    /// Reads the text of a variable or flag in this key's form.
    pub(super) fn read(&self, text: &str) -> toml::Value {
        match self.form {
            Flag => text.parse().map_or_else(|_| text.into(), toml::Value::Boolean),
            Count(..) => text.parse().map_or_else(|_| text.into(), toml::Value::Integer),
            List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                toml::Value::Array(items.map(Into::into).collect())
            }
            _ => text.into(),
        }
    }

    fn schema(&self, default: Option<&Value>) -> Value {
        let mut schema = match self.form {
            Text => json!({"type": "string"}),
            Choice(choices) => json!({"type": "string", "enum": choices}),
            Flag => json!({"type": "boolean"}),
            Count(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
            Time(..) => json!({"type": "string", "pattern": "^(0|([0-9]+(ms|s|m|h|d))+)$"}),
            Size(..) => json!({"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(B|[KMG]i?B)?$"}),
            List => json!({"type": "array", "items": {"type": "string"}}),
            Form::Map => json!({"type": "object"}),
            Form::Empty => json!({"type": "object", "additionalProperties": false}),
        };
        schema["description"] = self.doc.into();
        if let Some(default) = default {
            schema["default"] = default.clone();
        }
        schema
    }
}

/// `join("listen", "quic")` is `"listen.quic"`.
pub(super) fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Whether a section may appear many times, by itself or with the one it stands in.
pub(super) fn is_repeated(section: &str) -> bool {
    let inside = |outer: &&str| section.strip_prefix(*outer).is_some_and(|rest| rest.starts_with('.'));
    REPEATED.contains(&section) || REPEATED.iter().any(inside)
}

/// The keys of one section.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.section == section)
}

/// Names of the sections directly below a section.
pub(super) fn sections_below(section: &str) -> impl Iterator<Item = &'static str> {
    SECTIONS.iter().filter_map(move |below| {
        let rest = if section.is_empty() { below } else { below.strip_prefix(section)?.strip_prefix('.')? };
        (!rest.is_empty() && !rest.contains('.')).then_some(rest)
    })
}

/// The JSON Schema of the config file.
pub(super) fn schema(defaults: &Config) -> Value {
    let defaults = serde_json::to_value(defaults).expect("a config is plain data");
    let mut schema = section_schema("", &defaults);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Tombolo config file".into();
    schema
}

fn section_schema(section: &str, defaults: &Value) -> Value {
    let mut properties = Map::new();
    for key in of_section(section) {
        properties.insert(key.name.to_owned(), key.schema(defaults.get(key.name)));
    }
    for below in sections_below(section) {
        let inner = section_schema(&join(section, below), defaults.get(below).unwrap_or(&Value::Null));
        let repeated = REPEATED.contains(&join(section, below).as_str());
        let schema = if repeated { json!({"type": "array", "items": inner}) } else { inner };
        properties.insert(below.to_owned(), schema);
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}
