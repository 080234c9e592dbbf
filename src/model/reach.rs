//! Which addresses a peer may send us to: never into this host or onto its own wire (threat 7).
//!
//! A peer announces where its gateways listen. Without this rule it could have this gateway dial what only
//! this host reaches. Names are judged by what they resolve to.

use std::net::IpAddr;

/// Whether an address means something on one wire only (RFC 3927, RFC 4291 section 2.5.6).
#[must_use]
pub fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Whether an address that a peer announced may be dialled. A gateway that listens on loopback has its peers
/// there too.
#[must_use]
pub fn may_dial(ip: IpAddr, own_on_loopback: bool) -> bool {
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let nowhere = ip.is_unspecified() || ip.is_multicast() || broadcast || is_link_local(ip);
    !nowhere && (own_on_loopback || !ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_sends_nobody_into_his_own_host() {
        let may = |text: &str, own| may_dial(text.parse().expect("an address"), own);
        for text in ["127.0.0.1", "127.77.0.2", "::1", "::ffff:127.0.0.1"] {
            assert!(!may(text, false), "{text}");
            assert!(may(text, true), "{text}: who listens on loopback has peers there");
        }
        for text in [
            "169.254.169.254",
            "::ffff:169.254.1.1",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!may(text, false) && !may(text, true), "{text}");
        }
        for text in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(may(text, false), "{text}");
        }
    }
}
