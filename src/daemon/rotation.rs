//! Carries a rotation of the cluster's root from step to step, and warns of lives that end.
//!
//! The steps are `model::rotation`'s. The set of roots in the state folder is the one truth for all gateways of
//! the cluster: it changes by compare-and-swap, and each gateway follows it.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::Notify, time::sleep};

use super::home::{Home, problem};
use crate::{
    clock::Clock,
    config::Lives,
    files::Swap,
    identity::{Identity, ROOT_SET_FILE},
    ledger::Ledger,
    model::{
        code::{Code, Problem},
        ids::Timestamp,
        limits,
        rotation::{Facts, Phase, RootSet, Step, little_left, next, waited_for},
    },
    store::Store,
    supervise::Tasks,
};

/// The rotation of this cluster's root; cheap to clone.
#[derive(Clone)]
pub(super) struct Rotation(Arc<Parts>);

/// What rotating needs.
pub(super) struct Parts {
    pub(super) home: Arc<Home>,
    pub(super) lives: Lives,
    pub(super) identity: Arc<Identity>,
    pub(super) store: Store,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
    /// Somebody asked for the next step.
    pub(super) wake: Notify,
}

impl Rotation {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Follows and carries on for as long as the process runs.
    pub(super) async fn run(self) {
        let stop = self.0.tasks.shutdown().hard();
        tokio::pin!(stop);
        let mut told = BTreeMap::new();
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = self.0.wake.notified() => {}
                () = sleep(limits::ROTATION_CHECK) => {}
            }
            let done = self.go_on().await;
            if let (Err(problem), false) = (&done, failing) {
                tracing::error!(code = %Code::ROTATION_FAILING, error = %problem, "a step of the rotation failed");
            }
            failing = done.is_err();
            self.warn(&mut told);
        }
    }

    /// Begins a rotation, unless one is under way; the set of roots after that.
    ///
    /// # Errors
    /// What keeps the new root from being written.
    pub(super) async fn begin(&self) -> Result<RootSet, Problem> {
        self.follow().await?;
        if self.0.identity.root_set().phase() == Phase::Settled {
            self.publish().await?;
            self.0.wake.notify_one();
        }
        Ok(self.0.identity.root_set())
    }

    /// One look: what another gateway did is followed, then what is due is done.
    async fn go_on(&self) -> Result<(), Problem> {
        self.follow().await?;
        let (set, parts) = (self.0.identity.root_set(), &self.0);
        let facts = Facts {
            waited_for: waited_for(&parts.store.state(), set.sequence).count(),
            life: parts.identity.bundle().newest().life(),
            patience: parts.lives.rotation_patience,
            retire_after: parts.lives.retire_after,
            now: parts.clock.wall(),
        };
        match next(&set, &facts) {
            Step::Wait => Ok(()),
            Step::Publish => self.publish().await,
            Step::Issue => self.swap(&set, set.with_newest_issuing(facts.now)).await.map(|_| ()),
            Step::Retire => self.swap(&set, set.with_issuing_only(facts.now)).await.map(|_| ()),
        }
    }

    /// Takes over what another gateway of this cluster wrote.
    async fn follow(&self) -> Result<(), Problem> {
        let parts = self.0.clone();
        self.blocking(move || {
            let loaded = parts.home.persist.load(ROOT_SET_FILE).map_err(|error| problem(&error))?;
            let Some(loaded) = loaded else { return Ok(()) };
            let set: RootSet = serde_json::from_slice(&loaded.bytes).map_err(unreadable)?;
            if set == parts.identity.root_set() { Ok(()) } else { parts.adopt(set) }
        })
        .await
    }

    /// Makes a root and tells it. Cut off anywhere, it leaves files that nothing names.
    async fn publish(&self) -> Result<(), Problem> {
        let set = self.0.identity.root_set();
        if !self.swap(&set, set.with_number()).await? {
            return Ok(());
        }
        let set = set.with_number();
        let (parts, number, now) = (self.0.clone(), set.made, self.0.clock.wall());
        self.blocking(move || {
            let made = parts.identity.make_root(number, parts.lives.root_life, now);
            let files = made.map_err(|error| Problem::new(error.code(), error.to_string()))?;
            files.iter().try_for_each(|(path, bytes)| parts.home.write(path, bytes))
        })
        .await?;
        self.swap(&set, set.with_made(now)).await.map(|_| ())
    }

    /// Replaces the set, if it is still the one that was seen; whether it was.
    async fn swap(&self, seen: &RootSet, then: RootSet) -> Result<bool, Problem> {
        let (parts, seen) = (self.0.clone(), seen.clone());
        self.blocking(move || {
            let persist = &parts.home.persist;
            let loaded = persist.load(ROOT_SET_FILE).map_err(|error| problem(&error))?;
            let expected = loaded.as_ref().map(|loaded| loaded.digest);
            let known: Option<RootSet> =
                loaded.map(|it| serde_json::from_slice(&it.bytes)).transpose().map_err(unreadable)?;
            if known.is_some_and(|known| known != seen) {
                return Ok(false);
            }
            let bytes = serde_json::to_vec_pretty(&then).expect("the document has text keys");
            match persist.cas(ROOT_SET_FILE, expected, &bytes).map_err(|error| problem(&error))? {
                Swap::Lost(_) => Ok(false),
                Swap::Done(_) => parts.adopt(then).map(|()| true),
            }
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.0.tasks.blocking(work).await
    }

    /// Warns of each life once a threshold: 50, 25 and 10 percent left.
    fn warn(&self, told: &mut BTreeMap<String, u8>) {
        let now = self.0.clock.wall();
        for (what, life) in self.lives() {
            let Some(percent) = little_left(life, now) else {
                told.remove(&what);
                continue;
            };
            if told.insert(what.clone(), percent) == Some(percent) {
                continue;
            }
            let text = format!("{what} has {percent} % of its life left");
            match percent {
                50 => tracing::info!(code = %Code::ROOT_EXPIRES_SOON, "{text}"),
                25 => tracing::warn!(code = %Code::ROOT_EXPIRES_SOON, "{text}"),
                _ => {
                    tracing::error!(code = %Code::ROOT_EXPIRES_SOON, "{text}");
                    self.0.ledger.note("life", text);
                }
            }
        }
    }

    /// What lives and ends: our own root and the roots of peers. (An SVID that is not renewed says so itself.)
    fn lives(&self) -> Vec<(String, (Timestamp, Timestamp))> {
        let state = self.0.store.state();
        let own = (format!("our own root ({})", state.me.cluster), self.0.identity.bundle().newest().life());
        let peers = state.peers.values().filter(|peer| peer.is_trusted());
        let peers = peers.map(|peer| (format!("the root of {}", peer.cluster), peer.bundle.newest().life()));
        std::iter::once(own).chain(peers).collect()
    }
}

impl Parts {
    fn adopt(&self, set: RootSet) -> Result<(), Problem> {
        let before = self.identity.root_set();
        let files = self.home.identity_files()?;
        let text =
            format!("roots {:?}, number {} issues, {}", set.published, set.issuing, set.phase().as_str());
        self.identity
            .adopt(set.clone(), &files)
            .map_err(|error| Problem::new(error.code(), error.to_string()))?;
        if (set.sequence, set.issuing) != (before.sequence, before.issuing) {
            self.ledger.note("roots", text);
        }
        Ok(())
    }
}

fn unreadable(error: serde_json::Error) -> Problem {
    Problem::new(Code::STATE_CORRUPT, format!("{ROOT_SET_FILE}: {error}"))
}
