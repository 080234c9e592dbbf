//! Follows each kind of object and says what was seen. Broken watches are begun again, with a pause that grows
//! and is never the same for two gateways.

use std::{fmt::Debug, pin::pin, time::Duration};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, GroupVersionKind},
    runtime::{watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_stream::StreamExt as _;

use super::{
    MANAGED_BY, MANAGER, Parts, SERVICE_NAME, SLICE_MANAGED_BY,
    own::{Own, SaidOwn},
    patience::Patience,
    resources::{Clusterset, ExportGrant, FailoverPolicy, Guardrail, ImportPolicy, JoinToken, Peer},
    seen::{self, Key},
    world::{Change, RULES, Said, Trouble, spoken},
};
use crate::{
    clock::Clock,
    model::{backoff::Backoff, limits},
    supervise::Tasks,
};

/// A kind of the standard's group, in the version that is stored.
pub(super) fn standard(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("multicluster.x-k8s.io", "v1beta1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

/// A kind of Kubernetes' own, as plain data.
pub(super) fn plain(group: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, "v1", kind), plural)
}

/// Begins to follow everything.
pub(super) fn start(
    client: &Client,
    parts: &Parts,
    patience: &Patience,
    say: &mpsc::Sender<Said>,
    renew: &watch::Receiver<u64>,
) {
    let all = || client.clone();
    let every = watcher::Config::default;
    let ours = || every().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let following = Following {
        tasks: parts.tasks.clone(),
        clock: parts.clock.clone(),
        patience: patience.clone(),
        say: say.clone(),
        renew: renew.clone(),
    };
    let typed = &following;
    typed.follow("Services", Api::all(all()), every(), Said::Services, |it: &Service| seen::Service::of(it));
    let of_services = every().labels(SERVICE_NAME);
    typed.follow("EndpointSlices", Api::all(all()), of_services, Said::Slices, |it: &EndpointSlice| {
        seen::Slice::of(it)
    });
    typed.follow("Namespaces", Api::all(all()), every(), Said::Namespaces, |it: &Namespace| {
        it.metadata.deletion_timestamp.is_none().then_some(())
    });
    typed.follow("Nodes", Api::all(all()), every(), Said::Hosts, |it: &Node| seen::locality(it));
    typed.follow("Pods", Api::all(all()), every(), Said::Pods, |it: &Pod| seen::Pod::of(it));
    let exports = Api::all_with(all(), &standard("ServiceExport", "serviceexports"));
    typed.follow("ServiceExports", exports, every(), Said::Exports, seen::ServiceExport::of);
    let imports = Api::all_with(all(), &standard("ServiceImport", "serviceimports"));
    typed.follow("ServiceImports", imports, ours(), Said::Imports, |it| Some(seen::Written::of(it)));
    let slices = Api::all_with(all(), &plain("discovery.k8s.io", "EndpointSlice", "endpointslices"));
    let own_slices = every().labels(&format!("{SLICE_MANAGED_BY}={MANAGER}"));
    typed.follow("imported EndpointSlices", slices, own_slices, Said::ImportSlices, |it| {
        Some(seen::Written::of(it))
    });
    let derived = Api::namespaced_with(all(), &parts.namespace, &plain("", "Service", "services"));
    typed.follow("derived Services", derived, ours(), Said::Derived, seen::Derived::of);
    follow_own(&following, client, &parts.namespace);
}

/// Tombolo's own custom resources.
fn follow_own(typed: &Following, client: &Client, namespace: &str) {
    use SaidOwn::{Clustersets, Failovers, Grants, Guardrails, Imports, Peers, Tokens};
    let all = || client.clone();
    let every = watcher::Config::default;
    let clustersets = |change| Said::Own(Clustersets(change));
    typed.follow("Clustersets", Api::all(all()), every(), clustersets, Own::of::<Clusterset>);
    let peers = |change| Said::Own(Peers(change));
    typed.follow("Peers", Api::all(all()), every(), peers, Own::of::<Peer>);
    let tokens = |change| Said::Own(Tokens(change));
    typed.follow("JoinTokens", Api::namespaced(all(), namespace), every(), tokens, Own::of::<JoinToken>);
    let [grants, imports, guardrails, failovers] = RULES;
    let said = |change| Said::Own(Grants(change));
    typed.follow(grants, Api::all(all()), every(), said, Own::of::<ExportGrant>);
    let said = |change| Said::Own(Imports(change));
    typed.follow(imports, Api::all(all()), every(), said, Own::of::<ImportPolicy>);
    let said = |change| Said::Own(Guardrails(change));
    typed.follow(guardrails, Api::all(all()), every(), said, Own::of::<Guardrail>);
    let said = |change| Said::Own(Failovers(change));
    typed.follow(failovers, Api::all(all()), every(), said, Own::of::<FailoverPolicy>);
}

struct Following {
    tasks: Tasks,
    clock: Clock,
    patience: Patience,
    say: mpsc::Sender<Said>,
    /// Changes when watches may hang on connections that nobody serves.
    renew: watch::Receiver<u64>,
}

impl Following {
    fn follow<K, T>(
        &self,
        kind: &'static str,
        api: Api<K>,
        config: watcher::Config,
        said: impl Fn(Change<T>) -> Said + Send + 'static,
        read: impl Fn(&K) -> Option<T> + Send + 'static,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        T: Send + 'static,
    {
        let (say, soft, clock) = (self.say.clone(), self.tasks.shutdown().soft(), self.clock.clone());
        let (mut renew, patience) = (self.renew.clone(), self.patience.clone());
        self.tasks.spawn(format!("kubernetes {kind}"), async move {
            let mut events = Box::pin(watcher(api.clone(), config.clone()));
            let mut soft = pin!(soft);
            let mut pace = Pace { kind, clock, backoff: Backoff::new(), trouble: None, listing: false };
            loop {
                let event = tokio::select! {
                    biased;
                    () = &mut soft => return,
                    Ok(()) = renew.changed() => {
                        events = Box::pin(watcher(api.clone(), config.clone()));
                        continue;
                    }
                    event = events.next() => event,
                    // A watch that was begun anew says nothing while nothing happens.
                    () = sleep(limits::API_SERVER_TIMEOUT), if pace.is_over_when_quiet() => {
                        (pace.trouble, pace.backoff) = (None, Backoff::new());
                        if say.send(Said::Trouble(kind, None)).await.is_err() {
                            return;
                        }
                        continue;
                    }
                };
                // The stream has no end of its own.
                let Some(event) = event else { return };
                let (trouble, pause) = pace.judge(&event);
                let pause = pause.max(patience.left());
                if let Some(reason) = trouble
                    && say.send(Said::Trouble(kind, reason)).await.is_err()
                {
                    return;
                }
                match event {
                    Ok(event) => {
                        if say.send(said(change(event, &read))).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => tokio::select! {
                        biased;
                        () = &mut soft => return,
                        // It answers again: there is nothing to wait for.
                        Ok(()) = renew.changed() => {
                            events = Box::pin(watcher(api.clone(), config.clone()));
                        }
                        () = sleep(pause) => {}
                    },
                }
            }
        });
    }
}

/// What is thought of one watch: how long to wait after an error, and what to tell of it.
struct Pace {
    kind: &'static str,
    clock: Clock,
    backoff: Backoff,
    trouble: Option<Trouble>,
    /// A list has begun and is not complete.
    listing: bool,
}

impl Pace {
    /// Whether a while without an error means that the trouble is over: what cannot be had is refused sooner.
    fn is_over_when_quiet(&self) -> bool {
        self.trouble.is_some() && !self.listing
    }

    /// What is new about the trouble, if anything is, and the pause before the next attempt.
    fn judge<K>(&mut self, event: &Result<Event<K>, watcher::Error>) -> (Option<Option<Trouble>>, Duration) {
        let now = self.clock.now();
        match event {
            // A list that begins has proved nothing: it may be refused with its first answer.
            Ok(Event::Init) => {
                self.listing = true;
                (None, Duration::ZERO)
            }
            Ok(event) => {
                self.listing &= !matches!(event, Event::InitDone);
                self.backoff = Backoff::new();
                let over = self.trouble.take().is_some();
                (over.then_some(None), Duration::ZERO)
            }
            Err(error) => {
                self.backoff.dialled(now);
                let pause = self.backoff.failed(now, &mut self.clock.rng()).saturating_duration_since(now);
                let trouble = Trouble { reason: why(error), unknown: is_unknown(error) };
                let news = self.trouble.as_ref() != Some(&trouble);
                if news {
                    tracing::warn!(kind = self.kind, error = %trouble.reason, "the API server cannot be followed");
                    self.trouble = Some(trouble.clone());
                }
                (news.then_some(Some(trouble)), pause)
            }
        }
    }
}

/// What a watch has met, in words for people.
fn why(error: &watcher::Error) -> String {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchFailed(error) | WatchStartFailed(error) => spoken(error),
        other => other.to_string(),
    }
}

/// Whether the API server has never heard of the kind.
fn is_unknown(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => {
            status.code == 404
        }
        _ => false,
    }
}

fn change<K: Resource, T>(event: Event<K>, read: &impl Fn(&K) -> Option<T>) -> Change<T> {
    match event {
        Event::Init => Change::Begin,
        Event::InitApply(object) => Change::Listed(Key::of(&object), read(&object)),
        Event::InitDone => Change::Complete,
        Event::Apply(object) => Change::Put(Key::of(&object), read(&object)),
        Event::Delete(object) => Change::Gone(Key::of(&object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_lists_begin_and_fail_and_trouble_is_told_once() {
        let mut pace = Pace {
            kind: "Pods",
            clock: Clock::system(),
            backoff: Backoff::new(),
            trouble: None,
            listing: false,
        };
        let error = || Err::<Event<()>, _>(watcher::Error::NoResourceVersion);
        let mut longest = Duration::ZERO;
        for attempt in 0..20 {
            assert_eq!(pace.judge(&Ok(Event::<()>::Init)).0, None);
            let (told, pause) = pace.judge(&error());
            assert_eq!(told.is_some(), attempt == 0);
            longest = longest.max(pause);
        }
        assert!(longest > Duration::from_secs(2), "{longest:?}");
        assert_eq!(pace.judge(&Ok(Event::<()>::InitDone)).0, Some(None));
        assert_eq!(pace.backoff.failures(), 0);
    }
}
