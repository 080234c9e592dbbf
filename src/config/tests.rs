//! What a config file may say, and how each mistake is told.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::model::{
    catalog::ExportSource,
    code::Code,
    ids::{Incarnation, Timestamp},
};

fn load(text: &str) -> Result<Config, Problem> {
    Config::load(Some(FileText { path: "tombolo.toml", text }), [], &Overrides::default())
}

fn problem(text: &str) -> (Code, String, String) {
    let problem = load(text).expect_err("the text is wrong");
    (problem.code, problem.message, problem.fix)
}

fn variables(pairs: &[(&str, &str)]) -> Result<Config, Problem> {
    let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(None, owned.collect::<Vec<_>>(), &Overrides::default())
}

/// The sample of the reference, whole.
const SAMPLE: &str = r#"
cluster = "east"
trust_domain = ""
locality = "eu/eu-1a"
default_grant = "clusterset"
introductions = "ask"
auto_approve = ["@issuer"]
[listen]
quic = "0.0.0.0:7443"
dns = "127.0.0.1:5533"
admin = "127.0.0.1:7070"
[advertise]
addresses = []
[names]
zone = "clusterset.local"
virtual_ips = "127.77.0.0/16"
ttl = "5s"
[identity]
svid_life = "24h"
root_life = "8760h"
rotation_patience = "24h"
retire_after = "10m"
workload_roots = []
bundles = ""
[limits]
stream_window = "2.4MB"
[[export]]
namespace = "default"
name = "web"
idempotent = false
headless = false
labels = {}
  [[export.port]]
  name = "http"
  port = 80
  protocol = "tcp"
  app_protocol = ""
  to = ["127.0.0.1:8080"]
  health = {}
[[grant]]
exports = ["default/*"]
peers = ["west"]
callers = []
mode = "enforce"
[[guardrail]]
exports = ["dev/*"]
peers = ["*"]
[[egress]]
names = ["pay/*"]
callers = ["ns/shop/sa/*"]
[[import]]
names = ["shop/*"]
peers = ["*"]
action = "allow"
alias = ""
merge = true
[[failover]]
names = ["shop/web"]
affinity = "local"
order = []
weights = {}
hold = "5s"
active = {}
[[caller]]
source = "127.0.0.5/32"
identity = "ns/shop/sa/cart"
"#;

#[test]
fn an_empty_file_is_the_defaults() {
    assert_eq!(load("").expect("empty is fine"), Config::default());
}

#[test]
fn the_sample_of_the_reference_is_read_whole() {
    let config = load(SAMPLE).expect("the sample is right");
    assert_eq!(config.cluster_id("host").as_str(), "east");
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.exports[0].place, "tombolo.toml line 27");
    let export = config.exports[0].to_export(
        Timestamp(7),
        Incarnation::from_slice(&[1; 16]).expect("16"),
        ExportSource::File,
    );
    assert_eq!((export.name.to_string().as_str(), export.ports[0].port.number), ("default/web", 80));
    assert_eq!((config.grants.len(), config.imports.len(), config.failovers.len()), (1, 1, 1));
    assert_eq!(config.callers[0].identity, "ns/shop/sa/cart");
}

#[test]
fn what_is_shown_is_read_again() {
    for config in [Config::default(), load(SAMPLE).expect("the sample is right")] {
        let mut again = load(&config.show()).expect("what was shown is right");
        for (new, old) in again.exports.iter_mut().zip(&config.exports) {
            new.place.clone_from(&old.place);
        }
        assert_eq!(again, config, "{}", config.show());
    }
}

#[test]
fn an_unknown_key_names_section_line_and_the_key_that_was_meant() {
    let (code, message, fix) = problem("cluster = \"east\"\n[listen]\nquick = \"0.0.0.0:1\"\n");
    assert_eq!(code, Code::CONFIG_KEY_UNKNOWN);
    assert_eq!(message, "unknown key \"quick\" in [listen], tombolo.toml line 3");
    assert_eq!(fix, "did you mean `quic`?");
    assert_eq!(problem("[exprot]\n").2, "did you mean `export`?");
    assert_eq!(problem("[[export]]\nname=\"a\"\nidempotant=true\n").2, "did you mean `idempotent`?");
    assert_eq!(problem("auto-approve = []\n").2, "did you mean `auto_approve`?");
    assert_eq!(problem("svid_life = \"1h\"\n").2, "move it: `svid_life` belongs to [identity]");
    let fix = problem("[listen]\nzzz = 1\n").2;
    assert_eq!(fix, "remove it, or use one of: quic, dns, admin");
    assert!(
        problem("[[failover]]\nnames=[\"a/b\"]\nactive={http=\"/\"}\n").1.contains("in [failover.active]")
    );
}

#[test]
fn a_wrong_value_names_key_value_and_line() {
    let (code, message, _) = problem("\n[names]\nttl = \"5\"\n");
    assert_eq!(code, Code::CONFIG_VALUE_INVALID);
    assert!(message.starts_with("names.ttl: \"5\" is not a duration"), "{message}");
    assert!(message.ends_with("tombolo.toml line 3"), "{message}");
    for (text, part) in [
        ("cluster = \"East\"", "cluster: cluster id \"East\" may hold only lower-case"),
        ("cluster = 5", "cluster: invalid type: integer `5`, expected a string, tombolo.toml line 1"),
        ("default_grant = \"all\"", "expected `clusterset` or `none`"),
        ("[names]\nvirtual_ips = \"10.0.0.0/16\"", "inside 127.0.0.0/8, tombolo.toml line 2"),
        ("[names]\nzone = \"A b\"", "names.zone \"A b\" is not a DNS zone"),
        ("[limits]\nbidi_streams = 1", "limits.bidi_streams must be from 16 to 1048576, tombolo.toml line 2"),
        ("[limits]\nstream_window = \"9MiB\"", "must be from 16KiB to 8MiB"),
        ("[limits]\nheader_timeout = \"0\"", "must be more than 0"),
        ("[limits]\nconnection_window = \"65MiB\"", "must not exceed connection_window_max"),
        ("[identity]\nroot_life = \"1h\"", "must be longer than svid_life"),
        ("[advertise]\naddresses = [\"host\"]", "\"host\" is not of the form host:port"),
        ("auto_approve = [\"A!\"]", "neither @issuer nor a cluster id"),
        ("[[grant]]\nexports = []\npeers = [\"*\"]", "grant.0 must name at least one pattern"),
        ("[[grant]]\npeers = [\"*\"]", "missing field `exports`"),
        ("[[caller]]\nsource = \"127.0.0.5\"\nidentity = \"x\"", "caller.0.source: \"127.0.0.5\""),
        ("[[caller]]\nsource = \"::1/128\"\nidentity = \"../x\"", "is not a path as in ns/shop/sa/cart"),
        ("[[failover]]\nnames = [\"a/b\"]\nhold = \"99d\"", "failover.0.hold must be from 0s to 24h"),
    ] {
        let (code, message, _) = problem(text);
        assert_eq!(code, Code::CONFIG_VALUE_INVALID, "{text}");
        assert!(message.contains(part), "{text:?}: {message}");
    }
}

#[test]
fn what_is_not_toml_says_where() {
    let (code, message, _) = problem("cluster = \"east\"\n[listen\n");
    assert_eq!(code, Code::CONFIG_UNREADABLE);
    assert!(message.starts_with("tombolo.toml line 2 is not TOML"), "{message}");
}

#[test]
fn an_export_must_be_complete() {
    let port = "[[export.port]]\nto = [\"127.0.0.1:80\"]\n";
    for (text, part) in [
        ("[[export]]\nname = \"a\"".to_owned(), "has no [[export.port]]"),
        ("[[export]]\nname = \"a\"\n[[export.port]]\nport = 1".to_owned(), "without an address in `to`"),
        (format!("[[export]]\nname = \"a\"\n{port}{port}"), "has two ports named \"tcp-80\""),
        (format!("[[export]]\nname = \"a\"\n{port}name = \"x\"\n{port}"), "has port 80/tcp twice"),
        (format!("[[export]]\nname = \"a\"\n{port}port = 0"), "with the number 0"),
        (format!("[[export]]\nname = \"a\"\n{port}name = \"A b\""), "whose name is no label"),
    ] {
        let (code, message, _) = problem(&text);
        assert_eq!(code, Code::CONFIG_VALUE_INVALID, "{text}");
        assert!(message.contains(part), "{text:?}: {message}");
        assert!(message.contains("export default/a") && message.ends_with("line 1"), "{message}");
    }
    let config = load(&format!("[[export]]\nname = \"a\"\n{port}")).expect("a port follows from its address");
    let ports = config.exports[0].export_ports();
    assert_eq!((&*ports[0].port.name, ports[0].port.number), ("tcp-80", 80));
}

#[test]
fn one_name_declared_twice_names_both_places() {
    let one = "[[export]]\nname = \"web\"\n[[export.port]]\nto = [\"127.0.0.1:80\"]\n";
    let (code, message, _) = problem(&format!("{one}{one}"));
    assert_eq!(code, Code::EXPORT_DECLARED_TWICE);
    assert_eq!(
        message,
        "default/web is exported in two places: tombolo.toml line 1, and tombolo.toml line 5"
    );
    let flags = Overrides { exports: vec!["web=127.0.0.1:81".to_owned()], ..Overrides::default() };
    let twice = Config::load(Some(FileText { path: "a.toml", text: one }), [], &flags).expect_err("twice");
    assert!(twice.message.contains("a.toml line 1, and --export web=127.0.0.1:81"), "{twice}");
}

#[test]
fn variables_stand_over_the_file_and_flags_over_variables() {
    let text =
        "cluster = \"file\"\nlocality = \"a/b\"\n[listen]\nquic = \"0.0.0.0:1\"\ndns = \"127.0.0.1:2\"\n";
    let env = [("TOMBOLO_CLUSTER", "env"), ("TOMBOLO_LISTEN_QUIC", "0.0.0.0:3")];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = Overrides { cluster: Some("flag".to_owned()), ..Overrides::default() };
    let config = Config::load(Some(FileText { path: "f", text }), env, &flags).expect("all are right");
    assert_eq!(config.cluster_id("h").as_str(), "flag");
    assert_eq!(config.listen.quic.port(), 3);
    assert_eq!(config.listen.dns.port(), 2);
    assert_eq!(config.locality.to_string(), "a/b");
}

#[test]
fn variables_of_every_form_are_read() {
    let config = variables(&[
        ("TOMBOLO_LIMITS_SERVICES", "5"),
        ("TOMBOLO_LIMITS_MEMORY", "2GiB"),
        ("TOMBOLO_AUTO_APPROVE", "@issuer, west"),
        ("TOMBOLO_NAMES_TTL", "1s"),
        ("PATH", "/bin"),
        ("TOMBOLO_STATE", "/elsewhere"),
        ("TOMBOLO_LISTEN_SERVICE_HOST", "10.0.0.1"),
        ("TOMBOLO_NAMES_PORT_53_UDP", "udp://10.0.0.1:53"),
    ]);
    let config = config.expect("all are right or not ours");
    assert_eq!((config.limits.services, config.limits.memory), (5, 2 << 30));
    assert_eq!(config.auto_approve, ["@issuer", "west"]);
}

#[test]
fn a_wrong_variable_or_flag_is_named() {
    let wrong = variables(&[("TOMBOLO_LISTEN_QUIC", "here")]).expect_err("no address");
    assert!(wrong.message.starts_with("TOMBOLO_LISTEN_QUIC=here: "), "{wrong}");
    assert_eq!(wrong.code, Code::CONFIG_VALUE_INVALID);
    let wrong = variables(&[("TOMBOLO_LIMITS_PEERS", "0")]).expect_err("out of range");
    assert!(wrong.message.starts_with("TOMBOLO_LIMITS_PEERS: limits.peers must be"), "{wrong}");
    let wrong = variables(&[("TOMBOLO_LISTEN_QUICK", "here")]).expect_err("no such key");
    assert_eq!((wrong.code, wrong.fix.as_str()), (Code::CONFIG_KEY_UNKNOWN, "did you mean `quic`?"));
    let flags = Overrides { dns: Some("x".to_owned()), ..Overrides::default() };
    let wrong = Config::load(None, [], &flags).expect_err("no address");
    assert!(wrong.code == Code::FLAG_INVALID && wrong.message.starts_with("--dns=x: "), "{wrong}");
    for bad in ["web", "web=", "web=:80", "WEB=127.0.0.1:80", "web=127.0.0.1:0", "a.b.c=127.0.0.1:80"] {
        let flags = Overrides { exports: vec![bad.to_owned()], ..Overrides::default() };
        let wrong = Config::load(None, [], &flags).expect_err("no export");
        assert!(wrong.code == Code::FLAG_INVALID && wrong.message.contains(bad), "{wrong}");
    }
}

#[test]
fn an_export_flag_fills_in_its_port() {
    let flags = ExportFlags { port: Some(80), udp: true, idempotent: true, ..ExportFlags::default() };
    let spec = ExportSpec::from_flag("web.shop=127.0.0.1:8080,127.0.0.1:8081", &flags, "clusterset.local");
    let spec = spec.expect("it is right");
    let ports = spec.export_ports();
    assert_eq!(spec.service_name().to_string(), "shop/web");
    assert_eq!((&*ports[0].port.name, ports[0].port.number, ports[0].to.len()), ("udp-80", 80, 2));
    assert!(spec.idempotent);
}

#[test]
fn an_export_that_keeps_clients_says_so_to_others() {
    let spec = |affinity: &str| {
        let text =
            format!("[[export]]\nname = \"web\"\n{affinity}\n[[export.port]]\nto = [\"127.0.0.1:80\"]\n");
        load(&text).map(|config| config.exports[0].session_affinity.client_ip())
    };
    assert_eq!(spec("").expect("right"), None);
    assert_eq!(spec("session_affinity = \"none\"").expect("right"), None);
    let kept = spec("session_affinity = \"client-ip\"").expect("right");
    assert_eq!(kept.map(|client| client.timeout), Some(10_800), "as Kubernetes has it");
    assert!(spec("session_affinity = \"cookie\"").is_err());
}

#[test]
fn the_default_cluster_id_is_made_out_of_any_host_name() {
    let name = |host: &str| Config::default().cluster_id(host).as_str().to_owned();
    assert_eq!(name("Laptop_7.home.example"), "laptop-7");
    assert_eq!(name("-"), "cluster");
    assert_eq!(name(""), "cluster");
}

#[test]
fn a_reload_tells_which_changes_wait_for_a_restart() {
    let (old, mut new) = (Config::default(), load(SAMPLE).expect("the sample is right"));
    assert_eq!(old.changes_needing_restart(&new), ["cluster", "locality"]);
    new = old.clone();
    new.listen.dns.set_port(1);
    new.default_grant = DefaultGrant::None;
    assert_eq!(old.changes_needing_restart(&new), ["listen.dns"]);
}

#[test]
fn the_table_of_keys_and_the_types_agree() {
    let mut shown = load(SAMPLE).expect("the sample is right");
    shown.exports[0].labels.insert("a".to_owned(), "b".to_owned());
    let table = load::table_of(&shown);
    let mut of_types = BTreeSet::new();
    collect("", &toml::Value::Table(table), &mut of_types);
    let unseen = |key: &&keys::Key| !matches!(key.form, keys::Form::Empty);
    let of_table: BTreeSet<String> = keys::KEYS.iter().filter(unseen).map(keys::Key::path).collect();
    assert_eq!(of_types, of_table);
}

fn collect(section: &str, value: &toml::Value, paths: &mut BTreeSet<String>) {
    let Some(table) = value.as_table() else { return };
    for (name, inner) in table {
        let path = keys::join(section, name);
        match inner {
            toml::Value::Array(items) if keys::REPEATED.contains(&path.as_str()) => {
                items.iter().for_each(|item| collect(&path, item, paths));
            }
            toml::Value::Table(_) if keys::SECTIONS.contains(&path.as_str()) => collect(&path, inner, paths),
            _ => {
                paths.insert(path);
            }
        }
    }
}

#[test]
fn the_schema_has_every_key_with_its_default() {
    let schema: serde_json::Value = serde_json::from_str(&Config::schema_json()).expect("JSON");
    let listen = &schema["properties"]["listen"];
    assert_eq!(listen["properties"]["quic"]["default"], "0.0.0.0:7443");
    assert_eq!(listen["additionalProperties"], false);
    let port = &schema["properties"]["export"]["items"]["properties"]["port"]["items"]["properties"];
    assert_eq!(port["protocol"]["enum"][1], "udp");
    assert_eq!(schema["properties"]["limits"]["properties"]["memory"]["default"], "1GiB");
}

proptest! {
    #[test]
    fn no_text_makes_the_loader_panic(text in "[\\[\\]a-z_=\" \n.0-9{},]{0,80}") {
        let _ = load(&text);
    }

    #[test]
    fn every_known_key_with_a_wrong_type_is_a_problem_and_not_a_panic(
        key in 0..keys::KEYS.len(),
        value in prop::sample::select(vec!["1", "true", "\"x\"", "[]", "{}", "[{}]", "1.5", "1979-05-27"]),
    ) {
        let key = &keys::KEYS[key];
        let text = match key.section {
            "" => format!("{} = {value}", key.name),
            section if keys::REPEATED.contains(&section) => format!("[[{section}]]\n{} = {value}", key.name),
            section => format!("[{section}]\n{} = {value}", key.name),
        };
        if let Err(problem) = load(&text) {
            prop_assert!(problem.message.contains("tombolo.toml"), "{}", problem);
        }
    }
}
