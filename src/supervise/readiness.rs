//! What the daemon still waits for before it calls itself ready.
//!
//! Each part takes a guard and drops it when it can serve. Liveness is another matter: see `Shards`.

use std::{collections::BTreeMap, future::Future, sync::Arc};

use tokio::sync::watch;

#[derive(Debug, Clone, Default)]
struct Pending {
    next: u64,
    parts: BTreeMap<u64, Arc<str>>,
}

/// The parts that are not ready yet. Cloning is cheap, clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Readiness(watch::Sender<Pending>);

/// One part that is not ready yet; dropping it says that it is.
#[derive(Debug)]
#[must_use = "dropping the guard says that the part is ready"]
pub struct ReadyGuard {
    readiness: Readiness,
    key: u64,
}

impl Readiness {
    /// Nothing to wait for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `part` to what must be ready. Also good for taking readiness back: "draining".
    pub fn register(&self, part: impl Into<Arc<str>>) -> ReadyGuard {
        let mut key = 0;
        self.0.send_modify(|pending| {
            key = pending.next;
            pending.next += 1;
            pending.parts.insert(key, part.into());
        });
        ReadyGuard { readiness: self.clone(), key }
    }

    /// The parts that are not ready, in the order they registered.
    #[must_use]
    pub fn pending(&self) -> Vec<String> {
        self.0.borrow().parts.values().map(ToString::to_string).collect()
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().parts.is_empty()
    }

    /// Done when nothing is pending.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<> {
        let sender = self.0.clone();
        async move {
            // The sender lives in this very future, so the channel cannot close under the wait.
            let _ = sender.subscribe().wait_for(|pending| pending.parts.is_empty()).await;
        }
    }
}

impl Drop for ReadyGuard {
    fn drop(&mut self) {
        self.readiness.0.send_modify(|pending| {
            pending.parts.remove(&self.key);
        });
    }
}
