//! Congestion control over a simulated bottleneck: quinn's CUBIC and ours, figure by figure, beside the bars.
//!
//! `cargo bench --bench congestion -- [-o json]`. Time is virtual, so a busy machine changes nothing but how
//! long it takes. What is measured is quinn-proto with its pacer, TLS and the controllers; not sockets, not the
//! kernel's CUBIC (a flow of quinn's stands for it), not the gateway.
#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![expect(clippy::disallowed_methods, reason = "its virtual clock begins at an instant, whichever")]

mod bottleneck;

use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tombolo::{link::congestion::controllers, model::congestion::CongestionControl};

use bottleneck::{Change, Flow, LOOK, Noise, Road, Scene, Seen, Tls, play};

/// Round trip and rate of the path, as the bars have them.
const RTT: Duration = Duration::from_millis(40);
const RATE: f64 = 200e6;
/// Bytes of a small answer, and of a transfer.
const ANSWER: usize = 1_024;
const TRANSFER: usize = 1_000_000;
/// The windows of streams: never what limits.
const WINDOW: u64 = 8 << 20;

#[derive(Parser)]
struct Wanted {
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// What cargo says when it is `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// One figure, of both controllers, and between what it should lie.
struct Row {
    figure: &'static str,
    cubic: f64,
    delay: f64,
    good: Option<(f64, f64)>,
    goal: Option<(f64, f64)>,
}

impl Row {
    fn json(&self) -> Value {
        let meets = |bar: Option<(f64, f64)>| bar.map(|(low, high)| (low..=high).contains(&self.delay));
        // A bar without an upper end has none in JSON either.
        let ends =
            |bar: Option<(f64, f64)>| bar.map(|(low, high)| json!([low, high.is_finite().then_some(high)]));
        let round = |value: f64| (value * 1e3).round() / 1e3;
        json!({
            "figure": self.figure, "cubic": round(self.cubic), "delay": round(self.delay),
            "good": ends(self.good), "goal": ends(self.goal),
            "meets_good": meets(self.good), "meets_goal": meets(self.goal),
        })
    }
}

const ANY: f64 = f64::INFINITY;
/// Hosts that do other work too, and hosts that get a processor now and then.
const BUSY: Noise = Noise {
    late: Duration::from_millis(3),
    every: Duration::from_millis(100),
    lasts: Duration::from_millis(8),
};
const STARVED: Noise = Noise {
    late: Duration::from_millis(8),
    every: Duration::from_millis(150),
    lasts: Duration::from_millis(30),
};

fn main() {
    let wanted = Wanted::parse();
    if !wanted.bench {
        return; // `cargo test --benches`: it is enough that it builds
    }
    let range = Range { tls: Tls::new(), origin: Instant::now() };
    let mut rows = range.beside_bulk();
    rows.extend(range.late_hosts());
    rows.extend(range.late_transfers());
    rows.extend(range.coexistence());
    rows.extend(range.drops());
    rows.extend(range.changes());
    let rows: Vec<Value> = rows.iter().map(Row::json).collect();
    match wanted.output {
        Output::Json => println!("{}", Value::from(rows)),
        Output::Table => {
            for row in rows {
                let figure = row["figure"].as_str().unwrap_or_default();
                println!(
                    "{figure:<52} cubic {:<10} delay {:<10} good {} goal {}",
                    row["cubic"], row["delay"], row["good"], row["goal"]
                );
            }
        }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A queue of `products` times rate and round trip.
fn road(products: f64, loss: f64) -> Road {
    Road { rate: RATE, delay: RTT / 2, queue: (RATE / 8.0 * RTT.as_secs_f64() * products) as usize, loss }
}

fn bulk(congestion: CongestionControl, from: u64) -> Flow {
    let bulk = Some(Duration::ZERO);
    let controller = controllers(congestion);
    Flow { controller, window: WINDOW, from: seconds(from), bulk, requests: 0, answer: ANSWER }
}

fn scene(road: Road, flows: Vec<Flow>, lasts: u64) -> Scene {
    Scene { road, flows, changes: Vec::new(), lasts: seconds(lasts), noise: Noise::default(), seed: 1 }
}

/// Bulk of a flow between two moments, in Mbit/s.
fn rate(seen: &Seen, flow: usize, from: f64, to: f64) -> f64 {
    let look = |at: f64| ((at / LOOK.as_secs_f64()) as usize).min(seen.looks.len().saturating_sub(1));
    let (first, last) = (look(from), look(to));
    let bytes = seen.looks[last].received[flow] - seen.looks[first].received[flow];
    bytes as f64 * 8.0 / 1e6 / ((last - first) as f64 * LOOK.as_secs_f64())
}

/// Median and 99th percentile of requests after the first seconds, in milliseconds.
fn quantiles(seen: &Seen) -> (f64, f64) {
    let late = seen.requests.iter().filter(|(asked, _)| *asked > Duration::from_millis(2_500));
    let mut took: Vec<f64> = late.map(|(_, took)| took.as_secs_f64() * 1e3).collect();
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took.get((took.len() * percent).div_ceil(100).saturating_sub(1));
    (at(50).copied().unwrap_or(ANY), at(99).copied().unwrap_or(ANY))
}

/// How many round trips after `at` it took until at least 80 % of `mbit` were carried and no more than half a
/// round trip waited.
fn settled(seen: &Seen, at: f64, mbit: f64) -> f64 {
    let over = 5.0 * RTT.as_secs_f64();
    let mut moment = at;
    while moment < at + 14.0 {
        let now = ((moment + over) / LOOK.as_secs_f64()) as usize;
        let carried = rate(seen, 0, moment, moment + over);
        let waits = seen.looks.get(now).map_or(Duration::MAX, |look| look.backlog);
        if (0.8 * mbit..1.05 * mbit).contains(&carried) && waits <= RTT / 2 {
            break;
        }
        moment += LOOK.as_secs_f64();
    }
    (moment - at) / RTT.as_secs_f64()
}

struct Range {
    tls: Tls,
    origin: Instant,
}

impl Range {
    /// The same of both controllers.
    fn both(&self, make: impl Fn(CongestionControl) -> Scene) -> [Seen; 2] {
        [CongestionControl::Cubic, CongestionControl::Delay].map(|congestion| {
            let seen = play(&make(congestion), &self.tls, self.origin);
            assert!(seen.ended.is_empty(), "a connection ended: {:?}", seen.ended);
            seen
        })
    }

    /// 500 requests a second beside one bulk stream.
    fn beside_bulk(&self) -> Vec<Row> {
        type Bar = Option<(f64, f64)>;
        let bars: [(f64, [&'static str; 3], [Bar; 4]); 3] = [
            (
                0.0,
                ["p50 beside bulk, 0 % loss, ms", "p99 beside bulk, 0 % loss, ms", "bulk, 0 % loss, Mbit/s"],
                [None, Some((0.0, 48.0)), None, Some((180.0, ANY))],
            ),
            (
                0.01,
                ["p50 beside bulk, 1 % loss, ms", "p99 beside bulk, 1 % loss, ms", "bulk, 1 % loss, Mbit/s"],
                [Some((0.0, 176.0)), Some((0.0, 100.0)), Some((150.0, ANY)), Some((180.0, ANY))],
            ),
            (
                0.02,
                ["p50 beside bulk, 2 % loss, ms", "p99 beside bulk, 2 % loss, ms", "bulk, 2 % loss, Mbit/s"],
                [None; 4],
            ),
        ];
        let mut rows = Vec::new();
        for (loss, [median, late, carried], [good, goal, good_bulk, goal_bulk]) in bars {
            let [cubic, delay] = self.both(|congestion| {
                let flow = Flow { requests: 500, bulk: Some(seconds(2)), ..bulk(congestion, 0) };
                scene(road(1.0, loss), vec![flow], 22)
            });
            let (of_cubic, of_delay) = (quantiles(&cubic), quantiles(&delay));
            let row = |figure, cubic, delay, good, goal| Row { figure, cubic, delay, good, goal };
            rows.push(row(median, of_cubic.0, of_delay.0, None, None));
            rows.push(row(late, of_cubic.1, of_delay.1, good, goal));
            rows.push(row(
                carried,
                rate(&cubic, 0, 2.0, 22.0),
                rate(&delay, 0, 2.0, 22.0),
                good_bulk,
                goal_bulk,
            ));
        }
        rows
    }

    /// The same between hosts that wait for a processor, and 500 requests a second alone.
    fn late_hosts(&self) -> Vec<Row> {
        let named = [
            (BUSY, 0.0, "p99 alone, busy hosts, ms", "bulk, busy hosts, Mbit/s"),
            (BUSY, 0.01, "p99 alone, busy hosts, 1 % loss, ms", "bulk, busy hosts, 1 % loss, Mbit/s"),
            (STARVED, 0.0, "p99 alone, starved hosts, ms", "bulk, starved hosts, Mbit/s"),
            (
                STARVED,
                0.01,
                "p99 alone, starved hosts, 1 % loss, ms",
                "bulk, starved hosts, 1 % loss, Mbit/s",
            ),
        ];
        let mut rows = Vec::new();
        for (noise, loss, alone, carried) in named {
            let seen = self.both(|congestion| {
                let flow = Flow { requests: 500, bulk: None, ..bulk(congestion, 0) };
                Scene { noise, ..scene(road(1.0, loss), vec![flow], 12) }
            });
            let [cubic, delay] = seen.map(|seen| quantiles(&seen).1);
            rows.push(Row { figure: alone, cubic, delay, good: None, goal: None });
            let seen = self
                .both(|congestion| Scene { noise, ..scene(road(1.0, loss), vec![bulk(congestion, 0)], 22) });
            let [cubic, delay] = seen.map(|seen| rate(&seen, 0, 2.0, 21.9));
            rows.push(Row { figure: carried, cubic, delay, good: None, goal: None });
        }
        rows
    }

    /// Transfers that take two thirds of a slower path, between hosts that wait for a processor.
    fn late_transfers(&self) -> Vec<Row> {
        let named = [
            (Noise::default(), "transfers of 1 MB over 50 Mbit/s, median, ms"),
            (BUSY, "the same between busy hosts, ms"),
            (STARVED, "the same between starved hosts, ms"),
        ];
        let row = |(noise, figure)| {
            let seen = self.both(|congestion| {
                let flow = Flow { requests: 4, bulk: None, answer: TRANSFER, ..bulk(congestion, 0) };
                Scene { noise, ..scene(Road { rate: RATE / 4.0, ..road(0.6, 0.0) }, vec![flow], 12) }
            });
            let [cubic, delay] = seen.map(|seen| quantiles(&seen).0);
            Row { figure, cubic, delay, good: None, goal: None }
        };
        named.map(row).into()
    }

    /// Beside one flow of CUBIC, and two of a kind.
    fn coexistence(&self) -> Vec<Row> {
        let beside = |products, figure| {
            let seen = self.both(|congestion| {
                let flows = vec![bulk(congestion, 0), bulk(CongestionControl::Cubic, 0)];
                scene(road(products, 0.0), flows, 60)
            });
            let [cubic, delay] = seen.map(|seen| {
                let (ours, theirs) = (rate(&seen, 0, 5.0, 59.9), rate(&seen, 1, 5.0, 59.9));
                ours / (ours + theirs)
            });
            let at_one = products == 1.0;
            let (good, goal) = (at_one.then_some((0.25, 0.6)), at_one.then_some((0.35, 0.6)));
            Row { figure, cubic, delay, good, goal }
        };
        let two =
            self.both(|congestion| scene(road(1.0, 0.0), vec![bulk(congestion, 0), bulk(congestion, 3)], 60));
        let [cubic, delay] = two.map(|seen| {
            let (one, other) = (rate(&seen, 0, 30.0, 59.9), rate(&seen, 1, 30.0, 59.9));
            (one + other).powi(2) / 2.0 / (one * one + other * other)
        });
        let figure = "two flows of a kind after 30 s, Jain";
        vec![
            beside(1.0, "share beside one CUBIC flow, queue of 1 BDP"),
            beside(0.3, "share beside one CUBIC flow, queue of 0.3 BDP"),
            Row { figure, cubic, delay, good: Some((0.85, 1.0)), goal: Some((0.95, 1.0)) },
        ]
    }

    /// What a short queue drops, as a multiple of what it drops of CUBIC.
    fn drops(&self) -> Vec<Row> {
        let figures =
            [(0.1, "queue drops at 0.1 BDP, of CUBIC's"), (0.3, "queue drops at 0.3 BDP, of CUBIC's")];
        let row = |(products, figure)| {
            let seen = self.both(|congestion| scene(road(products, 0.0), vec![bulk(congestion, 0)], 30));
            let [cubic, delay] = seen.map(|seen| seen.overflowed as f64);
            Row { figure, cubic: 1.0, delay: delay / cubic, good: Some((0.0, 2.0)), goal: Some((0.0, 1.0)) }
        };
        figures.map(row).into()
    }

    /// The path changes under the flow.
    fn changes(&self) -> Vec<Row> {
        let rates = vec![(seconds(15), Change::Rate(RATE / 10.0)), (seconds(30), Change::Rate(RATE))];
        let seen = self.both(|congestion| Scene {
            changes: rates.clone(),
            ..scene(road(1.0, 0.0), vec![bulk(congestion, 0)], 45)
        });
        let [down, up] = [(15.0, 20.0), (30.0, 200.0)].map(|(at, mbit)| {
            let [cubic, delay] = &seen;
            [settled(cubic, at, mbit), settled(delay, at, mbit)]
        });
        let longer = vec![(seconds(15), Change::Delay(RTT / 2 + Duration::from_millis(40)))];
        let seen = self.both(|congestion| Scene {
            changes: longer.clone(),
            ..scene(road(1.0, 0.0), vec![bulk(congestion, 0)], 45)
        });
        let kept = seen.map(|seen| rate(&seen, 0, 15.0, 44.9) / rate(&seen, 0, 8.0, 15.0));
        let (good, goal) = (Some((0.0, 40.0)), Some((0.0, 20.0)));
        let row = |figure, [cubic, delay]: [f64; 2]| Row { figure, cubic, delay, good, goal };
        vec![
            row("200 to 20 Mbit/s, settled after so many RTT", down),
            row("20 to 200 Mbit/s, settled after so many RTT", up),
            Row {
                good: Some((0.8, ANY)),
                goal: None,
                ..row("kept in 30 s after the way grew by 40 ms", kept)
            },
        ]
    }
}
