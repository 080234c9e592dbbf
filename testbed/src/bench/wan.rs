//! The works over a WAN: small requests alone, beside bulk and under loss, bulk under loss and beside a flow of
//! the kernel's. Each is done by gateways started for it, because congestion control remembers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Bench, load, open,
    place::Site,
    table::{self, DIRECT, PEERS, Samples, TOMBOLO, work},
    wanted,
};
use crate::{
    emulator::link::Shape,
    interrupt,
    quantity::{Rate, Share, Span},
};

/// One way.
const DELAY_MS: u64 = 20;
/// There and back, in ms.
pub(super) const ROUND_TRIP_MS: f64 = 2.0 * DELAY_MS as f64;
/// Bits a second.
pub(super) const LINK: u64 = 200_000_000;
/// What the router keeps: one round trip at the link's rate.
const QUEUE_MS: u64 = 2 * DELAY_MS;

/// One work.
#[derive(Debug, Clone, Copy)]
struct Work {
    name: &'static str,
    loss: f64,
    small: bool,
    bulk: bool,
    /// Beside a bulk without any gateway.
    rival: bool,
}

const fn asks(name: &'static str, loss: f64, bulk: bool) -> Work {
    Work { name, loss, small: true, bulk, rival: false }
}

const WORKS: [Work; 8] = [
    Work { name: work::WAN_FRESH, loss: 0.0, small: false, bulk: false, rival: false },
    asks(work::WAN_SMALL_0, 0.0, false),
    asks(work::WAN_SMALL_1, 0.01, false),
    asks(work::WAN_SMALL_2, 0.02, false),
    asks(work::WAN_BESIDE_0, 0.0, true),
    asks(work::WAN_BESIDE_1, 0.01, true),
    Work { name: work::WAN_BULK_1, loss: 0.01, small: false, bulk: true, rival: false },
    Work { name: work::WAN_RIVAL, loss: 0.0, small: false, bulk: true, rival: true },
];

/// The WAN with that share of packets lost, each way.
pub(super) fn shape(loss: f64) -> Shape {
    Shape {
        delay: Span::from_millis(DELAY_MS),
        rate: Some(Rate(LINK)),
        queue: Span::from_millis(QUEUE_MS),
        loss: Share(loss),
        ..Shape::default()
    }
}

impl Bench {
    /// Every work over the WAN, once.
    pub(super) fn repeat_wan(&self, repetition: usize, samples: &mut Samples) -> Result<()> {
        let Some((site, server)) = &self.wan else { return Ok(()) };
        for work in WORKS.iter().filter(|work| self.args.does(work.name)) {
            let mut order: Vec<&'static str> = [TOMBOLO].into_iter().chain(PEERS).chain([DIRECT]).collect();
            order.retain(|name| wanted(&self.args, name));
            let turn = repetition % order.len().max(1);
            order.rotate_left(turn);
            for name in order {
                interrupt::check()?;
                let seen = self.measure_wan((site, *server), work, name, repetition, samples);
                self.note(&format!(
                    "{}: {name} {}",
                    work.name,
                    seen.with_context(|| format!("{name}, {}", work.name))?
                ));
            }
        }
        Ok(())
    }

    fn measure_wan(
        &self,
        (site, server): (&Site, SocketAddr),
        work: &Work,
        name: &'static str,
        repetition: usize,
        samples: &mut Samples,
    ) -> Result<String> {
        site.shape(shape(0.0))?;
        // Held until the work is done.
        let pair = if name == DIRECT { None } else { Some(self.start(site, server, name, repetition)?) };
        let target = pair.as_ref().map_or(server, |pair| pair.target);
        site.shape(shape(work.loss))?;
        if work.name == work::WAN_FRESH {
            let took = site.near.run(|| load::first_byte(target, self.amount.fresh_wan))?;
            let trips = took.as_secs_f64() * 1e3 / ROUND_TRIP_MS;
            samples.add(work.name, table::TRIPS, name, trips);
            return Ok(format!("{trips:.3} round trips"));
        }
        let small = work.small.then_some(target);
        let mut bulks: Vec<SocketAddr> = work.bulk.then_some(target).into_iter().collect();
        bulks.extend(work.rival.then_some(server));
        let span = self.amount.span_wan;
        let seen = site.near.run(|| open::run(small, &bulks, span))?;
        Ok(note(work, name, &seen, span, samples))
    }
}

fn note(work: &Work, name: &'static str, seen: &open::Seen, span: Duration, samples: &mut Samples) -> String {
    let mut said = Vec::new();
    if work.small {
        let [p50, p99] = [50, 99].map(|of_100| seen.quantile_ms(of_100, span));
        samples.add(work.name, table::P50, name, p50);
        samples.add(work.name, table::P99, name, p99);
        said.push(format!("p50 {p50:.1} p99 {p99:.1} ms, {} unanswered", seen.unanswered()));
    }
    let megabits: Vec<f64> = seen.bulk.iter().map(|bits| bits / 1e6).collect();
    match megabits.as_slice() {
        [ours, theirs] => {
            samples.add(work.name, table::SHARE, name, ours / (ours + theirs));
            said.push(format!("{ours:.1} beside {theirs:.1} Mbit/s"));
        }
        [only] => {
            samples.add(work.name, table::MEGABITS, name, *only);
            said.push(format!("{only:.1} Mbit/s"));
        }
        _ => {}
    }
    said.join(", ")
}
