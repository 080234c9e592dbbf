//! The emulator held against its own claims: round trip, loss, rate and partition over two TUN devices in
//! two namespaces made for it, with plain UDP sockets. Not a test of Tombolo.

use std::{
    net::UdpSocket,
    path::PathBuf,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use rand::RngExt as _;
use serde::Serialize;

use super::{
    control::{Control, Request},
    engine::Engine,
    link::Shape,
    tun::{Devices, Side, enter},
};
use crate::{
    monotonic,
    quantity::{Rate, Share, Span},
};

/// One claim and what was seen.
#[derive(Debug, Serialize)]
pub(crate) struct Claim {
    /// What is claimed.
    pub(crate) claim: String,
    /// What was seen.
    pub(crate) seen: String,
    /// Whether it holds.
    pub(crate) holds: bool,
}

/// Two namespaces that vanish with this value.
struct Pair {
    names: [String; 2],
    socket: PathBuf,
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("`ip` cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "`ip {}` failed: {said}", arguments.join(" "));
    Ok(())
}

impl Pair {
    fn make() -> Result<Self> {
        let run: u32 = rand::rng().random_range(0..1 << 24);
        let names = [format!("tbm{run:06x}-a"), format!("tbm{run:06x}-b")];
        let socket = std::env::temp_dir().join(format!("tbm{run:06x}.sock"));
        let pair = Self { names, socket };
        for name in &pair.names {
            ip(&["netns", "add", name])?;
        }
        Ok(pair)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in &self.names {
            // Not made yet: nothing to take away.
            let _ = ip(&["netns", "del", name]);
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// Runs all measurements, some 30 s; needs root.
pub(crate) fn measure() -> Result<Vec<Claim>> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "measuring makes TUN devices, which needs root\n  try: sudo testbed ..."
    );
    let pair = Pair::make()?;
    let (names, path) = (pair.names.clone(), pair.socket.clone());
    let (ready, stands) = mpsc::sync_channel(1);
    let engine = std::thread::spawn(move || -> Result<()> {
        let sides: Vec<Side> = names
            .iter()
            .enumerate()
            .map(|(at, name)| Side {
                namespace: name.clone(),
                device: "wan0".to_owned(),
                network: [198, 18, if at == 0 { 1 } else { 2 }, 0].into(),
            })
            .collect();
        let devices = Devices::open(&sides, 1_500)?;
        let clusters = vec!["a".to_owned(), "b".to_owned()];
        let mut engine = Engine::new(devices, clusters, Shape::default(), 7, &path)?;
        ready.send(()).context("nobody waits for the engine")?;
        engine.run()
    });
    if stands.recv_timeout(Duration::from_secs(5)).is_err() {
        return match engine.join() {
            Ok(Err(error)) => Err(error),
            _ => anyhow::bail!("the engine did not start"),
        };
    }
    for (at, name) in pair.names.iter().enumerate() {
        ip(&["-n", name, "addr", "add", &format!("198.18.{}.1/16", at + 1), "dev", "wan0"])?;
        ip(&["-n", name, "link", "set", "wan0", "up"])?;
    }
    let control = Control::new(&pair.socket);
    let claims = all(&pair, &control);
    control.ask(&Request::Stop)?;
    engine.join().map_err(|_| anyhow::anyhow!("the engine failed"))??;
    claims
}

fn all(pair: &Pair, control: &Control) -> Result<Vec<Claim>> {
    let mut claims = Vec::new();
    for delay in [0, 20, 100] {
        let shape = Shape { delay: Span::from_millis(delay), ..Shape::default() };
        set(control, shape)?;
        claims.push(round_trip(pair, delay)?);
    }
    for percent in [1.0, 2.0, 10.0] {
        set(control, Shape { loss: Share(percent / 100.0), ..Shape::default() })?;
        claims.push(loss(pair, percent)?);
    }
    let limited = Shape { rate: Some(Rate(200_000_000)), queue: Span::from_millis(50), ..Shape::default() };
    set(control, limited)?;
    claims.push(rate(pair, Some(200.0), 260e6)?);
    set(control, Shape::default())?;
    claims.push(rate(pair, None, 4e9)?);
    set(control, Shape { up: false, ..Shape::default() })?;
    let passed = flood(pair, 1_000, 1e7, 100)?.packets;
    let seen = format!("{passed} of 1000 packets");
    claims.push(Claim { claim: "a partition lets nothing pass".to_owned(), seen, holds: passed == 0 });
    Ok(claims)
}

fn set(control: &Control, shape: Shape) -> Result<()> {
    for (from, to) in [("a", "b"), ("b", "a")] {
        control.ask(&Request::Shape { from: from.to_owned(), to: to.to_owned(), shape })?;
    }
    Ok(())
}

/// A socket in one of the namespaces; only the socket stays there.
fn socket(namespace: &str, address: &str) -> Result<UdpSocket> {
    let (namespace, address) = (namespace.to_owned(), address.to_owned());
    let made = std::thread::spawn(move || -> Result<UdpSocket> {
        enter(&namespace)?;
        let socket = UdpSocket::bind(address)?;
        setsockopt(&socket, sockopt::RcvBuf, &(8 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    });
    made.join().map_err(|_| anyhow::anyhow!("making a socket failed"))?
}

fn ends(pair: &Pair) -> Result<(UdpSocket, UdpSocket)> {
    let (a, b) = (socket(&pair.names[0], "198.18.1.1:0")?, socket(&pair.names[1], "198.18.2.1:0")?);
    a.connect(b.local_addr()?)?;
    Ok((a, b))
}

fn round_trip(pair: &Pair, delay: u64) -> Result<Claim> {
    const PINGS: usize = 200;
    let (a, b) = ends(pair)?;
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = b.recv_from(&mut buffer) {
            if b.send_to(&buffer[..length], from).is_err() {
                break;
            }
        }
    });
    let mut errors = Vec::new();
    for number in 0..PINGS {
        let sent = monotonic::nanos();
        a.send(&number.to_be_bytes())?;
        let mut buffer = [0; 64];
        a.recv(&mut buffer).context("a ping without an answer")?;
        errors.push((monotonic::nanos() - sent) as f64 / 1e6 - 2.0 * delay as f64);
        monotonic::sleep_until(sent + 3_000_000);
    }
    drop(a);
    echo.join().map_err(|_| anyhow::anyhow!("the echo failed"))?;
    errors.sort_by(f64::total_cmp);
    let (p50, p99, max) = (errors[PINGS / 2], errors[PINGS * 99 / 100], errors[PINGS - 1]);
    Ok(Claim {
        claim: format!("round trip at {delay} ms one way within 1 ms (median of {PINGS})"),
        seen: format!("error p50 {p50:.3} p99 {p99:.3} max {max:.3} ms"),
        holds: p50.abs() <= 1.0 && errors[0] >= -0.001,
    })
}

fn loss(pair: &Pair, percent: f64) -> Result<Claim> {
    let seen = flood(pair, 100_000, 40e6, 100)?;
    let lost = 100.0 - seen.packets as f64 / 1_000.0;
    Ok(Claim {
        claim: format!("{percent} % loss within a tenth of it over 100,000 packets"),
        seen: format!("{lost:.3} %"),
        holds: (lost - percent).abs() <= percent / 10.0,
    })
}

fn rate(pair: &Pair, limit: Option<f64>, offered: f64) -> Result<Claim> {
    let seen = flood(pair, if limit.is_some() { 70_000 } else { 300_000 }, offered, 1_400)?;
    let megabits = seen.packets as f64 * 1_428.0 * 8.0 / seen.span.as_secs_f64() / 1e6;
    Ok(match limit {
        Some(limit) => Claim {
            claim: format!("{limit} Mbit/s within 5 %, {} offered", offered / 1e6),
            seen: format!("{megabits:.1} Mbit/s"),
            holds: (megabits - limit).abs() <= limit * 0.05,
        },
        None => Claim {
            claim: "highest rate, one way, packets of 1428 bytes (no claim)".to_owned(),
            seen: format!("{megabits:.0} Mbit/s"),
            holds: true,
        },
    })
}

struct Seen {
    packets: u64,
    span: Duration,
}

/// Sends packets at a rate in bits per second from a to b, and counts what arrives.
fn flood(pair: &Pair, packets: u64, bits: f64, size: usize) -> Result<Seen> {
    let (a, b) = ends(pair)?;
    let counter = std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        let (mut packets, mut first, mut last) = (0, None, Instant::now());
        while b.recv(&mut buffer).is_ok() {
            last = Instant::now();
            first.get_or_insert(last);
            packets += 1;
        }
        Seen { packets, span: last - first.unwrap_or(last) }
    });
    let (payload, began) = (vec![0; size], monotonic::nanos());
    let gap = (size + 28) as f64 * 8.0 * 1e9 / bits;
    for number in 0..packets {
        let due = began + (number as f64 * gap) as u64;
        // Sleeping is coarser than the gap: it pays only when some packets' time is left.
        if due > monotonic::nanos() + 200_000 {
            monotonic::sleep_until(due);
        }
        // A full device queue is the sender's loss in no claim: it waits and tries again.
        while a.send(&payload).is_err() {
            std::thread::yield_now();
        }
    }
    counter.join().map_err(|_| anyhow::anyhow!("the counter failed"))
}
