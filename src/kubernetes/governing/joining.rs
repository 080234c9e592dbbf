//! Peers: joins those that come with a token, carries out what is wanted of them, and tells how they are.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::DeleteParams};
use serde_json::Value;

use super::{Governing, PeerView, telling};
use crate::{
    kubernetes::{
        own::Own,
        resources::{Desired, PeerSpec, SecretKey},
        seen::Key,
        world::World,
    },
    model::{
        backoff::Backoff,
        code::Problem,
        ids::ClusterId,
        limits,
        peering::Verb,
        state::{Standing, State},
    },
};

const NAMES: (&str, &str) = ("Peer", "peers");

/// An attempt to join.
#[derive(Debug, Clone, Default)]
pub(super) struct Attempt {
    generation: i64,
    running: bool,
    /// Reason and message, once it has failed.
    failed: Option<(&'static str, String)>,
    next: Option<Instant>,
    backoff: Backoff,
}

impl Governing {
    pub(super) async fn peers(&mut self, world: &World, state: &State) {
        let views: BTreeMap<String, PeerView> =
            (self.hands.peers)().into_iter().map(|view| (view.cluster.clone(), view)).collect();
        for (cluster, view) in &views {
            let key = Key::new("", cluster);
            match world.own.peers.get(&key) {
                Some(own) => {
                    self.wanted(&key, own, state).await;
                    if needs_token(own, view) {
                        self.join(&key, own).await;
                    }
                    self.report(&key, own, view).await;
                }
                None => {
                    self.make(NAMES.0, NAMES.1, &key).await;
                }
            }
        }
        for (key, own) in world.own.peers.iter().filter(|(key, _)| !views.contains_key(&key.name)) {
            if own.spec.token_secret_ref.is_some() {
                self.join(key, own).await;
                self.report_attempt(key, own).await;
            } else if own.ours && own.spec == PeerSpec::default() {
                // It was made for a peer that is forgotten.
                let api = self.api(NAMES.0, NAMES.1, "");
                self.asked(NAMES.0, &key.name, api.delete(&key.name, &DeleteParams::default())).await;
            } else {
                let told =
                    telling::not_joined("NoToken", "it is no peer, and no token is named to join it with");
                self.tell_peer(key, own, told).await;
            }
        }
        let known = |name: &String| world.own.peers.get(&Key::new("", name)).is_some();
        self.attempts().retain(|name, attempt| attempt.running || known(name));
    }

    /// Makes a peer what a person wants it to be.
    async fn wanted(&self, key: &Key, own: &Own<PeerSpec>, state: &State) {
        let Ok(cluster) = ClusterId::parse(&key.name) else { return };
        let (Some(desired), Some(peer)) = (own.spec.desired, state.peers.get(&cluster)) else { return };
        let paused = peer.ruling.paused.is_some();
        let verb = match (desired, peer.standing) {
            (Desired::Active, Standing::Pending) => Verb::Approve,
            (Desired::Active, Standing::Approved) if paused => Verb::Resume,
            (Desired::Paused, Standing::Approved) if !paused => Verb::Pause,
            (Desired::Removed, standing)
                if standing != Standing::Terminated && standing != Standing::Revoked =>
            {
                Verb::Remove
            }
            (Desired::Revoked, standing) if standing != Standing::Revoked => Verb::Revoke,
            _ => return,
        };
        match (self.hands.act)(cluster, verb).await {
            Ok(()) => {
                let note = format!("desired is {desired:?}: {verb}");
                self.tell(NAMES.0, key, &own.uid, (true, "Desired", &note)).await;
            }
            Err(problem) => {
                let note = problem.to_string();
                self.tell(NAMES.0, key, &own.uid, (false, "DesiredFailed", &note)).await;
            }
        }
    }

    /// Begins to join, unless that runs, or has failed a short while ago.
    async fn join(&self, key: &Key, own: &Own<PeerSpec>) {
        let Some(reference) = &own.spec.token_secret_ref else { return };
        let now = self.clock.now();
        {
            let mut attempts = self.attempts();
            let attempt = attempts.entry(key.name.clone()).or_default();
            let again = attempt.generation != own.generation || attempt.next.is_none_or(|at| at <= now);
            if attempt.running || !again {
                return;
            }
            attempt.running = true;
            attempt.generation = own.generation;
            attempt.backoff.dialled(now);
        }
        let token = match self.token_text(reference).await {
            Ok(token) => token,
            Err(missing) => {
                self.note_attempt(&key.name, Err(("NoSecret", missing)));
                return;
            }
        };
        let (join, name) = (self.hands.join.clone(), key.name.clone());
        let (attempts, clock) = (self.attempts.clone(), self.clock.clone());
        self.tasks.spawn_transient("join by custom resource", async move {
            let outcome = judged(&name, join(token).await);
            let mut attempts = attempts.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            note(attempts.entry(name).or_default(), outcome, &clock);
        });
    }

    fn note_attempt(&self, name: &str, outcome: Result<(), (&'static str, String)>) {
        note(self.attempts().entry(name.to_owned()).or_default(), outcome, &self.clock);
    }

    async fn token_text(&self, reference: &SecretKey) -> Result<String, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = self.asked("Secret", &reference.name, secrets.get_opt(&reference.name)).await;
        let secret = secret.ok_or("the API server did not give the Secret")?;
        let SecretKey { name, key } = reference;
        let secret = secret.ok_or_else(|| format!("there is no Secret {name} in {}", self.namespace))?;
        let bytes = secret.data.and_then(|mut data| data.remove(key));
        let bytes = bytes.ok_or_else(|| format!("the Secret {name} has no key {key}"))?;
        let text =
            String::from_utf8(bytes.0).map_err(|_| format!("{key} of the Secret {name} is no text"))?;
        Ok(text.trim().to_owned())
    }

    async fn report_attempt(&mut self, key: &Key, own: &Own<PeerSpec>) {
        let attempt = self.attempts().get(&key.name).cloned().unwrap_or_default();
        let told = match &attempt.failed {
            Some((reason, message)) => telling::not_joined(reason, message),
            None => telling::not_joined("Joining", "the token is being redeemed"),
        };
        let failed = attempt.failed.is_some();
        let message = own_reason(&own.status);
        let (status, _) = &told;
        let news = failed && status["reason"].as_str() != message;
        let note = status["reason"].as_str().unwrap_or_default().to_owned();
        self.tell_peer(key, own, told).await;
        if news {
            self.tell(NAMES.0, key, &own.uid, (false, "JoinFailed", &note)).await;
        }
    }

    /// Writes how a peer is. Figures alone are no reason to write often.
    async fn report(&mut self, key: &Key, own: &Own<PeerSpec>, view: &PeerView) {
        let told = telling::peer(view);
        let (before, state) = (own.status["state"].as_str().unwrap_or_default(), view.state.as_str());
        let now = self.clock.now();
        if before == state {
            let lately = self.told.get(&key.name).is_some_and(|at| now < *at + limits::GOVERN_FIGURES_PAUSE);
            if lately {
                return;
            }
        }
        if self.tell_peer(key, own, told).await {
            self.told.insert(key.name.clone(), now);
            if before != state {
                let good = state == "active";
                let reason = if good { "PeerActive" } else { "PeerNotActive" };
                self.tell(NAMES.0, key, &own.uid, (good, reason, &format!("{state}: {}", view.cause))).await;
            }
        }
    }

    async fn tell_peer(
        &self,
        key: &Key,
        own: &Own<PeerSpec>,
        (mut status, conditions): (Value, Vec<super::Condition>),
    ) -> bool {
        status["conditions"] = self.dated(&conditions, own.generation, &own.status);
        self.put_status(NAMES, key, &own.status, status).await
    }
}

/// A tombstone is fenced until it joins anew, and a person who names a token wants that.
fn needs_token(own: &Own<PeerSpec>, view: &PeerView) -> bool {
    let wanted = matches!(own.spec.desired, None | Some(Desired::Active));
    wanted && own.spec.token_secret_ref.is_some() && view.state == "terminated"
}

fn own_reason(status: &Value) -> Option<&str> {
    status["reason"].as_str()
}

fn judged(name: &str, joined: Result<ClusterId, Problem>) -> Result<(), (&'static str, String)> {
    match joined {
        Ok(cluster) if cluster.as_str() == name => Ok(()),
        Ok(cluster) => Err((
            "OtherCluster",
            format!("the token was {cluster}'s, which is a peer now: rename this object to it"),
        )),
        Err(problem) => Err(("JoinFailed", format!("{} {}: {}", problem.code, problem.message, problem.fix))),
    }
}

fn note(attempt: &mut Attempt, outcome: Result<(), (&'static str, String)>, clock: &crate::clock::Clock) {
    attempt.running = false;
    let now = clock.now();
    match outcome {
        Ok(()) => *attempt = Attempt { generation: attempt.generation, ..Attempt::default() },
        Err(why) => {
            attempt.next = Some(attempt.backoff.failed(now, &mut clock.rng()) + limits::GOVERN_JOIN_PAUSE);
            attempt.failed = Some(why);
        }
    }
}
