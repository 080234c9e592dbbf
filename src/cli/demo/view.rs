//! What the demo shows: for people one row a cluster, redrawn in place on a terminal; else one event a line.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    cast::PLACES,
    event::{Event, millis},
    load::{Account, Outcome},
};
use crate::{
    cli::{
        args::Output,
        output::{self, Printer, Style, Tone},
    },
    clock::Clock,
};

/// Requests a second that one character of a bar stands for.
const PER_BLOCK: usize = 2;
/// Where nothing can be redrawn, the rows are printed this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(1);

/// What the name of the export's mark means, for the summary.
const IDEMPOTENT: &str = "\
The export is marked idempotent: a gateway that has sent a request and hears nothing may send it once more
elsewhere. Without the mark it resets the connection instead, and the client decides. A request cut in the
middle of its answer is always the client's to repeat: this one does so once (\"sent again\").";

/// The screen, or the lines.
pub(super) struct View {
    form: Output,
    style: Style,
    live: bool,
    clock: Clock,
    origin: Instant,
    rows_drawn: usize,
    drawn: Option<Instant>,
}

impl View {
    /// Times count from now.
    pub(super) fn new(printer: Printer, clock: Clock) -> Self {
        let origin = clock.now();
        let live = printer.form() == Output::Table && std::io::stdout().is_terminal();
        Self { form: printer.form(), style: printer.style(), live, clock, origin, rows_drawn: 0, drawn: None }
    }

    /// Something people may want to know.
    pub(super) fn note(&mut self, text: &str) {
        match self.form {
            Output::Table => self.above(text),
            // Where events are read by programs, words go to people.
            Output::Json | Output::Yaml => {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        }
    }

    /// Something happened.
    pub(super) fn event(&mut self, event: &Event) {
        let at = self.clock.now().saturating_duration_since(self.origin);
        match self.form {
            Output::Json => output::line(&event.to_json(millis(at))),
            Output::Yaml => output::line(&format!("--- {}", event.to_json(millis(at)))),
            Output::Table => {
                if let Some(text) = told(event, self.style) {
                    self.above(&format!("{:5.1}s  {text}", at.as_secs_f64()));
                }
            }
        }
    }

    /// A request ended.
    pub(super) fn sample(&mut self, outcome: &Outcome) {
        self.event(&Event::RequestSample {
            start_ms: millis(outcome.due.saturating_duration_since(self.origin)),
            latency_ms: millis(outcome.ended.saturating_duration_since(outcome.due)),
            attempts: outcome.attempts,
            cluster: outcome.cluster.clone(),
        });
    }

    /// When to draw next: `interval` after the last time, or less often where lines stay.
    pub(super) fn redraw_due(&self, now: Instant, interval: Duration) -> Instant {
        let interval = if self.live { interval } else { PLAIN_INTERVAL };
        self.drawn.map_or(now, |drawn| drawn + interval)
    }

    /// Draws the rows, and the gap while it is open.
    pub(super) fn draw(&mut self, account: &Account, now: Instant, gap: Option<(Instant, &str)>) {
        self.drawn = Some(now);
        if self.form != Output::Table {
            return;
        }
        let at = now.saturating_duration_since(self.origin).as_secs_f64();
        if !self.live {
            let rates: Vec<String> = PLACES
                .iter()
                .map(|(cluster, _)| format!("{cluster} {}/s", account.rate(cluster, now)))
                .collect();
            output::line(&format!("{at:5.1}s  {}", rates.join("   ")));
            return;
        }
        self.clear();
        let rows = rows(account, now, gap, self.style);
        self.rows_drawn = rows.len();
        output::line(&rows.join("\n"));
    }

    /// A line that stays, above the rows that move.
    fn above(&mut self, text: &str) {
        self.clear();
        output::line(text);
    }

    fn clear(&mut self) {
        if self.rows_drawn > 0 {
            let mut out = std::io::stdout().lock();
            // A terminal that is gone has nothing to be cleared.
            let _ = write!(out, "\u{1b}[{}A\u{1b}[J", self.rows_drawn).and_then(|()| out.flush());
            self.rows_drawn = 0;
        }
    }
}

/// One row a cluster, and one for the totals or the open gap.
fn rows(account: &Account, now: Instant, gap: Option<(Instant, &str)>, style: Style) -> Vec<String> {
    let mut rows: Vec<String> = PLACES
        .iter()
        .map(|(cluster, locality)| {
            let rate = account.rate(cluster, now);
            let bar = style.paint(Tone::Good, &"\u{2588}".repeat(rate / PER_BLOCK));
            format!("  {cluster}  {locality:<8} {rate:>3}/s  {bar}")
        })
        .collect();
    let (requests, retried, failed) = account.totals();
    rows.push(match gap {
        Some((fault, to)) => {
            let open = now.saturating_duration_since(fault).as_millis();
            style.paint(Tone::Fair, &format!("  no answer from {to} yet, {open} ms after the fault"))
        }
        None => format!("  {requests} requests, {retried} sent again, {failed} failed"),
    });
    rows
}

/// An event in words; requests show in the rows instead.
fn told(event: &Event, style: Style) -> Option<String> {
    Some(match event {
        Event::RequestSample { .. } => return None,
        Event::Joined { cluster, peers } => {
            format!("joined    {cluster} has {} as active peers", peers.join(" and "))
        }
        Event::Resolved { name, address, port } => format!("resolved  {name} -> {address}, port {port}"),
        Event::Fault { what, cluster } => {
            format!("{}     {cluster}: {what}", style.paint(Tone::Bad, "fault"))
        }
        Event::Failover { from, to, gap_ms, retried, failed } => format!(
            "{}  {from} -> {to}: first complete answer {gap_ms:.0} ms after the fault, {retried} sent again, {failed} failed",
            style.paint(Tone::Good, "failover")
        ),
        Event::Summary { joined, requests, retried, failed } => format!(
            "summary   {joined} clusters joined by two tokens; {requests} requests, {retried} sent again, {failed} failed\n\n{IDEMPOTENT}"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cluster_has_a_row_with_its_rate_and_bar() {
        let clock = Clock::system();
        let begun = clock.now();
        let mut account = Account::new(begun);
        for number in 0..10 {
            let due = begun + Duration::from_millis(20) * number;
            let cluster = Some("eu-1".to_owned());
            account.enter(Outcome { due, ended: due, attempts: 1, cluster });
        }
        let now = begun + Duration::from_millis(400);
        insta::assert_snapshot!(rows(&account, now, None, Style::default()).join("\n"), @r"
    eu-1  eu/eu-1   10/s  █████
    eu-2  eu/eu-2    0/s  
    us-1  us/us-1    0/s  
    10 requests, 0 sent again, 0 failed
    ");
        let gap = Some((begun + Duration::from_millis(150), "eu-2"));
        insta::assert_snapshot!(rows(&account, now, gap, Style::default())[3], @"  no answer from eu-2 yet, 250 ms after the fault");
    }

    #[test]
    fn the_summary_says_what_idempotent_means() {
        let summary = Event::Summary { joined: 3, requests: 350, retried: 2, failed: 0 };
        let text = told(&summary, Style::default()).expect("words");
        assert!(
            text.starts_with(
                "summary   3 clusters joined by two tokens; 350 requests, 2 sent again, 0 failed"
            )
        );
        assert!(text.contains("idempotent"));
    }
}
