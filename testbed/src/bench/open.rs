//! Small requests on a clock, open loop, and bulk beside them. What is late counts from when it was due, and what
//! was never answered counts as later than everything.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, sleep_until},
};

use super::load::{PIECE, SMALL, ask, connect, frame, runtime};

/// Connections that small requests are spread over.
pub(super) const CONNECTIONS: usize = 50;
/// Small requests a second, over all connections.
pub(super) const RATE: u32 = 500;
/// From the beginning of bulk until anything counts: congestion control has found the rate, or never will.
const RAMP: Duration = Duration::from_secs(5);
/// The same, for what needs no more than to be under way.
const SETTLE: Duration = Duration::from_secs(2);
/// How long answers are waited for after the last request.
const GRACE: Duration = Duration::from_secs(4);

/// What was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// From due to answered, sorted; unanswered ones are [`Duration::MAX`].
    took: Vec<Duration>,
    /// Bits a second of each bulk.
    pub(super) bulk: Vec<f64>,
    /// Connections that did not last, and why the first of them.
    pub(super) lost: Lost,
}

/// How many, and the first cause.
type Lost = (usize, Option<String>);

impl Seen {
    /// That many of 100 took at most this long, in ms; those never answered took the whole time of the run.
    pub(super) fn quantile_ms(&self, of_100: usize, span: Duration) -> f64 {
        let Some(last) = self.took.len().checked_sub(1) else { return 0.0 };
        self.took[last * of_100 / 100].min(span + GRACE).as_secs_f64() * 1e3
    }

    /// Requests that were never answered.
    pub(super) fn unanswered(&self) -> usize {
        self.took.iter().filter(|took| **took == Duration::MAX).count()
    }
}

/// Requests of one connection that are on their way, by when they were due.
type Due = Rc<RefCell<VecDeque<Instant>>>;

/// Runs small requests beside something that is begun when their connections stand, and counts for `span`. What
/// was asked on a connection that did not last was not answered.
pub(super) fn run_beside(
    small: SocketAddr,
    span: Duration,
    begin: impl FnOnce() -> Result<()>,
) -> Result<Seen> {
    run_with(Some(small), &[], (SETTLE, begin), span)
}

/// Runs small requests (with `small`) beside a bulk from each of `bulks`, and counts for `span`.
pub(super) fn run(small: Option<SocketAddr>, bulks: &[SocketAddr], span: Duration) -> Result<Seen> {
    let ramp = if bulks.is_empty() { Duration::from_millis(500) } else { RAMP };
    let seen = run_with(small, bulks, (ramp, || Ok(())), span)?;
    let (lost, cause) = &seen.lost;
    ensure!(*lost == 0, "{lost} connections ended, the first with: {}", cause.as_deref().unwrap_or_default());
    Ok(seen)
}

fn run_with(
    small: Option<SocketAddr>,
    bulks: &[SocketAddr],
    (ramp, begin): (Duration, impl FnOnce() -> Result<()>),
    span: Duration,
) -> Result<Seen> {
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let mut opened = Vec::new();
        if let Some(target) = small {
            // Opened before the bulk begins, or they would be measured when it has ended.
            for _ in 0..CONNECTIONS {
                let mut stream = connect(target).await?;
                ask(&mut stream).await?;
                opened.push(stream.into_split());
            }
        }
        let mut tasks = JoinSet::new();
        let mut counts = Vec::new();
        for target in bulks {
            let count = Rc::new(Cell::new(0_u64));
            counts.push(count.clone());
            tasks.spawn_local(bulk(connect(*target).await?, count));
        }
        begin()?;
        let begin = Instant::now() + ramp;
        let took = Rc::new(RefCell::new(Vec::new()));
        let mut waiting = Vec::new();
        for (number, (from, to)) in opened.into_iter().enumerate() {
            let due = Due::default();
            waiting.push(due.clone());
            tasks.spawn_local(send(to, due.clone(), (number, begin + span)));
            tasks.spawn_local(hear(from, due, took.clone(), begin));
        }
        sleep_until(begin).await;
        let before: Vec<u64> = counts.iter().map(|count| count.get()).collect();
        sleep_until(begin + span).await;
        let after = counts.iter().zip(before).map(|(count, before)| count.get() - before);
        let bulk: Vec<f64> = after.map(|bytes| bytes as f64 * 8.0 / span.as_secs_f64()).collect();
        let until = Instant::now() + GRACE;
        while waiting.iter().any(|due| !due.borrow().is_empty()) && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
        }
        let mut ends: Lost = (0, None);
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended.context("a client panicked")? {
                ends.0 += 1;
                ends.1.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        let mut took = std::mem::take(&mut *took.borrow_mut());
        let lost = |due: &Due| due.borrow().iter().filter(|due| **due >= begin).count();
        let lost: usize = waiting.iter().map(lost).sum();
        took.resize(took.len() + lost, Duration::MAX);
        took.sort_unstable();
        ensure!(small.is_none() || !took.is_empty(), "nothing was asked in {span:?}");
        Ok(Seen { took, bulk, lost: ends })
    })
}

/// Sends each request when it is due, from the ramp's beginning on.
async fn send(mut to: OwnedWriteHalf, due: Due, (number, end): (usize, Instant)) -> Result<()> {
    let gap = Duration::from_secs(1) / RATE;
    let turn = gap * u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let mut next = Instant::now() + gap * u32::try_from(number).unwrap_or(0);
    while next < end {
        sleep_until(next).await;
        due.borrow_mut().push_back(next);
        to.write_all(&frame(SMALL, false)).await?;
        next += turn;
    }
    // Closed only with the run: an end would end the answers too.
    std::future::pending().await
}

/// Hears the answers, in the order of the requests.
async fn hear(
    mut from: OwnedReadHalf,
    due: Due,
    took: Rc<RefCell<Vec<Duration>>>,
    begin: Instant,
) -> Result<()> {
    let mut answer = [0; SMALL as usize];
    loop {
        from.read_exact(&mut answer).await?;
        let asked = due.borrow_mut().pop_front().context("an answer that nobody asked for")?;
        if asked >= begin {
            took.borrow_mut().push(asked.elapsed());
        }
    }
}

/// Fetches for ever and counts.
async fn bulk(mut stream: TcpStream, count: Rc<Cell<u64>>) -> Result<()> {
    let mut room = vec![0; PIECE];
    stream.write_all(&frame(u64::MAX, true)).await?;
    loop {
        let more = stream.read(&mut room).await?;
        ensure!(more > 0, "the bulk ended");
        count.set(count.get() + more as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{load::serve, place::Site},
        *,
    };

    #[test]
    fn small_requests_are_counted_from_when_they_are_due_and_bulk_by_its_rate() {
        let server = serve(&Site::loopback().far).unwrap();
        let span = Duration::from_millis(400);
        let seen = run(Some(server), &[], span).unwrap();
        let expected = (span.as_secs_f64() * f64::from(RATE)) as usize;
        assert!(seen.took.len().abs_diff(expected) <= CONNECTIONS, "{} of {expected}", seen.took.len());
        assert_eq!((seen.unanswered(), seen.bulk.len()), (0, 0));
        assert!(seen.quantile_ms(50, span) <= seen.quantile_ms(99, span));
    }

    #[test]
    fn what_is_never_answered_is_later_than_everything() {
        let seen =
            Seen { took: vec![Duration::from_millis(1), Duration::MAX], bulk: Vec::new(), lost: (0, None) };
        assert_eq!(seen.unanswered(), 1);
        assert!(seen.quantile_ms(100, Duration::from_secs(1)) >= 5_000.0);
    }
}
