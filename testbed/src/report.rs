//! Results of repetitions: figures, assertions, a table, JSON. Pure but for asking versions.

use std::{collections::BTreeMap, process::Command};

use serde::Serialize;

use crate::{
    load::{Account, End, Latency, Outcome, Record},
    quantity::Span,
    scenario::{Assertion, Scenario},
    screen,
    standing::{Product, Standing},
};

/// The spans of a table, in its order.
const SPANS: [&str; 9] = [
    "gap",
    "wait",
    "first_ok",
    "last_of_first",
    "resumed",
    "stream_end",
    "tail",
    "detected_near",
    "detected_far",
];

/// One repetition. Times are milliseconds after the first fault.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Repetition {
    /// Counted from 1.
    pub(crate) number: usize,
    /// What was done, each with its time after the first request.
    pub(crate) faults: Vec<(f64, String)>,
    /// When the client's gateway showed a change of the peer.
    pub(crate) detected_near_ms: Option<f64>,
    /// When a gateway elsewhere did.
    pub(crate) detected_far_ms: Option<f64>,
    /// The first answer to a request due after the fault.
    pub(crate) first_ok_ms: Option<f64>,
    /// The last request whose first try failed, when that was known.
    pub(crate) last_failure_ms: Option<f64>,
    /// The longest time in which no request was answered at all, of those that end after the fault; until the
    /// last fate known, when no answer came any more.
    pub(crate) gap_ms: f64,
    /// The longest that any request answered or given up after the fault had to wait; a failed one counts
    /// its whole deadline.
    pub(crate) wait_ms: f64,
    /// The last answer of the cluster that gave the last one before the fault; 0 when it gave none after it.
    pub(crate) last_of_first_ms: Option<f64>,
    /// From the last fault to the first answer after it.
    pub(crate) resumed_ms: Option<f64>,
    /// The last stream that ended before the load did.
    pub(crate) stream_end_ms: Option<f64>,
    /// All requests.
    pub(crate) account: Account,
    /// What is counted beside the requests.
    pub(crate) beside: BTreeMap<&'static str, u64>,
}

impl Repetition {
    /// From what the client saw.
    pub(crate) fn of(number: usize, outcome: &Outcome, fault_at: u64, deadline: Span) -> Self {
        let after = |at: u64| at.saturating_sub(fault_at) as f64 / 1e6;
        let touched = || outcome.records.iter().filter(|record| record.done >= fault_at);
        let later = touched().filter(|record| record.intended >= fault_at && record.answered());
        let failures = touched().filter(|record| record.trouble.is_some() || !record.answered());
        Self {
            number,
            faults: Vec::new(),
            detected_near_ms: None,
            detected_far_ms: None,
            first_ok_ms: later.map(|record| record.done).min().map(after),
            last_failure_ms: failures.map(|record| record.done).max().map(after),
            gap_ms: gap(&outcome.records, fault_at) as f64 / 1e6,
            wait_ms: touched().map(|record| record.waited(deadline)).max().unwrap_or(0) as f64 / 1e6,
            last_of_first_ms: last_of_first(&outcome.records, fault_at),
            resumed_ms: None,
            stream_end_ms: outcome
                .streams
                .iter()
                .filter(|s| s.end != End::Kept && s.at >= fault_at)
                .map(|s| s.at)
                .max()
                .map(after),
            account: outcome.account.clone(),
            beside: beside(outcome),
        }
    }

    /// Takes the time of the last fault, of the machine's clock.
    pub(crate) fn resumed(&mut self, outcome: &Outcome, last_fault_at: u64) {
        let after = outcome.records.iter().filter(|r| r.answered() && r.intended >= last_fault_at);
        let first = after.map(|record| record.done).min();
        self.resumed_ms = first.map(|at| at.saturating_sub(last_fault_at) as f64 / 1e6);
    }
}

/// When the cluster that gave the last answer before the fault gave its last one at all.
fn last_of_first(records: &[Record], fault_at: u64) -> Option<f64> {
    let answered = || records.iter().filter(|record| record.answered());
    let first = answered().filter(|record| record.done < fault_at).max_by_key(|record| record.done)?;
    let last = answered().filter(|record| record.cluster == first.cluster).map(|record| record.done).max()?;
    Some(last.saturating_sub(fault_at) as f64 / 1e6)
}

/// The counts of streams and downloads.
fn beside(outcome: &Outcome) -> BTreeMap<&'static str, u64> {
    let ended = |end| outcome.streams.iter().filter(|stream| stream.end == end).count() as u64;
    BTreeMap::from([
        ("streams_kept", ended(End::Kept)),
        ("streams_reset", ended(End::Reset)),
        ("streams_closed", ended(End::Closed) + ended(End::Wrong)),
        ("streams_hung", ended(End::Hung)),
        ("downloads_whole", outcome.downloads.whole),
        ("downloads_broken", outcome.downloads.broken),
    ])
}

impl Repetition {
    /// Whether one of the assertions would not hold, were this repetition the only one.
    pub(crate) fn breaks(&self, assertions: &[Assertion]) -> bool {
        let figures = figures(std::slice::from_ref(self));
        assertions.iter().any(|assertion| !assertion.holds(&figures))
    }
}

/// The longest time between two answers, one after the other, of which the second came after the fault. Once no
/// request was due any more, silence is no gap.
fn gap(records: &[Record], fault_at: u64) -> u64 {
    let mut answers: Vec<u64> = records.iter().filter(|r| r.answered()).map(|r| r.done).collect();
    answers.sort_unstable();
    let before = answers.iter().rev().find(|at| **at < fault_at).copied().unwrap_or(fault_at);
    let last_fate = records.iter().map(|record| record.done).max().unwrap_or(before);
    let last_due = records.iter().map(|record| record.intended).max().unwrap_or(before);
    let after = answers.into_iter().filter(|at| *at >= fault_at).chain([last_fate]);
    let spans = after.scan(before, |last, at| Some((std::mem::replace(last, at), at)));
    spans.filter(|(from, _)| *from <= last_due).map(|(from, to)| to.saturating_sub(from)).max().unwrap_or(0)
}

/// Everything to know about some repetitions.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `testbed/report/1`.
    pub(crate) schema: &'static str,
    /// The line that repeats it.
    pub(crate) command: String,
    /// Seed of the emulator.
    pub(crate) seed: u64,
    /// The backend.
    pub(crate) backend: crate::ground::BackendName,
    /// Of this program.
    pub(crate) testbed_version: &'static str,
    /// What the gateways are.
    pub(crate) product: Product,
    /// What `--version` of their binary says.
    pub(crate) tombolo_version: String,
    /// The commit of the folder this runs in, if it is one.
    pub(crate) commit: Option<String>,
    /// The kernel, and its TCP congestion control.
    pub(crate) host: String,
    /// Processors, and the load average of the last minute as it was at the end.
    pub(crate) load: String,
    /// What was run.
    pub(crate) scenario: Scenario,
    /// The repetitions.
    pub(crate) repetitions: Vec<Repetition>,
    /// Over the repetitions: spans in milliseconds with p50, p99, max; counts as sums.
    pub(crate) figures: BTreeMap<String, f64>,
    /// Each assertion and whether it holds.
    pub(crate) assertions: Vec<(Assertion, bool)>,
    /// Whether all hold.
    pub(crate) pass: bool,
}

fn said(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Report {
    /// Puts figures and assertions to repetitions.
    pub(crate) fn new(
        standing: &Standing,
        repetitions: Vec<Repetition>,
        assertions: Vec<Assertion>,
        command: String,
    ) -> Self {
        let figures = figures(&repetitions);
        let assertions: Vec<(Assertion, bool)> = assertions
            .into_iter()
            .map(|assertion| {
                let holds = assertion.holds(&figures);
                (assertion, holds)
            })
            .collect();
        let proc = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        Self {
            schema: "testbed/report/1",
            command,
            seed: standing.scenario.seed,
            backend: standing.backend,
            testbed_version: env!("CARGO_PKG_VERSION"),
            product: standing.product,
            tombolo_version: said(&standing.tombolo.to_string_lossy(), &["--version"])
                .unwrap_or_else(|| "unknown".to_owned()),
            commit: said("git", &["rev-parse", "HEAD"]),
            host: format!(
                "Linux {}, {}",
                proc("/proc/sys/kernel/osrelease"),
                proc("/proc/sys/net/ipv4/tcp_congestion_control")
            ),
            load: format!(
                "{} processors, load average {}",
                std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
                proc("/proc/loadavg").split(' ').next().unwrap_or_default()
            ),
            scenario: standing.scenario.clone(),
            repetitions,
            figures,
            pass: assertions.iter().all(|(_, holds)| *holds),
            assertions,
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let headings = [
            "REP",
            "FAULT",
            "NEAR ms",
            "FAR ms",
            "FIRST OK ms",
            "LAST FAILURE ms",
            "GAP ms",
            "WAIT ms",
            "FAILED",
            "RESET",
            "LATE",
            "UNANSWERED",
        ];
        let mut rows = Vec::new();
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
        for rep in &self.repetitions {
            let a = &rep.account;
            rows.push(vec![
                rep.number.to_string(),
                rep.faults.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("; "),
                ms(rep.detected_near_ms),
                ms(rep.detected_far_ms),
                ms(rep.first_ok_ms),
                ms(rep.last_failure_ms),
                ms(Some(rep.gap_ms)),
                ms(Some(rep.wait_ms)),
                a.failed.to_string(),
                a.reset.to_string(),
                a.late.to_string(),
                a.unanswered.to_string(),
            ]);
        }
        let mut text = screen::table(&headings, &rows);
        for span in SPANS {
            let part = |part: &str| ms(self.figures.get(&format!("{span}_{part}")).copied());
            if !self.figures.contains_key(&format!("{span}_p50")) {
                continue;
            }
            text.push_str(&format!(
                "\n{span:<13} p50 {:>5}  p99 {:>5}  max {:>5} ms",
                part("p50"),
                part("p99"),
                part("max")
            ));
        }
        let count = |name: &str| self.figures.get(name).copied().unwrap_or(0.0);
        text.push_str(&format!(
            "\nfailed {} of {}, reset {}, late {}, unanswered {}",
            count("failed"),
            count("issued"),
            count("reset"),
            count("late"),
            count("unanswered")
        ));
        let beside = self.repetitions.iter().flat_map(|rep| rep.beside.keys());
        for name in beside.collect::<std::collections::BTreeSet<_>>() {
            if count(name) > 0.0 {
                text.push_str(&format!("\n{name} {}", count(name)));
            }
        }
        for (assertion, holds) in &self.assertions {
            text.push_str(&format!("\n{} {assertion}", if *holds { "PASS" } else { "FAIL" }));
        }
        text
    }
}

/// Two reports of the same scenario, figure by figure.
pub(crate) fn side_by_side(one: &Report, other: &Report) -> String {
    let name = |report: &Report| format!("{:?}", report.product).to_uppercase();
    let shown = |report: &Report, figure: &str| {
        report.figures.get(figure).map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"))
    };
    let known: std::collections::BTreeSet<&String> = one.figures.keys().chain(other.figures.keys()).collect();
    let row = |figure: &&String| vec![(*figure).clone(), shown(one, figure), shown(other, figure)];
    let rows: Vec<Vec<String>> = known.iter().map(row).collect();
    let versions = format!("{} | {}", one.tombolo_version, other.tombolo_version);
    screen::table(&["FIGURE", &name(one), &name(other)], &rows) + "\n" + versions.trim()
}

fn figures(repetitions: &[Repetition]) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut spans = |name: &str, values: Vec<Option<f64>>| {
        // A repetition without the figure makes it unmeasured: an assertion on it then fails.
        let Some(values) = values.into_iter().collect::<Option<Vec<f64>>>().filter(|v| !v.is_empty()) else {
            return;
        };
        let spread = Latency::of(values.iter().map(|ms| (ms * 1e6) as u64).collect());
        for (part, value) in [("p50", spread.p50), ("p99", spread.p99), ("max", spread.max)] {
            figures.insert(format!("{name}_{part}"), value);
        }
    };
    spans("gap", repetitions.iter().map(|rep| Some(rep.gap_ms)).collect());
    spans("wait", repetitions.iter().map(|rep| Some(rep.wait_ms)).collect());
    spans("first_ok", repetitions.iter().map(|rep| rep.first_ok_ms).collect());
    spans("last_of_first", repetitions.iter().map(|rep| rep.last_of_first_ms).collect());
    spans("detected_near", repetitions.iter().map(|rep| rep.detected_near_ms).collect());
    spans("detected_far", repetitions.iter().map(|rep| rep.detected_far_ms).collect());
    spans("resumed", repetitions.iter().map(|rep| rep.resumed_ms).collect());
    spans("stream_end", repetitions.iter().map(|rep| rep.stream_end_ms).collect());
    spans("tail", repetitions.iter().map(|rep| Some(rep.account.latency_ms.p99)).collect());
    for rep in repetitions {
        let a = &rep.account;
        for (name, count) in [
            ("issued", a.issued),
            ("ok", a.ok),
            ("retried", a.retried),
            ("failed", a.failed),
            ("unanswered", a.unanswered),
            ("reset", a.reset),
            ("late", a.late),
        ] {
            *figures.entry(name.to_owned()).or_default() += count as f64;
        }
        for (name, count) in &rep.beside {
            *figures.entry((*name).to_owned()).or_default() += *count as f64;
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Fate;

    fn record(intended: u64, done: u64, fate: Fate) -> Record {
        let ms = 1_000_000;
        let trouble = (fate != Fate::Ok).then(|| "reset".to_owned());
        Record { intended: intended * ms, done: done * ms, fate, trouble, cluster: None, bytes: 0 }
    }

    #[test]
    fn a_gap_that_never_ends_lasts_until_the_last_fate_known() {
        let ms = 1_000_000;
        let records = [record(0, 990, Fate::Ok), record(1_010, 11_010, Fate::Unanswered)];
        assert_eq!(gap(&records, 1_000 * ms), 10_020 * ms);
        assert_eq!(gap(&records[..1], 1_000 * ms), 0, "nothing was due any more");
        let straggler = [record(990, 1_000, Fate::Ok), record(900, 3_000, Fate::Retried)];
        assert_eq!(gap(&straggler, 1_000 * ms), 0, "nor when a straggler came");
    }

    #[test]
    fn the_last_answer_of_who_answered_first_is_not_the_last_of_all() {
        let by = |cluster: &str, at| Record { cluster: Some(cluster.to_owned()), ..record(at, at, Fate::Ok) };
        let records = vec![by("west", 900), by("west", 1_010), by("north", 5_000)];
        assert_eq!(last_of_first(&records, 1_000_000_000), Some(10.0));
    }

    #[test]
    fn the_gap_is_the_time_without_answers_and_the_wait_that_of_one_request() {
        let records = vec![
            record(0, 900, Fate::Ok),
            record(990, 1_400, Fate::Retried),
            record(1_010, 1_650, Fate::Ok),
            record(1_500, 1_700, Fate::Ok),
        ];
        let account = Account::of(&records, Span::from_millis(1_000), Span::from_millis(10_000));
        let (streams, downloads) = (Vec::new(), crate::load::Downloads::default());
        let outcome = Outcome { started: 0, account, records, streams, downloads };
        let rep = Repetition::of(1, &outcome, 1_000_000_000, Span::from_millis(10_000));
        assert_eq!(rep.last_of_first_ms, Some(700.0), "nobody else answers");
        assert_eq!((rep.gap_ms, rep.wait_ms), (500.0, 640.0));
        assert_eq!((rep.first_ok_ms, rep.last_failure_ms), (Some(650.0), Some(400.0)));
        let figures = figures(&[rep]);
        assert_eq!((figures["gap_p99"], figures["wait_p99"]), (500.0, 640.0));
        assert!(!figures.contains_key("detected_near_p50"), "what was not seen is not asserted");
    }
}
