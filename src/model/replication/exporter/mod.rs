//! One importing gateway's walk through a [`CatalogLog`]: snapshot or deltas, within a window of
//! unacknowledged batches (P6, P8, P9, P14, P28).
//!
//! It holds a position, never a queue of changes: what changed while the window was full is found in the
//! log when there is room again, each name once in its newest form. So a change of the log needs no call
//! here; ask [`Exporter::next`] again. Encoding, sending and the stall of a send (P4) are the caller's.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Instant,
};

use imbl::OrdMap;

use super::{
    CatalogLog, Digest, ExporterMessage, ImporterMessage, RowChange, RowRefusal, Violation, log::Listed,
};
use crate::model::{
    ids::{Epoch, Seq, ServiceName},
    limits,
};

/// The exporting side of one catalog stream, and what survives of it until the same gateway's next stream:
/// the rows it refused.
#[derive(Debug)]
pub struct Exporter {
    generation: u64,
    phase: Phase,
    /// Every change up to here was sent.
    sent: Seq,
    /// Every change up to here is held by the importer; `None` until that is known.
    acked: Option<Seq>,
    in_flight: VecDeque<InFlight>,
    refusals: BTreeMap<ServiceName, Standing>,
    next_digest: Instant,
    progress_at: Instant,
    snapshots: u64,
}

#[derive(Debug)]
enum Phase {
    /// No `Subscribe` yet.
    Closed,
    Snapshot(Snapshot),
    Deltas,
}

/// A snapshot under way. Names come from the catalog as it was at its beginning, rows as they are when
/// they are sent: nothing that was withdrawn meanwhile is told.
#[derive(Debug)]
struct Snapshot {
    names: OrdMap<ServiceName, Listed>,
    last: Option<ServiceName>,
    begun: bool,
    batches: Seq,
    end: Seq,
    digest: Digest,
}

/// Something sent that the importer has not confirmed.
#[derive(Debug)]
struct InFlight {
    /// What its `Ack` says.
    ack: Seq,
    /// What the importer then holds, whole; nothing inside a snapshot.
    holds: Option<Seq>,
    of_snapshot: bool,
    /// What it carried, for a `Nack` to refer to.
    rows: Vec<(ServiceName, Seq)>,
}

/// A refusal, good for one version of a row.
#[derive(Debug)]
struct Standing {
    seq: Seq,
    refusal: RowRefusal,
}

/// How far an importing gateway is, for status and for `unexport --wait`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExporterProgress {
    /// The catalog it follows.
    pub epoch: Epoch,
    /// The newest seq there is.
    pub head: Seq,
    /// What it has confirmed to hold; nothing before its first snapshot.
    pub acked: Option<Seq>,
    /// Batches it has not confirmed.
    pub in_flight: usize,
    /// When it last confirmed something, or its stream began.
    pub progress_at: Instant,
    /// Snapshots it was sent.
    pub snapshots: u64,
    /// Rows it does not take, in the order of their names.
    pub refused: Vec<RowRefusal>,
}

impl Exporter {
    /// For one gateway of a peer, before its stream; `generation` is the peering's (P24).
    #[must_use]
    pub fn new(generation: u64, now: Instant) -> Self {
        Self {
            generation,
            phase: Phase::Closed,
            sent: 0,
            acked: None,
            in_flight: VecDeque::new(),
            refusals: BTreeMap::new(),
            next_digest: now,
            progress_at: now,
            snapshots: 0,
        }
    }

    /// The peering it belongs to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// A stream of that gateway begins, the one before is over: a `Subscribe` must come.
    pub fn open(&mut self, now: Instant) {
        self.phase = Phase::Closed;
        self.in_flight.clear();
        self.progress_at = now;
    }

    /// Takes one message; then ask [`Self::next`].
    ///
    /// # Errors
    /// A [`Violation`] ends the stream.
    pub fn on_message(
        &mut self,
        log: &CatalogLog,
        message: ImporterMessage,
        now: Instant,
    ) -> Result<(), Violation> {
        if matches!(self.phase, Phase::Closed) != matches!(message, ImporterMessage::Subscribe { .. }) {
            return Err(match self.phase {
                Phase::Closed => Violation::NotSubscribed,
                _ => Violation::SubscribedTwice,
            });
        }
        match message {
            ImporterMessage::Subscribe { epoch, acked_seq, generation } => {
                self.subscribe(log, epoch, acked_seq, generation, now)
            }
            ImporterMessage::Ack { seq } => self.ack(seq, now),
            ImporterMessage::Nack { seq, rows } => self.nack(log, seq, rows),
            ImporterMessage::WantSnapshot { .. } => {
                // A snapshot that is under way answers it: the importer waits for its beginning.
                let under_way = matches!(self.phase, Phase::Snapshot(_))
                    || self.in_flight.iter().any(|sent| sent.of_snapshot);
                if !under_way {
                    self.begin_snapshot(log);
                }
                Ok(())
            }
        }
    }

    fn subscribe(
        &mut self,
        log: &CatalogLog,
        epoch: Option<Epoch>,
        acked_seq: Seq,
        theirs: u64,
        now: Instant,
    ) -> Result<(), Violation> {
        if theirs != self.generation {
            return Err(Violation::Generation { ours: self.generation, theirs });
        }
        self.progress_at = now;
        if epoch == Some(log.epoch()) && (log.floor()..=log.head()).contains(&acked_seq) {
            self.phase = Phase::Deltas;
            self.sent = acked_seq;
            self.acked = Some(acked_seq);
            // Nothing may have changed: the digest tells the importer that it is up to date.
            self.next_digest = now;
        } else {
            self.acked = None;
            self.next_digest = now + limits::DIGEST_INTERVAL;
            self.begin_snapshot(log);
        }
        Ok(())
    }

    fn begin_snapshot(&mut self, log: &CatalogLog) {
        self.in_flight.clear();
        // The importer judges every row anew.
        self.refusals.clear();
        self.snapshots += 1;
        self.phase = Phase::Snapshot(Snapshot {
            names: log.rows().clone(),
            last: None,
            begun: false,
            batches: 0,
            end: log.head(),
            digest: Digest::EMPTY,
        });
    }

    fn ack(&mut self, seq: Seq, now: Instant) -> Result<(), Violation> {
        match self.in_flight.back() {
            Some(newest) if seq > newest.ack => return Err(Violation::AckAhead { seq }),
            None if self.acked.is_none_or(|acked| seq > acked) => return Err(Violation::AckAhead { seq }),
            _ => {}
        }
        let confirmed = self.in_flight.partition_point(|sent| sent.ack <= seq);
        for sent in self.in_flight.drain(..confirmed) {
            self.progress_at = now;
            self.acked = sent.holds.or(self.acked);
        }
        Ok(())
    }

    fn nack(&mut self, log: &CatalogLog, seq: Seq, rows: Vec<RowRefusal>) -> Result<(), Violation> {
        if rows.len() > limits::BATCH_ROWS_MAX {
            return Err(Violation::NackTooLarge { rows: rows.len() });
        }
        let batch =
            self.in_flight.iter().find(|sent| sent.ack == seq).ok_or(Violation::NackUnknown { seq })?;
        let sent: BTreeMap<&ServiceName, Seq> = batch.rows.iter().map(|(name, seq)| (name, *seq)).collect();
        for refused in rows {
            // A refusal of a version that is gone says nothing of the next one.
            if let Some(&seq) = sent.get(&refused.name)
                && log.rows().get(&refused.name).is_some_and(|listed| listed.row.seq == seq)
            {
                let refusal = RowRefusal::new(refused.name.clone(), refused.code, refused.message);
                self.refusals.insert(refused.name, Standing { seq, refusal });
            }
        }
        Ok(())
    }

    /// The next message to send now, if any: call until it says none.
    pub fn next(&mut self, log: &CatalogLog, now: Instant) -> Option<ExporterMessage> {
        if self.in_flight.len() >= limits::BATCHES_IN_FLIGHT_MAX {
            return None;
        }
        if matches!(self.phase, Phase::Deltas) && self.sent < log.floor() {
            // It was too slow, and what it missed is forgotten. What it was sent settles first.
            if !self.in_flight.is_empty() {
                return None;
            }
            self.begin_snapshot(log);
        }
        match &mut self.phase {
            Phase::Closed => None,
            Phase::Snapshot(snapshot) => {
                let (message, sent) = snapshot.next(log);
                self.in_flight.extend(sent);
                if let ExporterMessage::SnapshotEnd { seq, .. } = message {
                    self.phase = Phase::Deltas;
                    self.sent = seq;
                }
                Some(message)
            }
            Phase::Deltas if self.sent < log.head() => Some(self.deltas(log)),
            Phase::Deltas if self.in_flight.is_empty() && now >= self.next_digest => {
                self.next_digest = now + limits::DIGEST_INTERVAL;
                Some(ExporterMessage::Digest { seq: log.head(), digest: self.expected_digest(log) })
            }
            Phase::Deltas => None,
        }
    }

    /// All messages to send now.
    pub fn poll(&mut self, log: &CatalogLog, now: Instant) -> Vec<ExporterMessage> {
        std::iter::from_fn(|| self.next(log, now)).collect()
    }

    fn deltas(&mut self, log: &CatalogLog) -> ExporterMessage {
        let mut batch = Filling::default();
        let mut upto = self.sent;
        for change in log.changes_after(self.sent) {
            if !batch.has_room(&change) {
                break;
            }
            upto = change.seq();
            match self.refusals.get(change.name()) {
                Some(standing) if standing.seq == upto => {}
                Some(_) => {
                    self.refusals.remove(change.name());
                    batch.push(change);
                }
                None => batch.push(change),
            }
        }
        self.sent = upto;
        self.in_flight.push_back(InFlight {
            ack: upto,
            holds: Some(upto),
            of_snapshot: false,
            rows: batch.versions(),
        });
        ExporterMessage::Batch { epoch: log.epoch(), seq: upto, rows: batch.rows }
    }

    /// What the importer holds when it did everything right.
    fn expected_digest(&self, log: &CatalogLog) -> Digest {
        let refused = self.standing(log).filter_map(|each| log.rows().get(&each.refusal.name));
        log.digest().minus(refused.map(|listed| listed.digest).sum())
    }

    fn standing<'a>(&'a self, log: &'a CatalogLog) -> impl Iterator<Item = &'a Standing> {
        self.refusals.iter().filter_map(|(name, standing)| {
            log.rows().get(name).filter(|listed| listed.row.seq == standing.seq).map(|_| standing)
        })
    }

    /// When [`Self::next`] may have something to say although nothing happened.
    #[must_use]
    pub fn next_wake(&self, log: &CatalogLog) -> Option<Instant> {
        let idle =
            matches!(self.phase, Phase::Deltas) && self.in_flight.is_empty() && self.sent == log.head();
        idle.then_some(self.next_digest)
    }

    /// Whether the importer holds everything up to `seq`, or has said why not (P28).
    #[must_use]
    pub fn has_acked(&self, seq: Seq) -> bool {
        self.acked.is_some_and(|acked| acked >= seq)
    }

    /// Batches sent and not confirmed, at most [`limits::BATCHES_IN_FLIGHT_MAX`].
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self, log: &CatalogLog) -> ExporterProgress {
        ExporterProgress {
            epoch: log.epoch(),
            head: log.head(),
            acked: self.acked,
            in_flight: self.in_flight.len(),
            progress_at: self.progress_at,
            snapshots: self.snapshots,
            refused: self.standing(log).map(|each| each.refusal.clone()).collect(),
        }
    }
}

impl Snapshot {
    fn next(&mut self, log: &CatalogLog) -> (ExporterMessage, Option<InFlight>) {
        if !self.begun {
            self.begun = true;
            return (
                ExporterMessage::SnapshotBegin { epoch: log.epoch(), rows: self.names.len() as u64 },
                None,
            );
        }
        let mut batch = Filling::default();
        let from = self.last.clone().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, _) in self.names.range((from, Bound::Unbounded)) {
            if let Some(listed) = log.rows().get(name) {
                let change = RowChange::Row(Arc::clone(&listed.row));
                if !batch.has_room(&change) {
                    break;
                }
                self.digest = self.digest.plus(listed.digest);
                batch.push(change);
            }
            self.last = Some(name.clone());
        }
        if batch.rows.is_empty() {
            let sent = InFlight { ack: self.end, holds: Some(self.end), of_snapshot: true, rows: Vec::new() };
            return (ExporterMessage::SnapshotEnd { seq: self.end, digest: self.digest }, Some(sent));
        }
        // Every batch has at least one of the rows of the beginning, each with a seq of its own from 1 on:
        // counted from 0, the batches stay below the end's seq.
        let seq = self.batches;
        self.batches += 1;
        let sent = InFlight { ack: seq, holds: None, of_snapshot: true, rows: batch.versions() };
        (ExporterMessage::Batch { epoch: log.epoch(), seq, rows: batch.rows }, Some(sent))
    }
}

/// A batch being filled up to its caps.
#[derive(Default)]
struct Filling {
    rows: Vec<RowChange>,
    bytes: usize,
}

impl Filling {
    fn has_room(&self, change: &RowChange) -> bool {
        self.rows.len() < limits::BATCH_ROWS_MAX && self.bytes + change.bytes() <= limits::BATCH_BYTES_MAX
    }

    fn push(&mut self, change: RowChange) {
        self.bytes += change.bytes();
        self.rows.push(change);
    }

    fn versions(&self) -> Vec<(ServiceName, Seq)> {
        self.rows.iter().map(|change| (change.name().clone(), change.seq())).collect()
    }
}
