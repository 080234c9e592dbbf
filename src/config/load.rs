//! Puts the layers of the configuration together: file, environment, flags, in rising order.
//!
//! Each layer is read into the typed [`Config`] before the next is laid over it, so a wrong value is always
//! blamed on the line, variable or flag it came from.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{
    Config, ExportFlags, ExportSpec, ISSUER,
    keys::{self, Key},
    source::{Source, unknown_key},
};
use crate::model::{
    code::{Code, Problem},
    ids::{ClusterId, ServiceLabel, SpiffeId},
    limits,
};

/// The config file as its caller read it.
#[derive(Debug, Clone, Copy)]
pub struct FileText<'a> {
    /// Its path, for messages.
    pub path: &'a str,
    /// Its whole text.
    pub text: &'a str,
}

/// What flags say; they stand above the file and the environment. Texts are parsed by [`Config::load`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--cluster`.
    pub cluster: Option<String>,
    /// `--locality`.
    pub locality: Option<String>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--dns`.
    pub dns: Option<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--virtual-ips`.
    pub virtual_ips: Option<String>,
    /// `--export`, each `NAME[.NAMESPACE]=ADDR[,ADDR]`.
    pub exports: Vec<String>,
}

impl Overrides {
    fn flags(&self) -> impl Iterator<Item = (&'static str, &'static str, &str)> {
        [
            ("--cluster", "cluster", &self.cluster),
            ("--locality", "locality", &self.locality),
            ("--listen", "listen.quic", &self.listen),
            ("--dns", "listen.dns", &self.dns),
            ("--admin", "listen.admin", &self.admin),
            ("--virtual-ips", "names.virtual_ips", &self.virtual_ips),
        ]
        .into_iter()
        .filter_map(|(flag, path, text)| Some((flag, path, text.as_deref()?)))
    }
}

/// The layers while they are put together.
struct Layers<'a> {
    source: Option<Source<'a>>,
    table: Table,
    config: Config,
    /// Which variable or flag set a path.
    set_by: BTreeMap<String, (Code, String)>,
}

pub(super) fn load(
    file: Option<FileText<'_>>,
    env: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Config, Problem> {
    let mut layers = Layers::from_file(file)?;
    let variables: BTreeMap<String, String> = env.into_iter().collect();
    for (variable, text) in &variables {
        if let Some(key) = key_of_variable(variable)? {
            layers.set(key, text, Code::CONFIG_VALUE_INVALID, variable)?;
        }
    }
    for (flag, path, text) in overrides.flags() {
        let key = keys::KEYS.iter().find(|key| key.path() == path).expect("flags name keys of the table");
        layers.set(key, text, Code::FLAG_INVALID, flag)?;
    }
    for text in &overrides.exports {
        let spec = ExportSpec::from_flag(text, &ExportFlags::default(), &layers.config.names.zone)?;
        layers.config.exports.push(spec);
    }
    layers.finish()
}

/// A config as the table its file would be.
pub(super) fn table_of(config: &Config) -> Table {
    Table::try_from(config).expect("a config is plain data")
}

impl<'a> Layers<'a> {
    fn from_file(file: Option<FileText<'a>>) -> Result<Self, Problem> {
        let set_by = BTreeMap::new();
        let Some(file) = file else {
            return Ok(Self { source: None, table: Table::new(), config: Config::default(), set_by });
        };
        let source = Source::parse(file.path, file.text)?;
        let mut config: Config = toml::from_str(file.text).map_err(|error| {
            let span = error.span().unwrap_or_default();
            let path = source.path_at(&span).map(|path| format!("{path}: ")).unwrap_or_default();
            let what = error.message().lines().next().unwrap_or_default();
            let message = format!("{path}{what}, {}", source.line(span.start));
            Problem::new(Code::CONFIG_VALUE_INVALID, message)
        })?;
        for (count, spec) in config.exports.iter_mut().enumerate() {
            spec.place = source.line_of(&format!("export.{count}")).unwrap_or_else(|| file.path.to_owned());
        }
        let table = file.text.parse().expect("the text was parsed just before");
        Ok(Self { source: Some(source), table, config, set_by })
    }

    /// Lays one value over the table, and reads the whole again.
    fn set(&mut self, key: &Key, text: &str, code: Code, by: &str) -> Result<(), Problem> {
        let mut table = self.table.clone();
        let value = key.read(text);
        if key.section.is_empty() {
            table.insert(key.name.to_owned(), value);
        } else {
            let section = table.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
            let section = section.as_table_mut().expect("a section was read as a table before");
            section.insert(key.name.to_owned(), value);
        }
        let mut config: Config = table.clone().try_into().map_err(|error: toml::de::Error| {
            let what = error.message().lines().next().unwrap_or_default();
            Problem::new(code, format!("{by}={text}: {what}"))
        })?;
        for (new, old) in config.exports.iter_mut().zip(&self.config.exports) {
            new.place.clone_from(&old.place);
        }
        (self.table, self.config) = (table, config);
        self.set_by.insert(key.path(), (code, by.to_owned()));
        Ok(())
    }

    /// Checks what no single value shows, and gives the config away.
    fn finish(self) -> Result<Config, Problem> {
        self.check_ranges()?;
        check_names(&self.config).map_err(|(path, why)| self.wrong(&path, &why))?;
        check_rules(&self.config).map_err(|(path, why)| self.wrong(&path, &why))?;
        check_exports(&self.config)?;
        Ok(self.config)
    }

    fn check_ranges(&self) -> Result<(), Problem> {
        let table = table_of(&self.config);
        for key in keys::KEYS {
            if keys::is_repeated(key.section) {
                let items = self.table.get(key.section).and_then(Value::as_array).into_iter().flatten();
                for (count, item) in items.enumerate() {
                    if let Some(why) = item.get(key.name).and_then(|found| key.out_of_range(found)) {
                        return Err(self.wrong(&format!("{}.{count}.{}", key.section, key.name), &why));
                    }
                }
                continue;
            }
            let section = if key.section.is_empty() { Some(&table) } else { table[key.section].as_table() };
            if let Some(why) =
                section.and_then(|it| it.get(key.name)).and_then(|found| key.out_of_range(found))
            {
                return Err(self.wrong(&key.path(), &why));
            }
        }
        Ok(())
    }

    fn wrong(&self, path: &str, why: &str) -> Problem {
        if let Some((code, by)) = self.set_by.get(path) {
            return Problem::new(*code, format!("{by}: {path} {why}"));
        }
        let line = self.source.as_ref().and_then(|source| source.line_of(path));
        let place = line.map(|line| format!(", {line}")).unwrap_or_default();
        Problem::new(Code::CONFIG_VALUE_INVALID, format!("{path} {why}{place}"))
    }
}

/// A path and why its value is wrong.
type Wrong = (String, String);

fn wrong(path: impl Into<String>, why: impl Into<String>) -> Result<(), Wrong> {
    Err((path.into(), why.into()))
}

fn check_names(config: &Config) -> Result<(), Wrong> {
    let zone = &config.names.zone;
    if zone.len() > 200 || zone.split('.').any(|label| ServiceLabel::parse(label).is_err()) {
        return wrong("names.zone", format!("{zone:?} is not a DNS zone of lower-case labels"));
    }
    let network = config.names.virtual_ips;
    if network.addr().octets()[0] != 127 || network.prefix_len() < 8 || network.prefix_len() > 28 {
        return wrong(
            "names.virtual_ips",
            format!("{network} is not a network of /8 to /28 inside 127.0.0.0/8"),
        );
    }
    let addresses = &config.advertise.addresses;
    if addresses.len() > limits::PEER_ENDPOINTS_MAX {
        return wrong("advertise.addresses", format!("has more than {}", limits::PEER_ENDPOINTS_MAX));
    }
    for address in addresses {
        let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
        if port.is_none() || address.len() > limits::PEER_ENDPOINT_BYTES_MAX {
            return wrong("advertise.addresses", format!("{address:?} is not of the form host:port"));
        }
    }
    if config.identity.root_life <= config.identity.svid_life {
        return wrong("identity.root_life", "must be longer than svid_life");
    }
    if config.limits.connection_window > config.limits.connection_window_max {
        return wrong("limits.connection_window", "must not exceed connection_window_max");
    }
    Ok(())
}

fn check_rules(config: &Config) -> Result<(), Wrong> {
    for who in &config.auto_approve {
        if who != ISSUER && ClusterId::parse(who).is_err() {
            return wrong("auto_approve", format!("{who:?} is neither {ISSUER} nor a cluster id"));
        }
    }
    for (count, grant) in config.grants.iter().enumerate() {
        if grant.exports.is_empty() || grant.peers.is_empty() {
            return wrong(format!("grant.{count}"), "must name at least one pattern in exports and in peers");
        }
    }
    for (count, import) in config.imports.iter().enumerate() {
        if import.names.is_empty() || import.peers.is_empty() {
            return wrong(format!("import.{count}"), "must name at least one pattern in names and in peers");
        }
    }
    for (count, failover) in config.failovers.iter().enumerate() {
        if failover.names.is_empty() {
            return wrong(format!("failover.{count}"), "must name at least one pattern in names");
        }
    }
    for (count, caller) in config.callers.iter().enumerate() {
        if SpiffeId::parse(&format!("spiffe://example/{}", caller.identity)).is_err() {
            let why = format!("{:?} is not a path as in ns/shop/sa/cart", caller.identity);
            return wrong(format!("caller.{count}.identity"), why);
        }
    }
    Ok(())
}

fn check_exports(config: &Config) -> Result<(), Problem> {
    let mut seen: BTreeMap<_, &str> = BTreeMap::new();
    for spec in &config.exports {
        let name = spec.service_name();
        if let Err(why) = spec.check() {
            return Err(Problem::new(
                Code::CONFIG_VALUE_INVALID,
                format!("export {name} {why}, {}", spec.place),
            ));
        }
        if let Some(first) = seen.insert(name.clone(), &spec.place) {
            return Err(ExportSpec::declared_twice(&name, first, &spec.place));
        }
    }
    Ok(())
}

/// The key a variable overrides; none for variables that are not ours. A name that begins with one of our
/// sections and is no key is an error, unless it is what Kubernetes sets for a Service of that name.
fn key_of_variable(variable: &str) -> Result<Option<&'static Key>, Problem> {
    if let Some(key) = keys::KEYS.iter().find(|key| key.variable().as_deref() == Some(variable)) {
        return Ok(Some(key));
    }
    let Some(rest) = variable.strip_prefix("TOMBOLO_") else { return Ok(None) };
    let Some((section, name)) = rest.split_once('_') else { return Ok(None) };
    let section = section.to_lowercase();
    let ours = !section.is_empty() && keys::SECTIONS.contains(&section.as_str());
    let of_kubernetes = name.starts_with("SERVICE_") || name == "PORT" || name.starts_with("PORT_");
    if !ours || of_kubernetes || keys::is_repeated(&section) {
        return Ok(None);
    }
    Err(unknown_key(&section, &name.to_lowercase(), &format!("variable {variable}")))
}
