//! From samples to rows: medians, spreads, and how far each figure is from its bar. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::wan::{LINK, ROUND_TRIP_MS};
use crate::screen;

/// The program that is measured.
pub(super) const TOMBOLO: &str = "tombolo";
/// Those it is held against; a run without one of them has failed.
pub(super) const PEERS: [&str; 3] = ["envoy-mtls", "envoy-hbone", "haproxy"];
/// A server of names, which no gateway is held against.
pub(super) const COREDNS: &str = "coredns";
/// The same work with as much processor time burnt as an attack takes.
pub(super) const CONTROL: &str = "control";
/// No gateways at all: what clients and server can do by themselves.
pub(super) const DIRECT: &str = "direct";
/// The QUIC library alone.
pub(super) const QUINN: &str = "quinn";

/// What a bar is measured by.
#[derive(Debug, Clone, Copy)]
enum Against {
    /// The best of the peers.
    Best,
    /// One of them, or a reference.
    One(&'static str),
    /// This value, in the figure's unit.
    Value(f64, &'static str),
}

/// What makes people switch, and what nobody has: ratios, of at most for costs and of at least otherwise.
#[derive(Debug, Clone, Copy)]
struct Bar {
    against: Against,
    good: Option<f64>,
    goal: Option<f64>,
}

/// A figure of a work.
#[derive(Debug)]
pub(super) struct Figure {
    work: &'static str,
    name: &'static str,
    more_is_better: bool,
    bars: &'static [Bar],
}

const fn figure(work: &'static str, name: &'static str, bars: &'static [Bar]) -> Figure {
    Figure { work, name, more_is_better: false, bars }
}

const fn rate(work: &'static str, name: &'static str, bars: &'static [Bar]) -> Figure {
    Figure { work, name, more_is_better: true, bars }
}

const fn bar(against: Against, good: f64, goal: f64) -> Bar {
    Bar { against, good: Some(good), goal: Some(goal) }
}

/// A bar with nothing to be good at.
const fn only_goal(against: Against, goal: f64) -> Bar {
    Bar { against, good: None, goal: Some(goal) }
}

/// Works by name.
pub(super) mod work {
    /// Closed loop on connections that stay.
    pub(crate) const KEEP_16: &str = "keep-alive, 16 connections";
    /// The same, many.
    pub(crate) const KEEP_128: &str = "keep-alive, 128 connections";
    /// A connection for each request.
    pub(crate) const EACH: &str = "a connection per request, 16 clients";
    /// From nothing to the first byte.
    pub(crate) const FRESH: &str = "a fresh connection";
    /// One stream, as fast as it goes.
    pub(crate) const BULK: &str = "bulk, one stream";
    /// Connections that stand and say nothing.
    pub(crate) const IDLE: &str = "idle connections";
    /// A gateway that nobody uses.
    pub(crate) const EMPTY: &str = "an empty gateway";
    /// Over a WAN: from nothing to the first byte.
    pub(crate) const WAN_FRESH: &str = "WAN, a fresh connection";
    /// Small requests alone.
    pub(crate) const WAN_SMALL_0: &str = "WAN, small requests";
    /// The same with loss.
    pub(crate) const WAN_SMALL_1: &str = "WAN, small requests, 1 % loss";
    /// The same with more.
    pub(crate) const WAN_SMALL_2: &str = "WAN, small requests, 2 % loss";
    /// Small requests and one bulk.
    pub(crate) const WAN_BESIDE_0: &str = "WAN, small beside bulk";
    /// The same with loss.
    pub(crate) const WAN_BESIDE_1: &str = "WAN, small beside bulk, 1 % loss";
    /// Bulk alone with loss.
    pub(crate) const WAN_BULK_1: &str = "WAN, bulk, 1 % loss";
    /// Bulk beside a flow of the kernel's.
    pub(crate) const WAN_RIVAL: &str = "WAN, bulk beside one kernel flow";
    /// Addresses of many names.
    pub(crate) const DNS: &str = "DNS, 10,000 services";
    /// Small requests beside an attack on another service: somebody reads little of much.
    pub(crate) const SLOW: &str = "beside a slow reader";
    /// Many of them.
    pub(crate) const MANY_SLOW: &str = "beside 64 slow readers";
    /// Connections as quickly as it goes.
    pub(crate) const FLOOD: &str = "beside a flood of opens";
    /// All of loopback.
    pub(crate) const ALL: [&str; 7] = [EMPTY, IDLE, KEEP_16, KEEP_128, EACH, FRESH, BULK];
}

/// Requests answered in a second.
pub(super) const RATE: &str = "requests/s";
/// Processor time of both gateways.
pub(super) const COST: &str = "CPU s/100k";
/// 99 of 100 requests take at most.
pub(super) const P99: &str = "p99 ms";
/// That of each pair of an attack and its control, in parts of the control's.
pub(super) const P99_PARTS: &str = "p99 / control";
/// The median of a fresh connection's first byte.
pub(super) const FIRST: &str = "first byte p50 ms";
/// Speed of bulk.
pub(super) const SPEED: &str = "Gbit/s";
/// Processor time of both gateways for bulk.
pub(super) const BULK_COST: &str = "CPU s/GB";
/// Half of the requests take at most.
pub(super) const P50: &str = "p50 ms";
/// The median of a fresh connection's first byte over a WAN.
pub(super) const TRIPS: &str = "first byte, round trips";
/// Speed of bulk over a WAN.
pub(super) const MEGABITS: &str = "Mbit/s";
/// What a bulk gets of the link that it shares with one that has no gateways.
pub(super) const SHARE: &str = "share of the link";
/// Memory for each idle connection and gateway.
pub(super) const IDLE_KIB: &str = "KiB each";
/// Memory of a gateway that does nothing.
pub(super) const RSS: &str = "RSS MiB";

/// What `ztunnel` was measured at, in KiB for each idle connection and gateway; it comes in no package.
const ZTUNNEL_IDLE: f64 = 5.2;

const ONE_ROUND_TRIP: Against = Against::Value(ROUND_TRIP_MS, "ms");
const WHOLE_LINK: Against = Against::Value(LINK as f64 / 1e6, "Mbit/s");
const WHOLE: Against = Against::Value(1.0, "of all");
const BESIDE_MTLS: Bar = Bar { against: Against::One(PEERS[0]), good: Some(1.0), goal: None };

/// Side by side, with no bar.
const BESIDE_COREDNS: &[Bar] = &[Bar { against: Against::One(COREDNS), good: None, goal: None }];

/// Beside an attack as beside one who only takes processor time.
const NOT_HURT: &[Bar] = &[Bar { against: Against::Value(1.0, "of control"), good: Some(1.5), goal: None }];

/// All figures, in the order of the table.
pub(super) const FIGURES: [Figure; 41] = [
    figure(work::KEEP_16, COST, &[bar(Against::Best, 0.75, 0.6)]),
    rate(work::KEEP_16, RATE, &[]),
    figure(work::KEEP_16, P99, &[]),
    figure(work::KEEP_128, COST, &[bar(Against::Best, 0.75, 0.6)]),
    rate(work::KEEP_128, RATE, &[]),
    figure(work::KEEP_128, P99, &[]),
    figure(work::EACH, COST, &[bar(Against::Best, 0.5, 0.25), bar(Against::One(PEERS[0]), 0.15, 0.08)]),
    rate(work::EACH, RATE, &[]),
    figure(work::FRESH, FIRST, &[]),
    rate(work::BULK, SPEED, &[bar(Against::One(PEERS[0]), 0.5, 0.8)]),
    figure(work::BULK, BULK_COST, &[bar(Against::One(QUINN), 1.4, 1.25)]),
    figure(work::IDLE, IDLE_KIB, &[bar(Against::Value(ZTUNNEL_IDLE, "KiB"), 1.0, 0.6)]),
    figure(work::EMPTY, RSS, &[bar(Against::Value(1.0, "MiB"), 25.0, 15.0)]),
    rate(work::DNS, RATE, BESIDE_COREDNS),
    figure(work::DNS, COST, BESIDE_COREDNS),
    figure(work::DNS, P99, BESIDE_COREDNS),
    figure(work::DNS, RSS, BESIDE_COREDNS),
    figure(work::SLOW, P50, &[]),
    figure(work::SLOW, P99, &[]),
    figure(work::SLOW, P99_PARTS, NOT_HURT),
    figure(work::MANY_SLOW, P50, &[]),
    figure(work::MANY_SLOW, P99, &[]),
    figure(work::MANY_SLOW, P99_PARTS, NOT_HURT),
    figure(work::FLOOD, P50, &[]),
    figure(work::FLOOD, P99, &[]),
    figure(work::FLOOD, P99_PARTS, NOT_HURT),
    figure(work::WAN_FRESH, TRIPS, &[bar(Against::Value(1.0, "round trip"), 1.15, 1.05)]),
    figure(work::WAN_SMALL_0, P50, &[]),
    figure(work::WAN_SMALL_0, P99, &[bar(Against::Best, 1.1, 1.0)]),
    figure(work::WAN_SMALL_1, P50, &[]),
    figure(work::WAN_SMALL_1, P99, &[bar(Against::Best, 1.0, 0.95)]),
    figure(work::WAN_SMALL_2, P50, &[]),
    figure(work::WAN_SMALL_2, P99, &[bar(Against::Best, 1.0, 0.95)]),
    figure(work::WAN_BESIDE_0, P50, &[]),
    figure(work::WAN_BESIDE_0, P99, &[BESIDE_MTLS, only_goal(ONE_ROUND_TRIP, 1.2)]),
    rate(work::WAN_BESIDE_0, MEGABITS, &[only_goal(WHOLE_LINK, 0.9)]),
    figure(work::WAN_BESIDE_1, P99, &[bar(ONE_ROUND_TRIP, 4.4, 2.5)]),
    rate(work::WAN_BESIDE_1, MEGABITS, &[bar(WHOLE_LINK, 0.75, 0.9)]),
    rate(work::WAN_BULK_1, MEGABITS, &[]),
    // Neither starved nor starving.
    rate(work::WAN_RIVAL, SHARE, &[bar(WHOLE, 0.25, 0.35)]),
    figure(work::WAN_RIVAL, SHARE, &[bar(WHOLE, 0.6, 0.6)]),
];

/// Every value seen, by work and figure, then by who it is of.
#[derive(Debug, Default)]
pub(super) struct Samples(BTreeMap<(&'static str, &'static str), BTreeMap<&'static str, Vec<f64>>>);

impl Samples {
    /// One more.
    pub(super) fn add(&mut self, work: &'static str, figure: &'static str, who: &'static str, value: f64) {
        self.0.entry((work, figure)).or_default().entry(who).or_default().push(value);
    }
}

/// The middle of what was seen, and its ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.get((sorted.len().max(1) - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { min: *sorted.first()?, median: f64::midpoint(*low, *high), max: *sorted.last()? })
    }

    /// The middle, and half the way between the ends in parts of it.
    fn text(self) -> String {
        let digits = match self.median.abs() {
            1_000.0.. => 0,
            20.0.. => 1,
            _ => 2,
        };
        let part = (self.max - self.min) / 2.0 / self.median * 100.0;
        format!("{:.digits$} ±{part:.0}%", self.median)
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    work: &'static str,
    figure: &'static str,
    tombolo: Option<f64>,
    /// Medians.
    peers: BTreeMap<&'static str, f64>,
    /// Medians of what is no gateway.
    references: BTreeMap<&'static str, f64>,
    ratio_to_best: Option<f64>,
    /// What the bars are measured by: `best`, somebody's name, or a value.
    against: Option<String>,
    /// Tombolo's figure in parts of that.
    ratio: Option<f64>,
    good: Option<f64>,
    goal: Option<f64>,
    meets_good: Option<bool>,
    meets_goal: Option<bool>,
    /// Of everybody.
    spread: BTreeMap<&'static str, Spread>,
}

/// A row for each figure that was seen, and for each of its bars.
pub(super) fn rows(samples: &Samples) -> Vec<Row> {
    let seen =
        FIGURES.iter().filter_map(|figure| Some((figure, samples.0.get(&(figure.work, figure.name))?)));
    seen.flat_map(|(figure, values)| {
        let spread: BTreeMap<&'static str, Spread> =
            values.iter().filter_map(|(who, values)| Some((*who, Spread::of(values)?))).collect();
        let bars = figure.bars.iter().copied().map(Some);
        let none = figure.bars.is_empty().then_some(None);
        bars.chain(none).map(|bar| row(figure, bar, &spread)).collect::<Vec<_>>()
    })
    .collect()
}

fn row(figure: &Figure, bar: Option<Bar>, spread: &BTreeMap<&'static str, Spread>) -> Row {
    let median = |who: &str| spread.get(who).map(|spread| spread.median);
    let tombolo = median(TOMBOLO);
    let peers: BTreeMap<&'static str, f64> =
        PEERS.iter().chain(&[COREDNS]).filter_map(|name| Some((*name, median(name)?))).collect();
    let references =
        [CONTROL, DIRECT, QUINN].iter().filter_map(|name| Some((*name, median(name)?))).collect();
    let gateways: Vec<f64> = PEERS.iter().filter_map(|name| median(name)).collect();
    // The best of some of the peers is no bar.
    let best = (gateways.len() == PEERS.len())
        .then(|| gateways.into_iter().reduce(if figure.more_is_better { f64::max } else { f64::min }))
        .flatten();
    let over = |base: Option<f64>| Some(tombolo? / base?);
    let ratio = bar.and_then(|bar| match bar.against {
        Against::Best => over(best),
        Against::One(name) => over(median(name)),
        Against::Value(value, _) => over(Some(value)),
    });
    let meets = |limit: Option<f64>| {
        let limit = limit?;
        ratio.map(|ratio| if figure.more_is_better { ratio >= limit } else { ratio <= limit })
    };
    Row {
        work: figure.work,
        figure: figure.name,
        tombolo,
        peers,
        references,
        ratio_to_best: over(best),
        against: bar.map(|bar| match bar.against {
            Against::Best => "best".to_owned(),
            Against::One(name) => name.to_owned(),
            Against::Value(value, unit) => format!("{value} {unit}"),
        }),
        ratio,
        good: bar.and_then(|bar| bar.good),
        goal: bar.and_then(|bar| bar.goal),
        meets_good: bar.and_then(|bar| meets(bar.good)),
        meets_goal: bar.and_then(|bar| meets(bar.goal)),
        spread: spread.clone(),
    }
}

/// The table for people.
pub(super) fn text(rows: &[Row]) -> String {
    // A column for whom there is anything to say of.
    let mut others = PEERS.to_vec();
    others.extend([COREDNS, CONTROL, DIRECT, QUINN]);
    others.retain(|who| rows.iter().any(|row| row.spread.contains_key(who)));
    let mut headings = vec!["WORK", "FIGURE", "TOMBOLO"];
    headings.extend(&others);
    headings.extend(["AGAINST", "RATIO", "GOOD", "GOAL", ""]);
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
    let line = |row: &Row| {
        let cell = |who: &str| row.spread.get(who).map_or_else(|| "-".to_owned(), |spread| spread.text());
        let mut cells = vec![row.work.to_owned(), row.figure.to_owned(), cell(TOMBOLO)];
        cells.extend(others.iter().map(|who| cell(who)));
        let verdict = match (row.meets_good, row.meets_goal) {
            (_, Some(true)) => "GOAL",
            (Some(true), _) => "good",
            (Some(false), _) => "RED",
            // Short of a goal beyond what is good.
            (None, _) => "",
        };
        cells.extend([
            row.against.clone().unwrap_or_default(),
            number(row.ratio.or(row.ratio_to_best)),
            number(row.good),
            number(row.goal),
            verdict.to_owned(),
        ]);
        cells
    };
    screen::table(&headings, &rows.iter().map(line).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(tombolo: &[f64], peers: [f64; 3]) -> Samples {
        let mut samples = Samples::default();
        for value in tombolo {
            samples.add(work::EACH, COST, TOMBOLO, *value);
        }
        for (peer, value) in PEERS.into_iter().zip(peers) {
            samples.add(work::EACH, COST, peer, value);
        }
        samples
    }

    #[test]
    fn a_figure_with_two_bars_has_two_rows_and_is_held_to_the_median() {
        let rows = rows(&samples(&[90.0, 12.0, 3.0], [100.0, 30.0, 200.0]));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].tombolo, rows[0].ratio), (Some(12.0), Some(0.4)));
        assert_eq!((rows[0].meets_good, rows[0].meets_goal), (Some(true), Some(false)));
        assert_eq!((rows[1].against.as_deref(), rows[1].ratio), (Some("envoy-mtls"), Some(0.12)));
        assert_eq!(rows[1].ratio_to_best, Some(0.4));
        assert!(text(&rows).contains("good"));
    }

    #[test]
    fn a_best_of_peers_that_are_not_all_there_meets_nothing() {
        let mut samples = samples(&[1.0], [100.0, 30.0, 200.0]);
        samples.0.values_mut().for_each(|who| drop(who.remove("haproxy")));
        let rows = rows(&samples);
        assert_eq!((rows[0].ratio, rows[0].meets_good), (None, None));
        assert_eq!(rows[1].meets_goal, Some(true), "envoy-mtls is there");
    }

    #[test]
    fn of_rates_more_is_better_and_of_a_value_the_ratio_is_to_it() {
        let mut samples = Samples::default();
        for (who, value) in [(TOMBOLO, 2.5), (PEERS[0], 5.0)] {
            samples.add(work::BULK, SPEED, who, value);
        }
        samples.add(work::IDLE, IDLE_KIB, TOMBOLO, 5.3);
        let rows = rows(&samples);
        assert_eq!((rows[0].meets_good, rows[0].meets_goal), (Some(true), Some(false)));
        assert_eq!(rows[1].meets_good, Some(false));
    }
}
