//! Making, listing and taking back tokens.
//!
//! The token's text leaves here once and is stored nowhere. Where this gateway can be reached is judged
//! before anything is made: a token nobody can dial is worse than none.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use zeroize::Zeroizing;

use super::Ourselves;
use crate::{
    model::{
        code::{Code, Problem},
        ids::Timestamp,
        limits,
        reach::is_link_local,
        state::{Event, State},
        token::{
            Token, TokenId, TokenSecret,
            record::{TokenRecord, TokenTerms},
        },
    },
    store::Store,
};

/// A token, just made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// What to copy to the other cluster.
    pub text: Zeroizing<String>,
    /// What is kept of it.
    pub record: TokenRecord,
    /// The addresses it names.
    pub addresses: Vec<String>,
}

/// Makes a token and stores its record.
///
/// # Errors
/// No routable address (unless `allow_private`), terms out of range, too many tokens, or no way to store it.
pub async fn create(
    ours: &Ourselves,
    store: &Store,
    terms: TokenTerms,
    allow_private: bool,
) -> Result<NewToken, Problem> {
    let addresses = reachable(&ours.endpoints, allow_private)?;
    let clock = &ours.clock;
    let (id, secret) = (TokenId(clock.random_bytes()), TokenSecret::new(clock.random_bytes()));
    let record = TokenRecord::issue(id, &secret, terms, clock.wall())?;
    let token = Token {
        id,
        secret,
        pin: ours.identity.join_key().pin(),
        expires: record.expires,
        issuer: ours.identity.trust_domain().clone(),
        addresses: addresses.clone(),
        approval_required: record.require_approval,
        domain_expected: record.expect_trust_domain.is_some(),
    };
    let text = token.encode()?;
    let stored = record.clone();
    store
        .transact(move |state, now| {
            let (over, held): (Vec<_>, Vec<_>) =
                state.tokens.values().partition(|held| held.forgettable_after() < now);
            if held.len() >= limits::TOKENS_MAX {
                let message = format!("{} tokens are remembered, no more are made", held.len());
                return Err(Problem::new(Code::TOKENS_TOO_MANY, message));
            }
            let forgotten = over.iter().map(|held| Event::TokenForgotten(held.id));
            Ok((forgotten.chain([Event::Token(stored)]).collect(), ()))
        })
        .await?;
    Ok(NewToken { text, record, addresses })
}

/// Takes a token back; doing so twice is no error. A peer that joined with it stays.
///
/// # Errors
/// No such token, or no way to store it.
pub async fn revoke(store: &Store, id: TokenId) -> Result<TokenRecord, Problem> {
    store
        .transact(move |state, now| {
            let Some(record) = state.tokens.get(&id) else {
                let message = format!("no token {id} was made here, or it is long over");
                return Err(Problem::new(Code::NO_SUCH_TOKEN, message));
            };
            if record.revoked.is_some() {
                return Ok((Vec::new(), (**record).clone()));
            }
            let revoked = TokenRecord { revoked: Some(now), ..(**record).clone() };
            Ok((vec![Event::Token(revoked.clone())], revoked))
        })
        .await
}

/// Every token that still means something, newest first.
#[must_use]
pub fn list(state: &State, now: Timestamp) -> Vec<TokenRecord> {
    let meaning = state.tokens.values().filter(|record| record.forgettable_after() >= now);
    let mut records: Vec<_> = meaning.map(|record| (**record).clone()).collect();
    records.sort_by_key(|record| (std::cmp::Reverse(record.created), record.id));
    records
}

/// Where others may dial this gateway: `configured`, or else the `bound` addresses, a wildcard standing for
/// all of `interfaces`. Routable ones first, loopback only when there is nothing else; at most 8.
#[must_use]
pub fn advertised(configured: &[String], bound: &[SocketAddr], interfaces: &[IpAddr]) -> Vec<String> {
    if !configured.is_empty() {
        return configured.iter().take(limits::PEER_ENDPOINTS_MAX).cloned().collect();
    }
    let mut found = BTreeSet::new();
    for address in bound {
        if address.ip().is_unspecified() {
            // `[::]` takes IPv4 too.
            let taken = interfaces.iter().filter(|ip| ip.is_ipv4() || address.is_ipv6());
            found.extend(taken.map(|ip| SocketAddr::new(ip.to_canonical(), address.port())));
        } else {
            found.insert(SocketAddr::new(address.ip().to_canonical(), address.port()));
        }
    }
    // A link-local address means nothing without the name of an interface.
    found.retain(|address| !is_link_local(address.ip()) && address.port() != 0);
    if found.iter().any(|address| !address.ip().is_loopback()) {
        found.retain(|address| !address.ip().is_loopback());
    }
    let mut found: Vec<SocketAddr> = found.into_iter().collect();
    found.sort_by_key(|address| !is_routable(address.ip()));
    found.iter().take(limits::PEER_ENDPOINTS_MAX).map(ToString::to_string).collect()
}

/// The addresses a token may name.
fn reachable(endpoints: &[String], allow_private: bool) -> Result<Vec<String>, Problem> {
    let good = |endpoint: &&String| allow_private || endpoint_is_routable(endpoint);
    let addresses: Vec<String> = endpoints.iter().filter(good).cloned().collect();
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    let message = if endpoints.is_empty() {
        "this gateway knows no address of its own".to_owned()
    } else {
        format!("no other network reaches {}", endpoints.join(", "))
    };
    Err(Problem::new(Code::NO_ROUTABLE_ADDRESS, message))
}

/// A host name is taken at its word.
fn endpoint_is_routable(endpoint: &str) -> bool {
    let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match host.parse::<IpAddr>() {
        Ok(ip) => is_routable(ip),
        Err(_) => !host.eq_ignore_ascii_case("localhost"),
    }
}

/// Whether other networks can reach an address: not loopback, private (RFC 1918, RFC 4193), shared by a
/// carrier's NAT (RFC 6598), link-local, or none at all.
#[must_use]
pub fn is_routable(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_link_local(ip) {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => !(ip.is_private() || is_carrier_nat(ip) || ip.is_broadcast()),
        IpAddr::V6(ip) => !ip.is_unique_local(),
    }
}

fn is_carrier_nat(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && (64..128).contains(&second)
}
