//! The files of the state folder as documents: their names, and what stands in them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    catalog::{Export, Row},
    ids::{ClusterId, Epoch, Seq, ServiceName, Timestamp},
    state::State,
    token::TokenId,
};

/// The folder of what this cluster exports.
pub(super) const EXPORTS: &str = "exports";

/// Into how many files the exports are divided: a change then costs the same small part of them, be they ten
/// or ten thousand, and a start with all of them does not wait for thousands of files.
pub(super) const EXPORT_FILES: u8 = 32;

/// Which of those files an export stands in. Part of the format: what has been written is found by it again.
pub(super) fn export_file(name: &ServiceName) -> u8 {
    // Not a constant: its table would be copied at each use.
    static CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let checksum = CRC32C.checksum(name.to_string().as_bytes()) % u32::from(EXPORT_FILES);
    u8::try_from(checksum).expect("less than the number of files")
}

/// One of the files of exports.
pub(super) fn exports(file: u8) -> String {
    format!("{EXPORTS}/{file:02}.json")
}

/// Rules that were declared beside the config file.
pub(super) const DECLARED: &str = "policies.json";

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

/// One of the files of exports.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Exports {
    pub(super) exports: Vec<Arc<Export>>,
}

impl Exports {
    /// Those of one file. Those of the config file too, because their age and their life outlive the process.
    pub(super) fn of(state: &State, file: u8) -> Self {
        let here = state.exports.iter().filter(|(name, _)| export_file(name) == file);
        Self { exports: here.map(|(_, export)| export.clone()).collect() }
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
