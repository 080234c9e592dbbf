//! Links alone on the simulated network: two sides meet, lose each other and find each other again.
//!
//! What is said over a lane is not the matter here; whole daemons are [`super::world`]'s.

use std::{net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tombolo::{
    clock::Clock,
    identity::{CurrentSvid, Identity, NewIdentity, Svid, Tls, Trust},
    link::{LinkLimits, Links, Parts, QUIC_KEYS_BYTES, QuicKeys, Target},
    model::ids::{ClusterId, GatewayId, Instance, Timestamp, TrustDomain},
    supervise::{Shards, Shutdown, Tasks},
};

use super::net::{HostNet, Internet};

const PORT: u16 = 4433;
const LATENCY: Duration = Duration::from_millis(10);
const ROUND_TRIP: Duration = Duration::from_millis(30);
/// When the simulated world begins: 2026-01-01.
const START: Timestamp = Timestamp(1_767_225_600_000);
const DAY: Duration = Duration::from_secs(86_400);

struct Side {
    cluster: ClusterId,
    identity: Identity,
    svid: Svid,
}

impl Side {
    fn new(name: &str) -> Self {
        let cluster = ClusterId::parse(name).expect("a cluster id");
        let trust_domain = TrustDomain::parse(&format!("{name}.test")).expect("a trust domain");
        let new = NewIdentity {
            cluster: &cluster,
            trust_domain: Some(trust_domain),
            root_life: 30 * DAY,
            export_secret: [0; 32],
        };
        let (identity, _) = Identity::create(new, START).expect("an identity");
        let gateway = GatewayId::parse("gw-1").expect("a gateway id");
        let svid = identity.issue(&gateway, DAY, START).expect("an SVID");
        Self { cluster, identity, svid }
    }

    fn target(&self, address: Option<SocketAddr>) -> Target {
        Target {
            cluster: self.cluster.clone(),
            trust_domain: self.identity.trust_domain().clone(),
            endpoints: address.iter().map(ToString::to_string).collect(),
        }
    }

    /// Starts the links of this side, whose only peer is `other`.
    async fn start(
        &self,
        internet: &Internet,
        seed: u64,
        other: &Self,
        address: Option<SocketAddr>,
    ) -> Links {
        let clock = Clock::simulated(seed, START);
        let tasks = Tasks::inline(Shutdown::new());
        let shards = Shards::inline(2, &tasks, clock.now());
        let trust = Trust::new();
        let bundle = other.identity.bundle().as_ref().clone();
        trust.replace([(other.identity.trust_domain(), &bundle)]);
        let wall = clock.clone();
        let tls = Tls::new(trust.clone(), CurrentSvid::new(self.svid.clone()), Arc::new(move || wall.wall()));
        let (dialled, mut greetings) = mpsc::channel(8);
        let (calls, _) = mpsc::channel(8);
        let (joins, _) = mpsc::channel(8);
        let parts = Parts {
            keys: QuicKeys::new(&[seed as u8; QUIC_KEYS_BYTES]),
            own: self.identity.trust_domain().clone(),
            server: tls.server(self.identity.join_key()),
            tls,
            trust,
            net: HostNet::new(internet),
            clock,
            tasks: tasks.clone(),
            shards,
            dialled,
            calls,
            joins,
            qlog: None,
            limits: LinkLimits::default(),
            serve_tcp: Arc::new(|_, _, _| Box::pin(async {})),
        };
        let links = Links::start(parts, SocketAddr::from(([0, 0, 0, 0], PORT))).await.expect("links");
        links.set_peers(vec![other.target(address)]);
        let settled = links.clone();
        tasks.spawn("greet", async move {
            while let Some(lane) = greetings.recv().await {
                // Stands for the answer to a `Hello`, which takes a round trip: a refusal is there before.
                sleep(ROUND_TRIP).await;
                if !lane.is_closed() {
                    settled.registry().settle(&lane, Instance([1; 16]));
                }
            }
        });
        links
    }
}

/// Waits until `links` have, or no longer have, a lane to `peer`.
async fn until(links: &Links, peer: &ClusterId, wanted: bool) {
    while links.registry().best(peer).is_some() != wanted {
        // A lane that was accepted is settled by what the dialling side says, which nobody says here.
        for lane in links.registry().all() {
            links.registry().hear(&lane, Instance([1; 16]), 0);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// How often a side dials in a minute that trusts the other and is not trusted by it.
pub(crate) fn refused_dials(seed: u64) -> u64 {
    const MINUTE: Duration = Duration::from_secs(60);
    let internet = Internet::default();
    let [east, west, other] = ["east", "west", "other"].map(|name| Rc::new(Side::new(name)));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(2 * MINUTE)
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .build();
    let (network, victim) = (internet.clone(), east.clone());
    sim.host("east", move || {
        let (network, victim, other) = (network.clone(), victim.clone(), other.clone());
        async move {
            let _links = victim.start(&network, seed, &other, None).await;
            std::future::pending().await
        }
    });
    let changes = Rc::new(std::cell::Cell::new(0));
    let counted = changes.clone();
    sim.client("west", async move {
        let address = SocketAddr::new(turmoil::lookup("east"), PORT);
        let links = west.start(&internet, seed + 1, &east, Some(address)).await;
        sleep(MINUTE).await;
        counted.set(*links.registry().changes().borrow());
        Ok(())
    });
    sim.run().expect("a minute passes");
    drop(sim);
    // Each dial enters a lane and removes it.
    changes.get() / 2
}

/// How long the network stays cut after the link was given up.
const OUTAGE: Duration = Duration::from_secs(30);

/// One run; the times in milliseconds at which the dialling side saw the link come and go, the network was whole
/// again, and the link came again.
pub(crate) fn run(seed: u64) -> Vec<u128> {
    let internet = Internet::default();
    let (east, west) = (Rc::new(Side::new("east")), Rc::new(Side::new("west")));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(Duration::from_millis(5))
        .simulation_duration(Duration::from_secs(60))
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .udp_capacity(1024)
        .build();
    let (inner, a, b) = (internet.clone(), east.clone(), west.clone());
    sim.host("east", move || {
        let (internet, east, west) = (inner.clone(), a.clone(), b.clone());
        async move {
            let links = east.start(&internet, seed, &west, None).await;
            loop {
                sleep(Duration::from_millis(5)).await;
                for lane in links.registry().all() {
                    links.registry().hear(&lane, Instance([1; 16]), 0);
                }
            }
        }
    });
    let times = Rc::new(std::cell::RefCell::new(Vec::new()));
    let noted = times.clone();
    sim.client("west", async move {
        let address = SocketAddr::new(turmoil::lookup("east"), PORT);
        let links = west.start(&internet, seed + 1, &east, Some(address)).await;
        let note = || noted.borrow_mut().push(turmoil::elapsed().as_millis());
        let patience = Duration::from_secs(20);
        timeout(patience, until(&links, &east.cluster, true)).await?;
        note();
        turmoil::partition("east", "west");
        timeout(patience, until(&links, &east.cluster, false)).await?;
        note();
        sleep(OUTAGE).await;
        note();
        turmoil::repair("east", "west");
        timeout(patience, until(&links, &east.cluster, true)).await?;
        note();
        Ok(())
    });
    sim.run().expect("the links come, go and come again");
    drop(sim);
    times.take()
}
