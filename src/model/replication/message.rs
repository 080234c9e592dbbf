//! The words importer and exporter exchange, as plain data: the model's side of the proto messages
//! `Importer` and `Exporter`. Encoding them is `wire`'s matter.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::model::{
    catalog::Row,
    ids::{Epoch, Seq, ServiceName},
    limits,
};

/// What an importer says (proto `Importer`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImporterMessage {
    /// The first message of a stream, and only the first.
    Subscribe {
        /// The catalog held; `None` when nothing whole is held, which asks for a snapshot.
        epoch: Option<Epoch>,
        /// Everything up to here is held.
        acked_seq: Seq,
        /// Generation of the peering (P24).
        generation: u64,
    },
    /// Everything up to `seq` is applied (P9). Inside a snapshot it confirms batches by their number.
    Ack {
        /// The `seq` of a batch or of a snapshot's end.
        seq: Seq,
    },
    /// Some rows of one batch are refused; the others are taken (P9).
    Nack {
        /// The `seq` of the batch they came in.
        seq: Seq,
        /// Which, and why.
        rows: Vec<RowRefusal>,
    },
    /// What is held is not what the exporter has: begin anew (P14).
    WantSnapshot {
        /// For people.
        reason: String,
    },
}

/// What an exporter says (proto `Exporter`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExporterMessage {
    /// Everything follows; what is not in it goes away at its end (P7).
    SnapshotBegin {
        /// The catalog that follows.
        epoch: Epoch,
        /// Rows that follow, at most.
        rows: u64,
    },
    /// Rows, and what confirms them. Outside a snapshot they are consecutive changes in the order of their
    /// seq; inside one they come in the order of their names.
    Batch {
        /// The catalog they belong to.
        epoch: Epoch,
        /// What an `Ack` of this batch says: the seq of its last change; inside a snapshot the number of
        /// the batch, counted from 0, which stays below the seq of the snapshot's end.
        seq: Seq,
        /// At most [`limits::BATCH_ROWS_MAX`] rows of [`limits::BATCH_BYTES_MAX`] bytes together.
        rows: Vec<RowChange>,
    },
    /// The snapshot is whole: rows that it did not name are gone.
    SnapshotEnd {
        /// The catalog's seq when the snapshot began; changes after it follow as deltas.
        seq: Seq,
        /// Digest of the rows that the snapshot carried, refused ones included.
        digest: Digest,
    },
    /// What the importer should hold now (P14).
    Digest {
        /// The exporter's newest seq, which is acknowledged.
        seq: Seq,
        /// Digest of all rows but the refused ones.
        digest: Digest,
    },
}

/// One change of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowChange {
    /// The service is exported, like this.
    Row(Arc<Row>),
    /// The service is no longer exported (or no longer to this peer).
    Tombstone {
        /// Which service.
        name: ServiceName,
        /// The seq of its end.
        seq: Seq,
    },
    /// A row whose name can be read but not its content: a later kind of row, or nonsense (P26). Only
    /// decoding makes it; it is answered with a refusal.
    Unreadable {
        /// Which service.
        name: ServiceName,
        /// The seq of its last change.
        seq: Seq,
        /// [`RefusalCode::Unsupported`] or [`RefusalCode::Invalid`].
        code: RefusalCode,
        /// What is wrong with it.
        message: String,
    },
}

impl RowChange {
    /// The service it is about.
    #[must_use]
    pub fn name(&self) -> &ServiceName {
        match self {
            Self::Row(row) => &row.name,
            Self::Tombstone { name, .. } | Self::Unreadable { name, .. } => name,
        }
    }

    /// The seq of the change.
    #[must_use]
    pub fn seq(&self) -> Seq {
        match self {
            Self::Row(row) => row.seq,
            Self::Tombstone { seq, .. } | Self::Unreadable { seq, .. } => *seq,
        }
    }

    /// Its size in a batch, in bytes; see [`row_bytes`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Row(row) => row_bytes(row),
            Self::Tombstone { name, .. } | Self::Unreadable { name, .. } => {
                ROW_FIXED_BYTES + name_bytes(name)
            }
        }
    }
}

/// Why an importer does not take a row. The words are on the wire and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefusalCode {
    /// More than this cluster takes from one peer (P11).
    Quota,
    /// A name that is never imported.
    Reserved,
    /// A kind of row, or a part of one, that this release does not know (P26).
    Unsupported,
    /// Over [`limits::ROW_BYTES_MAX`] (P10).
    TooLarge,
    /// A row that breaks the rules of its format, or a refusal whose word we do not know.
    Invalid,
}

impl RefusalCode {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Quota, Self::Reserved, Self::Unsupported, Self::TooLarge, Self::Invalid];

    /// The word on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quota => "QUOTA",
            Self::Reserved => "RESERVED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooLarge => "TOO_LARGE",
            Self::Invalid => "INVALID",
        }
    }

    /// Reads the word on the wire; a later release's word becomes [`Self::Invalid`].
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        Self::ALL.into_iter().find(|code| code.as_str() == word).unwrap_or(Self::Invalid)
    }

    /// The number of the `TMB-` code that explains it to people.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::TooLarge => 2101,
            Self::Quota => 2102,
            Self::Reserved => 2103,
            Self::Unsupported => 2106,
            Self::Invalid => 2111,
        }
    }
}

impl fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One row an importer does not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRefusal {
    /// Which service.
    pub name: ServiceName,
    /// Why.
    pub code: RefusalCode,
    /// Why, with the values; at most [`limits::REFUSAL_MESSAGE_BYTES_MAX`] bytes.
    pub message: String,
}

impl RowRefusal {
    /// Makes one, its message cut to the cap.
    #[must_use]
    pub fn new(name: ServiceName, code: RefusalCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(limits::REFUSAL_MESSAGE_BYTES_MAX));
        Self { name, code, message }
    }
}

/// Bytes of a row's scalars and of their tags, all at their largest: seq, deleted, kind, export id,
/// created, two flags, and the row's own tag and length.
const ROW_FIXED_BYTES: usize = 96;
/// Bytes of a text's or a nested message's tag and length.
const FRAME_BYTES: usize = 4;

fn name_bytes(name: &ServiceName) -> usize {
    2 * FRAME_BYTES + name.namespace.as_str().len() + name.name.as_str().len()
}

/// The size of a row as caps count it, in bytes: never less than its protobuf encoding, and independent of
/// who computes it.
#[must_use]
pub fn row_bytes(row: &Row) -> usize {
    let texts = |map: &std::collections::BTreeMap<String, String>| -> usize {
        map.iter().map(|(key, value)| 3 * FRAME_BYTES + key.len() + value.len()).sum()
    };
    let locality = |at: &crate::model::ids::Locality| 3 * FRAME_BYTES + at.region.len() + at.zone.len();
    let ports: usize =
        row.ports.iter().map(|port| 3 * FRAME_BYTES + 8 + port.name.len() + port.app_protocol.len()).sum();
    let zones: usize = row.zones.iter().map(|zone| FRAME_BYTES + 12 + locality(&zone.locality)).sum();
    let endpoint = |name: &str, at| 2 * FRAME_BYTES + 2 + name.len() + locality(at);
    let endpoints: usize =
        row.endpoints.iter().map(|each| endpoint(each.hostname.as_str(), &each.locality)).sum();
    ROW_FIXED_BYTES
        + name_bytes(&row.name)
        + ports
        + zones
        + endpoints
        + texts(&row.labels)
        + texts(&row.annotations)
}
