//! From the config file's words to the model's rules: grants, imports, failover, callers, quotas.

use ipnet::IpNet;

use crate::{
    config::{self, Config, ISSUER},
    link::LinkLimits,
    model::{
        code::{Code, Problem},
        failover::{Affinity, FailoverPolicy},
        ids::{ClusterId, ServiceName, SpiffeId, TrustDomain},
        introduction::Introductions,
        policy::{
            CallerPattern, EgressRule, Grant, Grants, Guardrail, ImportAction, ImportRule, NamePattern,
            PatternError, PeerPattern, is_reserved,
        },
        replication::Quotas,
        state::{FailoverRule, Settings},
    },
    peer::PeerLimits,
    proxy::ProxyLimits,
};

/// Everything that may change while running.
///
/// # Errors
/// [`Code::CONFIG_VALUE_INVALID`] names what cannot be read, [`Code::SETTING_NOT_SERVED`] what this release does not do.
pub(super) fn settings(config: &Config, domain: &TrustDomain) -> Result<Settings, Problem> {
    let grants = config.grants.iter().map(grant).collect::<Result<_, _>>()?;
    if let Some(wrong) =
        config.auto_approve.iter().find(|name| *name != ISSUER && ClusterId::parse(name).is_err())
    {
        return Err(value("auto_approve", format!("{wrong:?} is neither {ISSUER} nor a cluster id")));
    }
    Ok(Settings {
        grants: Grants {
            default: config.default_grant,
            grants,
            guardrails: config.guardrails.iter().map(guardrail).collect::<Result<_, _>>()?,
        },
        egress: config.egress.iter().map(|rule| egress(rule, domain)).collect::<Result<_, _>>()?,
        callers: callers(config, domain)?,
        imports: config.imports.iter().map(import).collect::<Result<_, _>>()?,
        introductions: config.introductions == Introductions::Ask,
        auto_approve: config.auto_approve.clone(),
        failovers: config.failovers.iter().map(failover).collect::<Result<_, _>>()?,
    })
}

fn value(section: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(Code::CONFIG_VALUE_INVALID, format!("{section}: {message}"))
}

fn patterns<T>(
    section: &str,
    texts: &[String],
    parse: impl Fn(&str) -> Result<T, PatternError>,
) -> Result<Vec<T>, Problem> {
    texts.iter().map(|text| parse(text).map_err(|error| value(section, error))).collect()
}

fn grant(grant: &config::Grant) -> Result<Grant, Problem> {
    Ok(Grant {
        exports: patterns("grant.exports", &grant.exports, NamePattern::parse)?,
        peers: patterns("grant.peers", &grant.peers, PeerPattern::parse)?,
        callers: patterns("grant.callers", &grant.callers, CallerPattern::parse)?,
        mode: grant.mode,
    })
}

fn import(import: &config::Import) -> Result<ImportRule, Problem> {
    let names = patterns("import.names", &import.names, NamePattern::parse)?;
    let alias = alias(import, &names)?;
    Ok(ImportRule {
        names,
        peers: patterns("import.peers", &import.peers, PeerPattern::parse)?,
        action: match import.action {
            config::ImportAction::Allow => ImportAction::Allow,
            config::ImportAction::Refuse => ImportAction::Deny,
        },
        alias,
        merge: import.merge,
    })
}

/// An alias stands for one name: a pattern would make one service of many.
fn alias(import: &config::Import, names: &[NamePattern]) -> Result<Option<ServiceName>, Problem> {
    if import.alias.is_empty() {
        return Ok(None);
    }
    let alias = ServiceName::parse(&import.alias).map_err(|error| value("import.alias", error))?;
    if is_reserved(&alias) {
        return Err(value("import.alias", format!("{alias} is a reserved name")));
    }
    match names {
        [one] if one.literal().is_some() => Ok(Some(alias)),
        _ => Err(value("import.alias", "stands for exactly one name, without a star, in `names`")),
    }
}

fn guardrail(rule: &config::Guardrail) -> Result<Guardrail, Problem> {
    Ok(Guardrail {
        exports: patterns("guardrail.exports", &rule.exports, NamePattern::parse)?,
        peers: patterns("guardrail.peers", &rule.peers, PeerPattern::parse)?,
    })
}

fn egress(rule: &config::Egress, domain: &TrustDomain) -> Result<EgressRule, Problem> {
    let caller = |text: &str| match text.strip_prefix("spiffe://") {
        Some(_) => CallerPattern::parse(text),
        None => CallerPattern::parse(&format!("spiffe://{domain}/{text}")),
    };
    Ok(EgressRule {
        names: patterns("egress.names", &rule.names, NamePattern::parse)?,
        callers: patterns("egress.callers", &rule.callers, caller)?,
    })
}

fn failover(rule: &config::Failover) -> Result<FailoverRule, Problem> {
    let cluster = |text: &String| {
        ClusterId::parse(text).map_err(|error| {
            value("failover", format!("{error}; it names cluster ids, and regions of that form"))
        })
    };
    let weight = |(text, weight): (&String, &u32)| Ok::<_, Problem>((cluster(text)?, *weight));
    let policy = FailoverPolicy {
        affinity: match rule.affinity {
            config::Affinity::Local => Affinity::Local,
            config::Affinity::Remote => Affinity::Remote,
            config::Affinity::None => Affinity::None,
        },
        order: rule.order.iter().map(cluster).collect::<Result<_, _>>()?,
        weights: rule.weights.iter().map(weight).collect::<Result<_, _>>()?,
        hold: rule.hold,
        ..FailoverPolicy::default()
    };
    Ok(FailoverRule { names: patterns("failover.names", &rule.names, NamePattern::parse)?, policy })
}

/// Who clients are by their address; the first entry that matches counts.
fn callers(config: &Config, domain: &TrustDomain) -> Result<Vec<(IpNet, SpiffeId)>, Problem> {
    let caller = |caller: &config::Caller| {
        let id = SpiffeId::parse(&format!("spiffe://{domain}/{}", caller.identity));
        Ok((caller.source, id.map_err(|error| value("caller.identity", error))?))
    };
    config.callers.iter().map(caller).collect()
}

/// What is taken from one peer.
pub(super) fn quotas(config: &Config) -> Quotas {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let limits = &config.limits;
    Quotas {
        services: limits.services,
        endpoints: limits.endpoints_per_service,
        ports: limits.ports_per_service,
        zones: limits.zones_per_service,
        row_bytes: size(limits.row),
        catalog_bytes: size(limits.catalog),
        rows_per_second: limits.rows_per_second,
        ..Quotas::default()
    }
}

/// What links may take.
pub(super) fn link_limits(config: &Config) -> LinkLimits {
    let limits = &config.limits;
    LinkLimits {
        connection_window: limits.connection_window,
        connection_window_max: limits.connection_window_max,
        stream_window: limits.stream_window,
        bidi_streams: limits.bidi_streams,
        opens_per_second: limits.opens_per_second,
        header_timeout: limits.header_timeout,
        handshake_timeout: limits.handshake_timeout,
        memory: limits.memory,
        congestion: config.link.congestion,
    }
}

/// What sessions and joins may take.
pub(super) fn peer_limits(config: &Config) -> PeerLimits {
    let limits = &config.limits;
    PeerLimits {
        http2_stream_window: u32::try_from(limits.http2_stream_window).unwrap_or(u32::MAX),
        header_timeout: limits.header_timeout,
        handshake_timeout: limits.handshake_timeout,
        join_timeout: limits.join_timeout,
        join_message: usize::try_from(limits.join_message).unwrap_or(usize::MAX),
        peers: limits.peers,
    }
}

/// What the proxy may take.
pub(super) fn proxy_limits(config: &Config) -> ProxyLimits {
    ProxyLimits { connections: config.limits.connections, header_timeout: config.limits.header_timeout }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::congestion::CongestionControl;

    #[test]
    fn every_limit_of_the_config_reaches_what_it_limits() {
        let config = Config::default();
        assert_eq!(link_limits(&config), LinkLimits::default());
        assert_eq!(peer_limits(&config), PeerLimits::default());
        assert_eq!(proxy_limits(&config), ProxyLimits::default());
        let text = "[link]\ncongestion = \"delay\"\n[limits]\nconnection_window = \"1MiB\"\nconnection_window_max = \"2MiB\"\nstream_window = \"64KiB\"\n\
                    http2_stream_window = \"128KiB\"\nbidi_streams = 17\nopens_per_second = 18\nheader_timeout = \"1s\"\n\
                    handshake_timeout = \"2s\"\njoin_timeout = \"4s\"\njoin_message = \"8KiB\"\nmemory = \"32MiB\"\n\
                    connections = 19\npeers = 20\n";
        let file = config::FileText { path: "tombolo.toml", text };
        let config = Config::load(Some(file), [], &config::Overrides::default()).expect("a config");
        let second = std::time::Duration::from_secs(1);
        let links = LinkLimits {
            connection_window: 1 << 20,
            connection_window_max: 2 << 20,
            stream_window: 64 << 10,
            bidi_streams: 17,
            opens_per_second: 18,
            header_timeout: second,
            handshake_timeout: second * 2,
            memory: 32 << 20,
            congestion: CongestionControl::Delay,
        };
        assert_eq!(link_limits(&config), links);
        let peers = PeerLimits {
            http2_stream_window: 128 << 10,
            header_timeout: second,
            handshake_timeout: second * 2,
            join_timeout: second * 4,
            join_message: 8 << 10,
            peers: 20,
        };
        assert_eq!(peer_limits(&config), peers);
        assert_eq!(proxy_limits(&config), ProxyLimits { connections: 19, header_timeout: second });
    }

    #[test]
    fn rules_are_read_or_refused_by_their_key() {
        let approving = |name: &str| Config { auto_approve: vec![name.to_owned()], ..Config::default() };
        let domain = TrustDomain::parse("east.test").expect("a domain");
        let mut config = approving("Not A Cluster");
        assert_eq!(settings(&config, &domain).expect_err("refused").code, Code::CONFIG_VALUE_INVALID);
        config.auto_approve = vec![ISSUER.to_owned(), "west".to_owned()];
        assert!(settings(&config, &domain).is_ok());
    }
}
