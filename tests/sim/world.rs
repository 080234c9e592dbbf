//! The simulated world: three clusters' gateways, one stranger's, and the applications behind them.
//!
//! It carries out what it is told and keeps the time; what is to happen is [`super::scenario`]'s matter.

use std::{
    cell::Cell,
    collections::BTreeSet,
    future::Future,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use tombolo::model::ids::ServiceName;
use turmoil::Sim;

use super::{
    gateway::{self, Gateway, Site},
    net::Internet,
    trace::Trace,
    truth::Truth,
};

/// The clusters of the set.
pub(crate) const MEMBERS: [&str; 3] = ["east", "north", "west"];
/// The place of the gateway that belongs to nobody's set, after the members.
pub(crate) const STRANGER: usize = MEMBERS.len();
const STRANGER_NAME: &str = "stranger";
/// The host of all applications; nothing happens to it.
const APPLICATIONS: &str = "applications";
const FIRST_APPLICATION_PORT: u16 = 9001;
/// What one step of the simulation is long.
const TICK: Duration = Duration::from_millis(5);
/// Longest one-way latency of a link.
const LATENCY_MAX_MS: u64 = 60;
/// No run is longer.
const RUN_MAX: Duration = Duration::from_secs(3_600);
/// Datagrams and segments a host holds.
const QUEUE: usize = 1024;

/// All of it.
pub(crate) struct World {
    sim: Sim<'static>,
    pub(crate) sites: Vec<Rc<Site>>,
    pub(crate) trace: Trace,
    pub(crate) truth: Truth,
    applications: IpAddr,
    /// Whether the application of each member runs.
    serving: Vec<Rc<Cell<bool>>>,
    down: BTreeSet<usize>,
    cut: BTreeSet<(usize, usize)>,
    mend_at: Option<Duration>,
}

impl World {
    /// Everything started, nobody joined. Latencies are drawn; they do not vary during a run, so that the
    /// number of packets, which TLS's randomness decides, changes nothing.
    pub(crate) fn new(seed: u64, rng: &mut StdRng) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(RUN_MAX)
            .udp_capacity(QUEUE)
            .tcp_capacity(QUEUE)
            .build();
        let (internet, trace, truth) = (Internet::default(), Trace::default(), Truth::default());
        let serving: Vec<_> = MEMBERS.iter().map(|_| Rc::new(Cell::new(true))).collect();
        let (network, up) = (internet.clone(), serving.clone());
        sim.host(APPLICATIONS, move || {
            let (network, up) = (network.clone(), up.clone());
            async move {
                for ((name, port), up) in MEMBERS.into_iter().zip(FIRST_APPLICATION_PORT..).zip(up) {
                    tokio::task::spawn_local(gateway::application(network.clone(), name, port, up));
                }
                std::future::pending().await
            }
        });
        let mut sites = Vec::new();
        for name in MEMBERS.into_iter().chain([STRANGER_NAME]) {
            let site = Rc::new(Site::new(name, seed, &internet, &trace, &truth));
            sites.push(site.clone());
            sim.host(name, move || gateway::software(site.clone(), vec![turmoil::lookup(name)]));
        }
        let hosts: Vec<&str> = sites.iter().map(|site| site.name).chain([APPLICATIONS]).collect();
        for (index, first) in hosts.iter().enumerate() {
            for second in &hosts[..index] {
                let near = *first == APPLICATIONS;
                let latency = if near { 1 } else { rng.random_range(1..=LATENCY_MAX_MS) };
                sim.set_link_latency(*first, *second, Duration::from_millis(latency));
            }
        }
        let applications = sim.lookup(APPLICATIONS);
        let (down, cut) = Default::default();
        Self { sim, sites, trace, truth, applications, serving, down, cut, mend_at: None }
    }

    /// Simulated time since the beginning.
    pub(crate) fn now(&self) -> Duration {
        self.sim.elapsed()
    }

    fn step(&mut self) -> Result<(), String> {
        if self.mend_at.is_some_and(|at| at <= self.now()) {
            self.mend();
        }
        self.sim.step().map_err(|error| format!("a host ended: {error}"))?;
        self.truth.wrong().map_or(Ok(()), Err)
    }

    /// Lets time pass.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<(), String> {
        let end = self.now() + time;
        while self.now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Lets time pass until `check` is content; fails with what it says after `patience`.
    pub(crate) fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut check: impl FnMut(&Self) -> Result<(), String>,
    ) -> Result<Duration, String> {
        const LOOK: Duration = Duration::from_millis(50);
        let began = self.now();
        loop {
            let Err(why) = check(self) else { return Ok(self.now() - began) };
            if self.now() > began + patience {
                return Err(format!("not {what} after {patience:?}: {why}"));
            }
            self.wait(LOOK)?;
        }
    }

    /// Has something done on a host and waits for it.
    pub(crate) fn ask<T: 'static, F: Future<Output = T> + 'static>(
        &mut self,
        who: usize,
        what: &str,
        work: impl FnOnce(Rc<Gateway>) -> F + 'static,
    ) -> Result<T, String> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let end = self.now() + PATIENCE;
        let cell = self.sites[who].order(work);
        while self.now() < end {
            if let Some(result) = cell.take() {
                return Ok(result);
            }
            self.step()?;
        }
        Err(format!("{} did not {what} within {PATIENCE:?}", self.sites[who].name))
    }

    /// Where the application of a member listens.
    fn application(&self, who: usize) -> SocketAddr {
        let ports = FIRST_APPLICATION_PORT..;
        let port = ports.into_iter().nth(who).expect("few members");
        SocketAddr::new(self.applications, port)
    }

    /// Exports a service on a member.
    pub(crate) fn export(&mut self, who: usize, name: &ServiceName) -> Result<(), String> {
        let at = self.now();
        self.truth.exported(self.sites[who].name, name, at);
        self.trace.note(at, self.sites[who].name, format!("exports {}", name.name));
        let (to, service) = (self.application(who), name.clone());
        let done =
            self.ask(who, "export", move |gateway| async move { gateway.export(&service, to).await })?;
        done.map_err(|problem| problem.to_string())
    }

    /// Ends an export; whoever has not confirmed it after `patience` is returned.
    pub(crate) fn unexport(
        &mut self,
        who: usize,
        name: &ServiceName,
        patience: Duration,
    ) -> Result<Vec<String>, String> {
        self.trace.note(self.now(), self.sites[who].name, format!("unexports {}", name.name));
        let (site, service) = (self.sites[who].clone(), name.clone());
        let truth = self.truth.clone();
        let unexport = move |gateway: Rc<Gateway>| async move {
            let missing = gateway.unexport(&service, patience);
            let noted = || truth.unexported(site.name, &service, turmoil::sim_elapsed().unwrap_or_default());
            noted();
            missing.await
        };
        let missing = self.ask(who, "unexport", unexport)?.map_err(|problem| problem.to_string())?;
        Ok(missing.iter().map(ToString::to_string).collect())
    }

    /// Starts or stops the application of a member.
    pub(crate) fn serve(&mut self, who: usize, up: bool) {
        self.trace.note(
            self.now(),
            MEMBERS[who],
            if up { "its application starts" } else { "its application stops" },
        );
        self.serving[who].set(up);
    }

    /// Whether the application of a member runs.
    pub(crate) fn serves(&self, who: usize) -> bool {
        self.serving[who].get()
    }

    /// Cuts the network between two members, or only the way from the first to the second.
    pub(crate) fn cut(&mut self, from: usize, to: usize, both_ways: bool) {
        let word = if both_ways { "cut off" } else { "cut one way" };
        self.trace.tell(self.now(), MEMBERS[from], MEMBERS[to], word);
        self.cut.insert((from, to));
        if both_ways {
            self.cut.insert((to, from));
        }
        self.wire();
    }

    /// Undoes every cut some time from now.
    pub(crate) fn mend_after(&mut self, time: Duration) {
        self.mend_at = Some(self.now() + time);
    }

    /// Undoes every cut.
    pub(crate) fn mend(&mut self) {
        self.mend_at = None;
        for (from, to) in std::mem::take(&mut self.cut) {
            self.trace.tell(self.now(), MEMBERS[from], MEMBERS[to], "mended");
        }
        self.wire();
    }

    /// The address translation before a member forgets the connections the member has dialled.
    pub(crate) fn forget_ports(&mut self, who: usize) -> Result<(), String> {
        self.ask(who, "forget", |gateway| async move { gateway.forget_ports() })
    }

    /// Ends a gateway without a word; what it kept on disk stays.
    pub(crate) fn crash(&mut self, who: usize) {
        self.trace.note(self.now(), MEMBERS[who], "crashes");
        self.sites[who].forget();
        self.sim.crash(MEMBERS[who]);
        self.down.insert(who);
        self.wire();
    }

    /// Starts a crashed gateway.
    pub(crate) fn restart(&mut self, who: usize) {
        self.trace.note(self.now(), MEMBERS[who], "is started again");
        self.down.remove(&who);
        self.wire();
        self.sim.bounce(MEMBERS[who]);
    }

    /// Brings the network in line with what is cut and who is down. Nothing waits in the network for a host
    /// that is down, as it otherwise would in turmoil.
    fn wire(&mut self) {
        for (who, name) in MEMBERS.into_iter().enumerate() {
            let others = self.sites.iter().map(|site| site.name).chain([APPLICATIONS]);
            for (other, far) in others.enumerate().filter(|(other, _)| *other != who) {
                let is_down = self.down.contains(&who) || self.down.contains(&other);
                self.sim.repair(name, far);
                if is_down {
                    self.sim.partition(name, far);
                    continue;
                }
                if self.cut.contains(&(who, other)) {
                    self.sim.partition_oneway(name, far);
                }
                if self.cut.contains(&(other, who)) {
                    self.sim.partition_oneway(far, name);
                }
            }
        }
    }

    /// The members that do not run.
    pub(crate) fn down(&self) -> &BTreeSet<usize> {
        &self.down
    }

    /// Whether nothing is cut and everybody runs.
    pub(crate) fn is_whole(&self) -> bool {
        self.cut.is_empty() && self.down.is_empty()
    }
}
