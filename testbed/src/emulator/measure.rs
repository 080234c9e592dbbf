//! The emulator held against its own claims: round trip, loss, rate and partition over two TUN devices in
//! two namespaces made for it, with plain UDP sockets. Not a test of Tombolo.

use std::{
    io::IoSliceMut,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};
use serde::Serialize;

use super::{
    control::{Control, Request},
    engine::ask_for_real_time,
    link::Shape,
    pair::{DIRECTIONS, Pair, Wan, set},
    tun::enter,
};
use crate::{
    monotonic,
    quantity::{Rate, Share, Span},
};

/// The priority of who sends at a rate, below the emulator's.
const PRIORITY: u8 = 5;

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

/// Runs all measurements, some 20 s; needs root.
pub(crate) fn measure() -> Result<Vec<Claim>> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "measuring makes TUN devices, which needs root\n  try: sudo testbed ..."
    );
    let wan = Wan::start(Shape::default())?;
    all(&wan.pair, &wan.control)
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
    for (from, to) in DIRECTIONS {
        control.ask(&Request::Cut { from: from.to_owned(), to: to.to_owned(), cut: true })?;
    }
    let passed = flood(pair, 1_000, 1e7, 100)?.packets;
    let seen = format!("{passed} of 1000 packets");
    claims.push(Claim { claim: "a partition lets nothing pass".to_owned(), seen, holds: passed == 0 });
    Ok(claims)
}

/// A socket in one of the namespaces; only the socket stays there.
fn socket(namespace: &str, address: &str) -> Result<UdpSocket> {
    let (namespace, address) = (namespace.to_owned(), address.to_owned());
    let made = std::thread::spawn(move || -> Result<UdpSocket> {
        enter(&namespace)?;
        let socket = UdpSocket::bind(address)?;
        // Room for what comes while the receiver waits for a processor.
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    });
    made.join().map_err(|_| anyhow::anyhow!("making a socket failed"))?
}

fn ends(pair: &Pair) -> Result<(UdpSocket, UdpSocket)> {
    let (a, b) = (socket(&pair.name(0), "198.18.1.1:0")?, socket(&pair.name(1), "198.18.2.1:0")?);
    a.connect(b.local_addr()?)?;
    Ok((a, b))
}

/// Wall time in nanoseconds, the clock of the kernel's time stamps.
fn wall() -> Result<u64> {
    Ok(u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?).as_nanos())?)
}

/// A number and two times, and when the kernel got it; nothing when nothing comes.
fn stamped(socket: &UdpSocket) -> Result<Option<([u64; 3], u64)>> {
    let (mut bytes, mut space) = ([0; 24], cmsg_space!(TimeSpec));
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let got = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty());
    let at = match got {
        Ok(got) => got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmTimestampns(at) => Some(at),
            _ => None,
        }),
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error).context("receiving a ping failed"),
    };
    let at = Duration::from(at.context("a packet without the kernel's time stamp")?);
    let word = |at: usize| u64::from_ne_bytes(bytes[8 * at..8 * at + 8].try_into().expect("8 bytes"));
    Ok(Some(([word(0), word(1), word(2)], u64::try_from(at.as_nanos())?)))
}

fn ping(socket: &UdpSocket, words: [u64; 3]) -> std::io::Result<usize> {
    socket.send(&words.map(u64::to_ne_bytes).concat())
}

/// The error of a round trip is that of both ways, each from just before the packet is sent until the kernel
/// has it for the other side: how late a busy machine wakes those who wait for it is not the emulator's.
fn round_trip(pair: &Pair, delay: u64) -> Result<Claim> {
    const PINGS: u64 = 1_000;
    let (a, b) = ends(pair)?;
    b.connect(a.local_addr()?)?;
    for socket in [&a, &b] {
        setsockopt(socket, sockopt::ReceiveTimestampns, &true)?;
    }
    let echo = std::thread::spawn(move || -> Result<()> {
        while let Some(([number, sent, _], arrived)) = stamped(&b)? {
            let forth = arrived.saturating_sub(sent);
            ping(&b, [number, forth, wall()?])?;
        }
        Ok(())
    });
    let answers = a.try_clone()?;
    let listen = std::thread::spawn(move || -> Result<Vec<f64>> {
        let mut errors = Vec::new();
        while let Some(([_, forth, sent], arrived)) = stamped(&answers)? {
            let trip = forth + arrived.saturating_sub(sent);
            errors.push(trip as f64 / 1e6 - 2.0 * delay as f64);
        }
        Ok(errors)
    });
    let began = monotonic::nanos();
    for number in 0..PINGS {
        monotonic::sleep_until(began + number * 3_000_000);
        ping(&a, [number, wall()?, 0])?;
    }
    let failed = |_| anyhow::anyhow!("a side of the pings failed");
    let mut errors = listen.join().map_err(failed)??;
    echo.join().map_err(failed)??;
    ensure!(errors.len() as u64 == PINGS, "{} of {PINGS} pings were answered", errors.len());
    errors.sort_by(f64::total_cmp);
    let at = |share: usize| errors[errors.len() * share / 1_000];
    let (p50, p99, max) = (at(500), at(990), at(999));
    Ok(Claim {
        claim: format!("round trip at {delay} ms one way within 1 ms (p99 of {PINGS})"),
        seen: format!("error p50 {p50:.3} p90 {:.3} p99 {p99:.3} max {max:.3} ms", at(900)),
        holds: p99 <= 1.0 && errors[0] >= -0.001,
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
    let sender = std::thread::spawn(move || {
        // A sender that waits for a processor offers less than it says; the emulator comes before it.
        ask_for_real_time(PRIORITY);
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
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    });
    sender.join().map_err(|_| anyhow::anyhow!("the sender failed"))?;
    counter.join().map_err(|_| anyhow::anyhow!("the counter failed"))
}
