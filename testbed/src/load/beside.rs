//! What runs beside the requests: long streams that are to live through everything, and downloads that fill
//! the links. Neither is retried, and neither is part of the sums over requests.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

use super::{
    Kind, Plan,
    exchange::{self, Trouble},
};
use crate::monotonic;

/// How often a stream says something.
const EVERY: u64 = 1_000_000_000;

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// Not before the load did.
    Kept,
    /// By a reset, which tells its client that it was cut.
    Reset,
    /// In peace, as if all had been said.
    Closed,
    /// Nothing came back within the deadline.
    Hung,
    /// What came back was wrong.
    Wrong,
}

/// One stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Stream {
    /// When it ended.
    pub(crate) at: u64,
    /// How.
    pub(crate) end: End,
}

/// What came of downloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Downloads {
    /// Every byte was there.
    pub(crate) whole: u64,
    /// Ended before that, or could not begin.
    pub(crate) broken: u64,
}

/// What runs.
pub(super) struct Beside {
    streams: JoinSet<Stream>,
    downloads: JoinSet<Downloads>,
}

impl Beside {
    /// Opens the streams, each proved by a first echo.
    pub(super) async fn open(plan: &Plan) -> anyhow::Result<Vec<TcpStream>> {
        let mut open = Vec::new();
        let Some(target) = plan.stream_target else { return Ok(open) };
        for number in 0..plan.streams {
            let first = async {
                let mut stream = exchange::connect(target).await?;
                exchange::echo(&mut stream, number as u64).await?;
                Ok::<_, Trouble>(stream)
            };
            let stream = timeout(Duration::from_secs(5), first).await;
            let stream =
                stream.map_err(|_| anyhow::anyhow!("{target} did not answer a stream within 5 s"))?;
            open.push(stream.map_err(|trouble| anyhow::anyhow!("a stream to {target}: {trouble}"))?);
        }
        Ok(open)
    }

    /// Lets them run from `started` on, for as long as requests are started.
    pub(super) fn start(plan: &Plan, open: Vec<TcpStream>, started: u64) -> Self {
        let until = started + plan.duration.nanos();
        let (mut streams, mut downloads) = (JoinSet::new(), JoinSet::new());
        let plan = Arc::new(Plan { kind: Kind::Bulk, ..plan.clone() });
        for (number, stream) in open.into_iter().enumerate() {
            streams.spawn(keep(stream, number as u64, plan.clone(), started, until));
        }
        for number in 0..plan.downloads {
            downloads.spawn(download(plan.clone(), number as u64, until));
        }
        Self { streams, downloads }
    }

    /// Waits for all of it.
    pub(super) async fn finish(self) -> (Vec<Stream>, Downloads) {
        let mut sum = Downloads::default();
        for one in self.downloads.join_all().await {
            sum.whole += one.whole;
            sum.broken += one.broken;
        }
        (self.streams.join_all().await, sum)
    }
}

async fn keep(mut stream: TcpStream, number: u64, plan: Arc<Plan>, started: u64, until: u64) -> Stream {
    // Spread, so that they do not all speak at once.
    let mut next = started + number * EVERY / (plan.streams.max(1) as u64);
    let mut said = number;
    let end = loop {
        if next >= until {
            break End::Kept;
        }
        // Nothing is to come before something was said, but an end may.
        let wait = Duration::from_nanos(next.saturating_sub(monotonic::nanos()));
        match timeout(wait, stream.peek(&mut [0])).await {
            Err(_) => {}
            Ok(Ok(0)) => break End::Closed,
            Ok(Ok(_)) => break End::Wrong,
            Ok(Err(_)) => break End::Reset,
        }
        said += 1_000;
        match timeout(plan.deadline.0, exchange::echo(&mut stream, said)).await {
            Err(_) => break End::Hung,
            Ok(Ok(_)) => {}
            Ok(Err(Trouble::Closed | Trouble::Truncated)) => break End::Closed,
            Ok(Err(Trouble::Wrong)) => break End::Wrong,
            Ok(Err(_)) => break End::Reset,
        }
        // One that was held back does not make up for what it did not say.
        next = (next + EVERY).max(monotonic::nanos());
    };
    Stream { at: monotonic::nanos(), end }
}

async fn download(plan: Arc<Plan>, number: u64, until: u64) -> Downloads {
    let mut sum = Downloads::default();
    while monotonic::nanos() < until {
        let left = Duration::from_nanos(until - monotonic::nanos());
        let one = async {
            let mut stream = exchange::connect(plan.target).await?;
            exchange::exchange(&plan, &mut stream, number, 0).await
        };
        match timeout(left, one).await {
            // The load is over, which is no fault of the download.
            Err(_) => break,
            Ok(Ok(_)) => sum.whole += 1,
            Ok(Err(_)) => {
                sum.broken += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    sum
}
