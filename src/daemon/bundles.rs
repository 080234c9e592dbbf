//! Writes the bundles of this cluster and its peers for workloads: a SPIFFE bundle document and PEM each, named
//! by trust domain and kept current.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    config::Lives,
    files::{PublicFolder, read_named},
    identity::Identity,
    model::{
        code::{Code, Problem},
        limits::BUNDLE_REFRESH_HINT,
        state::State,
        trust::{Bundle, Der},
    },
    store::Store,
    supervise::Tasks,
};

/// Reads the authorities of workloads that the config names, and lets peers be told them.
///
/// # Errors
/// [`Code::CONFIG_VALUE_INVALID`] names the file and what is wrong with it.
pub(super) fn take_workload_roots(lives: &Lives, identity: &Identity) -> Result<(), Problem> {
    let wrong = |path: &str, why: String| {
        Problem::new(Code::CONFIG_VALUE_INVALID, format!("identity.workload_roots: {path}: {why}"))
    };
    let mut roots: Vec<Der> = Vec::new();
    for path in &lives.workload_roots {
        let text = read_named(Path::new(path)).map_err(|error| wrong(path, error.to_string()))?;
        let before = roots.len();
        for der in CertificateDer::pem_slice_iter(&text) {
            roots.push(der.map_err(|error| wrong(path, error.to_string()))?.as_ref().into());
        }
        if roots.len() == before {
            return Err(wrong(path, "holds no PEM certificate".to_owned()));
        }
    }
    identity.set_workload_roots(roots);
    let refused = identity.published().err();
    refused.map_or(Ok(()), |refusal| Err(wrong(&lives.workload_roots.join(", "), refusal.to_string())))
}

/// Keeps the folder current.
pub(super) struct Publishing {
    pub(super) folder: PublicFolder,
    pub(super) identity: Arc<Identity>,
    pub(super) store: Store,
    pub(super) tasks: Tasks,
}

impl Publishing {
    /// For as long as the process runs.
    pub(super) async fn run(self) {
        let stop = self.tasks.shutdown().hard();
        tokio::pin!(stop);
        let (mut states, mut roots) = (self.store.watch(), self.identity.changes());
        let mut written = BTreeMap::new();
        loop {
            let wanted = self.files(&states.borrow_and_update().clone());
            if wanted != written {
                let (folder, before, now) = (self.folder.clone(), written, wanted.clone());
                let result = self.tasks.blocking(move || bring(&folder, &before, &now)).await;
                if let Err(error) = result {
                    tracing::warn!(%error, "the bundles could not be written for workloads");
                }
                written = wanted;
            }
            tokio::select! {
                biased;
                () = &mut stop => return,
                _ = roots.changed() => {}
                changed = states.changed() => if changed.is_err() {
                    stop.as_mut().await;
                    return;
                },
            }
        }
    }

    fn files(&self, state: &State) -> BTreeMap<String, String> {
        let own = self.identity.published().unwrap_or_else(|_| Bundle::clone(&self.identity.bundle()));
        let peers = state.peers.values().filter(|peer| peer.is_trusted());
        let peers = peers.map(|peer| (&peer.trust_domain, &peer.bundle));
        let mut files = BTreeMap::new();
        for (domain, bundle) in std::iter::once((self.identity.trust_domain(), &own)).chain(peers) {
            files.insert(format!("{domain}.json"), bundle.to_spiffe(BUNDLE_REFRESH_HINT));
            files.insert(format!("{domain}.pem"), bundle.to_pem());
        }
        files
    }
}

fn bring(
    folder: &PublicFolder,
    before: &BTreeMap<String, String>,
    now: &BTreeMap<String, String>,
) -> std::io::Result<()> {
    for name in before.keys().filter(|name| !now.contains_key(*name)) {
        folder.withdraw(name)?;
    }
    now.iter().try_for_each(|(name, text)| folder.publish(name, text.as_bytes()))
}
