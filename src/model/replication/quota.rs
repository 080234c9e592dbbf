//! How much one peer may make us hold (P10, P11): counts, sizes, names, and the pace of changes.

use std::time::{Duration, Instant};

use super::{RefusalCode, RowRefusal, message::row_bytes};
use crate::model::{catalog::Row, limits, policy};

/// What is taken from one peer; the `[limits]` of the config file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quotas {
    /// Services in all.
    pub services: usize,
    /// Endpoints of a headless service.
    pub endpoints: usize,
    /// Ports of a service.
    pub ports: usize,
    /// Zones of a service.
    pub zones: usize,
    /// Labels of a service, and annotations.
    pub labels: usize,
    /// Bytes of a label's key or value.
    pub label_bytes: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Bytes of all rows.
    pub catalog_bytes: usize,
    /// Rows per second, once a snapshot is in.
    pub rows_per_second: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            services: limits::SERVICES_PER_PEER_MAX,
            endpoints: limits::ENDPOINTS_PER_SERVICE_MAX,
            ports: limits::PORTS_PER_SERVICE_MAX,
            zones: limits::ZONES_PER_SERVICE_MAX,
            labels: limits::LABELS_PER_SERVICE_MAX,
            label_bytes: limits::LABEL_BYTES_MAX,
            row_bytes: limits::ROW_BYTES_MAX,
            catalog_bytes: limits::CATALOG_BYTES_MAX,
            rows_per_second: limits::ROWS_PER_SECOND_MAX,
        }
    }
}

/// What is held beside the row that is judged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) services: usize,
    pub(super) bytes: usize,
}

impl Quotas {
    /// Whether a row may be taken beside the others; if not, the refusal to send.
    pub(super) fn judge(&self, row: &Row, beside: Beside) -> Result<(), RowRefusal> {
        let refuse = |code, message| Err(RowRefusal::new(row.name.clone(), code, message));
        if policy::is_reserved(&row.name) {
            return refuse(RefusalCode::Reserved, "the name is reserved and never imported".to_owned());
        }
        let bytes = row_bytes(row);
        if bytes > self.row_bytes {
            return refuse(
                RefusalCode::TooLarge,
                format!("{bytes} bytes, at most {} are taken", self.row_bytes),
            );
        }
        let counts = [
            ("ports", row.ports.len(), self.ports),
            ("zones", row.zones.len(), self.zones),
            ("labels", row.labels.len(), self.labels),
            ("annotations", row.annotations.len(), self.labels),
            ("endpoints", row.endpoints.len(), self.endpoints),
            ("services of this peer", beside.services + 1, self.services),
            ("bytes of this peer", beside.bytes + bytes, self.catalog_bytes),
        ];
        for (what, has, most) in counts {
            if has > most {
                return refuse(RefusalCode::Quota, format!("{has} {what}, at most {most} are taken"));
            }
        }
        let texts = row.labels.iter().chain(&row.annotations);
        let longest = texts.map(|(key, value)| key.len().max(value.len())).max().unwrap_or(0);
        if longest > self.label_bytes {
            let most = self.label_bytes;
            return refuse(
                RefusalCode::Quota,
                format!("a label of {longest} bytes, at most {most} are taken"),
            );
        }
        Ok(())
    }
}

/// Holds a peer to a pace by answering later, never by dropping: a second's rows are free, what goes beyond
/// delays the next `Ack`, and the window stops the sender.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    per_row: Duration,
    /// When all rows so far are paid for, at the agreed pace.
    paid_at: Instant,
}

/// Rows that may come at once, as the time they would take at the agreed pace.
const BURST: Duration = Duration::from_secs(1);

impl Pace {
    pub(super) fn new(rows_per_second: u32, now: Instant) -> Self {
        Self { per_row: BURST / rows_per_second.max(1), paid_at: now }
    }

    /// Counts rows that came.
    pub(super) fn charge(&mut self, rows: usize, now: Instant) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        self.paid_at = self.paid_at.max(now) + self.per_row.saturating_mul(rows);
    }

    /// When the sender may be told to go on.
    pub(super) fn open_at(&self) -> Instant {
        self.paid_at.checked_sub(BURST).unwrap_or(self.paid_at)
    }
}
