//! Steady requests on an open-loop clock, and the account of every one of them.
//!
//! A request is due at its time whether or not earlier ones have ended, and its latency counts from then,
//! so nothing that goes wrong can hide in requests that were never sent.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::World;

/// Time between two requests: 50 a second.
pub(super) const PERIOD: Duration = Duration::from_millis(20);
/// Time for one connection and its answer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections one request may take.
const ATTEMPTS_MAX: u8 = 2;
/// Bytes of an answer: a cluster's name.
const ANSWER_BYTES_MAX: usize = 1024;
/// Outcomes waiting to be read; far more than there are requests in flight.
const QUEUE: usize = 1024;
/// The window over which a rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// When it was due.
    pub(super) due: Instant,
    /// When it ended.
    pub(super) ended: Instant,
    /// Connections it took.
    pub(super) attempts: u8,
    /// Who gave a complete answer; none when nobody did.
    pub(super) cluster: Option<String>,
}

/// Requests on their way.
pub(super) struct Load {
    /// When the first was due.
    pub(super) begun: Instant,
    /// How each ended. Closed when the load was stopped and the last has ended.
    pub(super) outcomes: mpsc::Receiver<Outcome>,
    stopped: CancellationToken,
}

impl Load {
    /// Starts sending to `target`.
    pub(super) fn start(world: &World, target: SocketAddr) -> Self {
        let (send, outcomes) = mpsc::channel(QUEUE);
        let stopped = CancellationToken::new();
        let begun = world.clock.now();
        let (until, world) = (stopped.clone(), world.clone());
        world.tasks.clone().spawn_transient("demo load", async move {
            let mut due = begun;
            loop {
                let (request, send) = (send_one(world.clone(), target, due), send.clone());
                world.tasks.spawn_transient("demo client", async move {
                    // The reader is gone only when the demo is over.
                    let _ = send.send(request.await).await;
                });
                due += PERIOD;
                if until.run_until_cancelled(tokio::time::sleep_until(due.into())).await.is_none() {
                    break;
                }
            }
        });
        Self { begun, outcomes, stopped }
    }

    /// Sends no more.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn send_one(world: World, target: SocketAddr, due: Instant) -> Outcome {
    let mut attempts = 0;
    let mut cluster = None;
    while cluster.is_none() && attempts < ATTEMPTS_MAX {
        attempts += 1;
        let attempt = tokio::time::timeout(ATTEMPT_TIMEOUT, attempt(&world, target)).await;
        cluster = attempt.ok().and_then(Result::ok);
    }
    Outcome { due, ended: world.clock.now(), attempts, cluster }
}

/// One connection, one request, one complete answer.
async fn attempt(world: &World, target: SocketAddr) -> io::Result<String> {
    let stream = world.net.tcp_connect(target, ATTEMPT_TIMEOUT).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::get("/").header("host", "web.demo").header("connection", "close");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other("another status than 200"));
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        String::from_utf8(body.into()).map_err(io::Error::other)
    };
    // The connection's own error shows in the answer.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ = &mut connection => answer.await,
    }
}

/// What came of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Takeover {
    /// From the fault to the first complete answer of the cluster that took over.
    pub(super) gap: Duration,
    /// Requests of that time that took a second connection.
    pub(super) retried: usize,
    /// Requests of that time without a complete answer.
    pub(super) failed: usize,
}

/// Every request that has ended.
#[derive(Debug)]
pub(super) struct Account {
    begun: Instant,
    outcomes: Vec<Outcome>,
}

impl Account {
    /// Nothing ended yet; the first request is due at `begun`.
    pub(super) fn new(begun: Instant) -> Self {
        Self { begun, outcomes: Vec::new() }
    }

    /// Enters one.
    pub(super) fn enter(&mut self, outcome: Outcome) {
        self.outcomes.push(outcome);
    }

    /// Requests in all, those that took a second connection, and those without a complete answer.
    pub(super) fn totals(&self) -> (usize, usize, usize) {
        let all = || self.outcomes.iter();
        (
            self.outcomes.len(),
            all().filter(|o| o.attempts > 1).count(),
            all().filter(|o| o.cluster.is_none()).count(),
        )
    }

    /// Complete answers of `cluster` in the second before `now`.
    pub(super) fn rate(&self, cluster: &str, now: Instant) -> usize {
        let recent = |outcome: &&Outcome| now.saturating_duration_since(outcome.ended) < RATE_WINDOW;
        let theirs = |outcome: &&Outcome| outcome.cluster.as_deref() == Some(cluster);
        self.outcomes.iter().filter(recent).filter(theirs).count()
    }

    /// When `cluster` first gave a complete answer after `fault`.
    pub(super) fn first_answer(&self, cluster: &str, fault: Instant) -> Option<Instant> {
        let theirs = self.outcomes.iter().filter(|outcome| outcome.cluster.as_deref() == Some(cluster));
        theirs.map(|outcome| outcome.ended).filter(|ended| *ended >= fault).min()
    }

    /// What came of `fault`, once `to` has answered and every request due until then has ended.
    pub(super) fn takeover(&self, fault: Instant, to: &str) -> Option<Takeover> {
        let taken = self.first_answer(to, fault)?;
        let due = taken.saturating_duration_since(self.begun).as_nanos() / PERIOD.as_nanos() + 1;
        let ended = self.outcomes.iter().filter(|outcome| outcome.due <= taken).count();
        if (ended as u128) < due {
            return None;
        }
        let meanwhile = || self.outcomes.iter().filter(|o| o.due <= taken && o.ended >= fault);
        Some(Takeover {
            gap: taken - fault,
            retried: meanwhile().filter(|outcome| outcome.attempts > 1).count(),
            failed: meanwhile().filter(|outcome| outcome.cluster.is_none()).count(),
        })
    }
}

#[cfg(test)]
mod tests;
