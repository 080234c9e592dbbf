//! From the config file's words to the model's rules: grants, imports, failover, callers, quotas.

use ipnet::IpNet;

use crate::{
    config::{self, Config, ISSUER},
    model::{
        code::{Code, Problem},
        failover::{Affinity, FailoverPolicy},
        ids::{ClusterId, SpiffeId, TrustDomain},
        policy::{
            CallerPattern, DefaultGrant, Grant, GrantMode, Grants, ImportAction, ImportRule, NamePattern,
            PatternError, PeerPattern,
        },
        replication::Quotas,
        state::{FailoverRule, Settings},
    },
};

/// Everything that may change while running.
///
/// # Errors
/// [`Code::CONFIG_VALUE_INVALID`] names what cannot be read, [`Code::SETTING_NOT_SERVED`] what this release does not do.
pub(super) fn settings(config: &Config) -> Result<Settings, Problem> {
    let default = match config.default_grant {
        config::DefaultGrant::Clusterset => DefaultGrant::Clusterset,
        config::DefaultGrant::None => DefaultGrant::None,
    };
    let grants = config.grants.iter().map(grant).collect::<Result<_, _>>()?;
    if let Some(wrong) =
        config.auto_approve.iter().find(|name| *name != ISSUER && ClusterId::parse(name).is_err())
    {
        return Err(value("auto_approve", format!("{wrong:?} is neither {ISSUER} nor a cluster id")));
    }
    Ok(Settings {
        grants: Grants { default, grants },
        imports: config.imports.iter().map(import).collect::<Result<_, _>>()?,
        introductions: config.introductions == config::Introductions::Ask,
        auto_approve: config.auto_approve.clone(),
        failovers: config.failovers.iter().map(failover).collect::<Result<_, _>>()?,
    })
}

fn value(section: &str, message: impl std::fmt::Display) -> Problem {
    Problem::new(Code::CONFIG_VALUE_INVALID, format!("{section}: {message}"))
}

fn not_served(what: &str) -> Problem {
    Problem::new(Code::SETTING_NOT_SERVED, format!("{what} is not served by this release"))
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
        mode: match grant.mode {
            config::GrantMode::Enforce => GrantMode::Enforce,
            config::GrantMode::Audit => GrantMode::Audit,
        },
    })
}

fn import(import: &config::Import) -> Result<ImportRule, Problem> {
    if !import.alias.is_empty() {
        return Err(not_served("an import's `alias`"));
    }
    if !import.merge {
        return Err(not_served("an import's `merge = false`"));
    }
    Ok(ImportRule {
        names: patterns("import.names", &import.names, NamePattern::parse)?,
        peers: patterns("import.peers", &import.peers, PeerPattern::parse)?,
        action: match import.action {
            config::ImportAction::Allow => ImportAction::Allow,
            config::ImportAction::Refuse => ImportAction::Deny,
        },
        alias: None,
        merge: true,
    })
}

fn failover(rule: &config::Failover) -> Result<FailoverRule, Problem> {
    let cluster = |text: &String| {
        ClusterId::parse(text)
            .map_err(|error| value("failover", format!("{error}; only cluster ids are served")))
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
pub(super) fn callers(config: &Config, domain: &TrustDomain) -> Result<Vec<(IpNet, SpiffeId)>, Problem> {
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
