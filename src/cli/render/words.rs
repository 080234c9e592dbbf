//! Durations, times ahead, tables and the tones of states.

use std::time::Duration;

use comfy_table::{Table, presets};

use crate::{
    cli::output::{Style, Tone},
    model::ids::Timestamp,
};

/// Between two columns.
const GAP: u16 = 2;

/// An age: `312ms`, `12s`, `6m12s`, `3h5m`, `3d4h`.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1_000;
    let pair = |big: u64, unit: &str, small: u64, rest: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{rest}") }
    };
    match seconds {
        0 if ms > 0 => format!("{ms}ms"),
        0..60 => format!("{seconds}s"),
        60..3_600 => pair(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        86_400..8_640_000 => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A round trip: `0.31ms`, `3.1ms`, `38ms`.
pub(super) fn round_trip(ms: f64) -> String {
    if ms < 1.0 {
        format!("{ms:.2}ms")
    } else if ms < 10.0 {
        format!("{ms:.1}ms")
    } else {
        format!("{ms:.0}ms")
    }
}

/// A round trip that may not be known.
pub(super) fn round_trip_or_dash(ms: Option<f64>) -> String {
    ms.map_or_else(dash, round_trip)
}

/// Time left until `end`: `61d`, `in the past` when it is over.
pub(super) fn left(end: Timestamp, now: Timestamp) -> String {
    if end <= now { "in the past".to_owned() } else { coarse(end.since(now)) }
}

/// When `end` comes: `in 61d`, `in the past`.
pub(super) fn ahead(end: Timestamp, now: Timestamp) -> String {
    let left = left(end, now);
    if end <= now { left } else { format!("in {left}") }
}

/// The largest unit of a duration alone, for times far away.
fn coarse(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// What stands for a value that is not known.
pub(super) fn dash() -> String {
    "-".to_owned()
}

/// The time of day in UTC, `12:18:04Z`.
pub(super) fn time_of_day(at: Timestamp) -> String {
    let seconds = at.0 / 1_000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds % 3_600 / 60, seconds % 60)
}

/// How a peer's state is to be taken.
pub(super) fn tone_of_state(state: &str) -> Tone {
    match state {
        "active" => Tone::Good,
        "joining" | "pending" | "paused" | "stalled" | "stale" => Tone::Fair,
        _ => Tone::Bad,
    }
}

/// A plain table: a header, no borders, columns as wide as they need. Column `painted`, if any, has a tone
/// in each row.
pub(super) struct Plain {
    table: Table,
    painted: Option<usize>,
    style: Style,
}

impl Plain {
    /// A table with these columns.
    pub(super) fn new(header: &[&str], painted: Option<usize>, style: Style) -> Self {
        let mut plain = Self { table: Table::new(), painted, style };
        plain.table.load_style(presets::NOTHING);
        let header = plain.cells(header.iter().map(|text| (*text).to_owned()).collect(), Tone::Plain);
        plain.table.set_header(header);
        plain
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, tone: Tone, cells: [String; N]) {
        let cells = self.cells(cells.into(), tone);
        self.table.add_row(cells);
    }

    fn cells(&self, mut cells: Vec<String>, tone: Tone) -> Vec<String> {
        if let Some(cell) = self.painted.and_then(|at| cells.get_mut(at)) {
            *cell = self.style.paint(tone, cell);
        }
        cells
    }

    /// The text, without spaces at the ends of lines.
    pub(super) fn text(mut self) -> String {
        for column in self.table.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        self.table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// `name   value` lines, aligned; empty values are left out.
pub(super) fn fields<const N: usize>(rows: [(&str, String); N]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let shown = rows.iter().filter(|(_, value)| !value.is_empty());
    shown.map(|(name, value)| format!("{name:<width$}  {value}\n")).collect()
}

/// `1 service`, `2 services`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}
