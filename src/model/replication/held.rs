//! What an importer holds of one peer, by name: enough to judge, to sweep and to compare, not the rows.

use std::collections::BTreeMap;

use super::{Digest, quota::Beside};
use crate::model::ids::ServiceName;

/// The version of a row that is held.
#[derive(Debug)]
struct Version {
    digest: Digest,
    bytes: usize,
    /// The snapshot that last named it.
    snapshot: u64,
    /// A newer version was refused: this one keeps working, and is in nobody's digest.
    superseded: bool,
}

/// All rows held, with their sums kept up to date.
#[derive(Debug, Default)]
pub(super) struct Held {
    rows: BTreeMap<ServiceName, Version>,
    bytes: usize,
    digest: Digest,
    snapshot: u64,
    /// Rows that the snapshot under way has named.
    marked: Beside,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// Begins a mark and sweep.
    pub(super) fn begin_snapshot(&mut self) {
        self.snapshot += 1;
        self.marked = Beside::default();
    }

    /// What stands beside `name`: inside a snapshot only what it has named so far, since the rest may go.
    pub(super) fn beside(&self, name: &ServiceName, in_snapshot: bool) -> Beside {
        let mut all =
            if in_snapshot { self.marked } else { Beside { services: self.rows.len(), bytes: self.bytes } };
        if let Some(version) = self.rows.get(name)
            && (!in_snapshot || version.snapshot == self.snapshot)
        {
            all.services -= 1;
            all.bytes -= version.bytes;
        }
        all
    }

    /// Whether this very version is held.
    pub(super) fn has(&self, name: &ServiceName, digest: Digest) -> bool {
        self.rows.get(name).is_some_and(|version| !version.superseded && version.digest == digest)
    }

    /// Whether some version is held.
    pub(super) fn contains(&self, name: &ServiceName) -> bool {
        self.rows.contains_key(name)
    }

    /// Takes a version, and marks it.
    pub(super) fn put(&mut self, name: &ServiceName, digest: Digest, bytes: usize) {
        self.remove(name);
        self.bytes += bytes;
        self.digest = self.digest.plus(digest);
        self.marked.services += 1;
        self.marked.bytes += bytes;
        let version = Version { digest, bytes, snapshot: self.snapshot, superseded: false };
        self.rows.insert(name.clone(), version);
    }

    /// A newer version was refused: what is held of that name stays, and is marked.
    pub(super) fn supersede(&mut self, name: &ServiceName) {
        let Some(version) = self.rows.get_mut(name) else { return };
        if !version.superseded {
            version.superseded = true;
            self.digest = self.digest.minus(version.digest);
        }
        self.mark(name);
    }

    /// Marks the version that is held.
    pub(super) fn mark(&mut self, name: &ServiceName) {
        if let Some(version) = self.rows.get_mut(name)
            && version.snapshot != self.snapshot
        {
            version.snapshot = self.snapshot;
            self.marked.services += 1;
            self.marked.bytes += version.bytes;
        }
    }

    /// Lets a row go; whether it was held.
    pub(super) fn remove(&mut self, name: &ServiceName) -> bool {
        let Some(version) = self.rows.remove(name) else { return false };
        self.bytes -= version.bytes;
        if !version.superseded {
            self.digest = self.digest.minus(version.digest);
        }
        if version.snapshot == self.snapshot {
            self.marked.services = self.marked.services.saturating_sub(1);
            self.marked.bytes = self.marked.bytes.saturating_sub(version.bytes);
        }
        true
    }

    /// Lets all rows go that the snapshot did not name, and names them.
    pub(super) fn sweep(&mut self) -> Vec<ServiceName> {
        let unmarked = self.rows.iter().filter(|(_, version)| version.snapshot != self.snapshot);
        let gone: Vec<ServiceName> = unmarked.map(|(name, _)| name.clone()).collect();
        for name in &gone {
            self.remove(name);
        }
        gone
    }
}
