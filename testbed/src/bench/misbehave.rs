//! What attackers do, each in a process of its own: begins when it is told to, ends when it is told again, and says
//! what came of it. Also the control of all of them, which only takes processor time.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::LocalSet,
    time::sleep,
};

use super::{
    apart::{heard, say},
    gauge,
    load::{connect, frame, runtime, visit},
};

/// What a slow reader takes, and how often.
const SIP: usize = 1_024;
const SIP_EVERY: Duration = Duration::from_millis(100);
/// How long one that burns sleeps and burns in turn.
const TURN: Duration = Duration::from_millis(1);

/// Readers that ask for everything and take a little of it.
pub(super) fn slow(target: SocketAddr, readers: usize) -> Result<()> {
    attack(readers, move |taken| async move {
        let mut stream = connect(target).await?;
        stream.write_all(&frame(u64::MAX, true)).await?;
        let mut sip = [0; SIP];
        loop {
            taken.set(taken.get() + stream.read_exact(&mut sip).await? as u64);
            sleep(SIP_EVERY).await;
        }
    })
    .and_then(|taken| say(&format!("{taken} bytes read slowly")))
}

/// Clients that open a connection for each request, one after another, whatever becomes of it.
pub(super) fn flood(target: SocketAddr, clients: usize) -> Result<()> {
    let refused = Rc::new(Cell::new(0_u64));
    let answered = attack(clients, |answered| {
        let refused = Rc::clone(&refused);
        async move {
            loop {
                let count = if visit(target).await.is_ok() { &answered } else { &refused };
                count.set(count.get() + 1);
            }
        }
    })?;
    say(&format!("{answered} connections answered, {} refused", refused.get()))
}

/// Runs that many of them until the end is asked for; returns what they counted.
fn attack<W: Future<Output = Result<()>> + 'static>(
    number: usize,
    one: impl Fn(Rc<Cell<u64>>) -> W,
) -> Result<u64> {
    heard()?;
    let runtime = runtime()?;
    let count = Rc::new(Cell::new(0));
    LocalSet::new().block_on(&runtime, async {
        for _ in 0..number {
            // One that is cut off has no more to do here.
            drop(tokio::task::spawn_local(one(Rc::clone(&count))));
        }
        tokio::task::spawn_blocking(heard).await.context("listening panicked")?
    })?;
    Ok(count.get())
}

/// Takes that part of a processor.
pub(super) fn burn(share: f64) -> Result<()> {
    heard()?;
    let told = std::thread::spawn(heard);
    let (began, before) = (Instant::now(), gauge::thread_seconds()?);
    let mut sum = 0_u64;
    while !told.is_finished() {
        while gauge::thread_seconds()? - before < began.elapsed().as_secs_f64() * share {
            sum = (0..10_000).fold(sum, |sum, number| std::hint::black_box(sum.wrapping_mul(31) ^ number));
        }
        std::thread::sleep(TURN);
    }
    told.join().map_err(|_| anyhow::anyhow!("listening panicked"))??;
    say(&format!("{:.2} s burnt", gauge::thread_seconds()? - before))
}
