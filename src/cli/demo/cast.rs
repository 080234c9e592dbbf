//! The three clusters on stage: their applications and gateways, started, joined, and ended together.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    World,
    app::App,
    event::Event,
    failed,
    gateway::{Gateway, LOOK_INTERVAL},
    lookup::service_address,
    view::View,
};
use crate::{
    admin::api::{Addresses, JoinStep, JoinWish, NewToken, Peers, Services, TokenWish},
    cli::{client::Client, output::not_understood},
    model::code::Problem,
};

/// The clusters and where they are. The first is the one whose clients are watched, and issues the tokens.
pub(super) const PLACES: [(&str, &str); 3] = [("eu-1", "eu/eu-1"), ("eu-2", "eu/eu-2"), ("us-1", "us/us-1")];
/// The name they all export.
pub(super) const NAME: &str = "web.demo.svc.clusterset.local";
/// The same, as the admin API writes it.
const SERVICE: &str = "demo/web";
/// Time for all peers to be active, and for the name to be served.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(8);
/// Tries to find a port that is free on all three loopback addresses.
const PORT_TRIES: usize = 20;

/// One cluster.
struct Member {
    name: &'static str,
    app: App,
    gateway: Gateway,
    client: Client,
    addresses: Addresses,
}

/// All clusters, and what has been started of them so far.
pub(super) struct Cast {
    world: World,
    program: PathBuf,
    folder: PathBuf,
    started: Vec<Gateway>,
    members: Vec<Member>,
    target: Option<SocketAddr>,
}

impl Cast {
    /// Nothing started yet. Gateways will be processes of `program` that write below `folder`.
    pub(super) fn new(world: World, program: PathBuf, folder: PathBuf) -> Self {
        Self { world, program, folder, started: Vec::new(), members: Vec::new(), target: None }
    }

    /// Starts the applications, then all gateways at once, and waits until they serve.
    pub(super) async fn start(&mut self) -> Result<(), Problem> {
        let apps = self.start_apps()?;
        for ((cluster, locality), app) in PLACES.iter().zip(&apps) {
            let gateway = Gateway::start(&self.program, &self.folder, cluster, locality, app.address())?;
            self.started.push(gateway);
        }
        let mut ready = Vec::new();
        for gateway in &mut self.started {
            ready.push(gateway.ready().await?);
        }
        for (app, (gateway, (client, addresses))) in apps.into_iter().zip(self.started.drain(..).zip(ready)) {
            let name = PLACES[self.members.len()].0;
            self.members.push(Member { name, app, gateway, client, addresses });
        }
        Ok(())
    }

    /// The same port on a loopback address each: clusters that export one service expose the same port.
    fn start_apps(&self) -> Result<Vec<App>, Problem> {
        let mut last = String::new();
        for _ in 0..PORT_TRIES {
            let mut apps: Vec<App> = Vec::new();
            for ((cluster, _), host) in PLACES.iter().zip(1..) {
                let port = apps.first().map_or(0, |app| app.address().port());
                let address = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
                match App::start(&self.world, cluster, address) {
                    Ok(app) => apps.push(app),
                    Err(error) => last = format!("{address}: {error}"),
                }
            }
            if apps.len() == PLACES.len() {
                return Ok(apps);
            }
        }
        Err(failed(format!("no port is free for the applications ({last})")))
    }

    /// Joins the others to the first with a token each, waits for every pair, and looks the name up.
    pub(super) async fn join(&mut self, view: &mut View) -> Result<SocketAddr, Problem> {
        let Some((first, joiners)) = self.members.split_first() else {
            return Err(failed("no gateway was started".to_owned()));
        };
        for joiner in joiners {
            let wish = TokenWish { allow_private: true, ..TokenWish::default() };
            let token = first.client.post("/v1/tokens", &wish).await?;
            let token: NewToken = serde_json::from_str(&token).map_err(not_understood)?;
            join_with(joiner, token.token).await?;
            view.note(&format!("{} has joined {} with a token", joiner.name, first.name));
        }
        for member in &self.members {
            within(&format!("{} has not both others as active peers", member.name), async || {
                others_active(member).await
            })
            .await?;
            let peers = self.members.iter().map(|other| other.name).filter(|other| *other != member.name);
            view.event(&Event::Joined {
                cluster: member.name.to_owned(),
                peers: peers.map(str::to_owned).collect(),
            });
        }
        within(&format!("{} does not see {NAME} in all clusters", first.name), async || served(first).await)
            .await?;
        let server = first.addresses.dns.parse().map_err(|error| {
            failed(format!("{} has no DNS address ({}: {error})", first.name, first.addresses.dns))
        })?;
        let target = service_address(server, NAME, first.app.address().port()).await?;
        view.event(&Event::Resolved {
            name: NAME.to_owned(),
            address: target.ip().to_string(),
            port: target.port(),
        });
        self.target = Some(target);
        Ok(target)
    }

    /// Stops the application of cluster `at`.
    pub(super) fn stop_app(&self, at: usize) {
        self.members[at].app.stop();
    }

    /// Kills the gateway of cluster `at` with SIGKILL.
    pub(super) fn kill_gateway(&mut self, at: usize) {
        self.members[at].gateway.kill();
    }

    /// Commands with which to look around while the clusters run.
    pub(super) fn places_to_look(&self) -> String {
        let (Some(first), Some(target)) = (self.members.first(), self.target) else { return String::new() };
        let state = first.gateway.state().display();
        let server = first.addresses.dns.rsplit_once(':').unwrap_or_default();
        format!(
            "\nStill running; Ctrl-C ends it all. In another terminal:\n  \
             tombolo status --state {state}\n  \
             tombolo peers --state {state}\n  \
             tombolo explain web.demo --state {state}\n  \
             dig @{} -p {} {NAME}\n  \
             curl http://{target}/\n",
            server.0, server.1
        )
    }

    /// The ends of all logs.
    pub(super) fn last_words(&self) -> String {
        let gateways = self.started.iter().chain(self.members.iter().map(|member| &member.gateway));
        gateways.map(Gateway::last_words).collect()
    }

    /// Ends everything, and waits until it is gone.
    pub(super) async fn end(&mut self) {
        for gateway in
            self.started.iter_mut().chain(self.members.iter_mut().map(|member| &mut member.gateway))
        {
            gateway.end().await;
        }
        self.members.clear();
    }
}

async fn join_with(joiner: &Member, token: String) -> Result<(), Problem> {
    let (mut done, wish) = (false, JoinWish { token, re_trust: false });
    let heard = joiner.client.stream("/v1/join", &wish, |line| {
        let step: JoinStep = serde_json::from_str(line).map_err(not_understood)?;
        done |= step.step == "done";
        step.problem.map_or(Ok(()), Err)
    });
    heard.await?;
    if done { Ok(()) } else { Err(failed(format!("the join of {} broke off", joiner.name))) }
}

async fn others_active(member: &Member) -> bool {
    let peers = member.client.read::<Peers>("/v1/peers").await;
    let active = |peers: Peers| peers.peers.iter().filter(|peer| peer.state == "active").count();
    peers.is_ok_and(|peers| active(peers) == PLACES.len() - 1)
}

async fn served(member: &Member) -> bool {
    let Ok(services) = member.client.read::<Services>("/v1/services").await else { return false };
    let service = services.services.iter().find(|service| service.name.to_string() == SERVICE);
    service.is_some_and(|service| {
        service.clusters.iter().filter(|cluster| cluster.ready > 0).count() == PLACES.len()
            && service.ports.iter().all(|port| port.bound_port.is_some())
    })
}

/// Looks again and again until it is so.
async fn within(or_else: &str, so: impl AsyncFn() -> bool) -> Result<(), Problem> {
    let looking = async {
        while !so().await {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(CONVERGE_TIMEOUT, looking)
        .await
        .map_err(|_| failed(format!("{or_else} after {} s", CONVERGE_TIMEOUT.as_secs())))
}
