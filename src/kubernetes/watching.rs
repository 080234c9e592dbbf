//! Follows each kind of object and says what was seen. Broken watches are begun again, with a pause that grows
//! and is never the same for two gateways.

use std::{fmt::Debug, pin::pin};

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, Resource,
    api::{ApiResource, GroupVersionKind},
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;

use super::{
    MANAGED_BY, MANAGER, Parts, SERVICE_NAME, SLICE_MANAGED_BY,
    seen::{self, Key},
    world::{Change, Said},
};
use crate::supervise::Tasks;

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
pub(super) fn start(client: &Client, parts: &Parts, say: &mpsc::Sender<Said>) {
    let all = || client.clone();
    let every = watcher::Config::default;
    let ours = || every().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let following = Following { tasks: parts.tasks.clone(), say: say.clone() };
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
}

struct Following {
    tasks: Tasks,
    say: mpsc::Sender<Said>,
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
        let (say, soft) = (self.say.clone(), self.tasks.shutdown().soft());
        self.tasks.spawn(format!("kubernetes {kind}"), async move {
            let mut events = pin!(watcher(api, config).default_backoff());
            let mut soft = pin!(soft);
            let mut troubled = false;
            loop {
                let event = tokio::select! {
                    biased;
                    () = &mut soft => return,
                    event = events.next() => event,
                };
                // The stream has no end of its own.
                let Some(event) = event else { return };
                let trouble = match &event {
                    Ok(_) if troubled => Some(None),
                    Ok(_) => None,
                    Err(error) => Some(Some(error.to_string())),
                };
                if let Some(reason) = trouble {
                    troubled = reason.is_some();
                    if let Some(error) = &reason {
                        tracing::warn!(kind, %error, "the API server does not answer");
                    }
                    if say.send(Said::Trouble(kind, reason)).await.is_err() {
                        return;
                    }
                }
                let Ok(event) = event else { continue };
                if say.send(said(change(event, &read))).await.is_err() {
                    return;
                }
            }
        });
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
