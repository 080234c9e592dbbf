//! The connection to the Kubernetes cluster this gateway belongs to, as it is configured.

use super::home::Home;
use crate::{
    clock::Clock,
    config::Config,
    kubernetes::{Kubernetes, Parts},
    model::code::Problem,
    store::Store,
    supervise::Tasks,
};

/// Starts it; none where no cluster is configured.
pub(super) async fn start(
    config: &Config,
    home: &Home,
    store: &Store,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<Option<Kubernetes>, Problem> {
    if !config.kubernetes.enabled {
        return Ok(None);
    }
    let parts = Parts {
        store: store.clone(),
        clock: clock.clone(),
        tasks: tasks.clone(),
        namespace: config.kubernetes.namespace.clone(),
        selector: config.kubernetes.selector.clone(),
        identity: home.gateway.to_string(),
    };
    Kubernetes::start(parts).await.map(Some)
}
