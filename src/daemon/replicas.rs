//! The gateways of this cluster that share its state folder: each says where it is, and reads where others are.
//!
//! Peers are told all of them, so that they keep a link to each. A gateway that says nothing for long, or ends in
//! order, is not counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use crate::{
    clock::Clock,
    files::Persist,
    model::{
        ids::{GatewayId, ServiceName, Timestamp},
        limits,
    },
    supervise::Tasks,
};

/// The folder of what gateways say of themselves.
const FOLDER: &str = "replicas";

/// What one gateway says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Announcement {
    /// Its `host:port`s.
    endpoints: Vec<String>,
    /// What its config file and flags export.
    declares: BTreeSet<ServiceName>,
    /// When it said so.
    at: Timestamp,
}

/// This gateway among its siblings; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Replicas {
    persist: Arc<dyn Persist>,
    gateway: GatewayId,
    clock: Clock,
    tasks: Tasks,
}

impl Replicas {
    pub(super) fn new(persist: Arc<dyn Persist>, gateway: GatewayId, clock: Clock, tasks: Tasks) -> Self {
        Self { persist, gateway, clock, tasks }
    }

    /// Says where this gateway is, and follows the others, until the end.
    pub(super) async fn run(
        self,
        endpoints: Vec<String>,
        declares: watch::Receiver<BTreeSet<ServiceName>>,
        all: watch::Sender<Vec<String>>,
    ) {
        let stop = self.tasks.shutdown().soft();
        tokio::pin!(stop);
        let mut next = self.clock.now();
        let mut declares = declares;
        loop {
            let now = self.clock.now();
            if now >= next || declares.has_changed().unwrap_or(false) {
                next = now + limits::ANNOUNCE_INTERVAL;
                let declares = declares.borrow_and_update().clone();
                let said = Announcement { endpoints: endpoints.clone(), declares, at: self.clock.wall() };
                self.say(Some(said)).await;
            }
            let mut known = self.siblings().await;
            known.insert(self.gateway.clone(), endpoints.clone());
            let found = interleaved(&known);
            all.send_if_modified(|all| std::mem::replace(all, found.clone()) != found);
            tokio::select! {
                biased;
                () = &mut stop => break,
                () = sleep(limits::REPLICA_LOOK_INTERVAL) => {}
            }
        }
        self.say(None).await;
        // Whoever follows `all` would take its end for a change.
        self.tasks.shutdown().hard().await;
    }

    async fn say(&self, said: Option<Announcement>) {
        let (persist, path) = (self.persist.clone(), format!("{FOLDER}/{}.json", self.gateway));
        let written = self.tasks.blocking(move || match said {
            Some(said) => {
                let bytes = serde_json::to_vec(&said).expect("an announcement has text keys");
                persist.commit(&path, &bytes).map(drop)
            }
            None => persist.remove(&path).map(drop),
        });
        if let Err(error) = written.await {
            tracing::warn!(%error, "siblings cannot be told of this gateway");
        }
    }

    async fn siblings(&self) -> BTreeMap<GatewayId, Vec<String>> {
        let this = self.clone();
        let found = self.tasks.blocking(move || this.read());
        found.await.into_iter().map(|(gateway, said)| (gateway, said.endpoints)).collect()
    }

    /// What living siblings say that they export. Blocks.
    pub(super) fn declared(&self) -> BTreeSet<ServiceName> {
        self.read().into_values().flat_map(|said| said.declares).collect()
    }

    /// What living siblings say. Blocks.
    fn read(&self) -> BTreeMap<GatewayId, Announcement> {
        let names = self.persist.list(FOLDER).unwrap_or_default();
        let others = names.into_iter().filter_map(|name| {
            let gateway = GatewayId::parse(name.strip_suffix(".json")?).ok()?;
            // One that is damaged is written anew within a minute.
            let loaded = self.persist.load(&format!("{FOLDER}/{name}")).ok()??;
            let said: Announcement = serde_json::from_slice(&loaded.bytes).ok()?;
            let fresh = self.clock.wall().since(said.at) < limits::REPLICA_FORGOTTEN_AFTER;
            (fresh && gateway != self.gateway).then_some((gateway, said))
        });
        others.take(limits::GATEWAYS_PER_PEER_MAX).collect()
    }
}

/// The first endpoint of each gateway, then the second of each, as many as a peer may announce. In one order,
/// whichever gateway says it.
fn interleaved(known: &BTreeMap<GatewayId, Vec<String>>) -> Vec<String> {
    let mut all = Vec::new();
    let rounds = known.values().map(Vec::len).max().unwrap_or(0);
    for round in 0..rounds {
        for endpoint in known.values().filter_map(|endpoints| endpoints.get(round)) {
            if all.len() < limits::PEER_ENDPOINTS_MAX && !all.contains(endpoint) {
                all.push(endpoint.clone());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{files::Memory, supervise::Shutdown};

    fn gateway(id: &str) -> GatewayId {
        GatewayId::parse(id).expect("an id")
    }

    #[test]
    fn each_gateway_is_told_before_the_second_address_of_any() {
        let known = BTreeMap::from([
            (gateway("g2"), vec!["c:1".to_owned()]),
            (gateway("g1"), vec!["a:1".to_owned(), "b:1".to_owned()]),
        ]);
        assert_eq!(interleaved(&known), ["a:1", "c:1", "b:1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn siblings_find_each_other_and_lose_those_that_end_or_fall_silent() {
        let (memory, clock) = (Memory::new(), Clock::simulated(1, Timestamp(1_800_000_000_000)));
        let start = |id: &str| {
            let tasks = Tasks::inline(Shutdown::new());
            let replicas = Replicas::new(Arc::new(memory.clone()), gateway(id), clock.clone(), tasks.clone());
            let (all, seen) = watch::channel(Vec::new());
            let (_declare, declares) = watch::channel(BTreeSet::new());
            let run = replicas.run(vec![format!("{id}:7443")], declares, all);
            (tasks, run, seen)
        };
        let ((_, one, mut seen), (tasks, two, _kept)) = (start("g1"), start("g2"));
        tokio::pin!(one);
        let soon = limits::REPLICA_LOOK_INTERVAL * 3;
        let both = async {
            let wait = seen.wait_for(|seen| *seen == ["g1:7443", "g2:7443"]);
            tokio::time::timeout(soon, wait).await.expect("in time").expect("open");
            tasks.shutdown().drain("enough");
            let wait = seen.wait_for(|seen| *seen == ["g1:7443"]);
            tokio::time::timeout(soon, wait).await.expect("in time").expect("open");
            tasks.shutdown().stop("enough");
        };
        tokio::select! {
            biased;
            () = &mut one => panic!("it was not told to end"),
            ((), ()) = async { tokio::join!(two, both) } => {}
        }
    }
}
