//! The open-loop load generator. Requests start when the plan says, whatever became of those before;
//! connections are opened before the first request; every request ends in exactly one fate.

mod account;
mod beside;
mod exchange;
mod file;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
};

pub(crate) use account::{Account, Fate, Latency, Record};
pub(crate) use beside::{Downloads, End, Stream};
use exchange::{Answer, Trouble};

use crate::{monotonic, quantity::Span};

/// More requests than this are refused: the records would not fit.
const MOST_REQUESTS: f64 = 5_000_000.0;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// HTTP/1.1 requests on connections that stay open.
    #[default]
    HttpKeepalive,
    /// One HTTP/1.1 request per connection.
    HttpPerConnection,
    /// One large HTTP/1.1 body per connection, every byte checked.
    Bulk,
    /// One large file up and back per connection, both ways at once, held to its SHA-256.
    File,
    /// Small messages, each echoed, on long-lived TCP connections.
    LongTcp,
    /// The server speaks first; one greeting per connection.
    ServerFirst,
}

impl Kind {
    /// The port of the sample service that speaks it.
    pub(crate) const fn port_name(self) -> &'static str {
        match self {
            Self::HttpKeepalive | Self::HttpPerConnection | Self::Bulk | Self::File => "http",
            Self::LongTcp => "echo",
            Self::ServerFirst => "greet",
        }
    }

    /// Whether connections outlive a request.
    const fn keeps(self) -> bool {
        matches!(self, Self::HttpKeepalive | Self::LongTcp)
    }
}

/// What is to be sent where, and for how long.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What a request is.
    pub(crate) kind: Kind,
    /// Where it goes.
    pub(crate) target: SocketAddr,
    /// Requests per second.
    pub(crate) rps: f64,
    /// Connections opened before the first request, for the kinds that keep them.
    pub(crate) connections: usize,
    /// How long requests are started.
    pub(crate) duration: Span,
    /// When a request without an answer is `unanswered`.
    pub(crate) deadline: Span,
    /// When an answer is `late`.
    pub(crate) late: Span,
    /// Size of a bulk body or a file.
    pub(crate) bulk_bytes: u64,
    /// Long streams beside the requests.
    pub(crate) streams: usize,
    /// Where these go.
    pub(crate) stream_target: Option<SocketAddr>,
    /// Downloads of that size under way at any time beside the requests.
    pub(crate) downloads: usize,
    /// Part of every request's id.
    pub(crate) nonce: u32,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// When the first request was due.
    pub(crate) started: u64,
    /// The sums.
    pub(crate) account: Account,
    /// Every request, in the order in which they were due.
    pub(crate) records: Vec<Record>,
    /// Every long stream.
    pub(crate) streams: Vec<Stream>,
    /// The downloads.
    pub(crate) downloads: Downloads,
}

struct Client {
    plan: Plan,
    idle: Mutex<VecDeque<TcpStream>>,
}

/// Opens the connections, tells `ready` when the first request is due, and runs the plan.
pub(crate) async fn run(plan: Plan, ready: impl FnOnce(u64)) -> Result<Outcome> {
    let total = plan.rps * plan.duration.0.as_secs_f64();
    ensure!(plan.rps > 0.0 && total >= 1.0, "this load has no request in it: raise the rate or the duration");
    ensure!(total <= MOST_REQUESTS, "more than {MOST_REQUESTS} requests: lower the rate or the duration");
    raise_open_files();
    let client = Arc::new(Client { idle: Mutex::new(open(&plan).await?), plan });
    let streams = beside::Beside::open(&client.plan).await?;
    let total = total.round() as u64;
    let started = monotonic::nanos() + 50_000_000;
    ready(started);
    let beside = beside::Beside::start(&client.plan, streams, started);
    let (done, mut records) = mpsc::channel(usize::try_from(total)?);
    let clock = start_clock(Arc::clone(&client), started, total, done);
    let mut all = Vec::with_capacity(usize::try_from(total)?);
    while let Some(record) = records.recv().await {
        all.push(record);
    }
    clock.join().map_err(|_| anyhow::anyhow!("the clock thread of the load failed"))?;
    ensure!(all.len() as u64 == total, "the generator lost count: {} of {total} requests ended", all.len());
    all.sort_by_key(|record: &Record| record.intended);
    let account = Account::of(&all, client.plan.late, client.plan.deadline);
    let (streams, downloads) = beside.finish().await;
    Ok(Outcome { started, account, records: all, streams, downloads })
}

async fn open(plan: &Plan) -> Result<VecDeque<TcpStream>> {
    let mut idle = VecDeque::new();
    let count = if plan.kind.keeps() { plan.connections } else { 0 };
    for _ in 0..count {
        let stream = tokio::time::timeout(Duration::from_secs(5), exchange::connect(plan.target))
            .await
            .with_context(|| format!("{} did not answer a connection within 5 s", plan.target))?;
        idle.push_back(
            stream.map_err(|trouble| anyhow::anyhow!("connecting to {}: {trouble}", plan.target))?,
        );
    }
    Ok(idle)
}

/// A thread of its own starts the requests: the runtime's timers are too coarse for that.
fn start_clock(
    client: Arc<Client>,
    started: u64,
    total: u64,
    done: mpsc::Sender<Record>,
) -> std::thread::JoinHandle<()> {
    let runtime = tokio::runtime::Handle::current();
    let gap = 1e9 / client.plan.rps;
    std::thread::spawn(move || {
        for index in 0..total {
            let intended = started + (index as f64 * gap) as u64;
            monotonic::sleep_until(intended);
            let (client, done) = (Arc::clone(&client), done.clone());
            runtime.spawn(async move {
                let record = operate(&client, index, intended).await;
                // The receiver lives until all senders are gone.
                let _ = done.send(record).await;
            });
        }
    })
}

async fn operate(client: &Client, index: u64, intended: u64) -> Record {
    let mut first_trouble = None;
    let mut also = String::new();
    let left = (intended + client.plan.deadline.nanos()).saturating_sub(monotonic::nanos());
    let attempt = async {
        match first_try(client, index).await {
            Ok(answer) => Ok(answer),
            Err(trouble) => {
                first_trouble = Some(trouble);
                fresh_try(client, index, 2).await
            }
        }
    };
    let result = tokio::time::timeout(Duration::from_nanos(left), attempt).await;
    let done = monotonic::nanos();
    let (fate, answer) = match result {
        Err(_) => (Fate::Unanswered, None),
        Ok(Err(second)) => {
            also = format!(", then {second}");
            (Fate::Failed, None)
        }
        Ok(Ok(answer)) if first_trouble.is_none() => (Fate::Ok, Some(answer)),
        Ok(Ok(answer)) => (Fate::Retried, Some(answer)),
    };
    Record {
        intended,
        done,
        fate,
        trouble: first_trouble.map(|trouble| format!("{trouble}{also}")),
        cluster: answer.as_ref().map(|answer| answer.cluster.clone()),
        bytes: answer.map_or(0, |answer| answer.bytes),
    }
}

async fn first_try(client: &Client, index: u64) -> Result<Answer, Trouble> {
    let kept = client.idle.lock().await.pop_front();
    match kept {
        Some(stream) => on(client, stream, index, 1).await,
        None => fresh_try(client, index, 1).await,
    }
}

async fn fresh_try(client: &Client, index: u64, attempt: u8) -> Result<Answer, Trouble> {
    on(client, exchange::connect(client.plan.target).await?, index, attempt).await
}

async fn on(client: &Client, mut stream: TcpStream, index: u64, attempt: u8) -> Result<Answer, Trouble> {
    let answer = exchange::exchange(&client.plan, &mut stream, index, attempt).await?;
    if client.plan.kind.keeps() {
        client.idle.lock().await.push_back(stream);
    }
    Ok(answer)
}

/// Thousands of connections need more descriptors than a shell's soft limit.
fn raise_open_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Without it the load may meet EMFILE, which is then counted as such.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
