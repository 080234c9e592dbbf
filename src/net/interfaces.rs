//! The addresses of this host's interfaces, for telling other clusters where to dial.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;

/// Every address of every interface that is up; none when the system does not tell.
#[must_use]
pub fn interfaces() -> Vec<IpAddr> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    all.filter_map(address).collect()
}
