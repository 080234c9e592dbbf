//! The nft rules of a router: its NAT, and the faults put on it while it runs. Texts only; nothing here runs.

use std::net::Ipv4Addr;

use crate::fault::{Block, Protocol};

use super::netns::{WAN, private, public};

/// The table of the faults; the NAT has one of its own, which no fault touches.
const FAULTS: &str = "testbed_faults";

/// NAT as of a router at home, with the port of every gateway forwarded under an address of its own.
pub(super) fn nat(cluster: usize, gateways: usize) -> String {
    let mut inward = String::new();
    for gateway in 0..gateways {
        let (inside, outside) = (private(gateway), public(cluster, gateway + 1));
        inward.push_str(&format!("    ip daddr {outside} dnat to {inside}\n"));
    }
    let outward: String = outward(cluster, gateways).map(|rule| format!("    {rule}\n")).collect();
    format!(
        "table ip testbed {{\n  chain inward {{\n    type nat hook prerouting priority dstnat;\n{inward}  }}\n  \
         chain outward {{\n    type nat hook postrouting priority srcnat;\n{outward}    \
         oifname \"{WAN}\" masquerade random\n  }}\n}}\n"
    )
}

/// What leaves from the port of a gateway leaves from its address.
fn outward(cluster: usize, gateways: usize) -> impl Iterator<Item = String> {
    (0..gateways).flat_map(move |gateway| {
        let (inside, outside) = (private(gateway), public(cluster, gateway + 1));
        ["udp", "tcp"].map(|protocol| format!("ip saddr {inside} {protocol} sport 7443 snat to {outside}"))
    })
}

/// All other flows to come leave from that address.
pub(super) fn leave_from(cluster: usize, gateways: usize, from: Ipv4Addr) -> String {
    let mut text = "flush chain ip testbed outward\n".to_owned();
    for rule in outward(cluster, gateways) {
        text.push_str(&format!("add rule ip testbed outward {rule}\n"));
    }
    text + &format!("add rule ip testbed outward oifname \"{WAN}\" snat to {from} random\n")
}

/// Inside a cluster: drops what new connections to an endpoint begin with, or no longer.
pub(super) fn mute(endpoint: Ipv4Addr, mute: bool) -> String {
    let change = if mute { "add" } else { "delete" };
    // Adding what is there changes nothing, so that what is then deleted is there.
    format!(
        "add table ip testbed_mute\nadd set ip testbed_mute mute {{ type ipv4_addr; }}\n\
         add chain ip testbed_mute input {{ type filter hook input priority filter; }}\n\
         flush chain ip testbed_mute input\n\
         add rule ip testbed_mute input ip daddr @mute tcp flags & (syn | ack) == syn drop\n\
         add element ip testbed_mute mute {{ {endpoint} }}\n\
         {change} element ip testbed_mute mute {{ {endpoint} }}\n"
    )
}

/// Room for faults towards each of the other clusters: a chain for the rules, and a set that says whether
/// they hold, of which the kernel takes the time-out itself.
pub(super) fn faults(cluster: usize, clusters: usize) -> String {
    let mut text = format!("table ip {FAULTS} {{\n");
    let others = || (0..clusters).filter(|other| *other != cluster);
    for other in others() {
        text.push_str(&format!("  set hold{other} {{ type ipv4_addr; flags interval,timeout; }}\n"));
        text.push_str(&format!("  chain to{other} {{ }}\n"));
    }
    text.push_str("  chain forward {\n    type filter hook forward priority filter;\n");
    for other in others() {
        text.push_str(&format!("    oifname \"{WAN}\" ip daddr @hold{other} jump to{other}\n"));
    }
    text + "  }\n}\n"
}

/// Puts a block on what goes to another cluster, in place of an earlier one.
pub(super) fn block(to: usize, block: &Block) -> String {
    let longer = block.longer_than.map_or_else(String::new, |bytes| format!("meta length > {bytes} "));
    let mut text = unblock(to);
    let protocols = match (block.protocol, block.reject) {
        (Some(protocol), _) => vec![Some(protocol)],
        // What the sender is told depends on the protocol.
        (None, true) => vec![Some(Protocol::Udp), Some(Protocol::Tcp)],
        (None, false) => vec![None],
    };
    for protocol in protocols {
        let (only, verdict) = match protocol {
            Some(Protocol::Udp) => ("meta l4proto udp ", "reject with icmp type port-unreachable"),
            Some(Protocol::Tcp) => ("meta l4proto tcp ", "reject with tcp reset"),
            None => ("", "drop"),
        };
        let verdict = if block.reject { verdict } else { "drop" };
        text.push_str(&format!("add rule ip {FAULTS} to{to} {only}{longer}counter {verdict}\n"));
    }
    let network = network(to);
    let timeout = block.lasting.map_or_else(String::new, |lasting| {
        // Less than a millisecond would be for ever.
        format!(" timeout {}ms", lasting.0.as_millis().max(1))
    });
    text + &format!("add element ip {FAULTS} hold{to} {{ {network}{timeout} }}\n")
}

/// Takes a block away; also where there is none.
pub(super) fn unblock(to: usize) -> String {
    format!("flush set ip {FAULTS} hold{to}\nflush chain ip {FAULTS} to{to}\n")
}

/// Which clusters a listing of the table says are blocked, and by what rules, with their counts.
pub(super) fn standing(listing: &str) -> Vec<(usize, String)> {
    let (mut held, mut rules, mut section) = (Vec::new(), Vec::new(), None);
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            let number = |start: &str| name.strip_prefix(start).and_then(|number| number.parse().ok());
            let chain = || number("chain to").map(|to| (false, to));
            section = number("set hold").map(|to: usize| (true, to)).or_else(chain);
        } else if let Some((is_set, to)) = section {
            if is_set && line.starts_with("elements = ") {
                held.push(to);
            } else if !is_set && line.contains("counter packets") {
                rules.push((to, line.to_owned()));
            }
        }
    }
    rules.retain(|(to, _)| held.contains(to));
    rules
}

/// The WAN network of a cluster.
fn network(cluster: usize) -> String {
    let mut octets = public(cluster, 0).octets();
    octets[3] = 0;
    format!("{}/24", Ipv4Addr::from(octets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::Span;

    #[test]
    fn a_block_replaces_the_one_before_it_and_ends_by_the_kernels_clock() {
        let long =
            Block { longer_than: Some(1_280), lasting: Some(Span::from_millis(5_000)), ..Block::default() };
        assert_eq!(
            block(1, &long),
            "flush set ip testbed_faults hold1\nflush chain ip testbed_faults to1\n\
             add rule ip testbed_faults to1 meta length > 1280 counter drop\n\
             add element ip testbed_faults hold1 { 198.18.2.0/24 timeout 5000ms }\n"
        );
    }

    #[test]
    fn a_refusal_tells_each_protocol_in_its_own_way() {
        let refused = block(0, &Block { reject: true, ..Block::default() });
        assert!(refused.contains("meta l4proto udp counter reject with icmp type port-unreachable"));
        assert!(refused.contains("meta l4proto tcp counter reject with tcp reset"));
        let udp = block(0, &Block { reject: true, protocol: Some(Protocol::Udp), ..Block::default() });
        assert!(!udp.contains("tcp"), "{udp}");
    }

    #[test]
    fn only_blocks_that_hold_are_listed_as_standing() {
        let listing = "table ip testbed_faults {\n\tset hold1 {\n\t\ttype ipv4_addr\n\t\telements = { 198.18.2.0/24 }\n\t}\n\n\
             \tset hold2 {\n\t\ttype ipv4_addr\n\t}\n\n\
             \tchain to1 {\n\t\tmeta l4proto udp counter packets 7 bytes 900 drop\n\t}\n\n\
             \tchain to2 {\n\t\tcounter packets 1 bytes 9 drop\n\t}\n}\n";
        let rule = "meta l4proto udp counter packets 7 bytes 900 drop".to_owned();
        assert_eq!(standing(listing), [(1, rule)]);
    }
}
