//! Backend `netns`: every cluster has a namespace with the same addresses inside, and a router namespace
//! with NAT before the WAN. All names carry the run's id; all nft rules and devices live inside.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Ground, Listens, WanMedium, conntrack, nft};
use crate::{
    emulator::tun::{DEVICE_QUEUE, Side, enter},
    fault::Block,
    scenario::Scenario,
    standing::Standing,
};

/// The WAN device in a router.
pub(super) const WAN: &str = "wan0";

/// Where `ip netns exec` looks for what a namespace has of its own.
const SETTINGS: &str = "/etc/netns";
/// The first of the addresses that a NAT moves to.
const NEW_ADDRESSES: u8 = 200;
/// Name servers that resolvers read.
const RESOLVERS: usize = 3;

/// The backend.
pub(super) struct Netns;

fn octet(index: usize) -> u8 {
    u8::try_from(index).expect("a scenario has few clusters and members")
}

fn inside(standing: &Standing, cluster: usize) -> String {
    format!("tb{}-{}", standing.run, cluster + 1)
}

fn router(standing: &Standing, cluster: usize) -> String {
    format!("tb{}-r{}", standing.run, cluster + 1)
}

/// The address of a gateway behind NAT, the same in every cluster.
pub(super) fn private(member: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 11 + octet(member))
}

/// The address of a router on the WAN (member 0) or of a gateway there (from 1).
pub(super) fn public(cluster: usize, member: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 1 + octet(cluster), if member == 0 { 1 } else { 10 + octet(member) })
}

/// Runs a command with an input; its error output becomes the error.
fn run(command: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{} cannot be started", command[0]))?;
    child.stdin.take().context("a pipe that was asked for")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{}` failed: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Has the names of a cluster's clients answered by its gateways: `ip netns exec` puts this in place of
/// /etc/resolv.conf.
fn resolver(standing: &Standing, cluster: usize) -> Result<()> {
    let folder = Path::new(SETTINGS).join(inside(standing, cluster));
    let gateways = standing.scenario.clusters[cluster].gateways;
    let lines: String = (0..gateways.min(RESOLVERS))
        .map(|gateway| format!("nameserver {}\n", Netns.listens(standing, cluster, gateway).dns.ip()))
        .collect();
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let file = folder.join("resolv.conf");
    fs::write(&file, format!("{lines}options timeout:1\n")).with_context(|| file.display().to_string())
}

/// Gives rules to the nft of a router.
fn rule(standing: &Standing, cluster: usize, rules: &str) -> Result<()> {
    run(&["ip", "netns", "exec", &router(standing, cluster), "nft", "-f", "-"], rules)
}

impl Netns {
    fn make_cluster(standing: &Standing, cluster: usize) -> Result<()> {
        let (inside, router) = (inside(standing, cluster), router(standing, cluster));
        let plan = &standing.scenario.clusters[cluster];
        run(
            &["ip", "-batch", "-"],
            &format!(
                "netns add {inside}\nnetns add {router}\n\
             link add lan netns {router} type veth peer name eth0 netns {inside}\n"
            ),
        )?;
        // Every packet leaves alone, so that rules about lengths see what the wire would.
        let mut lines = "link set lo up\nlink set eth0 gso_max_segs 1\naddr add 10.0.0.2/24 dev eth0\n\
                         link set eth0 up\n"
            .to_owned();
        for gateway in 0..plan.gateways {
            lines.push_str(&format!("addr add {}/24 dev eth0\n", private(gateway)));
        }
        for endpoint in 0..plan.endpoints {
            lines.push_str(&format!("addr add 10.0.0.{}/24 dev eth0\n", 101 + endpoint));
        }
        lines.push_str("route add default via 10.0.0.1\n");
        run(&["ip", "-n", &inside, "-batch", "-"], &lines)?;
        let lines = "link set lo up\naddr add 10.0.0.1/24 dev lan\nlink set lan up\n";
        run(&["ip", "-n", &router, "-batch", "-"], lines)?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        run(&["ip", "netns", "exec", &router, "sh", "-c", forward], "")
    }
}

impl Ground for Netns {
    fn check(&self, _scenario: &Scenario) -> Result<()> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "backend netns makes network namespaces, which needs root\n  try: sudo testbed ..., or --backend proc"
        );
        for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            let found =
                ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().any(|d| Path::new(d).join(tool).exists());
            ensure!(
                found,
                "backend netns needs `{tool}`, which is not installed\n  try: apt-get install -y {package}"
            );
        }
        ensure!(
            Path::new("/dev/net/tun").exists(),
            "backend netns needs /dev/net/tun for the WAN\n  try: modprobe tun, or --backend proc"
        );
        Ok(())
    }

    fn prepare(&self, standing: &mut Standing) -> Result<()> {
        let count = standing.scenario.clusters.len();
        standing.namespaces =
            (0..count).flat_map(|cluster| [inside(standing, cluster), router(standing, cluster)]).collect();
        standing.save()?;
        for cluster in 0..count {
            resolver(standing, cluster)?;
            Self::make_cluster(standing, cluster)?;
        }
        Ok(())
    }

    fn connect(&self, standing: &Standing) -> Result<()> {
        for (cluster, plan) in standing.scenario.clusters.iter().enumerate() {
            let router = router(standing, cluster);
            let mut lines = format!(
                "link set {WAN} txqueuelen {DEVICE_QUEUE} up\naddr add {}/16 dev {WAN}\n",
                public(cluster, 0)
            );
            for gateway in 0..plan.gateways {
                lines.push_str(&format!("addr add {}/32 dev {WAN}\n", public(cluster, gateway + 1)));
            }
            run(&["ip", "-n", &router, "-batch", "-"], &lines)?;
            let clusters = standing.scenario.clusters.len();
            let rules = nft::nat(cluster, plan.gateways) + &nft::faults(cluster, clusters);
            rule(standing, cluster, &rules)?;
        }
        Ok(())
    }

    fn medium(&self, standing: &Standing) -> WanMedium {
        let side = |cluster| Side {
            namespace: router(standing, cluster),
            device: WAN.to_owned(),
            network: Ipv4Addr::new(198, 18, 1 + octet(cluster), 0),
        };
        WanMedium::Tun((0..standing.scenario.clusters.len()).map(side).collect())
    }

    fn listens(&self, _standing: &Standing, cluster: usize, gateway: usize) -> Listens {
        let local = Ipv4Addr::new(127, 0, 0, 1 + octet(gateway));
        Listens {
            quic: SocketAddr::new(private(gateway).into(), 7443),
            advertise: SocketAddr::new(public(cluster, gateway + 1).into(), 7443),
            dns: SocketAddr::new(local.into(), 53),
            admin: SocketAddr::new(local.into(), 7070),
            virtual_ips: Some(format!("127.{}.0.0/16", 77 + gateway)),
        }
    }

    fn endpoint(&self, _standing: &Standing, _cluster: usize, endpoint: usize) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, 101 + octet(endpoint)).into()
    }

    fn ports_below_1024(&self) -> bool {
        true
    }

    fn prefix(&self, standing: &Standing, cluster: usize) -> Vec<String> {
        ["ip", "netns", "exec"].map(str::to_owned).into_iter().chain([inside(standing, cluster)]).collect()
    }

    fn enter(&self, standing: &Standing, cluster: usize) -> Result<()> {
        enter(&inside(standing, cluster))
    }

    fn mute(&self, standing: &Standing, cluster: usize, endpoint: usize, mute: bool) -> Result<()> {
        let IpAddr::V4(address) = self.endpoint(standing, cluster, endpoint) else { return Ok(()) };
        let inside = inside(standing, cluster);
        run(&["ip", "netns", "exec", &inside, "nft", "-f", "-"], &nft::mute(address, mute))
    }

    fn rebind(&self, standing: &Standing, cluster: usize, address: bool) -> Result<()> {
        if address {
            // Any address of its network leads back to the router; which one does not matter, but that it is new.
            let last = NEW_ADDRESSES + u8::try_from(crate::monotonic::nanos() % 50).unwrap_or(0);
            let from = Ipv4Addr::new(198, 18, 1 + octet(cluster), last);
            let gateways = standing.scenario.clusters[cluster].gateways;
            rule(standing, cluster, &nft::leave_from(cluster, gateways, from))?;
        }
        conntrack::flush(&router(standing, cluster))
    }

    fn block(&self, standing: &Standing, from: usize, to: usize, block: &Block) -> Result<()> {
        rule(standing, from, &nft::block(to, block))
    }

    fn unblock(&self, standing: &Standing, from: usize, to: usize) -> Result<()> {
        rule(standing, from, &nft::unblock(to))
    }

    fn blocks(&self, standing: &Standing) -> Vec<String> {
        let mut all = Vec::new();
        let clusters = &standing.scenario.clusters;
        for (from, cluster) in clusters.iter().enumerate() {
            let router = router(standing, from);
            let list = ["netns", "exec", &router, "nft", "list", "ruleset"];
            // A router that is gone blocks nothing by a rule.
            let Ok(output) = Command::new("ip").args(list).output() else { continue };
            for (to, rule) in nft::standing(&String::from_utf8_lossy(&output.stdout)) {
                let to = clusters.get(to).map_or("?", |cluster| cluster.name.as_str());
                all.push(format!("{} -> {to}: {rule}", cluster.name));
            }
        }
        all
    }

    fn remove(&self, standing: &Standing) -> Result<()> {
        for namespace in &standing.namespaces {
            if Path::new("/run/netns").join(namespace).exists() {
                run(&["ip", "netns", "del", namespace], "")?;
            }
            let folder = Path::new(SETTINGS).join(namespace);
            if folder.exists() {
                fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
            }
        }
        // Empty, it means nothing to anybody; not empty, it is somebody's.
        let _ = fs::remove_dir(SETTINGS);
        Ok(())
    }
}
