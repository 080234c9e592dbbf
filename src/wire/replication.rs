//! The messages of a catalog stream, to the wire and back.

use std::sync::Arc;

use federation_proto::v1;

use super::{WireError, at_most, row};
use crate::model::{
    ids::{Epoch, Seq},
    limits,
    replication::{Digest, ExporterMessage, ImporterMessage, RefusalCode, RowChange, RowRefusal},
};

/// What an exporter said.
///
/// # Errors
/// [`WireError`]; a row that cannot be read is no error but [`RowChange::Unreadable`], as long as its name can.
pub fn exporter_message(message: v1::Exporter) -> Result<ExporterMessage, WireError> {
    use v1::exporter::Message;
    Ok(match message.message.ok_or(WireError::Unknown)? {
        Message::SnapshotBegin(begin) => {
            ExporterMessage::SnapshotBegin { epoch: epoch(&begin.epoch)?, rows: begin.rows }
        }
        Message::Batch(batch) => {
            at_most("rows", batch.rows.len(), limits::BATCH_ROWS_MAX)?;
            let rows = batch.rows.into_iter().map(row_change).collect::<Result<_, _>>()?;
            ExporterMessage::Batch { epoch: epoch(&batch.epoch)?, seq: batch.seq, rows }
        }
        Message::SnapshotEnd(end) => {
            ExporterMessage::SnapshotEnd { seq: end.seq, digest: digest(&end.digest)? }
        }
        Message::Digest(held) => ExporterMessage::Digest { seq: held.seq, digest: digest(&held.digest)? },
    })
}

/// What we say as an exporter.
#[must_use]
pub fn exporter_proto(message: ExporterMessage) -> v1::Exporter {
    use v1::exporter::Message;
    let message = match message {
        ExporterMessage::SnapshotBegin { epoch, rows } => {
            Message::SnapshotBegin(v1::SnapshotBegin { epoch: epoch.0.to_vec(), rows })
        }
        ExporterMessage::Batch { epoch, seq, rows } => Message::Batch(v1::Batch {
            epoch: epoch.0.to_vec(),
            seq,
            rows: rows.iter().map(row_change_proto).collect(),
        }),
        ExporterMessage::SnapshotEnd { seq, digest } => {
            Message::SnapshotEnd(v1::SnapshotEnd { seq, digest: digest.to_bytes().to_vec() })
        }
        ExporterMessage::Digest { seq, digest } => {
            Message::Digest(v1::Digest { seq, digest: digest.to_bytes().to_vec() })
        }
    };
    v1::Exporter { message: Some(message) }
}

/// What an importer said.
///
/// # Errors
/// [`WireError`].
pub fn importer_message(message: v1::Importer) -> Result<ImporterMessage, WireError> {
    use v1::importer::Message;
    Ok(match message.message.ok_or(WireError::Unknown)? {
        Message::Subscribe(subscribe) => ImporterMessage::Subscribe {
            epoch: if subscribe.epoch.is_empty() { None } else { Some(epoch(&subscribe.epoch)?) },
            acked_seq: subscribe.acked_seq,
            generation: subscribe.generation,
        },
        Message::Ack(ack) => ImporterMessage::Ack { seq: ack.seq },
        Message::Nack(nack) => {
            at_most("rows", nack.rows.len(), limits::BATCH_ROWS_MAX)?;
            let rows = nack.rows.into_iter().map(refusal).collect::<Result<_, _>>()?;
            ImporterMessage::Nack { seq: nack.seq, rows }
        }
        Message::WantSnapshot(want) => ImporterMessage::WantSnapshot { reason: want.reason },
    })
}

/// What we say as an importer.
#[must_use]
pub fn importer_proto(message: ImporterMessage) -> v1::Importer {
    use v1::importer::Message;
    let message = match message {
        ImporterMessage::Subscribe { epoch, acked_seq, generation } => Message::Subscribe(v1::Subscribe {
            epoch: epoch.map(|epoch| epoch.0.to_vec()).unwrap_or_default(),
            acked_seq,
            generation,
        }),
        ImporterMessage::Ack { seq } => Message::Ack(v1::Ack { seq }),
        ImporterMessage::Nack { seq, rows } => {
            Message::Nack(v1::Nack { seq, rows: rows.into_iter().map(refusal_proto).collect() })
        }
        ImporterMessage::WantSnapshot { reason } => Message::WantSnapshot(v1::WantSnapshot { reason }),
    };
    v1::Importer { message: Some(message) }
}

fn epoch(bytes: &[u8]) -> Result<Epoch, WireError> {
    Epoch::from_slice(bytes).map_err(WireError::id("epoch"))
}

fn digest(bytes: &[u8]) -> Result<Digest, WireError> {
    let bytes = bytes.try_into().map_err(|_| WireError::Range("digest"))?;
    Ok(Digest::from_bytes(bytes))
}

fn row_change(row: v1::Row) -> Result<RowChange, WireError> {
    let name = row::name(&row.namespace, &row.name)?;
    let seq: Seq = row.seq;
    if row.deleted {
        return Ok(RowChange::Tombstone { name, seq });
    }
    if row.kind != 0 {
        let message = format!("row kind {} is of a later release", row.kind);
        return Ok(RowChange::Unreadable { name, seq, code: RefusalCode::Unsupported, message });
    }
    Ok(match row::parse(row) {
        Ok(row) => RowChange::Row(Arc::new(row)),
        Err(error) => {
            RowChange::Unreadable { name, seq, code: RefusalCode::Invalid, message: error.to_string() }
        }
    })
}

fn row_change_proto(change: &RowChange) -> v1::Row {
    match change {
        RowChange::Row(row) => row::proto(row),
        RowChange::Tombstone { name, seq } | RowChange::Unreadable { name, seq, .. } => v1::Row {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            seq: *seq,
            deleted: true,
            ..v1::Row::default()
        },
    }
}

fn refusal(refusal: v1::RowRefusal) -> Result<RowRefusal, WireError> {
    at_most("message", refusal.message.len(), limits::REFUSAL_MESSAGE_BYTES_MAX)?;
    let name = row::name(&refusal.namespace, &refusal.name)?;
    Ok(RowRefusal::new(name, RefusalCode::from_wire(&refusal.code), refusal.message))
}

fn refusal_proto(refusal: RowRefusal) -> v1::RowRefusal {
    v1::RowRefusal {
        namespace: refusal.name.namespace.to_string(),
        name: refusal.name.name.to_string(),
        code: refusal.code.as_str().to_owned(),
        message: refusal.message,
    }
}
