//! The load of a benchmark and the server behind it: one thread each, nothing parsed, no memory taken per
//! request. A request is one frame that says how long the answer is and whether the connection ends with it.
//! Whatever is not answered whole is an error of the run, not a figure.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{JoinSet, LocalSet},
    time::{sleep, timeout},
};

use super::place::Place;

/// Bytes of a request.
const FRAME: usize = 64;
/// Bytes of a small answer.
pub(super) const SMALL: u64 = 1_024;
/// Where a request says that the connection ends with its answer.
const LAST_AT: usize = 8;
/// Bytes read or written at once.
pub(super) const PIECE: usize = 256 * 1024;
/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);
/// Before figures are taken.
const WARM_UP: Duration = Duration::from_millis(300);
/// Connections opened at once where many are opened.
const OPENING: usize = 64;

/// The runtime of either side.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot be made")
}

/// Starts the server on a thread of its own; it ends with the process.
pub(super) fn serve(place: &Place) -> Result<SocketAddr> {
    let listener = place.run(|| Ok(std::net::TcpListener::bind((place.address, 0))?))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let runtime = runtime()?;
    std::thread::Builder::new().name("server".to_owned()).spawn(move || {
        LocalSet::new().block_on(&runtime, async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::task::spawn_local(answer(stream))),
                    Err(_) => sleep(Duration::from_millis(1)).await,
                }
            }
        });
    })?;
    Ok(address)
}

/// Answers one connection. How it ends is the client's to judge.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    static ZEROS: [u8; PIECE] = [0; PIECE];
    stream.set_nodelay(true)?;
    let mut frame = [0; FRAME];
    loop {
        stream.read_exact(&mut frame).await?;
        let (size, last) = frame.split_at(LAST_AT);
        let mut left = u64::from_le_bytes(size.try_into().unwrap_or_default());
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            stream.write_all(&ZEROS[..piece]).await?;
            left -= piece as u64;
        }
        if last[0] != 0 {
            return stream.shutdown().await;
        }
    }
}

/// The request for an answer of that size.
pub(super) fn frame(size: u64, last: bool) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..LAST_AT].copy_from_slice(&size.to_le_bytes());
    frame[LAST_AT] = u8::from(last);
    frame
}

pub(super) async fn connect(target: SocketAddr) -> Result<TcpStream> {
    let stream = timeout(PATIENCE, TcpStream::connect(target)).await.context("no connection")??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request and its answer on a connection that stays.
pub(super) async fn ask(stream: &mut TcpStream) -> Result<()> {
    let mut answer = [0; SMALL as usize];
    stream.write_all(&frame(SMALL, false)).await?;
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.context("no answer")??;
    Ok(())
}

/// A connection for one request.
pub(super) async fn visit(target: SocketAddr) -> Result<()> {
    let mut stream = connect(target).await?;
    stream.write_all(&frame(SMALL, true)).await?;
    let mut answer = [0; SMALL as usize + 1];
    let mut got = 0;
    loop {
        match timeout(PATIENCE, stream.read(&mut answer[got..])).await.context("no answer")?? {
            0 => break,
            more => got += more,
        }
        ensure!(got <= SMALL as usize, "an answer of more than {SMALL} bytes");
    }
    ensure!(got == SMALL as usize, "an answer cut after {got} bytes");
    Ok(())
}

/// What a closed loop saw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answered {
    /// Requests answered in the measured time.
    pub(super) requests: u64,
    /// The measured time.
    pub(super) span: Duration,
    /// What the gauge gained in it.
    pub(super) cost: f64,
    /// 99 of 100 were answered within.
    pub(super) p99: Duration,
}

/// Waits until one request passes.
pub(super) fn wait_through(target: SocketAddr, most: Duration) -> Result<()> {
    runtime()?.block_on(async {
        let until = Instant::now() + most;
        loop {
            match timeout(Duration::from_secs(1), visit(target)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if Instant::now() > until => return Err(error),
                Err(_) if Instant::now() > until => anyhow::bail!("no answer within {most:?}"),
                _ => sleep(Duration::from_millis(20)).await,
            }
        }
    })
}

/// What a closed loop counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    measuring: bool,
    took: Vec<u32>,
}

impl Tally {
    /// One that began then was answered now.
    pub(super) fn note(&mut self, began: Instant) {
        if self.measuring {
            self.took.push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
    }
}

/// Runs `clients` closed loops for `span` and reads the gauge at both ends of it. With `keep`, each stays on
/// one connection; without, each request has its own.
pub(super) fn closed_loop(
    target: SocketAddr,
    clients: usize,
    keep: bool,
    span: Duration,
    gauge: impl Fn() -> Result<f64>,
) -> Result<Answered> {
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let tally = Rc::new(RefCell::new(Tally::default()));
        let mut loops = JoinSet::new();
        for _ in 0..clients {
            let tally = Rc::clone(&tally);
            loops.spawn_local(async move {
                let mut kept = if keep { Some(connect(target).await?) } else { None };
                loop {
                    let began = Instant::now();
                    match &mut kept {
                        Some(stream) => ask(stream).await?,
                        None => visit(target).await?,
                    }
                    tally.borrow_mut().note(began);
                }
            });
        }
        measured(loops, &tally, span, gauge).await
    })
}

/// Counts what loops note for `span`, once they are warm; none of them ends by itself.
pub(super) async fn measured(
    mut loops: JoinSet<Result<()>>,
    tally: &RefCell<Tally>,
    span: Duration,
    gauge: impl Fn() -> Result<f64>,
) -> Result<Answered> {
    let measured = async {
        sleep(WARM_UP).await;
        let (before, began) = (gauge()?, Instant::now());
        tally.borrow_mut().measuring = true;
        sleep(span).await;
        tally.borrow_mut().measuring = false;
        Ok::<_, anyhow::Error>((gauge()? - before, began.elapsed()))
    };
    let (cost, span) = tokio::select! {
        biased;
        measured = measured => measured?,
        failed = loops.join_next() => {
            let failed: Result<()> = failed.context("no client")?.context("a client panicked")?;
            return Err(failed.err().context("a client ended by itself")?);
        }
    };
    let mut took = std::mem::take(&mut tally.borrow_mut().took);
    ensure!(!took.is_empty(), "no request was answered in {span:?}");
    took.sort_unstable();
    let p99 = Duration::from_micros(u64::from(took[(took.len() - 1) * 99 / 100]));
    Ok(Answered { requests: took.len() as u64, span, cost, p99 })
}

/// The median time from the beginning of a connection to the first byte of its answer, one after another.
pub(super) fn first_byte(target: SocketAddr, times: usize) -> Result<Duration> {
    runtime()?.block_on(async {
        let mut took = Vec::with_capacity(times);
        for _ in 0..times {
            let began = Instant::now();
            let mut stream = connect(target).await?;
            stream.write_all(&frame(SMALL, true)).await?;
            timeout(PATIENCE, stream.read_u8()).await.context("no answer")??;
            took.push(began.elapsed());
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await?;
        }
        took.sort_unstable();
        Ok(took[took.len() / 2])
    })
}

/// Fetches `size` bytes on one connection; returns the time from the first byte to the last.
pub(super) fn bulk(target: SocketAddr, size: u64) -> Result<Duration> {
    runtime()?.block_on(async {
        let mut stream = connect(target).await?;
        let mut room = vec![0; PIECE];
        stream.write_all(&frame(size, true)).await?;
        let (mut got, mut began) = (0, None);
        loop {
            let more = timeout(PATIENCE, stream.read(&mut room)).await.context("no more bytes")??;
            began.get_or_insert_with(Instant::now);
            if more == 0 {
                break;
            }
            got += more as u64;
        }
        ensure!(got == size, "{got} bytes of {size} came");
        Ok(began.map_or(Duration::ZERO, |began| began.elapsed()))
    })
}

/// Holds `count` connections that have each been answered once, and reads the gauge while they are idle.
pub(super) fn idle<T>(target: SocketAddr, count: usize, gauge: impl Fn() -> Result<T>) -> Result<T> {
    let runtime = runtime()?;
    LocalSet::new().block_on(&runtime, async {
        let mut held = Vec::with_capacity(count);
        while held.len() < count {
            let mut opening = JoinSet::new();
            for _ in 0..OPENING.min(count - held.len()) {
                opening.spawn_local(async move {
                    let mut stream = connect(target).await?;
                    ask(&mut stream).await?;
                    Ok::<_, anyhow::Error>(stream)
                });
            }
            while let Some(opened) = opening.join_next().await {
                held.push(opened.context("a client panicked")??);
            }
        }
        sleep(Duration::from_secs(2)).await;
        let seen = gauge()?;
        for stream in &mut held {
            ask(stream).await.context("an idle connection was no longer good")?;
        }
        Ok(seen)
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{super::place::Site, *};

    #[test]
    fn every_kind_of_load_is_answered_whole_by_the_server_itself() {
        let server = serve(&Site::loopback().far).unwrap();
        wait_through(server, PATIENCE).unwrap();
        let span = Duration::from_millis(50);
        for keep in [true, false] {
            let answered = closed_loop(server, 4, keep, span, || Ok(0.0)).unwrap();
            assert!(answered.requests > 0 && answered.span >= span);
        }
        assert!(first_byte(server, 3).unwrap() < PATIENCE);
        assert!(bulk(server, 3 * PIECE as u64 + 1).unwrap() < PATIENCE);
        assert_eq!(idle(server, 3, || Ok(7)).unwrap(), 7);
    }

    #[test]
    fn a_server_that_cuts_its_answers_fails_the_run() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                use std::io::{Read as _, Write as _};
                let (mut stream, mut frame) = (stream, [0; FRAME]);
                let _ = stream.read_exact(&mut frame).and_then(|()| stream.write_all(&[0; 100]));
            }
        });
        assert!(closed_loop(target, 1, false, Duration::from_secs(1), || Ok(0.0)).is_err());
        assert!(closed_loop(target, 1, true, Duration::from_secs(1), || Ok(0.0)).is_err());
        assert!(bulk(target, 1_000).is_err());
    }
}
