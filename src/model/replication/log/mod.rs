//! What one peer may see of this gateway's exports, versioned: the rows, the seq of each one's last change,
//! and tombstones of what is gone (P5).
//!
//! One log serves every gateway of that peer. The caller has already applied policy: a row that the peer
//! may no longer see is withdrawn here like one that is no longer exported, and nothing else of it leaves.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use imbl::OrdMap;

use super::{
    Digest, RowChange,
    message::{RefusalCode, row_bytes},
};
use crate::model::{
    catalog::Row,
    ids::{Epoch, Seq, ServiceName},
    limits,
};

/// A row over the cap: it is not sent, and its earlier version, if any, stays (P10).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{}: {name} takes {bytes} bytes as a catalog row, at most {} are sent",
    RefusalCode::TooLarge,
    limits::ROW_BYTES_MAX
)]
pub struct ExportTooLarge {
    /// The export.
    pub name: ServiceName,
    /// What its row would take.
    pub bytes: usize,
}

/// A row of the log with what is derived from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The row, with its seq.
    pub row: Arc<Row>,
    /// Its hash.
    pub digest: Digest,
    /// Its size, by [`row_bytes`].
    pub bytes: usize,
}

/// The exports one peer may see. A change costs O(log n).
#[derive(Debug, Clone)]
pub struct CatalogLog {
    epoch: Epoch,
    head: Seq,
    /// Importers that acknowledged less than this have missed tombstones.
    floor: Seq,
    rows: OrdMap<ServiceName, Listed>,
    tombstones: BTreeMap<ServiceName, Seq>,
    tombstone_seqs: BTreeSet<Seq>,
    /// The newest change of each name, rows and tombstones alike: what coalesces them (P8).
    changes: BTreeMap<Seq, ServiceName>,
    digest: Digest,
}

impl CatalogLog {
    /// An empty catalog; `epoch` is drawn anew whenever this state begins from nothing (P5).
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            head: 0,
            floor: 0,
            rows: OrdMap::new(),
            tombstones: BTreeMap::new(),
            tombstone_seqs: BTreeSet::new(),
            changes: BTreeMap::new(),
            digest: Digest::EMPTY,
        }
    }

    /// This incarnation.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The seq of the newest change; 0 before the first.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.head
    }

    /// The lowest seq from which deltas still tell everything (P6).
    #[must_use]
    pub fn floor(&self) -> Seq {
        self.floor
    }

    /// The rows now. Cloning the map costs nothing.
    #[must_use]
    pub fn rows(&self) -> &OrdMap<ServiceName, Listed> {
        &self.rows
    }

    /// The digest of all rows.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Makes `row` what the peer sees under `name`; `None` withdraws it. The row's own name and seq are
    /// overwritten. Returns the change's seq, or nothing when there is nothing to change.
    ///
    /// # Errors
    /// [`ExportTooLarge`]; the log is as before.
    pub fn replace(&mut self, name: &ServiceName, row: Option<Row>) -> Result<Option<Seq>, ExportTooLarge> {
        let Some(mut row) = row else { return Ok(self.withdraw(name)) };
        row.name = name.clone();
        let bytes = row_bytes(&row);
        if bytes > limits::ROW_BYTES_MAX {
            return Err(ExportTooLarge { name: name.clone(), bytes });
        }
        if let Some(listed) = self.rows.get(name) {
            row.seq = listed.row.seq;
            if row == *listed.row {
                return Ok(None);
            }
        }
        self.forget_change(name);
        self.head += 1;
        row.seq = self.head;
        let digest = Digest::of(&row);
        self.digest = self.digest.plus(digest);
        self.changes.insert(self.head, name.clone());
        self.rows.insert(name.clone(), Listed { row: Arc::new(row), digest, bytes });
        Ok(Some(self.head))
    }

    /// Makes the peer see exactly `rows`; of two with one name the later counts. Returns those too large.
    pub fn replace_all(&mut self, rows: impl IntoIterator<Item = Row>) -> Vec<ExportTooLarge> {
        let wanted: BTreeMap<ServiceName, Row> =
            rows.into_iter().map(|row| (row.name.clone(), row)).collect();
        let gone: Vec<ServiceName> =
            self.rows.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in gone {
            self.withdraw(&name);
        }
        wanted.into_iter().filter_map(|(name, row)| self.replace(&name, Some(row)).err()).collect()
    }

    fn withdraw(&mut self, name: &ServiceName) -> Option<Seq> {
        if !self.rows.contains_key(name) {
            return None;
        }
        self.forget_change(name);
        self.head += 1;
        self.changes.insert(self.head, name.clone());
        self.tombstones.insert(name.clone(), self.head);
        self.tombstone_seqs.insert(self.head);
        if self.tombstone_seqs.len() > limits::TOMBSTONES_MAX
            && let Some(oldest) = self.tombstone_seqs.pop_first()
            && let Some(forgotten) = self.changes.remove(&oldest)
        {
            self.tombstones.remove(&forgotten);
            self.floor = oldest;
        }
        Some(self.head)
    }

    /// Takes a name's newest change out, row or tombstone, before a newer one takes its place.
    fn forget_change(&mut self, name: &ServiceName) {
        if let Some(listed) = self.rows.remove(name) {
            self.digest = self.digest.minus(listed.digest);
            self.changes.remove(&listed.row.seq);
        } else if let Some(seq) = self.tombstones.remove(name) {
            self.tombstone_seqs.remove(&seq);
            self.changes.remove(&seq);
        }
    }

    /// The newest change of every name that changed after `seq`, oldest first.
    pub fn changes_after(&self, seq: Seq) -> impl Iterator<Item = RowChange> + '_ {
        self.changes.range((Bound::Excluded(seq), Bound::Unbounded)).map(|(&seq, name)| {
            self.rows.get(name).map_or_else(
                || RowChange::Tombstone { name: name.clone(), seq },
                |listed| RowChange::Row(Arc::clone(&listed.row)),
            )
        })
    }
}
