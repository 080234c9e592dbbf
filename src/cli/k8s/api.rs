//! A cluster's API server for the command line: apply, read, delete, wait.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams},
    config::KubeConfigOptions,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::args::ContextArgs;
use crate::{
    clock::Clock,
    model::code::{Code, Problem},
};

/// Who applies, for the API server.
const APPLIER: &str = "tombolo-install";
/// Between two looks at something that takes its time.
const LOOK: Duration = Duration::from_millis(250);

/// One cluster's.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) client: Client,
    clock: Clock,
}

/// Kinds that are applied and read: kind, plural, and whether they have a namespace.
const KINDS: [(&str, &str, bool); 16] = [
    ("Namespace", "namespaces", false),
    ("ServiceAccount", "serviceaccounts", true),
    ("ClusterRole", "clusterroles", false),
    ("ClusterRoleBinding", "clusterrolebindings", false),
    ("Role", "roles", true),
    ("RoleBinding", "rolebindings", true),
    ("ConfigMap", "configmaps", true),
    ("Secret", "secrets", true),
    ("StatefulSet", "statefulsets", true),
    ("Deployment", "deployments", true),
    ("Service", "services", true),
    ("Lease", "leases", true),
    ("CustomResourceDefinition", "customresourcedefinitions", false),
    ("Clusterset", "clustersets", false),
    ("Peer", "peers", false),
    ("JoinToken", "jointokens", true),
];

impl Server {
    /// The cluster of a context.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_CONFIG`] without a kubeconfig, or such a context.
    pub(super) async fn of(context: &ContextArgs) -> Result<Self, Problem> {
        let unusable = |error: &dyn std::fmt::Display| {
            Problem::new(Code::KUBERNETES_CONFIG, error.to_string())
                .with_fix("set KUBECONFIG, and choose one of `kubectl config get-contexts` with --context")
        };
        let options = KubeConfigOptions { context: context.context.clone(), ..KubeConfigOptions::default() };
        let config = match context.context {
            Some(_) => kube::Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error))?,
            None => kube::Config::infer().await.map_err(|error| unusable(&error))?,
        };
        let client = Client::try_from(config).map_err(|error| unusable(&error))?;
        Ok(Self { client, clock: Clock::system() })
    }

    /// The API of a kind, as `(apiVersion, kind)`, in a namespace if it has one.
    pub(super) fn api(&self, api_version: &str, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let (_, plural, namespaced) =
            KINDS.iter().find(|(known, ..)| *known == kind).expect("a kind of the table");
        let kind = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        if *namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// Applies an object; its name for people.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_REFUSED`].
    pub(super) async fn apply(&self, object: &Value, dry_run: bool) -> Result<String, Problem> {
        let (api, name, shown) = self.place(object);
        let parameters = PatchParams { dry_run, ..PatchParams::apply(APPLIER).force() };
        let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await;
        applied.map(|_| shown.clone()).map_err(|error| refused(&shown, &error))
    }

    /// Deletes an object if it is there.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_REFUSED`].
    pub(super) async fn delete(&self, object: &Value) -> Result<Option<String>, Problem> {
        let (api, name, shown) = self.place(object);
        match api.delete(&name, &DeleteParams::background()).await {
            Ok(_) => Ok(Some(shown)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(refused(&shown, &error)),
        }
    }

    fn place(&self, object: &Value) -> (Api<DynamicObject>, String, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        let namespace = text(&object["metadata"]["namespace"]);
        let api = self.api(&text(&object["apiVersion"]), &kind, &namespace);
        let shown = format!("{}/{name}", kind.to_lowercase());
        (api, name, shown)
    }

    /// An object as data, if it is there.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_REFUSED`].
    pub(super) async fn get(
        &self,
        (api_version, kind): (&str, &str),
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Problem> {
        let api = self.api(api_version, kind, namespace);
        match api.get_opt(name).await {
            Ok(object) => Ok(object.map(|object| {
                let metadata = serde_json::to_value(&object.metadata).unwrap_or_default();
                let mut data = object.data;
                data["metadata"] = metadata;
                data
            })),
            Err(error) => Err(refused(&format!("{}/{name}", kind.to_lowercase()), &error)),
        }
    }

    /// Merges a patch into an object.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_REFUSED`].
    pub(super) async fn merge(
        &self,
        (api_version, kind): (&str, &str),
        (namespace, name): (&str, &str),
        patch: &Value,
    ) -> Result<(), Problem> {
        let api = self.api(api_version, kind, namespace);
        let merged = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        merged.map(drop).map_err(|error| refused(&format!("{}/{name}", kind.to_lowercase()), &error))
    }

    /// Has the pods of a Deployment replaced.
    ///
    /// # Errors
    /// [`Code::KUBERNETES_REFUSED`].
    pub(super) async fn restart(&self, namespace: &str, deployment: &str) -> Result<(), Problem> {
        let now = self.clock.wall().0.to_string();
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": {
            "tombolo.dev/restarted": now } } } } });
        self.merge(("apps/v1", "Deployment"), (namespace, deployment), &patch).await
    }

    /// Looks until `look` has something; none when the time is over.
    ///
    /// # Errors
    /// What `look` has last failed with.
    pub(super) async fn until<T, F: Future<Output = Result<Option<T>, Problem>>>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<Option<T>, Problem> {
        let end = self.clock.now() + limit;
        loop {
            let seen = look().await;
            match seen {
                Ok(Some(found)) => return Ok(Some(found)),
                seen if self.clock.now() >= end => return seen,
                _ => sleep(LOOK).await,
            }
        }
    }

    pub(super) fn wall(&self) -> crate::model::ids::Timestamp {
        self.clock.wall()
    }
}

/// What the API server did not do.
pub(super) fn refused(what: &str, error: &kube::Error) -> Problem {
    let text = match error {
        kube::Error::Api(status) => format!("{what}: {} ({} {})", status.message, status.code, status.reason),
        error => format!("{what}: {error}"),
    };
    Problem::new(Code::KUBERNETES_REFUSED, text)
}
