//! Takes one peer's catalog: judges every row, applies snapshots by mark and sweep, acknowledges what was
//! applied, and notices when it holds something else than the exporter says (P6, P7, P9, P11, P14).
//!
//! It remembers what it holds by name, hash and size, not the rows themselves: those are in `State`. Whose
//! rows they are is the connection's identity, which the caller knows; nothing in a message can say
//! otherwise (P19). Whether they become imports is policy, applied where catalogs merge.

mod batch;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::{
    Digest, ExporterMessage, ImporterMessage, Quotas, RowChange, RowRefusal, Violation, held::Held,
    message::row_bytes, quota::Pace,
};
use crate::model::{
    catalog::Row,
    ids::{Epoch, Seq, ServiceName},
    limits,
};

/// What the caller does, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Change these rows of the peer in `State`, then say [`Importer::applied`].
    Apply {
        /// What to confirm.
        ticket: Ticket,
        /// Rows and tombstones, never [`RowChange::Unreadable`].
        changes: Vec<RowChange>,
    },
    /// Delete these rows of the peer, then say [`Importer::applied`].
    Sweep {
        /// What to confirm.
        ticket: Ticket,
        /// Rows that the snapshot did not name.
        names: Vec<ServiceName>,
    },
    /// Send this to the exporter.
    Send(ImporterMessage),
    /// What is held is what the exporter has, for the first time on this stream.
    Synced,
}

/// Names one [`Action`] that waits to be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// How far an importer is, for status and for the session's heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImporterProgress {
    /// The exporter's catalog, once known.
    pub epoch: Option<Epoch>,
    /// The newest seq that came.
    pub received: Seq,
    /// The newest seq whose changes are applied; 0 before the first.
    pub applied: Seq,
    /// What is held is what the exporter had at `applied`.
    pub synced: bool,
    /// Rows held.
    pub rows: usize,
    /// Their size.
    pub bytes: usize,
    /// Rows refused since the last snapshot began.
    pub refused: u64,
    /// The first [`limits::REFUSALS_MAX`] of them, in the order of their names.
    pub refusals: Vec<RowRefusal>,
    /// Times the digests differed (`catalog_digest_mismatch_total`).
    pub digest_mismatches: u64,
}

/// The importing side of one peer's catalog; it outlives the streams it came by.
#[derive(Debug)]
pub struct Importer {
    generation: u64,
    quotas: Quotas,
    held: Held,
    /// What is held belongs to this catalog.
    epoch: Option<Epoch>,
    received: Seq,
    applied: Option<Seq>,
    /// What is held is one state of the exporter, not a mixture.
    whole: bool,
    synced: bool,
    phase: Phase,
    waiting: VecDeque<Waiting>,
    next_ticket: u64,
    pace: Pace,
    refusals: BTreeMap<ServiceName, RowRefusal>,
    refused: u64,
    /// A row was refused for want of room, and room has been made since.
    quota_refused: bool,
    room_made: bool,
    want: Option<(Instant, &'static str)>,
    last_want: Option<Instant>,
    digest_mismatches: u64,
}

#[derive(Debug)]
enum Phase {
    /// No stream.
    Closed,
    /// Subscribed; deltas may follow only to something whole.
    Opening {
        /// What `Subscribe` claimed to hold is whole.
        resumes: bool,
    },
    Snapshot(Incoming),
    Live,
    /// A snapshot was asked for; what comes before it is not for us any more.
    Discarding,
}

/// A snapshot that is coming in.
#[derive(Debug)]
struct Incoming {
    /// We asked for it, so its first rows are free of the pace.
    asked: bool,
    announced: u64,
    rows: u64,
    batches: Seq,
    digest: Digest,
    /// A row had no readable content, so that digests cannot be compared.
    unreadable: bool,
}

/// A batch or a snapshot's end between its coming and its `Ack`.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    ack: Seq,
    /// What is held when it is applied.
    holds: Option<Seq>,
    applied: bool,
}

impl Importer {
    /// An importer that holds `rows`, for example from disk; `position` says which state of the exporter
    /// they are, if they are one ([`Self::position`] at the time).
    pub fn new<'a>(
        generation: u64,
        quotas: Quotas,
        position: Option<(Epoch, Seq)>,
        rows: impl IntoIterator<Item = &'a Row>,
        now: Instant,
    ) -> Self {
        let mut held = Held::default();
        for row in rows {
            held.put(&row.name, Digest::of(row), row_bytes(row));
        }
        Self {
            generation,
            quotas,
            held,
            epoch: position.map(|(epoch, _)| epoch),
            received: 0,
            applied: position.map(|(_, seq)| seq),
            whole: position.is_some(),
            synced: false,
            phase: Phase::Closed,
            waiting: VecDeque::new(),
            next_ticket: 0,
            pace: Pace::new(quotas.rows_per_second, now),
            refusals: BTreeMap::new(),
            refused: 0,
            quota_refused: false,
            room_made: false,
            want: None,
            last_want: None,
            digest_mismatches: 0,
        }
    }

    /// Whether it may go on with a caller that holds so many rows in a peering of that generation: the peering
    /// is the same, and everything that it said to apply was applied and is still there. If not, rows could be
    /// missing for good without any digest telling; make a new one of what is held.
    #[must_use]
    pub fn continues(&self, generation: u64, rows: usize) -> bool {
        let applied = self.waiting.iter().all(|waiting| waiting.applied);
        applied && self.generation == generation && self.held.len() == rows
    }

    /// A stream begins, the one before is over: send this first.
    pub fn subscribe(&mut self) -> ImporterMessage {
        let position = self.position();
        self.phase = Phase::Opening { resumes: position.is_some() };
        self.waiting.clear();
        self.want = None;
        self.synced = false;
        self.received = position.map_or(0, |(_, seq)| seq);
        ImporterMessage::Subscribe {
            epoch: position.map(|(epoch, _)| epoch),
            acked_seq: self.received,
            generation: self.generation,
        }
    }

    /// Which state of the exporter the applied rows are; nothing between a snapshot's begin and its applied
    /// end. To be kept with the rows.
    #[must_use]
    pub fn position(&self) -> Option<(Epoch, Seq)> {
        if self.whole { self.epoch.zip(self.applied) } else { None }
    }

    /// Takes one message.
    ///
    /// # Errors
    /// A [`Violation`] ends the stream; what is held stays as it is.
    pub fn on_message(&mut self, message: ExporterMessage, now: Instant) -> Result<Vec<Action>, Violation> {
        let mut actions = Vec::new();
        match (&self.phase, message) {
            (Phase::Closed, _) => return Err(Violation::NotSubscribed),
            (_, ExporterMessage::SnapshotBegin { epoch, rows }) => self.begin_snapshot(epoch, rows)?,
            (Phase::Discarding, _) => {}
            (_, ExporterMessage::Batch { epoch, seq, rows }) => {
                self.batch(epoch, seq, rows, now, &mut actions)?;
            }
            (_, ExporterMessage::SnapshotEnd { seq, digest }) => {
                self.end_snapshot(seq, digest, now, &mut actions)?;
            }
            (_, ExporterMessage::Digest { seq, digest }) => self.compare(seq, digest, now, &mut actions)?,
        }
        actions.extend(self.poll(now));
        Ok(actions)
    }

    fn begin_snapshot(&mut self, epoch: Epoch, rows: u64) -> Result<(), Violation> {
        if matches!(self.phase, Phase::Snapshot(_)) || !self.waiting.is_empty() {
            return Err(Violation::SnapshotNested);
        }
        let asked = matches!(self.phase, Phase::Opening { .. } | Phase::Discarding);
        self.phase = Phase::Snapshot(Incoming {
            asked,
            announced: rows,
            rows: 0,
            batches: 0,
            digest: Digest::EMPTY,
            unreadable: false,
        });
        self.epoch = Some(epoch);
        self.applied = None;
        self.whole = false;
        self.received = 0;
        self.held.begin_snapshot();
        self.refusals.clear();
        self.refused = 0;
        self.quota_refused = false;
        self.room_made = false;
        self.want = None;
        Ok(())
    }

    fn end_snapshot(
        &mut self,
        seq: Seq,
        digest: Digest,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        let Phase::Snapshot(incoming) = &self.phase else {
            return Err(Violation::OutOfTurn { what: "SnapshotEnd" });
        };
        if self.waiting.len() >= limits::BATCHES_IN_FLIGHT_MAX {
            return Err(Violation::InFlight);
        }
        if seq < incoming.batches {
            return Err(Violation::SeqDisorder { seq, after: incoming.batches });
        }
        let agrees = incoming.unreadable || incoming.digest == digest;
        self.phase = Phase::Live;
        self.received = seq;
        if !agrees {
            // Its rows are taken, but nothing is deleted on its word.
            self.wait_for(seq, None, true);
            self.differs("a snapshot's digest differs", now);
            return Ok(());
        }
        let names = self.held.sweep();
        self.room_made |= !names.is_empty();
        self.whole = true;
        let ticket = self.wait_for(seq, Some(seq), names.is_empty());
        if !names.is_empty() {
            actions.push(Action::Sweep { ticket, names });
        }
        self.synced = true;
        actions.push(Action::Synced);
        Ok(())
    }

    fn compare(
        &mut self,
        seq: Seq,
        digest: Digest,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Result<(), Violation> {
        if matches!(self.phase, Phase::Snapshot(_)) {
            return Err(Violation::OutOfTurn { what: "Digest" });
        }
        self.check_resumed()?;
        self.phase = Phase::Live;
        if seq != self.received || digest != self.held.digest() {
            self.differs("the digest differs", now);
        } else if self.whole {
            if !self.synced {
                self.synced = true;
                actions.push(Action::Synced);
            }
            if self.quota_refused && self.room_made {
                self.schedule("there is room for rows refused before", now);
            }
        }
        Ok(())
    }

    fn differs(&mut self, reason: &'static str, now: Instant) {
        self.digest_mismatches += 1;
        self.whole = false;
        self.synced = false;
        self.schedule(reason, now);
    }

    /// Snapshots are asked for at most once per [`limits::DIGEST_INTERVAL`].
    fn schedule(&mut self, reason: &'static str, now: Instant) {
        let at = self.last_want.map_or(now, |last| now.max(last + limits::DIGEST_INTERVAL));
        self.want.get_or_insert((at, reason));
    }

    fn wait_for(&mut self, ack: Seq, holds: Option<Seq>, applied: bool) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.waiting.push_back(Waiting { ticket, ack, holds, applied });
        ticket
    }

    /// The caller has carried out the action of `ticket`, and all before it. Tickets of earlier streams are
    /// ignored.
    pub fn applied(&mut self, ticket: Ticket, now: Instant) -> Vec<Action> {
        for waiting in self.waiting.iter_mut().take_while(|waiting| waiting.ticket <= ticket) {
            waiting.applied = true;
        }
        self.poll(now)
    }

    /// What time alone brings about: acknowledgements held back by the pace, a snapshot to ask for.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let done = self.waiting.iter().take_while(|waiting| waiting.applied).count();
        let mut holds = self.waiting.iter().take(done).filter_map(|waiting| waiting.holds);
        self.applied = holds.next_back().or(self.applied);
        if now >= self.pace.open_at() {
            let ack = self.waiting.drain(..done).next_back().map(|waiting| waiting.ack);
            actions.extend(ack.map(|seq| Action::Send(ImporterMessage::Ack { seq })));
        }
        if let Some((_, reason)) = self.want.filter(|(at, _)| *at <= now)
            && self.waiting.is_empty()
            && matches!(self.phase, Phase::Live)
        {
            self.want = None;
            self.last_want = Some(now);
            self.phase = Phase::Discarding;
            actions.push(Action::Send(ImporterMessage::WantSnapshot { reason: reason.to_owned() }));
        }
        actions
    }

    /// When [`Self::poll`] has something to do although nothing happened.
    #[must_use]
    pub fn next_wake(&self) -> Option<Instant> {
        match self.waiting.front() {
            Some(front) => front.applied.then(|| self.pace.open_at()),
            None => self.want.map(|(at, _)| at),
        }
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> ImporterProgress {
        ImporterProgress {
            epoch: self.epoch,
            received: self.received,
            applied: self.applied.unwrap_or(0),
            synced: self.synced,
            rows: self.held.len(),
            bytes: self.held.bytes(),
            refused: self.refused,
            refusals: self.refusals.values().cloned().collect(),
            digest_mismatches: self.digest_mismatches,
        }
    }
}
