//! The files of the state folder as documents: their names, and what stands in them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    catalog::{Export, Row},
    ids::{ClusterId, Epoch, Seq, Timestamp},
    state::State,
    token::TokenId,
};

/// What this cluster exports.
pub(super) const EXPORTS: &str = "exports.json";

/// The folder of peers.
pub(super) const PEERS: &str = "peers";

/// The folder of tokens.
pub(super) const TOKENS: &str = "tokens";

/// The record of one peer.
pub(super) fn peer(cluster: &ClusterId) -> String {
    format!("{PEERS}/{cluster}.json")
}

/// The record of one token.
pub(super) fn token(id: &TokenId) -> String {
    format!("{TOKENS}/{id}.json")
}

/// This gateway's virtual IPs.
pub(super) fn virtual_ips(folder: &str) -> String {
    format!("{folder}/virtual-ips.json")
}

/// The derived Services of a gateway on Kubernetes.
pub(super) fn entrances(folder: &str) -> String {
    format!("{folder}/entrances.json")
}

/// The folder of what this gateway holds of its peers.
pub(super) fn catalogs(folder: &str) -> String {
    format!("{folder}/catalog")
}

/// What this gateway holds of one peer.
pub(super) fn catalog(folder: &str, cluster: &ClusterId) -> String {
    format!("{}/{cluster}.snap", catalogs(folder))
}

/// `exports.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Exports {
    pub(super) exports: Vec<Arc<Export>>,
}

impl Exports {
    /// All of them: those of the config file too, because their age and their life outlive the process.
    pub(super) fn of(state: &State) -> Self {
        Self { exports: state.exports.values().cloned().collect() }
    }
}

/// A peer's catalog on disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Which state of the exporter the rows are, if they are one.
    pub(super) position: Option<(Epoch, Seq)>,
    /// When they were last known to be current.
    pub(super) current: Timestamp,
    /// The rows.
    pub(super) rows: Vec<Arc<Row>>,
}
