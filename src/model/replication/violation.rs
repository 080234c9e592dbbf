//! What a peer may not do on a catalog stream. Each ends the stream; none is a row's fault, those are
//! refused one by one.

use crate::model::{ids::Seq, limits};

/// A breach of the protocol by the other side: close the stream, say why, reconnect with back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The importer said something before `Subscribe`.
    #[error("the stream does not begin with Subscribe")]
    NotSubscribed,
    /// The importer subscribed twice on one stream.
    #[error("Subscribe came a second time")]
    SubscribedTwice,
    /// The importer speaks for another life of the peering (P24).
    #[error("Subscribe is of generation {theirs}, the peering is at {ours}")]
    Generation {
        /// The peering's.
        ours: u64,
        /// The message's.
        theirs: u64,
    },
    /// The importer confirmed what was not sent.
    #[error("Ack of {seq}, which was never sent")]
    AckAhead {
        /// The confirmed seq.
        seq: Seq,
    },
    /// The importer refused rows of no batch that is in flight, or after its `Ack`.
    #[error("Nack of {seq}, which is no batch in flight")]
    NackUnknown {
        /// The refused batch.
        seq: Seq,
    },
    /// A `Nack` names more rows than a batch holds.
    #[error("Nack names {rows} rows, a batch holds at most {}", limits::BATCH_ROWS_MAX)]
    NackTooLarge {
        /// How many it names.
        rows: usize,
    },
    /// The exporter sent deltas or a digest although nothing is held to apply them to.
    #[error("the catalog does not begin with a snapshot")]
    SnapshotMissing,
    /// The exporter began a snapshot inside one, or before its batches were acknowledged.
    #[error("SnapshotBegin came before the batches in front of it were acknowledged")]
    SnapshotNested,
    /// The exporter ended a snapshot it had not begun, or sent a digest inside one.
    #[error("{what} came out of turn")]
    OutOfTurn {
        /// The message.
        what: &'static str,
    },
    /// A batch of a catalog that was not announced.
    #[error("a batch is of another epoch than the catalog")]
    EpochMixed,
    /// Seqs are not rising, or reach beyond their batch's.
    #[error("seq {seq} does not follow {after}")]
    SeqDisorder {
        /// The offending seq.
        seq: Seq,
        /// What came before it.
        after: Seq,
    },
    /// More rows than a batch may hold.
    #[error("a batch has {rows} rows, at most {} are agreed", limits::BATCH_ROWS_MAX)]
    BatchRows {
        /// How many it has.
        rows: usize,
    },
    /// More bytes than a batch may have.
    #[error("a batch has {bytes} bytes, at most {} are agreed", limits::BATCH_BYTES_MAX)]
    BatchBytes {
        /// How many it has.
        bytes: usize,
    },
    /// More batches than may wait for their `Ack`.
    #[error("more than {} batches were sent without an Ack", limits::BATCHES_IN_FLIGHT_MAX)]
    InFlight,
    /// A snapshot with more rows than it announced.
    #[error("a snapshot of {announced} rows has more")]
    SnapshotRows {
        /// What `SnapshotBegin` said.
        announced: u64,
    },
    /// A tombstone inside a snapshot, which says by silence what is gone (P7).
    #[error("a snapshot holds a tombstone")]
    SnapshotTombstone,
}
