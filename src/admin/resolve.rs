//! `GET /v1/resolve`: what the zone answers for a name, and why.

use std::time::Instant;

use super::{
    api::{Resolution, schema},
    services,
};
use crate::model::{
    code::{Code, Problem},
    ids::{ClusterId, ServiceName},
    import::{Import, ImportCluster},
    state::State,
    zone::{Answer, Data, NAME_BYTES_MAX, Owner, QueryType, Question, Rcode, Record, ZoneSource, answer},
};

/// What is asked; the records that clients look up.
const KINDS: [QueryType; 3] = [QueryType::A, QueryType::Aaaa, QueryType::Srv];

/// Answers for a name as people write it.
pub(super) fn resolve(
    typed: &str,
    zone: &dyn ZoneSource,
    state: &State,
    now: Instant,
) -> Result<Resolution, Problem> {
    let name = full_name(typed, zone)?;
    let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
    let ask = |kind| answer(&Question { labels: &labels, kind }, zone, now);
    let answers = KINDS.map(ask);
    // All three ask for one name, so they differ in what they hold, and one that cannot be told yet counts.
    let rcode = answers.iter().map(|answer| answer.rcode).max().unwrap_or(Rcode::NoError);
    let records = answers.iter().flat_map(|answer| answer.answers.iter().chain(&answer.additionals));
    let mut lines: Vec<String> = Vec::new();
    for line in records.map(|record| in_zone_form(record, &name)) {
        // The address of an SRV record's target is often an answer already.
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    Ok(Resolution {
        schema: schema("resolve"),
        why: why(&name, rcode, &answers, zone, state),
        name,
        rcode: word(rcode).to_owned(),
        answers: lines,
    })
}

/// `web.shop`, `_http._tcp.web.shop`, `x.svc`, or a whole DNS name, as a whole DNS name.
fn full_name(typed: &str, zone: &dyn ZoneSource) -> Result<String, Problem> {
    let typed = typed.trim();
    let text = typed.strip_suffix('.').unwrap_or(typed).to_ascii_lowercase();
    let apex = zone.zone().as_str();
    let labels: Vec<&str> = text.split('.').collect();
    if labels.iter().any(|label| label.is_empty() || label.len() > 63) || text.len() > NAME_BYTES_MAX {
        let message = format!("{:?} is no name", text.chars().take(80).collect::<String>());
        return Err(Problem::new(Code::FLAG_INVALID, message)
            .with_fix("write NAME, NAME.NAMESPACE or a whole DNS name, as in web.shop"));
    }
    if text == apex || text.ends_with(&format!(".{apex}")) {
        return Ok(text);
    }
    if text.ends_with(".svc") {
        return Ok(format!("{text}.{apex}"));
    }
    let at = labels.iter().take_while(|label| label.starts_with('_')).count();
    let (prefix, spoken) = labels.split_at(at);
    Ok(match ServiceName::parse_spoken(&spoken.join("."), apex) {
        Ok(name) => {
            let prefix: String = prefix.iter().map(|label| format!("{label}.")).collect();
            format!("{prefix}{}", zone.zone().service(&name))
        }
        // Something else than a service: answered as it stands.
        Err(_) => text,
    })
}

fn word(rcode: Rcode) -> &'static str {
    match rcode {
        Rcode::NoError => "NOERROR",
        Rcode::NxDomain => "NXDOMAIN",
        Rcode::ServFail => "SERVFAIL",
        Rcode::Refused => "REFUSED",
    }
}

/// A record as a zone file has it (RFC 1035 section 5.1).
fn in_zone_form(record: &Record, asked: &str) -> String {
    let owner = match &record.owner {
        Owner::Asked => asked,
        Owner::Named(name) => name.as_str(),
    };
    let data = match &record.data {
        Data::A(ip) => format!("A {ip}"),
        Data::Srv { priority, weight, port, target } => format!("SRV {priority} {weight} {port} {target}."),
        Data::Txt(text) => format!("TXT \"{text}\""),
        Data::Ns(name) => format!("NS {name}."),
        Data::Soa(soa) => format!(
            "SOA {}. {}. {} {} {} {} {}",
            soa.server, soa.contact, soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum
        ),
    };
    format!("{owner}. {} IN {data}", record.ttl)
}

fn why(name: &str, rcode: Rcode, answers: &[Answer], zone: &dyn ZoneSource, state: &State) -> String {
    let service = service_in(name, zone);
    let import = service.as_ref().and_then(|service| zone.import(service));
    match (rcode, service, import) {
        (Rcode::Refused, ..) => {
            format!("the name lies outside the zone {}, and this server answers for no other", zone.zone())
        }
        (Rcode::ServFail, _, Some(import)) => {
            format!("{}; its virtual IP is not there yet", exporters(import, state))
        }
        (Rcode::ServFail, ..) => format!("{}, so a miss is not yet final: ask again", waiting(state)),
        (Rcode::NxDomain, Some(_), Some(import)) => format!(
            "{}; it has no port or ready endpoint of that name{}",
            exporters(import, state),
            if import.headless { ", or no ready endpoint at all" } else { "" }
        ),
        (Rcode::NxDomain, Some(service), None) => missing(&service, state),
        (Rcode::NxDomain, None, _) => {
            "no name of the zone has that form: services are NAME.NAMESPACE.svc".to_owned()
        }
        (Rcode::NoError, _, Some(import)) => {
            let told = exporters(import, state);
            let empty = answers.iter().all(|answer| answer.answers.is_empty());
            if empty { format!("{told}; the name itself has no A, AAAA or SRV record") } else { told }
        }
        (Rcode::NoError, ..) => "the name is a part of the zone and stands for no service".to_owned(),
    }
}

/// The service that a name of the zone is of: the last labels before `svc`.
fn service_in(name: &str, zone: &dyn ZoneSource) -> Option<ServiceName> {
    let inside = name.strip_suffix(zone.zone().as_str())?.strip_suffix(".svc.")?;
    let mut labels = inside.rsplit('.');
    let (namespace, service) = (labels.next()?, labels.next()?);
    // Below a service stand at most a host name and its cluster, or a port and its protocol.
    if labels.count() > 2 {
        return None;
    }
    ServiceName::parse(&format!("{namespace}/{service}")).ok()
}

/// `shop/web is exported by east (2 of 2 ready), west (1 of 3 ready, stale)`.
fn exporters(import: &Import, state: &State) -> String {
    let part = |part: &ImportCluster| {
        let (ready, total) = (part.ready(), services::total(&part.zones));
        let here = if part.cluster == state.me.cluster { ", this one" } else { "" };
        let freshness = match services::freshness(part.freshness) {
            "live" => String::new(),
            word => format!(", {word}"),
        };
        format!("{} ({ready} of {total} ready{here}{freshness})", part.cluster)
    };
    let parts: Vec<String> = import.clusters.iter().map(part).collect();
    format!("{} is exported by {}", import.name, parts.join(", "))
}

/// Why a service is no import: nobody exports it, or what is held of it does not count.
fn missing(service: &ServiceName, state: &State) -> String {
    let mut held = state.catalogs.iter().filter(|(_, catalog)| catalog.rows.contains_key(service));
    let told = |cluster: &ClusterId| match services::refusal(service, cluster, state) {
        Some(reason) => format!("{cluster} exports {service}, but it is not taken here: {reason}"),
        None => format!(
            "{cluster} exported {service} and was not heard for so long that its names were withdrawn"
        ),
    };
    held.next()
        .map_or_else(|| format!("no cluster exports {service} to this one"), |(cluster, _)| told(cluster))
}

/// Who is not there yet.
fn waiting(state: &State) -> String {
    let missing = |cluster: &&ClusterId| state.catalogs.get(*cluster).is_none_or(|catalog| !catalog.synced);
    let peers: Vec<&str> = state.peers.keys().filter(missing).map(|cluster| cluster.as_str()).collect();
    if peers.is_empty() {
        "this gateway has just started".to_owned()
    } else {
        format!("nothing has been received of {} yet", peers.join(", "))
    }
}
