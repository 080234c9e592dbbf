//! One batch of rows at the importer: what makes it a violation as a whole, what is taken of it, and what
//! is refused row by row.

use std::{sync::Arc, time::Instant};

use super::{Action, Importer, Phase};
use crate::model::{
    catalog::Row,
    ids::{Epoch, Seq},
    limits,
    replication::{
        Digest, ImporterMessage, RefusalCode, RowChange, RowRefusal, Violation, message::row_bytes,
    },
};

impl Importer {
    pub(super) fn batch(
        &mut self,
        epoch: Epoch,
        seq: Seq,
        rows: Vec<RowChange>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        self.check_batch(epoch, seq, &rows)?;
        self.pace.charge(self.rows_to_pay(rows.len()), now);
        let in_snapshot = matches!(self.phase, Phase::Snapshot(_));
        if let Phase::Snapshot(incoming) = &mut self.phase {
            incoming.rows += rows.len() as u64;
            incoming.batches += 1;
        } else {
            self.phase = Phase::Live;
            self.received = seq;
        }
        let mut changes = Vec::with_capacity(rows.len());
        let mut refused = Vec::new();
        for change in rows {
            match self.take(change, in_snapshot) {
                Ok(change) => changes.extend(change),
                Err(refusal) => {
                    self.note(&refusal);
                    refused.push(refusal);
                }
            }
        }
        if !refused.is_empty() {
            actions.push(Action::Send(ImporterMessage::Nack { seq, rows: refused }));
        }
        let ticket = self.wait_for(seq, (!in_snapshot).then_some(seq), changes.is_empty());
        if !changes.is_empty() {
            actions.push(Action::Apply { ticket, changes });
        }
        Ok(())
    }

    /// Everything a batch may get wrong as a whole, before any of it counts.
    fn check_batch(&self, epoch: Epoch, seq: Seq, rows: &[RowChange]) -> Result<(), Violation> {
        if rows.len() > limits::BATCH_ROWS_MAX {
            return Err(Violation::BatchRows { rows: rows.len() });
        }
        let bytes = rows.iter().map(RowChange::bytes).sum();
        if bytes > limits::BATCH_BYTES_MAX {
            return Err(Violation::BatchBytes { bytes });
        }
        if self.waiting.len() >= limits::BATCHES_IN_FLIGHT_MAX {
            return Err(Violation::InFlight);
        }
        if let Phase::Snapshot(incoming) = &self.phase {
            if self.epoch != Some(epoch) {
                return Err(Violation::EpochMixed);
            }
            if seq != incoming.batches {
                return Err(Violation::SeqDisorder { seq, after: incoming.batches });
            }
            if incoming.rows + rows.len() as u64 > incoming.announced {
                return Err(Violation::SnapshotRows { announced: incoming.announced });
            }
            if rows.iter().any(|row| matches!(row, RowChange::Tombstone { .. })) {
                return Err(Violation::SnapshotTombstone);
            }
            return Ok(());
        }
        self.check_resumed()?;
        if self.epoch != Some(epoch) {
            return Err(Violation::EpochMixed);
        }
        let mut after = self.received;
        for next in rows.iter().map(RowChange::seq) {
            if next <= after {
                return Err(Violation::SeqDisorder { seq: next, after });
            }
            after = next;
        }
        if seq < after || seq == self.received {
            return Err(Violation::SeqDisorder { seq, after });
        }
        Ok(())
    }

    /// Deltas and digests need something to stand on.
    pub(super) fn check_resumed(&self) -> Result<(), Violation> {
        if matches!(self.phase, Phase::Opening { resumes: false }) {
            return Err(Violation::SnapshotMissing);
        }
        Ok(())
    }

    /// A snapshot we asked for is free up to as many rows as we would take.
    fn rows_to_pay(&self, rows: usize) -> usize {
        match &self.phase {
            Phase::Snapshot(incoming) if incoming.asked => {
                let before = usize::try_from(incoming.rows).unwrap_or(usize::MAX);
                before.saturating_add(rows).saturating_sub(before.max(self.quotas.services))
            }
            _ => rows,
        }
    }

    /// Takes one change, gives back what is to be applied of it.
    fn take(&mut self, change: RowChange, in_snapshot: bool) -> Result<Option<RowChange>, RowRefusal> {
        match change {
            RowChange::Row(row) => self.take_row(row, in_snapshot),
            RowChange::Tombstone { name, seq } => {
                self.refusals.remove(&name);
                let held = self.held.remove(&name);
                self.room_made |= held;
                Ok(held.then_some(RowChange::Tombstone { name, seq }))
            }
            RowChange::Unreadable { name, code, message, .. } => {
                if let Phase::Snapshot(incoming) = &mut self.phase {
                    incoming.unreadable = true;
                }
                Err(RowRefusal::new(name, code, message))
            }
        }
    }

    fn take_row(&mut self, row: Arc<Row>, in_snapshot: bool) -> Result<Option<RowChange>, RowRefusal> {
        let digest = Digest::of(&row);
        if let Phase::Snapshot(incoming) = &mut self.phase {
            incoming.digest = incoming.digest.plus(digest);
        }
        if self.held.has(&row.name, digest) {
            self.held.mark(&row.name);
            return Ok(None);
        }
        self.quotas.judge(&row, self.held.beside(&row.name, in_snapshot))?;
        // Snapshots that are cut again and again may not pile up rows that are never swept.
        let crowded = in_snapshot && self.held.len() >= self.quotas.services.saturating_mul(2);
        if crowded && !self.held.contains(&row.name) {
            let full = "no room until rows of earlier snapshots are swept";
            return Err(RowRefusal::new(row.name.clone(), RefusalCode::Quota, full));
        }
        self.held.put(&row.name, digest, row_bytes(&row));
        self.refusals.remove(&row.name);
        Ok(Some(RowChange::Row(row)))
    }

    fn note(&mut self, refusal: &RowRefusal) {
        self.held.supersede(&refusal.name);
        self.refused += 1;
        self.quota_refused |= refusal.code == RefusalCode::Quota;
        if self.refusals.len() < limits::REFUSALS_MAX || self.refusals.contains_key(&refusal.name) {
            self.refusals.insert(refusal.name.clone(), refusal.clone());
        }
    }
}
